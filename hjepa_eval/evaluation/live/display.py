"""A job as it goes: a live list of its stages on a terminal, a line per stage elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from hjepa_eval.evaluation.job import Job, Silent, Stage, Talk, stage_left
from hjepa_eval.results.text import visible

PLAIN_SECONDS = 10.0


class Stderr(Talk):
    """Notes and progress on stderr: a live list of stages on a terminal, lines elsewhere, nothing when quiet."""

    def alert(self, message: str) -> None:
        """Print one line on stderr, unless quiet."""
        if not self.quiet:
            print(visible(message), file=sys.stderr, flush=True)

    def show(self) -> AbstractContextManager[Job]:
        """Return a context that gives a job whose stages are shown on stderr."""
        return show_job(shown=self.leader and not self.quiet)


@contextmanager
def show_job(*, shown: bool) -> Iterator[Job]:
    """Give a job whose stages are shown on stderr as `shown` and stderr allow."""
    if not shown:
        yield Job(Silent())
    elif _live_works():
        display = _Live()
        job = display.job = Job(display)
        try:
            yield job
        finally:
            display.close()
    else:
        lines = _Lines()
        job = lines.job = Job(lines)
        yield job


def _live_works() -> bool:
    """Return whether stderr is a terminal that can redraw its lines."""
    if not sys.stderr.isatty():
        return False
    from rich.console import Console

    return Console(stderr=True).is_interactive


class _Live:
    """Redraws the stages four times a second; what else is printed on stderr meanwhile appears above them."""

    job: Job

    def __init__(self) -> None:
        self._shown: tuple | None = None

    def began(self) -> None:
        # Not before there is a stage: an error before that is one line and nothing else.
        if self._shown is not None:
            return
        from rich.console import Console
        from rich.live import Live

        from hjepa_eval.evaluation.live.view import JobView

        view = JobView(self.job)
        # A result may go to a file: nothing on stdout may be led to stderr.
        live = Live(view, console=Console(stderr=True), refresh_per_second=4, redirect_stdout=False)
        self._shown = (live, view)
        live.start(refresh=True)

    def reported(self, stage: Stage) -> None:
        pass

    def ended(self, stage: Stage) -> None:
        pass

    def close(self) -> None:
        if self._shown is not None:
            live, view = self._shown
            view.closed = True
            live.stop()


class _Lines:
    """Prints a line when a stage has ended, and one every ten seconds of a long one."""

    job: Job

    def __init__(self) -> None:
        self.said = 0.0

    def began(self) -> None:
        pass

    def reported(self, stage: Stage) -> None:
        now = self.job.clock()
        if now - max(self.said, stage.started) >= PLAIN_SECONDS and stage.done < stage.total:
            self.said = now
            self._say(stage, self._going(stage, now))

    def ended(self, stage: Stage) -> None:
        # What went wrong is said as an error.
        if stage.state == "done":
            self._say(stage, _gone(stage))

    def _going(self, stage: Stage, now: float) -> str:
        from hjepa_eval.evaluation.live.view import clock, estimate, speed

        where = f"{stage.done:,}/{stage.total:,}" if stage.unit else f"{stage.done / stage.total:.0%}"
        left, job = stage_left(stage, self.job.stages, now), self.job.left()
        parts = [f"{stage.title}: {where}", speed(stage), "" if left is None else f"{clock(left)} left", stage.remark]
        if job is not None and len(self.job.stages) > 1 and estimate(job):
            parts.append(f"in all {estimate(job)}")
        return ", ".join(part for part in parts if part)

    def _say(self, stage: Stage, text: str) -> None:
        stages = [one for one in self.job.stages if one.state != "skipped"]
        place = f"[{stages.index(stage) + 1}/{len(stages)}] " if len(stages) > 1 else ""
        print(visible(place + text), file=sys.stderr, flush=True)


def _gone(stage: Stage) -> str:
    """Return what a finished stage did, and how fast."""
    from hjepa_eval.evaluation.live.view import speed, spent

    count = f"{stage.total:,} {stage.unit}" if stage.unit and stage.total else ""
    parts = [stage.outcome] if stage.outcome else [count, spent(stage.seconds), speed(stage)]
    return f"{stage.title}: {', '.join(part for part in parts if part)}"
