"""Galleries: the images behind the numbers, one file per model beside its records, so that a report needs no dataset.

A gallery holds small copies of some test images and of their nearest train images, where the images lie on a map of
each level's features, and, of a pretraining run, its curves and masks. Parts that do not fit each other are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hjepa_eval.errors import ResultError
from hjepa_eval.features.fingerprint import canonical_json, parse_json, write_atomically

# 2: with a checksum.
GALLERY_VERSION = 2
SUFFIX = ".gallery.safetensors"
# (split, place in the dataset's order)
ImageKey = tuple[str, int]


@dataclass(frozen=True)
class LevelMap:
    """Where test images lie when each level's features are laid out in a plane.

    Attributes:
        index: int64 [N], places of the images in the test split's order; images that could not be read have none.
        labels: int64 [N].
        points: float32 [L, N, 2], per level.
        method: how each level was laid out: `PCA` or `UMAP`, with what a reader must know.
        explained: float32 [L, 2], share of the variance along each axis; zeros where the method has none.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    points: NDArray[np.float32]
    method: str
    explained: NDArray[np.float32]


@dataclass(frozen=True)
class Neighbourhoods:
    """The nearest train images of some test images at each level.

    Attributes:
        index: int64 [Q], places of the queries in the test split's order.
        labels: int64 [Q].
        chosen: why each query is shown, such as `drawn at random` or `levels disagree`.
        train_index: int64 [L, Q, K], places in the train split's order, nearest first.
        train_labels: int64 [L, Q, K].
        similarity: float32 [L, Q, K], cosines.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    chosen: tuple[str, ...]
    train_index: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    similarity: NDArray[np.float32]


@dataclass(frozen=True)
class MaskExamples:
    """What pretraining hid of some train images.

    Where masks lie does not depend on the image, and in training it was a crop of it.

    Attributes:
        kind: such as `multiblock`.
        grid: tokens as (rows, columns).
        index: int64 [E], places of the images in the train split's order.
        context: bool [S, E, tokens], what the encoder sees; S is the number of levels with masks of their own, else 1.
        targets: bool [S, E, M, tokens], the blocks to predict.
    """

    kind: str
    grid: tuple[int, int]
    index: NDArray[np.int64]
    context: NDArray[np.bool_]
    targets: NDArray[np.bool_]


@dataclass(frozen=True)
class Gallery:
    """What can be shown of one model on one dataset.

    Attributes:
        model: the model's name, as in its records.
        dataset: the dataset's name.
        train_store: key of the feature store of train images, as in `Record.extraction`.
        test_store: of the test images; a record and a gallery with the same belong together.
        class_names: name of each label.
        levels: number and name of each level, in the order of the arrays' first axis.
        images: JPEG or PNG bytes of each small copy.
        map: of test images.
        neighbourhoods: of test images among train images.
        training: the rows of the run's `metrics.jsonl`, thinned; empty when the model is no run.
        masks: of the run; None when it is none, or has no masks.
        no_masks: why a run has no masks here, in a sentence; empty where it has, is no run, or nothing says why.
        notes: what was sampled or left out.
        names: where images come from, such as `test/cat/1.png`; galleries of before have none.
    """

    model: str
    dataset: str
    train_store: str
    test_store: str
    class_names: tuple[str, ...]
    levels: tuple[tuple[int, str], ...]
    images: Mapping[ImageKey, bytes] = field(repr=False)
    map: LevelMap
    neighbourhoods: Neighbourhoods
    training: tuple[dict[str, Any], ...] = ()
    masks: MaskExamples | None = None
    no_masks: str = ""
    notes: tuple[str, ...] = ()
    names: Mapping[ImageKey, str] = field(default_factory=dict, repr=False)

    @property
    def level_labels(self) -> list[str]:
        """What its levels are called where one is chosen."""
        return [f"level {number}" for number, _ in self.levels]

    @property
    def file_name(self) -> str:
        """Name of the file: model and dataset for people, the stores' keys to tell them apart."""
        words = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-")[-60:] for part in (self.model, self.dataset)]
        return "__".join([*words, self.test_store[:8]]) + SUFFIX


