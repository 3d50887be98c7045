"""The program, forked from this process, which has imported what it needs: a run costs 0.1 to 1 s, not 5.

What kills, damage and hostile input can do is done to the child, whose memory and time are bounded. Only the imports
and the end of the interpreter are not seen.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

# Before torch and OpenBLAS start their threads: a process that has some cannot be forked whole.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

IMPORTED = (
    "timm",
    "faiss",
    "torch._dynamo",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.datasets",
    "matplotlib.figure",
    "hjepa_eval.cli",
    "hjepa_eval.extraction.extract",
    "hjepa_eval.encoders",
    "hjepa_eval.evaluation.features",
    "hjepa_pretrain.loop",
    "hjepa_pretrain.training.trainer",
)
SMALL_SHARD = 32
# Images are up to 100 kB here and encoders 2 MB: who needs more than this over what is imported believed a size.
MEMORY = 3 << 30
PATIENCE = 60.0


class Ended(NamedTuple):
    """What a run left: its exit status as subprocess counts it (None: it had to be stopped), and what it said."""

    code: int | None
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """Both streams as text."""
        return (self.out + self.err).decode(errors="replace")


def prepare() -> None:
    """Import what runs need, and make shards small, so that a kill lands between two of them."""
    for module in IMPORTED:
        __import__(module)
    sys.modules["hjepa_eval.features.manifest"].SHARD_SIZE = SMALL_SHARD  # type: ignore[attr-defined]
    # What a pretraining run measures for one number of its log takes more than a second.
    sys.modules["hjepa_pretrain.diagnostics.measuring"]._SIDES["cpu"] = (64,)  # type: ignore[attr-defined]
    gc.freeze()  # A child that collected what is here would copy all of it.


class Run:
    """A run of `hjepa WORDS` in a child, its streams in files.

    Args:
        words: the arguments.
        folder: the working folder.
        environment: variables over this process's own; None removes one.
        before: called in the child before the program's first line, to close streams or shift clocks.
        streams: files for stdout and stderr instead of temporary ones.
    """

    def __init__(
        self,
        words: Sequence[object],
        *,
        folder: Path,
        environment: dict[str, str | None] | None = None,
        before: Callable[[], object] | None = None,
        streams: dict[int, str] | None = None,
    ) -> None:
        self._files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._code: int | None = None
        self._ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._become([str(word) for word in words], folder, environment or {}, before, streams or {})

    def _become(
        self,
        words: list[str],
        folder: Path,
        environment: dict[str, str | None],
        before: Callable[[], object] | None,
        streams: dict[int, str],
    ) -> NoReturn:
        code: Any = 1
        try:
            for name, value in environment.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, file in zip((1, 2), self._files, strict=True):
                target = os.open(streams[number], os.O_WRONLY) if number in streams else file.fileno()
                os.dup2(target, number)
            encoding = environment.get("PYTHONIOENCODING") or "utf-8"
            sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, closefd=False)  # type: ignore[misc]  # noqa: SIM115
            sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
                2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False
            )
            memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            if before is not None:
                before()
            sys.modules["hjepa_eval.cli"].main(words)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:  # noqa: BLE001
            with suppress(BaseException):
                traceback.print_exception(error)
        with suppress(BaseException):
            sys.stdout.flush()
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)

    def running(self) -> bool:
        """Tell whether the child still runs."""
        if not self._ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended, self._code = True, os.waitstatus_to_exitcode(status)
        return not self._ended

    def send(self, number: int) -> bool:
        """Send a signal; tell whether it came before the end."""
        if self.running():
            os.kill(self.pid, number)
            return True
        return False

    def wait(self, patience: float = PATIENCE) -> Ended:
        """Wait for the end; a run that outlasts `patience` seconds is stopped, its code None."""
        last, late = time.monotonic() + patience, False
        while self.running():
            if time.monotonic() > last:
                late = True
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        said = []
        for file in self._files:
            file.seek(0)
            said.append(file.read())
            file.close()
        return Ended(None if late else self._code, *said)


def run(*words: object, folder: Path, patience: float = PATIENCE, **options: Any) -> Ended:
    """Run `hjepa WORDS` to its end."""
    return Run(words, folder=folder, **options).wait(patience)
