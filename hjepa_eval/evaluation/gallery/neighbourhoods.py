"""Test images with their nearest train images at each level, chosen by rule and by chance, never by looking nice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.search.bank import Bank
from hjepa_eval.probes.search.engines import Backend
from hjepa_eval.probes.search.search import Neighbours, nearest
from hjepa_eval.probes.voting import count_votes

QUERIES = 12
SHOWN = 8
VOTERS = 20
AT_RANDOM = "drawn at random"


@dataclass(frozen=True)
class ShownNeighbours:
    """Queries and what lies nearest to them.

    Attributes:
        queries: int64 [Q], rows of the test features.
        chosen: why each is shown: `drawn at random`, or `levels disagree: kNN is right at ...`.
        rows: int64 [L, Q, K], rows of the train features, nearest first.
        similarity: float32 [L, Q, K], cosines.
    """

    queries: NDArray[np.int64]
    chosen: tuple[str, ...]
    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]


def find_neighbourhoods(
    banks: Sequence[NDArray | Bank],
    tests: Sequence[NDArray],
    *,
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    levels: Sequence[int],
    num_classes: int,
    count: int = QUERIES,
    shown: int = SHOWN,
    seed: int = 0,
    backend: Backend = "auto",
    device: str = "cpu",
) -> ShownNeighbours:
    """Choose `count` test images, and find the train images nearest to each at every level, by exact cosine search.

    Whether a level is right about an image is what its 20 nearest say, weighted as in DINO; one search serves the
    choice and what is shown. No bank is held in memory.

    Args:
        banks: of each level train features [N, D].
        tests: of each level features [M, D] of the same test images.
        train_labels: int64 [N].
        test_labels: int64 [M].
        levels: numbers of the levels, for words.
        num_classes: C; labels lie in [0, C).
        count: queries, at most M.
        shown: neighbours of each, at most N.
        seed: of what is drawn.
        backend: of the search; the answer is the same.
        device: see `nearest`.

    Raises:
        ProbeError: there are no images, or the search cannot be made.
    """
    if not len(train_labels) or not len(test_labels):
        raise ProbeError("neighbours need at least one train and one test image; ask for more with --max-samples")
    voters = min(max(VOTERS, shown), len(train_labels))
    found = [
        nearest(bank, test, k=voters, backend=backend, device=device) for bank, test in zip(banks, tests, strict=True)
    ]
    right = np.stack([_right(each, train_labels, test_labels, num_classes) for each in found])
    queries, chosen = choose_queries(test_labels, right, levels=levels, count=count, seed=seed)
    return ShownNeighbours(
        queries,
        chosen,
        np.stack([each.index[queries, :shown] for each in found]),
        np.stack([each.similarity[queries, :shown] for each in found]).astype(np.float32),
    )


def choose_queries(
    labels: NDArray[np.int64], right: NDArray[np.bool_], *, levels: Sequence[int], count: int = QUERIES, seed: int = 0
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return rows [Q] of test images to show, and why each of them.

    Half are drawn at random, no class twice before every class once. Half are those about which most levels disagree,
    counted by the smaller side, drawn among equals; where levels disagree about fewer, more are drawn as the first.

    Args:
        labels: int64 [M].
        right: bool [L, M], whether each level classifies each image rightly.
        levels: numbers of the L levels.
        count: at most so many.
        seed: of what is drawn.
    """
    generator = np.random.default_rng(seed)
    shuffled = _one_of_each_class_first(labels, generator)
    smaller_side = np.minimum(right.sum(axis=0), (~right).sum(axis=0))
    drawn = shuffled[: count - count // 2]
    rest = generator.permutation(np.setdiff1d(np.arange(len(labels)), drawn))
    ranked = rest[np.argsort(-smaller_side[rest], kind="stable")]
    disputed = ranked[smaller_side[ranked] > 0][: count // 2]
    more = shuffled[~np.isin(shuffled, disputed)][len(drawn) : count - len(disputed)]
    rows = np.concatenate([drawn, more, disputed])
    words = [AT_RANDOM] * (len(drawn) + len(more)) + [_disagreement(right[:, row], levels) for row in disputed]
    return rows, tuple(words)


def _one_of_each_class_first(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return all rows in a random order that takes one of every class, then a second of every class, and so on."""
    order = generator.permutation(len(labels))
    met: Counter[int] = Counter()
    turns = []
    for label in labels[order].tolist():
        turns.append(met[label])
        met[label] += 1
    return np.asarray(order[np.argsort(turns, kind="stable")], np.int64)


def _disagreement(right: NDArray[np.bool_], levels: Sequence[int]) -> str:
    sides = [[level for level, one in zip(levels, right, strict=True) if one == side] for side in (True, False)]
    return f"levels disagree: kNN is right at {_named(sides[0])}, wrong at {_named(sides[1])}"


def _named(levels: Sequence[int]) -> str:
    return f"level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))}"


def _right(
    found: Neighbours, train_labels: NDArray[np.int64], test_labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.bool_]:
    voters = min(VOTERS, found.index.shape[1])
    votes = count_votes(found, train_labels, test_labels, num_classes=num_classes, ks=(voters,))
    return np.asarray(votes[voters][0] == test_labels)
