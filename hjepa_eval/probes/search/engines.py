"""Engines: float32 search over blocks of a bank, by FAISS or torch, on the CPU or on one or several GPUs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch  # before faiss: two CUDA runtimes can live in one process only in that order

from hjepa_eval.errors import ProbeError, lacks_memory, unknown
from hjepa_eval.machine.devices import float32_products
from hjepa_eval.probes.search.bank import Bank, Metric, Space, numbered_blocks

Backend = Literal["auto", "faiss", "torch"]
Found = tuple[torch.Tensor, torch.Tensor]

# FAISS selects at most this many neighbours on a GPU.
_FAISS_GPU_LIMIT = 2048
_CHUNK_ELEMENTS = 1 << 25
_GPU_SCRATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Engine:
    """What searches, and where.

    Attributes:
        backend: `faiss` or `torch`.
        devices: of torch; each block of the bank is shared out among them.
    """

    backend: str
    devices: tuple[str, ...]

    @property
    def name(self) -> str:
        """`faiss`, `torch`, `faiss-cuda` or `torch-cuda`, as results name it."""
        return self.backend if self.devices[0] == "cpu" else f"{self.backend}-cuda"

    def candidates(self, bank: Bank, queries: torch.Tensor, space: Space, count: int, block_rows: int) -> Found:
        """Return similarity, float32 falling, and index [Q, count] of rows of `bank` for placed `queries` [Q, D]."""
        best: Found | None = None
        with float32_products():
            for first, block in numbered_blocks(bank, block_rows):
                parts = space.place(block).chunk(len(self.devices))
                del block  # As large as its placed copy, and the search needs room too.
                for found, part in zip(self._search(parts, queries, count, space.metric), parts, strict=True):
                    best = _merge(best, (found[0], found[1].add_(first)), count)
                    first += len(part)
        assert best is not None  # a bank has at least one row
        return best

    def _search(self, parts: Sequence[torch.Tensor], queries: torch.Tensor, count: int, metric: Metric) -> list[Found]:
        """Search each placed part of a block on its own device, all at the same time."""
        search = _search_faiss if self.backend == "faiss" else _search_torch

        def find(device: str, part: torch.Tensor) -> Found:
            try:
                return search(device, part, queries, min(count, len(part)), metric)
            except RuntimeError as error:
                # FAISS takes its memory beside torch's; torch needs less, in smaller pieces, and finds the same.
                if device == "cpu" or search is _search_torch or not lacks_memory(error):
                    raise
                torch.cuda.empty_cache()
                return _search_torch(device, part, queries, min(count, len(part)), metric)

        if len(parts) == 1:  # In this thread: OpenMP would start another set of threads for a new one.
            return [find(self.devices[0], parts[0])]
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(find, self.devices, parts))


def choose_engine(backend: Backend, device: str = "cpu", *, count: int = 1) -> Engine:
    """Return the engine for what was asked, `count` neighbours at a time.

    `auto` prefers FAISS where it is installed and, for a GPU, has GPU functions and may select that many neighbours.
    The device `cuda` means all GPUs that are visible, `cuda:1` one of them.

    Raises:
        UnknownNameError: there is no such backend.
        ProbeError: FAISS was asked for by name and cannot do it, or the device is none or absent.
    """
    if backend not in get_args(Backend):
        raise unknown("search backend", backend, get_args(Backend))
    devices = _devices(device)
    absent = faiss_problem()
    problem = absent or (_gpu_problem(devices, count) if device != "cpu" else None)
    if backend == "faiss" and problem:
        advice = "or: pip install faiss-cpu" if absent else "or the device cpu"
        raise ProbeError(f"FAISS cannot be used ({problem}); use the backend torch, {advice}")
    return Engine("torch" if backend == "torch" or problem else "faiss", devices)


@cache
def faiss_problem() -> str | None:
    """Return why FAISS cannot be imported here, or None when it can."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def _gpu_problem(devices: tuple[str, ...], count: int) -> str | None:
    import faiss

    if not (hasattr(faiss, "knn_gpu") and hasattr(faiss, "StandardGpuResources")):
        return f"FAISS {faiss.__version__} has no GPU functions"
    if faiss.get_num_gpus() <= max(_number(device) for device in devices):
        return f"it sees {faiss.get_num_gpus()} GPUs, not {', '.join(devices)}"
    if count > _FAISS_GPU_LIMIT:
        return f"on a GPU it finds at most {_FAISS_GPU_LIMIT} neighbours, not {count}"
    return next((problem for device in devices if (problem := _trial(_number(device)))), None)


