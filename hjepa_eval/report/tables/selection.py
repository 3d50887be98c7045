"""Which records a report is of and what is shown of them: each number once, the newest of two, of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hjepa_eval.errors import ResultError, first_few, unknown
from hjepa_eval.report.tables.columns import (
    ColumnKey,
    Variant,
    column_keys,
    column_names,
    label_variants,
    rank,
    variant,
)
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.standing import (
    Standing,
    baselines_among,
    baselines_last,
    is_baseline,
    is_twin_of_another,
    standings,
)
from hjepa_eval.results.files import read_record, record_files
from hjepa_eval.results.records import DatasetInfo, LevelResult, Record, Score

Shown = TypeVar("Shown", Record, Located)
# Images, model, level with the levels joined in it, column.
_Place = tuple[tuple[str | int, ...], Variant, int, tuple[int, ...], ColumnKey]


@dataclass(frozen=True)
class Selection:
    """Records of the same images as they are shown; every format of a report is made from one.

    Models come in the order given and baselines after them, the probes of a model as in the columns.

    Attributes:
        located: the records to show. One whose numbers all stand in another is not among them, and of two that give a
            place in the table different numbers the older one is not: the numbers of a column are compared with each
            other, so they are not taken from both.
        labels: heading of each model's rows.
        baselines: names of the encoders that are there to be beaten.
        left_out: a sentence about every record that is not shown because a newer one says otherwise.
        heading: (record, headline score) -> heading of its column.
        standing: (record, level, score) -> where the score stands among the levels of its model.
    """

    located: tuple[Located, ...]
    labels: Mapping[Variant, str]
    baselines: frozenset[str]
    left_out: tuple[str, ...]
    heading: Callable[[Record, Score], str]
    standing: Callable[[Record, LevelResult, Score], Standing]

    @property
    def records(self) -> list[Record]:
        """The records to show."""
        return [each.record for each in self.located]

    @property
    def data(self) -> DatasetInfo:
        """The images that all records share."""
        return self.located[0].record.dataset

    def label(self, record: Record) -> str:
        """Return the heading of a record's rows."""
        return self.labels[variant(record)]

    def beaten(self, record: Record) -> bool:
        """Return whether a record is of a baseline."""
        return record.model.name in self.baselines

    def by_model(self) -> dict[str, list[Located]]:
        """Return heading -> the records of each model."""
        models: dict[str, list[Located]] = {label: [] for label in self.labels.values()}
        for each in self.located:
            models[self.label(each.record)].append(each)
        return models


def select(located: Sequence[Located]) -> Selection:
    """Return the selection of records that share their images.

    Raises:
        ResultError: there are none, or they do not belong in one table.
    """
    if not located:
        raise ResultError("no result records to show; hjepa eval writes some")
    given = [each.record for each in located]
    check_same_data(given)
    newer = _newer(given)
    shown = baselines_last([located[place] for place in _shown(given, newer)])
    models = list(dict.fromkeys(variant(each.record) for each in shown))
    shown.sort(key=lambda each: (models.index(variant(each.record)), rank(each.record)))
    records = [each.record for each in shown]
    return Selection(
        tuple(shown),
        label_variants(records),
        baselines_among(record.model.name for record in records),
        tuple(_said(given, newer)),
        column_names(records),
        standings(records),
    )


def select_records(records: Sequence[Record]) -> Selection:
    """Return the selection of records whose per-sample outcomes nobody will ask for.

    Raises:
        ResultError: as `select`.
    """
    return select([Located(record, Path()) for record in records])


def by_data(records: Sequence[Shown]) -> list[list[Shown]]:
    """Return records, located or not, in groups that share their images, in order of appearance."""
    groups: dict[tuple[str | int, ...], list[Shown]] = {}
    for each in records:
        record = each.record if isinstance(each, Located) else each
        groups.setdefault(record.dataset.key, []).append(each)
    return list(groups.values())


def left_out(records: Sequence[Record]) -> list[str]:
    """Return a sentence about every record of any images that is not shown because a newer one says otherwise."""
    return _said(records, _newer(records))


def _said(records: Sequence[Record], newer: Mapping[int, int]) -> list[str]:
    sentences = (
        f"{records[old].model.title}, {records[old].probe}: the record of {records[new].provenance.created} is "
        f"shown, one of {records[old].provenance.created} with other numbers is left out"
        for old, new in sorted(newer.items())
    )
    return list(dict.fromkeys(sentences))


def _places(records: Sequence[Record]) -> list[dict[_Place, Score]]:
    column = column_keys(records)
    return [
        {
            (record.dataset.key, variant(record), level.level, level.fused, column(record, score)): score
            for level in record.levels
            for score in level.scores
        }
        for record in records
    ]


def _newer(records: Sequence[Record]) -> dict[int, int]:
    """Return record -> the newer record that gives one of its places another number."""
    places = _places(records)
    by_age = sorted(range(len(records)), key=lambda place: (records[place].provenance.created, place), reverse=True)
    owner: dict[_Place, int] = {}
    found = {}
    for number in by_age:
        other = [p for p, score in places[number].items() if p in owner and places[owner[p]][p] != score]
        if other:
            found[number] = owner[other[0]]
        else:
            owner |= {place: number for place in places[number] if place not in owner}
    return found


