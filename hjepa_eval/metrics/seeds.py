"""Several measurements of one number, one per seed or draw: their mean, how far they scatter, and what that allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval


@dataclass(frozen=True)
class Spread:
    """What several seeds or draws say together.

    Attributes:
        mean: of the values.
        std: sample standard deviation (divisor n - 1); None for one value, which has none.
        values: all of them, in the order given.
        interval: Student's t interval of the mean; for one value the interval of that measurement itself.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]
    interval: Interval


def spread(scores: Sequence[Interval], *, confidence: float = 0.95) -> Spread:
    """Return mean, sample standard deviation and interval of `scores`, one per seed or draw.

    The interval is mean +- t * std / sqrt(n), t of n - 1 degrees of freedom: 12.7 for two values, 2.26 for ten. It says
    how far other seeds would move the mean, holds no uncertainty of the test images that all seeds share, and may
    leave [0, 1] when the values are few and far apart.

    Args:
        scores: the measurements; only their values count when there are several.
        confidence: of the interval.

    Raises:
        ProbeError: no scores, a value that is not finite, or a confidence outside (0, 1).

    Source: "Student", "The probable error of a mean", Biometrika 1908.
    """
    array = np.array([score.value for score in scores], dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ProbeError(f"a mean over seeds needs at least one value and finite ones, found {array.tolist()}")
    if not 0 < confidence < 1:
        raise ProbeError(f"confidence {confidence} is not between 0 and 1; use 0.95 for a 95 % interval")
    mean, each = float(array.mean()), tuple(array.tolist())
    if array.size == 1:
        return Spread(mean, None, each, scores[0])
    std = float(array.std(ddof=1))
    half = float(stdtrit(array.size - 1, 0.5 + confidence / 2)) * std / math.sqrt(array.size)
    interval = Interval(mean, mean - half, mean + half, array.size, f"Student t {100 * confidence:g}%")
    return Spread(mean, std, each, interval)
