"""Where a run's numbers go: always `metrics.jsonl`, and TensorBoard or Weights & Biases where asked for."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hjepa_eval.errors import CheckpointError, ConfigError, HjepaError
from hjepa_pretrain.config.settings import DiagnosticsSettings
from hjepa_pretrain.runs.files import trim_metrics

Sink = tuple[Callable[[dict[str, Any]], None], Callable[[], None]]


class Logs:
    """The sinks of a run; every line goes to all of them."""

    def __init__(self, sinks: list[Sink]) -> None:
        """Take pairs of (write, close)."""
        self._sinks = sinks

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line of JSON values with a `step`; numbers that are not finite become null.

        Raises:
            CheckpointError: the run folder cannot be written.
        """
        clean = _finite(dict(line))
        for write, _ in self._sinks:
            write(clean)

    def close(self) -> None:
        """Write what is pending, and close every sink; again is harmless."""
        while self._sinks:
            self._sinks.pop()[1]()


def check_logs(settings: DiagnosticsSettings) -> None:
    """Check that what `settings` log to is installed; to be called before data is read.

    Raises:
        ConfigError: a package is missing; the message names the extra.
    """
    if settings.tensorboard:
        _tensorboard()
    if settings.wandb is not None:
        _wandb()


def open_logs(
    run_dir: Path,
    settings: DiagnosticsSettings,
    *,
    step: int = 0,
    size: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> Logs:
    """Open the logs of the run in `run_dir`, without the lines after `step`: a resumed run writes them again.

    Args:
        run_dir: exists; gets `metrics.jsonl`, and `tensorboard/` or `wandb/`.
        settings: where else to log to.
        step: of the checkpoint that the run goes on from; 0 for a new run.
        size: bytes of `metrics.jsonl` when that checkpoint was written, where it is known.
        config: JSON values that Weights & Biases shows with the run.

    Raises:
        ConfigError: a package is missing, or Weights & Biases refuses.
        CheckpointError: the run folder cannot be written.
    """
    check_logs(settings)
    logs = Logs([])
    try:
        trim_metrics(run_dir / "metrics.jsonl", step=step, size=size)
        logs._sinks.append(_open_jsonl(run_dir / "metrics.jsonl"))
    except OSError as error:
        raise _cannot_write(run_dir / "metrics.jsonl", error) from None
    try:
        if settings.tensorboard:
            logs._sinks.append(_open_tensorboard(run_dir / "tensorboard", step))
        if settings.wandb is not None:
            logs._sinks.append(_open_wandb(run_dir, settings.wandb, config or {}))
    except HjepaError:
        logs.close()
        raise
    return logs


def flatten(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a line by path: `losses/level_0`, `knn/0` for lists over levels; all else is left out.

    Maps, which are lists of lists, are no curves and left out too.
    """
    flat: dict[str, float] = {}
    for name, value in line.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}/")
        elif isinstance(value, list | tuple):
            levels = {str(place): one for place, one in enumerate(value) if not isinstance(one, list | tuple)}
            flat |= flatten(levels, f"{path}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[path] = value
    return flat


def _finite(value: Any) -> Any:
    """Return JSON values with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cannot_write(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror}; make room, or name another --out")


def _open_jsonl(path: Path) -> Sink:
    file = path.open("a", encoding="utf-8")

    def write(line: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
        except OSError as error:
            raise _cannot_write(path, error) from None

    return write, file.close


def _open_tensorboard(folder: Path, step: int) -> Sink:
    """Open a TensorBoard log; events after `step`, of a session that was cut off, are no longer shown."""
    try:
        writer = _tensorboard()(str(folder), purge_step=step + 1 if step else 0)
    except OSError as error:
        raise _cannot_write(folder, error) from None

    def write(line: dict[str, Any]) -> None:
        for name, value in flatten(line).items():
            if name != "step":
                writer.add_scalar(name, value, line["step"])

    return write, writer.close


def _tensorboard() -> Any:
    """Return TensorBoard's writer.

    Raises:
        ConfigError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "diagnostics.tensorboard needs an extra; pip install 'hjepa[tensorboard]', or leave it out"
        ) from None
    return SummaryWriter


def _open_wandb(run_dir: Path, project: str, config: Mapping[str, Any]) -> Sink:
    """Open a run of Weights & Biases, the same one for all sessions; WANDB_MODE=offline needs no network.

    Its own step never goes back, so the x-axis is our `step`: what a resumed run writes again lies on what was there.
    """
    wandb = _wandb()
    try:
        run = wandb.init(
            project=project,
            name=run_dir.resolve().name,
            dir=str(run_dir),
            id=_wandb_id(run_dir / "wandb_id"),
            resume="allow",
            config=dict(config),
            # It would record every frame of the live view as output of the program.
            settings=wandb.Settings(console="off"),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
    except wandb.Error as error:
        raise ConfigError(
            f"Weights & Biases refuses: {' '.join(str(error).split())}; log in with 'wandb login', or set "
            "WANDB_MODE=offline, or leave diagnostics.wandb out"
        ) from None
    return lambda line: run.log(flatten(line)), run.finish


def _wandb_id(path: Path) -> str:
    """Return the run's id, kept at `path`, so that a resumed run is the same one there."""
    try:
        if not path.is_file():
            path.write_text(secrets.token_hex(8), encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _wandb() -> Any:
    """Return the package.

    Raises:
        ConfigError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise ConfigError("diagnostics.wandb needs an extra; pip install 'hjepa[wandb]', or leave it out") from None
    return wandb
