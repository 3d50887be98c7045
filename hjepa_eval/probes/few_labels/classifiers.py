"""Classifiers of few-shot episodes, each fitted on thousands of small supports at once.

Each takes the pool's features [N, D], 0 amid them, with the episodes' rows in it, support [E, W, S] and queries [E, Q],
and returns scores [E, Q, W]. Rows are gathered a few episodes at a time, so that they are still in the processor's
cache when the products come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch.nn.functional import embedding_bag

Classifier = Literal["prototype", "simpleshot-un", "simpleshot-l2n", "simpleshot-cl2n", "ridge", "logreg"]
Solver = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_PIECE_ELEMENTS = 1 << 22
# Of a probability: a smaller change moves no query to another class but by the rarest chance.
_TOLERANCE = 3e-5
# No support is solved in fewer iterations, so none is looked at.
_BLIND = 3
# The largest squared distance from the support's mean, of unit vectors, below which they are all but one vector.
_COLLAPSED = 0.03
_QUICK_ITERATIONS = 40
_SAFE_ITERATIONS = 2000


def nearest_centroid(pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return minus half the squared Euclidean distance to the mean of each class, but for |q|^2 / 2.

    |q - c|^2 = |q|^2 - 2 q.c + |c|^2, and |q|^2 is the same for every class of a query.

    Source: Snell et al., arXiv:1703.05175; centroids of normalised features are not normalised again, as in SimpleShot.

    Args:
        pool: float32 [N, D].
        support: int64 [E, W, S].
        queries: int64 [E, Q].
    """
    scores, rows = [], _Rows(pool)
    for chosen, asked in _pieces(pool, support, queries):
        centroids = embedding_bag(chosen.flatten(0, 1), pool, mode="mean").view(*chosen.shape[:2], -1)
        half = -0.5 * centroids.square().sum(dim=2, keepdim=True)
        scores.append(torch.baddbmm(half, centroids, rows.gather(asked).transpose(1, 2)))
    # Classes before queries in memory: the best of 5 along the last axis is several times slower.
    return torch.cat(scores).transpose(1, 2)


def ridge(pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor, *, penalty: float = 1.0) -> torch.Tensor:
    """Return the fit of ridge regression to targets of 1 (own class) and 0, with an intercept.

    With X [M, D] the centred support (M = W * S) and Y [M, W] the centred targets, W = X^T (X X^T + penalty I)^-1 Y: a
    system of M unknowns per episode, not of D.

    Source: big_vision `evaluators/fewshot_lsr.py`, and scikit-learn's `Ridge(alpha=penalty)`, whose answer this is.

    Args:
        pool: float32 [N, D].
        support: int64 [E, W, S].
        queries: int64 [E, Q].
        penalty: alpha, on features of unit norm.
    """
    ways, shots = support.shape[1:]
    targets = torch.eye(ways).repeat_interleave(shots, dim=1) - 1 / ways
    gram, centred = _grams(pool, support, queries)
    regular = centred + penalty * torch.eye(ways * shots)
    dual = targets @ torch.cholesky_inverse(torch.linalg.cholesky(regular))
    return _apply(pool, support, queries, dual, _offset(gram, dual, torch.zeros(len(support), ways, 1)))


def logistic(pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor, *, c: float = 1.0) -> torch.Tensor:
    """Return logits of multinomial logistic regression with an L2 penalty and an intercept without one.

    At the minimum of C * sum of cross-entropies + |V|^2 / 2 the weights are V = A X with A = C (Y - P), P [W, M] the
    probabilities on the support X [M, D]. So an episode has M = W * S columns of unknowns, not D, and X enters only by
    its Gram matrix: `_dual` finds A and the intercept.

    scikit-learn fits one weight vector v for two classes; two of them, v / 2 and -v / 2, have half its penalty, hence
    C / 2 there.

    Source: scikit-learn's `LogisticRegression(C=c)`, whose minimum this is; Tian et al., arXiv:2003.11539, for C = 1 on
        features of unit norm.

    Args:
        pool: float32 [N, D].
        support: int64 [E, W, S].
        queries: int64 [E, Q].
        c: inverse strength of the penalty.
    """
    ways, shots = support.shape[1:]
    c = c / 2 if ways == 2 else c
    gram, centred = _grams(pool, support, queries)
    targets = torch.eye(ways).repeat_interleave(shots, dim=1)
    dual = (c * (targets - 1 / ways)).expand(len(support), -1, -1)
    bias = torch.zeros(len(support), ways, 1)
    dual, bias, solved = _dual(centred, targets, c, dual, bias, curvature=1 / ways, iterations=_QUICK_ITERATIONS)
    left = torch.nonzero(~solved)[:, 0]
    if len(left):
        # 1/2 bounds the curvature of the softmax (Boehning, 1992): slower, but no step can fail.
        dual[left], bias[left], _ = _dual(
            centred[left], targets, c, dual[left], bias[left], curvature=0.5, iterations=_SAFE_ITERATIONS
        )
    size = centred.diagonal(dim1=1, dim2=2).amax(dim=1)
    near = torch.nonzero(size < _COLLAPSED)[:, 0]
    if len(near):
        # Scores are of the order of the squares, and float32 knows probabilities near 1 / W to 1e-8 only.
        exact = centred[near].to(torch.float64)
        begun = (c * (targets - 1 / ways)).expand(len(near), -1, -1), torch.zeros(len(near), ways, 1)
        found = _dual(
            exact,
            targets.to(torch.float64),
            c,
            *(start.to(torch.float64) for start in begun),
            curvature=1 / ways,
            iterations=_QUICK_ITERATIONS,
            tolerance=_TOLERANCE * float(size[near].min()),
        )
        dual[near], bias[near] = (part.to(torch.float32) for part in found[:2])
    return _apply(pool, support, queries, dual, _offset(gram, dual, bias))


