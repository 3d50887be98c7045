"""Real features for probes: the pixels of scikit-learn's scanned digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hjepa_eval.probes.samples import Samples


@pytest.fixture(scope="session")
def digits() -> tuple[Samples, Samples]:
    """1,297 train and 500 test digits; features float32 [N, 64] in [0, 16]."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    samples = Samples(pixels.astype(np.float32), labels.astype(np.int64))
    return samples.take(order[500:]), samples.take(order[:500])
