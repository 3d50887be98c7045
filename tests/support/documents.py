"""The blocks of README.md and docs/*.md, and how their commands are run: as they stand, on less."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import ROOT
from forked import finish, rank_processes

PAGES = sorted((ROOT / "docs").glob("*.md"))
# Its blocks are files, and have a test of their own: test_docs_extending.py.
COMPLETE_FILES = "extending.md"
# Steps and what is measured between them.
_FEW_STEPS = tuple(
    word
    for setting in ("train.minutes=0.01", "train.batch_size=32", "diagnostics.bank=64")
    for word in ("--set", setting)
)
ON_IMAGES = {"eval", "knn", "linear", "fewshot", "lowshot", "extract", "finetune", "profile", "search"}


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return language and content of the blocks of code."""
    pairs = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, block) for language, block in pairs if not languages or language in languages]


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, without remarks."""
    return [line for line in (line.split(" #")[0].strip() for line in block.splitlines()) if line]


def small(arguments: list[str]) -> list[str]:
    """Return the same command on less: seconds are enough to see the road."""
    command = arguments[0]
    if command == "demo":
        return [*arguments, "--fast"]
    if command == "pretrain" and not {"--show-settings", "--resume"} & set(arguments):
        return [*arguments, *_FEW_STEPS]
    if command in ("eval", "fewshot") and "--episodes" not in arguments:
        arguments = [*arguments, "--episodes", "100"]
    if command == "finetune" and "--epochs" not in arguments:
        arguments = [*arguments, "--epochs", "1"]
    if command in ON_IMAGES and "--max-samples" not in arguments:
        arguments = [*arguments, "--max-samples", "200"]
    return arguments


def run_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the program in this process; it must end well."""
    from hjepa_eval.cli import main

    with pytest.raises(SystemExit) as stop:
        main(small(arguments))
    assert stop.value.code == 0, f"hjepa {shlex.join(arguments)}: {capsys.readouterr().err}"


def run_line(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line of a page: the program, or one of its launchers; what installs must stand in the README."""
    first, *rest = shlex.split(line)
    if first == "hjepa":
        run_command(rest, capsys)
    elif first == "srun":
        # As the only task of a job: what srun sets, without srun.
        with monkeypatch.context() as task:
            task.setenv("SLURM_PROCID", "0")
            task.setenv("SLURM_NTASKS", "1")
            run_command(rest[rest.index("hjepa") + 1 :], capsys)
    elif first == "torchrun":
        # The ranks of one machine without the launcher, which pretrain/distributed/test_ranks_end.py starts.
        program = rest.index("hjepa_eval")
        assert rest[program - 1] == "-m", line
        count = int(rest[rest.index("--nproc-per-node") + 1])
        said, codes = finish(*rank_processes(["-m", "hjepa_eval", *small(rest[program + 1 :])], count))
        assert codes == [0] * count, f"{line}: {said}"
    else:
        # Installing is what the README says, and its test knows the Makefile.
        assert f"\n{line}" in re.sub(r" +#.*", "", (ROOT / "README.md").read_text()), line


def run_page(page: Path, run: Callable[[str], None]) -> None:
    """Run all blocks of a page in order, in the folder where we are; `run` does a line of the shell."""
    for language, block in blocks(page.read_text(), "sh", "python"):
        if language == "python":
            exec(compile(block, page.name, "exec"), {"__name__": page.stem})
            continue
        for line in lines_of(block):
            run(line)
