"""What levels cost: as texts of columns, and which times were measured alike, so that they may stand side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hjepa_eval.results.records import CostEntry

_UNITS = ("B", "kB", "MB", "GB", "TB")


def conditions(cost: CostEntry) -> str:
    """Return under which conditions a time was measured: device with its threads, precision, batch; empty without."""
    if cost.milliseconds is None:
        return ""
    return ", ".join(filter(None, (cost.device, cost.precision, f"batch {cost.batch}" if cost.batch else "")))


def timed_alike(costs: Mapping[str, Sequence[CostEntry]]) -> str:
    """Return the conditions under which the times of most models were measured; of equal ones those of the first.

    Args:
        costs: model -> of its levels.
    """
    models = Counter(where for each in costs.values() for where in {conditions(cost) for cost in each} if where)
    return max(models, key=lambda where: models[where]) if models else ""


def untimed(costs: Mapping[str, Sequence[CostEntry]], timed: str) -> list[str]:
    """Return a sentence about every model some of whose times were measured under other conditions than `timed`."""
    others = {
        model: sorted({where for cost in each if (where := conditions(cost)) not in ("", timed)})
        for model, each in costs.items()
    }
    return [
        f"no ms of {model}: measured on {'; '.join(where)}, which is not to be compared with the others ({timed})"
        for model, where in others.items()
        if where
    ]


def short(value: float) -> str:
    """Return a cost with three digits: `0.0413`, `1.24`, `17.6`, `1,240`; less than a thousandth as that."""
    if 0 < value < 0.001:
        return "<0.001"
    if value >= 99.95 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def size(count: int) -> str:
    """Return a number of bytes with two or three digits: `900 B`, `1.4 MB`, `460 kB`."""
    amount, unit = float(count), 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 99.5 else f"{amount:.2g} {_UNITS[unit]}"
