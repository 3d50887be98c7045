"""CLIP's search for C: seven values far apart, then ever smaller steps around the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# Positions on 97 points from 1e-6 to 1e6, eight steps in each factor of ten.
_LAST = 96
_STEPS_PER_DECADE = 8
_FIRST_STEP = 16


def best_c(scores: Mapping[float, float]) -> float:
    """Return the C with the best score; of equal scores the smallest C, the strongest penalty."""
    return max(scores, key=lambda c: (scores[c], -c))


def search_c(evaluate: Callable[[Sequence[float]], Sequence[float]]) -> dict[float, float]:
    """Return every C tried with its score, by rising C; `best_c` names the winner.

    Seven values from 1e-6 to 1e6, then both neighbours of the best so far at 8, 4, 2 and 1 eighths of a factor of ten:
    at most 15 of 97 points, and the best of all 97 if the score rises to one peak and falls.

    Args:
        evaluate: scores of several C, given by rising C; called five times at most.

    Source: CLIP, arXiv:2103.00020, appendix A.3.
    """
    scores: dict[int, float] = {}

    def try_out(places: Sequence[int]) -> None:
        new = [place for place in places if 0 <= place <= _LAST and place not in scores]
        if new:
            scores.update(zip(new, evaluate([_c(place) for place in new]), strict=True))

    try_out(range(0, _LAST + 1, _FIRST_STEP))
    step = _FIRST_STEP // 2
    while step:
        peak = max(scores, key=lambda place: (scores[place], -place))
        try_out([peak - step, peak + step])
        step //= 2
    return {_c(place): scores[place] for place in sorted(scores)}


def _c(place: int) -> float:
    """Return the C at `place` of the 97 points."""
    return float(10.0 ** (place / _STEPS_PER_DECADE - 6))
