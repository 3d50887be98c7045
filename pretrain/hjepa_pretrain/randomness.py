"""Random numbers as a function of (seed, step): a run that goes on draws what an unbroken run would have drawn."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, step: int, stream: str) -> int:
    """Return a 63-bit seed that mixes the run's `seed`, a `step` and the name of a `stream` of numbers."""
    digest = hashlib.blake2b(f"{seed}|{step}|{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def step_generator(seed: int, step: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device` for one `stream` (such as `masks`) at one `step`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, step, stream))
    return generator
