"""Classifiers of few-shot episodes, each fitted on thousands of small supports at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

Classifier = Literal["prototype", "simpleshot-un", "simpleshot-l2n", "simpleshot-cl2n", "ridge", "logreg"]
# Scores [E, Q, W] of the queries [E, Q, D] given the support [E, W, S, D].
Solver = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_TOLERANCE = 1e-5
_QUICK_ITERATIONS = 40
_SAFE_ITERATIONS = 2000


def nearest_centroid(support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return scores [E, Q, W]: minus half the squared Euclidean distance to the mean of each class, but for |q|^2 / 2.

    |q - c|^2 = |q|^2 - 2 q.c + |c|^2, and |q|^2 is the same for every class of a query.

    Source: Snell et al., arXiv:1703.05175; centroids of normalised features are not normalised again, as in SimpleShot.

    Args:
        support: float32 [E, W, S, D].
        queries: float32 [E, Q, D].
    """
    centroids = support.mean(dim=2)
    return torch.baddbmm(-0.5 * centroids.square().sum(dim=2)[:, None, :], queries, centroids.transpose(1, 2))


def ridge(support: torch.Tensor, queries: torch.Tensor, *, penalty: float = 1.0) -> torch.Tensor:
    """Return scores [E, Q, W] of ridge regression to targets of 1 (own class) and 0, with an intercept.

    With X [M, D] the centred support (M = W * S) and Y [M, W] the centred targets, W = X^T (X X^T + penalty I)^-1 Y: a
    system of M unknowns per episode, not of D.

    Source: big_vision `evaluators/fewshot_lsr.py`, and scikit-learn's `Ridge(alpha=penalty)`, whose answer this is.

    Args:
        support: float32 [E, W, S, D].
        queries: float32 [E, Q, D].
        penalty: alpha, on features of unit norm.
    """
    count, ways, shots, width = support.shape
    rows = support.reshape(count, ways * shots, width)
    centre = rows.mean(dim=1, keepdim=True)
    rows = rows - centre
    targets = torch.eye(ways).repeat_interleave(shots, dim=0) - 1 / ways
    gram = rows @ rows.transpose(1, 2) + penalty * torch.eye(ways * shots)
    dual = torch.cholesky_solve(targets.expand(count, -1, -1), torch.linalg.cholesky(gram))
    return (queries - centre) @ (rows.transpose(1, 2) @ dual)


def logistic(support: torch.Tensor, queries: torch.Tensor, *, c: float = 1.0) -> torch.Tensor:
    """Return logits [E, Q, W] of multinomial logistic regression with L2 penalty and an intercept without one.

    At the minimum of C * sum of cross-entropies + |V|^2 / 2 the weights are V = A X with A = C (Y - P), P [W, M] the
    probabilities on the support X [M, D]. So an episode has M = W * S columns of unknowns, not D, and X enters only by
    its Gram matrix: `_dual` finds A and the intercept.

    Source: scikit-learn's `LogisticRegression(C=c)`, whose minimum this is; Tian et al., arXiv:2003.11539, for C = 1 on
        features of unit norm.

    Args:
        support: float32 [E, W, S, D].
        queries: float32 [E, Q, D].
        c: inverse strength of the penalty.
    """
    count, ways, shots, width = support.shape
    rows = support.reshape(count, ways * shots, width)
    # Centring moves the intercept only, and makes intercept and weights nearly independent.
    rows = rows - rows.mean(dim=1, keepdim=True)
    centre = support.mean(dim=(1, 2))
    gram = rows @ rows.transpose(1, 2)
    targets = torch.eye(ways).repeat_interleave(shots, dim=1)
    dual, bias = _dual(gram, targets, c, curvature=1 / ways, iterations=_QUICK_ITERATIONS)
    left = _unsolved(gram, targets, c, dual, bias)
    if len(left):
        # 1/2 bounds the curvature of the softmax (Boehning, 1992): slower, but no step can fail.
        dual[left], bias[left] = _dual(
            gram[left], targets, c, curvature=0.5, iterations=_SAFE_ITERATIONS, start=(dual[left], bias[left])
        )
    weight = dual @ rows
    return torch.baddbmm((bias - weight @ centre[:, :, None]).transpose(1, 2), queries, weight.transpose(1, 2))


def _residual(
    gram: torch.Tensor, targets: torch.Tensor, c: float, dual: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return C (Y - P) - A with its mean over samples taken out [E, W, M], and that mean over C [E, W, 1]."""
    wrong = targets - torch.softmax(torch.baddbmm(bias, dual, gram), dim=1)
    mean = wrong.mean(dim=2, keepdim=True)
    return c * (wrong - mean) - dual, mean


def _dual(
    gram: torch.Tensor,
    targets: torch.Tensor,
    c: float,
    *,
    curvature: float,
    iterations: int,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A [E, W, M] and the intercept [E, W, 1] by Newton steps with the softmax's Hessian held at `curvature`.

    A change dA moves the logits by dA K and P by about curvature * dA K, so dA (I + C curvature K) = residual: one
    inverse per episode serves all iterations.
    """
    count, samples = len(gram), gram.shape[1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.eye(samples) + c * curvature * gram))
    if start is None:
        dual = (c * (targets - targets.mean(dim=1, keepdim=True))).expand(count, -1, -1).clone()
        bias = torch.zeros(count, len(targets), 1)
    else:
        dual, bias = start
    for _ in range(iterations):
        residual, mean = _residual(gram, targets, c, dual, bias)
        if float(residual.abs().max()) <= _TOLERANCE * c and float(mean.abs().max()) <= _TOLERANCE:
            break
        dual = torch.baddbmm(dual, residual, inverse)
        bias = bias + mean / curvature
    return dual, bias


def _unsolved(
    gram: torch.Tensor, targets: torch.Tensor, c: float, dual: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Return the numbers of the episodes that are not at their minimum."""
    residual, mean = _residual(gram, targets, c, dual, bias)
    fine = (residual.abs().amax(dim=(1, 2)) <= 10 * _TOLERANCE * c) & (mean.abs().amax(dim=(1, 2)) <= 10 * _TOLERANCE)
    return torch.nonzero(~fine)[:, 0]


SOLVERS: dict[str, Solver] = {
    "prototype": nearest_centroid,
    "simpleshot-un": nearest_centroid,
    "simpleshot-l2n": nearest_centroid,
    "simpleshot-cl2n": nearest_centroid,
    "ridge": ridge,
    "logreg": logistic,
}
