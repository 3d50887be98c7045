"""The table: result records in, rows of levels and columns of probes out, for every format to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.results import LevelResult, Record, Score, check_same_data

PROBE_ORDER = ("knn", "linear", "fewshot")
Place = tuple[str, int, str]
Variant = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """A score, and whether it is the highest of its model in this column."""

    score: Score
    best: bool


@dataclass(frozen=True)
class Row:
    """One level of one model; `cells` has one entry per column, None where a probe was not run."""

    model: str
    level: int
    level_name: str
    width: int
    tokens: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """What the records say about one dataset, in the order of the records' models."""

    dataset: str
    train_images: int
    test_images: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def column_name(record: Record, score: Score) -> str:
    """Return the heading under which a headline score stands."""
    parameters = score.parameters
    if record.probe == "knn":
        return f"kNN k={parameters['k']}"
    if record.probe == "fewshot":
        return f"{parameters['ways']}-way {parameters['shots']}-shot"
    return record.probe


def build_table(records: Sequence[Record]) -> Table:
    """Return the table of records that share a dataset.

    Raises:
        ResultError: the records do not belong in one table.
    """
    check_same_data(records)
    labels = _label_models(records)
    columns: dict[str, None] = {}
    found: dict[Place, Score] = {}
    levels: dict[str, dict[int, LevelResult]] = {labels[_variant(record)]: {} for record in records}
    for record in sorted(records, key=lambda record: _rank(record.probe)):
        model = labels[_variant(record)]
        for level in record.levels:
            for score in level.scores:
                if score.headline:
                    column = column_name(record, score)
                    columns[column] = None
                    levels[model][level.level] = level
                    found[model, level.level, column] = score
    rows = tuple(
        Row(
            model,
            level.level,
            level.name,
            level.width,
            level.tokens,
            tuple(_cell(found, model, level.level, column, list(levels[model])) for column in columns),
        )
        for model in levels
        for level in sorted(levels[model].values(), key=lambda item: item.level)
    )
    info = records[0].dataset
    return Table(info.name, info.train_images, info.test_images, tuple(columns), rows, _notes(records))


def _variant(record: Record) -> Variant:
    """Return what makes a record's rows its own: the encoder, and how its features were made and measured."""
    extraction = record.extraction
    seed = f"seed {record.provenance.seed}"
    return record.model.name, (f"weights {record.model.weights[:8]}", extraction.readout, extraction.precision, seed)


def _label_models(records: Sequence[Record]) -> dict[Variant, str]:
    """Return the heading of each variant: its name, and whatever differs among variants of that name."""
    variants = list(dict.fromkeys(_variant(record) for record in records))
    labels = {}
    for name, details in variants:
        rivals = [other for rival, other in variants if rival == name]
        differing = [detail for place, detail in enumerate(details) if len({other[place] for other in rivals}) > 1]
        labels[name, details] = f"{name} ({', '.join(differing)})" if differing else name
    return labels


def _rank(probe: str) -> int:
    return PROBE_ORDER.index(probe) if probe in PROBE_ORDER else len(PROBE_ORDER)


def _cell(found: dict[Place, Score], model: str, level: int, column: str, levels: list[int]) -> Cell | None:
    score = found.get((model, level, column))
    if score is None:
        return None
    rivals = [found[model, other, column].value for other in levels if (model, other, column) in found]
    return Cell(score, best=len(rivals) > 1 and score.value == max(rivals))


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    notes: dict[str, None] = {}
    for record in records:
        for note in record.dataset.notes:
            notes[note] = None
        if record.dataset.skipped_images:
            notes[f"{record.dataset.skipped_images} unreadable images were skipped"] = None
        for level in record.levels:
            for note in level.notes:
                notes[f"{record.model.name} level {level.level}, {record.probe}: {note}"] = None
    return tuple(notes)


def percent(score: Score) -> str:
    """Return `97.2`."""
    return f"{100 * score.value:.1f}"


def interval(score: Score) -> str:
    """Return `94.9-98.5`, the 95 % interval in percent."""
    return f"{100 * score.low:.1f}-{100 * score.high:.1f}"
