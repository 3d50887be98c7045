"""Processes that tests fork are as those that Python starts: streams, arguments, exit codes, signals, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked, finish, free_port, rank_processes

WAITS = "import time\nprint('here', flush=True)\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("raise ValueError('torn')", 1), ("raise KeyboardInterrupt", -2)],
)
def test_forked__ends_as_a_started_process_does(code: str, expected: int) -> None:
    words = ["-c", f"import sys\nprint(sys.argv, flush=True)\n{code}", "a word"]
    real = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    forked = Forked(words)
    out, err = forked.communicate()
    assert (forked.returncode, out) == (real.returncode, real.stdout) == (expected, "['-c', 'a word']\n")
    assert err.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_forked__has_the_folder_and_the_environment_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(
        "import os, sys\nprint(os.getcwd(), os.environ['MINE'], __name__, sys.path[0])"
    )
    monkeypatch.setenv("MINE", "later")
    said, codes = finish(Forked(["program.py"]))
    assert (said.split(), codes) == ([str(tmp_path), "later", "__main__", str(tmp_path)], [0])


def test_forked__a_kill_is_a_real_one_and_others_go_on() -> None:
    first, second = Forked(["-c", WAITS]), Forked(["-c", WAITS])
    assert (first.stdout.readline(), second.stdout.readline()) == ("here\n", "here\n")
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert second.poll() is None
    second.terminate()
    assert finish(first, second) == ("", [-signal.SIGKILL, -signal.SIGTERM])


def test_forked__computes_and_differentiates_with_its_own_number_of_threads() -> None:
    code = "import torch\na = torch.ones(64, 64, requires_grad=True)\n(a @ a).sum().backward()\n"
    said, _ = finish(Forked(["-c", f"{code}print(float(a.grad[0, 0]), torch.get_num_threads())"]))
    assert said.split() == ["128.0", os.environ.get("OMP_NUM_THREADS", "1")]


def test_rank_processes__know_who_they_are_and_meet() -> None:
    code = "import os, torch, torch.distributed as dist\ndist.init_process_group('gloo')\n"
    code += "own = torch.tensor([1.0 + dist.get_rank()])\ndist.all_reduce(own)\nprint(os.environ['RANK'], float(own))"
    said, codes = finish(*rank_processes(["-c", code], 2))
    assert (said.split(), codes) == (["0", "3.0", "1", "3.0"], [0, 0])
    assert free_port() != free_port()
