"""Linear probe: multinomial logistic regression, C chosen on a held-out part of train, the test set touched once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import accuracy, topk_accuracy
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.linear.logistic_path import best_c, fit_logistic, search_c
from hjepa_eval.probes.samples import Samples, StreamedSamples, check_samples

Search = Literal["grid", "bisect"]

LARGEST_C = 1e8
DEFAULT_CS = tuple(float(c) for c in 10.0 ** np.linspace(-4, 4, 17))


@dataclass(frozen=True)
class LinearResult:
    """Accuracy of a linear probe.

    Attributes:
        score: top-1 accuracy on test.
        top5: top-5 accuracy on test.
        c: the chosen C.
        val_scores: C -> accuracy on the held-out part of train; empty if there was nothing to choose.
        val_score: of the chosen C; this and the next two are None if nothing was held out.
        val_logits: float32 [N_val, C] of the chosen C, fitted on the rest of train.
        val_labels: int64 [N_val].
        predictions: int64 [N_test].
        logits: float32 [N_test, C].
        objective: C * sum of cross-entropies + |W|^2 / 2 (of two classes |W|^2) over all of train, at the end.
        weight: float32 [C, D].
        bias: float32 [C].
        gap: a bound on how far the final fit's objective is above its minimum, as a share of it.
        converged: whether that is at most 1e-4.
        iterations: of the final fit.
        seconds: wall-clock time of choice, fit and test.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
    top5: Interval
    c: float
    val_scores: dict[float, float]
    val_score: float | None
    val_logits: NDArray[np.float32] | None
    val_labels: NDArray[np.int64] | None
    predictions: NDArray[np.int64]
    logits: NDArray[np.float32]
    objective: float
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    gap: float
    converged: bool
    iterations: int
    seconds: float
    notes: tuple[str, ...]


def logistic_regression(
    train: Samples | StreamedSamples,
    test: Samples,
    *,
    num_classes: int,
    device: str = "cpu",
    cs: Sequence[float] | None = None,
    search: Search = "grid",
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
        train: features [N, D], used as given: any normalisation belongs to the protocol that calls this. Of streamed
            ones one copy is held.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        device: where the fits are computed; the answer is the same but for rounding.
        cs: the grid of C. Default: 17 values from 1e-4 to 1e4, and further up to 1e8 for as long as the largest is the
            best. A single value is used without a choice.
        search: `grid` tries all of `cs`; `bisect` is CLIP's search from 1e-6 to 1e6 and takes no `cs`.
        val_fraction: share of each class held out for the choice.
        seed: of the held-out part.
        max_iter: iterations for each C.
        tol: relative accuracy of the objective at which L-BFGS stops, as estimated; the final fit goes on by Newton's
            method to a proven 1e-4.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, a C not above 0, `cs` given to a
            search by bisection, or classes too small to hold anything out.

    Source: DINOv2 `eval/log_regression.py` (10 % of train for the choice, refit on all of it).

    Deviation: the held-out part is stratified, as DINOv3's, where DINOv2's is a plain random tenth.
    """
    started = time.perf_counter()
    train, test, notes = check_samples(train, test, num_classes=num_classes, class_names=class_names)
    grid = sorted({float(c) for c in (DEFAULT_CS if cs is None else cs)})
    val_scores: dict[float, float] = {}
    held_out: _HeldOut | None = None
    if search == "bisect" and cs is not None:
        raise ProbeError("a search by bisection has its own values of C; leave out `cs`, or search the grid")
    if len(grid) > 1:
        held_out = _HeldOut(train, num_classes, val_fraction, seed, tol, max_iter, device)
        val_scores = _searched(held_out.accuracies, grid, search, grows=cs is None)
        grid = list(val_scores)
    best = best_c(val_scores or dict.fromkeys(grid, 0.0)) if grid else float("nan")
    path = fit_logistic(
        train.features,
        train.labels,
        num_classes=num_classes,
        device=device,
        cs=[best],
        tol=tol,
        max_iter=max_iter,
        certain=True,
    )
    if len(grid) > 1 and best in (grid[0], grid[-1]) and len(set(val_scores.values())) > 1:
        side = "smallest" if best == grid[0] else "largest"
        notes = (*notes, f"the chosen C = {best:g} is the {side} of the grid; a wider grid may do better")
    if not path.converged[0]:
        sure = f"proven only to {100 * path.gap[0]:.2g} % of its objective's minimum, not to 0.01 %"
        notes = (*notes, f"logistic regression stopped after {path.iterations[0]} iterations, {sure}")
    exact = path.scores(test.features, 0)
    logits, predictions = exact.astype(np.float32), exact.argmax(axis=1).astype(np.int64)
    return LinearResult(
        score=accuracy(predictions, test.labels),
        top5=topk_accuracy(exact, test.labels, k=5),
        c=best,
        val_scores=val_scores,
        val_score=val_scores[best] if held_out else None,
        val_logits=held_out.logits if held_out else None,
        val_labels=held_out.labels if held_out else None,
        predictions=predictions,
        logits=logits,
        objective=float(path.objective[0]),
        weight=path.weight[0].astype(np.float32),
        bias=path.bias[0].astype(np.float32),
        gap=float(path.gap[0]),
        converged=bool(path.converged[0]),
        iterations=int(path.iterations[0]),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _searched(
    tried: Callable[[Sequence[float]], Sequence[float]], grid: Sequence[float], search: Search, *, grows: bool
) -> dict[float, float]:
    """Return every C tried with its held-out accuracy; a grid that `grows` does so while the largest is the best."""
    if search == "bisect":
        return search_c(tried)
    scores = dict(zip(grid, tried(grid), strict=True))
    while grows and best_c(scores) == max(scores) < LARGEST_C:
        more = [max(scores) * 10.0 ** (step / 2) for step in range(1, 5)]
        scores |= dict(zip(more, tried(more), strict=True))
    return scores


class _HeldOut:
    """Accuracy on a held-out part of train after fits on the rest, and the logits there of the best C so far."""

    def __init__(
        self,
        train: Samples | StreamedSamples,
        num_classes: int,
        fraction: float,
        seed: int,
        tol: float,
        max_iter: int,
        device: str,
    ) -> None:
        kept, held = stratified_holdout(train.labels, fraction=fraction, seed=seed)
        self.kept, aside = train.take(kept), train.take(held)
        self.held = aside if isinstance(aside, Samples) else aside.read()
        self.labels = self.held.labels
        self.logits: NDArray[np.float32] | None = None
        self.best = (-1.0, 0.0)
        self.fit = partial(fit_logistic, num_classes=num_classes, device=device, tol=tol, max_iter=max_iter)

    def accuracies(self, cs: Sequence[float]) -> list[float]:
        """Return the accuracy for every C."""
        path = self.fit(self.kept.features, self.kept.labels, cs=cs)
        found = []
        for i, c in enumerate(cs):
            logits = path.scores(self.held.features, i)
            found.append(float((logits.argmax(axis=1) == self.labels).mean()))
            if (found[-1], -c) > self.best:
                self.best, self.logits = (found[-1], -c), logits.astype(np.float32)
        return found
