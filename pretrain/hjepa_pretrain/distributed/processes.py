"""The processes that share a run: started by torchrun or srun, they meet, agree on host values, and end together.

The same command runs alone or under `torchrun --nproc-per-node 2 -m hjepa_eval pretrain ...`. Every rank computes its
part of every batch; the leader, rank 0, alone writes files, measures and speaks. What decides how a run goes on (the
clock, Ctrl-C, measurements) is agreed upon, so that all ranks do the same steps. Values of the host travel over gloo,
which never waits for a device; gradients and statistics on CUDA travel over nccl.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from hjepa_eval.errors import ConfigError
from hjepa_eval.machine.devices import resolve_device
from hjepa_eval.machine.ranks import read_ranks
from hjepa_pretrain.distributed.across_ranks import buckets, rank_and_count
from hjepa_pretrain.distributed.endings import ending_together


def started_ranks(environment: Mapping[str, str] | None = None) -> tuple[int, int, int]:
    """Return rank, number of ranks and rank on this machine, of a process group or of what the launcher says.

    A SLURM batch script knows how many tasks its job has, but is none of them before it calls srun: it is alone.

    Raises:
        ConfigError: the launcher's variables make no sense.
    """
    variables = os.environ if environment is None else environment
    ranks = read_ranks(variables)
    if dist.is_available() and dist.is_initialized():
        return *rank_and_count(), ranks.local_rank
    if "WORLD_SIZE" not in variables and "SLURM_STEP_ID" not in variables:
        return 0, 1, 0
    return ranks.rank, ranks.world_size, ranks.local_rank


def meeting_place(environment: Mapping[str, str]) -> dict[str, str]:
    """Return MASTER_ADDR and MASTER_PORT: as they are set, or those of the first node of a SLURM job.

    Raises:
        ConfigError: nobody says where the ranks meet.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", nodes)
    first = "".join(part or "" for part in found.groups()) if found else None
    address = environment.get("MASTER_ADDR", first)
    job = environment.get("SLURM_JOB_ID", "")
    port = environment.get("MASTER_PORT", str(20000 + int(job) % 20000) if job.isdigit() else None)
    if address is None or port is None:
        raise ConfigError("several ranks, but MASTER_ADDR and MASTER_PORT are not set; start with torchrun or srun")
    return {"MASTER_ADDR": address, "MASTER_PORT": port}


T = TypeVar("T")

# A rank may wait so long for the others: the leader measures features or writes a checkpoint meanwhile.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that share a run; alone, everything here is the identity.

    Attributes:
        rank: from 0; rank 0 is the leader.
        count: how many they are.
        local_rank: the number on this machine; it picks the CUDA device.
        device: where this rank computes.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leader(self) -> bool:
        """Whether this rank writes, measures and speaks."""
        return self.rank == 0

    def agree(self, value: float) -> float:
        """Return the leader's `value`, for example of its clock."""
        return self.meet(value, stop=False)[0]

    def meet(self, value: float, *, stop: bool) -> tuple[float, bool]:
        """Return the leader's `value`, and whether any rank wants to `stop`, in one exchange."""
        if self.count == 1:
            return value, stop
        # Zeros but for the leader's: the sum is its value, exactly.
        said = torch.tensor([value if self.leader else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(said)
        return float(said[0]), bool(said[1])

    def share(self, value: T) -> T:
        """Return the leader's `value`, any picklable one; the others' is ignored."""
        if self.count == 1:
            return value
        box = [value if self.leader else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        shared: T = box[0]  # type: ignore[assignment]
        return shared

    def mean(self, rows: Tensor) -> Tensor:
        """Return the mean over ranks of floating `rows` in the host's memory, the same bits on every rank."""
        if self.count == 1:
            return rows
        total = rows.double()
        dist.all_reduce(total)
        return (total / self.count).to(rows.dtype)

    def wait_for_all(self) -> None:
        """Return when every rank is here."""
        self.agree(0.0)

    def copy_leaders(self, tensors: list[Tensor]) -> None:
        """Set `tensors` to the leader's, in place.

        They travel in flat buckets of one type: a handful of messages, and nccl takes contiguous tensors only.
        """
        if self.count == 1:
            return
        for bucket in buckets([tensor.detach() for tensor in tensors]):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.broadcast(flat, src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for part, tensor in zip(parts, bucket, strict=True):
                tensor.copy_(part.view_as(tensor))


@contextmanager
def ranks_together(wanted: str) -> Iterator[ProcessGroup]:
    """Give the ranks of this run, each with its device of those that `wanted` allows; they meet here and end here.

    A process group that exists already is used and left. When a rank cannot go on, the others learn why: see `endings`.

    Raises:
        ConfigError: the ranks do not find each other, or there is no such device.
    """
    rank, count, local_rank = started_ranks()
    device = resolve_device(read_ranks().device(wanted) if count > 1 else wanted)
    ranks = ProcessGroup(rank, count, local_rank, device)
    if device.type == "cuda" and count > 1:
        check_devices(wanted, read_ranks().local_world_size, torch.cuda.device_count())
        torch.cuda.set_device(device)
    if count == 1 or dist.is_initialized():
        yield ranks
        return
    store = _meet(ranks)
    with ending_together(store, rank, count):
        try:
            yield ranks
        except BaseException:
            # What waits for a rank that has ended would wait forever.
            if dist.group.WORLD is not None:
                with suppress(RuntimeError):  # Not every backend can.
                    dist.group.WORLD.abort()
            raise
        finally:
            dist.destroy_process_group()


def check_devices(wanted: str, ranks: int, devices: int) -> None:
    """Refuse `ranks` on one machine that would share one of its CUDA `devices`: nccl does not let them.

    Raises:
        ConfigError: there are more ranks than devices, or `wanted` names one device for all of them.
    """
    if ranks > 1 and wanted not in ("auto", "cuda"):
        raise ConfigError(
            f"train.device is {wanted} for all {ranks} ranks of this machine, and each needs a GPU of its own; "
            "set train.device=cuda"
        )
    if ranks > devices:
        raise ConfigError(
            f"{ranks} ranks on this machine, which has {devices} GPUs, and each needs one of its own; "
            f"start {devices} (torchrun --nproc-per-node {devices}), or set train.device=cpu"
        )


def _meet(ranks: ProcessGroup) -> Store:
    """Start the process group, and return the store that the ranks share."""
    place = meeting_place(os.environ)
    missing = {name: value for name, value in place.items() if name not in os.environ}
    os.environ.update(missing)
    backend = "cpu:gloo,cuda:nccl" if ranks.device.type == "cuda" else "gloo"
    try:
        store, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.count, timeout=PATIENCE)))
        store.set_timeout(PATIENCE)
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=ranks.rank, world_size=ranks.count, timeout=PATIENCE)
        dist.barrier(device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None)
    except dist.DistError as error:
        raise ConfigError(
            f"rank {ranks.rank} of {ranks.count} does not find the others at {':'.join(place.values())}: "
            f"{str(error).splitlines()[0]}; start all of them with torchrun or srun"
        ) from None
    finally:
        for name in missing:
            del os.environ[name]
    return PrefixStore("endings", store)
