"""Ranks end together, with one line that says why, and a run that lost a rank goes on exactly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from folders import SUPPORT
from forked import Forked, finish, rank_processes
from hjepa_pretrain.runs.checkpoint import list_checkpoints
from safetensors.torch import load_file
from small_runs import ON_RANKS, trace

from hjepa_eval.config import merge

PROGRAM = SUPPORT / "rank_faults.py"


def lines_of(said: str) -> list[str]:
    """Return what the program itself said on stderr when it could not go on."""
    return [line for line in said.splitlines() if line.startswith("hjepa: ")]


def program(folder: Path, *words: object, fault: str = "", at: int = 0, on: int = 1) -> list[Forked]:
    """Start two ranks of the program on digits, with a fault on one of them."""
    fault_at = {"FAULT": fault, "FAULT_RANK": on, "FAULT_STEP": at, "STEPS": folder / "steps"}
    return rank_processes([PROGRAM, "pretrain", "--quiet", *words], 2, **fault_at)


def start(words: Sequence[object], *, forks: bool, **environment: object) -> Forked | subprocess.Popen[str]:
    """Start a process of Python, or fork one."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    settings |= {name: str(value) for name, value in environment.items()}
    if forks:
        return Forked(words, env=settings)
    command, pipe = [sys.executable, *map(str, words)], subprocess.PIPE
    return subprocess.Popen(command, env=settings, stdout=pipe, stderr=pipe, text=True)


def complete(processes: Sequence[Forked]) -> None:
    """Wait for processes that end well."""
    said, codes = finish(*processes)
    assert codes == [0] * len(processes), said


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(ON_RANKS))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.yaml").write_text(yaml.safe_dump(ON_RANKS))
    complete(program(folder, "--config", folder / "small.yaml", "--out", folder / "run"))
    return folder / "run"


def assert_same_run(one: Path, other: Path) -> None:
    assert trace(one) == trace(other)
    assert len(trace(one)) >= 5
    for path in ("encoder.safetensors", f"checkpoints/{list_checkpoints(one)[-1].name}/trainer.safetensors"):
        mine, its = load_file(one / path), load_file(other / path)
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, its[name]), name


def test_pretrain__a_killed_rank_ends_all_and_resume_gives_the_undisturbed_run(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    _, codes = finish(*program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="killed", at=6))
    assert codes == [2, -9]
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000005"  # The first measurement is the best.
    complete(program(tmp_path, "--resume", tmp_path / "run"))
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_pretrain__under_torchrun_a_killed_rank_ends_all_and_resume_gives_the_undisturbed_run(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    # The launcher itself: its agent keeps the ranks' store, and ends them all.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    words = [*torchrun, PROGRAM, "pretrain", "--quiet", "--config", config, "--out", tmp_path / "run"]
    _, [code] = finish(start(words, forks=False, FAULT="killed", FAULT_RANK=1, FAULT_STEP=6))
    assert code == 1
    complete(program(tmp_path, "--resume", tmp_path / "run"))
    assert_same_run(undisturbed, tmp_path / "run")


def test_pretrain__ctrl_c_on_one_rank_stops_all_after_a_checkpoint(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said, codes = finish(*program(tmp_path, "--config", config, "--out", run, fault="interrupted", at=6))
    assert codes == [130, 130]
    [line] = lines_of(said)
    assert line == f"hjepa: interrupted; step 7 is kept; go on with: hjepa pretrain --resume {run}"
    assert list_checkpoints(run)[-1].name == "step-00000007"
    complete(program(tmp_path, "--resume", run))
    assert_same_run(undisturbed, run)


@pytest.mark.slow
def test_pretrain__goes_on_with_other_numbers_of_ranks_and_other_ways_to_hold_weights(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    _, codes = finish(*program(tmp_path, "--config", config, "--out", run, fault="killed", at=5))
    assert codes == [2, -9]
    sharded = ("--set", "train.parallel=fsdp")
    _, codes = finish(*program(tmp_path, "--resume", run, *sharded, fault="killed", at=11))
    assert codes == [2, -9]
    lines, expected = trace(run), trace(undisturbed)
    assert [line["step"] for line in lines] == [3, 5, 6, 9, 10]
    for line, against in zip(lines, expected, strict=False):
        assert line["losses"]["loss"] == pytest.approx(against["losses"]["loss"], rel=1e-5)
    assert lines[4]["rankme"] == pytest.approx(expected[4]["rankme"], rel=1e-3), "measured with gathered weights"
    complete([Forked([PROGRAM, "pretrain", "--quiet", "--resume", run])])
    assert json.loads((run / "summary.json").read_text())["steps"] == 12


def test_pretrain__a_loss_that_is_not_finite_on_one_rank_stops_all_with_one_line(config: Path, tmp_path: Path) -> None:
    said, _ = finish(*program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="not finite", at=4))
    [line] = lines_of(said)
    assert re.match(r"hjepa: step 5: not finite: loss \(images .*last good checkpoint: step-00000004", line)


@pytest.mark.parametrize("rank", [0, 1])
def test_pretrain__an_error_on_one_rank_ends_all_with_one_line_that_names_it(
    config: Path, tmp_path: Path, rank: int
) -> None:
    run = tmp_path / "run"
    said, codes = finish(*program(tmp_path, "--config", config, "--out", run, fault="unreadable", at=3, on=rank))
    assert codes == [2, 2]
    assert lines_of(said) == [f"hjepa: rank {rank} of 2: cannot decode image 17"]


def test_pretrain__a_time_boxed_run_ends_on_all_ranks_by_the_leaders_clock(config: Path, tmp_path: Path) -> None:
    config.write_text(yaml.safe_dump(merge(ON_RANKS, {"train": {"epochs": None, "minutes": 0.02}})))
    complete(program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="other clock"))
    assert (tmp_path / "steps.1.clock").read_text() == "was asked"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seconds"] >= 1.2
    assert {(tmp_path / f"steps.{rank}").read_text() for rank in range(2)} == {str(summary["steps"])}


@pytest.mark.parametrize("forks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_pretrain__under_slurm_the_survivor_names_the_killed_rank(config: Path, tmp_path: Path, forks: bool) -> None:
    # What srun sets; the ranks find each other by the node list and the job's number.
    shared = {
        "SLURM_NTASKS": 2,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": os.getpid(),
        "STEPS": tmp_path / "steps",
    }
    words = [PROGRAM, "pretrain", "--quiet", "--config", config, "--out", tmp_path / "run"]
    shared |= {"FAULT": "killed", "FAULT_RANK": 1, "FAULT_STEP": 5}
    ranks = [start(words, forks=forks, SLURM_PROCID=rank, SLURM_LOCALID=rank, **shared) for rank in range(2)]
    said, codes = finish(*ranks)
    assert codes == [2, -9]
    assert (tmp_path / "steps.1").read_text() == "6"
    [line] = lines_of(said)
    assert re.fullmatch(
        r"hjepa: rank 1 of 2 ended without a word, as when killed \(.+\); "
        r"start again with --resume to go on from the last checkpoint",
        line,
    )


def test_pretrain__a_batch_that_ranks_cannot_share_is_one_line(config: Path, tmp_path: Path) -> None:
    said, codes = finish(*program(tmp_path, "--config", config, "--set", "train.batch_size=33"))
    assert 2 in codes
    assert lines_of(said), said
    for line in lines_of(said):
        assert "train.accumulate 1 times 2 ranks does not divide train.batch_size 33" in line
