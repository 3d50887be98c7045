"""Two models side by side as text: what `hjepa compare` prints, in every format."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from hjepa_eval.report.formats import latex, markdown
from hjepa_eval.report.formats.terminal import Column, draw, print_below
from hjepa_eval.report.formats.tidy import csv_text
from hjepa_eval.report.tables.model_pairs import CHOSEN, ModelPair
from hjepa_eval.report.tables.rounding import gain_within, p_text, percent, points
from hjepa_eval.results.text import latex_text, markdown_text, one_line

HEADER = ("probe", "levels", "first", "second", "difference", "95 % interval", "p", "p (Holm)")
_LEFT = 2
_GAP = 2
# No two models' numbers take more.
_WIDEST = 120
UNTESTED = (
    "Few-shot accuracies here are of episodes: how far other test images would move them is not known, so there is no "
    "interval and no test; running the probes again measures both."
)
_ABOUT = "Accuracy in percent; differences in points, first minus second, with paired intervals over images"


def terminal(pairs: Sequence[ModelPair]) -> str:
    """Return a table per two models, probe by probe, drawn for a terminal; usual numbers take less than 80 columns."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=_WIDEST, emoji=False)
    with console.capture() as capture:
        for (first, second), found in by_models(pairs).items():
            console.print(Text(f"first: {one_line(first)}\nsecond: {one_line(second)}\n"), soft_wrap=True)
            rows = [texts(pair) for pair in found]
            columns = [
                Column(title, tuple(Text(one_line(row[place])) for row in rows), right=place >= _LEFT)
                for place, title in enumerate(HEADER)
            ]
            console.print(*draw(columns[1:], _sections(found), gap=_GAP), sep="\n")
        print_below(console, _notes(pairs))
    return capture.get()


def _sections(pairs: Sequence[ModelPair]) -> list[tuple[str, list[int]]]:
    """Return each probe and the places of its comparisons."""
    found: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        found.setdefault(pair.probe, []).append(place)
    return list(found.items())


def as_markdown(pairs: Sequence[ModelPair]) -> str:
    """Return a Markdown table per two models."""
    lines = []
    for (first, second), found in by_models(pairs).items():
        rows = [[markdown_text(text) for text in texts(pair)] for pair in found]
        lines += [f"**{markdown_text(first)}** (first) and **{markdown_text(second)}** (second)", ""]
        lines += [*markdown.table_lines(HEADER, rows, left=_LEFT), ""]
    return "\n".join([*lines, *(markdown_text(line) for line in _notes(pairs))]) + "\n"


def as_latex(pairs: Sequence[ModelPair]) -> str:
    """Return a LaTeX table per two models; it needs only the package booktabs."""
    lines = [latex.PACKAGES]
    for (first, second), found in by_models(pairs).items():
        names = [latex_text(name) for name in (first, second)]
        lines += [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{names[0]} (first) and {names[1]} (second), paired on the same test images.}}",
            rf"  \label{{tab:compare-{latex.label(first)}-{latex.label(second)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(HEADER) - _LEFT)}}}",
            r"    \toprule",
            rf"    {' & '.join(map(latex_text, HEADER[1:]))} \\",
        ]
        for probe, places in _sections(found):
            name = latex_text(probe)
            lines += [r"    \midrule", rf"    \multicolumn{{{len(HEADER) - 1}}}{{l}}{{\textbf{{{name}}}}} \\"]
            rows = (map(latex_text, texts(found[place])[1:]) for place in places)
            lines += [rf"    {' & '.join(row)} \\" for row in rows]
        lines += [r"    \bottomrule", r"  \end{tabular}", *latex.notes(_notes(found)), r"\end{table}"]
    return latex.distinct_labels("\n".join(lines) + "\n")


def as_csv(pairs: Sequence[ModelPair]) -> str:
    """Return tidy CSV: one row per comparison."""
    return csv_text([flat(pair) for pair in pairs])


def as_json(pairs: Sequence[ModelPair]) -> str:
    """Return the comparisons as JSON."""
    return json.dumps([_nested(pair) for pair in pairs], indent=2) + "\n"


def by_models(pairs: Sequence[ModelPair]) -> dict[tuple[str, str], list[ModelPair]]:
    """Return the comparisons of each two models, in order of appearance."""
    groups: dict[tuple[str, str], list[ModelPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.models, []).append(pair)
    return groups


def _nested(pair: ModelPair) -> dict[str, Any]:
    """Return a comparison with its test's numbers among the others; None where there is none."""
    row, test = asdict(pair), pair.test
    return {name: value for name, value in row.items() if name != "test"} | {
        name: None if test is None else getattr(test, name) for name in ("low", "high", "test", "p_value", "p_holm")
    }


def flat(pair: ModelPair) -> dict[str, Any]:
    """Return a comparison as one row of plain values."""
    row = _nested(pair)
    for name in ("models", "levels", "values", "records"):
        one, other = row.pop(name)
        row |= {f"first_{name[:-1]}": one, f"second_{name[:-1]}": other}
    return row


def texts(pair: ModelPair) -> list[str]:
    """Return a comparison as the cells below `HEADER`."""
    levels = f"chosen ({pair.levels[0]}, {pair.levels[1]})" if pair.why == CHOSEN else pair.why
    known = [pair.probe, levels, *map(percent, pair.values)]
    if pair.test is None:
        return [*known, points(pair.difference), "", "", ""]
    return [*known, *gain_within(pair.test), p_text(pair.test.p_value), p_text(pair.test.p_holm)]


def _notes(pairs: Sequence[ModelPair]) -> list[str]:
    tests = ", ".join(sorted({pair.test.test for pair in pairs if pair.test is not None}))
    untested = [UNTESTED] if any(pair.test is None for pair in pairs) else []
    return [f"{_ABOUT}; p: {tests}; Holm: over all tests." if tests else f"{_ABOUT}.", *untested]


PAIR_FORMATS: dict[str, Callable[[Sequence[ModelPair]], str]] = {
    "table": terminal,
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
}
