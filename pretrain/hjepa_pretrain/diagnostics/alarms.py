"""What stops a run: numbers that are not finite, collapse, a missed milestone; and which measurement was the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hjepa_eval.errors import TrainingError
from hjepa_eval.metrics.intervals import wilson
from hjepa_pretrain.config.settings import DiagnosticsSettings

_AGAINST_COLLAPSE = "lower train.lr, raise model.ema.momentum, or add train.whole_image.variance or sigreg"


# A level whose RankMe was never so low a share of its best is watched with a word, before anything stops.
_WARNED_AT = 0.5


class AlarmError(TrainingError):
    """A run must stop although its weights are finite: they are worth keeping, and looking at."""


class BestRank(NamedTuple):
    """The largest RankMe of a level so far, the step it was measured at, and the loss then (0 before the first)."""

    rank: float
    step: int
    loss: float


class Alarms:
    """Judges one measurement after another. A JEPA loss that rises is no alarm: its targets move.

    Attributes:
        improved: whether the last measurement is the best so far, by kNN of its best level.
        best: that kNN, None before the first.
        best_step: where it was measured.
        best_level: which level it was.
        best_per_level: the best kNN of every level so far.
        warnings: what the last measurement should be watched for, in words.
    """

    def __init__(self, settings: DiagnosticsSettings, widths: Sequence[int]) -> None:
        """Judge by `settings`; `widths` are those of the levels."""
        self.settings, self.widths = settings, tuple(widths)
        self.improved = False
        self.best: float | None = None
        self.best_step, self.best_level = 0, 0
        self.best_per_level: list[float] = []
        self.warnings: list[str] = []
        self._waited = 0
        self._measured: list[tuple[int, list[float | None]]] = []
        self._judged = 0
        self._losses: dict[str, float] = {}
        self._ranks: list[float] = []
        self._best_ranks: list[BestRank] = []
        self._warned: set[int] = set()

    def begin(self, untrained: Sequence[float]) -> None:
        """Take the RankMe of every level before the first step, to compare with."""
        self._best_ranks = [BestRank(rank, 0, 0.0) for rank in untrained]

    def check(self, step: int, progress: float, losses: Mapping[str, float], diagnosis: Mapping[str, Any]) -> None:
        """Judge the measurement of `step`.

        Args:
            step: steps done.
            progress: share of the run that is done.
            losses: means over the last log interval; `level_0`, ... where levels are predicted, else `loss`.
            diagnosis: of `diagnose`; an empty one is not judged.

        Raises:
            TrainingError: the run must stop; the message says at which step, which level, why, and what to do.
        """
        self.improved, self.warnings = False, []
        if not diagnosis:
            return
        self._check_finite(step, diagnosis)
        self._check_deviation(step, diagnosis["std"])
        self._check_mean(step, diagnosis["mean_energy"])
        self._check_rank(step, diagnosis)
        self._check_drop(step, losses, diagnosis["rankme"])
        self._check_creep(step, losses, diagnosis["rankme"])
        self._losses, self._ranks = dict(losses), list(diagnosis["rankme"])
        self._judged = int(diagnosis.get("knn_images") or 0)
        self._rank_scores(step, diagnosis["knn"])
        self._check_milestones(step, progress)

    def _check_finite(self, step: int, diagnosis: Mapping[str, Any]) -> None:
        for name, values in diagnosis.items():
            for level, value in enumerate(values if isinstance(values, list) else []):
                if value is not None and not math.isfinite(value):
                    raise TrainingError(
                        f"step {step}: {name} of level {level} is {value}, its features are not finite; "
                        "lower train.lr or train.clip, or try train.precision=fp32"
                    )

    def _check_deviation(self, step: int, deviations: Sequence[float]) -> None:
        smallest = self.settings.smallest_std
        for level, deviation in enumerate(deviations):
            if deviation < smallest:
                raise AlarmError(
                    f"step {step}: level {level} has collapsed, its features deviate by {deviation:.2g} over images "
                    f"(diagnostics.smallest_std is {smallest:g}); {_AGAINST_COLLAPSE}"
                )

    def _check_mean(self, step: int, energies: Sequence[float]) -> None:
        largest = self.settings.largest_mean_energy
        for level, energy in enumerate(energies):
            if energy > largest:
                raise AlarmError(
                    f"step {step}: level {level} says nearly the same of every image, {energy:.4f} of its energy is "
                    f"the mean (diagnostics.largest_mean_energy is {largest:g}); {_AGAINST_COLLAPSE}"
                )

    def _check_rank(self, step: int, diagnosis: Mapping[str, Any]) -> None:
        share = self.settings.smallest_rank
        for level, (rank, width) in enumerate(zip(diagnosis["rankme"], self.widths, strict=True)):
            most = min(width, int(diagnosis["images"]))  # No more directions than images can be seen.
            if rank < share * most:
                raise AlarmError(
                    f"step {step}: level {level} uses few directions, RankMe {rank:.1f} of {most} "
                    f"(diagnostics.smallest_rank is {share:g}); {_AGAINST_COLLAPSE}"
                )

    def _check_drop(self, step: int, losses: Mapping[str, float], ranks: Sequence[float]) -> None:
        """Compare with the last measurement: an easier task AND fewer directions is a target that gave way."""
        kept = 1.0 - self.settings.rank_drop
        if not self.settings.rank_drop:
            return
        for level, (before, rank) in enumerate(zip(self._ranks, ranks, strict=False)):
            name = f"level_{level}" if f"level_{level}" in losses else "loss"
            old, new = self._losses.get(name, 0.0), losses.get(name, math.inf)
            if old > 0 and new <= kept * old and rank <= kept * before:
                raise AlarmError(
                    f"step {step}: level {level} collapsed partly, since the last measurement its loss fell from "
                    f"{old:.4g} to {new:.4g} and its RankMe from {before:.1f} to {rank:.1f} "
                    f"(diagnostics.rank_drop is {self.settings.rank_drop:g}); {_AGAINST_COLLAPSE}"
                )

    def _check_creep(self, step: int, losses: Mapping[str, float], ranks: Sequence[float]) -> None:
        """Compare with the best measurement so far: a collapse that creeps loses little between any two of them.

        A level is warned of, once, at half its best RankMe. What stops is that since then the loss has lost the share
        `diagnostics.rank_drop`, and the RankMe twice over.
        """
        kept = 1.0 - self.settings.rank_drop
        for level, rank in enumerate(ranks):
            loss = losses.get(f"level_{level}", losses.get("loss", math.inf))
            if level >= len(self._best_ranks):
                self._best_ranks.append(BestRank(rank, step, loss))
            best = self._best_ranks[level]
            if rank >= best.rank:
                self._best_ranks[level] = BestRank(rank, step, loss)
                self._warned.discard(level)
                continue
            since = f"since step {best.step}" if best.step else "since before the first step"
            fall = f"its RankMe fell from {best.rank:.1f} to {rank:.1f} {since}"
            if self.settings.rank_drop and best.loss > 0 and loss <= kept * best.loss and rank <= kept**2 * best.rank:
                raise AlarmError(
                    f"step {step}: level {level} collapsed bit by bit, {fall}, its loss from {best.loss:.4g} to "
                    f"{loss:.4g} (diagnostics.rank_drop is {self.settings.rank_drop:g}); {_AGAINST_COLLAPSE}"
                )
            if rank <= _WARNED_AT * best.rank and level not in self._warned:
                self._warned.add(level)
                self.warnings.append(f"step {step}: level {level} may be collapsing, {fall}; {_AGAINST_COLLAPSE}")

    def _rank_scores(self, step: int, scores: Sequence[float | None]) -> None:
        """Note whether the best level is better than ever."""
        known = [-math.inf if score is None else score for score in scores]
        top = max(known, default=-math.inf)
        if top == -math.inf:
            return
        self._measured.append((step, list(scores)))
        past = self.best_per_level or known
        self.best_per_level = [max(pair) for pair in zip(past, known, strict=True)]
        better = self.best is None or top > self.best
        # Of equal measurements the later one stays: it saw more images.
        self.improved = better or top == self.best
        self._waited = 0 if better else self._waited + 1
        if self.improved:
            self.best, self.best_step, self.best_level = top, step, known.index(top)

    def _check_milestones(self, step: int, progress: float) -> None:
        for when, least in self.settings.milestones:
            if progress < when or (self.best is not None and self.best >= least):
                continue
            reason = "no kNN is measured, since the images have no two classes"
            if self.best is not None:
                reason = f"the best kNN so far is {self.best:.4f} (level {self.best_level}, step {self.best_step})"
            raise AlarmError(
                f"step {step}: {reason}, but {least:g} was due at {when:.0%} of the run; "
                "change the recipe, or diagnostics.milestones"
            )

    @property
    def should_stop(self) -> str | None:
        """Why the run may stop early, which is no error; None while it should go on."""
        patience = self.settings.patience
        if patience is None or self.best is None or self._waited < patience:
            return None
        return (
            f"stopped early: no better kNN in {self._waited} measurements; "
            f"the best is {self.best:.4f}, level {self.best_level}, step {self.best_step}"
        )

    @property
    def best_so_far(self) -> dict[str, Any] | None:
        """The best kNN as JSON values; None before the first.

        `knn`, `step`, `level`, and `per_level`, the best of every level; where the number of held-out images is known,
        `interval` too, 95 %, and what lies within it, which these images cannot tell from the best: `tied_levels` of
        the same step, and `tied_steps`, other measurements.
        """
        if self.best is None:
            return None
        best = {
            "knn": self.best,
            "step": self.best_step,
            "level": self.best_level,
            "per_level": list(self.best_per_level),
        }
        return {**best, **self._ties(self.best)} if self._judged else best

    def _ties(self, best: float) -> dict[str, Any]:
        """Return the interval of the best score, and which levels and steps have scores within it."""
        interval = wilson(round(best * self._judged), self._judged)
        within = {
            step: [level for level, score in enumerate(scores) if score is not None and score >= interval.low]
            for step, scores in self._measured
        }
        return {
            "interval": [round(interval.low, 6), round(interval.high, 6)],
            "tied_levels": [level for level in within.get(self.best_step, []) if level != self.best_level],
            "tied_steps": [step for step, levels in within.items() if levels and step != self.best_step],
        }

    def state(self) -> dict[str, Any]:
        """Return JSON values from which `restore` goes on exactly here."""
        return {
            "best": self.best_so_far,
            "waited": self._waited,
            "measured": [[step, scores] for step, scores in self._measured],
            "judged": self._judged,
            "losses": dict(self._losses),
            "ranks": list(self._ranks),
            "best_ranks": [list(best) for best in self._best_ranks],
            "warned": sorted(self._warned),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        best = state["best"]
        self.improved = False
        self.best = None if best is None else float(best["knn"])
        self.best_step, self.best_level = (0, 0) if best is None else (int(best["step"]), int(best["level"]))
        self.best_per_level = [] if best is None else [float(score) for score in best["per_level"]]
        self._waited = int(state["waited"])
        # Checkpoints of older versions do not say what was measured: ties are those since then.
        self._measured = [(int(step), list(scores)) for step, scores in state.get("measured", [])]
        self._judged = int(state.get("judged", 0))
        self._losses, self._ranks = dict(state["losses"]), list(state["ranks"])
        # Checkpoints of older versions have none.
        self._best_ranks = [
            BestRank(float(rank), int(step), float(loss)) for rank, step, loss in state.get("best_ranks", [])
        ]
        self._warned = set(state.get("warned", []))
