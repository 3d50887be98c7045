"""How reports round: shares in percent, differences in points of accuracy, p-values."""

from __future__ import annotations

from hjepa_eval.metrics.paired import Paired
from hjepa_eval.results.records import Score

# Ends of an interval that lie closer than half a point would look alike with one place.
_NARROW = 0.005


def percent(share: float) -> str:
    """Return a share in [0, 1] as `97.2`."""
    return f"{100 * share:.1f}"


def interval(score: Score) -> str:
    """Return `94.9-98.5`, the 95 % interval in percent."""
    return f"{percent(score.low)}-{percent(score.high)}"


def points(difference: float, *, places: int = 1) -> str:
    """Return a difference in [-1, 1] as points with their sign, such as `-8.2`; what rounds to zero has none."""
    text = f"{100 * difference:+.{places}f}"
    return text if float(text) else text[1:]


def points_within(difference: float, low: float, high: float) -> tuple[str, str, str]:
    """Return a difference and the ends of its interval as points; with two places where the interval is narrow."""
    places = 2 if high - low < _NARROW else 1
    return points(difference, places=places), points(low, places=places), points(high, places=places)


def gain_within(test: Paired) -> tuple[str, str]:
    """Return a difference as points, and its interval as `-1.2 to +3.4`."""
    gain, low, high = points_within(test.difference, test.low, test.high)
    return gain, f"{low} to {high}"


def p_text(p: float) -> str:
    """Return a p-value with two digits, tiny ones as a bound."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def p_equals(p: float) -> str:
    """Return `= 0.016` or `< 0.0001`."""
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
