"""Levels laid out in a plane, for the eye: PCA, or UMAP where it is installed; each level turned onto the one before.

A map shows neighbourhoods and nothing that could be tested; no number of a report comes from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ConfigError, ProbeError, unknown

Method = Literal["auto", "pca", "umap"]

# Of fewer images a UMAP shows little that PCA does not, for a minute or two of compiling.
REPAYS = 5000
NEIGHBOURS = 15
_TURNED = (
    "each level is turned or mirrored onto the level before, never stretched, so that images can be followed; "
    "its axes mean nothing by themselves"
)


@dataclass(frozen=True)
class Planes:
    """Levels in planes.

    Attributes:
        points: float32 [L, N, 2].
        explained: float32 [L, 2], share of a level's variance along each of its axes; zeros for UMAP.
        method: `PCA` or `UMAP`, with what a reader must know.
    """

    points: NDArray[np.float32]
    explained: NDArray[np.float32]
    method: str


def check_method(method: str) -> None:
    """Check that levels can be laid out so.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: UMAP was asked for and is not installed.
    """
    if method not in get_args(Method):
        raise unknown("map", method, get_args(Method))
    if method == "umap" and not _has_umap():
        raise ConfigError("a UMAP needs umap-learn; pip install 'hjepa[umap]', or take PCA")


def takes_umap(method: str, images: int) -> bool:
    """Return whether a map of so many images is made by UMAP: when asked for, or where it repays its compiling."""
    return method == "umap" or (method == "auto" and images >= REPAYS and _has_umap())


def project_levels(levels: Sequence[NDArray[np.floating]], *, method: Method = "auto", seed: int = 0) -> Planes:
    """Lay the features of the same images out in a plane per level.

    Args:
        levels: of each level features [N, D], finite; N >= 1.
        method: `pca`; `umap`; `auto` is UMAP where umap-learn is installed and there are at least
            `REPAYS` images, else PCA.
        seed: of UMAP.

    Raises:
        ProbeError: there are no images, levels have different numbers of them, or UMAP has too few.
        UnknownNameError: there is no such method.
        ConfigError: UMAP was asked for and is not installed.
    """
    check_method(method)
    counts = {len(features) for features in levels}
    if len(counts) != 1 or 0 in counts:
        raise ProbeError(f"a map needs the same images at every level, found {sorted(counts)}; give at least one")
    images = counts.pop()
    if method == "umap" and images <= NEIGHBOURS:
        raise ProbeError(f"a UMAP needs more than {NEIGHBOURS} images; give more, or take PCA")
    if not takes_umap(method, images):
        planes = _turn([pca_plane(features) for features in levels])
        shares = [_shares(plane, features) for plane, features in zip(planes, levels, strict=True)]
        return Planes(np.stack(planes).astype(np.float32), np.stack(shares).astype(np.float32), f"PCA; {_TURNED}")
    planes = _turn([umap_plane(features, seed=seed) for features in levels])
    how = f"UMAP of cosines, {NEIGHBOURS} neighbours, seed {seed}; distances between groups mean little; {_TURNED}"
    return Planes(np.stack(planes).astype(np.float32), np.zeros((len(planes), 2), np.float32), how)


def pca_plane(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the first two principal components of `features` [N, D], float64 [N, 2], centred.

    The sign of an axis makes its largest loading positive, so that it does not depend on the solver. Where the features
    have fewer than two dimensions of variance, the other components are 0.
    """
    centred = _centred(features)
    rows, width = centred.shape
    # Of the two products the smaller one: both have the same eigenvalues.
    wide = width > rows
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    # What rounding leaves of no variance is none.
    real = values > max(float(values[-1]), 0.0) * max(rows, width) * np.finfo(np.float64).eps
    best = [place for place in (-1, -2) if len(values) >= -place and real[place]]
    plane = np.zeros((rows, 2))
    for axis, place in enumerate(best):
        loading = vectors[:, place] @ centred / np.sqrt(values[place]) if wide else vectors[:, place]
        plane[:, axis] = centred @ loading * np.sign(loading[np.abs(loading).argmax()])
    return plane


def umap_plane(features: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """Return a UMAP of `features` [N, D] by cosine, float64 [N, 2], centred; one thread, so the seed decides all.

    It starts from the first two principal components: what lies far apart overall is then not left to chance.

    Source: McInnes, Healy and Melville (arXiv:1802.03426), umap-learn's own 15 neighbours and 0.1 minimal distance; the
        start as Kobak and Linderman (Nature Biotechnology 39, 2021) advise.

    Raises:
        ConfigError: umap-learn is not installed.
    """
    check_method("umap")
    start = pca_plane(features)
    with warnings.catch_warnings():
        # Of its packages: compilers that are absent, a seed that costs threads. None says anything about the map.
        warnings.simplefilter("ignore")
        from umap import UMAP

        # Its own rescaling divides by the spread of each axis.
        given: Any = start.astype(np.float32) if (np.ptp(start, axis=0) > 0).all() else "random"
        made = UMAP(
            n_neighbors=NEIGHBOURS, min_dist=0.1, metric="cosine", init=given, random_state=seed, n_jobs=1
        ).fit_transform(np.asarray(features, np.float32))
    return _centred(made)


def turn_onto(points: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return centred `points` [N, 2], turned and if need be mirrored to lie nearest to `reference` [N, 2].

    Distances between points do not change: nothing is stretched.

    Source: orthogonal Procrustes problem (Schoenemann 1966): of M = P^T R = U S V^T, the rotation is U V^T.
    """
    centred = _centred(points)
    left, _, right = np.linalg.svd(centred.T @ _centred(reference))
    return np.asarray(centred @ left @ right)


def _turn(planes: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    turned = [planes[0]]
    for plane in planes[1:]:
        turned.append(turn_onto(plane, turned[-1]))
    return turned


def _shares(plane: NDArray[np.float64], features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of the variance of `features` along each axis of their turned `plane`, float64 [2]."""
    total = np.square(_centred(features)).sum()
    return np.square(plane).sum(axis=0) / total if total > 0 else np.zeros(2)


def _centred(values: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = np.asarray(values, np.float64)
    return np.asarray(exact - exact.mean(axis=0))


def _has_umap() -> bool:
    return find_spec("umap") is not None