def write_gallery(gallery: Gallery, folder: Path) -> Path:
    """Write a gallery into a folder and return its path.

    Raises:
        ResultError: the folder cannot be written; no part of a file is left.
    """
    path = folder / gallery.file_name
    keys = list(gallery.images)
    content = [np.frombuffer(gallery.images[key], np.uint8) for key in keys]
    arrays: dict[str, NDArray] = {
        "images/bytes": np.concatenate([np.empty(0, np.uint8), *content]),
        "images/ends": np.cumsum([len(each) for each in content], dtype=np.int64),
        "images/index": np.array([index for _, index in keys], np.int64),
        **{f"map/{name}": getattr(gallery.map, name) for name in ("index", "labels", "points", "explained")},
    }
    names = ("index", "labels", "train_index", "train_labels", "similarity")
    arrays |= {f"neighbours/{name}": getattr(gallery.neighbourhoods, name) for name in names}
    masks = gallery.masks
    if masks is not None:
        arrays |= {f"masks/{name}": getattr(masks, name) for name in ("index", "context", "targets")}
    about = {
        "gallery_version": GALLERY_VERSION,
        "model": gallery.model,
        "dataset": gallery.dataset,
        "train_store": gallery.train_store,
        "test_store": gallery.test_store,
        "class_names": gallery.class_names,
        "levels": gallery.levels,
        "splits": [split for split, _ in keys],
        "names": [gallery.names.get(key) for key in keys],
        "map_method": gallery.map.method,
        "chosen": gallery.neighbourhoods.chosen,
        "training": gallery.training,
        "masks": None if masks is None else {"kind": masks.kind, "grid": masks.grid},
        "no_masks": gallery.no_masks,
        "notes": gallery.notes,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # In one entry: safetensors writes several in another order each time.
    about["sha256"] = _checksum(json.dumps(about, allow_nan=False), arrays)
    packed = save(arrays, {"about": json.dumps(about, allow_nan=False)})
    try:
        write_atomically(path, packed)
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None
    return path


def read_gallery(path: Path) -> Gallery:
    """Return the gallery in a file.

    Raises:
        ResultError: the file cannot be read, is no gallery, is newer than this program, or not as it was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = parse_json((file.metadata() or {}).get("about", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ResultError(f"cannot read the gallery {path}: {error}; hjepa eval writes it anew") from None
    version = about.get("gallery_version") if isinstance(about, dict) else None
    if not isinstance(version, int):
        raise ResultError(f"{path} is no gallery of hjepa (it says no gallery_version)")
    if version > GALLERY_VERSION:
        raise ResultError(
            f"{path} has gallery version {version}, this program reads up to {GALLERY_VERSION}; update hjepa"
        )
    checksum = about.pop("sha256", None)
    if (version > 1 or checksum) and checksum != _checksum(json.dumps(about), arrays):
        raise ResultError(f"the gallery {path} is damaged: its checksum differs; hjepa eval writes it anew")
    try:
        gallery = _assemble(about, arrays)
        wrong = mismatches(gallery)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        wrong = [f"a part of it is absent or of another kind ({error})"]
    if wrong:
        raise ResultError(f"the gallery {path} is damaged: {'; '.join(wrong)}; hjepa eval writes it anew")
    return gallery


def _checksum(about: str, arrays: Mapping[str, NDArray]) -> str:
    """Return the sha256 of what a gallery says and of all its arrays, in the order of their names."""
    content = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        content.update(canonical_json([name, str(array.dtype), list(array.shape)]).encode())
        content.update(array.tobytes())
    return content.hexdigest()


def _assemble(about: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> Gallery:
    def part(prefix: str) -> dict[str, NDArray]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    images = part("images/")
    pieces = np.split(images["bytes"], images["ends"])[:-1]
    keys = list(zip(about["splits"], images["index"].tolist(), strict=True))
    names = zip(keys, about.get("names", [None] * len(keys)), strict=True)
    masks = about["masks"]
    return Gallery(
        model=about["model"],
        dataset=about["dataset"],
        train_store=about["train_store"],
        test_store=about["test_store"],
        class_names=tuple(about["class_names"]),
        levels=tuple((number, name) for number, name in about["levels"]),
        images={key: piece.tobytes() for key, piece in zip(keys, pieces, strict=True)},
        map=LevelMap(**part("map/"), method=about["map_method"]),
        neighbourhoods=Neighbourhoods(**part("neighbours/"), chosen=tuple(about["chosen"])),
        training=tuple(about["training"]),
        masks=None if masks is None else MaskExamples(masks["kind"], tuple(masks["grid"]), **part("masks/")),
        no_masks=str(about.get("no_masks", "")),  # Galleries of before do not say.
        notes=tuple(about["notes"]),
        names={key: str(name) for key, name in names if name is not None},
    )


def mismatches(gallery: Gallery) -> list[str]:
    """Return which parts of a gallery do not fit each other; an empty list when all is well."""
    shown, plane, masks = gallery.neighbourhoods, gallery.map, gallery.masks
    levels, (on_map,), (queries,) = len(gallery.levels), plane.index.shape, shown.index.shape
    near = (levels, queries, *shown.train_index.shape[2:3])
    fits = {
        "map": (plane.labels.shape, plane.points.shape, plane.explained.shape)
        == ((on_map,), (levels, on_map, 2), (levels, 2)),
        "neighbours": (shown.labels.shape, len(shown.chosen)) == ((queries,), queries)
        and all(each.shape == near for each in (shown.train_index, shown.train_labels, shown.similarity)),
        "labels": all(
            ((each >= 0) & (each < len(gallery.class_names))).all()
            for each in (plane.labels, shown.labels, shown.train_labels)
        ),
    }
    needed = {("test", place) for place in [*plane.index.tolist(), *shown.index.tolist()]}
    needed |= {("train", place) for place in shown.train_index.ravel().tolist()}
    if masks is not None:
        needed |= {("train", place) for place in masks.index.tolist()}
        sets, examples, tokens = len(masks.context), len(masks.index), masks.grid[0] * masks.grid[1]
        fits["masks"] = masks.context.shape == (sets, examples, tokens) and masks.targets.shape == (
            *(sets, examples, *masks.targets.shape[2:3], tokens),
        )
    fits["images"] = needed <= gallery.images.keys()
    return [f"its {part} do not fit the rest" for part, whole in fits.items() if not whole]
