"""Ranks: which one this process is of those that torchrun or SLURM started together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hjepa_eval.errors import ConfigError

# What torchrun sets, then what srun sets: rank, number of processes, rank and number on this machine.
_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
_ALONE = ("0", "1", "0", "1")


@dataclass(frozen=True)
class Ranks:
    """This process among those that were started together.

    Attributes:
        rank: from 0; rank 0 does the talking.
        world_size: how many they are.
        local_rank: the number on this machine; it picks the CUDA device.
        local_world_size: how many are on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    def device(self, wanted: str) -> str:
        """Return the device that `wanted` means for this process: with `auto` and `cuda`, each has its own."""
        if self.world_size == 1 or wanted not in ("auto", "cuda"):
            return wanted
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local_rank % count}" if count else wanted


def read_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """Return what the environment says; a program that runs alone is rank 0 of 1.

    Raises:
        ConfigError: a variable is no number, or the rank is not below the number of processes.
    """
    variables = os.environ if environment is None else environment
    for names in _VARIABLES:
        if names[0] in variables and names[1] in variables:
            found = [variables.get(name, alone) for name, alone in zip(names, _ALONE, strict=True)]
            if not all(each.isdigit() for each in found) or int(found[0]) >= int(found[1]) or found[3] == "0":
                listed = ", ".join(f"{name}={value}" for name, value in zip(names, found, strict=True))
                raise ConfigError(
                    f"{listed}: expected numbers, the first below the second, as torchrun and srun set them"
                )
            return Ranks(*(int(each) for each in found))
    return Ranks()
