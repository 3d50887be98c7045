from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import CheckpointError, TrainingError
from hjepa_eval.finetune import images as images_module
from hjepa_eval.finetune.loop import Finetuned, Running, finetune
from hjepa_eval.finetune.recipe import Recipe

SPLITS = {split: load_dataset("digits", split) for split in ("train", "test")}
SHORT = Recipe(epochs=4, batch_size=32, lr=4e-3, flip=False)
HELD_OUT = np.arange(0, 100, 11)  # Images are interleaved by class: one of each.
CPU = Running(torch.device("cpu"), "fp32")


def small_vit(**overrides: Any) -> ViTEncoder:
    vit = create_vit("vit_tiny_patch2_8", depth=3, embed_dim=48, num_heads=3, **overrides)
    return ViTEncoder(vit, "small", taps=(1, 2), transform=Transform(8, 8), architecture={})


def tune(encoder: ViTEncoder, run_dir: Path, recipe: Recipe = SHORT, **more: Any) -> Finetuned:
    arguments: dict[str, Any] = {
        "level": 1,
        "readout": "mean",
        "held_out": HELD_OUT,
        "counts": {"train": 100, "test": 60},
        "running": CPU,
    }
    return finetune(encoder, SPLITS, recipe=recipe, run_dir=run_dir, **{**arguments, **more})


def stop_in_epoch(epoch: int) -> Any:
    def progress(done: int, total: int, remark: str) -> None:
        if remark.startswith(f"epoch {epoch}/") and done % 3 == 2:
            raise KeyboardInterrupt

    return progress


def test_weights__change_up_to_the_tap_and_nowhere_else(tmp_path: Path) -> None:
    encoder = small_vit()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    found = tune(encoder, tmp_path)
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("model.blocks.2.")}
    assert found.weights == encoder.weights_hash()
    assert found.logits.shape == (60, 10)
    assert [set(entry) for entry in found.curve] == [{"train_loss", "held_out_accuracy"}] * 4
    assert (found.trained_images, found.held_out_images) == (90, 10)


def test_layer_decay__scales_the_very_first_step(tmp_path: Path) -> None:
    encoder = small_vit()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    recipe = Recipe(epochs=1, batch_size=128, lr=2e-3, layer_decay=0.5, weight_decay=0.0, warmup_epochs=0)
    tune(encoder, tmp_path, recipe)
    moved = {name: float((tensor - before[name]).abs().max()) for name, tensor in encoder.state_dict().items()}
    # Adam's first step moves each weight by the learning rate, whatever its gradient; the head's rate is 1e-3.
    assert moved["model.blocks.1.mlp.fc1.weight"] == pytest.approx(5e-4, rel=1e-2)
    assert moved["model.blocks.0.mlp.fc1.weight"] == pytest.approx(2.5e-4, rel=1e-2)
    assert moved["model.patch_embed.proj.weight"] == pytest.approx(1.25e-4, rel=1e-2)


