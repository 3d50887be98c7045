"""Tables as HTML for a notebook: no style sheet, no script, every text of data escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from hjepa_eval.report.formats.pairs import HEADER, by_models, texts
from hjepa_eval.report.tables.legend import lines_below
from hjepa_eval.report.tables.model_pairs import ModelPair
from hjepa_eval.report.tables.rounding import interval, percent
from hjepa_eval.report.tables.selection import Selection, by_data, select_records
from hjepa_eval.report.tables.table import Cell, build_table, caption
from hjepa_eval.results.records import Record
from hjepa_eval.results.text import one_line

_LEFT = "text-align:left"


def html_table(records: Sequence[Record]) -> str:
    """Return a table per dataset: levels down, probes across, the highest of each column bold."""
    return "".join(_table(select_records(part)) for part in by_data(records))


def _table(selection: Selection) -> str:
    table = build_table(selection)
    rows: list[str] = []
    for place, row in enumerate(table.rows):
        if place == 0 or table.rows[place - 1].model != row.model:
            rows.append(f'<tr><th colspan="{len(table.columns) + 1}" style="{_LEFT}">{_text(row.model)}</th></tr>')
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
        rows.append(f'<tr><td style="{_LEFT}">{_text(f"{row.label}  {row.level_name}")}</td>{cells}</tr>')
    below = "<br>".join(_text(line) for line in lines_below(selection, table, whole=False))
    return (
        f'<table><caption style="{_LEFT}">{_text(caption(table))}</caption>{_head(["level", *table.columns])}'
        f"<tbody>{''.join(rows)}</tbody></table><p><small>{below}</small></p>"
    )


def html_pairs(pairs: Sequence[ModelPair]) -> str:
    """Return a table of paired comparisons per two models."""
    tables = []
    for (first, second), group in by_models(pairs).items():
        rows = "".join(f"<tr>{''.join(f'<td>{_text(text)}</td>' for text in texts(pair))}</tr>" for pair in group)
        about = f'<caption style="{_LEFT}">first: {_text(first)}<br>second: {_text(second)}</caption>'
        tables.append(f"<table>{about}{_head(HEADER)}<tbody>{rows}</tbody></table>")
    return "".join(tables)


def html_text(text: str) -> str:
    """Return a table that is laid out as text."""
    return f"<pre>{escape(text)}</pre>"


def _head(titles: Iterable[str]) -> str:
    return f"<thead><tr>{''.join(f'<th>{_text(title)}</th>' for title in titles)}</tr></thead>"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = escape(percent(cell.score.value)) + escape(cell.mark)
    return f"{f'<b>{value}</b>' if cell.standing.best else value} <small>{escape(interval(cell.score))}</small>"


def _text(text: str) -> str:
    return escape(one_line(text))
