"""Which columns stand side by side: what is too wide for one table goes into another below, and no number is cut."""

from __future__ import annotations

from collections.abc import Sequence


def groups_that_fit(sizes: Sequence[int], space: int, *, block: Sequence[int] = ()) -> list[list[int]]:
    """Return the places of columns in groups, each of at most `space`; a column wider than that stands alone.

    Args:
        sizes: of each column.
        space: for the columns of a group.
        block: sizes of columns that follow the others and stay together; their places go on after the others'.
    """
    groups: list[list[int]] = []
    left = 0
    for column, size in enumerate(sizes):
        if not groups or size > left:
            groups.append([])
            left = space
        groups[-1].append(column)
        left -= size
    together = list(range(len(sizes), len(sizes) + len(block)))
    if together and groups and sum(block) <= left:
        groups[-1] += together
    elif together:
        groups.append(together)
    return groups
