"""`hjepa doctor`: what this machine offers, and what to do about each problem."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and what to do when that is a problem."""

    topic: str
    found: str
    advice: str = ""


def _devices() -> list[Check]:
    import torch

    from hjepa_eval.machine.devices import device_problem, fast_bf16

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    problems = {device: problem for device in devices if (problem := device_problem(device))}
    names = [torch.cuda.get_device_name(device) for device in devices]
    no_gpu = "" if names else "runs on the CPU; for a GPU install its driver and a torch build for it"
    no_gpu = "; ".join(f"{device} cannot be used: {problem}" for device, problem in problems.items()) or no_gpu
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    avx = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    units = " and ".join(name for name, here in (("AMX", amx), ("AVX512-BF16", avx)) if here) or "no bf16 units"
    fast = fast_bf16(torch.device("cuda" if len(names) > len(problems) else "cpu"))
    return [
        Check("CUDA devices", ", ".join(names) or "none", no_gpu),
        Check("CPU", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, {units}"),
        Check("--precision auto", "bf16" if fast else "fp32"),
        Check(
            "C++ compiler",
            shutil.which("g++") or shutil.which("clang++") or "none",
            "" if shutil.which("g++") or shutil.which("clang++") else "torch.compile needs one on the CPU; eager runs",
        ),
    ]


def _faiss() -> Check:
    try:
        import faiss
    except ImportError as error:
        advice = "the exact search runs in torch; for FAISS: pip install faiss-gpu (Linux) or faiss-cpu"
        return Check("FAISS", f"cannot be imported: {error}", advice)
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    build = "with GPU code" if hasattr(faiss, "StandardGpuResources") else "CPU only"
    return Check("FAISS", f"{faiss.__version__}, {build}, sees {gpus} GPUs")


def _writable(folder: Path) -> bool:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)


def _folders() -> list[Check]:
    from hjepa_eval.features.cache import default_cache_dir, list_stores

    cache = default_cache_dir()
    stores = list(list_stores(cache))
    size = sum(store.manifest.bytes for store in stores if store.manifest) / 1e6
    free = shutil.disk_usage(next(parent for parent in (cache, *cache.parents) if parent.exists())).free / 1e9
    advice = "" if _writable(cache) else "it cannot be written; name another with --cache-dir or HJEPA_CACHE"
    broken = [store.folder.name for store in stores if store.manifest is None]
    checks = [Check("cache", f"{cache}: {len(stores)} stores, {size:.1f} MB, {free:.0f} GB free", advice)]
    if broken:
        checks.append(Check("incomplete stores", ", ".join(broken), "extract again, or hjepa cache rm KEY"))
    data = Path(os.environ.get("HJEPA_DATA") or "data")
    missing = "" if data.is_dir() else "only needed for datasets other than digits: --root or HJEPA_DATA"
    checks.append(Check("data", f"{data}{'' if data.is_dir() else ' (absent)'}", missing))
    runs = [path.parent.name for path in Path("runs").glob("*/summary.json")]
    advice = "" if runs else "--model is needed until 'hjepa demo' or 'hjepa pretrain' has made a run"
    return [*checks, Check("finished runs", ", ".join(sorted(runs)) or "none under runs/", advice)]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("doctor")
    @guarded
    def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout")] = False) -> None:
        """Look at this machine and say what to mend.

        Versions, devices, number formats, FAISS, folders, and what to do about each problem.
        """
        import torch  # noqa: F401  before faiss: two CUDA runtimes live in one process only in that order

        from hjepa_eval.results.provenance import package_versions

        versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
        checks = [Check("versions", versions), *_devices(), _faiss(), *_folders()]
        if as_json:
            print_json([asdict(check) for check in checks])
            return
        for check in checks:
            mark = "!" if check.advice else " "
            print(f"{mark} {check.topic}: {check.found}" + (f"\n    -> {check.advice}" if check.advice else ""))
