"""Devices and number formats: what this machine is fast at."""

from __future__ import annotations

import torch

from hjepa_eval.errors import ConfigError, unknown

PRECISIONS = ("auto", "bf16", "fp32")


def fast_bf16(device: torch.device) -> bool:
    """Tell whether bfloat16 matrix products are faster than float32 here: CUDA since Ampere, or AMX / AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32` for `auto`, `bf16` or `fp32`.

    Raises:
        UnknownNameError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    return precision


def resolve_device(device: str) -> torch.device:
    """Return the device for `auto` (CUDA when there is one), `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}; hjepa doctor shows what is here") from None
    return chosen
