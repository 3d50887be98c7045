"""The table as LaTeX: booktabs, ready for a paper, whatever the names in it hold."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from hjepa_eval.report.formats.terminal import groups_that_fit
from hjepa_eval.report.tables.legend import cost_columns, how_to_read, runner_ups
from hjepa_eval.report.tables.rounding import interval, percent, points
from hjepa_eval.report.tables.statements import calibrations, deviations, explanations, statements
from hjepa_eval.report.tables.table import Cell, Table, build_table, caption
from hjepa_eval.results.records import Record

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "{}_%&#$"},
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": r"\textquoteright{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    '"': r"\char34{}",
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}",
    "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}",
    "\N{LATIN SMALL LIGATURE OE}": r"\oe{}",
    "\N{LATIN CAPITAL LIGATURE OE}": r"\OE{}",
    "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}",
    "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
}
# Combining characters, and the accents that the default fonts have.
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
# Between characters that would melt into a dash or another quotation mark.
_MELTING = re.compile(r"(?<=-)(?=-)|(?<=[`?!])(?=`)|(?<=')(?=')|(?<=,)(?=,)")


def escape(text: str) -> str:
    """Return a text as LaTeX shows it, on one line; a character that the default fonts lack becomes `[U+65E5]`."""
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    return _MELTING.sub("{}", "".join(_character(character) for character in plain))


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return character if character.isprintable() else f"[U+{ord(character):04X}]"
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if letter.isascii() and letter.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    return f"[U+{ord(character):04X}]"


PACKAGES = r"""% needs \usepackage{booktabs}
% in a document of two columns: \begin{table*} and \end{table*} take the width of both"""
# Characters of \footnotesize in the line of an article of 10 points; headings longer than LONG_TITLE are wrapped.
_LINE = 78
_GAP = 2
LONG_TITLE = 14


def latex(records: Sequence[Record]) -> str:
    """Return the records as a LaTeX table with caption, label and notes; it needs only the package booktabs.

    Columns that one line cannot hold stand in a second tabular below, the costs together. Notes that would fill a
    page, such as all pairs of levels, stand in comments.
    """
    table = build_table(records)
    lines = [
        PACKAGES,
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{What each level knows. {escape(caption(table))}.}}",
        rf"  \label{{tab:levels-{label(table.dataset)}}}",
    ]
    for place, columns in enumerate(_groups(table)):
        lines += [r"  \par\medskip"] * bool(place)
        lines += [f"  {line}" for line in _tabular(table, columns)]
    below = [*how_to_read(table), *runner_ups(table), *explanations(records), *table.notes]
    aside = [*statements(records), *calibrations(records), *deviations(records)]
    comments = [f"% {' '.join(line.split())}" for line in aside]
    return "\n".join([*lines, *notes(below), r"\end{table}", *comments]) + "\n"


def label(name: str) -> str:
    """Return a name as part of a label: letters, digits and hyphens only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "data"


def notes(lines: Sequence[str]) -> list[str]:
    r"""Return the lines of text below a tabular, a paragraph each, indented for a `table`."""
    paragraphs = [rf"    {escape(line)}\par" for line in lines]
    start = r"\begin{minipage}{\linewidth}\scriptsize\raggedright"
    return [r"  \par\smallskip", f"  {start}", *paragraphs, r"  \end{minipage}"]


def heading(title: str) -> str:
    """Return a heading, a long one in several lines."""
    lines = _broken(title)
    if len(lines) == 1:
        return escape(title)
    # In braces: a line that begins with [ or * would be read as an option of the line's end before it.
    body = r" \\ ".join(f"{{{escape(line)}}}" for line in lines)
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
    delta = "" if cell.delta is None else f" ({points(cell.delta)})"
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
            yield rf"  \multicolumn{{{2 + len(titles)}}}{{l}}{{\textbf{{{escape(row.model)}}}}} \\"
        shown = [row.cells[column] for column in scores]
        values = [*map(_value, shown), *(escape(texts[place]) for _, texts in costs)]
        # A plus sign in braces stays a sign of its own.
        yield rf"  {{{row.label}}} & {escape(row.level_name)} & {' & '.join(values)} \\"
        if any(shown):
            intervals = [*map(_interval, shown), *[""] * len(costs)]
            yield rf"  & & {' & '.join(intervals)} \\"
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def _value(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value, delta = percent(cell.score.value), ""
    if cell.best:
        value = rf"\textbf{{{value}}}$^{{{cell.mark}}}$"
    if cell.delta is not None:
        delta = rf" {{\scriptsize (${points(cell.delta)}$)}}"
    return value + delta


def _interval(cell: Cell | None) -> str:
    return "" if cell is None else rf"{{\scriptsize {interval(cell.score).replace('-', '--')}}}"
