"""What a step needs, counted without allocating it, against tensors that are there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.masks import create_mask_generator
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.models.encoders import use_plain_attention
from hjepa_pretrain.objectives.objective import training_loss
from hjepa_pretrain.training.memory import StepMemory, describe_memory
from torch import Tensor

from hjepa_eval.config import merge
from hjepa_eval.errors import ConfigError

SMALL = {
    "model": {
        "encoder_type": "vit_tiny_patch4_32",
        "encoder_depth": 3,
        "drop_path": 0.1,
        "predictor": {"embed_dim": 48, "depth": 2, "num_heads": 2},
    },
    "data": {"augmentation": "asym+global"},
    "train": {
        "epochs": 1,
        "batch_size": 6,
        "precision": "fp32",
        "device": "cpu",
        "predicted_share": 0.5,
        "whole_image": {"contrast": 1.0, "sigreg": 0.1, "hidden_dim": 32, "out_dim": 16},
    },
}


def settings(*more: dict[str, Any]) -> PretrainSettings:
    return build_settings(merge(SMALL, *more), "test")


def memory(*more: dict[str, Any]) -> StepMemory:
    return describe_memory(settings(*more))[1]


def kept_by_a_real_step(chosen: PretrainSettings) -> int:
    """Do the forward pass on real tensors and masks, and add up what autograd is handed, by address."""
    geometry, train, masking = resolve_geometry(chosen), chosen.train, chosen.masking
    model = create_hjepa_from_config(chosen).train()
    use_plain_attention(model.context_encoder)
    use_plain_attention(model.predictor)
    seen = geometry.most_context_tokens(masking)
    generator = create_mask_generator(
        masking,
        image_size=geometry.image_size,
        patch_size=geometry.patch_size,
        num_levels=chosen.model.num_hierarchies,
        context_tokens=seen,
        seed=0,
    )
    masks = generator.sample(
        train.batch_size,
        torch.device("cpu"),
        step=0,
        context_tokens=seen,
        target_tokens=geometry.target_tokens(masking, seen),
    )
    images = torch.rand(train.batch_size, 3, geometry.image_size, geometry.image_size)
    second = images.flip(-1).unsqueeze(0) if chosen.data.augmentation == "asym+global" else None
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            found[address] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            outputs = model(
                images,
                masks,
                target_images=images,
                other_images=second,
                other_context=None if second is None else masks.context.unsqueeze(0).clone(),
                num_predicted=round(train.batch_size * train.predicted_share),
            )
        whole = train.whole_image
        directions = torch.randn(whole.out_dim, whole.sigreg_slices) if whole.sigreg else None
        training_loss(outputs, train, directions=directions)
    return sum(found.values())


@pytest.mark.parametrize(
    "more",
    [{}, {"train": {"precision": "bf16"}}, {"train": {"predicted_share": 1.0, "whole_image": {"contrast": 0.0}}}],
)
def test_activations__are_those_of_a_real_step(more: dict[str, Any]) -> None:
    assert memory(more).activations == pytest.approx(kept_by_a_real_step(settings(more)), rel=0.01)


def test_activations__grow_with_the_batch_and_shrink_with_its_parts() -> None:
    plain = {"data": {"augmentation": "light"}, "train": {"predicted_share": 1.0, "whole_image": {"contrast": 0.0}}}
    whole = memory(plain, {"train": {"batch_size": 32}})
    half = memory(plain, {"train": {"batch_size": 32, "accumulate": 2}})
    assert (whole.images, half.images) == (32, 16)
    assert whole.activations - half.activations == pytest.approx(16 * whole.activations_per_image, rel=0.001)
    assert (whole.weights, whole.optimizer) == (half.weights, half.optimizer)
    assert memory(plain, {"train": {"precision": "bf16", "batch_size": 32}}).activations < 0.8 * whole.activations


def test_memory__cuda_can_be_planned_without_it_and_keeps_no_attention_matrices() -> None:
    there, here = (memory({"train": {"device": device, "batch_size": 32}}) for device in ("cuda", "cpu"))
    assert (there.device, there.precision) == ("cuda", "fp32")
    assert there.activations < here.activations
    with pytest.raises(ConfigError, match="cannot be used"):
        memory({"train": {"device": "abacus"}})


def test_memory__a_vit_base_is_what_the_documents_say() -> None:
    """86M, 86M, 20M and 2M, 194M in all, 108M trainable, with a predictor of 512 x 6 (document 000)."""
    base = {
        "model": {"encoder_type": "vit_base_patch16_224", "predictor": {"embed_dim": 512, "depth": 6, "num_heads": 8}},
        "train": {"epochs": 1, "batch_size": 256, "precision": "bf16", "device": "cuda"},
    }
    parts, step = describe_memory(build_settings(base, "test"))
    assert [(part.name, round(part.parameters / 1e6, 1)) for part in parts] == [
        ("context_encoder", 85.8),
        ("target_encoder", 85.8),
        ("predictor", 19.7),
        ("heads", 1.8),
        ("projector", 0.0),
        ("crop_heads", 0.0),
    ]
    assert round(sum(part.trainable for part in parts) / 1e6) == 107
    assert parts[1].trainable == 0
    assert step.weights == 4 * (85_797_120 + 19_705_088 + 1_776_384)
    assert step.target_weights == 4 * 85_797_120
    # Fixed positions have no gradient.
    assert step.gradients == step.weights - 4 * 196 * 768
    assert step.optimizer == 2 * step.gradients
    assert step.total == sum((step.weights, step.target_weights, step.gradients, step.optimizer, step.activations))


def test_parts__are_those_of_the_real_networks() -> None:
    chosen = settings()
    model = create_hjepa_from_config(chosen)
    parts, _ = describe_memory(chosen)
    counts = model.parameter_counts()
    assert {part.name: part.parameters for part in parts} == {
        name: count for name, count in counts.items() if name not in ("total", "trainable")
    }
    assert sum(part.trainable for part in parts) == counts["trainable"]
    assert next(part for part in parts if part.name == "projector").parameters > 0
