"""The table as LaTeX: booktabs, ready for a paper, whatever the names in it hold."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from hjepa_eval.report.formats.terminal import groups_that_fit
from hjepa_eval.report.tables.legend import cost_columns, how_to_read, runner_ups
from hjepa_eval.report.tables.rounding import interval, percent, points
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.statements import calibrations, deviations, explanations, statements
from hjepa_eval.report.tables.table import Cell, Table, build_table, caption
from hjepa_eval.results.text import latex_text, one_line

PACKAGES = r"""% needs \usepackage{booktabs}
% in a document of two columns: \begin{table*} and \end{table*} take the width of both"""
# Characters of \footnotesize in the line of an article of 10 points; headings longer than LONG_TITLE are wrapped.
_LINE = 78
_GAP = 2
LONG_TITLE = 14


def latex(selection: Selection) -> str:
    """Return a selection as a LaTeX table with caption, label and notes; it needs only the package booktabs.

    Columns that one line cannot hold stand in a second tabular below, the costs together. Notes that would fill a
    page, such as all pairs of levels, stand in comments.
    """
    table = build_table(selection)
    lines = [
        PACKAGES,
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{What each level knows. {latex_text(caption(table))}.}}",
        rf"  \label{{tab:levels-{label(table.dataset)}}}",
    ]
    for place, columns in enumerate(_groups(table)):
        lines += [r"  \par\medskip"] * bool(place)
        lines += [f"  {line}" for line in _tabular(table, columns)]
    below = [*how_to_read(table), *runner_ups(table), *explanations(selection), *table.notes]
    aside = [*statements(selection), *calibrations(selection), *deviations(selection)]
    comments = [f"% {one_line(line)}" for line in aside]
    return "\n".join([*lines, *notes(below), r"\end{table}", *comments]) + "\n"


def label(name: str) -> str:
    """Return a name as part of a label: letters, digits and hyphens only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "data"


def distinct_labels(text: str) -> str:
    """Return LaTeX whose labels are each said once: of data sets of one name the second is `tab:...-2`."""
    counts: Counter[str] = Counter()

    def numbered(match: re.Match[str]) -> str:
        counts[match[1]] += 1
        return match[0] if counts[match[1]] == 1 else rf"\label{{{match[1]}-{counts[match[1]]}}}"

    return re.sub(r"\\label\{([^{}]*)\}", numbered, text)


def notes(lines: Sequence[str]) -> list[str]:
    r"""Return the lines of text below a tabular, a paragraph each, indented for a `table`."""
    paragraphs = [rf"    {latex_text(line)}\par" for line in lines]
    start = r"\begin{minipage}{\linewidth}\scriptsize\raggedright"
    return [r"  \par\smallskip", f"  {start}", *paragraphs, r"  \end{minipage}"]


def heading(title: str) -> str:
    """Return a heading, a long one in several lines."""
    lines = _broken(title)
    if len(lines) == 1:
        return latex_text(title)
    # In braces: a line that begins with [ or * would be read as an option of the line's end before it.
    body = r" \\ ".join(f"{{{latex_text(line)}}}" for line in lines)
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{body}\end{{tabular}}"


def _broken(title: str) -> list[str]:
    """Return a title in lines of whole words, of at most LONG_TITLE where words allow it."""
    return textwrap.wrap(title, LONG_TITLE, break_long_words=False, break_on_hyphens=False) or [""]


def _groups(table: Table) -> list[list[int]]:
    """Return the columns of scores and, after them, of costs in groups that fit into a line."""
    levels = max(len(f"{row.label} {row.level_name}") for row in table.rows) + 2 * _GAP
    sizes = []
    for column, title in enumerate(table.columns):
        shown = [_plain_length(cell) for row in table.rows if (cell := row.cells[column])]
        sizes.append(_GAP + max(*map(len, _broken(title)), *shown))
    costs = [max(len(title), *map(len, texts)) + _GAP for title, texts in cost_columns(table).items()]
    return groups_that_fit(sizes, _LINE - min(levels, _LINE // 2), block=costs)


def _plain_length(cell: Cell) -> int:
    delta = "" if cell.standing.delta is None else f" ({points(cell.standing.delta)})"
    return max(len(f"{percent(cell.score.value)}{cell.mark}{delta}"), len(interval(cell.score)))


def _tabular(table: Table, columns: Sequence[int]) -> Iterator[str]:
    """Yield the lines of one tabular: a model's name over its levels, each in two lines where it has scores."""
    scores = [column for column in columns if column < len(table.columns)]
    costs = [
        each for place, each in enumerate(cost_columns(table).items(), start=len(table.columns)) if place in columns
    ]
    titles = [*(table.columns[column] for column in scores), *(title for title, _ in costs)]
    names = "l" if max(len(row.level_name) for row in table.rows) <= _LINE // 2 else r"p{0.45\linewidth}"
    yield rf"\begin{{tabular}}{{r{names}{'r' * len(titles)}}}"
    yield r"  \toprule"
    yield rf"  level & reads & {' & '.join(map(heading, titles))} \\"
    previous = None
    for place, row in enumerate(table.rows):
        if row.model != previous:
            previous = row.model
            yield r"  \midrule"
            yield rf"  \multicolumn{{{2 + len(titles)}}}{{l}}{{\textbf{{{latex_text(row.model)}}}}} \\"
        shown = [row.cells[column] for column in scores]
        values = [*map(_value, shown), *(latex_text(texts[place]) for _, texts in costs)]
        # A plus sign in braces stays a sign of its own.
        yield rf"  {{{row.label}}} & {latex_text(row.level_name)} & {' & '.join(values)} \\"
        if any(shown):
            intervals = [*map(_interval, shown), *[""] * len(costs)]
            yield rf"  & & {' & '.join(intervals)} \\"
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def _value(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value, delta = percent(cell.score.value), ""
    if cell.standing.best:
        value = rf"\textbf{{{value}}}$^{{{cell.mark}}}$"
    if cell.standing.delta is not None:
        delta = rf" {{\scriptsize (${points(cell.standing.delta)}$)}}"
    return value + delta


def _interval(cell: Cell | None) -> str:
    return "" if cell is None else rf"{{\scriptsize {interval(cell.score).replace('-', '--')}}}"
