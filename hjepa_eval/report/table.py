"""The table: result records in, rows of levels and columns of probes out, for every format to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.results import LevelResult, Record, Score, check_same_data

PROBE_ORDER = ("knn", "linear", "fewshot")
Model = tuple[str, str]
Place = tuple[Model, int, str]


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
    ordered = sorted(records, key=lambda record: _rank(record.probe))
    headlines = [(record, level, score) for record in ordered for level in record.levels for score in level.scores]
    headlines = [item for item in headlines if item[2].headline]
    columns = tuple(dict.fromkeys(column_name(record, score) for record, _, score in headlines))
    models = list(dict.fromkeys((record.model.name, record.model.weights) for record in records))
    found: dict[Place, Score] = {}
    levels: dict[Model, dict[int, LevelResult]] = {model: {} for model in models}
    for record, level, score in headlines:
        model = (record.model.name, record.model.weights)
        levels[model][level.level] = level
        found[model, level.level, column_name(record, score)] = score
    rows = tuple(
        Row(
            model[0],
            level.level,
            level.name,
            level.width,
            level.tokens,
            tuple(_cell(found, model, level.level, column, list(levels[model])) for column in columns),
        )
        for model in models
        for level in sorted(levels[model].values(), key=lambda item: item.level)
    )
    info = records[0].dataset
    return Table(info.name, info.train_images, info.test_images, columns, rows, _notes(records))


def _rank(probe: str) -> int:
    return PROBE_ORDER.index(probe) if probe in PROBE_ORDER else len(PROBE_ORDER)


def _cell(found: dict[Place, Score], model: Model, level: int, column: str, levels: list[int]) -> Cell | None:
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
