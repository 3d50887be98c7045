"""Devices and number formats: what this machine is fast at, asked of the system where torch need not be imported."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hjepa_eval.errors import ConfigError, unknown

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "bf16", "fp32")
_CPU_INFO = Path("/proc/cpuinfo")
# Without one of these there is no CUDA on Linux: NVIDIA's driver, its device, and Windows' under WSL.
_CUDA_DRIVERS = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))


def fast_bf16(device: str | torch.device) -> bool:
    """Tell whether bfloat16 matrix products are faster than float32 here: CUDA since Ampere, or AMX / AVX512-BF16."""
    kind = str(device).partition(":")[0]
    if kind == "cpu" and _CPU_INFO.is_file():
        return bool({"amx_tile", "avx512_bf16"} & set(_CPU_INFO.read_text().split()))
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if kind == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


def hardware_name(device: str) -> str:
    """Return what a device is, such as `Intel(R) Xeon(R) Processor` or a GPU's name; without torch for the CPU."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return f"{device} of {platform.machine()}"
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def resolve_precision(precision: str, device: str | torch.device) -> str:
    """Return `bf16` or `fp32` for `auto`, `bf16` or `fp32`.

    Raises:
        UnknownNameError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    return precision


def device_name(device: str) -> str:
    """Return the name of the device that `resolve_device` gives; without torch when it can only be the CPU.

    Raises:
        ConfigError: as `resolve_device`.
    """
    if device == "cpu" or (device == "auto" and sys.platform == "linux" and not any(map(Path.exists, _CUDA_DRIVERS))):
        return "cpu"
    return str(resolve_device(device))


def resolve_device(device: str) -> torch.device:
    """Return the device for `auto` (CUDA when there is one), `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}; hjepa doctor shows what is here") from None
    return chosen