def _pieces(
    pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield support [e, W, S] and queries [e, Q] of a few episodes at a time."""
    size = max(1, _PIECE_ELEMENTS // ((support[0].numel() + queries.shape[1]) * pool.shape[1]))
    return zip(torch.split(support, size), torch.split(queries, size), strict=True)


class _Rows:
    """Gathers rows of a pool into the same memory every time: fresh pages for each gather take three times as long."""

    def __init__(self, pool: torch.Tensor) -> None:
        self.pool = pool
        self.buffer = pool.new_empty(0, pool.shape[1])

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows at `index` [E, M] as [E, M, D], until the next call."""
        if len(self.buffer) < index.numel():
            self.buffer = self.pool.new_empty(index.numel(), self.pool.shape[1])
        found = self.buffer[: index.numel()]
        torch.index_select(self.pool, 0, index.flatten(), out=found)
        return found.view(*index.shape, -1)


def _grams(pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the products of the support with itself, [E, W * S, W * S], as they are and with each support centred.

    Centring moves the intercept only, and makes intercept and weights nearly independent. It is done on the products,
    which are small; that 0 lies amid the pool keeps their differences exact.
    """
    products, rows = [], _Rows(pool)
    for chosen, _ in _pieces(pool, support, queries):
        found = rows.gather(chosen.flatten(1))
        products.append(found @ found.transpose(1, 2))
    gram = torch.cat(products)
    mean = gram.mean(dim=2, keepdim=True)
    return gram, (gram - mean).sub_(mean.transpose(1, 2)).add_(mean.mean(dim=1, keepdim=True))


def _apply(
    pool: torch.Tensor, support: torch.Tensor, queries: torch.Tensor, dual: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """Return the scores [E, Q, W] by the weights A X, A [E, W, W * S], plus `offset` [E, 1, W]."""
    scores, rows, asked_rows, start = [], _Rows(pool), _Rows(pool), 0
    for chosen, asked in _pieces(pool, support, queries):
        part = slice(start, start + len(chosen))
        start += len(chosen)
        weight = dual[part] @ rows.gather(chosen.flatten(1))
        scores.append(torch.baddbmm(offset[part], asked_rows.gather(asked), weight.transpose(1, 2)))
    return torch.cat(scores)


def _offset(gram: torch.Tensor, dual: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return what the scores of uncentred queries need: `bias` [E, W, 1] less the weights' product with the mean."""
    return (bias - (dual @ gram).mean(dim=2, keepdim=True)).transpose(1, 2)


def _dual(
    gram: torch.Tensor,
    targets: torch.Tensor,
    c: float,
    dual: torch.Tensor,
    bias: torch.Tensor,
    *,
    curvature: float,
    iterations: int,
    tolerance: float = _TOLERANCE,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return A [E, W, M], the intercept [E, W, 1] and which episodes are solved, by steps with a fixed Hessian.

    A change dA moves the logits by dA K and P by about curvature * dA K, so dA (I + C curvature K) = residual: one
    inverse per episode serves all iterations.
    """
    samples = gram.shape[1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.eye(samples, dtype=gram.dtype) + c * curvature * gram))
    for iteration in range(iterations + 1):
        wrong = targets - torch.softmax(torch.baddbmm(bias, dual, gram), dim=1)
        mean = wrong.mean(dim=2, keepdim=True)
        residual = torch.sub(wrong, mean).mul_(c).sub_(dual)
        if iteration == iterations or (iteration >= _BLIND and _size(residual) <= c * tolerance >= c * _size(mean)):
            break
        dual = torch.baddbmm(dual, residual, inverse)
        bias = bias + mean / curvature
    return dual, bias, residual.abs().amax(dim=(1, 2)) <= 10 * tolerance * c


def _size(numbers: torch.Tensor) -> float:
    low, high = torch.aminmax(numbers)
    return max(-float(low), float(high))


SOURCES: dict[str, str] = {
    "prototype": "prototypical networks (arXiv:1703.05175) on normalised features; the same as simpleshot-l2n",
    "simpleshot-un": "SimpleShot (arXiv:1911.04623): nearest centroid, features as they are",
    "simpleshot-l2n": "SimpleShot: nearest centroid, features of norm 1",
    "simpleshot-cl2n": "SimpleShot: nearest centroid, features less the base mean, then of norm 1",
    "ridge": "ridge regression, penalty 1, features of norm 1 (scikit-learn's Ridge; big_vision fewshot_lsr.py)",
    "logreg": "logistic regression, C = 1, features of norm 1 (arXiv:2003.11539)",
}
SOLVERS: dict[str, Solver] = {
    "prototype": nearest_centroid,
    "simpleshot-un": nearest_centroid,
    "simpleshot-l2n": nearest_centroid,
    "simpleshot-cl2n": nearest_centroid,
    "ridge": ridge,
    "logreg": logistic,
}
