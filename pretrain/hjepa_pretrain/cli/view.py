"""What a terminal shows of a pretraining run: where it stands, a row and a trend per level, the last thing said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hjepa_eval.evaluation.live.view import clock
from hjepa_pretrain.diagnostics.progress import accuracy_text, ties_text

if TYPE_CHECKING:
    from hjepa_pretrain.diagnostics.progress import Progress

_BLOCKS = "▁▂▃▄▅▆▇█"


class History:
    """Values from the beginning until now, at most `size` of them: when full, neighbours are averaged in pairs."""

    def __init__(self, size: int = 128) -> None:
        """Keep at most `size` values, an even number."""
        self.size = size
        self.values: list[float] = []
        self._span = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """Add the newest value."""
        self._pending.append(value)
        if len(self._pending) < self._span:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending = []
        if len(self.values) >= self.size:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [(one + other) / 2 for one, other in pairs]
            self._span *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` blocks from the lowest to the highest value, each the mean of its part of `values`."""
    count = min(width, len(values))
    edges = [place * len(values) // count for place in range(count + 1)] if count else []
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high == low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[round((mean - low) / (high - low) * (len(_BLOCKS) - 1))] for mean in means)


_WIDEST = 120
# What a row takes beside the trend: seven columns of numbers, their gaps, the panel's border.
_BESIDE_TREND = 60
_SHORTEST_TREND, _LONGEST_TREND = 6, 44


@dataclass
class TrainingView:
    """What the panel shows; rendering it never fails for want of a number.

    Attributes:
        run: the run's folder.
        dataset: name and size.
        device: name.
        progress: the newest state; None before the first.
        note: the last thing that was said.
        histories: losses of each level since this session began.
    """

    run: str
    dataset: str
    device: str
    progress: Progress | None = None
    note: str = ""
    histories: dict[str, History] = field(default_factory=dict)
    _seen: dict[str, float] | None = None

    def update(self, progress: Progress) -> None:
        """Show `progress` from now on; cheap enough for every step."""
        self.progress = progress
        if progress.losses is self._seen or progress.losses == self._seen:
            return
        self._seen = progress.losses
        for name, value in progress.losses.items():
            if math.isfinite(value):
                self.histories.setdefault(name, History()).add(value)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render for the console's width; the height depends on the number of levels and terms alone."""
        width = min(options.max_width, _WIDEST)
        trend = min(_LONGEST_TREND, width - _BESIDE_TREND)
        if options.ascii_only or trend < _SHORTEST_TREND:
            trend = 0
        parts: list[RenderableType] = _header(self)
        if self.progress is not None:
            parts += [_bar(self.progress, width), _pace(self.progress, width), Text()]
            parts += [
                _levels(self.progress, self.histories, trend),
                _judged(self.progress),
                _terms(self.progress, width),
            ]
        parts.append(Text(self.note or " ", style="yellow", no_wrap=True, overflow="ellipsis"))
        yield Panel(Group(*parts), title="[bold]pretraining[/bold]", width=width)


def _header(view: TrainingView) -> list[RenderableType]:
    """Return a line for the run, and one for what it runs on."""
    below = "  ·  ".join(part for part in (view.device, view.dataset) if part)
    lines = (Text(view.run, style="bold cyan"), Text(below, style="dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return list(lines)


def _bar(progress: Progress, width: int) -> RenderableType:
    """Return one line: a bar, the share that is done, and images per second."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=max(8, width - 4 - 2 * 2 - 6 - 14))
    row.add_column(justify="right", width=6)
    row.add_column(justify="right", width=14, no_wrap=True)
    done = min(max(progress.fraction, 0.0), 1.0)
    bar = ProgressBar(total=1.0, completed=done, complete_style="cyan")
    row.add_row(bar, Text(f"{100 * done:.1f}%"), Text(f"{progress.images_per_second:,.0f} img/s"))
    return row


def _pace(progress: Progress, width: int) -> Text:
    """Return one line: step, epoch, elapsed, left."""
    total = "" if progress.total_steps is None else f"/{progress.total_steps:,}"
    left = "" if progress.eta_seconds is None else clock(progress.eta_seconds)
    pairs = (
        ("step", f"{progress.step:,}{total}"),
        ("epoch", f"{progress.epoch:.{2 if progress.epoch < 100 else 1}f}"),
        ("elapsed", clock(progress.elapsed)),
        ("left", left),
    )
    return _pairs(pairs, width)


def _pairs(pairs: Iterable[tuple[str, str]], width: int) -> Text:
    """Return a line of `name value` pairs, the names dim; without those that have no value."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, value in pairs:
        if value:
            text.append(" " * (3 if width >= 80 else 2) if len(text) else "")
            text.append(f"{name} ", style="dim").append(value)
    return text


def _levels(progress: Progress, histories: dict[str, History], trend: int) -> RenderableType:
    """Return the table with a row per level; a column keeps its width whatever its numbers are."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("level", width=5)
    for title, width in (("loss", 7), ("trend", trend), ("R²", 6), ("RankMe", 6), ("std", 7), ("kNN", 5), ("best", 5)):
        if width:
            left = title == "trend"
            table.add_column(title, width=width, justify="left" if left else "right", no_wrap=True)
    best = progress.best or {}
    per_level = best.get("per_level", [])
    for level in range(_count(progress)):
        name = f"level_{level}"
        history = histories.get(name, History()).values
        scores = [_at(progress.diagnosis.get("knn"), level), _at(per_level, level)]
        shown = [Text(f"{100 * score:.1f}" if score is not None else "-") for score in scores]
        if best.get("level") == level:
            shown[1].stylize("bold green")
        row: list[Text] = [Text(str(level), style="cyan"), Text(number(progress.losses.get(name), 4))]
        row += [Text(sparkline(history, trend), style="cyan")] if trend else []
        explained = progress.losses.get(f"r2_{level}")
        # Far below zero, as in the first steps, decimals would not fit the column and say nothing.
        row.append(Text(number(explained, 3 if explained is None or explained > -10 else 0)))
        row.append(Text(number(_at(progress.diagnosis.get("rankme"), level), 1)))
        row.append(Text(number(_at(progress.diagnosis.get("std"), level), 4)))
        table.add_row(*row, *shown)
    return table


def _count(progress: Progress) -> int:
    """Return how many levels anything is known of."""
    losses = sum(1 for name in progress.losses if name.startswith("level_"))
    return max(losses, len(progress.diagnosis.get("knn", [])))


def _terms(progress: Progress, width: int) -> Text:
    """Return the total loss and what is not of one level: whole-image terms and the gradient's norm."""
    losses = progress.losses
    names = [
        name for name in losses if name != "loss" and not name.startswith(("level_", "r2_", "gradient_e", "gradient_p"))
    ]
    names = ["loss", *names] if "loss" in losses else names
    places = 4 if width > 100 else 3
    return _pairs(((name.replace("_", " "), number(losses[name], places)) for name in names), width)


def _judged(progress: Progress) -> Text:
    """Return how sure the best kNN is: over few images it decides nothing."""
    images = progress.diagnosis.get("knn_images")
    if progress.best is None or not images:
        return Text()
    text = f"best kNN {accuracy_text(progress.best['knn'], images)} images{ties_text(progress.best)}"
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _at(values: Any, level: int) -> float | None:
    """Return the entry of a level, None where there is none."""
    return values[level] if values and level < len(values) else None


def number(value: float | None, places: int) -> str:
    """Return a number for a narrow column; numbers that decimals cannot show get an exponent."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 10.0**-places or abs(value) >= 10_000):
        return f"{value:.0e}"
    return f"{value:.{places}f}"
