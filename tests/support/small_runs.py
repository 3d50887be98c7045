"""Small pretraining runs on digits that several tests interrupt, and what must be the same when they go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# 16 steps, of which an epoch has 4 and a half; measured at 8 and 16.
DIGITS: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch2_8",
        "encoder_depth": 2,
        "num_hierarchies": 2,
        "drop_path": 0.2,
        "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "ema": {"momentum": 0.9, "momentum_end": 0.99},
    },
    "data": {"dataset": "digits", "augmentation": "asym+global", "flip": False, "max_samples": 160},
    "train": {
        "epochs": 4,
        "batch_size": 32,
        "log_interval": 2,
        "checkpoint_interval": 4,
        "whole_image": {"contrast": 1.0, "sigreg": 0.1, "hidden_dim": 32, "out_dim": 16},
    },
    "diagnostics": {"bank": 64, "interval": 8, "held_out": 0.1},
}


def trace(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log without what depends on time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key and key != "mfu"} for line in lines]
