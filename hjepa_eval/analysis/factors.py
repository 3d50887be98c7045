"""Factor probes: which known properties of an image a level tells, and how much beyond what chance and effort give.

Let X_c [N, D] be train features, standardised, and y a numeric factor, centred. With X_c^T X_c = V diag(s) V^T and
Z = X_c V, ridge's left-out residual of image i is (y_i - f_i) / (1 - h_i), with f = Z diag(1 / (s + a)) Z^T y and
h_i = 1 / N + sum_j z_ij^2 / (s_j + a): every penalty for every factor comes from one decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.samples import Samples

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
PENALTIES = tuple(float(a) for a in 10.0 ** np.arange(-2, 7))
RESAMPLES = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FactorFit:
    """How well one factor is told from features of test images that took no part in the fit.

    Attributes:
        value: R2 of a numeric factor, accuracy of a categorical one.
        low: lower end of the 95 % bootstrap interval over test images.
        high: upper end.
        chance: what needs no features: 0 for R2, the accuracy of the commonest train category.
        influence: float64 `[N_test]`, what each test image adds to `value`, so that means of differences between levels
            are differences of values; NaN where the image has no such property.
        strength: of the regularisation, chosen on train: ridge's penalty, or C of logistic regression.
        num_train: images that have the property.
        num_test: likewise.
    """

    value: float
    low: float
    high: float
    chance: float
    influence: Array
    strength: float
    num_train: int
    num_test: int


class Standardised:
    """Train features `[N, D]` with mean 0 and variance 1 in each dimension, decomposed once for all factors."""

    def __init__(self, train: NDArray[np.floating], test: NDArray[np.floating]) -> None:
        """Standardise both by the train features; dimensions that do not vary become 0."""
        if train.ndim != 2 or train.shape[1:] != test.shape[1:]:
            raise ProbeError(f"train features {train.shape} and test features {test.shape} do not fit each other")
        if not (np.isfinite(train).all() and np.isfinite(test).all()):
            raise ProbeError("features hold NaN or infinity; see 'hjepa cache verify'")
        rows = np.asarray(train, dtype=np.float64)
        self.mean = rows.mean(axis=0)
        centred = rows - self.mean
        deviation = centred.std(axis=0)
        rounding = 8 * np.finfo(np.float64).eps * np.abs(rows).max(axis=0)
        self.scale = np.where(deviation > rounding, 1 / np.where(deviation > rounding, deviation, 1), 0.0)
        self.train = centred * self.scale
        self.test = (np.asarray(test, dtype=np.float64) - self.mean) * self.scale


def ridge_factors(
    features: Standardised,
    train: Mapping[str, Array],
    test: Mapping[str, Array],
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> dict[str, FactorFit]:
    """Return how well ridge regression tells each numeric factor; its penalty has the least left-out error on train.

    Args:
        features: of train and test images.
        train: name -> values float64 `[N_train]`, or `[N_train, 2]` for an angle's cosine and sine; NaN where missing.
        test: the same names, `[N_test]` or `[N_test, 2]`.
        penalties: of ridge, for features of variance 1.
        seed: of the bootstrap.

    Raises:
        ProbeError: a factor with fewer than 10 known values in either split, or that does not vary.

    Source: Rifkin and Lippert, "Notes on regularized least squares", 2007, for the left-out residuals.
    """
    fits = {}
    for names in _same_rows(train).values():
        known = ~np.isnan(_columns(train[names[0]])).any(axis=1)
        for name in names:
            _check_numeric(name, _columns(train[name])[known], _columns(test[name]))
        rows = features.train[known]
        rows = rows - rows.mean(axis=0)
        spectrum, basis = np.linalg.eigh(rows.T @ rows)
        rotated, spectrum = rows @ basis, np.maximum(spectrum, 0)
        turned = (features.test - features.train[known].mean(axis=0)) @ basis
        for name in names:
            values, asked = _columns(train[name])[known], _columns(test[name])
            fits[name] = _fit_ridge(rotated, spectrum, turned, values, asked, penalties, seed)
    return {name: fits[name] for name in train}


def _fit_ridge(
    rotated: Array, spectrum: Array, turned: Array, values: Array, asked: Array, penalties: Sequence[float], seed: int
) -> FactorFit:
    level = values.mean(axis=0)
    centred = values - level
    moments, squares = rotated.T @ centred, rotated**2
    errors = {}
    for penalty in penalties:
        shrunk = 1 / (spectrum + penalty)
        leverage = 1 / len(rotated) + squares @ shrunk
        residual = (centred - rotated @ (shrunk[:, None] * moments)) / np.maximum(1e-9, 1 - leverage)[:, None]
        errors[penalty] = float((residual**2).mean())
    best = min(errors, key=lambda penalty: (errors[penalty], -penalty))
    predicted = turned @ (moments / (spectrum + best)[:, None]) + level
    present = ~np.isnan(asked).any(axis=1)
    error = ((asked - predicted)[present] ** 2).sum(axis=1)
    spread = ((asked[present] - asked[present].mean(axis=0)) ** 2).sum(axis=1)
    value, low, high = ratio_interval(error, spread, seed=seed)
    mean = spread.mean()
    influence = np.full(len(asked), np.nan)
    influence[present] = value - (error - error.mean()) / mean + (1 - value) * (spread - mean) / mean
    return FactorFit(value, low, high, 0.0, influence, best, len(values), int(present.sum()))


def logistic_factors(
    features: Standardised,
    train: Mapping[str, Array],
    test: Mapping[str, Array],
    *,
    categories: Mapping[str, int],
    cs: Sequence[float] = CS,
    seed: int = 0,
) -> dict[str, FactorFit]:
    """Return how well logistic regression tells each categorical factor; C is chosen on a held-out tenth of train.

    Args:
        features: of train and test images.
        train: name -> category of each image, float64 `[N_train]`, NaN where missing.
        test: the same names, `[N_test]`.
        categories: name -> how many there are.
        cs: values of C to choose from.
        seed: of the held-out part.

    Raises:
        ProbeError: a factor with a single category, or with one that has too few train images to hold any out.
    """
    fits = {}
    for name, values in train.items():
        known, asked = ~np.isnan(values), ~np.isnan(test[name])
        parts = [
            Samples(rows[kept].astype(np.float32), labels[kept].astype(np.int64))
            for rows, labels, kept in ((features.train, values, known), (features.test, test[name], asked))
        ]
        if min(len(part) for part in parts) < 10:
            raise ProbeError(f"factor {name} is known of {len(parts[0])} train and {len(parts[1])} test images")
        commonest = int(np.bincount(parts[0].labels).argmax())
        result = logistic_regression(*parts, num_classes=categories[name], cs=cs, seed=seed)
        influence = np.full(len(asked), np.nan)
        influence[asked] = result.predictions == parts[1].labels
        fits[name] = FactorFit(
            value=result.score.value,
            low=result.score.low,
            high=result.score.high,
            chance=float((parts[1].labels == commonest).mean()),
            influence=influence,
            strength=result.c,
            num_train=len(parts[0]),
            num_test=len(parts[1]),
        )
    return fits


def shuffled(values: Array, *, seed: int = 0) -> Array:
    """Return the known values dealt out anew among the images that have one: a control task that features cannot tell.

    Source: Hewitt and Liang, "Designing and Interpreting Probes with Control Tasks", EMNLP 2019.
    Deviation: theirs deals labels out to word types; of images no two are of one type, so every image is dealt its own.
    """
    known = np.flatnonzero(~np.isnan(_columns(values)).any(axis=1))
    dealt: Array = np.array(values)
    dealt[known] = values[np.random.default_rng(seed).permutation(known)]
    return dealt


def ratio_interval(error: Array, spread: Array, *, seed: int = 0) -> tuple[float, float, float]:
    """Return `1 - mean(error) / mean(spread)` with its 95 % percentile bootstrap interval over images."""
    value = 1 - float(error.mean() / spread.mean())
    generator = np.random.default_rng(seed)
    both = np.column_stack([error, spread])
    draws = []
    for _ in range(0, RESAMPLES, 100):
        weights = generator.multinomial(len(error), np.full(len(error), 1 / len(error)), size=100)
        sums = weights @ both
        draws.append(1 - sums[:, 0] / np.maximum(sums[:, 1], 1e-300))
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return value, min(float(low), value), max(float(high), value)


def _columns(values: Array) -> Array:
    return np.asarray(values[:, None] if values.ndim == 1 else values)


def _same_rows(factors: Mapping[str, Array]) -> dict[bytes, list[str]]:
    """Return names of factors by which images lack them: those alike share a decomposition."""
    groups: dict[bytes, list[str]] = {}
    for name, values in factors.items():
        groups.setdefault(np.isnan(_columns(values)).any(axis=1).tobytes(), []).append(name)
    return groups


def _check_numeric(name: str, train: Array, test: Array) -> None:
    present = int((~np.isnan(test).any(axis=1)).sum())
    if min(len(train), present) < 10:
        raise ProbeError(f"factor {name} is known of {len(train)} train and {present} test images; it takes 10 of each")
    if not (np.ptp(train, axis=0).any() and (np.nanmax(test, axis=0) > np.nanmin(test, axis=0)).any()):
        raise ProbeError(f"factor {name} is the same for all images; leave it out")


def angle_columns(degrees: Array) -> Array:
    """Return cosine and sine of angles, float64 `[N, 2]`: 359 and 1 degrees are neighbours; NaN stays."""
    radians = np.deg2rad(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)])
