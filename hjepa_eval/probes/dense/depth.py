"""Depth of pixels from tokens by ridge regression: the mean depth of each cell is fitted, and interpolated.

The products of train tokens are summed block by block, so all of them are read and none is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.dense.cells import Cells
from hjepa_eval.probes.dense.token_rows import TokenRows

PENALTIES = tuple(10.0**power for power in range(-6, 3))
Maps = Callable[[int], NDArray[np.float32]]
CellsOf = Callable[[int], Cells]


@dataclass(frozen=True)
class DepthErrors:
    """Squared errors by image, and what a constant would make.

    Attributes:
        squares: float64 [N], summed over pixels.
        spread: float64 [N], squared distances from the mean of all pixels.
        pixels: int64 [N].
    """

    squares: NDArray[np.float64]
    spread: NDArray[np.float64]
    pixels: NDArray[np.int64]

    def r2(self) -> float:
        """Return the share of the pixels' variance that is predicted; below 0 where a constant is better."""
        return float(1 - self.squares.sum() / self.spread.sum())

    def rmse(self) -> float:
        """Return the root of the mean squared error, in the map's own unit."""
        return float(np.sqrt(self.squares.sum() / self.pixels.sum()))

    def parts(self) -> NDArray[np.float64]:
        """Return what each image adds to R2, float64 [N], whose mean it is: linearised, as `Regions.miou_parts`."""
        share, total = self.squares.sum() / self.spread.sum(), self.spread.sum()
        return np.asarray(1 - share - len(self.pixels) * (self.squares - share * self.spread) / total)

    def interval(self, *, resamples: int = 1000, seed: int = 0) -> Interval:
        """Return R2 with the percentile interval of bootstrap samples of images."""
        count = len(self.pixels)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        values = 1 - (drawn @ self.squares) / np.maximum(drawn @ self.spread, 1e-300)
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(self.r2(), float(low), float(high), count, "bootstrap over images 95%")


@dataclass(frozen=True)
class _Moments:
    """Sums over tokens with a 1 behind them, of their products and of those with the depth."""

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.gram - other.gram, self.cross - other.cross)

    def solve(self, penalty: float) -> NDArray[np.float64]:
        """Return weights [D + 1]; the penalty counts in the tokens' mean variance, and spares the last weight."""
        ridge = np.full(len(self.gram), penalty * np.trace(self.gram[:-1, :-1]) / max(1, len(self.gram) - 1))
        ridge[-1] = 0.0
        return np.asarray(np.linalg.lstsq(self.gram + np.diag(ridge + 1e-12), self.cross, rcond=None)[0], np.float64)


def _moments(rows: TokenRows, depth: Maps, cells: CellsOf, images: NDArray[np.int64]) -> _Moments:
    gram, cross = np.zeros((rows.width + 1,) * 2), np.zeros(rows.width + 1)
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        tokens = rows.of(part).reshape(-1, rows.width).astype(np.float64)
        known = np.concatenate([cell_means(depth(int(image)), cells(int(image))) for image in part])
        shown = ~np.isnan(known)
        wide = np.concatenate([tokens[shown], np.ones((int(shown.sum()), 1))], axis=1)
        gram += wide.T @ wide
        cross += wide.T @ known[shown]
    return _Moments(gram, cross)


def cell_means(depth: NDArray[np.float32], cells: Cells) -> NDArray[np.float64]:
    """Return the mean of a map [H, W] over each cell, float64 [T]; NaN where none of its pixels is known (NaN)."""
    known = ~np.isnan(depth)
    total = cells.means(known.astype(np.float32)).astype(np.float64).ravel()
    sums = cells.means(np.where(known, depth, 0).astype(np.float32)).astype(np.float64).ravel()
    return np.asarray(np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0))


def _errors(predict: Maps, depth: Maps, cells: CellsOf, images: NDArray[np.int64], mean: float) -> DepthErrors:
    squares, spread, pixels = np.zeros(len(images)), np.zeros(len(images)), np.zeros(len(images), np.int64)
    for row, image in enumerate(images.tolist()):
        laid = cells(image)
        true = depth(image)[laid.seen]
        known = ~np.isnan(true)
        guess = laid.to_pixels(predict(image)[:, None])[0]
        squares[row] = np.square(guess - true, dtype=np.float64)[known].sum()
        spread[row] = np.square(true - mean, dtype=np.float64)[known].sum()
        pixels[row] = known.sum()
    return DepthErrors(squares, spread, pixels)


@dataclass(frozen=True)
class DepthResult:
    """What a ridge regression of depth found.

    Attributes:
        penalty: chosen by R2 on held-out train images.
        tried: penalty -> that R2.
        held_out: errors there.
        test: errors on test, after a fit to all of train.
        ceiling: errors of cells that know their mean depth.
    """

    penalty: float
    tried: dict[float, float]
    held_out: DepthErrors
    test: DepthErrors
    ceiling: DepthErrors


def regress_depth(
    train: TokenRows,
    test: TokenRows,
    depths: tuple[Maps, Maps],
    cells: tuple[CellsOf, CellsOf],
    *,
    held: NDArray[np.int64],
) -> DepthResult:
    """Return how well the depth of pixels is told by tokens.

    Args:
        train: tokens.
        test: tokens.
        depths: of train and test: a map [H, W] of an image, NaN where unknown.
        cells: of train and test, how they lie over an image.
        held: train images to choose the penalty by.

    Raises:
        ProbeError: all pixels of test have one depth.
    """
    everyone = np.arange(test.count)
    shown = [depths[1](int(image))[cells[1](int(image)).seen] for image in everyone]
    known_pixels = sum(int((~np.isnan(each)).sum()) for each in shown)
    if not known_pixels:
        raise ProbeError("no pixel of test has a known depth; look at the maps")
    centre = float(sum(np.nansum(each, dtype=np.float64) for each in shown)) / known_pixels
    whole = _moments(train, depths[0], cells[0], np.arange(train.count))
    kept = whole - _moments(train, depths[0], cells[0], held)
    weights = {penalty: kept.solve(penalty) for penalty in PENALTIES}

    def errors(of: int, images: NDArray[np.int64], weight: NDArray[np.float64]) -> DepthErrors:
        rows = (train, test)[of]

        def predict(image: int) -> NDArray[np.float32]:
            return np.asarray(rows.of(np.array([image]))[0] @ weight[:-1] + weight[-1], np.float32)

        return _errors(predict, depths[of], cells[of], images, centre)

    found = {penalty: errors(0, held, weight) for penalty, weight in weights.items()}
    tried = {penalty: each.r2() for penalty, each in found.items()}
    best = max(sorted(tried, reverse=True), key=lambda penalty: tried[penalty])
    known = _errors(
        lambda image: np.nan_to_num(cell_means(depths[1](image), cells[1](image))).astype(np.float32),
        depths[1],
        cells[1],
        everyone,
        centre,
    )
    if known.spread.sum() == 0:
        raise ProbeError("all pixels of test have the same depth, so nothing can be told apart; look at the maps")
    return DepthResult(best, tried, found[best], errors(1, everyone, whole.solve(best)), known)
