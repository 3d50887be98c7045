"""Neural collapse: how near class means are to the corners of a simplex, and features to their class mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError


@dataclass(frozen=True)
class NeuralCollapse:
    """Four measures, each 0 where collapse is complete.

    Attributes:
        nc1: `tr(S_W S_B^+) / C`, scatter within classes against between.
        nc2_norms: coefficient of variation of the class means' distances from their mean.
        nc2_angles: mean distance of their cosines from `-1 / (C - 1)`.
        nc3: `||W / |W| - M / |M|||_F` of a least-squares classifier W and the class means M.
        nc4: share of images that the nearest class mean and that classifier put into different classes.
        per_class: images of each class that took part.
    """

    nc1: float
    nc2_norms: float
    nc2_angles: float
    nc3: float
    nc4: float
    per_class: int


def neural_collapse(features: NDArray[np.floating], labels: NDArray[np.int64]) -> NeuralCollapse:
    """Return the measures of features `[N, D]` with labels `[N]`, from the first images of each class, equally many.

    They depend on the number of classes and of images per class: compare levels of the same images, never data sets.

    Raises:
        ProbeError: a single class, or a class of one image.

    Source: Papyan, Han and Donoho, PNAS 2020 (arXiv:2008.08186), NC1 to NC4.
    Deviation: NC3 and NC4 take ridge regression to one-hot targets for the classifier, since levels bring none.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    smallest = int(counts.min())
    if len(classes) < 2 or smallest < 2:
        raise ProbeError(f"neural collapse needs 2 classes of 2 images, found {len(classes)} with {smallest} at least")
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(counts) - counts
    chosen = np.concatenate([order[start : start + smallest] for start in starts])
    rows = np.asarray(features, dtype=np.float64)[chosen]
    rows = rows - rows.mean(axis=0)
    scale = np.abs(rows).max()
    rows = (rows / scale if scale > 0 else rows).reshape(len(classes), smallest, -1)
    means = rows.mean(axis=1)
    within = (rows - means[:, None]).reshape(-1, rows.shape[2])
    norms = np.linalg.norm(means, axis=1)
    unit = means / np.where(norms > 0, norms, 1)[:, None]
    cosines = (unit @ unit.T)[~np.eye(len(classes), dtype=bool)]
    weight = _least_squares(rows)
    flat = rows.reshape(-1, rows.shape[2])
    nearest = ((flat[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    return NeuralCollapse(
        nc1=_scatter_ratio(within, means),
        nc2_norms=float(norms.std() / norms.mean()) if norms.mean() > 0 else 0.0,
        nc2_angles=float(np.abs(cosines + 1 / (len(classes) - 1)).mean()),
        nc3=_distance(weight, means),
        nc4=float((nearest != (flat @ weight.T).argmax(axis=1)).mean()),
        per_class=smallest,
    )


def _scatter_ratio(within: NDArray[np.float64], means: NDArray[np.float64]) -> float:
    """Return `tr(S_W S_B^+) / C` through the singular vectors of the class means: S_B has rank C - 1 at most."""
    _, values, vectors = np.linalg.svd(means, full_matrices=False)
    # Means around their mean have one direction less than there are classes.
    kept = (values > 1e-10 * values[0]) & (np.arange(len(values)) < len(means) - 1)
    if not kept.any():
        return float("inf")
    projected = within @ vectors[kept].T
    spread = (projected**2).mean(axis=0)
    return float((spread / (values[kept] ** 2 / len(means))).sum() / len(means))


def _least_squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the classifier `[C, D]` of ridge regression from centred features `[C, n, D]` to one-hot targets."""
    classes, per_class, width = rows.shape
    flat = rows.reshape(-1, width)
    gram = flat.T @ flat
    targets = np.repeat(np.eye(classes) - 1 / classes, per_class, axis=0)
    penalty = 1e-6 * np.trace(gram) / width + np.finfo(np.float64).tiny
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(width), flat.T @ targets).T)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    norms = np.linalg.norm(one), np.linalg.norm(other)
    return float(np.linalg.norm(one / norms[0] - other / norms[1])) if min(norms) > 0 else 1.0
