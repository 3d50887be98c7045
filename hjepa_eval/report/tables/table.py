"""The table: result records in, rows of levels and columns of probes out, for every format to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hjepa_eval.report.tables.columns import column_names, label_variants, rank, variant
from hjepa_eval.report.tables.selection import arrange, check_same_data, left_out
from hjepa_eval.report.tables.standing import RunnerUp, Standing, baseline_note, baselines_among, standings
from hjepa_eval.results.records import LevelCost, LevelResult, Record, Score

# A level's number and, for levels joined, which: several of those may have one number.
Key = tuple[int, tuple[int, ...]]
_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Cell:
    """A score, and where it stands among its model's single levels in this column.

    Attributes:
        score: the number.
        best: whether it is the highest of them; False where there is one level only.
        delta: the score minus that of the model's last single level; None for that one, one level and levels joined.
        runner_up: of the highest, the paired test against the second; None where the record has none.
    """

    score: Score
    best: bool
    delta: float | None = None
    runner_up: RunnerUp | None = None

    @property
    def apart(self) -> bool:
        """Whether the paired test tells the highest level from the runner-up: Holm p below 0.05."""
        return Standing(self.best, self.delta, self.runner_up).apart

    @property
    def mark(self) -> str:
        """`*` for the highest, `**` for one that is apart from the runner-up, else nothing."""
        return "**" if self.apart else "*" if self.best else ""


@dataclass(frozen=True)
class Row:
    """One level of one model, or all its levels `joined`; `cells` has None where a probe was not run.

    `cost` is that of an image up to here, None in records of before it was measured; `store_bytes` what the features
    of the train and test images take on disk; `baseline` says that the model is there to be beaten.
    """

    model: str
    level: int
    level_name: str
    width: int
    tokens: int
    cells: tuple[Cell | None, ...]
    joined: bool = False
    cost: LevelCost | None = None
    store_bytes: int = 0
    baseline: bool = False

    @property
    def label(self) -> str:
        """The level's number; a plus sign for levels joined."""
        return "+" if self.joined else str(self.level)


@dataclass(frozen=True)
class Table:
    """What the records say about one dataset: models in the records' order, baselines after them."""

    dataset: str
    train_images: int
    test_images: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass
class _Level:
    """What is collected about one level: a record that has it, its cost from any record, its cells by column."""

    record: Record
    result: LevelResult
    cost: LevelCost | None = None
    cells: dict[str, Cell] = field(default_factory=dict)


def build_table(records: Sequence[Record]) -> Table:
    """Return the table of records that share a dataset.

    Raises:
        ResultError: the records do not belong in one table.
    """
    check_same_data(records)
    shown = arrange(records)
    labels, heading, stand = label_variants(shown), column_names(shown), standings(shown)
    columns: dict[str, None] = {}
    levels: dict[str, dict[Key, _Level]] = {labels[variant(record)]: {} for record in shown}
    for record in sorted(shown, key=rank):
        for level in record.levels:
            place = levels[labels[variant(record)]].setdefault((level.level, level.fused), _Level(record, level))
            place.cost = place.cost or level.cost
            for score in (score for score in level.scores if score.headline):
                column = heading(record, score)
                columns[column] = None
                place.cells[column] = Cell(score, **vars(stand(record, level, score)))
    beaten = baselines_among(record.model.name for record in shown)
    rows = tuple(
        _row(model, found, tuple(columns), beaten)
        for model, each in levels.items()
        for _, found in sorted(each.items(), key=lambda item: item[0])
        if found.cells
    )
    info = shown[0].dataset
    notes = (*_notes(shown), *left_out(records), *baseline_note(shown))
    return Table(info.name, info.train_images, info.test_images, tuple(columns), rows, notes)


def _row(model: str, found: _Level, columns: tuple[str, ...], beaten: frozenset[str]) -> Row:
    level = found.result
    return Row(
        model,
        level.level,
        level.name,
        level.width,
        level.tokens,
        tuple(found.cells.get(column) for column in columns),
        joined=bool(level.fused),
        cost=found.cost,
        store_bytes=store_bytes(found.record, level),
        baseline=found.record.model.name in beaten,
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
    """Return every note once; one that holds for all levels of a record does not name them."""
    notes = dict.fromkeys(data_notes(records))
    for record in records:
        for note in dict.fromkeys(note for level in record.levels for note in level.notes):
            places = ["joined" if level.fused else str(level.level) for level in record.levels if note in level.notes]
            every = len(places) == len(record.levels)
            where = "" if every else f" level {places[0]}" if len(places) == 1 else f" levels {', '.join(places)}"
            notes[f"{record.model.name}{where}, {record.probe}: {note}"] = None
    return tuple(notes)


def caption(table: Table) -> str:
    """Return what the table is about."""
    return f"{table.dataset}: {table.train_images:,} train and {table.test_images:,} test images"
