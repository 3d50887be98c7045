"""Every command in the README runs as it stands there, in one folder, one after another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from documents import blocks, lines_of, run_command
from folders import ROOT

README = (ROOT / "README.md").read_text()


def lines(first: str) -> list[str]:
    """Return the README's commands that begin with this word."""
    shell = (line for _, block in blocks(README, "sh") for line in lines_of(block))
    return [line for line in shell if line.startswith(f"{first} ")]


def test_readme__make_commands_are_in_the_makefile() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    wanted = [line.split()[1] for line in lines("make")]
    assert wanted == ["demo", "test"]
    assert set(wanted) <= set(targets)


def test_readme__every_hjepa_command_runs(reader: Path, quick_pages: None, capsys: pytest.CaptureFixture[str]) -> None:
    commands = lines("hjepa")
    assert len(commands) > 12
    # Pretraining comes first, for others read its run.
    commands.sort(key=lambda line: not line.startswith("hjepa pretrain"))
    for line in commands:
        run_command([word.replace("path/to/cifar10", str(reader)) for word in shlex.split(line)[1:]], capsys)
    for _, block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert re.search(r"\(\d+, 192\) \(\d+,\)", capsys.readouterr().out)
