"""Time series of the UCR and UEA archives that the package sktime carries; its files are read, it is not imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.errors import DataError, unknown
from hjepa_pretrain.data.kinds.corpus import Corpus, LabelledSet, number_classes

SETS = ("GunPoint", "ArrowHead", "ItalyPowerDemand", "OSULeaf", "ACSF1", "BasicMotions")


def load_series(sets: Sequence[str], *, length: int) -> Corpus:
    """Return the train series of all `sets`, channel by channel, as examples, and the sets to judge with.

    Every channel is resampled to `length` steps and has mean 0 and deviation 1.

    Raises:
        DataError: the package is absent, or a series is damaged.
        UnknownNameError: it has no such set.
    """
    folder = _folder()
    loaded = [_labelled(folder, name, length) for name in sets]
    examples = torch.cat([part.train for part in loaded])
    words = f"{len(examples):,} series of {len(sets)} sets, {length} steps"
    return Corpus("series", examples, tuple(loaded), {}, words)


def _folder() -> Path:
    package = importlib.util.find_spec("sktime")
    if package is None or not package.submodule_search_locations:
        raise DataError("the series come with the package sktime; install it with: pip install 'hjepa[modalities]'")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data"


def _labelled(folder: Path, name: str, length: int) -> LabelledSet:
    known = sorted(file.parent.name for file in folder.glob("*/*_TRAIN.ts"))
    if name not in known:
        raise unknown("set of series", name, known)
    (train, train_labels), (test, test_labels) = (
        read_series(folder / name / f"{name}_{split}.ts", length=length) for split in ("TRAIN", "TEST")
    )
    first, second, names = number_classes(train_labels, test_labels)
    flat = (torch.from_numpy(part.reshape(-1, length)) for part in (train, test))
    states: list[Tensor] = list(flat)
    return LabelledSet(name, states[0], states[1], first, second, names, parts=train.shape[1])


def read_series(file: Path, *, length: int) -> tuple[NDArray[np.float32], list[str]]:
    """Return series float32 `[N, C, length]` and their labels from a `.ts` file; lengths may differ.

    Raises:
        DataError: a value is missing or no number, or series have unlike numbers of channels; the line is named.
    """
    rows: list[list[NDArray[np.float64]]] = []
    labels, inside = [], False
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        line = text.strip()
        if inside and line:
            *channels, label = line.split(":")
            try:
                values = [np.array([float(value) for value in channel.split(",")]) for channel in channels]
            except ValueError as error:
                raise DataError(f"{file.name}, line {number}: {error}; a series needs a number at every step") from None
            if not all(np.isfinite(channel).all() and len(channel) > 1 for channel in values):
                raise DataError(f"{file.name}, line {number}: a value is NaN or infinite, or a channel has one step")
            if rows and len(values) != len(rows[0]):
                raise DataError(f"{file.name}, line {number}: {len(values)} channels, others have {len(rows[0])}")
            rows.append([resample(channel, length) for channel in values])
            labels.append(label)
        inside = inside or line.lower() == "@data"
    if not rows:
        raise DataError(f"{file.name} holds no series after @data")
    return np.array(rows, np.float32), labels


def resample(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return `length` values between the first and the last, linearly interpolated, with mean 0 and deviation 1."""
    places = np.linspace(0, len(values) - 1, length)
    drawn = np.interp(places, np.arange(len(values)), values)
    return np.asarray((drawn - drawn.mean()) / max(drawn.std(), 1e-8))
