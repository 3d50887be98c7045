"""`hjepa pretrain`: make an encoder, or print its settings as a YAML file that explains itself."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.cli.options import words_of
from hjepa_eval.errors import CheckpointError, ConfigError, HjepaError
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.machine.ranks import read_ranks

if TYPE_CHECKING:
    from hjepa_pretrain.config.learners import LearnerRun
    from hjepa_pretrain.config.settings import PretrainSettings
    from hjepa_pretrain.runs.files import Summary

_WIDTH = 110


def commented_yaml(settings: BaseModel) -> str:
    """Return all settings as YAML, each key under a comment with its description and its choices."""
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(settings: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
            continue
        words = words_of(field.annotation)
        text = str(field.description) + (f" [{'|'.join(words)}]" if words else "")
        yield from (f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent)))
        # JSON is YAML: numbers, lists, null and quoted words read back as they are.
        yield f"{indent}{name}: {json.dumps(settings.model_dump(mode='json')[name])}"


_MOMENT = 5.0  # seconds in which rank 0 finds and says the same as others, and a launcher ends them


def run_pretraining(
    settings: PretrainSettings | LearnerRun,
    run_dir: Path,
    talk: Talk,
    *,
    resume: bool = False,
    download: bool = False,
) -> Summary:
    """Pretrain with progress and return the summary; Ctrl-C leaves a checkpoint and says how to go on.

    Raises:
        HjepaError: data, configuration or training; what was finished stays.
    """
    from hjepa_pretrain.cli.learners import run_learner
    from hjepa_pretrain.config.settings import PretrainSettings

    try:
        if isinstance(settings, PretrainSettings):
            return _run_images(settings, run_dir, talk, resume=resume, download=download)
        return run_learner(settings, run_dir, talk, resume=resume, download=download)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(run_dir)) from None


def _run_images(settings: PretrainSettings, run_dir: Path, talk: Talk, *, resume: bool, download: bool) -> Summary:
    """Pretrain an H-JEPA on images."""
    from hjepa_eval.datasets import load_dataset, reads_root
    from hjepa_eval.features.cache import default_cache_dir, memo_dir
    from hjepa_eval.machine.devices import device_name
    from hjepa_pretrain.cli.progress import show_training
    from hjepa_pretrain.config.geometry import resolve_geometry
    from hjepa_pretrain.loop import pretrain as train

    root = Path(settings.data.root) if settings.data.root else None
    if resume and not reads_root(settings.data.dataset):
        root = None  # HJEPA_DATA of another day, of which nothing was read.
    with leader_first():
        dataset = load_dataset(
            settings.data.dataset,
            "train",
            root=root,
            download=download,
            memo=memo_dir(default_cache_dir()),
            unlabelled=True,
        )
    used = min(settings.data.max_samples or len(dataset), len(dataset))
    some = f"{used:,}{f' of {len(dataset):,}' if used < len(dataset) else ''}"
    size = resolve_geometry(settings).image_size
    images = f"{dataset.name}, {some} images at {size}x{size} pixels, {settings.model.encoder_type}"
    talk.note(f"pretraining on {images}, into {run_dir}")
    with show_training(talk, run=str(run_dir), dataset=images, device=device_name(settings.train.device)) as shown:
        return train(settings, dataset, run_dir=run_dir, resume=resume, say=shown.note, progress=shown.update)


def _how_to_go_on(run_dir: Path) -> str:
    """Return what an interrupted run left, and the command that goes on with it."""
    from hjepa_pretrain.runs.checkpoint import list_checkpoints

    checkpoints = list_checkpoints(run_dir)
    kept = (
        f"step {int(checkpoints[-1].name.removeprefix('step-')):,} is kept"
        if checkpoints
        else "there is no checkpoint yet"
    )
    return f"{kept}; go on with: hjepa pretrain --resume {run_dir}"


@contextmanager
def leader_first() -> Iterator[None]:
    """Let rank 0 say first what is wrong, which ends the other ranks; one that is still there has its own trouble.

    Raises:
        HjepaError: of the body.
    """
    try:
        yield
    except HjepaError as error:
        ranks = read_ranks()
        if ranks.rank == 0:
            raise
        time.sleep(_MOMENT)
        raise type(error)(f"rank {ranks.rank} of {ranks.world_size}: {error}") from None


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("pretrain")(guarded(pretrain))


def pretrain(
    config: Annotated[
        str | None, typer.Option("--config", help="YAML file or preset, such as digits or cifar10_cpu")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting, repeatable: train.minutes=5"),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="instead of the preset's data.dataset")] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="folder that holds the dataset (HJEPA_DATA; else ./data)")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="instead of the preset's train.seed")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="run folder; else runs/PRESET-DATE-TIME")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="go on with this run folder")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch missing official dataset files")] = False,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="print every setting with its meaning, as YAML, and stop")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary, or the settings, as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress and no notes")] = False,
) -> None:
    """Pretrain an H-JEPA.

    Without --config it is the digits preset, which takes about a minute.
    """
    leader = read_ranks().rank == 0
    talk = Stderr(quiet=quiet, leader=leader)
    flags = {
        "data": _given(dataset=dataset, root=None if root is None else root.expanduser()),
        "train": _given(seed=seed),
    }
    with leader_first():
        settings, run_dir = _asked(config, list(assignments or []), flags, out=out, resume=resume)
        if show_settings and out is not None:
            raise ConfigError(f"--show-settings prints and stops; leave --out {out} out")
        if not show_settings:
            _check_start(run_dir, new=resume is None, download=download)
    if show_settings:
        if leader and as_json:
            print_json(settings.model_dump(mode="json"))
        elif leader:
            print(commented_yaml(settings), end="")
        return
    summary = run_pretraining(settings, run_dir, talk, resume=resume is not None, download=download)
    if as_json and leader:
        print_json(summary.to_json())
    elif leader:
        early = ", stopped early" if is_early(summary, settings) else ""
        print(f"finished: {run_dir}, {summary.steps:,} steps, {summary.seconds:.0f} s{early}{_best(summary)}")
        print(f"next: {_next(summary, settings, run_dir)}")


def _next(summary: Summary, settings: PretrainSettings | LearnerRun, run_dir: Path) -> str:
    """Return the command that looks at a finished run."""
    from hjepa_pretrain.config.learners import TokensRun

    if isinstance(settings, TokensRun):
        file = min(path for path in (run_dir / "features").glob("*.npz") if not path.stem.endswith("-untrained"))
        return f"hjepa import {file} --name {file.stem}, then hjepa eval --model features:{file.stem}"
    unjudged = summary.measures and not any(score is not None for score in summary.measures["knn"])
    return f"hjepa eval --model {run_dir}{' --dataset NAME, of images with classes' if unjudged else ''}"


def _asked(
    config: str | None, assignments: list[str], flags: Mapping[str, Any], *, out: Path | None, resume: Path | None
) -> tuple[PretrainSettings | LearnerRun, Path]:
    """Return the settings and the folder of the run that is asked for.

    Raises:
        HjepaError: they contradict each other, or there is no run to go on with.
    """
    from hjepa_pretrain.checks import load_settings
    from hjepa_pretrain.cli.learners import find_learner, load_learner

    if resume is None:
        learner = find_learner(config) if config is not None else None
        settings = (
            load_settings(config or "digits", assignments, flags=flags)
            if learner is None
            else load_learner(learner, assignments, flags=flags)
        )
        return settings, out or Path("runs") / f"{Path(config or 'digits').stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out is not None:
        raise ConfigError(f"--resume goes on in {resume}; leave --out out, or begin another run without --resume")
    return _settings_of(resume, config, assignments, flags), resume


def _check_start(run_dir: Path, *, new: bool, download: bool) -> None:
    """Check that a run can begin, or go on, in its folder.

    Raises:
        ConfigError: the folder holds another run, or several processes are asked to download.
    """
    from hjepa_pretrain.distributed.processes import started_ranks

    if new and (run_dir / "config.json").exists():
        raise ConfigError(f"{run_dir} holds a run; go on with --resume {run_dir}, or name another --out")
    if download and started_ranks()[1] > 1:
        raise ConfigError("--download is for one process; fetch the data before torchrun or srun")


def is_early(summary: Summary, settings: PretrainSettings | LearnerRun) -> bool:
    """Return whether `diagnostics.patience` ended a run before its last step."""
    if settings.diagnostics.patience is None:
        return False
    train = settings.train
    if train.epochs is None:
        return summary.seconds < 60 * (train.minutes or 0)
    # The steps of a run are a rounded number.
    return summary.steps < round(train.epochs * summary.steps / summary.epochs)


def _best(summary: Summary) -> str:
    """Return what the best measurement of a run was, with its interval, to stand at the end of a line."""
    from hjepa_pretrain.diagnostics.progress import accuracy_text, ties_text

    best = summary.best
    if best is None:
        return ""
    score = accuracy_text(best["knn"], summary.measures.get("knn_images"))
    return (
        f"; best kNN on held-out train images {score} (level {best['level']}, step {best['step']:,}{ties_text(best)})"
    )


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _settings_of(
    run_dir: Path, config: str | None, given: list[str], flags: Mapping[str, Any]
) -> PretrainSettings | LearnerRun:
    """Return the settings with which a run goes on: its own, unless a configuration is named again."""
    from hjepa_eval.config import merge, parse_assignments
    from hjepa_eval.encoders.kinds.run import read_run_config
    from hjepa_pretrain.checks import build_settings, load_settings
    from hjepa_pretrain.cli.learners import find_learner, load_learner
    from hjepa_pretrain.config.flat_keys import from_flat
    from hjepa_pretrain.config.learners import learner_settings
    from hjepa_pretrain.config.unread import as_recorded

    if not (run_dir / "config.json").is_file():
        raise CheckpointError(f"{run_dir} holds no run to go on with; it has no config.json")
    if config is not None:
        learner = find_learner(config)
        return (
            load_settings(config, given, flags=flags) if learner is None else load_learner(learner, given, flags=flags)
        )
    written = read_run_config(run_dir).get("settings", {})
    if "task" in written:
        return learner_settings(merge(written, parse_assignments(given), flags), str(run_dir))
    assigned = from_flat(parse_assignments(given), source="--set")
    return build_settings(merge(as_recorded(written), assigned, flags), str(run_dir))
