"""A process that has imported what programs of this project begin with, and forks for each that a test wants.

Importing takes 4 CPU seconds, a fork 0.03. `forked` starts it and asks it, over the socket whose number is its
argument: a message of one byte, with the files of a request, stdin, stdout, stderr, and one for the answer: the process
id, then the exit status as subprocess counts it. The child is a process like any other; only what happens before its
first line (the launcher, the imports) and after its last (taking modules apart) is not seen, so some tests start a
real one.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any, NoReturn

IMPORTED = (
    "timm",
    "faiss",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "pandas",  # which scikit-learn imports where it is
    "scipy.stats",
    "sklearn.datasets",
    "hjepa_pretrain.loop",
    "hjepa_pretrain.training.trainer",
    "hjepa_eval.cli",
    "hjepa_eval.extraction.extract",
    "hjepa_eval.encoders",
)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def reap(answers: dict[int, int]) -> None:
    """Tell those who wait which children have ended, and how."""
    for pid in list(answers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with suppress(BrokenPipeError):
                os.write(answers[pid], f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(answers.pop(pid))


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Turn this child into the process that was asked for: its streams, environment, folder, path and arguments."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def run(words: list[str]) -> None:
    """Do what python does with these words: FILE ..., -m MODULE ... or -c CODE ...."""
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[0] = ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


def end(words: list[str]) -> NoReturn:
    """Run `words` and end as python does, but for taking every module apart, which costs more than a second."""
    code: object = 0
    try:
        run(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:  # noqa: BLE001
        traceback.print_exception(error)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = None
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    with suppress(OSError, ValueError):  # A program may close its streams.
        sys.stdout.flush()
        sys.stderr.flush()
    if code is None and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code if isinstance(code, int) else 0)


def serve(control: socket.socket) -> list[str]:
    """Fork for every request; return only in a child, with its words, or when nobody can ask any more."""
    answers: dict[int, int] = {}
    awake, wake = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; their end is the end of this process.
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            reap(answers)
        if control not in ready:
            continue
        message, files, _, _ = socket.recv_fds(control, 1, 5)
        if not message:
            for pid in answers:
                os.kill(pid, signal.SIGKILL)
            return []
        asked, *streams, answer = files
        with open(asked) as file:
            request = json.load(file)
        if request.get("wanted") == "port":
            os.write(answer, f"{free_port()}\n".encode())
            for number in (*streams, answer):
                os.close(number)
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            for number in (awake, wake, answer, *answers.values()):
                os.close(number)
            become(request, streams)
            return list(request["words"])
        os.write(answer, f"{pid}\n".encode())
        for number in streams:
            os.close(number)
        answers[pid] = answer


if __name__ == "__main__":
    for module in IMPORTED:
        __import__(module)
    __import__("quick_measures").quicken()
    tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if tasks > 1:
        sys.exit(f"the zygote has {tasks} threads; a fork would have one of them")
    gc.freeze()  # A child that collected what is here would copy all of it.
    if wanted := serve(socket.socket(fileno=int(sys.argv[1]))):
        end(wanted)
    os._exit(0)
