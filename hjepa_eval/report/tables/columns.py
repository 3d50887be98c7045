"""Headings: what a score is called in a table, and which variants of a model's records have rows of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hjepa_eval.results.records import Record, Score

# The probe, its protocol, how it ran, and the score: what all numbers of one column share.
ColumnKey = tuple[str, ...]


def column_names(records: Sequence[Record]) -> Callable[[Record, Score], str]:
    """Return a function that gives the heading of a headline score, unlike for all that differs among `records`."""
    differing = {
        protocol: _differing([r for r in records if r.protocol == protocol]) for protocol in _protocols(records)
    }

    def name(record: Record, score: Score) -> str:
        parts = [record.headed.of(score.metric, score.parameters)]
        if record.protocol != record.headed.usual:
            parts.append(record.protocol.removesuffix("-knn").removeprefix("few-shot-"))
        shown = [f"{key} {_spell(record.parameters.get(key) or 'none')}" for key in differing[record.protocol]]
        return " ".join(parts) + (f" ({', '.join(shown)})" if shown else "")

    return name


def column_keys(records: Sequence[Record]) -> Callable[[Record, Score], ColumnKey]:
    """Return a function that tells apart scores, headline or not, wherever `column_names` has to."""
    differing = {
        protocol: _differing([r for r in records if r.protocol == protocol]) for protocol in _protocols(records)
    }

    def key(record: Record, score: Score) -> ColumnKey:
        given = record.parameters
        # An absent parameter is the usual one, as in the headings.
        how = [str(bool(given.get("leave_one_out"))), str(given.get("index", "flat"))]
        how += [f"{name}={_spell(given.get(name) or 'none')}" for name in differing[record.protocol]]
        return record.probe, record.protocol, *how, score.key

    return key


def rank(record: Record) -> int:
    """Return the place of a record's probe among the columns."""
    return record.headed.place


def _protocols(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.protocol for record in records))


def _differing(records: Sequence[Record]) -> list[str]:
    """Return the parameters, besides those that scores spell, that are not the same in all records that name them."""
    # Records of an earlier version lack newer parameters: an absent one differs from nothing.
    keys = dict.fromkeys(key for record in records for key in record.parameters if key not in record.headed.spelled)
    return [
        key
        for key in keys
        if len({_spell(record.parameters[key]) for record in records if key in record.parameters}) > 1
    ]


def _spell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


Variant = tuple[str, tuple[str, ...]]


def variant(record: Record) -> Variant:
    """Return what makes a record's rows its own: the encoder, and how its features were made and measured."""
    extraction = record.extraction
    seed = f"seeds {', '.join(map(str, record.seeds))}" if record.seeds else f"seed {record.provenance.seed}"
    weights = f"weights {record.model.weights[:8]}"
    return record.model.name, (weights, extraction.readout, extraction.precision, extraction.storage, seed)


def label_variants(records: Sequence[Record]) -> dict[Variant, str]:
    """Return the heading of each variant: its name, and whatever differs among variants of that name."""
    variants = list(dict.fromkeys(variant(record) for record in records))
    titles = {record.model.name: record.model.title for record in records}
    counts = Counter(titles.values())
    labels = {}
    for name, details in variants:
        rivals = [other for rival, other in variants if rival == name]
        differing = [detail for place, detail in enumerate(details) if len({other[place] for other in rivals}) > 1]
        title = titles[name] if counts[titles[name]] == 1 else name  # Two evaluations may give one alias to two.
        labels[name, details] = f"{title} ({', '.join(differing)})" if differing else title
    return labels
