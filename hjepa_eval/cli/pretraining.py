"""The one door to pretraining: what this program takes from `hjepa_pretrain`, loaded when it is called for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import typer
    from numpy.typing import NDArray

    from hjepa_eval.evaluation.job import Talk
    from hjepa_eval.results.gallery import MaskExamples


def register(app: typer.Typer) -> None:
    """Add the commands `pretrain` and `masks` to the program."""
    from hjepa_pretrain.cli import masks, pretrain

    pretrain.register(app)
    masks.register(app)


def run_preset(name: str, assignments: Sequence[str], *, run_dir: Path, talk: Talk) -> None:
    """Pretrain as a preset or YAML file says, with assignments such as `train.seed=1` on top, into a new run folder.

    Raises:
        HjepaError: configuration, data or training; what was finished stays.
    """
    from hjepa_pretrain.checks import load_settings
    from hjepa_pretrain.cli.pretrain import run_pretraining

    run_pretraining(load_settings(name, assignments), run_dir, talk)


def describe_memory(config: str, assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what a pretraining configuration takes, as JSON values and as lines of text.

    Raises:
        ConfigError: the configuration does not fit together, or there is none of that name.
    """
    from hjepa_pretrain.cli.memory import describe, lines

    description = describe(config, assignments)
    return description, lines(description)


def draw_mask_examples(run: Path, places: NDArray[np.int64]) -> tuple[MaskExamples | None, str]:
    """Return masks for the train images at `places` [E] as a run's settings draw them, and a word about them.

    Raises:
        CheckpointError: the run's `config.json` cannot be read.
    """
    from hjepa_pretrain.cli import mask_examples

    return mask_examples.draw_mask_examples(run, places)
