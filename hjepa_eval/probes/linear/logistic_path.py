"""Logistic regressions of one data set for many C, each started where the last ended, and CLIP's search for C."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.machine.devices import float32_products
from hjepa_eval.probes.linear.lbfgs import minimise
from hjepa_eval.probes.linear.newton import polish
from hjepa_eval.probes.linear.softmax_loss import SoftmaxLoss
from hjepa_eval.probes.samples import check_features, check_labels
from hjepa_eval.probes.search.bank import Bank
from hjepa_eval.probes.side_by_side import one_thread

# Positions on 97 points from 1e-6 to 1e6, eight steps in each factor of ten.
_LAST = 96
_STEPS_PER_DECADE = 8
_FIRST_STEP = 16


def best_c(scores: Mapping[float, float]) -> float:
    """Return the C with the best score; of equal scores the smallest C, the strongest penalty."""
    return max(scores, key=lambda c: (scores[c], -c))


def search_c(evaluate: Callable[[Sequence[float]], Sequence[float]]) -> dict[float, float]:
    """Return every C tried with its score, by rising C; `best_c` names the winner.

    Seven values from 1e-6 to 1e6, then both neighbours of the best so far at 8, 4, 2 and 1 eighths of a factor of ten:
    at most 15 of 97 points, and the best of all 97 if the score rises to one peak and falls.

    Args:
        evaluate: scores of several C, given by rising C; called five times at most.

    Source: CLIP, arXiv:2103.00020, appendix A.3.
    """
    scores: dict[int, float] = {}

    def try_out(places: Sequence[int]) -> None:
        new = [place for place in places if 0 <= place <= _LAST and place not in scores]
        if new:
            scores.update(zip(new, evaluate([_c(place) for place in new]), strict=True))

    try_out(range(0, _LAST + 1, _FIRST_STEP))
    step = _FIRST_STEP // 2
    while step:
        peak = max(scores, key=lambda place: (scores[place], -place))
        try_out([peak - step, peak + step])
        step //= 2
    return {_c(place): scores[place] for place in sorted(scores)}


def _c(place: int) -> float:
    """Return the C at `place` of the 97 points."""
    return float(10.0 ** (place / _STEPS_PER_DECADE - 6))


# Matrix products of fewer columns than this waste most of the processor; more only cost memory.
_COLUMNS = 64
_BLOCK_ROWS = 8192
# A bound on the distance from the minimum, as a share of it, at which a fit counts as solved.
CERTAIN = 1e-4


@dataclass(frozen=True)
class LogisticPath:
    """Logistic regressions of one data set, one for each C.

    Attributes:
        cs: float64 [B], in the order asked for.
        weight: float64 [B, C, D], acting on the features as they were given.
        bias: float64 [B, C], summing to 0.
        objective: float64 [B], C * sum of cross-entropies + |W|^2 / 2, scikit-learn's; of two classes |W|^2.
        iterations: int64 [B].
        gap: float64 [B], a bound on how far the objective is above its minimum, as a share of it.
    """

    cs: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    objective: NDArray[np.float64]
    iterations: NDArray[np.int64]
    gap: NDArray[np.float64]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each gap is at most 1e-4."""
        return self.gap <= CERTAIN

    def scores(self, features: NDArray[np.float32], index: int) -> NDArray[np.float64]:
        """Return the logits float64 [N, C] of `features` [N, D] at `cs[index]`."""
        weight, bias = torch.from_numpy(self.weight[index]), torch.from_numpy(self.bias[index])
        # The bias takes back what the weights give to the features' common part, so both in float64.
        blocks = torch.split(torch.from_numpy(features), _BLOCK_ROWS)
        return np.asarray(torch.cat([block.to(torch.float64) @ weight.T + bias for block in blocks]).numpy())


