"""Factors: what is known exactly about every image of a data set, beside its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import DataError


@dataclass(frozen=True)
class Factor:
    """One property of every image.

    Attributes:
        name: of the factor.
        kind: `categorical` (values are indices into `categories`), `numeric`, or `angle` (degrees, 0 and 360 alike).
        values: float64 `[N]`, one per image in the data set's order; NaN where the image has no such property.
        categories: names of the values of a categorical factor; empty otherwise.
    """

    name: str
    kind: Literal["categorical", "numeric", "angle"]
    values: NDArray[np.float64]
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = self.values[~np.isnan(self.values)]
        if self.kind == "categorical" and not np.isin(known, np.arange(len(self.categories))).all():
            raise DataError(f"factor {self.name}: values beyond its {len(self.categories)} categories")
        if np.isinf(known).any():
            raise DataError(f"factor {self.name} holds infinite values; leave such a value empty")


def categorical(name: str, values: NDArray[np.int64], categories: Sequence[str]) -> Factor:
    """Return a categorical factor from indices `[N]` into the names of its categories."""
    return Factor(name, "categorical", np.asarray(values, dtype=np.float64), tuple(categories))
