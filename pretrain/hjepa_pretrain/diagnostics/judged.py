"""What a token model says of labelled sets: features per level, and files that `hjepa import` makes a model of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.encoders.weights import load_strict, read_tensors
from hjepa_pretrain.config.learners import TokensRun
from hjepa_pretrain.data.kinds.corpus import Corpus, LabelledSet
from hjepa_pretrain.jepa.states import batch_of, map_state, take
from hjepa_pretrain.jepa.tokens import TokenJEPA

_BATCH = 256


def build_learner(settings: TokensRun, corpus: Corpus) -> TokenJEPA:
    """Return the untrained model of a run; the same seed gives the same weights."""
    return TokenJEPA(corpus.kind, **settings.model.model_dump(), seed=settings.train.seed, **corpus.arguments)


def trained_learner(settings: TokensRun, corpus: Corpus, run_dir: Path) -> TokenJEPA:
    """Return the model with the moving average that a finished run has written.

    Raises:
        CheckpointError: its tensors do not fit.
    """
    model, file = build_learner(settings, corpus), run_dir / "encoder.safetensors"
    tensors = {name.removeprefix("target."): t for name, t in read_tensors(file).items() if name.startswith("target.")}
    load_strict(model.target_encoder, tensors, source=f"{file} (target encoder)")
    return model


@torch.no_grad()
def level_features(model: TokenJEPA, state: Any, *, parts: int = 1) -> list[NDArray[np.float32]]:
    """Return features `[N, parts * D]` per level of a state with `N * parts` rows."""
    model.eval()
    rows: list[list[Tensor]] = []
    for positions in torch.split(torch.arange(batch_of(state, "state")), _BATCH):
        batch = map_state(lambda tensor: tensor.to(model.device), take(state, positions))
        rows.append([level[:, 0].float().cpu() for level in model.levels(batch)])
    joined = [torch.cat(level) for level in zip(*rows, strict=True)]
    return [level.reshape(len(level) // parts, -1).numpy() for level in joined]


def set_features(model: TokenJEPA, labelled: LabelledSet) -> dict[str, NDArray[Any]]:
    """Return arrays as `hjepa import` reads them: `train_level0`, ..., `test_labels`, `class_names`, with ids."""
    arrays: dict[str, NDArray[Any]] = {}
    for split, state in (("train", labelled.train), ("test", labelled.test)):
        for level, features in enumerate(level_features(model, state, parts=labelled.parts)):
            arrays[f"{split}_level{level}"] = features
        labels = labelled.train_labels if split == "train" else labelled.test_labels
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_ids"] = np.array([f"{labelled.name}/{split}/{row}" for row in range(len(labels))])
    arrays["class_names"] = np.array(labelled.class_names)
    return arrays


def write_features(settings: TokensRun, corpus: Corpus, run_dir: Path) -> list[Path]:
    """Write the features of all sets into `run_dir/features`, trained and untrained, and return the trained files."""
    folder, files = run_dir / "features", []
    folder.mkdir(exist_ok=True)
    trained, untrained = trained_learner(settings, corpus, run_dir), build_learner(settings, corpus)
    for labelled in corpus.sets:
        files.append(folder / f"{labelled.name}.npz")
        for model, file in ((trained, files[-1]), (untrained, folder / f"{labelled.name}-untrained.npz")):
            arrays: dict[str, Any] = set_features(model, labelled)
            np.savez(file, **arrays)
    return files
