"""Where the images of a store come from: written with it, added to stores of before, checked, no part of the key."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hjepa_eval.datasets.named.digits import Digits
from hjepa_eval.encoders import load_encoder
from hjepa_eval.errors import StoreError
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import read_features, read_names, read_store
from hjepa_eval.features.export import export_store
from hjepa_eval.features.manifest import NAMES, read_manifest, write_manifest
from hjepa_eval.features.names import write_names
from hjepa_eval.features.store import FeatureStore, verify_store
from hjepa_eval.features.writer import StoreWriter

ODD = ("train/cat/1.png", "train/a\nb\x85.png", os.fsdecode(b"train/k\xe4se.png"), 'train/"x".png')


def filled(make_store, folder: Path, names: tuple[str, ...] | None, **more: object) -> FeatureStore:
    writer: StoreWriter = make_store(folder, images=4, finish=False, **more)
    return writer.finish(names)


def test_names__are_what_was_written_row_by_row(make_store, tmp_path: Path) -> None:
    store = filled(make_store, tmp_path / "s", ODD)
    assert read_names(store) == read_names(store.folder) == list(ODD)
    assert read_names(store, limit=2) == list(ODD[:2])
    assert json.loads(gzip.decompress((store.folder / NAMES).read_bytes())) == list(ODD)
    assert verify_store(store.folder) == []


def test_store__is_read_with_all_that_it_holds(make_store, tmp_path: Path) -> None:
    store = filled(make_store, tmp_path / "s", ODD, skipped=(1,))
    for source in (store, store.folder, str(store.folder)):
        contents = read_store(source)
        assert {level: array.shape for level, array in contents.levels.items()} == {0: (3, 6), 1: (3, 64)}
        assert contents.labels.tolist() == [0, 0, 1]
        assert contents.index.tolist() == [0, 2, 3]
        assert contents.names == [ODD[0], ODD[2], ODD[3]]
        assert (contents.encoder, contents.split, contents.class_names) == ("encoder", "train", ("cat", "dog"))


def test_names__follow_the_rows_where_images_were_skipped(make_store, tmp_path: Path) -> None:
    store = filled(make_store, tmp_path / "s", ODD, skipped=(1,))
    assert read_names(store) == [ODD[0], ODD[2], ODD[3]]
    assert read_names(store, limit=3) == [ODD[0], ODD[2]]


def test_names__change_neither_key_nor_shards(make_store, tmp_path: Path) -> None:
    without, named = filled(make_store, tmp_path / "a", None), filled(make_store, tmp_path / "b", ODD)
    assert without.manifest.key == named.manifest.key
    assert without.manifest.shards == named.manifest.shards
    assert without.manifest.names is None
    assert read_names(without) is None


@pytest.mark.parametrize("harm", ["flip", "remove", "other"])
def test_names__damage_is_found_and_named(make_store, tmp_path: Path, harm: str) -> None:
    store = filled(make_store, tmp_path / "s", ODD)
    path = store.folder / NAMES
    if harm == "flip":
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    elif harm == "remove":
        path.unlink()
    else:
        write_names(store.folder, ODD[:3])
    assert NAMES in verify_store(store.folder)[0]
    with pytest.raises(StoreError, match=rf"{NAMES}.*run hjepa extract again"):
        FeatureStore(store.folder)
    with pytest.raises(StoreError, match=rf"{NAMES}.*run hjepa extract again"):
        read_names(store)


def test_names__the_manifest_cannot_lead_out_of_the_store(make_store, tmp_path: Path) -> None:
    store = filled(make_store, tmp_path / "s", ODD)
    path = store.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["names"]["file"] = "../names.json.gz"
    del content["checksum"]
    from hjepa_eval.features.fingerprint import hash_json

    path.write_text(json.dumps({**content, "checksum": hash_json(content)}))
    with pytest.raises(StoreError, match="does not fit its format"):
        read_manifest(store.folder)


def test_export__names_and_classes_one_a_line_and_a_column(make_store, tmp_path: Path) -> None:
    store = filled(make_store, tmp_path / "s", ODD)
    escaped = ["train/cat/1.png", "train/a\\x0ab\\x85.png", "train/k\\udce4se.png", 'train/"x".png']
    export_store(store, tmp_path / "out")
    assert (tmp_path / "out" / "names.txt").read_text(encoding="utf-8").splitlines() == escaped
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == ["cat", "dog"]
    (table,) = export_store(store, tmp_path / "out", kind="parquet", limit=3)
    column = pq.read_table(table)["name"].to_pylist()
    assert column == [escaped[0], ODD[1], *escaped[2:3]]
    export_store(filled(make_store, tmp_path / "old", None), tmp_path / "out")
    assert not (tmp_path / "out" / "names.txt").exists(), "names of other images would be worse than none"


def digits_store(cache: Path, **more: object) -> FeatureStore:
    encoder = load_encoder("pixels:8")
    settings = Compute("cpu", "fp32", batch_size=64, workers=1, **more)
    return extract(encoder, Digits("test"), readouts=["mean"], cache_dir=cache, settings=settings)["mean"].store


def test_extract__a_store_of_before_learns_its_names_and_keeps_all_else(tmp_path: Path) -> None:
    store = digits_store(tmp_path)
    names = read_names(store)
    dataset = Digits("test")
    assert names == [dataset.source_name(index) for index in range(len(dataset))]
    assert len(set(names)) == 355
    before = {file.name: file.read_bytes() for file in store.folder.glob("*.safetensors")}
    (store.folder / NAMES).unlink()
    from dataclasses import replace

    write_manifest(store.folder, replace(store.manifest, names=None))
    assert read_names(store.folder) is None
    again = digits_store(tmp_path)
    assert read_names(again) == names
    assert {file.name: file.read_bytes() for file in store.folder.glob("*.safetensors")} == before
    assert again.manifest == store.manifest


def test_extract__damaged_names_are_written_anew_and_longer_stores_have_more(tmp_path: Path) -> None:
    short = digits_store(tmp_path, max_samples=100)
    assert len(read_names(short)) == 100
    (short.folder / NAMES).write_bytes(b"")
    assert read_names(digits_store(tmp_path, max_samples=100))[99] == Digits("test").source_name(99)
    longer = digits_store(tmp_path)
    assert longer.folder == short.folder
    assert len(read_names(longer)) == len(read_features(longer, 0)) == 355


def test_names__a_hundred_thousand_take_few_bytes(make_store, tmp_path: Path) -> None:
    names = [f"train/n{place % 1000:08d}/n{place % 1000:08d}_{place}.JPEG" for place in range(100_000)]
    tracemalloc.start()
    about = write_names(tmp_path, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert about.bytes < 8 * len(names)
    assert peak < 400 * len(names)


def test_half_precision__features_too_small_for_it_are_refused_with_their_number(tmp_path: Path) -> None:
    from hjepa_eval.features.writer import check_small

    rows = np.array([[0, 0], [1e-30, 2e-30], [1e-7, 5.0], [6.2e-5, 0]], np.float32)
    check_small(rows[[0, 2, 3]], level=0, where="x")
    with pytest.raises(StoreError, match=r"1 of 4 images .* level 3 .* below 6.1e-05.* 2.0e-30.*--storage fp32"):
        check_small(rows, level=3, where="x")
