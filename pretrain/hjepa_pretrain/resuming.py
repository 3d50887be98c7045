"""What a resumed run goes on from, and what must not have changed since it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hjepa_eval.errors import TrainingError, first_few
from hjepa_eval.features.fingerprint import differences
from hjepa_pretrain.checkpoint import Checkpoint, folder, newest_checkpoint, read_checkpoint
from hjepa_pretrain.distributed import Ranks

# What may change between two sessions of one run, because it does not change what is computed (parallel: but for
# rounding).
_FREE = (
    "train.log_interval",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.device",
    "train.parallel",
    "data.root",
    "data.placement",
    "data.workers",
    "diagnostics.tensorboard",
    "diagnostics.wandb",
)


def newest_for_all(run_dir: Path, ranks: Ranks, *, say: Callable[[str], None]) -> Checkpoint:
    """Return the newest whole checkpoint by the leader's judgement.

    Raises:
        CheckpointError: there is none.
    """
    found = newest_checkpoint(run_dir, say=say) if ranks.leader else None
    step = ranks.share(0 if found is None else int(found.state["step"]))
    return read_checkpoint(folder(run_dir, step)) if found is None else found


def check_same(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that a resumed run has the settings, the encoder and the data that it began with.

    Args:
        run_dir: named in the message.
        old: `config.json` as it was.
        new: as it would be now.

    Raises:
        TrainingError: they differ; the first differences are shown.
    """
    parts = ("settings", "dataset", "encoder")
    changed = differences({key: old.get(key) for key in parts}, {key: new[key] for key in parts})
    changed = [change for change in changed if not change.startswith(tuple(f"settings.{name}:" for name in _FREE))]
    if changed:
        raise TrainingError(
            f"{run_dir} began with other settings or data: {first_few(changed)}; go on with what it began "
            "with, or begin another run"
        )
