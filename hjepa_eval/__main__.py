"""Run the program in a process of its own: as the script `hjepa`, or as `python -m hjepa_eval` (`torchrun -m`).

Ctrl-C while the program is loaded, and after its work, ends the process at once: there is nothing to unwind.
"""

from __future__ import annotations

import os
import signal
from typing import Any, NoReturn


def _end_before(*_: Any) -> NoReturn:
    os.write(2, b"hjepa: interrupted; nothing was begun\n")
    os._exit(130)


def _end_after(*_: Any) -> NoReturn:
    os._exit(130)


def main() -> NoReturn:
    """Run the program and exit as it says."""
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Not so under nohup, which must stay deaf.
    if own:
        signal.signal(signal.SIGINT, _end_before)
    from hjepa_eval.cli import main as run

    try:
        if own:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    finally:
        if own:
            signal.signal(signal.SIGINT, _end_after)


if __name__ == "__main__":
    main()
