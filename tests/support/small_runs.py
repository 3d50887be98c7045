"""Small pretraining runs on digits that tests build, interrupt and compare; `small_run` makes their settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hjepa_eval.config import merge

# 4x4 tokens of 2x2 pixels; the width is 192.
_MODEL: dict[str, Any] = {
    "encoder_type": "vit_tiny_patch2_8",
    "encoder_depth": 2,
    "num_hierarchies": 2,
    "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}
AVERAGED = {"model": {"ema": {"momentum": 0.9, "momentum_end": 0.99}}}
VIEWS = {
    "data": {"augmentation": "asym+global"},
    "train": {"whole_image": {"contrast": 1.0, "sigreg": 0.1, "hidden_dim": 32, "out_dim": 16}},
}
EVERY_OBJECTIVE = merge(VIEWS, {"train": {"whole_image": {"variance": 1.0, "covariance": 0.1, "predict": 1.0}}})


def small_run(*changes: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return settings of a small model on digits, with `changes` and then `sections`, such as train={...}, put in."""
    settings: dict[str, Any] = {"model": _MODEL, "data": {"dataset": "digits"}}
    for change in (*changes, sections):
        settings = merge(settings, change)
    return settings


# 10 steps; its parts are named by the tests that read its folder.
TINY_RUN = small_run(
    AVERAGED,
    data={"flip": False, "max_samples": 160},
    train={"epochs": 2, "batch_size": 32, "log_interval": 4, "checkpoint_interval": 4},
    diagnostics={"bank": 64, "interval": 4},
)
# 16 steps, of which an epoch has 4 and a half; measured at 8 and 16.
DIGITS = small_run(
    AVERAGED,
    VIEWS,
    model={"drop_path": 0.2},
    data={"flip": False, "max_samples": 160},
    train={"epochs": 4, "batch_size": 32, "log_interval": 2, "checkpoint_interval": 4},
    diagnostics={"bank": 64, "interval": 8, "held_out": 0.1},
)
# 12 steps on any number of ranks, with every objective, in fp32; measured at 5 and 10.
ON_RANKS = small_run(
    AVERAGED,
    EVERY_OBJECTIVE,
    model={"class_token": True},
    data={"flip": False, "max_samples": 160},
    train={
        "epochs": 3,
        "batch_size": 32,
        "precision": "fp32",
        "compile": "off",
        "log_interval": 3,
        "checkpoint_interval": 4,
    },
    diagnostics={"bank": 64, "interval": 5, "held_out": 0.1},
)


def trace(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log without what depends on time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key and key != "mfu"} for line in lines]
