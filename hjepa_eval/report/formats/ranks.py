"""Rankings of models as text: what `hjepa report --rank` prints, in every format."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hjepa_eval.report.formats import latex, markdown
from hjepa_eval.report.formats.terminal import LEAST_WIDTH, Column, draw, print_below
from hjepa_eval.report.formats.tidy import csv_text
from hjepa_eval.report.tables.costs import short
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.ranking import ABOUT, Ranked, Ranking, rankings
from hjepa_eval.report.tables.rounding import gain_within, interval, p_text, percent, points
from hjepa_eval.report.tables.selection import Selection, by_data, select
from hjepa_eval.report.tables.table import build_table, caption, data_notes
from hjepa_eval.results.text import latex_text, markdown_text, one_line

HEADER = ("model", "level", "score", "95 %", "behind", "95 %", "p (Holm)", "GFLOP", "ms")
# Places in the header of the intervals of the number before them.
_INTERVALS = (3, 5)
_GAP = 2
_NARROWEST = 12
ONE_MODEL = "There is one model in view, and nothing to rank."


def texts(ranked: Ranked) -> list[str]:
    """Return a model as the cells below `HEADER`."""
    cost, milliseconds = ranked.row.cost, ranked.row.milliseconds
    pair = ranked.behind
    behind = ["", "", ""]
    if pair is not None:
        test = pair.test
        behind = [points(pair.difference), "", ""] if test is None else [*gain_within(test), p_text(test.p_holm)]
    return [
        ranked.model,
        str(ranked.level),
        percent(ranked.score.value),
        interval(ranked.score),
        *behind,
        "" if cost is None else short(cost.gflop),
        "" if milliseconds is None else short(milliseconds),
    ]


def terminal(located: Sequence[Located]) -> str:
    """Return the rankings drawn for a terminal, the notes first; a long name takes several lines."""
    from rich.console import Console

    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    with console.capture() as capture:
        for selection, ranked in _ranked(located):
            print_below(console, _notes(selection, ranked))
            if not ranked:
                continue
            console.print(one_line(caption(build_table(selection))), style="bold", markup=False, highlight=False)
            columns = _columns([texts(row) for ranking in ranked for row in ranking.rows], width)
            rest = sum(column.width + _GAP for column in columns[1:]) + _GAP
            lines = draw(columns, _sections(ranked), gap=_GAP, first=max(_NARROWEST, width - rest))
            console.print(*lines, sep="\n")
    return capture.get()


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[Column]:
    """Return the columns that have something to say; intervals stand below their numbers where a line is too short."""
    from rich.text import Text

    shown = [place for place, _ in enumerate(HEADER) if place < _GAP or any(row[place] for row in rows)]
    cells = {place: [one_line(row[place]) for row in rows] for place in shown}
    widths = [max(len(HEADER[place]), *map(len, cells[place])) for place in shown[1:]]
    if sum(widths) + _GAP * len(shown) + _NARROWEST > width:
        for place in (place for place in _INTERVALS if place in cells):
            below = cells.pop(place)
            cells[place - 1] = [f"{above}\n{text}" for above, text in zip(cells[place - 1], below, strict=True)]
    return [Column(HEADER[place], tuple(map(Text, cells[place])), right=place > 0) for place in shown if place in cells]


def _ranked(located: Sequence[Located]) -> Iterator[tuple[Selection, list[Ranking]]]:
    """Yield the rankings of each dataset."""
    for part in by_data(located):
        selection = select(part)
        yield selection, rankings(selection)


def _sections(ranked: Sequence[Ranking]) -> list[tuple[str, list[int]]]:
    sections, start = [], 0
    for ranking in ranked:
        sections.append((ranking.title, list(range(start, start + len(ranking.rows)))))
        start += len(ranking.rows)
    return sections


def _notes(selection: Selection, ranked: Sequence[Ranking]) -> list[str]:
    if not ranked:
        return [ONE_MODEL]
    table = build_table(selection)
    costs = [f"GFLOP and ms per image up to the level; ms on {table.timed}."] if table.timed else []
    untested = dict.fromkeys(note for ranking in ranked for note in ranking.notes)
    return [ABOUT, *costs, *table.untimed, *data_notes(selection.records), *selection.left_out, *untested]


def as_markdown(located: Sequence[Located]) -> str:
    """Return a Markdown table per ranking."""
    lines = []
    for selection, ranked in _ranked(located):
        lines += [f"**{markdown_text(caption(build_table(selection)))}**", ""]
        for ranking in ranked:
            rows = [[markdown_text(text) for text in texts(row)] for row in ranking.rows]
            header = [markdown_text(ranking.title), *HEADER[1:]]
            lines += [*markdown.table_lines(header, rows, left=1), ""]
        first, *more = _notes(selection, ranked)
        lines += [markdown_text(first), *(f"- {markdown_text(line)}" for line in more), ""]
    return "\n".join(lines)


def as_latex(located: Sequence[Located]) -> str:
    """Return a LaTeX table per dataset, a block of rows per probe; it needs only the package booktabs."""
    lines = [latex.PACKAGES]
    for selection, ranked in _ranked(located):
        data = selection.data
        lines += [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{Models at the level chosen on train. {latex_text(caption(build_table(selection)))}.}}",
            rf"  \label{{tab:rank-{latex.label(data.name)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(HEADER) - 1)}}}",
            r"    \toprule",
            rf"    {' & '.join(map(latex_text, HEADER))} \\",
        ]
        for ranking in ranked:
            title = latex_text(ranking.title)
            lines += [r"    \midrule", rf"    \multicolumn{{{len(HEADER)}}}{{l}}{{\textbf{{{title}}}}} \\"]
            lines += [rf"    {' & '.join(map(latex_text, texts(row)))} \\" for row in ranking.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}", *latex.notes(_notes(selection, ranked)), r"\end{table}"]
    return latex.distinct_labels("\n".join(lines) + "\n")


def flat(selection: Selection, ranking: Ranking) -> list[dict[str, Any]]:
    """Return a ranking as rows of plain values, the best first."""
    return [
        {
            "dataset": selection.data.name,
            "test_fingerprint": selection.data.test_fingerprint,
            "probe": ranking.title,
            "place": place,
            "model": row.model,
            "baseline": row.baseline,
            "level": row.level,
            "how": row.how,
            "value": row.score.value,
            "low": row.score.low,
            "high": row.score.high,
            **_of_test(row),
            "gflop": None if row.row.cost is None else row.row.cost.gflop,
            "milliseconds": row.row.milliseconds,
        }
        for place, row in enumerate(ranking.rows, start=1)
    ]


def _of_test(row: Ranked) -> dict[str, Any]:
    test = None if row.behind is None else row.behind.test
    kept = {
        name: None if test is None else getattr(test, name) for name in ("low", "high", "test", "p_value", "p_holm")
    }
    return {
        "behind": None if row.behind is None else row.behind.difference,
        **{f"behind_{name}": value for name, value in kept.items()},
    }


def _rows(located: Sequence[Located]) -> list[dict[str, Any]]:
    return [row for selection, ranked in _ranked(located) for ranking in ranked for row in flat(selection, ranking)]


def as_csv(located: Sequence[Located]) -> str:
    """Return tidy CSV: one row per model and probe."""
    return csv_text(_rows(located))


def as_json(located: Sequence[Located]) -> str:
    """Return the rankings as JSON."""
    return json.dumps(_rows(located), indent=2) + "\n"


RANK_FORMATS: dict[str, Callable[[Sequence[Located]], str]] = {
    "table": terminal,
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
}
