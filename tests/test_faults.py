"""The fault campaign, a tenth of it: no try fails, and no number differs without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

FAMILIES = (
    "flips",
    "edits of records",
    "edits of runs and memos",
    "hostile files",
    "hostile images and names",
    "streams and environment",
)


@pytest.mark.slow
def test_campaign__a_tenth_of_it_holds(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "pretrain")))}
    command = [sys.executable, ROOT / "benchmarks/faults.py", "--quick"]
    # Moments of kills depend on the machine: a search, and no gate. Tests of each room kill at chosen steps.
    for family in FAMILIES:
        command += ["--family", family]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert " 0 failed, 0 silent" in done.stdout.splitlines()[-1]