def fit_logistic(
    features: NDArray[np.float32] | Bank,
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    device: str = "cpu",
    cs: Sequence[float],
    tol: float = 1e-7,
    max_iter: int = 1000,
    certain: bool = False,
) -> LogisticPath:
    """Minimise `C * sum_i CE(W x_i + b, y_i) + |W|^2 / 2` for every C; the bias is not penalised.

    With two classes in train scikit-learn has one weight vector v. As v / 2 and -v / 2 it has half the penalty, so
    |W|^2 is penalised there instead of |W|^2 / 2.

    From the smallest C to the largest, a few neighbours at a time: they share their matrix products, and start where
    the last ones ended. `softmax_loss.py` has the derivation.

    Args:
        features: [N, D]; they are not standardised or normalised. Of a bank one copy is held, in float32 when large.
        labels: int64 [N], in [0, num_classes).
        num_classes: C.
        device: where the products are computed.
        cs: inverse strengths of the penalty, all above 0.
        tol: relative accuracy of the objective at which L-BFGS stops, as estimated.
        max_iter: iterations for each C.
        certain: go on by Newton's method until the gap is at most 1e-4, or no step helps; a search among many C can do
            without.

    Raises:
        ProbeError: NaN, labels outside the range, or a C that is not above 0.

    Source: the objective of scikit-learn's `LogisticRegression` (L2, lbfgs).
    """
    if isinstance(features, np.ndarray):
        features = check_features(features, "train")
    labels = check_labels(labels, "train", num_samples=features.shape[0], num_classes=num_classes)
    values = np.asarray(cs, dtype=np.float64)
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ProbeError(f"every C must be a number above 0, found {list(cs)}")
    loss = SoftmaxLoss(features, labels, num_classes, device=device)
    order = np.argsort(values, kind="stable")
    start = loss.trivial()
    halves = 2 if len(np.unique(labels)) == 2 else 1
    penalties = halves / (values * len(labels) * loss.scale**2)
    parts = []
    with one_thread(loss.small), float32_products():
        for group in np.array_split(order, -(-len(order) // max(1, _COLUMNS // num_classes))):
            penalty = torch.from_numpy(penalties[group])
            parts.append(_fit_group(loss, penalty, start, tol, max_iter, certain=certain))
            start = parts[-1][0][-1].flatten()
    weights, objective, iterations, gap = (torch.cat(each) for each in zip(*parts, strict=True))
    back = torch.from_numpy(np.argsort(order))
    weight, bias = loss.to_features(weights[back])
    return LogisticPath(
        cs=values,
        weight=weight.numpy(),
        bias=bias.numpy(),
        objective=objective[back].numpy() * values * len(labels),
        iterations=iterations[back].numpy(),
        gap=gap[back].numpy(),
    )


def _fit_group(
    loss: SoftmaxLoss, penalty: torch.Tensor, start: torch.Tensor, tol: float, max_iter: int, *, certain: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weights [A, K, D + 1], mean objective, iterations and gap [A] for A values of `penalty`."""
    shape = (-1, loss.num_classes, loss.rotated.shape[1])
    first = start.expand(len(penalty), -1).contiguous()

    def evaluate(points: torch.Tensor, problems: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = loss.evaluate(points.view(shape), penalty[problems])
        return value, gradient.flatten(1)

    def diagonal(points: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
        return loss.diagonal(points.view(shape), penalty[problems]).flatten(1)

    ended = minimise(evaluate, diagonal, first, trivial=loss.entropy, tol=tol, max_iter=max_iter)
    weights, value, iterations = ended.point.view(shape), ended.value, ended.iterations
    gap = loss.gap(value, ended.gradient.view(shape), penalty)
    for number in torch.nonzero(gap > CERTAIN)[:, 0].tolist() if certain else ():
        part = slice(number, number + 1)
        weights[part], value[part], gap[part], steps = _polished(loss, penalty[part], weights[part])
        iterations[part] += steps
    return weights, value, iterations, gap


def _polished(
    loss: SoftmaxLoss, penalty: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Return weights [1, K, D + 1], mean objective and gap [1] after Newton's steps, and how many."""
    shape = weights.shape

    def evaluate(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, gradient = loss.evaluate(point.view(shape), penalty)
        return float(value), gradient.flatten()

    def product(point: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        return loss.product(point.view(shape), direction.view(shape), penalty).flatten()

    def done(value: float, gradient: torch.Tensor) -> bool:
        wanted = 0.1 * CERTAIN
        return bool(loss.gap(torch.tensor([value]), gradient.view(shape), penalty) <= wanted)

    def diagonal(point: torch.Tensor) -> torch.Tensor:
        return loss.diagonal(point.view(shape), penalty).flatten()

    # Float32 gradients are noise before the bound is met, where classes separate.
    with loss.exact():
        point, steps = polish(evaluate, product, diagonal, weights.flatten().clone(), done=done)
        value, gradient = loss.evaluate(point.view(shape), penalty)
    return point.view(shape), value, loss.gap(value, gradient, penalty), steps
