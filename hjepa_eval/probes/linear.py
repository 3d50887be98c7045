"""Linear probe: multinomial logistic regression, C chosen on a held-out part of train, the test set touched once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import accuracy, topk_accuracy
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.lbfgs import minimise
from hjepa_eval.probes.samples import Samples, check_features, check_labels, check_samples
from hjepa_eval.probes.softmax_loss import SoftmaxLoss

DEFAULT_CS = tuple(float(c) for c in 10.0 ** np.linspace(-4, 4, 17))
# Matrix products of fewer columns than this waste most of the processor; more only cost memory.
_COLUMNS = 64


@dataclass(frozen=True)
class LogisticPath:
    """Logistic regressions of one data set, one for each C.

    Attributes:
        cs: float64 [B], in the order asked for.
        weight: float32 [B, C, D], acting on the features as they were given.
        bias: float32 [B, C], summing to 0.
        objective: float64 [B], C * sum of cross-entropies + |W|^2 / 2, scikit-learn's.
        iterations: int64 [B].
        converged: bool [B].
    """

    cs: NDArray[np.float64]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    objective: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]

    def scores(self, features: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """Return the logits [N, C] of `features` [N, D] at `cs[index]`."""
        logits = torch.from_numpy(features) @ torch.from_numpy(self.weight[index]).T
        return np.asarray((logits + torch.from_numpy(self.bias[index])).numpy())


@dataclass(frozen=True)
class LinearResult:
    """Accuracy of a linear probe.

    Attributes:
        score: top-1 accuracy on test.
        top5: top-5 accuracy on test.
        c: the chosen C.
        val_scores: C -> accuracy on the held-out part of train; empty if there was nothing to choose.
        predictions: int64 [N_test].
        logits: float32 [N_test, C].
        objective: C * sum of cross-entropies + |W|^2 / 2 over all of train, at the solution.
        weight: float32 [C, D].
        bias: float32 [C].
        converged: whether the final fit reached the tolerance.
        iterations: of the final fit.
        seconds: wall-clock time of choice, fit and test.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
    top5: Interval
    c: float
    val_scores: dict[float, float]
    predictions: NDArray[np.int64]
    logits: NDArray[np.float32]
    objective: float
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    converged: bool
    iterations: int
    seconds: float
    notes: tuple[str, ...]


