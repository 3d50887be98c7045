"""The program `hjepa` with a fault on one rank at one step, for `test_distributed`.

The environment says which: FAULT, FAULT_RANK, FAULT_STEP. Every rank leaves in STEPS.RANK how many steps it began.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import hjepa_pretrain.diagnostics.measuring  # noqa: E402, F401 - made quick below
from hjepa_pretrain.training import limits as clock  # noqa: E402
from hjepa_pretrain.training import step as step_loss  # noqa: E402
from hjepa_pretrain.training import trainer  # noqa: E402
from quick_measures import quicken  # noqa: E402

from hjepa_eval.cli import main  # noqa: E402
from hjepa_eval.errors import DataError  # noqa: E402

quicken()  # Under a launcher as in a forked process: their logs are compared.

RANK = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
KIND = os.environ.get("FAULT", "") if os.environ.get("FAULT_RANK") == RANK else ""
STEP = int(os.environ.get("FAULT_STEP", "0"))
began = 0
real_step, real_loss = trainer.Trainer.train_step, step_loss.training_loss


def step(self: trainer.Trainer, progress: float) -> None:
    global began
    began += 1
    if "STEPS" in os.environ:
        Path(f"{os.environ['STEPS']}.{RANK}").write_text(str(began))
    if self.step == STEP and KIND == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if self.step == STEP and KIND == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)
    if self.step == STEP and KIND == "unreadable":
        raise DataError("cannot decode image 17")
    if self.step == STEP and KIND == "broken":
        raise ZeroDivisionError("a bug of ours")
    real_step(self, progress)


def loss(*arguments: Any, **options: Any) -> Any:
    value, terms = real_loss(*arguments, **options)
    if began == STEP + 1 and KIND == "not finite":
        return value, {**terms, "loss": terms["loss"] * math.nan}
    return value, terms


def late(self: clock.Clock) -> float:
    Path(f"{os.environ['STEPS']}.{RANK}.clock").write_text("was asked")
    return 1e9


trainer.Trainer.train_step = step  # type: ignore[method-assign]
step_loss.training_loss = loss
if KIND == "other clock":
    clock.Clock.seconds = property(late)  # type: ignore[assignment]

main(sys.argv[1:])
