"""What a terminal shows of a job: a line per group that is over or waits, a line per stage of the one that runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hjepa_eval.evaluation.job import Job, Left, Stage, stage_left
from hjepa_eval.results.text import visible

_WIDEST = 100
_LONGEST_NAME = 30
_SHORTEST_BAR, _LONGEST_BAR = 6, 28
_OVER = ("done", "failed", "skipped")
# mark and style of each state; a running stage's mark turns.
_MARKS = {
    "done": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "interrupted": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
    "waiting": ("·", ".", "dim"),
}
_TURNING = ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")
_TURNS_A_SECOND = 8


@dataclass(eq=False)
class JobView:
    """Renders the job as it is at that moment.

    Attributes:
        job: its stages.
        closed: no more will come; what never ran is left out, and the last line sums up.
    """

    job: Job
    closed: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render in the console's width, and in its height less the line that the cursor takes."""
        width = min(options.max_width, _WIDEST)
        lines, centre = _lines(self.job, width, closed=self.closed, ascii_only=options.ascii_only)
        end = _end(self.job, closed=self.closed)
        room = console.height - 1 - len(end)
        for line in [*(lines if self.closed else _window(lines, centre, room)), *end]:
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(width, overflow="ellipsis")
            yield line


def _window(lines: Sequence[Text], centre: int, room: int) -> list[Text]:
    """Return the lines around `centre` that fit, and how many are above and below."""
    if len(lines) <= room:
        return list(lines)
    inside = max(1, room - 2)
    first = min(max(0, centre - inside // 2), len(lines) - inside)
    above, below = first, len(lines) - first - inside
    return [
        Text(f"  {above} more above", style="dim"),
        *lines[first : first + inside],
        Text(f"  {below} more below", style="dim"),
    ]


def _lines(job: Job, width: int, *, closed: bool, ascii_only: bool) -> tuple[list[Text], int]:
    """Return all lines, and the place of the one that matters now."""
    lines: list[Text] = []
    centre, stages = 0, list(job.stages)
    now = job.clock()
    current = None if closed else _current(stages)
    names = min(_LONGEST_NAME, max((len(stage.group) for stage in stages), default=0))
    for group, members in groupby(stages, key=lambda stage: stage.group):
        own = list(members)
        if closed and all(stage.state in ("waiting", "skipped") for stage in own):
            continue
        if group and current not in own and (not closed or all(stage.state in _OVER for stage in own)):
            lines.append(_group_line(group, own, names, width, ascii_only=ascii_only))
            continue
        if group:
            lines.append(Text(shortened(group, width), style="bold"))
        label = max(len(stage.name) for stage in own) if group else names
        for stage in own:
            if stage is current:
                centre = len(lines)
            if not (closed and stage.state in ("waiting", "skipped")):
                start = Text("  " if group else "").append_text(_mark(stage, now, stage is current, ascii_only))
                start.append(f" {stage.name:<{label}}  ", style="dim" if stage.state == "waiting" else "")
                lines.append(start.append_text(_detail(stage, stages, now, width - start.cell_len, ascii_only)))
    return lines, centre


def _current(stages: Sequence[Stage]) -> Stage | None:
    """Return the stage that runs, or between two of them the next."""
    running = next((stage for stage in stages if stage.state == "running"), None)
    return running or next((stage for stage in stages if stage.state == "waiting"), None)


def _group_line(group: str, stages: Sequence[Stage], names: int, width: int, *, ascii_only: bool) -> Text:
    """Return one line for a group that is over or waits: what it took, and where it fits what each part of it took."""
    waits = all(stage.state == "waiting" for stage in stages)
    # A probe that was left out does not spoil the others.
    mark, plain, style = _MARKS["waiting" if waits else "done"]
    line = Text(plain if ascii_only else mark, style=style)
    line.append(f" {shortened(group, names):<{names}}", style="dim" if waits else "bold")
    if waits:
        return line.append(f"  {len(stages)} stages", style="dim")
    line.append(f"  {spent(sum(stage.seconds for stage in stages)):>6}")
    parts = list(_parts(stages))
    every, unusual = (", ".join(text for text, odd in parts if odd or whole) for whole in (True, False))
    fits = line.cell_len + 2 + len(every) <= width
    return line.append(f"  {every if fits else unusual}", style="dim")


def _parts(stages: Sequence[Stage]) -> Iterator[tuple[str, bool]]:
    """Return what stages with one first word did, and whether that is more than seconds."""
    for word in dict.fromkeys(stage.name.split()[0] for stage in stages):
        own = [stage for stage in stages if stage.name.split()[0] == word and stage.state != "skipped"]
        if any(stage.state == "failed" for stage in own):
            yield f"no {word}", True
        elif own and all(stage.outcome == own[0].outcome != "" for stage in own):
            yield f"{word} {own[0].outcome.partition(',')[0]}", True
        elif own:
            yield f"{word} {spent(sum(stage.seconds for stage in own))}", False


def _mark(stage: Stage, now: float, current: bool, ascii_only: bool) -> Text:
    if current:
        frames = _TURNING[ascii_only]
        return Text(frames[int(now * _TURNS_A_SECOND) % len(frames)], style="cyan")
    mark, plain, style = _MARKS[stage.state]
    return Text(plain if ascii_only else mark, style=style)


def _detail(stage: Stage, stages: Sequence[Stage], now: float, room: int, ascii_only: bool) -> Text:
    """Return what is known of a stage, in at most `room` columns where a bar is drawn."""
    if stage.state == "running":
        return _running(stage, stage_left(stage, stages, now), now, room, ascii_only)
    if stage.state == "failed":
        return Text("without result", style="red")
    if stage.state == "interrupted":
        return Text(f"interrupted{f' at {stage.done / stage.total:.0%}' if stage.total else ''}", style="red")
    if stage.state == "done":
        done = Text(stage.outcome or f"{spent(stage.seconds):>6}", style="dim" if stage.outcome else "")
        return done.append("" if stage.outcome else f"  {speed(stage)}", style="dim")
    return Text()


def _running(stage: Stage, left: float | None, now: float, room: int, ascii_only: bool) -> Text:
    """Return a bar, the share that is done, the throughput, and the time left; before any count the time it has run."""
    if not stage.total:
        return Text(spent(now - stage.started), style="dim")
    end = f" {stage.done / stage.total:4.0%}"
    parts = (speed(stage), "" if left is None else f"{clock(left)} left", stage.remark)
    end += "".join(f"  {part}" for part in parts if part)
    length = min(_LONGEST_BAR, room - len(end))
    if length < _SHORTEST_BAR:
        return Text(end.strip())
    full = round(length * min(1.0, stage.done / stage.total))
    solid, empty = ("#", "-") if ascii_only else ("━", "─")
    return Text().append(solid * full, style="cyan").append(empty * (length - full), style="dim").append(end)


def _end(job: Job, *, closed: bool) -> list[Text]:
    """Return the line about the whole job; none for a single stage, which says it all."""
    stages = [stage for stage in job.stages if stage.state != "skipped"]
    if len(stages) < 2 or job.started is None:
        return []
    over = sum(stage.state in _OVER for stage in stages)
    elapsed = job.clock() - job.started
    if closed:
        count = f"{over}" if over == len(stages) else f"{over} of {len(stages)}"
        return [Text(f"{count} stages in {spent(elapsed)}", style="dim")]
    text = Text(f"{over} of {len(stages)} stages", style="bold").append(f"   {clock(elapsed)} so far", style="")
    left = job.left()
    return [text.append("" if left is None else f"   {estimate(left)}")]


def estimate(left: Left) -> str:
    """Return `about 1:02 left`; `at least` where some stage's time is unknown, and nothing where that says nothing."""
    if left.whole:
        return f"about {clock(left.seconds)} left"
    return f"at least {clock(left.seconds)} left" if left.seconds >= 1 else ""


def speed(stage: Stage) -> str:
    """Return `310 images/s`, of a finished stage with its start; nothing where units have no name or none is known."""
    rate = stage.total / stage.seconds if stage.state == "done" and stage.seconds > 0 else stage.rate
    return f"{rate:,.0f} {stage.unit}/s" if stage.unit and rate else ""


def spent(seconds: float) -> str:
    """Return `3.2 s`, `41 s`, or from a minute on `1:02`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def shortened(name: str, width: int) -> str:
    """Return a name with its middle left out where it is too long: both its kind and its end tell models apart."""
    name = visible(name)
    if len(name) <= width:
        return name
    head = max(0, (width - 1) // 2)
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}" if width > 1 else name[:width]


def clock(seconds: float) -> str:
    """Return `1:02:03`, or `2:03` under an hour."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
