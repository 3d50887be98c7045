"""Run independent fits at the same time, each on its share of the processor's cores.

A fit of one level does not use two cores well: between its products stand steps too short to share (measured on the C
path of 50,000 x 384: two threads are 1.4 times as fast as one). Several levels fitted at once, a thread each, do. So do
few-shot episodes, whose products are tiny.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]], *, size: int = 0, workers: int | None = None) -> Iterator[T]:
    """Yield the results of `jobs` in their order; a job's exception is raised at its place.

    Args:
        jobs: each computes with torch or numpy, which leave the interpreter free for the others.
        size: bytes that all jobs together read; above an eighth of the machine's memory they run one after another,
            for each keeps copies of what it reads.
        workers: how many run at the same time; by default all, so that a few long ones end together.
    """
    threads = torch.get_num_threads()
    workers = min(len(jobs), workers or len(jobs))
    if workers < 2 or size > _memory() / 8:
        yield from (job() for job in jobs)
        return
    share = max(1, threads // workers)

    def run(job: Callable[[], T]) -> T:
        torch.set_num_threads(share)  # OpenMP keeps this number per thread.
        return job()

    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="fit") as pool:
            yield from pool.map(run, jobs)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread(small: bool) -> Iterator[None]:
    """Compute on one thread inside the block if the work is `small`; the number of threads is put back at the end.

    Handing a product of a millisecond to a second core costs as much as it saves, and 50 times as much when another
    process has that core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _memory() -> int:
    """Return the machine's memory in bytes; 8 GiB where the system does not say."""
    if not hasattr(os, "sysconf"):
        return 8 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
