"""How much memory of this machine is free, for a process that may live in a container."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def available_memory(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process can take before something is swapped out or killed.

    The least of what the kernel calls available and what each control group (v2) around the process has left. Where the
    kernel says nothing, all physical memory counts as free.

    Args:
        proc: where the kernel tells about processes and memory.
        cgroups: where the tree of control groups is mounted.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(proc / "meminfo"), re.MULTILINE)
    machine = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_left_in_groups(proc, cgroups)])


def _left_in_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the bytes left under the limit of each group that has one, from the process's own to the outermost."""
    own = re.search(r"^0::/(.*)$", _text(proc / "self" / "cgroup"), re.MULTILINE)
    if own is None:
        return
    folder = cgroups / own[1]
    for group in (folder, *folder.parents):
        if not group.is_relative_to(cgroups):
            return
        limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            # Files that were read are counted as used, and let go of when memory is wanted.
            cached = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            yield max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
