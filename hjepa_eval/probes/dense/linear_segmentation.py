"""Segmentation by a linear classifier of tokens: logistic regression, chosen by mIoU of held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.dense.ceilings import Truth
from hjepa_eval.probes.dense.regions import Regions
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.linear.logistic_path import fit_logistic

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TRAIN_TOKENS = 1 << 15
# What is right is settled long before the weights are.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TokenClassifier:
    """A linear classifier of tokens: scores are tokens @ weight + bias.

    Attributes:
        weight: float32 [D, C].
        bias: float32 [C].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def segment(self, rows: TokenRows, truth: Truth, images: NDArray[np.int64]) -> Regions:
        """Return how well the pixels of some images are predicted."""
        regions = Regions.empty(len(images), truth.num_classes)
        for start in range(0, len(images), 64):
            part = images[start : start + 64]
            for row, (image, tokens) in enumerate(zip(part, rows.of(part), strict=True), start):
                cells = truth.cells(int(image))
                guess = cells.label_pixels(tokens @ self.weight + self.bias)
                regions.count(row, guess, truth.classes(int(image))[cells.seen])
        return regions


def draw_tokens(
    rows: TokenRows, truth: Truth, *, images: NDArray[np.int64], limit: int = TRAIN_TOKENS, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return a seeded sample of tokens [M, D] of some images with the most frequent class of each, int64 [M].

    Of every image equally many are drawn; those all of whose pixels are ignored are left out.

    Raises:
        ProbeError: they show fewer than two classes.
    """
    generator = np.random.default_rng(seed)
    each = max(1, min(rows.tokens, limit // max(1, len(images))))
    drawn, labels = [], []
    for image in images if len(images) <= limit else generator.permutation(images)[:limit]:
        shares = truth.histograms(int(image))
        shown = generator.permutation(np.flatnonzero(shares.any(axis=1)))[:each]
        drawn.append(image * rows.tokens + shown)
        labels.append(shares[shown].argmax(axis=1))
    where, classes = np.concatenate(drawn), np.concatenate(labels).astype(np.int64)
    if len(np.unique(classes)) < 2:
        raise ProbeError("the train masks show one class only, so there is nothing to tell apart; look at the masks")
    return rows.rows(where), classes


def fit_classifiers(
    tokens: NDArray[np.float32], labels: NDArray[np.int64], *, num_classes: int, cs: Sequence[float] = CS
) -> Iterator[TokenClassifier]:
    """Yield a classifier for each C, by logistic regression of standardised tokens.

    Args:
        tokens: float32 [M, D].
        labels: int64 [M].
        num_classes: classes that no token shows are never predicted.
        cs: inverse strengths of the penalty.
    """
    present, numbered = np.unique(labels, return_inverse=True)
    mean, std = tokens.mean(axis=0, dtype=np.float64), tokens.std(axis=0, dtype=np.float64)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-8 * np.abs(mean).max(initial=1e-30))
    scaled = ((tokens - mean) * scale).astype(np.float32)
    path = fit_logistic(scaled, numbered, num_classes=len(present), cs=list(cs), tol=_TOLERANCE)
    for place in range(len(cs)):
        weight = path.weight[place].T * scale[:, None]
        bias = np.full(num_classes, -np.inf)
        full = np.zeros((tokens.shape[1], num_classes))
        full[:, present], bias[present] = weight, path.bias[place] - mean @ weight
        yield TokenClassifier(full.astype(np.float32), np.maximum(bias, -1e30).astype(np.float32))


@dataclass(frozen=True)
class LinearSegmentation:
    """What was chosen, and how it does on held-out train images and on test.

    Attributes:
        c: chosen by mIoU of the held-out images; of equals the smallest.
        tried: C -> that mIoU.
        held_out: of the chosen C.
        test: after a fit to the tokens of all train images.
        known: bool [C], the classes that those tokens show; others are never predicted.
    """

    c: float
    tried: dict[float, float]
    held_out: Regions
    test: Regions
    known: NDArray[np.bool_]


def segment_linearly(
    train: TokenRows,
    test: TokenRows,
    truths: tuple[Truth, Truth],
    *,
    held: NDArray[np.int64],
    limit: int = TRAIN_TOKENS,
    cs: Sequence[float] = CS,
    seed: int = 0,
) -> LinearSegmentation:
    """Fit to the tokens of train images, choose C by held-out ones, fit to all, predict the pixels of test once.

    Args:
        train: tokens.
        test: tokens.
        truths: of train and of test.
        held: train images to choose by, int64.
        limit: tokens of train that a fit sees.
        cs: values of C.
        seed: of the draw of tokens.
    """
    everyone = np.arange(train.count)
    classes = truths[0].num_classes
    kept = draw_tokens(train, truths[0], images=np.setdiff1d(everyone, held), limit=limit, seed=seed)
    regions = {
        c: classifier.segment(train, truths[0], held)
        for c, classifier in zip(cs, fit_classifiers(*kept, num_classes=classes, cs=cs), strict=True)
    }
    tried = {c: each.miou() for c, each in regions.items()}
    best = max(sorted(tried), key=lambda c: tried[c])
    every = draw_tokens(train, truths[0], images=everyone, limit=limit, seed=seed)
    (classifier,) = fit_classifiers(*every, num_classes=classes, cs=[best])
    known = np.isin(np.arange(classes), every[1])
    tested = classifier.segment(test, truths[1], np.arange(test.count))
    return LinearSegmentation(best, tried, regions[best], tested, known)
