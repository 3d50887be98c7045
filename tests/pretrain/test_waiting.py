"""A step never waits for the device: on a CPU nothing waits, so what would is recognised by its operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hjepa_pretrain.config import PretrainSettings
from hjepa_pretrain.geometry import resolve_geometry
from hjepa_pretrain.run_files import run_transform
from hjepa_pretrain.trainer import Trainer
from hjepa_pretrain.training_data import load_training_data
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa_eval.config import build, merge
from hjepa_eval.datasets import load_dataset

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch2_8",
        "encoder_depth": 2,
        "num_hierarchies": 2,
        "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    },
    "data": {"dataset": "digits", "augmentation": "asym+global", "placement": "device", "max_samples": 64},
    "train": {
        "epochs": 3,
        "batch_size": 16,
        "accumulate": 2,
        "precision": "fp32",
        "whole_image": {
            "contrast": 1.0,
            "sigreg": 0.1,
            "variance": 1.0,
            "covariance": 0.1,
            "predict": 1.0,
            "hidden_dim": 32,
            "out_dim": 16,
        },
    },
    "diagnostics": {"bank": 0},
}
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
    """Keeps the names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def waiting(work: Callable[[], Any]) -> set[str]:
    """Return the operations of `work` that would wait for a device."""
    with Recorder() as recorder:
        work()
    assert len(recorder.names) > 1
    return {name for name in recorder.names if waits(name)}


def trainer(sections: dict[str, Any]) -> Trainer:
    settings = build(PretrainSettings, merge(SETTINGS, sections), "test")
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


def test_recorder__notices_what_waits() -> None:
    values = torch.rand(3, 3)
    assert waiting(lambda: float((values + 1).sum())) == {"aten::_local_scalar_dense"}
    assert waiting(lambda: values * torch.tensor((1.0, 2.0, 3.0))) == {"aten::lift_fresh"}
    assert "aten::linalg_inv_ex" in waiting(lambda: torch.linalg.inv(values) + 1)
    assert waiting(lambda: values.norm() + 1) == set()
