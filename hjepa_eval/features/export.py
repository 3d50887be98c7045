"""Features for other programs: a store's levels as NumPy files, or as one Parquet table."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from hjepa_eval.errors import StoreError, unknown
from hjepa_eval.features.fingerprint import canonical_json, escape_surrogates
from hjepa_eval.features.names import read_names
from hjepa_eval.features.store import FeatureStore

# In the name of a file, these would break a line of a list in two.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85)} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
# Rows are read and written so many bytes at a time.
_BLOCK_BYTES = 32 << 20


def export_store(
    store: FeatureStore,
    folder: Path,
    *,
    levels: Sequence[int] | None = None,
    kind: str = "npy",
    limit: int | None = None,
) -> list[Path]:
    """Write levels of a store to files in `folder` and return their paths.

    `npy` writes `level<i>.npy` float32 `[N, D]` for each level, `labels.npy` and `index.npy` int64 `[N]`, `classes.txt`
    with the name of each label and `names.txt` with that of each image, one a line; `parquet` writes `features.parquet`
    with the columns index, name, label, class, level0, ... A store of before has no names: `names.txt` is absent then,
    the column null. Memory for features stays bounded. The files get their names when all are whole, and take the
    place of older ones.

    Args:
        store: where the features are.
        folder: created when absent.
        levels: which; None for all.
        kind: `npy` or `parquet`.
        limit: only images before this place of the dataset's order.

    Raises:
        UnknownNameError: there is no such level or kind.
        StoreError: the folder cannot be written, a shard cannot be read, or pyarrow is not installed.
    """
    if kind not in EXPORTS:
        raise unknown("export format", kind, EXPORTS)
    chosen = list(dict.fromkeys([level.index for level in store.manifest.levels] if levels is None else levels))
    for level in chosen:
        store.level(level)
    try:
        with _all_or_none(folder) as create:
            EXPORTS[kind](store, chosen, limit, create)
            return create.paths
    except (FileExistsError, NotADirectoryError):
        raise StoreError(
            f"cannot write the export to {folder}: there is a file in the place of a folder; choose another with --out"
        ) from None
    except OSError as error:
        raise StoreError(
            f"cannot write the export to {folder}: {error.strerror or error}; what an earlier export left there stays; "
            "make room, repair the folder, or choose another with --out"
        ) from None


class _Files:
    """Files that get their names together, at the end."""

    def __init__(self, folder: Path, open_files: ExitStack) -> None:
        self._folder = folder
        self._open_files = open_files
        self._temporary: dict[Path, Path] = {}
        self._gone: list[Path] = []

    @property
    def paths(self) -> list[Path]:
        """The final paths, in the order of creation."""
        return list(self._temporary)

    def __call__(self, name: str) -> BinaryIO:
        """Open a new file for writing."""
        temporary = self._folder / f".{secrets.token_hex(8)}.tmp"
        self._temporary[self._folder / name] = temporary
        return self._open_files.enter_context(temporary.open("xb"))

    def remove(self, name: str) -> None:
        """Remove what an earlier export left under a name, once all files are whole."""
        self._gone.append(self._folder / name)

    def publish(self) -> None:
        """Give every file its name."""
        for path in self._gone:
            path.unlink(missing_ok=True)
        for path, temporary in self._temporary.items():
            os.replace(temporary, path)

    def discard(self) -> None:
        """Remove what has no name yet."""
        for temporary in self._temporary.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def _all_or_none(folder: Path) -> Iterator[_Files]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as open_files:
        files = _Files(folder, open_files)
        try:
            yield files
            open_files.close()
            files.publish()
        finally:
            files.discard()


def _export_npy(store: FeatureStore, levels: Sequence[int], limit: int | None, create: _Files) -> None:
    for level in levels:
        stream = store.stream(level, limit=limit)
        rows, width = stream.shape
        file = create(f"level{level}.npy")
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in stream.blocks(_block_rows(width)):
            file.write(block.astype("<f4", copy=False).data)
    for name, column in (("labels", store.labels(limit=limit)), ("index", store.index(limit=limit))):
        np.save(create(f"{name}.npy"), column)
    create("classes.txt").write(_lines(store.manifest.class_names))
    names = read_names(store, limit=limit)
    if names is None:
        create.remove("names.txt")  # Those of an earlier export would be of other images.
    else:
        create("names.txt").write(_lines(names))


def _lines(names: Sequence[str]) -> bytes:
    """Return names as text, one a line; what would break a line, and bytes that are no UTF-8, are escaped."""
    return "".join(f"{escape_surrogates(name).translate(_CONTROLS)}\n" for name in names).encode()


def _export_parquet(store: FeatureStore, levels: Sequence[int], limit: int | None, create: _Files) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise StoreError(
            "--format parquet needs pyarrow, which is not installed; pip install 'hjepa[parquet]', or take --format npy"
        ) from None
    manifest = store.manifest
    streams = [store.stream(level, limit=limit) for level in levels]
    widths = [stream.shape[1] for stream in streams]
    schema = pa.schema(
        [
            ("index", pa.int64()),
            ("name", pa.string()),
            ("label", pa.int64()),
            ("class", pa.dictionary(pa.int32(), pa.string())),
            *((f"level{level}", pa.list_(pa.float32(), width)) for level, width in zip(levels, widths, strict=True)),
        ],
        metadata={"hjepa": canonical_json({"key": manifest.key, "identity": manifest.identity})},
    )
    names = pa.array([escape_surrogates(name) for name in manifest.class_names], pa.string())
    labels, index = store.labels(limit=limit), store.index(limit=limit)
    sources: Sequence[str | None] = read_names(store, limit=limit) or [None] * len(labels)
    rows = _block_rows(sum(widths))
    # Features neither repeat nor have a telling minimum; the small columns do.
    small = ["index", "label", "class"]
    with pq.ParquetWriter(
        create("features.parquet"), schema, use_dictionary=["class"], write_statistics=small
    ) as writer:
        for start, *blocks in zip(
            range(0, len(labels), rows), *(stream.blocks(rows) for stream in streams), strict=True
        ):
            part = slice(start, start + rows)
            classes = _classes(labels[part], len(names))
            columns = [
                pa.array(index[part]),
                pa.array([name and escape_surrogates(name) for name in sources[part]], pa.string()),
                pa.array(labels[part]),
                pa.DictionaryArray.from_arrays(pa.array(classes, pa.int32(), mask=classes < 0), names),
                *(pa.FixedSizeListArray.from_arrays(pa.array(b.reshape(-1)), b.shape[1]) for b in blocks),
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=rows)


def _classes(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int32]:
    """Return the place of each label among the class names, -1 where it has none."""
    return np.where((labels >= 0) & (labels < count), labels, -1).astype(np.int32)


def _block_rows(width: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * max(1, width)))


EXPORTS: dict[str, Callable[[FeatureStore, Sequence[int], int | None, _Files], None]] = {
    "npy": _export_npy,
    "parquet": _export_parquet,
}
