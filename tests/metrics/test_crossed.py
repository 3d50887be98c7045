"""Intervals of means over seeds, when both the seeds and the images are drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import crossed_interval

REDRAWS = 600


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("apart", [0.1, 0.5])
def test_crossed_interval__covers_other_seeds_and_other_images(seeds: int, apart: float) -> None:
    """600 draws of seeds and 300 images; the seeds' own t interval covers 70 to 95 %."""
    generator = np.random.default_rng(seeds)
    logits = apart * generator.normal(size=200_000) + 1.5 * generator.normal(size=200_000)
    truth, hits = (1 / (1 + np.exp(-logits))).mean(), 0
    for _ in range(REDRAWS):
        logits = apart * generator.normal(size=(seeds, 1)) + 1.5 * generator.normal(size=(1, 300))
        interval = crossed_interval(generator.random((seeds, 300)) < 1 / (1 + np.exp(-logits)))
        hits += interval.low <= truth <= interval.high
    assert hits / REDRAWS == pytest.approx(0.95, abs=0.03)


def test_crossed_interval__equal_seeds_leave_the_images_alone() -> None:
    right = np.arange(100) < 70
    interval = crossed_interval(np.stack([right] * 3))
    error = np.sqrt(0.7 * 0.3 / 99)
    assert interval.value == pytest.approx(0.7)
    assert interval.high - interval.value == pytest.approx(1.98422 * error, rel=1e-4)
    assert (interval.num_samples, interval.method) == (100, "crossed t 95%")


def test_crossed_interval__neither_a_seed_nor_an_image_alone_has_one() -> None:
    for shape in ((1, 5), (5, 1)):
        with pytest.raises(ProbeError, match="two seeds and samples or more"):
            crossed_interval(np.zeros(shape))
