"""Votes of neighbours: weights, class scores for many k from one list, and the class that wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import unknown
from hjepa_eval.probes.search.search import Neighbours

Weighting = Literal["exponential", "inverse", "majority"]

_CHUNK_VOTES = 1 << 24


def vote_weights(
    similarity: NDArray[np.floating], *, weighting: Weighting = "exponential", temperature: float = 0.07
) -> NDArray[np.float64]:
    """Return the weight [Q, k] of each neighbour's vote.

    - `exponential`: exp((s - s_1) / T), with s the cosine and s_1 that of the nearest. The papers write exp(s / T) or a
      softmax over the neighbours; both differ by a factor per query, which changes no vote. For distances s is minus
      the squared distance.
    - `inverse`: 1 / (d + 1e-5), d the Euclidean distance. - `majority`: 1.

    Source: DINO, `eval_knn.py` (Wu et al., arXiv:1805.01978, eq. 8); `inverse` as solo-learn's `utils/knn.py`.

    Raises:
        UnknownNameError: an unknown weighting.
    """
    if weighting == "exponential":
        exact = similarity.astype(np.float64)
        # Relative to the nearest, so that no temperature underflows all weights of a query to zero.
        return np.asarray(np.exp((exact - exact[:, :1]) / temperature))
    if weighting == "inverse":
        return np.asarray(1 / (np.sqrt(np.maximum(-similarity.astype(np.float64), 0)) + 1e-5))
    if weighting == "majority":
        return np.ones(similarity.shape)
    raise unknown("weighting", weighting, get_args(Weighting))


def class_scores(weights: NDArray[np.float64], classes: NDArray[np.int64], *, num_classes: int) -> NDArray[np.float64]:
    """Return each class's share of the votes, float64 [Q, C], rows summing to 1.

    Args:
        weights: float64 [Q, k], positive.
        classes: int64 [Q, k], the class of each neighbour.
        num_classes: C.
    """
    votes = torch.zeros(len(weights), num_classes, dtype=torch.float64)
    votes.scatter_add_(1, torch.from_numpy(classes), torch.from_numpy(weights))
    return np.asarray(votes.div_(votes.sum(dim=1, keepdim=True)).numpy())


def count_votes(
    neighbours: Neighbours,
    bank_labels: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    ks: Sequence[int],
    weighting: Weighting = "exponential",
    temperature: float = 0.07,
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Return for each k the predictions int64 [Q] and whether the label is among the five best classes, bool [Q].

    The votes of a larger k are those of the smaller k plus the neighbours between, so every neighbour votes once.
    Classes with equal votes are ranked by their nearest neighbour (a rule that does not depend on how classes are
    numbered); a class without a vote is never among the best five.

    Args:
        neighbours: of Q queries, at least max(ks) each.
        bank_labels: int64 [N], the class of each bank row.
        labels: int64 [Q], the true class of each query.
        num_classes: C; every label lies in [0, C).
        ks: how many neighbours vote.
        weighting: see `vote_weights`.
        temperature: see `vote_weights`.
    """
    ks = sorted(set(ks))
    predictions = {k: np.empty(len(labels), dtype=np.int64) for k in ks}
    hits = {k: np.empty(len(labels), dtype=np.bool_) for k in ks}
    rows = max(1, _CHUNK_VOTES // (num_classes + ks[-1]))
    for start in range(0, len(labels), rows):
        part = slice(start, start + rows)
        weights = vote_weights(neighbours.similarity[part, : ks[-1]], weighting=weighting, temperature=temperature)
        classes = torch.from_numpy(bank_labels[neighbours.index[part, : ks[-1]]])
        truth = torch.from_numpy(labels[part])
        votes = torch.zeros(len(weights), num_classes, dtype=torch.float64)
        counted = 0
        for k in ks:
            votes.scatter_add_(1, classes[:, counted:k], torch.from_numpy(weights)[:, counted:k])
            counted = k
            predictions[k][part] = _winners(votes, classes[:, :k]).numpy()
            hits[k][part] = _among_best(votes, classes[:, :k], truth).numpy()
    return {k: (predictions[k], hits[k]) for k in ks}


def _winners(votes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the class [Q] with most `votes` [Q, C]; of several, the one that comes first in `classes` [Q, k]."""
    most, winner = votes.max(dim=1)
    tied = torch.nonzero((votes == most[:, None]).sum(dim=1) > 1)[:, 0]
    if len(tied):
        leads = votes[tied].gather(1, classes[tied]) == most[tied, None]
        # `argmax` of booleans may return any of several maxima; the first one is where the running sum becomes 1.
        first = (leads.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        winner[tied] = classes[tied].gather(1, first)[:, 0]
    return winner


def _among_best(votes: torch.Tensor, classes: torch.Tensor, truth: torch.Tensor, count: int = 5) -> torch.Tensor:
    """Return whether `truth` [Q] is among the `count` classes with most votes, ties ranked by the nearest neighbour."""
    own = votes.gather(1, truth[:, None])
    ahead = (votes > own).sum(dim=1)
    equal = (votes == own).sum(dim=1) - 1
    hit = (own[:, 0] > 0) & (ahead < count)
    for row in torch.nonzero(hit & (ahead + equal >= count))[:, 0].tolist():
        met = dict.fromkeys(classes[row].tolist())
        rivals = [label for label in met if votes[row, label] == own[row, 0]]
        hit[row] = int(ahead[row]) + rivals.index(int(truth[row])) < count
    return hit
