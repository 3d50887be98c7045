"""A command's work as a list of stages: what is done, what runs, what waits, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

State = Literal["waiting", "running", "done", "failed", "interrupted", "skipped"]


@dataclass(eq=False)
class Stage:
    """One stage of a job; stages compare by identity, for several may have the same name.

    Attributes:
        name: as lists show it, such as `extract train`.
        group: whose stage it is, such as an encoder's; empty for the job's own.
        kind: stages of one kind take as long as their sizes say; the name when empty.
        size: how much there is to do, in a unit of the kind's own; None before anybody knows.
        brief: too short for an estimate to count it.
        title: what runs, in words that make sense alone; set when it starts.
        unit: what is counted, such as `images`; empty when the count says nothing to a reader.
        state: `waiting`, then `running`, then one of the others; `skipped` when a later one has started instead.
        done: how many are done of `total`.
        total: how many there are; 0 before the first report.
        remark: what goes with the count.
        outcome: how it ended where seconds would mislead, such as `from the cache`; it teaches no estimate then.
        started: the clock when it started.
        ended: the clock when it ended.
        first: the clock and the count of the first report.
        last: the clock of the last one.
    """

    name: str
    group: str = ""
    kind: str = ""
    size: float | None = None
    brief: bool = False
    title: str = ""
    unit: str = ""
    state: State = "waiting"
    done: int = 0
    total: int = 0
    remark: str = ""
    outcome: str = ""
    started: float = 0.0
    ended: float = 0.0
    first: tuple[float, int] | None = None
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took, once it has ended."""
        return self.ended - self.started

    @property
    def rate(self) -> float | None:
        """Counts per second between the first report and the last: neither starting up nor earlier work is in it."""
        if self.first is None or self.done <= self.first[1] or self.last <= self.first[0]:
            return None
        return (self.done - self.first[1]) / (self.last - self.first[0])


class Left(NamedTuple):
    """An estimate: the seconds left, and whether every stage that counts is in it; otherwise it will take longer."""

    seconds: float
    whole: bool


class Display(Protocol):
    """What is told of a job."""

    def began(self) -> None:
        """There are stages to show."""

    def reported(self, stage: Stage) -> None:
        """A stage has come further."""

    def ended(self, stage: Stage) -> None:
        """A stage is over."""


@dataclass(eq=False)
class Job:
    """The stages of a job in their order.

    Attributes:
        display: is told of every change.
        clock: gives seconds.
        stages: done, running and waiting ones.
        started: the clock when the first stages were known.
    """

    display: Display
    clock: Callable[[], float] = time.monotonic
    stages: list[Stage] = field(default_factory=list)
    started: float | None = None

    def plan(self, stages: Sequence[Stage]) -> None:
        """Add stages that will run, in this order."""
        self.stages += stages
        self._begin()

    def start(self, name: str, *, title: str, unit: str, size: float) -> Stage:
        """Start the next waiting stage of a name; one that nobody planned takes its place after the last started."""
        begun = [place for place, stage in enumerate(self.stages) if stage.state != "waiting"]
        after = begun[-1] + 1 if begun else 0
        place = next((at for at in range(after, len(self.stages)) if self.stages[at].name == name), None)
        if place is None:
            place = after
            self.stages.insert(after, Stage(name, self.stages[after - 1].group if after else ""))
        for passed in self.stages[after:place]:
            passed.state = "skipped"
        stage = self.stages[place]
        stage.title, stage.unit, stage.size = title, unit, size
        stage.state, stage.started = "running", self.clock()
        self._begin()
        return stage

    def report(self, stage: Stage, done: int, total: int, remark: str = "") -> None:
        """Note how far a running stage is."""
        now = self.clock()
        stage.done, stage.total, stage.remark, stage.last = done, total, remark, now
        if stage.first is None:
            stage.first = (now, done)
        self.display.reported(stage)

    def end(self, stage: Stage, state: State) -> None:
        """Note how a running stage ended."""
        stage.ended, stage.state = self.clock(), state
        self.display.ended(stage)

    def left(self) -> Left | None:
        """Return how long the rest of the job will take; None while there is nothing to learn from."""
        return time_left(self.stages, self.clock())

    def _begin(self) -> None:
        if self.started is None:
            self.started = self.clock()
        self.display.began()


