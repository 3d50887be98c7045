"""Features that another program computed, as stores: written once, found by their name, used as any other store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import StoreError, unknown
from hjepa_eval.features.cache import store_folder
from hjepa_eval.features.fingerprint import canonical_json, hash_json, parse_json, write_atomically
from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter

PREFIX = "features:"
READOUT = "imported"
_FOLDER = "imported"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Split:
    """The images of a split in the order of their store.

    Attributes:
        levels: number of the level -> numbers [N, D] in the file's order.
        order: int64 [N], the file's row of each place of the store.
        labels: int64 [N], in the store's order.
        names: where each image comes from, in the store's order.
        places: level -> file and array, for messages.
        told: names are the user's own, not row numbers.
    """

    levels: Mapping[int, NDArray[Any]]
    order: NDArray[np.int64]
    labels: NDArray[np.int64]
    names: Sequence[str]
    places: Mapping[int, str]
    told: bool


@dataclass(frozen=True)
class Imported:
    """Imported features: their name as a model, and the store of each split that they have.

    Attributes:
        name: as models are called, `features:NAME`.
        identity: as an encoder's; its `weights` is the sha256 over all features.
        stores: by split.
    """

    name: str
    identity: dict[str, Any]
    stores: Mapping[str, FeatureStore]


def is_imported(model: str) -> bool:
    """Tell whether a model's name means imported features."""
    return model.startswith(PREFIX)


