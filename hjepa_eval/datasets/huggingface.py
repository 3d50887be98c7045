"""Image tables of Hugging Face `datasets`, decoded by our own decoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.datasets.huggingface_tables import choose_columns, choose_split, open_tables, read_factors
from hjepa_eval.datasets.protocol import (
    ImageDataset,
    check_class_numbers,
    check_unchanged,
    interleave,
    numbered_classes,
)
from hjepa_eval.errors import DataError, MachineError, first_few, lacks_files
from hjepa_eval.features.fingerprint import hash_json, read_regular
from hjepa_eval.features.memo import file_state, pack_digests, remembered, unpack_digests

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 4096
OPTIONS = {
    "config": "which of the data set's configurations",
    "image": "name of the image column",
    "label": "name of the label column",
    "train": "name of the train split",
    "test": "name of the test split",
    "factors": "columns for 'hjepa profile' to ask for, such as weather,hour",
}


class TableImages(ImageDataset):
    """The images of one table. An image is in the table as bytes, or as the path of a file on this machine."""

    def __init__(
        self,
        name: str,
        table: Any,
        *,
        split: str,
        image: str,
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        memo: Path | None,
    ) -> None:
        """Put the rows in order and fingerprint labels and images.

        Args:
            name: the dataset's name in results.
            table: a `datasets.Dataset`.
            split: `train` or `test`.
            image: name of the image column.
            labels: one per row, none below 0.
            class_names: name of each label.
            memo: folder for remembered fingerprints.

        Raises:
            DataError: a label is outside the classes.
        """
        from datasets import Image

        self.name = name
        self.split = split
        self.class_names = class_names
        self.row_factors: Mapping[str, Factor] = {}
        self.where = f"the {split} split of {name}"
        check_class_numbers(labels, class_names, sample=lambda row: f"{self.where}: row {row}")
        self._order = interleave(labels)
        self.labels = labels[self._order]
        # Not decoded by the library, and read as Arrow: bytes come out of the memory map without a detour.
        column = table.select_columns([image]).cast_column(image, Image(decode=False)).with_format("arrow")
        # Parts of the map: finding a row through the library takes longer than decoding a small image.
        self._chunks = [chunk for batch in column.iter(BATCH) for chunk in batch.column(0).chunks]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        self._paths, outside = _paths(self._chunks)
        contents = self._contents(table, image, labels, outside, memo)
        self.fingerprint = contents["fingerprint"]
        self._digests = unpack_digests(contents["digests"])[self._order]

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 RGB `[3, H, W]`.

        Raises:
            DataError: the row has no image, its file cannot be read, or the image cannot be decoded.
            ChangedError: it is not what it was when the fingerprint was taken.
            MachineError: too many files are open.
        """
        row = int(self._order[index])
        where = f"{self.name}, row {row} of {self.split}"
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        cell = self._chunks[number][row - int(self._starts[number])]
        content = _content(cell, where)
        check_unchanged(content, self._digests[index], name=where)
        return decode(content, where)

    def image_name(self, index: int) -> str | None:
        """Return the name of image `index` as `<class>/<file>`, or None if the table has no file names."""
        path = self._paths[int(self._order[index])]
        return None if path is None else f"{self.class_names[self.labels[index]]}/{path.rpartition('/')[2]}"

    @property
    def factors(self) -> dict[str, Factor]:
        """The columns that `?factors=` names."""
        return {name: replace(factor, values=factor.values[self._order]) for name, factor in self.row_factors.items()}

    def source_name(self, index: int) -> str:
        """Return the path of image `index` that its table gives, of a file outside only its name, else its row."""
        row = int(self._order[index])
        path = self._paths[row]
        if path is None:
            return f"{self.split}/{row}"
        return os.path.basename(path) if os.path.isabs(path) else path

    def digests(self) -> NDArray[np.uint64]:
        """Return `content_digest` of each image's bytes [N]; 0 for one that could not be read."""
        return self._digests

    def check_nesting(self, table: Any) -> None:
        """Check that the library did not take folders inside of class folders for the classes.

        Raises:
            DataError: image files lie in several folders of one name, which became one class.
        """
        if getattr(table.info, "builder_name", None) != "imagefolder":
            return
        folders = {path.rpartition("/")[0] for path in self._paths if path is not None}
        names = {folder.rpartition("/")[2] for folder in folders}
        if len(folders) > len(names):
            raise DataError(
                f"{self.where}: the innermost of nested folders became the classes ({first_few(self.class_names)}), "
                f"and {len(folders):,} folders have only {len(names):,} names; name the label column with ?label= if "
                "that is meant, or move the images into one folder per class and read them with folder:PATH"
            )

    def _contents(
        self, table: Any, image: str, labels: NDArray[np.int64], outside: list[str], memo: Path | None
    ) -> dict[str, Any]:
        """Return what `_read_all` does; remembered while all files are as they were."""
        files = [entry["filename"] for entry in table.cache_files]
        try:
            states = [[file, *file_state(os.stat(file))] for file in (*files, *outside)]
        except OSError:
            states = []
        key = ["table", image, len(labels), hashlib.sha256(labels.tobytes()).hexdigest(), self.class_names, states]
        # A table in memory has no files that could tell whether it changed.
        memo = memo if files and states else None
        root = Path(files[0]) if files else None
        return remembered(
            memo, hash_json(key), lambda: self._read_all(labels), root=root, keep=lambda made: bool(made["whole"])
        )

    def _read_all(self, labels: NDArray[np.int64]) -> dict[str, Any]:
        """Return the sha256 over classes, labels and images, a digest per row, and whether every image was read."""
        total = hashlib.sha256(hash_json(list(self.class_names)).encode())
        digests = np.zeros(len(labels), np.uint64)
        whole = True
        for row, (label, cell) in enumerate(zip(labels.tolist(), chain.from_iterable(self._chunks), strict=True)):
            try:
                content = hashlib.sha256(_content(cell, f"{self.where}, row {row}")).digest()
                digests[row] = int.from_bytes(content[:8], "little") or 1
                text = content.hex()
            except DataError:
                text, whole = "unreadable", False
            total.update(f"{label}|{text}\n".encode())
        return {"fingerprint": total.hexdigest(), "digests": pack_digests(digests), "whole": whole}


