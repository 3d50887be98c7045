"""Profile: from names to profiles of models and their baselines, on one data set, part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.features import FeatureSet, Filling, collect_features
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.baselines import models_and_baselines
from hjepa_eval.evaluation.models.given import NOTHING_GIVEN, Given, find_encoder
from hjepa_eval.evaluation.models.imported import imported_features
from hjepa_eval.evaluation.profile.factors import probe_factors
from hjepa_eval.evaluation.profile.geometry import measure_geometry
from hjepa_eval.evaluation.profile.knowledge import Knowledge, gather_knowledge
from hjepa_eval.evaluation.profile.level_map import View, join_levels, map_levels
from hjepa_eval.evaluation.profile.neighbours import Stranger, measure_neighbours
from hjepa_eval.evaluation.rows import LevelRow, level_rows, superclass_name
from hjepa_eval.evaluation.settings import ProfileSettings
from hjepa_eval.features.cache import default_cache_dir, memo_dir
from hjepa_eval.features.imported import is_imported
from hjepa_eval.results.files import check_folder
from hjepa_eval.results.profile_files import write_profile
from hjepa_eval.results.profiles import LeftOut, LevelProfile, Profile
from hjepa_eval.results.provenance import make_provenance


@dataclass(frozen=True)
class Profiled:
    """A profile, and the file that it was written to, if any."""

    profile: Profile
    path: Path | None = None


class _Inside(Talk):
    """Says what a user must know, and shows no stages: those of 77 extractions are one stage, the changes."""

    def __init__(self, outer: Talk) -> None:
        """Say it through `outer`."""
        super().__init__(quiet=outer.quiet, leader=outer.leader)
        self._outer = outer

    def alert(self, message: str) -> None:
        """Say one line."""
        self._outer.alert(message)


@dataclass
class _Work:
    """What the profiles of one command share, and what earlier ones leave to later ones."""

    settings: ProfileSettings
    talk: Talk
    given: Given
    command: str = ""
    knowledge: dict[str, Knowledge] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)
    reference: Mapping[str, Sequence[float]] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, model: str) -> Iterator[Any]:
        """Run a part, shown as a stage, and note how long it takes."""
        started = time.perf_counter()
        with self.talk.progress(f"{name} of {model}", "", stage=name) as report:
            yield report
        self.seconds[name] = time.perf_counter() - started


def profile(
    models: Sequence[str],
    settings: ProfileSettings,
    talk: Talk,
    *,
    given: Given = NOTHING_GIVEN,
    write: bool = True,
    command: str = "",
) -> list[Profiled]:
    """Return the profiles of models, then of their baselines; each is written as soon as it is there.

    Baselines are measured first: levels are compared with theirs, and errors under changes with those of k-means.

    Args:
        models: as asked for; none for the newest finished run.
        settings: what to measure.
        talk: told about progress.
        given: encoders and images that the caller holds.
        write: write profiles into the folder `out`.
        command: what asked for it; empty for the program's own command line.

    Raises:
        HjepaError: anything that the user can mend; what was written stays.
    """
    if write:
        check_folder(settings.out)
    resolved = models_and_baselines(models, settings, talk, given)
    # What cannot be read ends here, before any work.
    superclass_name(settings.superclasses)
    if settings.ood is not None:
        _other_images(settings)
    own_models = set(list(resolved)[: max(1, len(set(models)))])
    order = sorted(resolved, key=lambda spec: spec in own_models)
    for spec in own_models - set(given.encoders):
        if not is_imported(spec):
            find_encoder(resolved[spec], images=given.images)  # A name that is none ends here, before the baselines.
    work = _Work(settings, talk, given, command)
    profiled: dict[str, Profiled] = {}
    for spec in order:
        made = _profile(resolved[spec], work, baseline=spec not in own_models)
        profiled[spec] = Profiled(made, write_profile(made, settings.out) if write else None)
    return [profiled[spec] for spec in resolved]


def _profile(own: ProfileSettings, work: _Work, *, baseline: bool) -> Profile:
    """Return the profile of one model."""
    work.seconds = {}
    features = _features(own, work)
    rows = level_rows(features, fuse=True)
    single = [row for row in rows if not row.fused]
    knowledge = _knowledge(own, features, work)
    parts, left_out = own.all_parts, list[LeftOut]()
    level_parts = {row.level: _empty(row) for row in rows}
    made: dict[str, Any] = {}
    model = features.encoder.name
    if "factors" in parts:
        with work.part("factors", model) as report:
            scores, made["factor_tests"] = probe_factors(
                rows, knowledge, images=own.images, seed=own.seed, report=report
            )
        _update(level_parts, {level: {"factors": entries} for level, entries in scores.items()})
    if "geometry" in parts:
        with work.part("geometry", model):
            _update(level_parts, {row.level: {"geometry": measure_geometry(row)} for row in single})
    if "neighbours" in parts:
        _update(level_parts, _neighbours(own, single, knowledge, work))
    if "map" in parts:
        made |= _map(own, single, work, left_out, baseline=baseline)
    if "changes" in parts:
        made |= _changes(own, single, work, left_out, level_parts)
    return Profile(
        baseline=baseline,
        parts=parts,
        parameters=_parameters(own, knowledge),
        model=features.encoder,
        dataset=features.dataset_info(),
        extraction=features.extracted(),
        levels=tuple(level_parts[row.level] for row in rows),
        left_out=(*knowledge.left_out, *left_out),
        provenance=make_provenance(
            seed=own.seed,
            device=features.device,
            settings=own.model_dump(mode="json", by_alias=True),
            seconds={**features.seconds, **work.seconds},
            command=work.command,
        ),
        **made,
    )


def _features(own: ProfileSettings, work: _Work) -> FeatureSet:
    if is_imported(str(own.model)):
        return imported_features(own, work.talk, readouts=(own.readout,), views=0, needs_test="a profile")
    return collect_features(own, work.talk, readouts=(own.readout,), costs=False, repair=True, given=work.given)


def _knowledge(own: ProfileSettings, features: FeatureSet, work: _Work) -> Knowledge:
    """Return what is known of the images; facts go through the cache as any encoder's features do."""
    facts = None
    if features.images and "factors" in own.all_parts:
        about = own.model_copy(update={"model": "facts", "level": (), "readout": "mean"})
        facts = collect_features(
            about, work.talk, readouts=("mean",), costs=False, repair=True, given=Given(images=work.given.images)
        )
    return gather_knowledge(features, facts, superclasses=own.superclasses)


