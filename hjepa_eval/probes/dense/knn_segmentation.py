"""Segmentation by nearest neighbours: each token takes the classes of the train tokens that it resembles most.

Nothing is trained, so what is measured is in the tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.dense.ceilings import Truth
from hjepa_eval.probes.dense.regions import Regions
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.search.engines import Backend
from hjepa_eval.probes.search.search import nearest_in_pieces

K = 30
TEMPERATURE = 0.02
# Tokens of 64 scenes' images and cells: 256,000 fit whole.
BANK_TOKENS = 1 << 18


@dataclass(frozen=True)
class SegmentBank:
    """Train tokens with what their pixels show.

    Attributes:
        tokens: float32 [M, D].
        shares: float32 [M, C], of each class among a token's pixels.
        available: tokens of train that could have been in it.
    """

    tokens: NDArray[np.float32]
    shares: NDArray[np.float32]
    available: int


def gather_bank(
    rows: TokenRows, truth: Truth, *, images: NDArray[np.int64], limit: int = BANK_TOKENS, seed: int = 0
) -> SegmentBank:
    """Return the tokens of some train images, all of them or a seeded sample that prefers rare classes.

    A token is drawn with a weight of 1 over the number of tokens with its most frequent class. Tokens all of whose
    pixels are ignored are left out.

    Args:
        rows: tokens of all train images.
        truth: of them.
        images: which to take, int64.
        limit: tokens at most.
        seed: of the sample.

    Raises:
        ProbeError: no token shows a pixel with a class.

    Source: Balazevic et al., "Towards in-context scene understanding", NeurIPS 2023; the sample as in
        github.com/vpariza/open-hummingbird-eval.

    Deviation: there ignored pixels (255) become class 0; here they take no part.
    """
    kept: list[NDArray[np.int64]] = []
    shares: list[NDArray[np.float32]] = []
    majority: list[NDArray[np.int64]] = []
    whole = len(images) * rows.tokens <= limit
    for image in images:
        histogram = truth.histograms(int(image))
        shown = np.flatnonzero(histogram.any(axis=1))
        kept.append(image * rows.tokens + shown)
        if whole:
            shares.append(histogram[shown])
        majority.append(histogram[shown].argmax(axis=1).astype(np.int16))
    where, classes = np.concatenate(kept), np.concatenate(majority)
    if not len(where):
        raise ProbeError("no pixel of the train masks has a class: all are ignored (255); look at the masks")
    if whole:
        return SegmentBank(rows.rows(where), np.concatenate(shares), len(where))
    drawn = where[rare_first(classes, limit=limit, seed=seed)]
    chosen, first = np.unique(drawn // rows.tokens, return_index=True)
    parts = np.split(drawn % rows.tokens, first[1:])
    gathered = [truth.histograms(int(image))[part] for image, part in zip(chosen, parts, strict=True)]
    return SegmentBank(rows.rows(drawn), np.concatenate(gathered), len(where))


def rare_first(classes: NDArray[np.integer], *, limit: int, seed: int) -> NDArray[np.int64]:
    """Return at most `limit` sorted positions of `classes` [M], drawn with weights 1 / (number of that class).

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the largest u^(1/w).
    """
    if len(classes) <= limit:
        return np.arange(len(classes))
    weight = 1 / np.bincount(classes)[classes]
    key = np.log(np.random.default_rng(seed).random(len(classes))) / weight
    return np.sort(np.argpartition(-key, limit - 1)[:limit])


def vote(
    bank: SegmentBank, queries: TokenRows, *, k: int = K, temperature: float = TEMPERATURE, device: str = "cpu"
) -> Iterator[NDArray[np.float32]]:
    """Yield for each image of `queries` the share of each class at each of its tokens, float32 [T, C].

    The k tokens of the bank with the highest cosine vote with softmax(cosine / temperature) for their classes.

    Args:
        bank: what is searched.
        queries: tokens of the images.
        k: neighbours; all of a smaller bank.
        temperature: of the softmax.
        device: of the search.
    """
    waiting = np.empty((0, bank.shares.shape[1]), np.float32)
    # On a CPU torch's products are taken: there the selection costs a fraction of what it costs in FAISS.
    backend: Backend = "torch" if device == "cpu" else "auto"
    pieces = nearest_in_pieces(bank.tokens, queries, k=min(k, len(bank.tokens)), device=device, backend=backend)
    for piece in pieces:
        weights = np.exp((piece.similarity - piece.similarity[:, :1]) / temperature)
        weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        waiting = np.concatenate([waiting, _weighted(bank.shares, piece.index, weights)])
        while len(waiting) >= queries.tokens:
            yield waiting[: queries.tokens]
            waiting = waiting[queries.tokens :]


def _weighted(
    shares: NDArray[np.float32], index: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return sums of `shares` [M, C] over the rows `index` [Q, k] with `weights` [Q, k], float32 [Q, C]."""
    votes = np.zeros((len(index), shares.shape[1]), np.float32)
    for neighbour in range(index.shape[1]):  # All at once they would be k times as large.
        votes += weights[:, neighbour, None] * shares[index[:, neighbour]]
    return votes


def segment_by_neighbours(
    bank: SegmentBank,
    queries: TokenRows,
    truth: Truth,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
    device: str = "cpu",
) -> Regions:
    """Return how well the pixels of images are predicted: votes of tokens, interpolated, the highest.

    Args:
        bank: of train.
        queries: tokens of the images, as many as `truth` has.
        truth: of these images.
        k: neighbours.
        temperature: of their weights.
        device: of the search.
    """
    votes = vote(bank, queries, k=k, temperature=temperature, device=device)
    return truth.score(truth.cells(image).label_pixels(scores) for image, scores in enumerate(votes))
