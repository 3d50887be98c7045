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
# Of resampled images at a time: 16 MiB of weights.
_DRAWN_NUMBERS = 1 << 21
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
    guesses: dict[str, tuple[Array, float, int]] = {}
    for names in _same_rows(train).values():
        known = ~np.isnan(_columns(train[names[0]])).any(axis=1)
        for name in names:
            _check_numeric(name, _columns(train[name])[known], _columns(test[name]))
        centred = features.train[known]
        mean = centred.mean(axis=0)
        centred -= mean
        spectrum, basis = np.linalg.eigh(centred.T @ centred)
        rotated, spectrum = centred @ basis, np.maximum(spectrum, 0)
        turned = (features.test - mean) @ basis
        columns = {name: _columns(train[name])[known] for name in names}
        errors = _left_out_errors(rotated, spectrum, columns, penalties)
        for name, values in columns.items():
            best = min(penalties, key=lambda penalty: (errors[penalty][name], -penalty))
            level = values.mean(axis=0)
            weights = (rotated.T @ (values - level)) / (spectrum + best)[:, None]
            guesses[name] = (turned @ weights + level, best, len(values))
    return _score_numeric({name: guesses[name] for name in train}, test, seed)


def _left_out_errors(
    rotated: Array, spectrum: Array, columns: Mapping[str, Array], penalties: Sequence[float]
) -> dict[float, dict[str, float]]:
    """Return for each penalty and factor the mean squared error of train images left out one by one."""
    targets = np.concatenate([values - values.mean(axis=0) for values in columns.values()], axis=1)
    owners = np.repeat(np.arange(len(columns)), [values.shape[1] for values in columns.values()])
    moments, squares = rotated.T @ targets, rotated**2
    errors = {}
    for penalty in penalties:
        shrunk = 1 / (spectrum + penalty)
        kept = np.maximum(1e-9, 1 - 1 / len(rotated) - squares @ shrunk)
        residual = (targets - rotated @ (shrunk[:, None] * moments)) / kept[:, None]
        sums = np.bincount(owners, weights=np.einsum("nf,nf->f", residual, residual))
        errors[penalty] = dict(zip(columns, (sums / len(rotated)).tolist(), strict=True))
    return errors


def _score_numeric(
    guesses: Mapping[str, tuple[Array, float, int]], test: Mapping[str, Array], seed: int
) -> dict[str, FactorFit]:
    """Return the fits of predictions `[N_test, columns]`, each with its penalty and number of train images."""
    error, spread = (np.zeros((len(next(iter(test.values()))), len(guesses))) for _ in range(2))
    present: dict[str, NDArray[np.bool_]] = {
        name: np.asarray(~np.isnan(_columns(test[name])).any(axis=1)) for name in guesses
    }
    for column, (name, (predicted, _, _)) in enumerate(guesses.items()):
        asked, shown = _columns(test[name]), present[name]
        error[shown, column] = ((asked - predicted)[shown] ** 2).sum(axis=1)
        spread[shown, column] = ((asked[shown] - asked[shown].mean(axis=0)) ** 2).sum(axis=1)
    values, low, high = ratio_intervals(error, spread, seed=seed)
    fits = {}
    for column, (name, (_, strength, num_train)) in enumerate(guesses.items()):
        shown, value = present[name], float(values[column])
        lost, all_of_it = error[shown, column], spread[shown, column]
        mean = all_of_it.mean()
        influence = np.full(len(shown), np.nan)
        influence[shown] = value - (lost - lost.mean()) / mean + (1 - value) * (all_of_it - mean) / mean
        ends = float(low[column]), float(high[column])
        fits[name] = FactorFit(value, *ends, 0.0, influence, strength, num_train, int(shown.sum()))
    return fits


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


def ratio_intervals(error: Array, spread: Array, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return `1 - sum(error) / sum(spread)` of each column with its 95 % percentile bootstrap interval over images.

    Args:
        error: float64 `[N, F]`; an image without a factor holds 0 in both.
        spread: float64 `[N, F]`.
        seed: of the resamples, which are the same for all columns.

    Returns:
        Values, lower ends and upper ends, float64 `[F]` each.
    """
    values = 1 - error.sum(axis=0) / spread.sum(axis=0)
    generator, count = np.random.default_rng(seed), len(error)
    both = np.concatenate([error, spread], axis=1)
    sums = np.empty((RESAMPLES, both.shape[1]))
    # A product of many draws at once reads the images' rows once for all of them.
    step = max(1, _DRAWN_NUMBERS // count)
    for start in range(0, RESAMPLES, step):
        part = slice(start, min(start + step, RESAMPLES))
        times = [
            np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(*part.indices(RESAMPLES))
        ]
        sums[part] = np.array(times, dtype=np.float64) @ both
    draws = 1 - sums[:, : len(values)] / np.maximum(sums[:, len(values) :], np.finfo(np.float64).tiny)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return values, np.minimum(low, values), np.maximum(high, values)


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