def fit_logistic(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    cs: Sequence[float],
    tol: float = 1e-7,
    max_iter: int = 1000,
) -> LogisticPath:
    """Minimise `C * sum_i CE(W x_i + b, y_i) + |W|^2 / 2` for every C; the bias is not penalised.

    From the smallest C to the largest, a few neighbours at a time: they share their matrix products, and start where
    the last ones ended. `softmax_loss.py` has the derivation.

    Args:
        features: [N, D]; they are not standardised or normalised.
        labels: int64 [N], in [0, num_classes).
        num_classes: C.
        cs: inverse strengths of the penalty, all above 0.
        tol: relative accuracy of the objective, as estimated.
        max_iter: iterations for each C.

    Raises:
        ProbeError: NaN, labels outside the range, or a C that is not above 0.

    Source: the objective of scikit-learn's `LogisticRegression` (L2, lbfgs).
    """
    features = check_features(features, "train")
    labels = check_labels(labels, "train", num_samples=len(features), num_classes=num_classes)
    values = np.asarray(cs, dtype=np.float64)
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ProbeError(f"every C must be a number above 0, found {list(cs)}")
    loss = SoftmaxLoss(features, labels, num_classes)
    order = np.argsort(values, kind="stable")
    start = loss.trivial()
    parts = []
    with loss.threads():
        for group in np.array_split(order, -(-len(order) // max(1, _COLUMNS // num_classes))):
            penalty = torch.from_numpy(1 / (values[group] * len(labels)))
            parts.append(_fit_group(loss, penalty, start, tol, max_iter))
            start = parts[-1][0][-1].flatten()
    weights, objective, iterations, converged = (torch.cat(each) for each in zip(*parts, strict=True))
    back = torch.from_numpy(np.argsort(order))
    weight, bias = loss.to_features(weights[back])
    return LogisticPath(
        cs=values,
        weight=weight.to(torch.float32).numpy(),
        bias=bias.to(torch.float32).numpy(),
        objective=objective[back].numpy() * values * len(labels),
        iterations=iterations[back].numpy(),
        converged=converged[back].numpy(),
    )


def _fit_group(
    loss: SoftmaxLoss, penalty: torch.Tensor, start: torch.Tensor, tol: float, max_iter: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weights [A, K, D + 1], mean objective, iterations and convergence [A] for A values of `penalty`."""
    shape = (-1, loss.num_classes, loss.rotated.shape[1])
    first = start.expand(len(penalty), -1).contiguous()

    def evaluate(points: torch.Tensor, problems: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = loss.evaluate(points.view(shape), penalty[problems])
        return value, gradient.flatten(1)

    def diagonal(points: torch.Tensor, problems: torch.Tensor) -> torch.Tensor:
        return loss.diagonal(points.view(shape), penalty[problems]).flatten(1)

    found = minimise(evaluate, diagonal, first, trivial=loss.entropy, tol=tol, max_iter=max_iter)
    return found.point.view(shape), found.value, found.iterations, found.converged


def logistic_regression(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    cs: Sequence[float] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    max_iter: int = 1000,
    tol: float = 1e-7,
    class_names: Sequence[str] | None = None,
) -> LinearResult:
    """Fit logistic regression on `train` and report its accuracy on `test`.

    C is chosen by accuracy on a held-out stratified part of train (of equal accuracies the smallest C), then all of
    train is fitted again with that C. The test set is used once, for the reported number.

    Args:
        train: features [N, D], used as given: any normalisation belongs to the protocol that calls this.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        cs: the grid of C; default 17 values from 1e-4 to 1e4. A single value is used without a choice.
        val_fraction: share of each class held out for the choice.
        seed: of the held-out part.
        max_iter: iterations for each C.
        tol: relative accuracy of the objective.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, a C not above 0, or classes too
            small to hold anything out.

    Source: DINOv2 `eval/log_regression.py` (10 % of train for the choice, refit on all of it).

    Deviation: the held-out part is stratified, as DINOv3's, where DINOv2's is a plain random tenth.
    """
    started = time.perf_counter()
    train, test, notes = check_samples(train, test, num_classes=num_classes, class_names=class_names)
    grid = sorted({float(c) for c in (DEFAULT_CS if cs is None else cs)})
    val_scores: dict[float, float] = {}
    if len(grid) > 1:
        kept, held = stratified_holdout(train.labels, fraction=val_fraction, seed=seed)
        val_scores = _validate(train.take(kept), train.take(held), num_classes, grid, tol, max_iter)
    best = max(grid, key=lambda c: (val_scores.get(c, 0.0), -c)) if grid else float("nan")
    path = fit_logistic(train.features, train.labels, num_classes=num_classes, cs=[best], tol=tol, max_iter=max_iter)
    if len(grid) > 1 and best in (grid[0], grid[-1]) and len(set(val_scores.values())) > 1:
        side = "smallest" if best == grid[0] else "largest"
        notes = (*notes, f"the chosen C = {best:g} is the {side} of the grid; a wider grid may do better")
    if not path.converged[0]:
        notes = (*notes, f"logistic regression stopped after {path.iterations[0]} iterations, before its tolerance")
    logits = path.scores(test.features, 0)
    predictions = logits.argmax(axis=1).astype(np.int64)
    return LinearResult(
        score=accuracy(predictions, test.labels),
        top5=topk_accuracy(logits, test.labels, k=5),
        c=best,
        val_scores=val_scores,
        predictions=predictions,
        logits=logits,
        objective=float(path.objective[0]),
        weight=path.weight[0],
        bias=path.bias[0],
        converged=bool(path.converged[0]),
        iterations=int(path.iterations[0]),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _validate(
    kept: Samples, held: Samples, num_classes: int, grid: Sequence[float], tol: float, max_iter: int
) -> dict[float, float]:
    """Return the accuracy on `held` for every C of `grid`, fitted on `kept`."""
    path = fit_logistic(kept.features, kept.labels, num_classes=num_classes, cs=grid, tol=tol, max_iter=max_iter)
    right = [float((path.scores(held.features, i).argmax(axis=1) == held.labels).mean()) for i in range(len(grid))]
    return dict(zip(grid, right, strict=True))
