"""The outcome of every test sample in a file, so that anybody can redo the statistics and compare models in pairs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.metrics.paired import Outcomes


@dataclass(frozen=True)
class SampleOutcomes:
    """What happened to each sample at each level.

    Attributes:
        index: int64 [N], each test sample's place in the dataset's order (episodes are numbered from 0).
        labels: int64 [N], the true classes; empty for episodes.
        outcomes: (level, score key) -> [N], right or wrong, or the accuracy of each episode.
        predictions: (level, score key) -> int64 [N].
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    outcomes: Mapping[tuple[int, str], Outcomes]
    predictions: Mapping[tuple[int, str], NDArray[np.int64]]


def write_outcomes(found: SampleOutcomes, path: Path) -> None:
    """Write a compressed npz: `index`, `labels`, `level0/outcome/<score key>`, `level0/prediction/<score key>`, ...

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    arrays: dict[str, NDArray] = {"index": found.index, "labels": found.labels}
    arrays |= {f"level{level}/outcome/{key}": array for (level, key), array in found.outcomes.items()}
    arrays |= {f"level{level}/prediction/{key}": array for (level, key), array in found.predictions.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None


def read_outcomes(path: Path) -> SampleOutcomes:
    """Return the content of a file that `write_outcomes` made.

    Raises:
        ResultError: it cannot be read, or is no such file.
    """
    outcomes: dict[tuple[int, str], Outcomes] = {}
    predictions: dict[tuple[int, str], NDArray[np.int64]] = {}
    try:
        # From memory: numpy leaves a file open that it cannot read.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            for name in content.files:
                level, _, rest = name.partition("/")
                kind, _, key = rest.partition("/")
                if kind:
                    target = outcomes if kind == "outcome" else predictions
                    target[int(level.removeprefix("level")), key] = content[name]
            return SampleOutcomes(content["index"], content["labels"], outcomes, predictions)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        # numpy's own advice for objects would have them run code.
        why = "it holds objects, not numbers" if "pickle" in str(error) else error
        raise ResultError(
            f"cannot read the per-sample outcomes {path}: {why}; probe again with --predictions"
        ) from None
