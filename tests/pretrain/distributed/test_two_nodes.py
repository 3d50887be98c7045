"""Two network namespaces as two nodes under torchrun: unlike two ranks on one node they have a wire between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from folders import SUPPORT
from needed_tools import need_program
from small_runs import ON_RANKS

ADDRESSES = ("10.213.7.1", "10.213.7.2")


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with an address each, joined by a pair of interfaces."""
    tool = need_program("ip")
    names = f"hjepa{os.getpid()}a", f"hjepa{os.getpid()}b"
    try:
        for name in names:
            made = subprocess.run([tool, "netns", "add", name], capture_output=True, text=True)
            if made.returncode != 0:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        ends = [f"hj{os.getpid() % 100000}{letter}" for letter in "ab"]
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            _ip("link", "set", end, "netns", name, "name", "wire")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run([tool, "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run([need_program("ip"), *words], check=True, capture_output=True)


def launched(node: int, name: str, words: list[str]) -> subprocess.Popen[str]:
    """Start torchrun in a namespace, with one rank there."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--node-rank", str(node), "--master-addr", ADDRESSES[0], "--master-port", "29533"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "wire", "TP_SOCKET_IFNAME": "wire"}
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *launcher, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_nodes__weights_are_the_same_bit_for_bit(nodes: tuple[str, str], tmp_path: Path) -> None:
    words = [str(SUPPORT / "rank_steps.py"), json.dumps(ON_RANKS), str(tmp_path / "out"), "4"]
    processes = [launched(node, name, words) for node, name in enumerate(nodes)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    first, second = (torch.load(tmp_path / f"out.{rank}", weights_only=True)["tensors"] for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
