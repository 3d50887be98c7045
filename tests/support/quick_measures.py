"""What a program measures of the machine and of its own work, done quickly: most of what a small run takes.

No test reads these numbers but those of the modules that measure them, which take the real functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hjepa_eval.extraction import timing

# Two passes a level, whatever else the machine does: on a busy one there would be sixty.
QUICK = {"_FEWEST": 2, "_MOST": 2, "_TRIES": 1, "_UNSTEADY": 1e9}
USUAL = {name: getattr(timing, name) for name in QUICK}


def quicken(change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let this process measure quickly; `change` sets an attribute, as monkeypatch does for one test."""
    for name, number in QUICK.items():
        change(timing, name, number)
    if measuring := sys.modules.get("hjepa_pretrain.diagnostics.measuring"):
        change(measuring, "_SIDES", {"cpu": (64,)})
        change(measuring, "step_gflop", lambda trainer, *, progress=None: 1.0)
