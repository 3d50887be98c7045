"""Ridge classification in closed form: every penalty and its leave-one-out error from one decomposition.

Let X_c [N, D] be the centred features, Y_c [N, K] the centred targets (1 for the own class, -1 for the others), and
X_c = Z V^T with V the eigenvectors of X_c^T X_c = V diag(s) V^T. For a penalty a:

    weights in Z's coordinates   U = diag(1 / (s + a)) Z^T Y_c                        [D, K]
    fitted values                F = Z U                                              [N, K]
    leverage                     h_i = 1 / N + sum_j z_ij^2 / (s_j + a)               [N]
    left-out prediction          y_i - (y_i - f_i) / (1 - h_i), as if i had been absent from the fit

So a further penalty costs one product of N x D x K and no decomposition. Nothing of N x D or N x K numbers is kept:
Z^T Y_c is twice the sum of z over each class, and fitted values are made and counted a block of rows at a time.

That prediction has the intercept of the others too, to which the own class is 1 / N less frequent. Where a penalty
leaves no more of the features than that, all samples would be wrong, however good the level. So accuracy is counted
with the intercept of all: by f_i - y_i l_i N / (N - 1), l_i = h_i - 1 / N, over 1 - h_i.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.machine.devices import float32_products
from hjepa_eval.metrics.accuracy import accuracy, topk_accuracy
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.samples import Samples, StreamedSamples, check_samples
from hjepa_eval.probes.search.bank import as_bank, middle_of, numbered_blocks, spread_rows

DEFAULT_PENALTIES = tuple(float(a) for a in 10.0 ** np.arange(-3, 7))
_SMALL = 1 << 22
_BLOCK_ROWS = 4096


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
    train: Samples | StreamedSamples,
    test: Samples,
    *,
    num_classes: int,
    device: str = "cpu",
    penalties: Sequence[float] = DEFAULT_PENALTIES,
    class_names: Sequence[str] | None = None,
) -> RidgeResult:
    """Fit ridge regression to targets of +1 and -1, its penalty chosen by leave-one-out accuracy on train.

    Of penalties with equal accuracy the one with the smaller leave-one-out error is taken.

    Args:
        train: features [N, D], used as given; streamed ones are read three times and never held.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        device: where the products are computed; the answer is the same but for rounding.
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
    with float32_products():
        fitted = _Decomposition(train, num_classes, torch.device(device))
        left_out = fitted.leave_one_out(grid)
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
        weight=weight.to(torch.float32).cpu().numpy(),
        bias=(fitted.level - weight @ fitted.mean).to(torch.float32).cpu().numpy(),
        seconds=time.perf_counter() - started,
        notes=notes,
    )


class _Decomposition:
    """The eigenvectors of the features' covariance, and the features' sums over each class.

    Sums over samples run in float64, a block of rows at a time; fitted values of large sets are float32.
    All are divided by a power of two amid the sizes of the rows, so that no features leave the range of float32.
    """

    def __init__(self, train: Samples | StreamedSamples, num_classes: int, device: torch.device) -> None:
        self.bank, self.device, self.num_classes = as_bank(train.features), device, num_classes
        rows, width = self.bank.shape
        self.dtype = torch.float64 if rows * width <= _SMALL else torch.float32
        self.labels = torch.from_numpy(train.labels).to(device)
        # All in float64 about a row of the set, so that one pass gives mean and covariance of far features too.
        sample = torch.from_numpy(self.bank.rows(spread_rows(rows)))
        centre, self.scale = middle_of(sample)
        self.mean = centre.to(device)
        total = torch.zeros(width, dtype=torch.float64, device=device)
        covariance = torch.zeros(width, width, dtype=torch.float64, device=device)
        sums = torch.zeros(num_classes, width, dtype=torch.float64, device=device)
        for part, block in self._blocks():
            total += block.sum(dim=0)
            covariance += block.T @ block
            sums.index_add_(0, self.labels[part], block)
        middle = total / rows
        self.mean = self.mean + middle * self.scale
        covariance -= rows * torch.outer(middle, middle)
        counts = torch.bincount(self.labels, minlength=num_classes).to(torch.float64)
        sums -= counts[:, None] * middle
        spectrum, basis = torch.linalg.eigh(covariance.cpu())
        self.spectrum, self.basis = spectrum.clamp_min(0).to(device), basis.to(device)
        self.level = 2 * counts / rows - 1
        self.moments = 2 * (sums @ self.basis).T

    @property
    def _ahead(self) -> torch.Tensor:
        """How far each class's intercept is below the largest: beside those themselves, tiny features would be lost."""
        return self.level - self.level.max()

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the places of a block of rows, and the rows less the mean over the scale, float64 [M, D]."""
        for start, block in numbered_blocks(self.bank, _BLOCK_ROWS):
            rows = torch.sub(block.to(self.device), self.mean).div_(self.scale)
            yield slice(start, start + len(block)), rows

    def leave_one_out(self, penalties: Sequence[float]) -> dict[float, tuple[NDArray[np.bool_], float]]:
        """Return whether the fit to all others is right about each train sample [N], and its mean squared error."""
        count = len(self.labels)
        shrunk = {a: 1 / (self.spectrum + a / self.scale**2) for a in penalties}
        weights = {a: (each[:, None] * self.moments).to(self.dtype) for a, each in shrunk.items()}
        right = {a: np.empty(count, dtype=np.bool_) for a in penalties}
        errors = dict.fromkeys(penalties, 0.0)
        for part, rows in self._blocks():
            rotated = (rows @ self.basis).to(self.dtype)
            squares, labels = rotated.square(), self.labels[part]
            for a in penalties:
                slopes = (squares @ shrunk[a].to(self.dtype))[:, None]
                right[a][part], error = self._left_out(rotated @ weights[a], slopes, labels)
                errors[a] += error
        return {a: (right[a], errors[a] / (count * self.num_classes)) for a in penalties}

    def _left_out(
        self, fit: torch.Tensor, slopes: torch.Tensor, labels: torch.Tensor
    ) -> tuple[NDArray[np.bool_], float]:
        """Return which rows of a block are right without themselves, and their squared errors, for fits [M, K]."""
        count = len(self.labels)
        targets = (-1 - self.level).to(self.dtype).expand_as(fit).clone()
        targets.scatter_add_(1, labels[:, None], targets.new_full((len(fit), 1), 2.0))
        left = (1 - 1 / count - slopes).clamp_min(1e-9)
        error = torch.sub(targets, fit).div_(left).square_().sum(dtype=torch.float64)
        guess = targets.mul_(slopes * (-count / (count - 1))).add_(fit).div_(left).add_(self._ahead.to(self.dtype))
        return (guess.argmax(dim=1) == labels).cpu().numpy(), float(error)

    def solve(self, penalty: float) -> torch.Tensor:
        """Return the weight float64 [C, D], acting on features as given."""
        shrunk = 1 / (self.spectrum + penalty / self.scale**2)
        return torch.matmul(self.basis, shrunk[:, None] * self.moments).T / self.scale

    def predict(self, features: NDArray[np.float32], weight: torch.Tensor) -> NDArray[np.float64]:
        """Return logits float64 [N, C], but for a number that all classes share."""
        blocks = torch.split(torch.from_numpy(features), _BLOCK_ROWS)
        logits = [((block.to(self.device) - self.mean) @ weight.T + self._ahead).cpu() for block in blocks]
        return np.asarray(torch.cat(logits).numpy())
