from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PredictorSettings, PretrainSettings
from hjepa_pretrain.data.training_data import load_training_data
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training.step import resolve_compile, step_loss
from hjepa_pretrain.training.trainer import Trainer

from hjepa_eval.config import merge
from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import ConfigError, TrainingError

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch4_32",
        "encoder_depth": 2,
        "num_hierarchies": 2,
        "predictor": {"embed_dim": 48, "depth": 1, "num_heads": 3},
        "ema": {"momentum": 0.9, "momentum_end": 0.9},
    },
    "data": {"dataset": "cifar10", "augmentation": "asym+global", "max_samples": 128},
    "train": {
        "epochs": 5,
        "batch_size": 32,
        "precision": "fp32",
        "whole_image": {"contrast": 1.0, "sigreg": 0.1, "predict": 1.0, "hidden_dim": 32, "out_dim": 16},
    },
    "diagnostics": {"bank": 0},
}


def trainer(root: Path, *, compiled: bool = False, **sections: Any) -> Trainer:
    settings = build_settings(merge(SMALL, sections), "test")
    transform = run_transform(settings, resolve_geometry(settings))
    data = load_training_data(settings, load_dataset("cifar10", "train", root=root), transform, device=CPU)
    return Trainer(settings, data, transform, device=CPU, compiled=compiled)


def gradients(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def test_loss__is_one_graph_without_breaks(cifar10_sample: Path) -> None:
    made = trainer(cifar10_sample)
    inputs = made.inputs(made.data.source.batch(0), made.model, number=0, progress=0.0)
    train = made.settings.train
    expected, _ = step_loss(made.model, inputs, train, precision=made.precision)
    compiled = torch.compile(step_loss, fullgraph=True, backend="eager")
    found, terms = compiled(made.model, inputs, train, precision=made.precision)
    torch.testing.assert_close(found, expected)
    assert {"loss", "level_0", "level_1", "global", "contrast", "sigreg"} <= set(terms)


@pytest.mark.slow
def test_compiled__steps_follow_the_eager_ones(cifar10_sample: Path) -> None:
    eager, compiled = trainer(cifar10_sample), trainer(cifar10_sample, compiled=True)
    for _ in range(3):
        eager.train_step(0.5)
        compiled.train_step(0.5)
    torch.testing.assert_close(torch.stack(compiled.pending), torch.stack(eager.pending), rtol=2e-3, atol=2e-3)


def test_accumulate__adds_the_gradients_of_the_parts(cifar10_sample: Path) -> None:
    made = trainer(cifar10_sample, train={"accumulate": 2})
    first, second = made.data.source.batch(0).chunk(2)
    separate = []
    for number, images in enumerate((first, second)):
        made.model.zero_grad()
        made._backward(images, number=number, progress=0.0)
        separate.append(gradients(made))
    made.model.zero_grad()
    for number, images in enumerate((first, second)):
        made._backward(images, number=number, progress=0.0)
    for name, grad in gradients(made).items():
        torch.testing.assert_close(grad, separate[0][name] + separate[1][name], msg=name)
    before = weights(made)
    made.train_step(0.5)
    assert made.step == 1
    assert len(made.pending) == 1
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(made).items())


@pytest.mark.rows("A6")
def test_step__the_target_follows_the_context_encoder_after_the_optimiser_step(cifar10_sample: Path) -> None:
    made = trainer(cifar10_sample)
    before = made.model.target_encoder.vit.blocks[0].mlp.fc1.weight.clone()
    made.train_step(0.5)
    context = made.model.context_encoder.vit.blocks[0].mlp.fc1.weight
    after = made.model.target_encoder.vit.blocks[0].mlp.fc1.weight
    torch.testing.assert_close(after, 0.9 * before + 0.1 * context.detach())


def test_step__whole_image_objectives_alone_need_no_target_pass(
    cifar10_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = {"predictor": PredictorSettings().model_dump()}  # Nothing reads its sizes.
    train = {"predicted_share": 0.0, "whole_image": {"predict": 0.0}}
    made = trainer(cifar10_sample, model=unread, train=train)
    monkeypatch.setattr(made.model.target_encoder, "forward", None)
    made.train_step(0.5)
    assert "level_0" not in made.terms
    assert made.terms[0] == "loss"
    assert torch.stack(made.pending).isfinite().all()


def test_take_losses__names_the_terms_that_are_not_finite(cifar10_sample: Path) -> None:
    made = trainer(cifar10_sample)
    made.train_step(0.5)
    made.train_step(0.5)
    made.pending[1][made.terms.index("gradient_norm")] = torch.inf
    with pytest.raises(TrainingError, match=r"step 2: not finite: gradient_norm \(images \d+.*last good.*none yet"):
        made.take_losses(last_good="none yet")


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"checkpoint_activations": True}},
        {"model": {"positions": "rope", "layer_scale": 1e-2}},
        {"model": {"predictor": {"order": "coarse_to_fine", "fpn": True}}},
        {"data": {"local_views": 2}},
        {"masking": {"saliency": 2.0, "aligned": 0.5, "roll": 0.5}},
        {"masking": {"type": "hierarchical"}},
        {"masking": {"type": "random", "mask_ratio": 0.5, "mask_ratio_end": 0.75}},
        {"train": {"loss": "huber"}, "model": {"mask_mode": "zero", "taps": "final"}},
    ],
    ids=lambda sections: "-".join(f"{s}.{k}" for s, values in sections.items() for k in values),
)
def test_step__every_choice_trains_and_repeats_exactly(cifar10_sample: Path, sections: dict[str, Any]) -> None:
    first, second = trainer(cifar10_sample, **sections), trainer(cifar10_sample, **sections)
    for progress in (0.2, 0.9):
        first.train_step(progress)
        second.train_step(progress)
    losses = torch.stack(first.pending)
    assert losses.isfinite().all()
    assert torch.equal(losses, torch.stack(second.pending))
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


def test_compile__follows_the_setting_the_compiler_and_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    import hjepa_pretrain.training.step

    said: list[str] = []

    def resolved(steps: int | None, **train: Any) -> bool:
        settings = build_settings(merge(SMALL, {"train": train}), "test").train
        return resolve_compile(settings, CPU, total_steps=steps, say=said.append)

    monkeypatch.setattr(hjepa_pretrain.training.step, "can_compile", lambda _: True)
    assert resolved(10, compile="on")
    assert not resolved(10**6, compile="off")
    assert resolved(10**6)
    assert not resolved(10)
    assert resolved(None, epochs=None, minutes=30)
    assert not resolved(None, epochs=None, minutes=1)
    assert said == []
    monkeypatch.setattr(hjepa_pretrain.training.step, "can_compile", lambda _: False)
    assert not resolved(10**6)
    assert len(said) == 1
    assert "no compiler" in said[0]
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on cpu"):
        resolved(10, compile="on")


def test_settings__on_and_off_are_words(cifar10_sample: Path) -> None:
    from hjepa_eval.config import load

    assert load(PretrainSettings, assignments=["train.epochs=1", "train.compile=off"]).train.compile == "off"
