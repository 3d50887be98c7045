"""Intervals of a mean over seeds (or draws) that all saw the same samples: a crossed design.

Let x [R, N] be the outcome of each of R seeds on each of N samples, both drawn at random. The variance of their mean is
s^2 / R + i^2 / N + e^2 / (R N), with s^2 between seeds, i^2 between samples and e^2 of what is left. The variance of
the seeds' means over R estimates the first and the third, that of the samples' means over N the second and the third,
so their sum counts the third twice, and it is taken off once. What seeds leave is known to R - 1 degrees of freedom
only, so each part has the t of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval


def crossed_interval(outcomes: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the mean of `outcomes` [R, N] with an interval that covers other seeds and other samples.

    Its half is the root of the sum of two squares: t of R - 1 degrees of freedom times the error that seeds leave, and
    t of N - 1 times the error that samples leave. By simulation it covers 94 to 97 % for three seeds and more, and up
    to 99.7 % for two, which say little of how far seeds fall apart.

    Args:
        outcomes: of R seeds, two or more, on the same N samples, two or more, in the same order.
        confidence: of the interval.

    Raises:
        ProbeError: fewer seeds or samples, or a value that is not finite.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, for the variance of a crossed mean;
        Howe, "Approximate confidence limits on the mean of X + Y", JASA 1974, for the two t.
    """
    x = np.asarray(outcomes, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise ProbeError(
            f"a crossed mean takes finite outcomes of two seeds and samples or more, found {list(x.shape)}"
        )
    runs, samples = x.shape
    mean = float(x.mean())
    by_run, by_sample = x.mean(axis=1), x.mean(axis=0)
    left = x - by_run[:, None] - by_sample + mean
    twice = float((left**2).sum()) / ((runs - 1) * (samples - 1)) / (runs * samples)
    of_runs, of_samples = float(by_run.var(ddof=1)) / runs, float(by_sample.var(ddof=1)) / samples
    t_runs, t_samples = (float(stdtrit(size - 1, 0.5 + confidence / 2)) for size in (runs, samples))
    # The difference of two variances, one of a single degree of freedom, is too often 0.
    of_runs -= twice if runs > 2 else 0.0
    half = math.sqrt(t_runs**2 * max(of_runs, 0.0) + t_samples**2 * of_samples)
    return Interval(mean, mean - half, mean + half, samples, f"crossed t {100 * confidence:g}%")