_TRIAL = """
import sys, numpy, torch, faiss
rows = numpy.eye(2, 8, dtype="float32")
_, index = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 1, device=int(sys.argv[1]))
sys.exit(index.ravel().tolist() != [0, 1])
"""


@cache
def _trial(number: int) -> str | None:
    """Return why FAISS cannot search two rows on GPU `number`; in another process, for a CUDA error in it aborts."""
    try:
        ended = subprocess.run([sys.executable, "-c", _TRIAL, str(number)], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return f"it did not answer on GPU {number} within 2 minutes"
    if ended.returncode == 0:
        return None
    return f"on GPU {number} it failed: {(ended.stderr.strip().splitlines() or ['without a word'])[-1][:200]}"


def _devices(device: str) -> tuple[str, ...]:
    kind, _, number = device.partition(":")
    if device not in ("cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise ProbeError(f"a search runs on the device cpu, cuda or cuda:0, found {device!r}")
    if kind == "cpu":
        return ("cpu",)
    visible = torch.cuda.device_count()
    if int(number or 0) >= visible:
        raise ProbeError(f"the device {device} is not among the {visible} CUDA devices visible here; use cpu")
    return (device,) if number else tuple(f"cuda:{i}" for i in range(visible))


def _number(device: str) -> int:
    return int(device.partition(":")[2])


def chunks(rows: torch.Tensor, width: int) -> Iterator[torch.Tensor]:
    """Yield pieces of `rows` such that a piece times `width` numbers take 128 MiB in float32; none for no rows."""
    yield from torch.split(rows, max(1, _CHUNK_ELEMENTS // width)) if len(rows) else ()


def _merge(best: Found | None, found: Found, count: int) -> Found:
    if best is None:
        return found
    joined = torch.cat([best[0], found[0]], dim=1)
    similarity, order = joined.topk(min(count, joined.shape[1]), dim=1)
    return similarity, torch.cat([best[1], found[1]], dim=1).gather(1, order)


def _search_faiss(device: str, part: torch.Tensor, queries: torch.Tensor, count: int, metric: Metric) -> Found:
    import faiss

    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    if device == "cpu":
        score, index = faiss.knn(queries.numpy(), part.numpy(), count, metric=kind)
    else:
        number = _number(device)
        score, index = faiss.knn_gpu(
            _gpu_resources(number), queries.numpy(), part.numpy(), count, metric=kind, device=number
        )
    similarity = torch.from_numpy(score)
    return (similarity if metric == "cosine" else similarity.neg_()), torch.from_numpy(index)


@cache
def _gpu_resources(number: int) -> Any:
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH_BYTES)  # Its own choice is 1.5 GB for each GPU.
    return resources


def _search_torch(device: str, part: torch.Tensor, queries: torch.Tensor, count: int, metric: Metric) -> Found:
    part = part.to(device)
    squares = part.square().sum(dim=1)
    found = []
    for chunk in chunks(queries, len(part)):
        chunk = chunk.to(device)
        product = chunk @ part.T
        if metric == "euclidean":
            product = product.mul_(2).sub_(squares).sub_(chunk.square().sum(dim=1, keepdim=True))
        similarity, index = largest(product, count)
        found.append((similarity.cpu(), index.cpu()))
    return torch.cat([pair[0] for pair in found]), torch.cat([pair[1] for pair in found])


# Columns whose largest number is looked at before any other: one pass over them costs a tenth of a selection.
_GROUP = 64


def largest(values: torch.Tensor, count: int) -> Found:
    """Return the `count` largest numbers of each row of `values` [Q, N] and their columns, falling.

    On a CPU only the groups of 64 columns are searched that have the `count` highest maxima: a number in another group
    is at most as large as each of these, so leaving it out changes ties at most.
    """
    groups = values.shape[1] // _GROUP
    if values.device.type != "cpu" or groups < 4 * count:
        return values.topk(count, dim=1)
    whole = groups * _GROUP
    maxima = values[:, :whole].view(len(values), groups, _GROUP).amax(dim=2)
    chosen = maxima.topk(count, dim=1, sorted=False).indices
    inside = (chosen[:, :, None] * _GROUP + torch.arange(_GROUP)).flatten(1)
    rest = torch.arange(whole, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([inside, rest], dim=1)
    found, place = values.gather(1, columns).topk(count, dim=1)
    return found, columns.gather(1, place)
