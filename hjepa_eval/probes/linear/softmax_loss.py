"""The multinomial logistic loss for many penalties at once, in coordinates where its Hessian is nearly diagonal.

Let X [N, D] be the features, m their mean, and X_c = X - m = Z V^T with V [D, D] the eigenvectors of the covariance.
For weights W [K, D] and bias b [K], put U = W V and c = b + W m. Then

    logits     W x + b  =  U z + c                      (z a row of Z: the loss is the same function)
    penalty    |W|^2    =  |U|^2                        (V is orthogonal: so is the penalty)
                  of features divided by a size s: |U|^2 / s^2
    Hessian    mean_i (diag(p_i) - p_i p_i^T) kron z_i z_i^T + I / (C N)

Were all p_i the same, the Hessian's D x D blocks would be the covariance of z, which is diagonal. So the diagonal of
the Hessian, h_kj = mean_i p_ik (1 - p_ik) z_ij^2 + 1 / (C N), is a preconditioner that mends what makes logistic
regression
slow: features whose variances differ by factors of 10^6. And as z has mean 0, the bias hardly couples with the weights.

Source: the bound (diag(p) - p p^T) <= (I - 11^T / K) / 2 of Boehning (1992) has the same eigenvectors; the diagonal
taken at the current p follows the path of C, where the bound would be too pessimistic once the p_i are near 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.probes.search.bank import Bank, as_bank, middle_of, numbered_blocks, spread_rows

_BLOCK_ELEMENTS = 1 << 20
_SMALL = 1 << 20
_PART_ROWS = 4096


class SoftmaxLoss:
    """Mean cross-entropy plus |U|^2 / (2 C N) for several C, each weights [K, D + 1] with the bias as last column."""

    def __init__(
        self,
        features: NDArray[np.float32] | Bank,
        labels: NDArray[np.int64],
        num_classes: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """Rotate `features` [N, D], an array or a bank of which no second copy is made, and keep them on `device`."""
        self.device = torch.device(device)
        bank = as_bank(features)
        count, width = bank.shape
        # Small problems in float64, where it costs nothing; large ones multiply in float32 and add up in float64.
        self.small = count * width <= _SMALL
        self.dtype = torch.float64 if self.small else torch.float32
        # A power of two amid the sizes of the rows, so that no features leave the range of float32.
        _, self.scale = middle_of(torch.from_numpy(bank.rows(spread_rows(count))))
        self.mean = torch.zeros(width, dtype=torch.float64)
        for _, part in numbered_blocks(bank, _PART_ROWS):
            self.mean += part.sum(dim=0, dtype=torch.float64)
        self.mean /= count
        self.rotated = torch.empty(count, width + 1, dtype=self.dtype, device=self.device)
        covariance = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        for first, part in numbered_blocks(bank, _PART_ROWS):
            out = self.rotated[first : first + len(part), :-1]
            out.copy_(torch.sub(part, self.mean).div_(self.scale))
            covariance += out.T @ out
        self.basis = torch.linalg.eigh(covariance.cpu() / count).eigenvectors
        turn = self.basis.to(self.device, self.dtype)
        for out in torch.split(self.rotated[:, :-1], _PART_ROWS):
            out.copy_(out @ turn)
        self.rotated[:, -1] = 1
        self.labels = torch.from_numpy(labels).to(self.device)
        self.num_classes = num_classes
        counts = torch.bincount(torch.from_numpy(labels), minlength=num_classes).to(torch.float64)
        self.shares = counts / count
        # The loss of the best model that ignores its input.
        self.entropy = float(-torch.special.xlogy(self.shares, self.shares).sum())

    def trivial(self) -> torch.Tensor:
        """Return flat weights [K * (D + 1)] of the model that predicts the shares of the classes for every input."""
        weights = torch.zeros(self.num_classes, self.rotated.shape[1], dtype=torch.float64)
        # A class without samples has no logarithm; half a sample keeps its bias low and finite.
        weights[:, -1] = self.shares.clamp_min(0.5 / len(self.labels)).log()
        return weights.flatten()

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Compute in float64 inside the block, whatever the size."""
        before, self.dtype = self.dtype, torch.float64
        try:
            yield
        finally:
            self.dtype = before

    def _blocks(self, problems: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield pieces of rows and labels small enough that their logits stay in the processor's cache."""
        size = max(256, _BLOCK_ELEMENTS // (problems * self.num_classes))
        rows = (part.to(self.dtype) for part in torch.split(self.rotated, size))
        yield from zip(rows, torch.split(self.labels, size), strict=True)

    def _log_shares(self, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the log-softmax [A, K, M] of the logits of `rows` [M, D + 1].

        Classes come before rows in memory: a softmax over the last axis of K = 10 numbers is many times slower.
        """
        logits = weights.flatten(0, 1) @ rows.T
        return torch.log_softmax(logits.view(len(weights), self.num_classes, len(rows)), dim=1)

    def evaluate(self, weights: torch.Tensor, penalty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss float64 [A] and its gradient float64 [A, K, D + 1].

        Args:
            weights: float64 [A, K, D + 1].
            penalty: float64 [A], 1 / (C N).
        """
        used = weights.to(self.device, self.dtype)
        loss = torch.zeros(len(weights), dtype=torch.float64, device=self.device)
        shape = weights.shape[0] * self.num_classes, weights.shape[2]
        gradient = torch.zeros(shape, dtype=torch.float64, device=self.device)
        for rows, labels in self._blocks(len(weights)):
            log_shares = self._log_shares(used, rows)
            own = labels.expand(len(weights), 1, -1)
            loss -= log_shares.gather(1, own).sum(dim=(1, 2), dtype=torch.float64)
            error = log_shares.exp_()
            error.scatter_add_(1, own, error.new_full((1, 1, 1), -1.0).expand(own.shape))
            gradient += error.flatten(0, 1) @ rows
        penalised = weights.clone()
        penalised[:, :, -1] = 0
        loss, gradient = loss.cpu(), gradient.cpu()
        loss = loss / len(self.labels) + 0.5 * penalty * penalised.square().sum(dim=(1, 2))
        return loss, gradient.view_as(weights) / len(self.labels) + penalty[:, None, None] * penalised

    def diagonal(self, weights: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """Return the diagonal of the Hessian, float64 [A, K, D + 1]; arguments as in `evaluate`."""
        used = weights.to(self.device, self.dtype)
        shape = weights.shape[0] * self.num_classes, weights.shape[2]
        diagonal = torch.zeros(shape, dtype=torch.float64, device=self.device)
        for rows, _ in self._blocks(len(weights)):
            share = self._log_shares(used, rows).exp_()
            diagonal += (share - share.square()).flatten(0, 1) @ rows.square()
        diagonal = diagonal.cpu().view_as(weights) / len(self.labels)
        diagonal[:, :, :-1] += penalty[:, None, None]
        # A bias that no sample doubts has no curvature and no gradient either; any positive number will do.
        return diagonal.clamp_min_(1e-10)

    def product(self, weights: torch.Tensor, direction: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """Return the Hessian at `weights` float64 [1, K, D + 1] times `direction` of the same shape."""
        used, along = weights.to(self.device, self.dtype), direction.to(self.device, self.dtype)
        total = torch.zeros(self.num_classes, weights.shape[2], dtype=torch.float64, device=self.device)
        for rows, _ in self._blocks(2):
            share = self._log_shares(used, rows)[0].exp_()
            change = share * (along[0] @ rows.T)
            total += (change - share * change.sum(dim=0)) @ rows
        result = (total.cpu() / len(self.labels))[None]
        result[:, :, :-1] += penalty[:, None, None] * direction[:, :, :-1]
        return result

    def gap(self, value: torch.Tensor, gradient: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """Return how far `value` [A] is above the minimum at most, as a share of it.

        The loss is strongly convex in the weights, by `penalty`, so |gradient|^2 / (2 penalty) bounds the distance of
        values (for this loss it is the duality gap). The bias has no penalty; where the weights' bound is met its own
        gradient is small too, and its decrement by the curvature of the trivial model stands for it.

        Args:
            value: float64 [A].
            gradient: float64 [A, K, D + 1].
            penalty: float64 [A].
        """
        weights, bias = gradient[:, :, :-1].square().sum(dim=(1, 2)), gradient[:, :, -1].square()
        curvature = (self.shares * (1 - self.shares)).clamp_min(0.5 / len(self.labels))
        return (weights / penalty + (bias / curvature).sum(dim=1)) / (2 * value.clamp_min(1e-300))

    def to_features(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight [A, K, D] and bias [A, K] that act on the given features, from `weights` [A, K, D + 1]."""
        weight = weights[:, :, :-1] @ self.basis.T / self.scale
        bias = weights[:, :, -1] - weight @ self.mean
        # Adding a number to all biases changes nothing; the smallest such bias is the one to report.
        return weight, bias - bias.mean(dim=1, keepdim=True)
