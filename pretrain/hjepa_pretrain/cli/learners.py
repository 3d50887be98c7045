"""`hjepa pretrain` of a YAML file with a `task`: read its data, build its learner, and let `fit` train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.config import environment_values, find_preset, merge, parse_assignments, read_yaml
from hjepa_eval.errors import ConfigError

if TYPE_CHECKING:
    from hjepa_eval.evaluation.job import Talk
    from hjepa_pretrain.config.learners import LearnerRun, SaccadeRun, TokensRun
    from hjepa_pretrain.runs.files import Summary


def find_learner(config: str) -> Path | None:
    """Return the YAML file that `config` means, where it is one with a `task`; None where it is of an image run."""
    from hjepa_pretrain.config.learners import FOLDER

    path = Path(config)
    if not path.is_file():
        try:
            path = find_preset(config, FOLDER)
        except ConfigError:
            return None
    return path if "task" in read_yaml(path) else None


def load_learner(path: Path, assignments: Sequence[str], *, flags: Mapping[str, Any]) -> LearnerRun:
    """Return the settings of a YAML file with a `task`, with assignments and flags on top.

    Raises:
        HjepaError: they do not fit.
    """
    from hjepa_pretrain.config.learners import SCHEMAS, learner_settings

    written = read_yaml(path)
    schema = SCHEMAS.get(str(written.get("task")))
    environment = {} if schema is None else environment_values(schema)
    given = merge(written, environment, parse_assignments(assignments), flags)
    train = given.get("train", {})
    assigned = parse_assignments(assignments).get("train", {})
    for length, rival in (("epochs", "minutes"), ("minutes", "epochs")):
        if length in assigned and rival not in assigned:
            train.pop(rival, None)
    return learner_settings(given, f"{path} and options")


def run_learner(settings: LearnerRun, run_dir: Path, talk: Talk, *, resume: bool, download: bool) -> Summary:
    """Train what `settings` ask for and return the summary.

    Raises:
        HjepaError: data, configuration or training; what was finished stays.
    """
    from hjepa_eval.machine.devices import device_name
    from hjepa_pretrain.cli.progress import show_training
    from hjepa_pretrain.config.learners import SaccadeRun

    made = _saccade(settings, download=download) if isinstance(settings, SaccadeRun) else _tokens(settings)
    begin, said = made
    talk.note(f"pretraining on {said}, into {run_dir}")
    with show_training(talk, run=str(run_dir), dataset=said, device=device_name(settings.train.device)) as shown:
        return begin(run_dir=run_dir, resume=resume, say=shown.note, progress=shown.update)


def _saccade(settings: SaccadeRun, *, download: bool) -> tuple[Callable[..., Summary], str]:
    """Return what begins the run, and its data in words."""
    from functools import partial

    import torch

    from hjepa_eval.datasets import load_dataset
    from hjepa_eval.datasets.images import stack_images
    from hjepa_eval.datasets.transform import Transform
    from hjepa_eval.features.cache import default_cache_dir, memo_dir
    from hjepa_pretrain.fitting import fit
    from hjepa_pretrain.jepa.saccade import SaccadeJEPA

    data, model = settings.data, settings.model
    dataset = load_dataset(
        data.dataset, "train", root=data.root, download=download, memo=memo_dir(default_cache_dir()), unlabelled=True
    )
    learner = SaccadeJEPA(**model.model_dump(), seed=settings.train.seed)
    size = model.image_size
    transform = Transform(size=size, resize=size, interpolation="bicubic", mean=model.mean, std=model.std)
    count = min(data.max_samples or len(dataset), len(dataset))
    images = stack_images(dataset, transform, indices=range(count), workers=data.workers)
    begin = partial(
        fit,
        learner,
        images,
        labels=torch.from_numpy(dataset.labels[:count]),
        train=settings.train.model_dump(exclude_unset=True),
        diagnostics=settings.diagnostics.model_dump(exclude_unset=True),
        name=dataset.name,
        encoder=learner.run_encoder(),
        transform=asdict(transform),
        settings=settings.model_dump(mode="json"),
    )
    return begin, f"{dataset.name}, {count:,} images at {size}x{size} pixels, {model.network}"


def _tokens(settings: TokensRun) -> tuple[Callable[..., Summary], str]:
    """Return what begins the run and writes its features, and its data in words."""
    from hjepa_pretrain.data.kinds.load import load_corpus
    from hjepa_pretrain.diagnostics.judged import build_learner, write_features
    from hjepa_pretrain.fitting import fit

    corpus = load_corpus(settings.task, settings.data)
    learner = build_learner(settings, corpus)

    def begin(*, run_dir: Path, **options: Any) -> Summary:
        summary = fit(
            learner,
            corpus.examples,
            run_dir=run_dir,
            train=settings.train.model_dump(exclude_unset=True),
            diagnostics=settings.diagnostics.model_dump(exclude_unset=True),
            name=settings.task,
            settings=settings.model_dump(mode="json"),
            **options,
        )
        files = write_features(settings, corpus, run_dir)
        options["say"](f"features of {len(files)} sets: hjepa import {files[0]} --name NAME makes a model of them")
        return summary

    return begin, f"{corpus.words}, {settings.model.width} wide"
