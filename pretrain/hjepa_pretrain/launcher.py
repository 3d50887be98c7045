"""What torchrun or srun says to a process: which rank it is of how many, and where they meet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch.distributed as dist

from hjepa_eval.errors import ConfigError
from hjepa_eval.ranks import read_ranks
from hjepa_pretrain.across_ranks import rank_and_count


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
