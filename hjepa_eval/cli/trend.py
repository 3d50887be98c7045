"""The past of a number in a few characters: a history that never grows, and a line of blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


class History:
    """Values from the beginning until now, at most `size` of them: when full, neighbours are averaged in pairs."""

    def __init__(self, size: int = 128) -> None:
        """Keep at most `size` values, an even number."""
        self.size = size
        self.values: list[float] = []
        self._span = 1
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """Add the newest value."""
        self._pending.append(value)
        if len(self._pending) < self._span:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending = []
        if len(self.values) >= self.size:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [(one + other) / 2 for one, other in pairs]
            self._span *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` blocks from the lowest to the highest value, each the mean of its part of `values`."""
    count = min(width, len(values))
    edges = [place * len(values) // count for place in range(count + 1)] if count else []
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high == low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[round((mean - low) / (high - low) * (len(_BLOCKS) - 1))] for mean in means)
