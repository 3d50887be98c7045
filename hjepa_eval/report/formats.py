"""The formats of a report as text, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hjepa_eval.report.latex import latex
from hjepa_eval.report.markdown import markdown
from hjepa_eval.report.table import caption
from hjepa_eval.report.terminal import terminal
from hjepa_eval.report.tidy import as_csv, as_json, per_dataset
from hjepa_eval.results import Record

__all__ = ["FORMATS", "caption"]

FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "table": per_dataset(terminal),
    "md": per_dataset(markdown),
    "csv": as_csv,
    "json": as_json,
    "latex": per_dataset(latex),
}