@pytest.mark.rows("F")
def test_finetune__beats_a_linear_probe_of_the_untrained_encoder(tmp_path: Path) -> None:
    vit = create_vit("vit_tiny_patch4_8", depth=2, embed_dim=64, num_heads=4)
    encoder = ViTEncoder(vit, "small", taps=(1, 2), transform=Transform(8, 8), architecture={}).eval()
    counts = {split: len(dataset) for split, dataset in SPLITS.items()}
    features, labels = {}, {split: dataset.labels for split, dataset in SPLITS.items()}
    for split, dataset in SPLITS.items():
        images = torch.stack([dataset.image(index) for index in range(len(dataset))])
        with torch.no_grad():
            features[split] = encoder(encoder.transform.normalise(images))[1][:, 1:].mean(1).numpy()
    spread = features["train"].std(0)
    probe = LogisticRegression(max_iter=5000).fit(features["train"] / spread, labels["train"])
    floor = probe.score(features["test"] / spread, labels["test"])
    recipe = Recipe(epochs=7, batch_size=16, lr=3e-2, flip=False, crop_scale=(0.8, 1.0))
    found = tune(encoder, tmp_path, recipe, counts=counts, held_out=np.arange(0, counts["train"], 11))
    top1 = float((found.logits.argmax(1) == found.labels).mean())
    assert 0.85 < floor < 0.93, "the untrained encoder is no straw man"
    assert top1 > floor + 0.03, (top1, floor)
    assert found.curve[-1]["held_out_accuracy"] > found.curve[0]["held_out_accuracy"]
    assert found.curve[-1]["train_loss"] < found.curve[0]["train_loss"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_resume__is_bit_identical_to_an_unbroken_run(tmp_path: Path, epoch: int) -> None:
    recipe = Recipe(epochs=4, batch_size=32, lr=4e-3, mixup=0.2)
    # Dropped paths draw random numbers too.
    whole_encoder, first, second = (small_vit(drop_path_rate=0.2) for _ in range(3))
    whole = tune(whole_encoder, tmp_path / "a", recipe)
    with pytest.raises(KeyboardInterrupt):
        tune(first, tmp_path / "b", recipe, progress=stop_in_epoch(epoch))
    torch.rand(7)  # The state of the global generator must not matter.
    again = tune(second, tmp_path / "b", recipe, resume=True)
    assert again.weights == whole.weights
    assert again.curve == whole.curve
    np.testing.assert_array_equal(again.logits, whole.logits)
    assert (tmp_path / "a" / "head.safetensors").read_bytes() == (tmp_path / "b" / "head.safetensors").read_bytes()
    finished = tune(small_vit(drop_path_rate=0.2), tmp_path / "b", recipe, resume=True)
    assert finished.weights == whole.weights
    np.testing.assert_array_equal(finished.logits, whole.logits)


def test_resume__refuses_another_recipe_encoder_or_split(tmp_path: Path) -> None:
    tune(small_vit(), tmp_path)
    with pytest.raises(TrainingError, match=r"recipe\.lr: 0\.004 -> 0\.001"):
        tune(small_vit(), tmp_path, Recipe(epochs=4, batch_size=32, lr=1e-3, flip=False), resume=True)
    with pytest.raises(TrainingError, match=r"encoder\.weights"):
        tune(small_vit(seed=1), tmp_path, resume=True)
    with pytest.raises(TrainingError, match="level: 1 -> 0"):
        tune(small_vit(), tmp_path, resume=True, level=0)
    with pytest.raises(TrainingError, match="held_out"):
        tune(small_vit(), tmp_path, resume=True, held_out=np.arange(5))


def test_resume__refuses_a_damaged_checkpoint(tmp_path: Path) -> None:
    tune(small_vit(), tmp_path, Recipe(epochs=1, batch_size=32))
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:-10] + bytes(byte ^ 1 for byte in whole[-10:])):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="begin again in another --run"):
            tune(small_vit(), tmp_path, Recipe(epochs=1, batch_size=32), resume=True)


def test_images__that_do_not_fit_into_memory_are_decoded_every_epoch_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tune(small_vit(), tmp_path / "a")
    monkeypatch.setattr(images_module, "MEMORY_SHARE", 0.0)
    assert tune(small_vit(), tmp_path / "b").weights == cached.weights


def test_held_out_images__are_never_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    apply = images_module.TrainingImages.batches

    def watch(self: Any, order: torch.Tensor, batch_size: int) -> Any:
        seen.update(order.tolist()) if batch_size == 30 else None
        return apply(self, order, batch_size)

    monkeypatch.setattr(images_module.TrainingImages, "batches", watch)
    tune(small_vit(), tmp_path, Recipe(epochs=1, batch_size=32))
    assert seen == set(range(100)) - set(HELD_OUT)


def test_loss__that_is_not_finite_stops_with_advice_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    tune(small_vit(), tmp_path, Recipe(epochs=1, batch_size=32))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"not finite in epoch 1.*lower --lr"):
        tune(small_vit(), tmp_path, Recipe(epochs=2, batch_size=16, lr=1e30, layer_decay=1.0, warmup_epochs=0))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_bf16__trains_close_to_fp32(tmp_path: Path) -> None:
    exact = tune(small_vit(), tmp_path / "a")
    rounded = tune(small_vit(), tmp_path / "b", running=Running(torch.device("cpu"), "bf16"))
    assert rounded.weights != exact.weights
    assert rounded.curve[-1]["train_loss"] == pytest.approx(exact.curve[-1]["train_loss"], abs=0.1)
