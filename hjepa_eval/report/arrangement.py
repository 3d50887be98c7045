"""What is shown of the records given: each number once, the newest of two that disagree, baselines last."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa_eval.report.baselines import baselines_last
from hjepa_eval.report.columns import ColumnKey, column_keys, rank
from hjepa_eval.report.variants import Variant, variant
from hjepa_eval.results import Record, Score

# Images, model, level with the levels joined in it, column.
_Place = tuple[tuple[str | int, ...], Variant, int, tuple[int, ...], ColumnKey]


def arrange(records: Sequence[Record]) -> list[Record]:
    """Return the records to show, models in the order given and baselines after them, probes as in the columns.

    A record whose numbers all stand in another is left out, and of two that give a place in the table different
    numbers the older one: the numbers of a column are compared with each other, so they are not taken from both.
    """
    shown = baselines_last([records[place] for place in _shown(records)])
    models = list(dict.fromkeys(variant(record) for record in shown))
    return sorted(shown, key=lambda record: (models.index(variant(record)), rank(record)))


def by_data(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records in groups that share their images, in order of appearance."""
    groups: dict[tuple[str | int, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(record.dataset.key, []).append(record)
    return list(groups.values())


def left_out(records: Sequence[Record]) -> list[str]:
    """Return a sentence about every record that `arrange` leaves out because a newer one says otherwise."""
    newer = _newer(records)
    return list(
        dict.fromkeys(
            f"{records[old].model.name}, {records[old].probe}: the record of {records[new].provenance.created} is "
            f"shown, one of {records[old].provenance.created} with other numbers is left out"
            for old, new in sorted(newer.items())
        )
    )


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


def _shown(records: Sequence[Record]) -> list[int]:
    places, newer = _places(records), _newer(records)
    kept: list[int] = []
    # The larger first, so that a part is found in its whole; of equal ones the first given.
    for number in sorted(set(range(len(records))) - set(newer), key=lambda place: (-len(places[place]), place)):
        if not any(places[number].keys() <= places[other].keys() for other in kept):
            kept.append(number)
    return sorted(kept)