def _shown(records: Sequence[Record], newer: Mapping[int, int]) -> list[int]:
    """Return the places of the records that are neither older nor part of another."""
    places = _places(records)
    kept: list[int] = []
    # The larger first, so that a part is found in its whole; of equal ones the first given.
    for number in sorted(set(range(len(records))) - set(newer), key=lambda place: (-len(places[place]), place)):
        if not any(places[number].keys() <= places[other].keys() for other in kept):
            kept.append(number)
    return sorted(kept)


def check_same_data(records: Sequence[Record]) -> None:
    """Check that records belong in one table.

    Raises:
        ResultError: they are of different images, or of different versions of a protocol; the message says which.
    """
    data = {record.dataset.key: record.dataset for record in records}
    if len(data) > 1:
        names = {info.name for info in data.values()}
        advice = "name one with --dataset" if len(names) == len(data) else "name the files of one"
        raise ResultError(f"one table or page cannot mix datasets: {first_few(map(_images, data.values()))}; {advice}")
    check_versions(records)


def check_versions(records: Sequence[Record], files: Sequence[Path] = ()) -> None:
    """Check that records of the same images and protocol are of one version of it.

    Args:
        records: of any images.
        files: where each was read, for the message.

    Raises:
        ResultError: they are not; the message names both models, files and versions.
    """
    found: dict[tuple, tuple[int, str]] = {}
    for place, record in enumerate(records):
        where = f" in {files[place]}" if files else ""
        said = f"version {record.protocol_version} of {record.model.name}{where}"
        version, other = found.setdefault((record.dataset.key, record.protocol), (record.protocol_version, said))
        if version != record.protocol_version:
            raise ResultError(
                f"one table cannot mix versions of the protocol {record.protocol}: {other}, {said}; "
                "run the older one again, or name the files to show"
            )


def _images(info: DatasetInfo) -> str:
    return f"{info.name} ({info.train_images:,} train, {info.test_images:,} test images, {info.test_fingerprint[:8]})"


def locate(paths: Sequence[Path]) -> list[Located]:
    """Return the records in files and folders, each with where it was read.

    Raises:
        ResultError: a path does not exist, a file is no record, or there are none at all.
    """
    return [Located(read_record(file), file.parent, file) for file in record_files(paths)]


def keep(located: Sequence[Located], *, dataset: str | None = None, models: Sequence[str] = ()) -> list[Located]:
    """Return the records of a dataset and of models; baselines stay beside models unless one of them is named.

    Raises:
        UnknownNameError: a name fits no record; the message lists what there is.
    """
    if dataset is not None:
        names = list(dict.fromkeys(each.record.dataset.name for each in located))
        if dataset not in names:
            raise unknown("dataset in these records", dataset, names)
        located = [each for each in located if each.record.dataset.name == dataset]
    if not models:
        return list(located)
    titles = {each.record.model.title: each.record.model.name for each in located}
    names = list(dict.fromkeys(each.record.model.name for each in located))
    models = [titles.get(model, model) for model in models]
    for model in models:
        if model not in names:
            raise unknown("model in these records", model, names)
    return [each for each in located if _stays(each.record.model.name, models, names)]


def _stays(name: str, wanted: Sequence[str], names: Sequence[str]) -> bool:
    if name in wanted or not is_baseline(name) or any(is_baseline(model) for model in wanted):
        return name in wanted
    # The untrained twin of a model that is left out goes with it.
    return any(not is_twin_of_another(name, model, names) for model in wanted)


def models_to_compare(
    sources: Sequence[Sequence[Located]], *, models: Sequence[str] = (), dataset: str | None = None
) -> list[list[Located]]:
    """Return the records of each model in view, baselines aside unless they are named or all that a source has.

    Args:
        sources: the records of each file or folder; what is a baseline depends on what lies beside it.
        models: only these.
        dataset: only records of this one.

    Raises:
        UnknownNameError: a name fits no record.
        ResultError: there is one model only.
    """
    keep([each for source in sources for each in source], dataset=dataset, models=models)  # Refuses unknown names.
    sides: list[list[Located]] = []
    for source in sources:
        beaten = frozenset() if models else baselines_among(each.record.model.name for each in source)
        sides += _by_variant(
            each
            for each in source
            if each.record.model.name not in beaten
            and (not models or each.record.model.name in models)
            and dataset in (None, each.record.dataset.name)
        )
    if len(sides) != len(sources) or len(sources) != 2:  # Two files of one model are compared as they are given.
        # A file named twice is one record: tests made twice would count twice in Holm's p.
        sides = _by_variant({each.path or id(each): each for side in sides for each in side}.values())
    if models:
        sides.sort(key=lambda side: list(models).index(side[0].record.model.name))
    if len(sides) < 2:
        names = first_few(dict.fromkeys(side[0].record.model.name for side in sides))
        raise ResultError(
            f"one model is in view ({names or 'none'}), and it takes two to compare; name more files or folders, or "
            "baselines with --model"
        )
    return sides


def _by_variant(located: Iterable[Located]) -> list[list[Located]]:
    groups: dict[Variant, list[Located]] = {}
    for each in located:
        groups.setdefault(variant(each.record), []).append(each)
    return list(groups.values())
