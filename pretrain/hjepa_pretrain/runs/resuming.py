"""What a resumed run goes on from, and what must not have changed since it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hjepa_eval.errors import TrainingError, first_few
from hjepa_eval.extraction.inference import can_compile
from hjepa_eval.features.fingerprint import differences
from hjepa_pretrain.config.unread import as_recorded
from hjepa_pretrain.distributed.processes import ProcessGroup
from hjepa_pretrain.runs.checkpoint import Checkpoint, folder, list_checkpoints, newest_checkpoint, read_checkpoint

# What may change between two sessions of one run: where it is computed and looked at, and when it stops, but not what
# is computed (device and parallel: but for rounding, and draws on another kind of device).
_FREE = (
    "train.log_interval",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.device",
    "train.parallel",
    "data.root",
    "data.placement",
    "data.workers",
    "diagnostics.smallest_std",
    "diagnostics.smallest_rank",
    "diagnostics.largest_mean_energy",
    "diagnostics.rank_drop",
    "diagnostics.milestones",
    "diagnostics.patience",
    "diagnostics.tensorboard",
    "diagnostics.wandb",
)


def newest_for_all(run_dir: Path, ranks: ProcessGroup, *, say: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest whole checkpoint by the leader's judgement; None when the run was left before its first one.

    Raises:
        CheckpointError: all checkpoints are damaged, or the folder holds no run.
    """
    begun = (run_dir / "config.json").is_file() and not list_checkpoints(run_dir)
    if ranks.share(begun):
        say(f"{run_dir} was left before its first checkpoint: it begins again at step 0")
        return None
    found = newest_checkpoint(run_dir, say=say) if ranks.leader else None
    step = ranks.share(0 if found is None else int(found.state["step"]))
    return read_checkpoint(folder(run_dir, step)) if found is None else found


def machine() -> dict[str, Any]:
    """Return JSON values: what, besides settings and device, the last bit of a sum depends on."""
    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def check_machine(state: Mapping[str, Any], *, precision: str, device: torch.device) -> list[str]:
    """Check that this machine can go on with a run; return what the user should know of it.

    Args:
        state: of the checkpoint.
        precision: of steps here.
        device: of steps here.

    Raises:
        TrainingError: steps would be computed in another precision, or cannot be compiled here as they were.
    """
    before = state.get("precision", precision)
    if before != precision:
        raise TrainingError(
            f"the run computes in {before}, which here would be {precision}; go on on a machine like the first, or "
            f"begin another run with train.precision={precision}"
        )
    if state["compiled"] and not can_compile(device):
        raise TrainingError(
            f"the run's steps are compiled and there is no compiler for {device} here; install one (g++ for CPUs), or "
            "begin another run with train.compile=off"
        )
    kind = state.get("device", device.type)
    told = []
    if kind != device.type:
        told.append(f"the run goes on on {device.type} instead of {kind}: other draws from here on")
    found = machine()
    changed = [name for name in found if state.get(name, found[name]) != found[name]]
    if changed:
        changes = " and ".join(f"{name} {found[name]} instead of {state[name]}" for name in changed)
        told.append(f"the run goes on with {changes}: sums are rounded otherwise from here on")
    return told


def check_same(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that a resumed run has the settings, the encoder and the data that it began with.

    Args:
        run_dir: named in the message.
        old: `config.json` as it was.
        new: as it would be now.

    Raises:
        TrainingError: they differ; the first differences are shown.
    """
    before, now = ({**config, "settings": as_recorded(config.get("settings") or {})} for config in (old, new))
    parts = ("settings", "dataset", "encoder")
    changed = differences({key: before.get(key) for key in parts}, {key: now[key] for key in parts})
    changed = [change for change in changed if not change.startswith(tuple(f"settings.{name}:" for name in _FREE))]
    if changed:
        raise TrainingError(
            f"{run_dir} began with other settings or data: {first_few(changed)}; go on with what it began "
            "with, or begin another run"
        )
