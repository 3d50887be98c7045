"""The Python face: evaluate, extract, compare and read, with the command line's options as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hjepa_eval.config import load
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.evaluate import evaluate as run_request
from hjepa_eval.evaluation.features import SPLITS, FeatureSet, Given, collect_features, resolve
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.probe import Probe, load_probe
from hjepa_eval.evaluation.request import PROFILE, read_profile_request, read_request
from hjepa_eval.evaluation.result import Compared, Result
from hjepa_eval.evaluation.settings import EvalSettings, ExtractCommandSettings, SearchSettings
from hjepa_eval.report.tables.model_pairs import compare_models
from hjepa_eval.report.tables.selection import locate, models_to_compare
from hjepa_eval.results.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from hjepa_eval.datasets.transform import Transform
    from hjepa_eval.evaluation.gallery.search import SearchResult
    from hjepa_eval.results.profiles import Profile

# A name as on the command line, an encoder, or with `layers` any module.
Model: TypeAlias = "str | Path | nn.Module"
# A name, or both splits: {"train": ..., "test": ...} or (train, test).
Dataset: TypeAlias = str | Path | Mapping[str, ImageDataset] | Sequence[ImageDataset]

_OF_THE_PROGRAM = ("json", "open", "verbose")
DEFAULT_PROBES = ("knn", "linear")


def evaluate(
    model: Model | Sequence[Model] | None = None,
    dataset: Dataset | None = None,
    *,
    probes: Sequence[str | Probe[Any]] = DEFAULT_PROBES,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Measure what each level of one or several encoders knows.

    What the cache has is not extracted again; it is the command line's cache.

    Args:
        model: a name as in `hjepa models`, an `Encoder`, any `nn.Module` with `layers`, or several; the newest finished
            run under `runs/` when not given.
        dataset: a name as in `hjepa datasets`, or two datasets, of train and of test; the one a run was pretrained on,
            else digits, when not given.
        probes: names, `FILE.py:PROBE`, or probes.
        layers: of modules: the named layers that are its levels.
        transform: of modules: how images become their input.
        out: folder to write records, outcomes and galleries to, as the command does; nothing is written without it.
        quiet: no progress, no notes.
        **options: those of `hjepa eval` by their names, such as `baselines=["none"]`, `seeds=[0, 1]`, `k=[5, 20]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    for name in _OF_THE_PROGRAM:
        if name in options:
            raise ConfigError(f"{name} is for the command line; result.save('report.html') or .to_pandas() gives more")
    names, given = _given(model, dataset, layers=layers, transform=transform)
    if PROFILE in probes:
        raise ConfigError("a profile is no probe with a score; hjepa.profile(model, dataset) returns it")
    declared = [probe if isinstance(probe, Probe) else load_probe(probe) for probe in probes]
    if not declared:
        raise ConfigError("probes is empty; give at least one, such as probes=['knn']")
    flags = {**_flags(dataset, options), "quiet": quiet, **({"model": names} if names else {})}
    request = read_request(EvalSettings, probes=declared, flags=flags | ({} if out is None else {"out": Path(out)}))
    request = replace(request, command=_spelled(names, dataset, [probe.name for probe in declared], options))
    talk = Stderr(quiet=quiet)
    with talk.job():
        return Result(run_request(request, talk, given=given, write=out is not None))


def extract(
    model: Model | None = None,
    dataset: Dataset | None = None,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    quiet: bool = False,
    **options: Any,
) -> FeatureSet:
    """Fill the cache with the features of every level and return where they are.

    Args:
        model: as in `evaluate`, one.
        dataset: as in `evaluate`.
        layers: as in `evaluate`.
        transform: as in `evaluate`.
        quiet: no progress, no notes.
        **options: those of `hjepa extract` by their names, such as `readout=["mean", "max"]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    names, given = _given(model, dataset, layers=layers, transform=transform)
    flags = {**_flags(dataset, options), "quiet": quiet, **({"model": names[0]} if names else {})}
    settings = load(ExtractCommandSettings, flags=flags)
    if given.images:
        settings = settings.model_copy(update={"dataset": given.images["train"].name})
    settings = resolve(settings)
    talk = Stderr(quiet=quiet)
    with talk.job():
        return collect_features(
            settings, talk, readouts=settings.readouts, views=settings.views, repair=True, costs=False, given=given
        )


def profile(
    model: Model | Sequence[Model] | None = None,
    dataset: Dataset | None = None,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> list[Profile]:
    """Return what each level of one or several encoders knows: factors, geometry, neighbours, how alike levels are.

    The models' profiles come first, those of their baselines after them.

    Args:
        model: as in `evaluate`.
        dataset: as in `evaluate`.
        layers: as in `evaluate`.
        transform: as in `evaluate`.
        out: folder to write the profiles to, as the command does; nothing is written without it.
        quiet: no progress, no notes.
        **options: those of `hjepa profile` by their names, such as `parts=["factors"]`, `changes=True`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    from hjepa_eval.evaluation.profile.profile import profile as run_profile

    if "json" in options:
        raise ConfigError("json is for the command line; a profile's .model_dump() gives more")
    names, given = _given(model, dataset, layers=layers, transform=transform)
    flags = {**_flags(dataset, options), "quiet": quiet, **({"model": names} if names else {})}
    models, settings = read_profile_request(flags=flags | ({} if out is None else {"out": Path(out)}))
    talk = Stderr(quiet=quiet)
    command = _spelled(names, dataset, (), options, function="profile")
    with talk.job():
        profiled = run_profile(models, settings, talk, given=given, write=out is not None, command=command)
    return [entry.profile for entry in profiled]


def search(
    images: str | Path | NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]],
    model: Model | None = None,
    dataset: Dataset | None = None,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    quiet: bool = False,
    **options: Any,
) -> SearchResult:
    """Return the train images nearest to one or several images at each level, with names, classes and cosines.

    Args:
        images: files, or uint8 arrays [H, W, 3] or [H, W].
        model: as in `evaluate`, one.
        dataset: as in `evaluate`; its train images are searched.
        layers: as in `evaluate`.
        transform: as in `evaluate`.
        quiet: no progress, no notes.
        **options: those of `hjepa search` by their names, such as `k=8`, `level=[2]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    from hjepa_eval.evaluation.gallery.search import search_images

    names, given = _given(model, dataset, layers=layers, transform=transform)
    flags = {**_flags(dataset, options), "quiet": quiet, **({"model": names[0]} if names else {})}
    settings = resolve(load(SearchSettings, flags=flags))
    queries: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
    talk = Stderr(quiet=quiet)
    with talk.job():
        return search_images(settings, queries, talk, given=given)


