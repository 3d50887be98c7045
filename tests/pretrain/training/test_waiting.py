"""A step never waits for the device: on a CPU nothing waits, so what would is recognised by its operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import MaskingSettings
from hjepa_pretrain.data.training_data import load_training_data
from hjepa_pretrain.masks import create_mask_generator
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training.trainer import Trainer
from small_runs import EVERY_OBJECTIVE, small_run
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa_eval.config import build, merge
from hjepa_eval.datasets import load_dataset

CPU = torch.device("cpu")
SETTINGS = small_run(
    EVERY_OBJECTIVE,
    data={"placement": "device", "max_samples": 64},
    train={"epochs": 3, "batch_size": 16, "accumulate": 2, "precision": "fp32"},
    diagnostics={"bank": 0},
)
# What reads a value or makes a size of values; what copies from the host's memory (`lift_fresh` is how torch.tensor of
# numbers begins); and all of linear algebra but a norm, for it looks whether the device succeeded.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::is_nonzero",
    "aten::equal",
    "aten::lift_fresh",
}


def waits(name: str) -> bool:
    return name in WAITING or ("linalg" in name and name != "aten::linalg_vector_norm")


class Recorder(TorchDispatchMode):
    """Keeps the names of the operations; indexing with flags has to find them first, as nonzero does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        if func is torch.ops.aten.index.Tensor and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        ):
            self.names.add("aten::nonzero")
        return func(*args, **(kwargs or {}))


def waiting(work: Callable[[], Any]) -> set[str]:
    """Return the operations of `work` that would wait for a device."""
    with Recorder() as recorder:
        work()
    assert len(recorder.names) > 1
    return {name for name in recorder.names if waits(name)}


def trainer(sections: dict[str, Any]) -> Trainer:
    settings = build_settings(merge(SETTINGS, sections), "test")
    transform = run_transform(settings, resolve_geometry(settings))
    data = load_training_data(settings, load_dataset("digits", "train"), transform, device=CPU)
    made = Trainer(settings, data, transform, device=CPU)
    made.train_step(0.0)  # What is copied to the device once is there now.
    return made


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"data": {"local_views": 2}},
        {"masking": {"saliency": 2.0, "aligned": 0.5, "roll": 0.5}},
        {"masking": {"type": "hierarchical"}},
        {"masking": {"type": "random"}},
        {"model": {"positions": "rope", "drop_path": 0.1}},
    ],
    ids=lambda sections: "-".join(f"{s}.{k}" for s, values in sections.items() for k in values) or "plain",
)
def test_step__never_waits_for_the_device(sections: dict[str, Any]) -> None:
    made = trainer(sections)
    images = made.data.source.batch(1)
    assert waiting(lambda: made.inputs(images, made.model, number=7, progress=0.5)) == set()
    assert waiting(lambda: made.train_step(0.5)) == set()


def test_step__blocks_that_must_lie_apart_are_what_waits_and_nothing_else_does() -> None:
    """The one exception: which images found no place decides what is drawn next."""
    made = trainer({"masking": {"allow_target_overlap": False, "num_masks": 3}})
    images = made.data.source.batch(1)[:8]
    assert waiting(lambda: made.inputs(images, made.model, number=7, progress=0.5)) == {"aten::nonzero"}
    inputs = made.inputs(images, made.model, number=7, progress=0.5)
    made.inputs = lambda *_, **__: inputs  # type: ignore[assignment]
    assert waiting(lambda: made.train_step(0.5)) == set()


# Another value of every setting that a mask generator could read.
OTHER_MASKS: dict[str, object] = {
    "num_masks": 2,
    "mask_scale": [0.1, 0.15],
    "aspect_ratio": [1.0, 2.0],
    "num_context_masks": 1,
    "context_scale": [0.6, 0.8],
    "allow_target_overlap": False,
    "max_attempts": 3,
    "num_hierarchies": 3,
    "num_masks_per_level": 2,
    "scale_progression": "linear",
    "base_scale": [0.1, 0.15],
    "aligned": 0.5,
    "roll": 0.5,
    "saliency": 2.0,
    "mask_ratio": 0.5,
    "context_tokens": 20,
    "target_tokens": 20,
    "cell_coverage": 0.25,
}


def masks_of_steps(**masking: object) -> Callable[[], Any]:
    """Return what draws the masks of a step; those of the first one are drawn, and what is copied once is there."""
    settings = build(MaskingSettings, masking, "test")
    made = create_mask_generator(settings, image_size=32, patch_size=4, num_levels=3, context_tokens=24, seed=0)
    options = {"context_tokens": 24, "target_tokens": 30, "saliency": torch.rand(16, 64)}
    made.sample(16, "cpu", step=0, **options)
    return partial(made.sample, 16, "cpu", step=1, **options)


def test_generators__never_wait_but_for_blocks_that_must_lie_apart() -> None:
    assert OTHER_MASKS.keys() == MaskingSettings.model_fields.keys() - {"type", "mask_ratio_end"}  # not by itself
    found = set()
    for kind, (name, value) in itertools.product(("multi_block", "hierarchical", "random"), OTHER_MASKS.items()):
        if (kind, name) == ("hierarchical", "allow_target_overlap"):
            continue  # Refused: coarse blocks must overlap.
        together = {"type": kind, "aligned": 0.5, "roll": 0.5, "saliency": 1.0, name: value}
        if waiting(masks_of_steps(**together)):
            found.add((kind, name))
    assert found == {("multi_block", "allow_target_overlap")}


def test_recorder__notices_what_waits() -> None:
    values = torch.rand(3, 3)
    assert waiting(lambda: float((values + 1).sum())) == {"aten::_local_scalar_dense"}
    assert waiting(lambda: values * torch.tensor((1.0, 2.0, 3.0))) == {"aten::lift_fresh"}
    assert "aten::linalg_inv_ex" in waiting(lambda: torch.linalg.inv(values) + 1)
    assert waiting(lambda: values.norm() + 1) == set()
    assert waiting(lambda: values[values > 0.5] + 1) == {"aten::nonzero"}
    assert waiting(lambda: values[torch.arange(2)] + 1) == set()
