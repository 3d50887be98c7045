"""What makes a level's numbers doubtful: features nearly constant, equal to another level's, or a score at chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.spectrum import covariance_eigenvalues, rankme
from hjepa_eval.evaluation.findings import Finding
from hjepa_eval.evaluation.rows import LevelRow

# Rows of train that are looked at, the first, which are balanced over classes.
LOOKED_AT = 1024
# Images differ by less than this share of their features' length.
NEARLY_CONSTANT = 0.01
# Two levels differ by less than this share of their length: rounding, not another computation.
SAME = 1e-5


def feature_doubts(rows: Sequence[LevelRow]) -> dict[int, tuple[str, ...]]:
    """Return level -> sentences about its train features; levels without doubts are absent.

    Features are nearly constant where the root mean square distance from their mean is below a hundredth of the mean's
    length: cosines of all images are then above 0.9999, and collapse is the likely reason. Two levels are identical
    where rows differ by less than 1e-5 of their length. The first 1,024 train images are looked at.
    """
    doubts: dict[int, list[str]] = {}
    seen: dict[int, NDArray[np.float64]] = {}
    for row in (row for row in rows if not row.fused):
        features = _first_rows(row)
        if len(features) < 2:
            continue
        spread = _relative_spread(features)
        if spread < NEARLY_CONSTANT:
            doubts.setdefault(row.level, []).append(
                f"features are nearly constant: images differ by {100 * spread:.2g} % of their length, so this level "
                "may have collapsed"
            )
        twin = next((level for level, other in seen.items() if _same(features, other)), None)
        if twin is None:
            seen[row.level] = features
        else:
            doubts.setdefault(row.level, []).append(f"features are those of level {twin}: comparing them says nothing")
    return {level: tuple(sentences) for level, sentences in doubts.items()}


def score_doubts(finding: Finding, labels: NDArray[np.int64], num_classes: int) -> Iterator[str]:
    """Yield a sentence where the headline accuracy is not above guessing: its interval reaches the largest class.

    Args:
        finding: of one level.
        labels: int64 [N], of the samples that were classified.
        num_classes: C.
    """
    score = next((score for score in finding.scores if score.headline), None)
    if score is None or score.metric != "top1" or not len(labels):
        return
    chance = float(np.bincount(labels, minlength=num_classes).max()) / len(labels)
    if score.low <= chance:
        yield f"accuracy is not above chance: the largest class alone is {100 * chance:.1f} % of the images"


def doubts_of(
    merged: Mapping[int, Finding], rows: Sequence[LevelRow], split: str
) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
    """Return level -> sentences about its features, and level -> sentences about its headline score on a split."""
    scores = {
        row.level: tuple(score_doubts(merged[row.level], row.stream(split).labels, len(row.class_names)))
        for row in rows
    }
    return feature_doubts(rows), scores


def used_directions(row: LevelRow) -> float | None:
    """Return RankMe of the first 1,024 train features of a level, worked out once for all probes; None for one image.

    A report says where it is far below that of the untrained encoder.
    """
    known = row.features.ranks
    if row.level not in known:
        features = _first_rows(row)
        known[row.level] = rankme(covariance_eigenvalues(features)) if len(features) > 1 else None
    return known[row.level]


def _first_rows(row: LevelRow) -> NDArray[np.float64]:
    bank = row.stream("train").features
    count = min(LOOKED_AT, bank.shape[0])
    return np.asarray(bank.rows(np.arange(count)), np.float64)


def _relative_spread(features: NDArray[np.float64]) -> float:
    """Return the root mean square distance of rows [N, D] from their mean, as a share of its length."""
    largest = float(np.abs(features).max())
    if largest == 0:
        return 0.0
    scaled = features / largest  # Squares of very small or large numbers would leave float64.
    mean = scaled.mean(axis=0)
    length = float(np.linalg.norm(mean))
    distance = float(np.sqrt(np.square(scaled - mean).sum(axis=1).mean()))
    return distance / length if length > 0 else np.inf


def _same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    if first.shape != second.shape:
        return False
    return bool(np.abs(first - second).max() <= SAME * max(np.abs(first).max(), np.abs(second).max()))
