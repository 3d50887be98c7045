"""The table: result records in, rows of levels and columns of probes out, for every format to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.report.columns import column_names, rank
from hjepa_eval.results import LevelResult, Record, Score, check_same_data

# A level's number and, for levels joined, which: several of those may have one number.
Key = tuple[int, tuple[int, ...]]
Place = tuple[str, Key, str]
Variant = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """A score, and whether it is the highest of its model's single levels in this column."""

    score: Score
    best: bool


@dataclass(frozen=True)
class Row:
    """One level of one model, or all its levels `joined`; `cells` has None where a probe was not run."""

    model: str
    level: int
    level_name: str
    width: int
    tokens: int
    cells: tuple[Cell | None, ...]
    joined: bool = False

    @property
    def label(self) -> str:
        """The level's number; a plus sign for levels joined."""
        return "+" if self.joined else str(self.level)


@dataclass(frozen=True)
class Table:
    """What the records say about one dataset, in the order of the records' models."""

    dataset: str
    train_images: int
    test_images: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_table(records: Sequence[Record]) -> Table:
    """Return the table of records that share a dataset.

    Raises:
        ResultError: the records do not belong in one table.
    """
    check_same_data(records)
    labels = _label_models(records)
    heading = column_names(records)
    columns: dict[str, None] = {}
    found: dict[Place, Score] = {}
    levels: dict[str, dict[Key, LevelResult]] = {labels[_variant(record)]: {} for record in records}
    for record in sorted(records, key=rank):
        model = labels[_variant(record)]
        for level in record.levels:
            for score in level.scores:
                if score.headline:
                    column = heading(record, score)
                    columns[column] = None
                    levels[model][_key(level)] = level
                    found[model, _key(level), column] = score
    rows = tuple(
        Row(
            model,
            level.level,
            level.name,
            level.width,
            level.tokens,
            tuple(_cell(found, model, level, column, levels[model]) for column in columns),
            joined=bool(level.fused),
        )
        for model in levels
        for level in sorted(levels[model].values(), key=_key)
    )
    info = records[0].dataset
    return Table(info.name, info.train_images, info.test_images, tuple(columns), rows, _notes(records))


def _key(level: LevelResult) -> Key:
    return level.level, level.fused


def _variant(record: Record) -> Variant:
    """Return what makes a record's rows its own: the encoder, and how its features were made and measured."""
    extraction = record.extraction
    seed = f"seeds {', '.join(map(str, record.seeds))}" if record.seeds else f"seed {record.provenance.seed}"
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


def _cell(
    found: dict[Place, Score], model: str, level: LevelResult, column: str, levels: dict[Key, LevelResult]
) -> Cell | None:
    score = found.get((model, _key(level), column))
    if score is None:
        return None
    places = [(model, key, column) for key, other in levels.items() if not other.fused]
    rivals = [found[place].value for place in places if place in found]
    return Cell(score, best=len(rivals) > 1 and not level.fused and score.value == max(rivals))


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    """Return every note once; one that holds for all levels of a record does not name them."""
    notes: dict[str, None] = {}
    for record in records:
        for note in record.dataset.notes:
            notes[note] = None
        if record.dataset.skipped_images:
            notes[f"{record.dataset.skipped_images} unreadable images were skipped"] = None
        for note in dict.fromkeys(note for level in record.levels for note in level.notes):
            places = ["joined" if level.fused else str(level.level) for level in record.levels if note in level.notes]
            every = len(places) == len(record.levels)
            where = "" if every else f" level {places[0]}" if len(places) == 1 else f" levels {', '.join(places)}"
            notes[f"{record.model.name}{where}, {record.probe}: {note}"] = None
    return tuple(notes)


def percent(score: Score) -> str:
    """Return `97.2`."""
    return f"{100 * score.value:.1f}"


def interval(score: Score) -> str:
    """Return `94.9-98.5`, the 95 % interval in percent."""
    return f"{100 * score.low:.1f}-{100 * score.high:.1f}"
