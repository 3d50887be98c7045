from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hjepa_eval.errors import StoreError, UnknownNameError
from hjepa_eval.features import export as export_module
from hjepa_eval.features.export import export_store


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "_BLOCK_BYTES", 4 * 64 * 1000)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_export_npy__numpy_reads_the_same_numbers(make_store, tmp_path: Path, storage: str) -> None:
    store = make_store(tmp_path / "s", images=5000, storage=storage, skipped=(7, 4999))
    paths = export_store(store, tmp_path / "out" / "deep")
    assert [path.name for path in paths] == ["level0.npy", "level1.npy", "labels.npy", "index.npy", "classes.txt"]
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == sorted(path.name for path in paths)
    for level in (0, 1):
        found = np.load(paths[level], mmap_mode="r")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, store.features(level))
    np.testing.assert_array_equal(np.load(paths[2]), store.labels())
    np.testing.assert_array_equal(np.load(paths[3]), np.setdiff1d(np.arange(5000), [7, 4999]))


def test_export__levels_and_limit_choose(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", images=3000, skipped=(7,))
    paths = export_store(store, tmp_path / "out", levels=[1, 1], kind="npy", limit=100)
    assert [path.name for path in paths] == ["level1.npy", "labels.npy", "index.npy", "classes.txt"]
    np.testing.assert_array_equal(np.load(paths[0]), store.features(1, limit=100))
    assert [len(np.load(path)) for path in paths[:-1]] == [99, 99, 99]
    (table,) = export_store(store, tmp_path / "out", levels=[1], kind="parquet", limit=100)
    assert pq.read_table(table).column_names == ["index", "name", "label", "class", "level1"]
    assert pq.read_table(table).num_rows == 99


def test_export_parquet__table_holds_features_labels_and_names(make_store, tmp_path: Path) -> None:
    odd = os.fsdecode(b"k\xe4se")
    store = make_store(tmp_path / "s", images=3000, skipped=(7,), class_names=("cat", odd))
    (path,) = export_store(store, tmp_path / "out", kind="parquet")
    table = pq.read_table(path)
    assert path.name == "features.parquet"
    assert pq.ParquetFile(path).num_row_groups > 1, "written block by block"
    for level in (0, 1):
        column = table[f"level{level}"].combine_chunks()
        assert str(column.type) == f"fixed_size_list<element: float>[{(6, 64)[level]}]"
        np.testing.assert_array_equal(np.stack(column.to_numpy(zero_copy_only=False)), store.features(level))
    np.testing.assert_array_equal(table["label"].to_numpy(), store.labels())
    np.testing.assert_array_equal(table["index"].to_numpy(), store.index())
    assert table["class"][:2].to_pylist() == ["cat", "k\\udce4se"]
    assert store.manifest.key in table.schema.metadata[b"hjepa"].decode()


def test_export_parquet__label_without_a_name_is_null(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", images=4, class_names=("cat",))
    (path,) = export_store(store, tmp_path / "out", kind="parquet")
    assert pq.read_table(path)["class"].to_pylist() == ["cat", None, "cat", None]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_export__empty_store_gives_empty_files(make_store, tmp_path: Path, kind: str) -> None:
    store = make_store(tmp_path / "s", images=3, skipped=(0, 1, 2))
    paths = export_store(store, tmp_path / "out", kind=kind)
    if kind == "npy":
        assert [np.load(path).shape for path in paths[:4]] == [(0, 6), (0, 64), (0,), (0,)]
    else:
        assert pq.read_table(paths[0]).num_rows == 0


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_export__failure_leaves_older_files_alone_and_success_replaces_them(
    make_store, tmp_path: Path, kind: str
) -> None:
    old = make_store(tmp_path / "old", images=50)
    store = make_store(tmp_path / "s", images=9000)
    before = {path: path.read_bytes() for path in export_store(old, tmp_path / "out", kind=kind)}
    last = store.folder / store.manifest.shards[-1].file
    content = last.read_bytes()
    last.write_bytes(content[:-100])
    with pytest.raises(StoreError, match=f"{last.name} cannot be read"):
        export_store(store, tmp_path / "out", kind=kind)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    last.write_bytes(content)
    assert set(export_store(store, tmp_path / "out", kind=kind)) == set(before)
    assert all(path.read_bytes() != content for path, content in before.items() if path.name != "classes.txt")


def test_export__full_disk_is_a_letter(make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "s", images=50)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match=r"cannot write the export to .*out: No space left on device; .*--out"):
        export_store(store, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: there is a file in the place of a folder; choose another with --out"):
        export_store(store, tmp_path / "file")


def test_export__unknown_levels_kinds_and_no_pyarrow_are_named(
    make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s", images=50)
    with pytest.raises(UnknownNameError, match="known: 0, 1"):
        export_store(store, tmp_path / "out", levels=[0, 2])
    with pytest.raises(UnknownNameError, match=r"'parket' \(did you mean 'parquet'\?\); known: npy, parquet"):
        export_store(store, tmp_path / "out", kind="parket")
    original = builtins.__import__

    def without(name: str, *more: object, **named: object) -> object:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return original(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=r"pip install 'hjepa\[parquet\]'"):
        export_store(store, tmp_path / "out", kind="parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_export__memory_stays_far_below_the_features(make_store, tmp_path: Path, kind: str) -> None:
    folder = make_store(tmp_path / "s", images=40_000, widths=(1024,)).folder  # 164 MB
    code = (
        "import pyarrow.parquet\nfrom pathlib import Path\n"
        "from hjepa_eval.features import export\nfrom hjepa_eval.features.store import FeatureStore\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text().split()\n"
        "    return 1024 * int(status[status.index('VmHWM:') + 1])\n"
        f"export._BLOCK_BYTES = {8 << 20}\n"
        f"store = FeatureStore(Path({str(folder)!r}), verify=False)\n"
        "before = peak()\n"
        f"export.export_store(store, Path({str(tmp_path / 'out')!r}), kind={kind!r})\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    # Arrow's own buffers take about 110 MB, however many rows there are.
    assert int(done.stdout) < {"npy": 50e6, "parquet": 150e6}[kind]
