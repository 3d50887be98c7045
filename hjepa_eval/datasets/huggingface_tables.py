"""Tables of Hugging Face `datasets`: opened from this machine, and from the hub only when a download is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.errors import DataError, NoSplitError, did_you_mean, first_few

# Names under which published tables hold their classes.
LABELS = (
    "label",
    "labels",
    "fine_label",
    "coarse_label",
    "class",
    "classes",
    "class_id",
    "class_label",
    "cls",
    "target",
)
SPLITS = {"train": ("train",), "test": ("test", "validation", "val", "valid")}


def open_tables(argument: str, *, config: str | None, download: bool) -> Mapping[str, Any]:
    """Return the tables of a data set by split, memory-mapped.

    Args:
        argument: a folder that `save_to_disk` wrote or that `load_dataset` reads, else a name on the hub.
        config: which of the data set's configurations.
        download: fetch what is not on this machine.

    Raises:
        DataError: the package is missing, or there is no such data set, or it cannot be read.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise DataError("Hugging Face data sets need an extra; pip install 'hjepa[hf]'") from None
    if not argument:
        raise DataError("hf: names no data set; expected a folder or a name on the hub, such as hf:cifar10")
    folder = Path(argument).expanduser()
    local = folder.is_dir()
    try:
        with _quiet(offline=local or not download):
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                found = datasets.load_from_disk(str(folder))
            else:
                found = datasets.load_dataset(str(folder) if local else argument, config)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, DatasetsError) as error:
        # The library says in all of these ways that files are absent, empty, damaged or of no kind that it knows.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if local:
            raise DataError(f"hf:{argument} cannot be read: {reason}") from None
        advice = "" if download else "; fetch it with --download, or give a folder"
        raise DataError(f"hf:{argument} is not on this machine: {reason}{advice}") from None
    return found if isinstance(found, dict) else {"train": found}


def choose_split(tables: Mapping[str, Any], split: str, *, wanted: str | None, name: str) -> str:
    """Return the name of the table that is `split`: the one wanted, else the first of the usual names.

    Raises:
        DataError: there is none.
    """
    candidates = SPLITS[split] if wanted is None else (wanted,)
    for candidate in candidates:
        if candidate in tables:
            return candidate
    way_out = ", or test on a fifth of each class with ?test=0.2" if split == "test" else ""
    raise NoSplitError(
        f"{name} has no split {' or '.join(candidates)}; it has {first_few(tables)}; "
        f"choose one with ?{split}=NAME{way_out}"
    )


def choose_columns(table: Any, *, image: str | None, label: str | None, name: str) -> tuple[str, str]:
    """Return the names of the image and the label column: those wanted, else the only ones that can be meant.

    Images say by their type what they are; numbers do not, so a label column must have one of the usual names too.

    Raises:
        DataError: a wanted column does not exist or is of another type, or none or several can be meant.
    """
    from datasets import ClassLabel, Image, Value

    features = table.features
    images = [each for each, kind in features.items() if isinstance(kind, Image)]
    numbers = [
        column
        for column, kind in features.items()
        if isinstance(kind, ClassLabel) or (isinstance(kind, Value) and "int" in kind.dtype)
    ]
    labels = [column for column in numbers if column.lower() in LABELS]
    return (
        _choose(features, images, image, what="image", expected="the type Image", name=name),
        _choose(
            features,
            numbers if label is not None else labels,
            label,
            what="label",
            expected="the type ClassLabel or int"
            if label is not None
            else f"the type ClassLabel or int called {', '.join(LABELS[:5])}, ...",
            name=name,
        ),
    )


def _choose(
    features: Mapping[str, Any], fitting: Sequence[str], wanted: str | None, *, what: str, expected: str, name: str
) -> str:
    columns = f"its columns are {first_few((f'{each} ({_kind(kind)})' for each, kind in features.items()), 10)}"
    if wanted is None:
        if len(fitting) == 1:
            return fitting[0]
        found = f"several {what} columns" if fitting else f"no {what} column of {expected}"
        raise DataError(f"{name} has {found}; {columns}; choose with ?{what}=NAME")
    if wanted not in features:
        raise DataError(f"{name} has no column {wanted!r}{did_you_mean(wanted, features)}; {columns}")
    if wanted not in fitting:
        raise DataError(f"column {wanted} of {name} is {_kind(features[wanted])}; expected {expected}; {columns}")
    return wanted


def read_factors(tables: Sequence[Any], columns: Sequence[str], *, where: str) -> dict[str, Factor]:
    """Return columns of the first table as factors, in the order of its rows; categories are those of all tables.

    Numbers are numeric; a ClassLabel, text and bool are categorical; null is missing.

    Args:
        tables: the split, then all splits: one category has one number in all of them.
        columns: which.
        where: how messages call the table.

    Raises:
        DataError: there is no such column, or it is of another type.
    """
    factors = {}
    for column in columns:
        features = tables[0].features
        if column not in features:
            raise DataError(
                f"{where} has no column {column!r} for ?factors={did_you_mean(column, features)}; "
                f"its columns are {first_few(features, 10)}"
            )
        factors[column] = _factor([table for table in tables if column in table.features], column, where)
    return factors


def _factor(tables: Sequence[Any], column: str, where: str) -> Factor:
    feature = tables[0].features[column]
    dtype = str(getattr(feature, "dtype", ""))
    values = tables[0].select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    names = getattr(feature, "names", None)
    if names is not None:
        # The library writes -1 for a label that is not known.
        indices = [math.nan if value is None or value < 0 else float(value) for value in values]
        return Factor(column, "categorical", np.array(indices), tuple(names))
    if dtype.startswith(("int", "uint", "float")):
        return Factor(column, "numeric", np.array([math.nan if value is None else float(value) for value in values]))
    if dtype not in ("string", "large_string", "bool"):
        raise DataError(
            f"column {column} of {where} is {_kind(feature)}; a factor is numbers, text, bool or ClassLabel"
        )
    known = {str(value) for table in tables for value in table.unique(column) if value is not None}
    number = {name: float(index) for index, name in enumerate(sorted(known))}
    indices = [math.nan if value is None else number[str(value)] for value in values]
    return Factor(column, "categorical", np.array(indices), tuple(sorted(known)))


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", "")) if type(feature).__name__ == "Value" else type(feature).__name__


@contextmanager
def _quiet(*, offline: bool) -> Iterator[None]:
    """Keep the library from showing bars and warnings, from counting downloads, and if `offline` from the network."""
    import datasets
    from datasets.utils import logging
    from huggingface_hub import constants

    changed = [(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)]
    if offline:
        changed += [(datasets.config, "HF_HUB_OFFLINE", True), (constants, "HF_HUB_OFFLINE", True)]
    before = [(owner, key, getattr(owner, key)) for owner, key, _ in changed if hasattr(owner, key)]
    verbosity, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    for owner, key, value in changed:
        setattr(owner, key, value)
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for owner, key, value in before:
            setattr(owner, key, value)
        logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
