"""The rate of plain matrix products: what a device can do at most, against which work is measured."""

from __future__ import annotations

import statistics
import time

import torch

# The best of these sides counts: which one is fastest depends on caches and on the number of cores.
_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_REPEATS = 7


def matmul_peak(device: torch.device, precision: str) -> float:
    """Return the TFLOP/s (10^12 operations) of the fastest of a few square products `a @ b`, medians of 7.

    Takes about a quarter of a second. No random state changes.

    Args:
        device: where it is measured.
        precision: `bf16` or `fp32`.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for side in _SIDES.get(device.type, _SIDES["cpu"]):
        # Random numbers, since a GPU draws less power, and is faster, on zeros.
        a, b = (torch.randn(side, side, device=device, generator=generator).to(kind) for _ in range(2))
        took = [_seconds(a, b) for _ in range(_REPEATS)]
        best = max(best, 2 * side**3 / statistics.median(took) / 1e12)
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    torch.matmul(a, b)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began