def write_imported(
    name: str,
    splits: Mapping[str, Split],
    *,
    class_names: Sequence[str],
    dataset: str,
    cache_dir: Path,
    replace: bool = False,
) -> Imported:
    """Write the stores of imported features and return them; the name leads to them once all are whole.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        splits: train, and test where there is one; all of the same levels and widths.
        class_names: of each label.
        dataset: what the images are called in reports.
        cache_dir: where stores lie.
        replace: let the name lead to these, where it leads to others.

    Raises:
        StoreError: the name cannot be one or leads to other features, an array has a value that is not finite, splits
            differ in their levels, or the cache cannot be written; no name leads to unfinished stores.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"--name {name!r}: expected letters, digits, '.', '_' or '-', at most 100, such as dino-b16")
    levels = _levels(splits)
    weights = hashlib.sha256()
    for split in sorted(splits):
        for level in sorted(splits[split].levels):
            _digest(splits[split], level, weights)
    shown = [{"index": level.index, "name": level.name, "width": level.width} for level in levels]
    encoder = {"class": "imported", "levels": shown, "weights": weights.hexdigest()}
    manifests = {
        split: _manifest(split, part, name=name, encoder=encoder, levels=levels, names=class_names, dataset=dataset)
        for split, part in splits.items()
    }
    pointer = {"encoder": encoder, "stores": {split: _relative(cache_dir, each) for split, each in manifests.items()}}
    path = cache_dir / _FOLDER / f"{name}.json"
    if path.exists() and not replace and _read_pointer(path).get("stores") != pointer["stores"]:
        raise StoreError(
            f"{PREFIX}{name} leads to other features already; choose another --name, or add --replace to let it lead "
            "to these"
        )
    for split, manifest in manifests.items():
        _fill(StoreWriter(store_folder(cache_dir, manifest), manifest), splits[split])
    try:
        write_atomically(path, canonical_json({**pointer, "checksum": hash_json(pointer)}).encode())
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another folder with --cache-dir") from None
    return open_imported(f"{PREFIX}{name}", cache_dir)


def open_imported(model: str, cache_dir: Path) -> Imported:
    """Return imported features by their name as a model, `features:NAME`, every byte of their stores checked.

    Raises:
        UnknownNameError: nothing was imported under that name; the message says what was.
        StoreError: a store is gone or damaged.
    """
    name = model.removeprefix(PREFIX)
    path = cache_dir / _FOLDER / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = [f"{PREFIX}{file.stem}" for file in sorted((cache_dir / _FOLDER).glob("*.json"))]
        if known:
            raise unknown("imported features", model, known)
        raise StoreError(f"{model}: nothing was imported into {cache_dir}; hjepa import FILE --name {name} does it")
    pointer = _read_pointer(path)
    stores = {}
    for split, folder in pointer["stores"].items():
        try:
            stores[split] = FeatureStore(cache_dir / "features" / folder)
        except StoreError as error:
            reason = str(error).partition("; run")[0]
            raise StoreError(f"{model}: {reason}; import it again, with hjepa import ... --name {name}") from None
    return Imported(f"{PREFIX}{name}", pointer["encoder"], stores)


def _read_pointer(path: Path) -> dict[str, Any]:
    """Return what a name leads to.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        content = parse_json(path.read_bytes())
        checksum = content.pop("checksum")
        # A path in it is never taken as it is: `../x` would lead out of the cache.
        plain = all(".." not in folder.split("/") and folder[:1] != "/" for folder in content["stores"].values())
        whole = checksum == hash_json(content) and plain and "weights" in content["encoder"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; remove it and import the features again") from None
    if not whole:
        raise StoreError(f"{path} was edited or damaged; remove it and import the features again")
    return dict(content)


def _relative(cache_dir: Path, manifest: Manifest) -> str:
    return store_folder(cache_dir, manifest).relative_to(cache_dir / "features").as_posix()


def _levels(splits: Mapping[str, Split]) -> tuple[StoredLevel, ...]:
    """Return the levels that all splits have.

    Raises:
        StoreError: one split lacks a level of the other, or has it in another width.
    """
    shapes = {split: {level: part.levels[level].shape[1] for level in part.levels} for split, part in splits.items()}
    train = shapes["train"]
    for split, other in shapes.items():
        for level in sorted(train.keys() | other.keys()):
            if train.get(level) != other.get(level):
                has = [
                    f"{name} {'has none' if (w := each.get(level)) is None else f'has {w} numbers per image'}"
                    for name, each in (("train", train), (split, other))
                ]
                raise StoreError(f"level {level}: {' and '.join(has)}; both splits must come from the same encoder")
    return tuple(StoredLevel(level, READOUT, width, (1, 1), 1) for level, width in sorted(train.items()))


def _manifest(
    split: str,
    part: Split,
    *,
    name: str,
    encoder: dict[str, Any],
    levels: tuple[StoredLevel, ...],
    names: Sequence[str],
    dataset: str,
) -> Manifest:
    # Not the features: two models on the same images must meet in one table. Without ids, equal labels in the same
    # order are taken for the same images.
    told = hashlib.sha256("\0".join(part.names).encode(errors="surrogatepass")).hexdigest() if part.told else None
    images = ["imported", split, hashlib.sha256(part.labels.astype("<i8").tobytes()).hexdigest(), list(names), told]
    half = all(array.dtype == np.float16 for array in part.levels.values())
    identity = {
        "dataset": {"fingerprint": hash_json(images), "split": split},
        "encoder": encoder,
        "precision": READOUT,
        "readout": READOUT,
        "storage": "float16" if half else "float32",
    }
    count = len(part.labels)
    doubt = f"{split} images have no ids: those of equal labels in the same order are taken for the same images"
    notes = () if part.told or not count else (doubt,)
    return Manifest(identity, PREFIX + name, dataset, split, READOUT, levels, tuple(names), count, count, notes=notes)


def _blocks(part: Split, level: int, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return features of some places of the store as it holds them: float16 where the file does, else float32.

    Raises:
        StoreError: a value is NaN or infinite, too large for float32, or a row too small.
    """
    given = part.levels[level][rows]
    with np.errstate(over="ignore", invalid="ignore"):
        stored = given if given.dtype == np.float16 else np.asarray(given, np.float32)
    wrong = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(wrong):
        value = given[wrong[0]][~np.isfinite(stored[wrong[0]])][0]
        what = "no finite number" if not np.isfinite(value) else "too large for float32"
        more = f", and {len(wrong) - 1} more rows of the first {len(rows):,} likewise" if len(wrong) > 1 else ""
        raise StoreError(
            f"{part.places[level]}: row {rows[wrong[0]]} holds {value}, which is {what}{more}; mend the features and "
            "import them again"
        )
    lost = (stored == 0).all(axis=1) & (given != 0).any(axis=1)
    if lost.any():
        row = int(rows[np.flatnonzero(lost)[0]])
        raise StoreError(
            f"{part.places[level]}: row {row} is so small that float32 holds zeros only; scale the features"
        )
    return stored


def _digest(part: Split, level: int, digest: Any) -> None:
    array = part.levels[level]
    step = max(1, _BLOCK_BYTES // (8 * array.shape[1]))
    for start in range(0, len(part.order), step):
        digest.update(np.ascontiguousarray(_blocks(part, level, part.order[start : start + step])).data)


def _fill(writer: StoreWriter, part: Split) -> None:
    storage = writer.manifest.storage
    for missing in writer.missing:
        rows = part.order[missing.start : missing.stop]
        levels = {f"level{level}": _blocks(part, level, rows).astype(storage, copy=False) for level in part.levels}
        index = np.arange(missing.start, missing.stop, dtype=np.int64)
        writer.write(missing, {**levels, "labels": part.labels[missing.start : missing.stop], "index": index})
    writer.finish(part.names)