def compare(*results: Result | str | Path, models: Sequence[str] = (), dataset: str | None = None) -> Compared:
    """Compare models on the same images: paired tests from the outcome of every sample.

    Two models are compared probe by probe and level by level; more of them all with the best, each at the level that
    was chosen on train. Baselines are left aside unless they are named.

    Args:
        *results: results, records, or folders of records, one or several.
        models: only these, baselines among them too.
        dataset: only records of this one.

    Raises:
        ResultError: there is one model only, or none that fit together.
        UnknownNameError: a name fits no record.
    """
    sources = [entry.located if isinstance(entry, Result) else locate([Path(entry)]) for entry in results]
    sides = models_to_compare(sources, models=models, dataset=dataset)
    return Compared(compare_models(*sides) if len(sides) == 2 else (), [entry for side in sides for entry in side])


def read_records(paths: str | Path | Sequence[str | Path]) -> list[Record]:
    """Return the result records in files and folders, with everything needed to trust and repeat their numbers.

    Raises:
        ResultError: a path does not exist, or a file is no record.
    """
    several = [paths] if isinstance(paths, str | Path) else paths
    return [entry.record for entry in locate([Path(path) for path in several])]


def _spelled(
    names: Sequence[str],
    dataset: Dataset | None,
    probes: Sequence[str],
    options: Mapping[str, Any],
    *,
    function: str = "evaluate",
) -> str:
    """Return the call as records say it."""
    model = "" if not names else repr(names[0]) if len(names) == 1 else repr(list(names))
    data = repr(str(dataset)) if isinstance(dataset, str | Path) else "" if dataset is None else "dataset=..."
    named = [f"probes={list(probes)!r}"] if probes else []
    given = [*named, *(f"{name}={value!r}" for name, value in options.items())]
    return f"hjepa_eval.{function}({', '.join(part for part in (model, data, *given) if part)})"


def _flags(dataset: Dataset | None, options: Mapping[str, Any]) -> dict[str, Any]:
    named = {"dataset": str(dataset)} if isinstance(dataset, str | Path) else {}
    return {**options, **named}


def _given(
    model: Model | Sequence[Model] | None,
    dataset: Dataset | None,
    *,
    layers: Sequence[str],
    transform: Transform | None,
) -> tuple[list[str], Given]:
    """Return the models' names, and what of models and images the caller holds.

    Raises:
        ConfigError: layers of a model that is named, or no pair of datasets.
    """
    models: list[Any] = list(model) if isinstance(model, list | tuple) else [] if model is None else [model]
    names, encoders = [], {}
    for entry in models:
        if isinstance(entry, str | Path):
            if layers or transform is not None:
                raise ConfigError(f"layers and transform are for modules; of {entry} write ?layers= into its name")
            names.append(str(entry))
            continue
        encoder = _encoder(entry, layers=layers, transform=transform)
        if encoder.name in encoders:
            raise ConfigError(f"two models are called {encoder.name}; give each a .name of its own")
        encoders[encoder.name] = encoder
        names.append(encoder.name)
    return names, Given(encoders, _images(dataset))


def _encoder(module: nn.Module, *, layers: Sequence[str], transform: Transform | None) -> EncoderHandle:
    from hjepa_eval.encoders import load_encoder
    from hjepa_eval.encoders.protocol import Encoder

    if isinstance(module, Encoder) and not layers:
        return EncoderHandle.of(module)
    return EncoderHandle.of(load_encoder(module, layers=layers, transform=transform))


def _images(dataset: Dataset | None) -> dict[str, ImageDataset]:
    """Return both splits where datasets were given, and nothing where a name was.

    Raises:
        ConfigError: they are no pair.
    """
    if dataset is None or isinstance(dataset, str | Path):
        return {}
    named = dataset if isinstance(dataset, Mapping) else dict(zip(SPLITS, dataset, strict=False))
    if set(named) != set(SPLITS) or len(dataset) != 2 or not all(isinstance(x, ImageDataset) for x in named.values()):
        raise ConfigError("dataset is a name, (train, test) or {'train': ..., 'test': ...} of two ImageDataset objects")
    return dict(named)
