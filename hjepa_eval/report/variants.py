"""Variants: which records share a model's rows, and what heads those rows."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa_eval.results import Record

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
    labels = {}
    for name, details in variants:
        rivals = [other for rival, other in variants if rival == name]
        differing = [detail for place, detail in enumerate(details) if len({other[place] for other in rivals}) > 1]
        labels[name, details] = f"{name} ({', '.join(differing)})" if differing else name
    return labels