def _empty(row: LevelRow) -> LevelProfile:
    return LevelProfile(level=row.level, name=row.name, width=row.width, tokens=row.tokens, fused=row.fused)


def _update(levels: dict[int, LevelProfile], parts: Mapping[int, Mapping[str, Any]]) -> None:
    for level, values in parts.items():
        levels[level] = levels[level].model_copy(update=dict(values))


def _neighbours(
    own: ProfileSettings, rows: Sequence[LevelRow], knowledge: Knowledge, work: _Work
) -> dict[int, dict[str, Any]]:
    strangers = {}
    if own.ood is not None and not is_imported(str(own.model)):
        strangers = _strangers(own, rows, work)
    elif own.ood is not None:
        raise ConfigError(f"--ood {own.ood}: {own.model} has features only, and no images can be shown to it")
    with work.part("neighbours", str(own.model)):
        return {
            row.level: {
                "neighbours": measure_neighbours(row, knowledge, group=own.group, stranger=strangers.get(row.level))
            }
            for row in rows
        }


def _other_images(own: ProfileSettings) -> ImageDataset:
    memo = memo_dir(own.cache_dir or default_cache_dir())
    return load_dataset(str(own.ood), "test", root=own.root, download=own.download, memo=memo)


def _strangers(own: ProfileSettings, rows: Sequence[LevelRow], work: _Work) -> dict[int, Stranger]:
    """Return the test images of another data set by level; the encoder's own transform brings them to its size."""
    images = _other_images(own)
    if images.fingerprint == rows[0].features.images["test"].fingerprint:
        raise ConfigError(f"--ood {own.ood} is the dataset itself; name one of another kind")
    fill = Filling(work.given.encoder(own), (own.readout,), own, work.talk, True)
    stores = fill(images)[own.readout]
    return {row.level: Stranger(images.name, stores.store.features(row.level, limit=stores.limit)) for row in rows}


def _map(
    own: ProfileSettings, rows: Sequence[LevelRow], work: _Work, left_out: list[LeftOut], *, baseline: bool
) -> dict[str, Any]:
    views = [View.of(row) for row in rows]
    made: dict[str, Any] = {}
    with work.part("map", str(own.model)) as report:
        # Baselines are compared with models, not with each other.
        others = () if baseline else work.views
        made["level_map"] = map_levels(views, others, further=own.map_measures, report=report)
        if len(rows) > 1:
            made["joining"] = join_levels(rows, images=own.images)
        else:
            left_out.append(LeftOut(name="joining", reason="there is one level only"))
    work.views += views
    same = [pair for pair in made["level_map"] if pair.identical and not pair.other_model]
    for pair in same:
        work.talk.note(
            f"{own.model}: levels {pair.first} and {pair.second} are identical; one of them says nothing new"
        )
    return made


def _changes(
    own: ProfileSettings,
    rows: Sequence[LevelRow],
    work: _Work,
    left_out: list[LeftOut],
    levels: dict[int, LevelProfile],
) -> dict[str, Any]:
    from hjepa_eval.evaluation.profile.changes import measure_changes

    if is_imported(str(own.model)):
        left_out.append(LeftOut(name="changes", reason="features have no images to change"))
        return {}
    fill = Filling(work.given.encoder(own), (own.readout,), own, _Inside(work.talk), True)
    with work.part("changes", str(own.model)) as report:
        changed = measure_changes(
            rows,
            fill,
            readout=own.readout,
            count=own.change_images,
            images=own.images,
            seed=own.seed,
            report=report,
        )
    if str(own.model).partition(":")[0].partition("?")[0] == "kmeans":
        work.reference = changed.errors[rows[0].level]
    if work.reference is None:
        left_out.append(LeftOut(name="mean corruption error", reason="k-means is not among the baselines"))
    for row in rows:
        error = None if work.reference is None else changed.corruption_error(row.level, work.reference)
        geometry = (*levels[row.level].geometry, changed.alignment[row.level])
        update = {"changes": changed.scores[row.level], "corruption_error": error, "geometry": geometry}
        levels[row.level] = levels[row.level].model_copy(update=update)
    for note in changed.notes:
        work.talk.note(f"{own.model}: {note}")
    return {"verdict": changed.verdict, "notes": changed.notes}


def _parameters(own: ProfileSettings, knowledge: Knowledge) -> dict[str, Any]:
    """Return all that changes a number and is not of model, images or extraction."""
    changed: dict[str, Any] = {"change_images": own.change_images} if "changes" in own.all_parts else {}
    if "map" in own.all_parts and own.map_measures:
        changed["map_measures"] = own.map_measures
    return {
        "images": own.images,
        **changed,
        "ood": own.ood,
        "group": own.group,
        "superclasses": superclass_name(own.superclasses),
        "factors": knowledge.identity,
    }
