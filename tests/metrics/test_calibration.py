"""Calibration on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood, softmax


def test_expected_calibration_error__by_hand() -> None:
    """Two samples at 0.9, one of them wrong, and two at 0.6, both right: (2 * 0.4 + 2 * 0.4) / 4."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert expected_calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx(0.4)


def test_expected_calibration_error__certain_and_right_is_zero() -> None:
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def calibrated(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5)) * 3
    chances = softmax(logits, temperature).cumsum(axis=1)
    return logits, (generator.random((4000, 1)) > chances).sum(axis=1).clip(0, 4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature__finds_the_minimum_of_the_likelihood(temperature: float) -> None:
    logits, labels = calibrated(temperature)
    found = fit_temperature(logits, labels)
    reference = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, temperature=float(np.exp(t))),
        bounds=(-4, 4),
        method="bounded",
    )
    assert found == pytest.approx(np.exp(reference.x), rel=1e-3)
    assert found == pytest.approx(temperature, rel=0.1)


def test_fit_temperature__mends_the_calibration() -> None:
    logits, labels = calibrated(3.0)
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(softmax(logits, fit_temperature(logits, labels)), labels)
    assert after < 0.03 < 0.2 < before


def test_fit_temperature__all_right_stays_finite() -> None:
    assert fit_temperature(np.eye(3) * 5, np.arange(3)) == pytest.approx(0.01, rel=1e-6)


def test_calibration__refuses_nothing_and_nan() -> None:
    with pytest.raises(ProbeError, match="at least one sample"):
        expected_calibration_error(np.zeros((0, 2)), np.zeros(0, np.int64))
    with pytest.raises(ProbeError, match="finite logits"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))
