"""Features that another program computed, read from its files: one array per level and split, labels, ids, classes.

An array's name says what it is: its first word of train, test or val the split, its last word the content, as in
`train_level0` or `test/labels`. Where a name lacks the split, the file's name gives it, then its folder's.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import StoreError, first_few

SPLITS: Mapping[str, str] = {"train": "train", "test": "test", "val": "test"}
LABELS, IDS, CLASSES = "labels", "ids", "classes"
# What a name may end in; `index` is hjepa's own, of a store's order, and not read.
_ENDINGS = {"features": "level0", "label": LABELS, "labels": LABELS, "id": IDS, "ids": IDS, "name": IDS, "names": IDS}
_ENDINGS |= {"classes": CLASSES, "index": ""}
_LEVEL = re.compile(r"level(\d{1,4})")
_WORDS = re.compile(r"[^A-Za-z0-9]+")


@dataclass
class Arrays:
    """What files hold of one split.

    Attributes:
        levels: number of the level -> float [N, D], as they lie in the file; finite, checked when they are stored.
        labels: int [N] or text [N]; None where no file has any.
        ids: text [N], none twice; None where no file has any.
        places: where each array was found, for messages.
    """

    levels: dict[int, NDArray[Any]] = field(default_factory=dict)
    labels: NDArray[Any] | None = None
    ids: list[str] | None = None
    places: dict[str, str] = field(default_factory=dict)


def read_arrays(
    files: Sequence[Path], *, labels: Sequence[Path] = (), ids: Sequence[Path] = (), classes: Path | None = None
) -> tuple[dict[str, Arrays], list[str] | None]:
    """Return split -> arrays, and the name of each class number where a file says it.

    Args:
        files: `.npz`, `.npy`, `.safetensors`, `.parquet`, or a folder of them as `hjepa extract --format` writes it.
        labels: `.npy`, or `.txt` with one a line; the file's name says the split, where there are several.
        ids: the same, of the images' names.
        classes: text file with one class name a line.

    Raises:
        StoreError: a file cannot be read, an array has no known name, two have one name, or their sizes do not fit.
    """
    splits: dict[str, Arrays] = {}
    names = None if classes is None else read_lines(classes)
    for file in _expanded(files):
        for path, key, array in _contents(file):
            split, kind = _meaning(path, key)
            if kind == CLASSES:
                names = _agreed(names, [str(name) for name in array.tolist()], path)
            elif kind:
                _put(splits.setdefault(split, Arrays()), split, kind, array, f"{path}{key and f', {key}'}")
    for kind, given in ((LABELS, labels), (IDS, ids)):
        for path in given:
            split = _split_of(path, kind, splits, alone=len(given) == 1)
            _put(splits[split], split, kind, _column(path), str(path))
    if not splits:
        raise StoreError(f"no features in {first_few(files)}; expected arrays such as train_level0 and train_labels")
    for split, arrays in splits.items():
        _check(split, arrays)
    return splits, names


def _agreed(known: list[str] | None, found: list[str], path: Path) -> list[str]:
    """Return the longer of two lists of class names; a split may lack the last classes."""
    if known is None:
        return found
    if any(first != second for first, second in zip(known, found, strict=False)):
        differing = next((first, second) for first, second in zip(known, found, strict=False) if first != second)
        raise StoreError(f"{path} calls a class {differing[1]} that another file calls {differing[0]}; make them agree")
    return max(known, found, key=len)


def _expanded(files: Sequence[Path]) -> Iterator[Path]:
    """Yield files, those of a folder and of the folders in it by name, lists of classes once."""
    for path in files:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(
            file
            for ending in _READERS
            for depth in ("*", "*/*")
            for file in path.glob(depth + ending)
            if ending != ".txt" or _ENDINGS.get(file.stem) in (LABELS, IDS, CLASSES)
        )
        if not inside:
            raise StoreError(f"{path} holds no file ending in {', '.join(_READERS)}; name the files themselves")
        yield from inside


def _meaning(path: Path, key: str) -> tuple[str, str]:
    """Return the split and the kind of an array: `level0`, ..., `labels`, `ids`, `classes`, or empty if not read."""
    local = [word.lower() for word in _WORDS.split(key or path.stem) if word]
    last = local[-1] if local else ""
    kind = last if _LEVEL.fullmatch(last) else _ENDINGS.get(last, "level0" if last in SPLITS else None)
    if local[-2:] == ["class", "names"]:
        kind = CLASSES
    if local[:1] == ["y"] and last in SPLITS:  # scikit-learn's X_train and y_train.
        kind = LABELS
    split = next((SPLITS[word] for word in local if word in SPLITS), None) or _split_in(path)
    if kind is None or (split is None and kind not in (CLASSES, "")):
        what = f"the array {key!r} of {path}" if key else str(path)
        lacks = "its split (train, test or val)" if kind is not None else "what it is (level0, level1, labels, ids)"
        raise StoreError(f"the name of {what} does not say {lacks}; call it train_level0, test_labels or the like")
    return split or "", f"level{int(kind[5:])}" if kind.startswith("level") else kind


def _split_in(path: Path) -> str | None:
    """Return the split that a file's name says, else its folder's: `train`, or as hjepa exports, `train-mean`."""
    for text in (path.stem, path.absolute().parent.name):
        words = [word.lower() for word in _WORDS.split(text) if word]
        if text == path.stem or (len(words) <= 2 and words[:1] and words[0] in SPLITS):
            split = next((SPLITS[word] for word in words if word in SPLITS), None)
            if split is not None:
                return split
    return None


def _split_of(path: Path, kind: str, splits: Mapping[str, Arrays], *, alone: bool) -> str:
    split = _split_in(path)
    if split is None and alone and len(splits) == 1:
        split = next(iter(splits))
    if split is None or split not in splits:
        raise StoreError(
            f"--{kind} {path}: its name says {'no split' if split is None else split}, and the features are of "
            f"{' and '.join(splits)}; call it train_{kind}{path.suffix} or test_{kind}{path.suffix}"
        )
    return split


def _put(arrays: Arrays, split: str, kind: str, array: NDArray[Any], place: str) -> None:
    """Take in one array.

    Raises:
        StoreError: there is another of its name, or it has no such shape or type as it must.
    """
    if kind in arrays.places:
        raise StoreError(f"{split} {kind} is in {arrays.places[kind]} and in {place}; keep one of them")
    arrays.places[kind] = place
    if kind.startswith("level"):
        if array.ndim != 2 or 0 in array.shape:
            raise StoreError(
                f"{place} has the shape {list(array.shape)}; expected features [N, D], one row per image"
                f"{'; take the mean over tokens, or flatten them' if array.ndim > 2 else ''}"
            )
        if array.dtype.kind not in "fiu":
            raise StoreError(f"{place} holds {array.dtype}; expected numbers")
        arrays.levels[int(kind[5:])] = array
    elif array.ndim != 1:
        raise StoreError(f"{place} has the shape {list(array.shape)}; expected one {kind[:-1]} per image, [N]")
    elif kind == LABELS:
        arrays.labels = array
    else:
        arrays.ids = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in array]


def _check(split: str, arrays: Arrays) -> None:
    """Check that what a split has is of the same images.

    Raises:
        StoreError: labels are missing, lengths differ, or an id is there twice.
    """
    if not arrays.levels:
        raise StoreError(f"{split} has {first_few(arrays.places)} but no features; expected an array {split}_level0")
    if arrays.labels is None:
        raise StoreError(f"{split} has no labels; give them with --labels, or as an array {split}_labels")
    count = len(arrays.labels)
    lengths = {f"level{level}": array.shape for level, array in sorted(arrays.levels.items())}
    for name, shape in lengths.items():
        if shape[0] != count:
            turned = f"; its second axis is {count} long: images must be rows, transpose it" * (shape[1] == count)
            raise StoreError(
                f"{arrays.places[name]} has {shape[0]:,} rows, and {arrays.places[LABELS]} {count:,} labels"
                f"{turned or '; both must be of the same images, in the same order'}"
            )
    if arrays.ids is not None:
        if len(arrays.ids) != count:
            raise StoreError(f"{arrays.places[IDS]} has {len(arrays.ids):,} ids for {count:,} images of {split}")
        unique, counts = np.unique(np.array(arrays.ids, dtype=object), return_counts=True)
        if (counts > 1).any():
            twice = unique[counts > 1]
            raise StoreError(f"{arrays.places[IDS]} has {len(twice):,} ids more than once: {first_few(twice)}")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, without what is blank at its end.

    Raises:
        StoreError: it cannot be read, or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise StoreError(f"{path} is empty; expected one value a line")
    return [line.rstrip("\r") for line in lines]


def _column(path: Path) -> NDArray[Any]:
    """Return labels or ids from a file of their own: whole numbers where all lines are, else text."""
    if path.suffix.lower() == ".npy":
        return next(_npy(path))[2]
    lines = read_lines(path)
    whole = all(re.fullmatch(r"-?\d{1,18}", line.strip()) for line in lines)
    return np.array([int(line) for line in lines]) if whole else np.array(lines, dtype=object)


def _contents(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    """Yield the arrays of a file with the keys that it gives them.

    Raises:
        StoreError: it is absent, of no known kind, or damaged.
    """
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise StoreError(f"{path}: expected a file ending in {', '.join(_READERS)}, or a folder of such files")
    if not path.is_file():
        raise StoreError(f"no file {path} with features")
    try:
        yield from _READERS[ending](path)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _npy(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    try:
        yield path, "", np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}; save numbers or text, not Python objects") from None


def _txt(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    yield path, "", _column(path)


def _npz(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    with np.load(path, allow_pickle=False) as content:
        for key in content.files:
            yield path, key, content[key]


def _safetensors(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as content:
            for key in content.keys():  # noqa: SIM118
                yield path, key, content.get_tensor(key)
    except (SafetensorError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; save features as float32 or float16") from None


def _parquet(path: Path) -> Iterator[tuple[Path, str, NDArray[Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise StoreError(f"{path} needs pyarrow, which is not installed; pip install 'hjepa[parquet]'") from None
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    for key in table.column_names:
        column = table[key].combine_chunks()
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        if column.null_count == len(column) or (key == "class" and "label" in table.column_names):
            continue  # `class` says in words what `label` says in numbers.
        if column.null_count:
            raise StoreError(f"{path}: {column.null_count:,} of {len(column):,} values of {key} are null")
        listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        if listed or pa.types.is_fixed_size_list(column.type):
            yield path, key, _matrix(column, f"{path}, {key}")
        else:
            yield path, LABELS if key == "class" else key, column.to_numpy(zero_copy_only=False)
    if {"label", "class"} <= set(table.column_names) and pa.types.is_integer(table.schema.field("label").type):
        yield path, CLASSES, _class_names(table["label"].to_numpy(), table["class"].to_pylist(), path)


def _matrix(column: Any, place: str) -> NDArray[Any]:
    """Return a column of lists as [N, D]."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(flat) % max(1, len(column)) or len({len(row) for row in column}) > 1:
        raise StoreError(f"{place} has rows of different length; expected as many numbers in each")
    return np.asarray(flat.reshape(len(column), -1))


def _class_names(labels: NDArray[Any], names: Sequence[str | None], path: Path) -> NDArray[Any]:
    """Return the name of each class number; what no image has keeps its number."""
    named = {int(label): name for label, name in zip(labels, names, strict=True) if name is not None}
    for label, name in zip(labels.tolist(), names, strict=True):
        if name is not None and named[label] != name:
            raise StoreError(f"{path}: the label {label} has the classes {named[label]} and {name}; make them agree")
    return np.array([named.get(number, str(number)) for number in range(max(named, default=-1) + 1)], dtype=object)


_READERS: dict[str, Callable[[Path], Iterator[tuple[Path, str, NDArray[Any]]]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".txt": _txt,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
