"""Which level is better, and by how much: paired tests of levels that saw the same samples, and a choice without test.

Two levels' intervals overlap long after a paired test has told them apart, because both err on the same hard images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.paired import Comparison, compare_correct, compare_values, holm

Outcomes = NDArray[np.bool_] | NDArray[np.floating]


@dataclass(frozen=True)
class PairedTest:
    """The comparison of `first` with `second`.

    Attributes:
        first: number of a level.
        second: number of the other.
        comparison: first minus second.
        test: `McNemar exact` for right and wrong, `paired t` for other values.
        p_holm: the p-value adjusted for all comparisons made together.
    """

    first: int
    second: int
    comparison: Comparison
    test: str
    p_holm: float


def compare(first: Outcomes, second: Outcomes) -> tuple[Comparison, str]:
    """Return the paired comparison of two outcomes [N] of the same samples, and the name of the test.

    Args:
        first: bool [N] (right or wrong), or float [N] (accuracy of each episode, or share of seeds that were right).
        second: the same for the other.

    Raises:
        ProbeError: the lengths differ, or a value is NaN.
    """
    if first.dtype == np.bool_ and second.dtype == np.bool_:
        return compare_correct(np.asarray(first, np.bool_), np.asarray(second, np.bool_)), "McNemar exact"
    return compare_values(first, second), "paired t"


def compare_levels(outcomes: Mapping[int, Outcomes]) -> list[PairedTest]:
    """Return all pairs of levels, the coarser minus the finer, p-values adjusted by Holm's method over all pairs.

    Args:
        outcomes: level -> [N], of the same samples in the same order.

    Raises:
        ProbeError: the lengths differ.
    """
    pairs = [(one, other) for other, one in combinations(sorted(outcomes), 2)]
    found = [(one, other, *compare(outcomes[one], outcomes[other])) for one, other in pairs]
    adjusted = holm([comparison.p_value for _, _, comparison, _ in found])
    return [PairedTest(*pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def choose_level(held_out: Mapping[int, float]) -> int:
    """Return the level with the highest score on samples that are not test; of equal ones the finest.

    Raises:
        ProbeError: there is no level to choose from.
    """
    if not held_out:
        raise ProbeError("no level to choose from; give the held-out score of at least one")
    return max(sorted(held_out), key=lambda level: held_out[level])
