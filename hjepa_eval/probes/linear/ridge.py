"""Ridge classification in closed form: every penalty and its leave-one-out error from one decomposition.

Let X_c [N, D] be the centred features, Y_c [N, K] the centred targets (1 for the own class, -1 for the others), and
X_c = Z V^T with V the eigenvectors of X_c^T X_c = V diag(s) V^T. For a penalty a:

    weights in Z's coordinates   U = diag(1 / (s + a)) Z^T Y_c                        [D, K]
    fitted values                F = Z U                                              [N, K]
    leverage                     h_i = 1 / N + sum_j z_ij^2 / (s_j + a)               [N]
    left-out prediction          y_i - (y_i - f_i) / (1 - h_i), as if i had been absent from the fit

So a further penalty costs one product of N x D x K and no decomposition.

That prediction has the intercept of the others too, to which the own class is 1 / N less frequent. Where a penalty
leaves no more of the features than that, all samples would be wrong, however good the level. So accuracy is counted
with the intercept of all: by f_i - y_i l_i N / (N - 1), l_i = h_i - 1 / N, over 1 - h_i.
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
from hjepa_eval.probes.search.bank import middle_of, spread_rows

DEFAULT_PENALTIES = tuple(float(a) for a in 10.0 ** np.arange(-3, 7))
_SMALL = 1 << 22
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class RidgeResult:
    """Accuracy of a ridge classifier.

    Attributes:
        score: top-1 accuracy on test.
        top5: top-5 accuracy on test.
        penalty: the chosen one.
        val_scores: penalty -> leave-one-out accuracy on train, with the intercept of all of train.
        left_out_right: bool [N], which samples that counts as right for the chosen penalty.
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
    left_out_right: NDArray[np.bool_]
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
    accuracies = {a: float(right.mean()) for a, (right, _) in left_out.items()}
    # Errors that agree to nine digits are equal, and the smallest penalty is taken: all of them crush the features.
    best = max(grid, key=lambda a: (accuracies[a], -float(f"{left_out[a][1]:.9g}")))
    weight = fitted.solve(best)
    logits = fitted.predict(test.features, weight)
    if len(grid) > 1 and best in (grid[0], grid[-1]):
        side = "smallest" if best == grid[0] else "largest"
        notes = (*notes, f"the chosen penalty {best:g} is the {side} of the grid; a wider grid may do better")
    predictions = logits.argmax(axis=1).astype(np.int64)
    return RidgeResult(
        score=accuracy(predictions, test.labels),
        top5=topk_accuracy(logits, test.labels, k=5),
        penalty=best,
        val_scores=accuracies,
        left_out_right=left_out[best][0],
        val_errors={a: left_out[a][1] for a in grid},
        predictions=predictions,
        weight=weight.to(torch.float32).numpy(),
        bias=(fitted.level - weight @ fitted.mean).to(torch.float32).numpy(),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


class _Decomposition:
    """Centred features in the eigenvectors of their covariance, and the targets.

    Sums over samples run in float64, a block of rows at a time; of large sets the rotated features are kept in float32.
    All are divided by a power of two amid the sizes of the rows, so that no features leave the range of float32.
    """

    def __init__(self, train: Samples, num_classes: int) -> None:
        dtype = torch.float64 if train.features.size <= _SMALL else torch.float32
        rows = torch.from_numpy(train.features)
        self.labels = torch.from_numpy(train.labels)
        self.mean = rows.mean(dim=0, dtype=torch.float64)
        _, self.scale = middle_of(rows[torch.from_numpy(spread_rows(len(rows)))])
        covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for block in torch.split(rows, _BLOCK_ROWS):
            centred = self._centred(block)
            covariance += centred.T @ centred
        spectrum, self.basis = torch.linalg.eigh(covariance)
        self.spectrum = spectrum.clamp_min(0)
        counts = torch.bincount(self.labels, minlength=num_classes).to(torch.float64)
        self.level = 2 * counts / len(rows) - 1
        self.rotated = torch.empty(rows.shape, dtype=dtype)
        self.targets = 2.0 * torch.nn.functional.one_hot(self.labels, num_classes).to(dtype) - 1 - self.level.to(dtype)
        self.moments = torch.zeros(rows.shape[1], num_classes, dtype=torch.float64)
        for start, block in enumerate(torch.split(rows, _BLOCK_ROWS)):
            part = slice(start * _BLOCK_ROWS, start * _BLOCK_ROWS + len(block))
            rotated = self._centred(block) @ self.basis
            self.rotated[part] = rotated
            self.moments += rotated.T @ self.targets[part].to(torch.float64)

    @property
    def _ahead(self) -> torch.Tensor:
        """How far each class's intercept is below the largest: beside those themselves, tiny features would be lost."""
        return self.level - self.level.max()

    def _centred(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.sub(rows, self.mean).div_(self.scale)

    def leave_one_out(self, penalty: float) -> tuple[NDArray[np.bool_], float]:
        """Return whether the fit to all others is right about each train sample [N], and its mean squared error."""
        shrunk = 1 / (self.spectrum + penalty / self.scale**2)
        fit = self.rotated @ (shrunk[:, None] * self.moments).to(self.rotated.dtype)
        count = len(fit)
        slopes = (self.rotated.square() @ shrunk.to(self.rotated.dtype))[:, None]
        left = (1 - 1 / count - slopes).clamp_min(1e-9)
        residual = (self.targets - fit) / left
        guess = (fit - self.targets * slopes * (count / (count - 1))) / left + self._ahead.to(fit.dtype)
        right: NDArray[np.bool_] = (guess.argmax(dim=1) == self.labels).numpy()
        return right, float(residual.square().mean(dtype=torch.float64))

    def solve(self, penalty: float) -> torch.Tensor:
        """Return the weight float64 [C, D], acting on features as given."""
        shrunk = 1 / (self.spectrum + penalty / self.scale**2)
        return torch.matmul(self.basis, shrunk[:, None] * self.moments).T / self.scale

    def predict(self, features: NDArray[np.float32], weight: torch.Tensor) -> NDArray[np.float64]:
        """Return logits float64 [N, C], but for a number that all classes share."""
        blocks = torch.split(torch.from_numpy(features), _BLOCK_ROWS)
        logits = torch.cat([(block - self.mean) @ weight.T + self._ahead for block in blocks])
        return np.asarray(logits.numpy())
