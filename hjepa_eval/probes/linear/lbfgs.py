"""L-BFGS for many independent problems at once, each with its own diagonal preconditioner and step length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# (points [A, P], numbers of the problems [A]) -> values float64 [A], gradients [A, P]
Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# (points [A, P], numbers of the problems [A]) -> diagonals of the Hessians [A, P], positive
Diagonal = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SUFFICIENT = 1e-4
_MAX_HALVINGS = 30
# A fresh diagonal costs one evaluation. Where classes separate it shrinks by orders of magnitude on the way:
# measured on digits at C = 100, 185 evaluations with a fresh one every 10 iterations, more than 2,000 with the first
# one kept.
_REFRESH = 10
# Where classes separate, float32 gradients are noise before the tolerance is met: a value that so many iterations did
# not lower by `tol` of it is as good as the arithmetic allows (measured on 5,000 x 384, 100 classes, C = 1000: 1.8 s
# instead of 300 iterations and 46 s for the same value).
_PATIENCE = 8
_LAST_GAIN = 10


@dataclass(frozen=True)
class Minimum:
    """Where each problem ended.

    Attributes:
        point: float64 [B, P].
        value: float64 [B].
        iterations: int64 [B].
        gradient: float64 [B, P].
    """

    point: torch.Tensor
    value: torch.Tensor
    iterations: torch.Tensor
    gradient: torch.Tensor


class _Memory:
    """The last `size` steps and gradient changes of A problems; a skipped pair has rho = 0 and changes nothing."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Keep `step` [A, P] and `change` [A, P] where their product is positive."""
        product = (step * change).sum(dim=1)
        good = product > 1e-12 * step.norm(dim=1) * change.norm(dim=1)
        self.pairs = [*self.pairs[1 - self.size :], (step, change, torch.where(good, 1 / product, 0.0))]

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all problems but `rows`."""
        self.pairs = [(step[rows], change[rows], rho[rows]) for step, change, rho in self.pairs]

    def direction(self, gradient: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Return minus the inverse Hessian's estimate times `gradient` [A, P], starting from diag(`inverse`) [A, P].

        Source: Nocedal and Wright, "Numerical Optimization", algorithm 7.4 and (7.20), with the diagonal in place of
            the identity.
        """
        result, weights = gradient.clone(), []
        for step, change, rho in reversed(self.pairs):
            weight = rho * (step * result).sum(dim=1)
            weights.append(weight)
            result -= weight[:, None] * change
        result *= inverse
        if self.pairs:
            step, change, rho = self.pairs[-1]
            # Scaled so that the diagonal agrees with the Hessian along the last step.
            ratio = (step * change).sum(dim=1) / (change.square() * inverse).sum(dim=1)
            result *= torch.where(rho > 0, ratio, 1.0)[:, None]
        for (step, change, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            result += (weight - rho * (change * result).sum(dim=1))[:, None] * step
        return result.neg_()


def minimise(
    evaluate: Evaluate,
    diagonal: Diagonal,
    start: torch.Tensor,
    *,
    trivial: float,
    tol: float,
    max_iter: int,
    memory: int = 10,
) -> Minimum:
    """Minimise B smooth convex problems from `start` [B, P] by preconditioned L-BFGS with backtracking.

    A problem is finished, which is no proof that it is solved, when the decrement g^T diag(H)^-1 g / 2, an estimate of
    how far its value is above the minimum, is at most `tol` times the value, and `tol` times what was gained over the
    trivial value: where a strong penalty leaves little to gain, the value alone would be near enough long before the
    solution is. The last step must have gained little, too, or many have gained nothing. Finished problems leave the
    batch, so the others cost less.

    Args:
        evaluate: values and gradients of the problems still running.
        diagonal: approximate diagonals of their Hessians.
        start: float64 [B, P].
        trivial: value of a model that ignores its input.
        tol: relative accuracy of the value.
        max_iter: iterations per problem.
        memory: pairs kept for the Hessian's estimate.
    """
    count = len(start)
    point, value = start.clone(), torch.empty(count, dtype=torch.float64)
    iterations = torch.zeros(count, dtype=torch.int64)
    gradients = torch.empty_like(start)
    running, x, stuck = torch.arange(count), start, torch.zeros(count, dtype=torch.bool)
    kept = _Memory(memory)
    f, g = evaluate(x, running)
    # A first step is always taken: where the penalty crushes the features it alone finds their direction.
    gained = torch.full_like(f, torch.inf)
    lowest, waited = f, torch.zeros(count, dtype=torch.int64)
    for iteration in range(max_iter + 1):
        if iteration % _REFRESH == 0:
            inverse = 1 / diagonal(x, running)
        done = 0.5 * (g.square() * inverse).sum(dim=1) <= tol * torch.minimum(f, trivial - f).maximum(1e-12 * f)
        # The estimate knows the Hessian's diagonal only: near separation it can be a thousand times too small.
        done &= gained <= _LAST_GAIN * tol * f
        lower = f < lowest - tol * f
        lowest, waited = torch.where(lower, f, lowest), torch.where(lower, 0, waited + 1)
        done |= waited > _PATIENCE
        point[running], value[running], iterations[running], gradients[running] = x, f, iteration, g
        rows = torch.nonzero(~(done | stuck))[:, 0]
        if len(rows) == 0 or iteration == max_iter:
            break
        if len(rows) < len(running):
            running, x, f, g, inverse = running[rows], x[rows], f[rows], g[rows], inverse[rows]
            lowest, waited = lowest[rows], waited[rows]
            kept.keep(rows)
        direction = kept.direction(g, inverse)
        new_x, new_f, new_g, stuck = _backtrack(evaluate, running, x, f, direction, (g * direction).sum(dim=1))
        kept.add(new_x - x, new_g - g)
        gained = f - new_f
        x, f, g = new_x, new_f, new_g
    return Minimum(point, value, iterations, gradients)


def _backtrack(
    evaluate: Evaluate,
    running: torch.Tensor,
    x: torch.Tensor,
    f: torch.Tensor,
    direction: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return point, value and gradient after a step that lowers the value enough, and which problems found none."""
    length = torch.ones(len(x), dtype=torch.float64)
    new_x = x + direction
    new_f, new_g = evaluate(new_x, running)
    # Float32 sums of the loss are sure to about 1e-8 of it: below that, a rise is rounding.
    slack = 1e-9 * f.abs()
    for _ in range(_MAX_HALVINGS):
        failed = torch.nonzero(~(new_f <= f + _SUFFICIENT * length * slope + slack))[:, 0]
        if len(failed) == 0:
            return new_x, new_f, new_g, torch.zeros(len(x), dtype=torch.bool)
        # The parabola through both values and the slope, kept within a tenth and a half of the last length.
        tried = length[failed]
        curve = 2 * (new_f[failed] - f[failed] - slope[failed] * tried)
        best = -slope[failed] * tried.square() / curve
        best = torch.where(torch.isfinite(best), best, 0.0)
        length[failed] = torch.minimum(torch.maximum(best, 0.1 * tried), 0.5 * tried)
        new_x[failed] = x[failed] + length[failed, None] * direction[failed]
        new_f[failed], new_g[failed] = evaluate(new_x[failed], running[failed])
    stuck = ~(new_f <= f + _SUFFICIENT * length * slope + slack)
    return torch.where(stuck[:, None], x, new_x), torch.where(stuck, f, new_f), new_g, stuck
