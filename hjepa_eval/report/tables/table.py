"""The table: result records in, rows of levels and columns of probes out, for every format to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hjepa_eval.report.tables.columns import rank
from hjepa_eval.report.tables.costs import conditions, timed_alike, untimed
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.standing import Standing, baseline_note, fallen_ranks
from hjepa_eval.results.records import CostEntry, LevelResult, Record, Score

# A level's number and, for levels joined, which: several of those may have one number.
Key = tuple[int, tuple[int, ...]]
_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Cell:
    """A score, and where it stands among its model's single levels in this column."""

    score: Score
    standing: Standing = field(default_factory=Standing)

    @property
    def mark(self) -> str:
        """`*` for the highest, `**` for one that is apart from the runner-up, else nothing."""
        return "**" if self.standing.apart else "*" if self.standing.best else ""


@dataclass(frozen=True)
class Row:
    """One level of one model, or all its levels `joined`; `cells` has None where a probe was not run.

    `cost` is that of an image up to here, None in records of before it was measured; `milliseconds` its time where it
    was measured under the conditions of the table's; `store_bytes` what the features of the train and test images take
    on disk; `baseline` says that the model is there to be beaten.
    """

    model: str
    level: int
    level_name: str
    width: int
    tokens: int
    cells: tuple[Cell | None, ...]
    joined: bool = False
    cost: CostEntry | None = None
    milliseconds: float | None = None
    store_bytes: int = 0
    baseline: bool = False

    @property
    def label(self) -> str:
        """The level's number; a plus sign for levels joined."""
        return "+" if self.joined else str(self.level)


@dataclass(frozen=True)
class Table:
    """What the records say about one dataset: models in the records' order, baselines after them.

    `timed` says under which conditions the times in it were measured; empty where there are none; `untimed` whose times
    are left out, in sentences that are among the notes too.
    """

    dataset: str
    train_images: int
    test_images: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    timed: str = ""
    untimed: tuple[str, ...] = ()


@dataclass
class _Level:
    """What is collected about one level: a record that has it, its cost from any record, its cells by column."""

    record: Record
    result: LevelResult
    cost: CostEntry | None = None
    cells: dict[str, Cell] = field(default_factory=dict)


def build_table(selection: Selection) -> Table:
    """Return the table of a selection."""
    columns: dict[str, None] = {}
    levels: dict[str, dict[Key, _Level]] = {label: {} for label in selection.labels.values()}
    for record in sorted(selection.records, key=rank):
        for level in record.levels:
            place = levels[selection.label(record)].setdefault((level.level, level.fused), _Level(record, level))
            place.cost = place.cost or level.cost
            for score in (score for score in level.scores if score.headline):
                column = selection.heading(record, score)
                columns[column] = None
                place.cells[column] = Cell(score, selection.standing(record, level, score))
    shown = {model: sorted(each.items(), key=lambda item: item[0]) for model, each in levels.items()}
    costs = {model: [found.cost for _, found in each if found.cost] for model, each in shown.items()}
    timed = timed_alike(costs)
    rows = tuple(
        _row(model, found, tuple(columns), timed=timed, beaten=selection.beaten(found.record))
        for model, each in shown.items()
        for _, found in each
        if found.cells
    )
    info = selection.data
    others = tuple(untimed(costs, timed))
    records = selection.records
    notes = (*fallen_ranks(records), *_notes(records), *selection.left_out, *baseline_note(records), *others)
    return Table(info.name, info.train_images, info.test_images, tuple(columns), rows, notes, timed, others)


def _row(model: str, found: _Level, columns: tuple[str, ...], *, timed: str, beaten: bool) -> Row:
    level, cost = found.result, found.cost
    return Row(
        model,
        level.level,
        level.name,
        level.width,
        level.tokens,
        tuple(found.cells.get(column) for column in columns),
        joined=bool(level.fused),
        cost=cost,
        milliseconds=cost.milliseconds if cost is not None and conditions(cost) == timed else None,
        store_bytes=store_bytes(found.record, level),
        baseline=beaten,
    )


def store_bytes(record: Record, level: LevelResult) -> int:
    """Return how many bytes the level's features of the record's train and test images take."""
    images = record.dataset.train_images + record.dataset.test_images
    return level.width * _BYTES.get(record.extraction.storage, 4) * images


def data_notes(records: Sequence[Record]) -> tuple[str, ...]:
    """Return what a reader must know of the images: which part of a data set they are, and what is missing."""
    notes: dict[str, None] = {}
    for record in records:
        data, limit = record.dataset, record.provenance.settings.get("max_samples")
        notes |= dict.fromkeys(data.notes)
        if limit is not None and max(data.train_images, data.test_images) + data.skipped_images >= limit:
            notes[f"--max-samples {limit}: at most {limit:,} images of a split are used"] = None
        if data.skipped_images:
            notes[f"{data.skipped_images} unreadable images were skipped"] = None
    return tuple(notes)


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    """Return every note of images and levels once."""
    return tuple(dict.fromkeys((*data_notes(records), *level_notes(records))))


def level_notes(records: Sequence[Record]) -> tuple[str, ...]:
    """Return every note of levels once; one that holds for all levels of a record does not name them."""
    notes: dict[str, None] = {}
    for record in records:
        for note in dict.fromkeys(note for level in record.levels for note in level.notes):
            places = ["joined" if level.fused else str(level.level) for level in record.levels if note in level.notes]
            every = len(places) == len(record.levels)
            where = "" if every else f" level {places[0]}" if len(places) == 1 else f" levels {', '.join(places)}"
            notes[f"{record.model.title}{where}, {record.probe}: {note}"] = None
    return tuple(notes)


def caption(table: Table) -> str:
    """Return what the table is about."""
    return f"{table.dataset}: {table.train_images:,} train and {table.test_images:,} test images"
