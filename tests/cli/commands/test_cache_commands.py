from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from hjepa_eval.cli.commands.cache import read_duration, read_size, show_size
from hjepa_eval.datasets.named.digits import Digits
from hjepa_eval.errors import ConfigError
from hjepa_eval.features.cache import store_folder
from hjepa_eval.features.manifest import read_manifest, write_manifest

EXTRACT = ("extract", "--model", "pixels", "--dataset", "digits", "--max-samples", 50, "--device", "cpu", "--quiet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HJEPA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache_diff__says_what_differs_and_what_is_the_same(hjepa) -> None:
    assert hjepa(*EXTRACT).code == 0
    train, test = sorted(json.loads(hjepa("cache", "ls", "--json").out), key=lambda row: row["split"] != "train")
    found = hjepa("cache", "diff", train["key"], test["key"])
    assert (found.code, 'dataset.split: "train" -> "test"' in found.out) == (0, True)
    assert len(found.out.splitlines()) == 2
    same = hjepa("cache", "diff", train["key"], train["folder"])
    assert same.out == f"the features are the same, of {train['images']} images\n"
    record = json.loads(hjepa("cache", "diff", train["key"], test["key"], "--json").out)
    assert record["first"].startswith(train["key"])
    assert not record["same"]
    assert [line.partition(":")[0] for line in record["differences"]] == ["dataset.fingerprint", "dataset.split"]
    assert "fits 2 stores" in hjepa("cache", "diff", "digits", train["key"]).err


def test_cache_ls__shows_how_features_were_computed_and_stored(hjepa, cache: Path) -> None:
    assert hjepa("cache", "verify").out == f"no stores in {cache}; hjepa extract makes one\n"
    assert hjepa(*EXTRACT, "--storage", "fp16", "--precision", "fp32").code == 0
    rows = json.loads(hjepa("cache", "ls", "--json").out)
    assert [(row["precision"], row["storage"], row["compiled"]) for row in rows] == [("fp32", "float16", False)] * 2
    assert hjepa("cache", "ls").out.count("mean, fp32, stored as float16, 50 images, ") == 2
    compiled = replace(read_manifest(Path(rows[0]["folder"])), identity={"compiled": True, "precision": "bf16"})
    write_manifest(store_folder(cache, compiled), compiled)
    listed = {row["key"]: row["compiled"] for row in json.loads(hjepa("cache", "ls", "--json").out)}
    assert listed == {**{row["key"]: False for row in rows}, compiled.key[:16]: True}
    assert "mean, bf16 compiled, stored as float32, 50 images" in hjepa("cache", "ls").out


def test_cache_gc__shows_removes_and_counts(hjepa, cache: Path) -> None:
    assert hjepa("cache", "gc").out == f"nothing to remove in {cache}\n"
    assert hjepa(*EXTRACT).code == 0
    assert "nothing to remove" in hjepa("cache", "gc", "--older-than", "1h", "--max-size", "1GB").out
    manifest = next(cache.rglob("manifest.json"))
    os.utime(manifest, (0, 0))
    shown = hjepa("cache", "gc", "--older-than", "30d", "--dry-run")
    assert shown.out.startswith(f"would remove {manifest.parent.relative_to(cache)}, ")
    record = json.loads(hjepa("cache", "gc", "--older-than", "30d", "--dry-run", "--json").out)
    assert (record["dry_run"], len(record["removed"])) == (True, 1)
    assert manifest.exists()
    done = hjepa("cache", "gc", "--older-than", "30d")
    assert done.out == shown.out.replace("would remove", "removed")
    assert done.out.splitlines()[-1] == f"1 thing, {show_size(record['bytes'])}"
    assert len(list(cache.rglob("manifest.json"))) == 1


def test_cache_rm__keeps_what_is_being_filled_and_removes_the_rest(hjepa, cache: Path) -> None:
    assert hjepa(*EXTRACT).code == 0
    kept = next(cache.rglob("manifest.json")).parent
    with FileLock(f"{kept}.lock"):
        found = hjepa("cache", "rm", "all")
    assert (found.code, found.out.count("removed")) == (2, 1)
    assert f"{kept} is in use by another hjepa" in found.err
    assert [path.parent for path in cache.rglob("manifest.json")] == [kept]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--older-than", "a month"), "--older-than is 'a month', expected a duration such as 12h, 30d or 2w"),
        (("--older-than", "30"), "--older-than is '30'"),
        (("--max-size", "50 gigs"), "--max-size is '50 gigs', expected a size such as 500MB, 50GB"),
    ],
)
def test_cache_gc__what_is_no_quantity_is_named(hjepa, arguments: tuple[str, str], part: str) -> None:
    found = hjepa("cache", "gc", *arguments)
    assert (found.code, part in found.err) == (2, True)


def test_quantities__are_read_and_shown() -> None:
    assert [read_size("x", text) for text in ("800", "50GB", "1.5 GiB", "2tb", "10kB")] == [
        800,
        50_000_000_000,
        1_610_612_736,
        2_000_000_000_000,
        10_000,
    ]
    assert [read_duration("x", text) for text in ("90m", "12h", "30d", "2w")] == [5400, 43200, 2_592_000, 1_209_600]
    assert [show_size(size) for size in (0, 823, 1000, 999_949, 999_950, 12_300_000_000, 5e15)] == [
        "0 B",
        "823 B",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "12.3 GB",
        "5000.0 TB",
    ]
    with pytest.raises(ConfigError, match="-5d"):
        read_duration("x", "-5d")


def test_cache_verify__compares_labels_with_the_data_set_where_it_is_here(
    hjepa, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hjepa(*EXTRACT).code == 0
    assert "labels" not in hjepa("cache", "verify").out
    true = Digits.__init__

    def turned(self: Digits, split: str) -> None:
        true(self, split)
        self.labels = np.roll(self.labels, 1)

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "__init__", turned)
        wrong = hjepa("cache", "verify")
        assert (wrong.code, wrong.out.count("has other labels than digits")) == (2, 2)
    elsewhere = hjepa("cache", "verify", "--dataset", "folder:nowhere")
    assert (elsewhere.code, elsewhere.out.count("ok, labels not compared: name the data set with --dataset")) == (0, 2)
