"""The Python face beside `evaluate`: extract, profile, search, compare and read, as the commands of these names do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hjepa_eval.config import load
from hjepa_eval.evaluation.features import FeatureSet, collect_features
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.live.stages import extraction_stages
from hjepa_eval.evaluation.models.given import NOTHING_GIVEN, Dataset, Given, Model, read_call, resolve
from hjepa_eval.evaluation.request import ProfileRequest, read_profile_request
from hjepa_eval.evaluation.result import Compared, Result
from hjepa_eval.evaluation.settings import ExtractCommandSettings, SearchSettings
from hjepa_eval.report.tables.model_pairs import compare_models
from hjepa_eval.report.tables.selection import locate, models_to_compare
from hjepa_eval.results.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hjepa_eval.datasets.transform import Transform
    from hjepa_eval.evaluation.gallery.search import SearchResult
    from hjepa_eval.results.profiles import Profile

SettingsT = TypeVar("SettingsT", ExtractCommandSettings, SearchSettings)


def extract(
    model: Model | None = None,
    dataset: Dataset | None = None,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    quiet: bool = False,
    settings: ExtractCommandSettings | None = None,
    talk: Talk | None = None,
    **options: Any,
) -> FeatureSet:
    """Fill the cache with the features of every level and return where they are.

    Args:
        model: as in `evaluate`, one.
        dataset: as in `evaluate`.
        layers: as in `evaluate`.
        transform: as in `evaluate`.
        quiet: no progress, no notes.
        settings: instead of all of the above: what to extract, as the command reads it from its options.
        talk: told about progress; stderr or the notebook when not given.
        **options: those of `hjepa extract` by their names, such as `readout=["mean", "max"]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    given = NOTHING_GIVEN
    if settings is None:
        call = read_call(model, dataset, options, layers=layers, transform=transform, quiet=quiet)
        settings, given = load(ExtractCommandSettings, flags=call.flags | call.model), call.given
    settings, talk = _resolved(settings, given), talk or Stderr(quiet=settings.quiet)
    with talk.job():
        talk.plan(extraction_stages(settings, views=settings.views))
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
    request: ProfileRequest | None = None,
    talk: Talk | None = None,
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
        request: instead of all of the above: what to profile, as commands read it from their options.
        talk: told about progress; stderr or the notebook when not given.
        **options: those of `hjepa profile` by their names, such as `parts=["factors"]`, `changes=True`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    from hjepa_eval.evaluation.profile.profile import profile as run_profile

    given, write, command = NOTHING_GIVEN, True, ""
    if request is None:
        call = read_call(model, dataset, options, layers=layers, transform=transform, quiet=quiet)
        flags = {**call.flags, **({"model": list(call.models)} if call.models else {})}
        request = read_profile_request(flags=flags | ({} if out is None else {"out": Path(out)}))
        given, write, command = call.given, out is not None, f"hjepa_eval.profile{call.spelled}"
    talk = talk or Stderr(quiet=request.settings.quiet)
    with talk.job():
        profiled = run_profile(request.models, request.settings, talk, given=given, write=write, command=command)
    for entry in profiled if write else ():
        talk.note(f"written: {entry.path}")
    return [entry.profile for entry in profiled]


def search(
    images: str | Path | NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]],
    model: Model | None = None,
    dataset: Dataset | None = None,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    pictures: bool = False,
    quiet: bool = False,
    settings: SearchSettings | None = None,
    talk: Talk | None = None,
    **options: Any,
) -> SearchResult:
    """Return the train images nearest to one or several images at each level, with names, classes and cosines.

    Args:
        images: files, or uint8 arrays [H, W, 3] or [H, W].
        model: as in `evaluate`, one.
        dataset: as in `evaluate`; its train images are searched.
        layers: as in `evaluate`.
        transform: as in `evaluate`.
        pictures: with small copies of all images that the answer has.
        quiet: no progress, no notes.
        settings: instead of model, dataset and options: what to search, as the command reads it from its options.
        talk: told about progress; stderr or the notebook when not given.
        **options: those of `hjepa search` by their names, such as `k=8`, `level=[2]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line.
    """
    from hjepa_eval.evaluation.gallery.search import search_images

    given = NOTHING_GIVEN
    if settings is None:
        call = read_call(model, dataset, options, layers=layers, transform=transform, quiet=quiet)
        settings, given = load(SearchSettings, flags=call.flags | call.model), call.given
    settings, talk = _resolved(settings, given), talk or Stderr(quiet=settings.quiet)
    queries: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
    with talk.job():
        return search_images(settings, queries, talk, given=given, pictures=pictures)


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


def _resolved(settings: SettingsT, given: Given) -> SettingsT:
    """Return settings with every default filled in; datasets in hand have their own name."""
    if given.images:
        settings = settings.model_copy(update={"dataset": given.images["train"].name})
    return resolve(settings)
