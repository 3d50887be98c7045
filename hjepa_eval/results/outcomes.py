"""The outcome of every test sample in a file, so that anybody can redo the statistics and compare models in pairs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import escape_surrogates, write_atomically
from hjepa_eval.metrics.paired import Outcomes


@dataclass(frozen=True)
class SampleOutcomes:
    """What happened to each sample at each level.

    Attributes:
        index: int64 [N], each test sample's place in the dataset's order (in old files episodes from 0).
        labels: int64 [N], the true classes; empty for episodes of old files.
        outcomes: (level, score key) -> [N], right or wrong, or what each sample adds to the mean of few-shot episodes.
        predictions: (level, score key) -> int64 [N].
        names: where each sample comes from, such as `test/cat/1.png`; empty for stores without names.
        class_names: of each class number; empty in old files of episodes.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    outcomes: Mapping[tuple[int, str], Outcomes]
    predictions: Mapping[tuple[int, str], NDArray[np.int64]]
    names: Sequence[str] = ()
    class_names: Sequence[str] = ()


def write_outcomes(found: SampleOutcomes, path: Path) -> None:
    """Write a compressed npz: `index`, `labels`, `level0/outcome/<score key>`, `level0/prediction/<score key>`, ...

    `names` and `class_names` are there where they are known, as text.

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    arrays: dict[str, NDArray] = {"index": found.index, "labels": found.labels}
    texts = {"names": found.names, "class_names": found.class_names}
    arrays |= {name: np.array([escape_surrogates(each) for each in text]) for name, text in texts.items() if len(text)}
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
            texts = (content[name].tolist() if name in content.files else () for name in ("names", "class_names"))
            return SampleOutcomes(content["index"], content["labels"], outcomes, predictions, *texts)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        # numpy's own advice for objects would have them run code.
        why = "it holds objects, not numbers" if "pickle" in str(error) else error
        raise ResultError(
            f"cannot read the per-sample outcomes {path}: {why}; probe again with --predictions"
        ) from None
