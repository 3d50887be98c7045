"""Random numbers as a function of (seed, number, stream): who goes on draws what an unbroken run would have drawn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_GAMMA, _FIRST, _SECOND = (
    np.uint64(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def derive_seed(seed: int, number: int, stream: str) -> int:
    """Return a 63-bit seed that mixes a `seed`, a `number` (a step, an epoch) and the name of a `stream`."""
    digest = hashlib.blake2b(f"{seed}|{number}|{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform_rows(key: int, rows: npt.NDArray[np.int64], *, columns: int) -> npt.NDArray[np.float32]:
    """Return float32 `[N, columns]` in [0, 1), each row a function of (key, its number in `rows` `[N]`) alone.

    Source: SplitMix64, read at any place of its sequence (Steele, Lea and Flood, OOPSLA 2014).
    """
    place = rows.astype(np.uint64)[:, None] * np.uint64(columns) + np.arange(1, columns + 1, dtype=np.uint64)
    state = np.uint64(key) + place * _GAMMA
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    # 24 bits: as many as float32 holds, so that no number is rounded up to 1.
    numbers = ((state ^ (state >> np.uint64(31))) >> np.uint64(40)).astype(np.float32)
    return np.asarray(np.ldexp(numbers, -24))


def seeded_generator(seed: int, number: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device` for one `stream` (such as `masks`) at one `number`."""
    import torch

    made = torch.Generator(device=device)
    made.manual_seed(derive_seed(seed, number, stream))
    return made
