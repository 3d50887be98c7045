"""The table as text: Markdown, CSV and JSON, and on the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from hjepa_eval.report.statements import calibrations, compared_table, deviations, explanations, statements
from hjepa_eval.report.table import Table, build_table, interval, percent
from hjepa_eval.results import Record

# On a terminal longer headings are wrapped.
LONG_TITLE = 22
FOOTNOTE = "Accuracy in percent, with its 95 % interval; * marks a model's highest level in that column."


def caption(table: Table) -> str:
    """Return what the table is about."""
    return f"{table.dataset}: {table.train_images:,} train and {table.test_images:,} test images"


def markdown(records: Sequence[Record]) -> str:
    """Return the records as a Markdown table with caption and notes."""
    table = build_table(records)
    header = ["model", "level", "reads", "width", *table.columns]
    lines = [f"**{_escape(caption(table))}**", "", _line(header), _line(["---"] * 4 + ["---:"] * len(table.columns))]
    for row in table.rows:
        cells = [
            f"{percent(cell.score)} [{interval(cell.score)}]{' *' if cell.best else ''}".replace(" *", r" \*")
            if cell
            else ""
            for cell in row.cells
        ]
        lines.append(_line([_escape(row.model), row.label, _escape(row.level_name), str(row.width), *cells]))
    lines += [
        "",
        FOOTNOTE.replace("*", r"\*"),
        *(f"- {_escape(line)}" for line in (*statements(records), *explanations(records), *calibrations(records))),
        *(f"- {_escape(note)}" for note in (*table.notes, *deviations(records))),
    ]
    return "\n".join([*lines, *_comparisons(records)]) + "\n"


def _comparisons(records: Sequence[Record]) -> list[str]:
    """Return the lines of a Markdown table of all paired comparisons; none without comparisons."""
    header, *rows = compared_table(records)
    if not rows:
        return []
    lines = [_line([_escape(cell) for cell in row]) for row in rows]
    return [
        "",
        "**Paired comparisons**, in points of accuracy",
        "",
        _line(header),
        _line(["---"] * len(header)),
        *lines,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return escaped.replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")


def tidy(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one flat row per number, all parameters included."""
    return [
        {
            "model": record.model.name,
            "weights": record.model.weights,
            "dataset": record.dataset.name,
            "readout": record.extraction.readout,
            "probe": record.probe,
            "protocol": record.protocol,
            "level": level.level,
            "level_name": level.name,
            "joined": bool(level.fused),
            "width": level.width,
            "metric": score.metric,
            "parameters": ";".join(f"{name}={value}" for name, value in score.parameters.items()),
            "value": score.value,
            "std": score.std,
            "values": ";".join(map(str, score.values)),
            "low": score.low,
            "high": score.high,
            "interval": score.interval,
            "num_samples": score.num_samples,
            "seed": ";".join(map(str, record.seeds)) or record.provenance.seed,
        }
        for record in records
        for level in record.levels
        for score in level.scores
    ]


def as_csv(records: Sequence[Record]) -> str:
    """Return tidy CSV: one row per number."""
    rows = tidy(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(records: Sequence[Record]) -> str:
    """Return the tables, one per dataset, and the tidy numbers as JSON."""
    tables = [asdict_table(build_table(part)) for part in by_data(records)]
    return json.dumps({"tables": tables, "scores": tidy(records)}, indent=2) + "\n"


def by_data(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records in groups that share their images, in order of appearance."""
    groups: dict[tuple[str | int, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(record.dataset.key, []).append(record)
    return list(groups.values())


def per_dataset(table: Callable[[Sequence[Record]], str]) -> Callable[[Sequence[Record]], str]:
    """Return a function that gives one table per dataset, one below the other."""
    return lambda records: "\n".join(table(part) for part in by_data(records))


def asdict_table(table: Table) -> dict[str, Any]:
    """Return a table as JSON values."""
    rows = []
    for row in table.rows:
        cells = [
            None if cell is None else {**cell.score.model_dump(mode="json"), "best": cell.best} for cell in row.cells
        ]
        rows.append({**asdict(row), "cells": dict(zip(table.columns, cells, strict=True))})
    return {**asdict(table), "rows": rows}


def terminal(records: Sequence[Record]) -> str:
    """Return the table drawn for a terminal, with colours when stdout is one."""
    import sys

    from rich.console import Console

    table = build_table(records)
    width = _width()
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        console.print(caption(table), style="bold", markup=False, highlight=False)
        for columns in _that_fit(table, width):
            console.print(_draw(table, columns))
        notes = (f"note: {note}" for note in table.notes)
        for line in (FOOTNOTE, *statements(records), *explanations(records), *notes):
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    return capture.get()


def _that_fit(table: Table, width: int) -> list[list[int]]:
    """Return the columns in groups, each for one table of at most `width` characters: a number is never cut."""
    first = 3 + max(len(f"{row.label}  {row.level_name}") for row in table.rows)
    groups: list[list[int]] = []
    left = 0
    for column, title in enumerate(table.columns):
        size = 3 + max(len("99.9-99.9 "), min(len(title), LONG_TITLE))
        if size > left:
            groups.append([])
            left = width - first
        groups[-1].append(column)
        left -= size
    return groups


def _draw(table: Table, columns: Sequence[int]) -> Any:
    """Return some columns of the table as rich draws them."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD, safe_box=True)
    drawn.add_column("level", overflow="fold")
    for column in columns:
        drawn.add_column(table.columns[column], justify="right", no_wrap=len(table.columns[column]) <= LONG_TITLE)
    previous = None
    for row in table.rows:
        if row.model != previous:
            if previous is not None:
                drawn.add_section()
            drawn.add_row(f"[bold]{escape(row.model)}[/bold]", *[""] * len(columns))
            previous = row.model
        cells = []
        for cell in (row.cells[column] for column in columns):
            star = "*" if cell and cell.best else " "
            style = "bold" if cell and cell.best else "none"
            shown = f"[{style}]{percent(cell.score)}[/]{star}\n[dim]{interval(cell.score)}[/dim] " if cell else ""
            cells.append(shown)
        drawn.add_row(f"{row.label}  {escape(row.level_name)}\n[dim]   width {row.width}[/dim]", *cells)
    return drawn


def _width() -> int:
    import shutil

    return max(80, shutil.get_terminal_size((100, 24)).columns)


FORMATS: dict[str, Callable[[Sequence[Record]], str]] = {
    "table": per_dataset(terminal),
    "md": per_dataset(markdown),
    "csv": as_csv,
    "json": as_json,
}