def time_left(stages: Sequence[Stage], now: float) -> Left | None:
    """Return the sum of what is left of every stage whose duration can be told; None when none can.

    A waiting stage takes (seconds / size of the finished stages of its kind) times its size; a size that nobody knows
    is that of the last started stage of its name. See `stage_left` for a running one.
    """
    counted = [stage for stage in stages if stage.state in ("waiting", "running") and not stage.brief]
    known = [seconds for seconds in (stage_left(stage, stages, now) for stage in counted) if seconds is not None]
    return Left(sum(known), len(known) == len(counted)) if known else None


def stage_left(stage: Stage, stages: Sequence[Stage], now: float) -> float | None:
    """Return how many seconds a waiting or running stage will yet take; None when nothing tells.

    A running stage goes on at its own rate, from the time of its last report; before that rate can be told it takes
    what finished stages of its kind took, less what has passed.
    """
    if stage.state == "running" and stage.rate is not None:
        return max(0.0, (stage.total - stage.done) / stage.rate - (now - stage.last))
    pace, size = _pace(stage, stages), _size(stage, stages)
    if pace is None or size is None:
        return None
    return max(0.0, pace * size - (now - stage.started if stage.state == "running" else 0.0))


def _pace(stage: Stage, stages: Sequence[Stage]) -> float | None:
    """Return seconds per size of the finished stages of the same kind."""
    kind = stage.kind or stage.name
    alike = [one for one in stages if (one.kind or one.name) == kind and one.state == "done" and not one.outcome]
    size = sum(one.size or 0.0 for one in alike)
    return sum(one.seconds for one in alike) / size if size else None


def _size(stage: Stage, stages: Sequence[Stage]) -> float | None:
    if stage.size is not None:
        return stage.size
    return next((one.size for one in reversed(stages) if one.name == stage.name and one.state != "waiting"), None)


class Silent:
    """The display of a job that nobody watches."""

    def began(self) -> None:
        """Show nothing."""

    def reported(self, stage: Stage) -> None:
        """Show nothing."""

    def ended(self, stage: Stage) -> None:
        """Show nothing."""


class Reporter:
    """Takes how far a stage is; called as a function of (done, total, remark)."""

    def __init__(self, job: Job, stage: Stage) -> None:
        """Report to a job about one of its stages."""
        self._job, self._stage = job, stage

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        """Show that `done` of `total` are done."""
        self._job.report(self._stage, done, total, remark)

    def spared(self, why: str) -> None:
        """Say that there was nothing to do: why is shown instead of the seconds, and no estimate learns from them."""
        self._stage.outcome = why


class Talk:
    """What can be said while working: notes, and the stages of a job. This one says nothing.

    `hjepa_eval.evaluation.live.display.Stderr` shows it on a terminal, in a notebook or in a log.
    """

    def __init__(self, *, quiet: bool = True, leader: bool = True) -> None:
        """Choose how much to say; of several ranks one is the `leader`, the others say only what concerns them."""
        self.quiet = quiet
        self.leader = leader
        self._job: Job | None = None

    def note(self, message: str) -> None:
        """Say one line, unless quiet or not the leader."""
        if self.leader:
            self.alert(message)

    def alert(self, message: str) -> None:
        """Say one line, unless quiet: what this process alone knows."""

    def show(self) -> AbstractContextManager[Job]:
        """Return a context that gives a job and shows its stages inside."""
        return nullcontext(Job(Silent()))

    @contextmanager
    def job(self) -> Iterator[Job]:
        """Show all stages inside as one job; inside another job they are part of that one."""
        if self._job is not None:
            yield self._job
            return
        with self.show() as job:
            self._job = job
            try:
                yield job
            finally:
                self._job = None

    def plan(self, stages: Sequence[Stage]) -> None:
        """Say which stages of the job are to come; without a job every stage is shown alone."""
        if self._job is not None:
            self._job.plan(stages)

    @contextmanager
    def progress(self, title: str, unit: str, *, stage: str = "", size: float = 1.0) -> Iterator[Reporter]:
        """Run a stage, and give a function of (done, total, remark) that shows how far it is.

        Args:
            title: what runs, in words that make sense alone.
            unit: what is counted; empty when the count says nothing to a reader.
            stage: its name in the job's plan; the title when nobody planned it.
            size: how much there is to do, as `Stage.size`.
        """
        with self.job() as job:
            running = job.start(stage or title, title=title, unit=unit, size=size)
            try:
                yield Reporter(job, running)
            except BaseException as error:
                job.end(running, "failed" if isinstance(error, Exception) else "interrupted")
                raise
            job.end(running, "done")
