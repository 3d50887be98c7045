from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.linear_map import linear_map_r2


def test_linear_map_r2__is_one_for_a_map_and_about_zero_for_noise() -> None:
    generator = np.random.default_rng(0)
    source = generator.normal(size=(400, 8)).astype(np.float32)
    mapped = source @ generator.normal(size=(8, 5)).astype(np.float32) + 3
    assert linear_map_r2(source, mapped) == pytest.approx(1.0, abs=1e-6)
    assert abs(linear_map_r2(source, generator.normal(size=(400, 5)))) < 0.15


def test_linear_map_r2__sees_what_a_map_cannot_give() -> None:
    source = np.random.default_rng(0).normal(size=(1000, 2))
    target = np.column_stack([source[:, 0], np.abs(source[:, 1])])
    # The first column is given, the second (the variance of |x| is 1 - 2/pi) is not.
    assert linear_map_r2(source, target) == pytest.approx(1 / (1 + 1 - 2 / np.pi), abs=0.05)


def test_linear_map_r2__refuses_too_few_or_unlike_samples() -> None:
    with pytest.raises(ProbeError, match="same images"):
        linear_map_r2(np.zeros((5, 2)), np.zeros((4, 2)))
    with pytest.raises(ProbeError, match="more images"):
        linear_map_r2(np.zeros((10, 8)), np.zeros((10, 2)))
