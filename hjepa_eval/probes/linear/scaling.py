"""Scalings of features that a protocol asks for before its classifier."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import unknown
from hjepa_eval.probes.samples import Samples, zero_rows_note

Scaling = Literal["none", "l2", "centred-l2", "standardised"]


def scaled(bank: Samples, test: Samples, scaling: Scaling) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Return both sets after a scaling that knows the bank alone, and notes about it.

    - `none`: as they are. - `l2`: rows of norm 1. - `centred-l2`: each row less its own mean, then of norm 1.
    - `standardised`: each column less its mean in the bank, divided by its standard deviation there plus 1e-5.

    Raises:
        UnknownNameError: an unknown scaling.
    """
    if scaling not in get_args(Scaling):
        raise unknown("scaling", scaling, get_args(Scaling))
    if scaling == "none":
        return bank, test, ()
    if scaling == "standardised":
        mean = bank.features.mean(axis=0, dtype=np.float64)
        deviation = bank.features.std(axis=0, dtype=np.float64) + 1e-5
        standard = [((s.features - mean) / deviation).astype(np.float32) for s in (bank, test)]
        return Samples(standard[0], bank.labels), Samples(standard[1], test.labels), ()
    unit = [_unit_rows(s.features, centred=scaling == "centred-l2") for s in (bank, test)]
    notes = (*zero_rows_note(unit[0], "train"), *zero_rows_note(unit[1], "test"))
    return Samples(unit[0], bank.labels), Samples(unit[1], test.labels), notes


def _unit_rows(features: NDArray[np.float32], *, centred: bool) -> NDArray[np.float32]:
    """Return rows of norm 1; zero rows stay zero."""
    # In float64 the mean of equal numbers is that number, so a constant row becomes zero and not rounding noise.
    exact = features - features.mean(axis=1, keepdims=True, dtype=np.float64) if centred else features
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(norm > 0, norm, 1), dtype=np.float32)
