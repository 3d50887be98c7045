"""The formats of a report as text, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hjepa_eval.report.arrangement import by_data
from hjepa_eval.report.latex import latex
from hjepa_eval.report.markdown import markdown
from hjepa_eval.report.terminal import terminal
from hjepa_eval.report.tidy import as_csv, as_json
from hjepa_eval.results import Record


def _per_dataset(table: Callable[[Sequence[Record]], str]) -> Callable[[Sequence[Record]], str]:
    """Return a function that gives one table per dataset, one below the other."""
    return lambda records: "\n".join(table(part) for part in by_data(records))


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "table": _per_dataset(terminal),
    "md": _per_dataset(markdown),
    "csv": as_csv,
    "json": as_json,
    "latex": _per_dataset(latex),
}
