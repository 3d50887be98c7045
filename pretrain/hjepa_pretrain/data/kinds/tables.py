"""Tables that scikit-learn and statsmodels carry; a column is a token, and all tables train one model."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.errors import DataError, unknown
from hjepa_pretrain.data.kinds.corpus import Corpus, LabelledSet

Table = tuple[NDArray[np.float64], NDArray[np.int64]]


def _sklearn(name: str) -> Table:
    from sklearn import datasets

    values, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return np.asarray(values, np.float64), np.asarray(labels, np.int64)


def _statsmodels(name: str, column: str, label: Callable[[Any], Any]) -> Table:
    if importlib.util.find_spec("statsmodels") is None:
        raise DataError(f"the table {name} comes with statsmodels; install it: pip install 'hjepa[modalities]'")
    frame = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
    values = frame.drop(columns=[column]).to_numpy(np.float64)
    return values, np.asarray(label(frame[column].to_numpy(np.float64)), np.int64)


SETS: Mapping[str, Callable[[], Table]] = {
    "wine": lambda: _sklearn("wine"),
    "breast_cancer": lambda: _sklearn("breast_cancer"),
    "fair": lambda: _statsmodels("fair", "affairs", lambda affairs: affairs > 0),
    "anes96": lambda: _statsmodels("anes96", "vote", lambda vote: vote),
}


def load_tables(sets: Sequence[str]) -> Corpus:
    """Return the train rows of all tables `sets` as examples, and the tables to judge with; a third of rows is test.

    Columns have mean 0 and deviation 1 over train rows.

    Raises:
        UnknownNameError: there is no such table.
        DataError: a package is absent, or a table holds what is no number.
    """
    tables = []
    for name in sets:
        if name not in SETS:
            raise unknown("table", name, SETS)
        tables.append((name, *SETS[name]()))
    widest, start, loaded = max(values.shape[1] for _, values, _ in tables), 0, []
    for name, values, labels in tables:
        loaded.append(_labelled(name, values, labels, widest=widest, start=start))
        start += values.shape[1]
    examples = {key: torch.cat([part.train[key] for part in loaded]) for key in ("values", "columns")}
    words = f"{len(examples['values']):,} rows of {len(tables)} tables, {start} columns"
    return Corpus("tabular", examples, tuple(loaded), {"columns": start}, words)


def _labelled(
    name: str, values: NDArray[np.float64], labels: NDArray[np.int64], *, widest: int, start: int
) -> LabelledSet:
    check_table(name, values)
    test = np.random.default_rng(0).permutation(len(values)) % 3 == 0
    mean, deviation = values[~test].mean(axis=0), values[~test].std(axis=0)
    scaled = np.clip((values - mean) / np.maximum(deviation, 1e-8), -5, 5).astype(np.float32)
    states = [as_columns(part, widest=widest, start=start) for part in (scaled[~test], scaled[test])]
    classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return LabelledSet(name, states[0], states[1], labels[~test], labels[test], classes)


def check_table(name: str, values: NDArray[Any]) -> None:
    """Check that a table holds numbers alone.

    Raises:
        DataError: a column holds something else, or a number is missing.
    """
    if values.dtype.kind not in "fiub":
        raise DataError(
            f"the table {name} has columns of mixed types ({values.dtype}); turn classes into numbers first"
        )
    if not np.isfinite(values.astype(np.float64)).all():
        row, column = np.argwhere(~np.isfinite(values.astype(np.float64)))[0]
        raise DataError(f"the table {name} has no number in row {row}, column {column}; fill it, or drop the row")


def as_columns(values: NDArray[np.float32], *, widest: int, start: int) -> dict[str, Tensor]:
    """Return rows `[N, F]` as `widest` tokens, columns numbered from `start` and -1 where there are none."""
    rows, count = values.shape
    state = {
        "values": torch.zeros(rows, widest),
        "columns": torch.full((rows, widest), -1, dtype=torch.int64),
    }
    state["values"][:, :count] = torch.from_numpy(values)
    state["columns"][:, :count] = torch.arange(start, start + count)
    return state
