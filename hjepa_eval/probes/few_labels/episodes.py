"""Few-shot episodes: which samples are support and which are queries.

They are drawn from labels alone, so every level sees the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.samples import class_label


@dataclass(frozen=True)
class Episodes:
    """Indices into the pool of samples.

    Attributes:
        classes: int64 [E, W], the classes of each episode, all different.
        support: int64 [E, W, S], labelled samples of each class.
        queries: int64 [E, W, Q], samples to classify; none is in the support of its episode.
        counts: int64 [C], samples of each class in the pool.
    """

    classes: NDArray[np.int64]
    support: NDArray[np.int64]
    queries: NDArray[np.int64]
    counts: NDArray[np.int64]


def draw_episodes(
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 10_000,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Episodes:
    """Draw `episodes` episodes: `ways` classes uniformly, then `shots + queries` different samples of each uniformly.

    The draw depends on the labels, the sizes and the seed only. Classes without any sample are never drawn.

    Args:
        labels: int64 [N], in [0, num_classes).
        num_classes: C.
        ways: W, classes in an episode.
        shots: S, labelled samples per class.
        queries: Q, samples to classify per class.
        episodes: E.
        seed: of numpy's PCG64.
        class_names: names for messages.

    Raises:
        ProbeError: sizes below 1, fewer classes than `ways`, or a class with fewer than `shots + queries` samples.
    """
    for name, size, least in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("episodes", episodes, 1),
    ):
        if size < least:
            raise ProbeError(f"{name} = {size} is too few; use at least {least}")
    counts = np.bincount(labels, minlength=num_classes)
    present = np.flatnonzero(counts)
    _check_sizes(counts, present, ways, shots, queries, class_names)
    generator = np.random.default_rng(seed)
    chosen = present[_draw_distinct(generator, np.full(episodes, len(present)), ways)]
    by_class = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    slots = chosen.ravel()
    drawn = by_class[starts[slots][:, None] + _draw_distinct(generator, counts[slots], shots + queries)]
    drawn = drawn.reshape(episodes, ways, shots + queries)
    return Episodes(chosen, drawn[:, :, :shots], drawn[:, :, shots:], counts)


def _check_sizes(
    counts: NDArray[np.int64],
    present: NDArray[np.int64],
    ways: int,
    shots: int,
    queries: int,
    class_names: Sequence[str] | None,
) -> None:
    if ways > len(present):
        raise ProbeError(
            f"{ways}-way episodes need {ways} classes; the samples have {len(present)}"
            + (f": use --ways {len(present)}" if len(present) >= 2 else "")
        )
    rarest = int(present[np.argmin(counts[present])])
    have = int(counts[rarest])
    if have < shots + queries:
        advice = [f"--queries {have - shots} or fewer"] * (have > shots)
        advice += [f"--shots {have - queries} or fewer"] * (have > queries)
        raise ProbeError(
            f"{ways}-way {shots}-shot episodes with {queries} queries take {shots + queries} images of every class, "
            f"and {class_label(rarest, class_names)} has {have}; "
            f"use {', or '.join(advice) or 'fewer of both, --shots and --queries'}"
        )


def _draw_distinct(generator: np.random.Generator, sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return int64 [M, count]: row m has `count` different numbers below `sizes[m]`, all ordered draws equally likely.

    Floyd's algorithm for all rows at once: `count` steps whatever the sizes, where shuffling would touch every
    sample of a class for every episode. It gives a uniform set whose order is not uniform, hence the shuffle at the
    end.

    Source: Bentley and Floyd, "A sample of brilliance", CACM 1987.
    """
    drawn = np.full((len(sizes), count), -1, dtype=np.int64)
    for step in range(count):
        top = sizes - count + step
        number = generator.integers(0, top + 1)
        taken = (drawn[:, :step] == number[:, None]).any(axis=1)
        drawn[:, step] = np.where(taken, top, number)
    return np.asarray(generator.permuted(drawn, axis=1))