def _paths(chunks: Sequence[Any]) -> tuple[list[str | None], list[str]]:
    """Return the path in each row, if it has one, and the paths of the images that are not in the table."""
    paths: list[str | None] = []
    outside: list[str] = []
    for chunk in chunks:
        found = chunk.field("path").to_pylist()
        absent = chunk.field("bytes").is_null().to_pylist()
        outside += [path for path, lacks in zip(found, absent, strict=True) if lacks and path is not None]
        paths += found
    return paths, outside


def _content(cell: Any, where: str) -> bytes:
    """Return the bytes of an image from its cell `{bytes, path}`."""
    content = cell["bytes"].as_py() if cell.is_valid else None
    if content is not None:
        return bytes(content)
    path = cell["path"].as_py() if cell.is_valid else None
    if path is None:
        raise DataError(f"{where} has no image")
    if not os.path.isfile(path):
        raise DataError(f"{where}: its image {path} is no file on this machine")
    try:
        return read_regular(Path(path))
    except OSError as error:
        kind = MachineError if lacks_files(error) else DataError
        raise kind(f"{where}: cannot read its image {path}: {error.strerror}") from None


def load_table(
    argument: str, *, split: str, options: Mapping[str, str], download: bool, memo: Path | None
) -> TableImages:
    """Return one split of a Hugging Face data set.

    Args:
        argument: a folder, or a name on the hub.
        split: `train` or `test`, which falls back to `validation`.
        options: `image` and `label` name columns, `factors` further ones, `train` and `test` splits, `config` a
            configuration.
        download: fetch what is not on this machine.
        memo: folder for remembered fingerprints.

    Raises:
        DataError: the data set is not here, has no such split or column, or is not labelled.
    """
    name = f"hf:{Path(argument).expanduser().resolve().name if Path(argument).expanduser().is_dir() else argument}"
    name += "".join(f"?{key}={options[key]}" for key in sorted(options))
    tables = open_tables(argument, config=options.get("config"), download=download)
    chosen = {each: choose_split(tables, each, wanted=options.get(each), name=name) for each in {"train", split}}
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"{name}: train and test are both the split {chosen['train']}; choose another for one of them")
    columns = choose_columns(tables[chosen["train"]], image=options.get("image"), label=options.get("label"), name=name)
    classes = _class_names(tables[chosen["train"]], columns[1], name)
    table = tables[chosen[split]]
    image, label = choose_columns(
        table, image=columns[0], label=columns[1], name=f"the split {chosen[split]} of {name}"
    )
    own = getattr(table.features[label], "names", None)
    if own is not None and tuple(own) != classes:
        raise DataError(
            f"the splits {chosen['train']} and {chosen[split]} of {name} name other classes; make them agree"
        )
    labels = _labels(table, label, f"the {split} split of {name}")
    dataset = TableImages(name, table, split=split, image=image, labels=labels, class_names=classes, memo=memo)
    asked = [column for column in options.get("factors", "").split(",") if column]
    where = f"the split {chosen[split]} of {name}"
    dataset.row_factors = read_factors([table, *tables.values()], asked, where=where)
    if "label" not in options:
        dataset.check_nesting(tables[chosen["train"]])
    dataset.notes = (f"the label is column {label}: {len(classes):,} classes, {first_few(classes)}",)
    return dataset


def _class_names(train: Any, label: str, name: str) -> tuple[str, ...]:
    names = getattr(train.features[label], "names", None)
    if names is not None:
        return tuple(names)
    where = f"the train split of {name}"
    return numbered_classes(_labels(train, label, where), where=where, remedy="or a column of the type ClassLabel")


def _labels(table: Any, label: str, where: str) -> NDArray[np.int64]:
    """Return the labels [N] of a table."""
    if len(table) == 0:
        raise DataError(f"{where} is empty")
    column = table.select_columns([label]).with_format("arrow")[:].column(0)
    missing = column.null_count
    values = column.fill_null(0).to_numpy()
    if values.max(initial=0) > np.iinfo(np.int64).max:
        raise DataError(f"{where}: {label} has values beyond 64 bits, such as {values.max()}; expected class numbers")
    labels: NDArray[np.int64] = values.astype(np.int64)
    labels[column.is_null().to_numpy()] = -1
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        kind = "null" if missing == unlabelled else "below 0"
        raise DataError(f"{where} is not labelled: {unlabelled:,} of {len(labels):,} values of {label} are {kind}")
    return labels
