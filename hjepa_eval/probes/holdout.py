"""Held-out parts of train: where hyper-parameters are chosen, so that the test set is touched once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError


def stratified_holdout(
    labels: NDArray[np.int64], *, fraction: float = 0.1, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted indices (kept, held out) of a random part of every class.

    Of a class with n samples, round(fraction * n) are held out, at least one if n >= 2, and never all.

    Args:
        labels: int64 [N].
        fraction: share held out, in (0, 1).
        seed: of numpy's PCG64.

    Raises:
        ProbeError: the fraction is outside (0, 1), or every class has a single sample.
    """
    if not 0 < fraction < 1:
        raise ProbeError(f"the held-out fraction must lie between 0 and 1, found {fraction}; the usual one is 0.1")
    order = np.random.default_rng(seed).permutation(len(labels))
    held = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:size])
    out = np.sort(np.concatenate(held))
    if out.size == 0:
        raise ProbeError(
            "every class has a single train sample, so none can be held out to choose by; for logreg give one C"
        )
    return np.setdiff1d(np.arange(len(labels)), out), out
