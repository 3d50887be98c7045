"""Processes of Python for tests, forked from one that has imported what they need: see `zygote`.

`Forked(words)` is as `subprocess.Popen([sys.executable, *words], stdout=PIPE, stderr=PIPE, text=True)`, 4 CPU seconds
cheaper. `rank_processes` starts several that find each other as under srun.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from folders import ROOT, SUPPORT

_zygotes: dict[int, socket.socket] = {}  # by the process that asks: a child of this one has none


def _zygote() -> socket.socket:
    """Return the way to this process's zygote, which ends with it."""
    if os.getpid() not in _zygotes:
        ours, its = socket.socketpair()
        path = os.pathsep.join(map(str, (ROOT, ROOT / "pretrain")))
        # Its threads must be none when it forks; children set their number from their own environment.
        settings = {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        command = [sys.executable, SUPPORT / "zygote.py", str(its.fileno())]
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL
        )
        its.close()
        _zygotes[os.getpid()] = ours
        atexit.register(_end, os.getpid(), ours, process)
    return _zygotes[os.getpid()]


def _end(owner: int, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Let the zygote of this process end, and with it what it still runs."""
    if os.getpid() == owner:
        ours.close()
        process.wait()


def _ask(request: dict[str, Any], streams: Sequence[int]) -> IO[str]:
    """Send a request with its three streams; return where the answers come."""
    answers, answer = os.pipe()
    with tempfile.TemporaryFile("w+") as file:
        json.dump(request, file)
        file.seek(0)
        socket.send_fds(_zygote(), [b"?"], [file.fileno(), *streams, answer])
        os.close(answer)
        said = open(answers)  # noqa: SIM115
        first = said.readline()
    if not first:
        raise RuntimeError("the zygote of this test process has ended; its stderr says why")
    request["answer"] = int(first)
    return said


def free_port() -> int:
    """Return a port on which nobody listens; this process itself may not open one to see."""
    request: dict[str, Any] = {"wanted": "port"}
    with open(os.devnull, "r+") as nothing:
        _ask(request, [nothing.fileno()] * 3).close()
    return int(request["answer"])


class Forked:
    """A process that runs Python with `words`, its stdout and stderr in pipes; the same names as subprocess.Popen.

    `stdin` and `stderr` may be a file's number, for example of a pseudo-terminal.
    """

    def __init__(
        self,
        words: Sequence[object],
        *,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.args = [sys.executable, *map(str, words)]
        self.returncode: int | None = None
        out, err = os.pipe(), os.pipe()
        with open(os.devnull) as nothing:
            streams = [nothing.fileno() if stdin is None else stdin, out[1], err[1] if stderr is None else stderr]
            environment = dict(os.environ) if env is None else env
            request: dict[str, Any] = {
                "words": self.args[1:],
                "environment": environment,
                "folder": str(cwd or Path.cwd()),
            }
            self._answers = _ask(request, streams)
        self.pid = int(request["answer"])
        os.close(out[1])
        os.close(err[1])
        self.stdout, self.stderr = (open(pipe[0], errors="replace") for pipe in (out, err))  # noqa: SIM115
        self._said: list[str] = ["", ""]
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr):
            stream.close()
        self.wait()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def read(self) -> None:
        """Begin to read what the process says, so that it never waits for a reader."""
        if self._readers:
            return

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                self._said[number] = stream.read()

        streams = enumerate((self.stdout, self.stderr))
        self._readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in streams]
        for reader in self._readers:
            reader.start()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.read()
        for reader in self._readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        return self._said[0], self._said[1]


def rank_processes(words: Sequence[object], count: int, **environment: object) -> list[Forked]:
    """Start `count` ranks with the variables by which launchers tell them who they are and where they meet."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    settings |= {name: str(value) for name, value in environment.items()}
    ranks = []
    for rank in range(count):
        number = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        ranks.append(Forked(words, env={**settings, **number}))
    for process in ranks:
        process.read()
    return ranks


def finish(*processes: Forked | subprocess.Popen[str], patience: float = 300) -> tuple[str, list[int]]:
    """Return what the processes said, and their exit codes.

    Ranks wait ten minutes for one that is silent: whoever ends within half of that did not wait for it.
    """
    try:
        said = [process.communicate(timeout=patience) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.terminate()  # A launcher that is told so ends its ranks; one that is killed leaves them.
        raise
    finally:
        for process in processes:
            process.kill()
    together = "".join(words for pair in said for words in pair)
    print(together)
    return together, [process.wait() for process in processes]
