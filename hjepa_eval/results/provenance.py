"""Who makes a record, with what: versions, commit, machine, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hjepa_eval.results.records import Provenance

__version__ = "0.1.0"
_PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "safetensors")


def make_provenance(
    *, seed: int, device: str, settings: Mapping[str, Any], seconds: Mapping[str, float], command: str = ""
) -> Provenance:
    """Return the provenance of a record that is made now, by this process; its own command line if no `command`."""
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command or shlex.join(["hjepa", *sys.argv[1:]]),
        seed=seed,
        device=device,
        settings=dict(settings),
        seconds={phase: round(value, 3) for phase, value in seconds.items()},
        versions=package_versions(),
        git=git_state(),
        platform=platform.platform(),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of this program, Python and the packages that numbers depend on."""
    found = {"hjepa": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> str | None:
    """Return the commit of the checkout that this program runs from, `-dirty` when files changed; None outside one."""
    here = Path(__file__).resolve().parent.parent.parent
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
