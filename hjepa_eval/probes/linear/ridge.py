"""Ridge classification in closed form: every penalty and its leave-one-out error from one decomposition.

Let X_c [N, D] be the centred features, Y_c [N, K] the centred targets (1 for the own class, -1 for the others), and
X_c = Z V^T with V the eigenvectors of X_c^T X_c = V diag(s) V^T. For a penalty a:

    weights in Z's coordinates   U = diag(1 / (s + a)) Z^T Y_c                        [D, K]
    fitted values                F = Z U                                              [N, K]
    leverage                     h_i = 1 / N + sum_j z_ij^2 / (s_j + a)               [N]
    left-out prediction          y_i - (y_i - f_i) / (1 - h_i), as if i had been absent from the fit

So a further penalty costs one product of N x D x K and no decomposition.
"""

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
from hjepa_eval.probes.samples import Samples, check_samples

DEFAULT_PENALTIES = tuple(float(a) for a in 10.0 ** np.arange(-3, 7))
_SMALL = 1 << 22


@dataclass(frozen=True)
class RidgeResult:
    """Accuracy of a ridge classifier.

    Attributes:
        score: top-1 accuracy on test.
        top5: top-5 accuracy on test.
        penalty: the chosen one.
        val_scores: penalty -> leave-one-out accuracy on train.
        val_errors: penalty -> leave-one-out mean squared error on train, over samples and classes.
        predictions: int64 [N_test].
        weight: float32 [C, D].
        bias: float32 [C].
        seconds: wall-clock time.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
    top5: Interval
    penalty: float
    val_scores: dict[float, float]
    val_errors: dict[float, float]
    predictions: NDArray[np.int64]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    seconds: float
    notes: tuple[str, ...]


def ridge_regression(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    penalties: Sequence[float] = DEFAULT_PENALTIES,
    class_names: Sequence[str] | None = None,
) -> RidgeResult:
    """Fit ridge regression to targets of +1 and -1, its penalty chosen by leave-one-out accuracy on train.

    Of penalties with equal accuracy the one with the smaller leave-one-out error is taken.

    Args:
        train: features [N, D], used as given.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        penalties: alpha of scikit-learn's `Ridge`, all above 0.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, or a penalty not above 0.

    Source: Rifkin and Lippert, "Notes on regularized least squares", 2007; scikit-learn's `RidgeCV`, whose
        leave-one-out errors these are.

    Deviation: `RidgeCV` chooses by squared error; the choice here is by accuracy, the number that is reported.
    """
    started = time.perf_counter()
    train, test, notes = check_samples(train, test, num_classes=num_classes, class_names=class_names)
    grid = sorted({float(a) for a in penalties})
    if not grid or not all(0 < a < float("inf") for a in grid):
        raise ProbeError(f"every ridge penalty must be a number above 0, found {list(penalties)}")
    fitted = _Decomposition(train, num_classes)
    left_out = {a: fitted.leave_one_out(a) for a in grid}
    best = max(grid, key=lambda a: (left_out[a][0], -left_out[a][1]))
    weight, bias = fitted.solve(best)
    logits = (torch.from_numpy(test.features) @ weight.T + bias).numpy()
    predictions = logits.argmax(axis=1).astype(np.int64)
    return RidgeResult(
        score=accuracy(predictions, test.labels),
        top5=topk_accuracy(logits, test.labels, k=5),
        penalty=best,
        val_scores={a: left_out[a][0] for a in grid},
        val_errors={a: left_out[a][1] for a in grid},
        predictions=predictions,
        weight=weight.numpy(),
        bias=bias.numpy(),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


class _Decomposition:
    """Centred features in the eigenvectors of their covariance, and the targets; small ones in float64."""

    def __init__(self, train: Samples, num_classes: int) -> None:
        dtype = torch.float64 if train.features.size <= _SMALL else torch.float32
        rows = torch.from_numpy(train.features)
        self.labels = torch.from_numpy(train.labels)
        self.mean = rows.mean(dim=0, dtype=torch.float64)
        centred = (rows - self.mean.to(rows.dtype)).to(dtype) if dtype == torch.float32 else rows - self.mean
        spectrum, self.basis = torch.linalg.eigh((centred.T @ centred).to(torch.float64))
        self.spectrum = spectrum.clamp_min(0)
        self.rotated = centred @ self.basis.to(dtype)
        targets = 2.0 * torch.nn.functional.one_hot(self.labels, num_classes).to(dtype) - 1
        self.level = targets.mean(dim=0)
        self.targets = targets - self.level
        self.moments = (self.rotated.T @ self.targets).to(torch.float64)

    def leave_one_out(self, penalty: float) -> tuple[float, float]:
        """Return accuracy and mean squared error of every train sample predicted by the fit to the others."""
        shrunk = 1 / (self.spectrum + penalty)
        fit = self.rotated @ (shrunk[:, None] * self.moments).to(self.rotated.dtype)
        leverage = 1 / len(fit) + self.rotated.square() @ shrunk.to(self.rotated.dtype)
        residual = (self.targets - fit) / (1 - leverage).clamp_min(1e-9)[:, None]
        guess = (self.targets - residual + self.level).argmax(dim=1)
        return float((guess == self.labels).to(torch.float64).mean()), float(residual.square().mean())

    def solve(self, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight float32 [C, D] and bias float32 [C], acting on features as given."""
        weight = (self.basis @ (self.moments / (self.spectrum + penalty)[:, None])).T
        bias = self.level.to(torch.float64) - weight @ self.mean
        return weight.to(torch.float32), bias.to(torch.float32)
