"""Devices and number formats: what this machine can use and is fast at, without torch where it need not be asked.

A device is trusted after it has done something, not because its driver is there: an older GPU that torch has no kernels
for says that it is available, and fails at the first kernel.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hjepa_eval.errors import ConfigError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = ("auto", "bf16", "tf32", "fp32")
_CPU_INFO = Path("/proc/cpuinfo")
# Without one of these there is no GPU on Linux: NVIDIA's driver, its device, Windows' under WSL, and AMD's.
_CUDA_DRIVERS = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


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
    """Return `bf16`, `tf32` or `fp32` for one of them or `auto`, which is never `tf32`.

    Raises:
        UnknownNameError: there is no such precision.
        ConfigError: TF32 was asked of a device that does not know it.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    if precision == "tf32" and (str(device).partition(":")[0] != "cuda" or not fast_bf16(device)):
        raise ConfigError(f"precision tf32 needs an NVIDIA GPU since Ampere, found {device}; take fp32 or bf16")
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
    """Return the device for `auto` (CUDA where it works), `cpu`, `cuda`, `cuda:1`, ...

    Where `auto` passes by a GPU that is there, stderr is told why, once.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it, or it cannot do a thing.
    """
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        problem = device_problem("cuda")
        if problem:
            _say_once(f"the GPU cannot be used, so everything runs on the CPU: {problem}")
        return torch.device("cpu" if problem else "cuda")
    problem = device_problem(device)
    if problem:
        raise ConfigError(f"--device {device} cannot be used: {problem}; hjepa doctor shows what is here")
    return torch.device(device)


@cache
def _say_once(text: str) -> None:
    print(f"hjepa: {text}", file=sys.stderr)


@cache
def device_problem(device: str) -> str:
    """Return why a device cannot be used, as one small kernel on it said; empty when it can."""
    import torch

    try:
        chosen = torch.device(device)
        if float(torch.ones(1, device=chosen).add(1).cpu()) != 2.0:
            return "it adds one and one wrongly"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return ""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a host tensor on `device`; a CUDA device copies it from page-locked memory, and the host does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def float32_products(precision: str = "fp32") -> Iterator[None]:
    """Let float32 products and convolutions be as exact as `precision` says, whatever the program around has chosen.

    torch lets convolutions use TF32, with 10 bits of mantissa, unless it is told not to. Only `tf32` may use it here;
    `fp32` computes with whole numbers, and so does what `bf16` leaves in float32.
    """
    import torch

    backends: Any = torch.backends
    fast = precision == "tf32"
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # torch 2.9 and later
        name, on, off = "fp32_precision", "tf32", "ieee"
        switches, operators = [backends.cuda.matmul, backends.mkldnn.matmul], [backends.cudnn.conv, backends.cudnn.rnn]
    else:
        name, on, off = "allow_tf32", cast(Any, True), cast(Any, False)
        switches, operators = [backends.cuda.matmul], [backends.cudnn]
    before = [getattr(switch, name) for switch in (*switches, *operators)]
    try:
        for switch in switches:
            setattr(switch, name, on if fast and switch is backends.cuda.matmul else off)
        # By the older switch: torch.export reads it, and torch raises where the newer ones were set and it was not.
        backends.cudnn.allow_tf32 = fast
        yield
    finally:
        backends.cudnn.allow_tf32 = before[-1] in ("tf32", True)
        for switch, value in zip((*switches, *operators), before, strict=True):
            if getattr(switch, name) != value:
                setattr(switch, name, value)
