"""Which columns stand side by side: what is too wide for one table goes into another below, and no number is cut."""

from __future__ import annotations

from collections.abc import Sequence


def groups_that_fit(sizes: Sequence[int], space: int, *, block: Sequence[int] = ()) -> list[list[int]]:
    """Return the places of columns in groups, each of at most `space`; a column wider than that stands alone.

    Args:
        sizes: of each column.
        space: for the columns of a group.
        block: sizes of columns that follow, their places after the others'; together if `space` holds them all.
    """
    together = sum(block) <= space
    groups: list[list[int]] = []
    left = 0
    for column, size in enumerate([*sizes, *(() if together else block)]):
        if not groups or size > left:
            groups.append([])
            left = space
        groups[-1].append(column)
        left -= size
    rest = list(range(len(sizes), len(sizes) + len(block))) if together else []
    if rest and groups and sum(block) <= left:
        groups[-1] += rest
    elif rest:
        groups.append(rest)
    return groups
