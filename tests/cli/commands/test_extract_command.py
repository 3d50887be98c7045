"""`hjepa extract`: several readouts from one pass, half precision, and files for other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from hjepa_eval.errors import ConfigError
from hjepa_eval.features import read_features, read_labels
from hjepa_eval.machine.ranks import Ranks, read_ranks

MODEL = ("--model", "random:vit_tiny_patch8_32?levels=2", "--dataset", "digits", "--max-samples", 60)


def stores(out: str) -> dict[tuple[str, str], dict]:
    return {(each["split"], each["readout"]): each for each in json.loads(out)}


def test_extract__several_readouts_come_from_one_pass_and_only_the_missing_one_is_added(hjepa) -> None:
    first = stores(hjepa("extract", *MODEL, "--readout", "mean,cls", "--json").out)
    assert set(first) == {(split, readout) for split in ("train", "test") for readout in ("mean", "cls")}
    assert all(each["forward_images"] == 60 for each in first.values())
    more = stores(hjepa("extract", *MODEL, "--readout", "mean", "--readout", "grid,cls", "--json").out)
    assert len(more) == 6
    again = stores(hjepa("extract", *MODEL, "--readout", "cls,grid,mean", "--json").out)
    assert all(each["forward_images"] == 0 for each in again.values())
    grid = read_features(Path(again["train", "grid"]["folder"]), 0)
    mean = read_features(Path(again["train", "mean"]["folder"]), 0)
    np.testing.assert_allclose(grid.reshape(60, 192, 4).mean(2), mean, atol=1e-5)


def test_extract__half_precision_is_another_store_of_half_the_size_that_probes_read(hjepa) -> None:
    full = stores(hjepa("extract", *MODEL, "--json").out)["train", "mean"]
    half = stores(hjepa("extract", *MODEL, "--storage", "fp16", "--json").out)["train", "mean"]
    assert full["key"] != half["key"]
    a, b = (read_features(Path(each["folder"]), 1) for each in (full, half))
    assert (a.dtype, b.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(a.astype(np.float16), b)
    record = json.loads(hjepa("knn", *MODEL, "--storage", "fp16", "--json").out)[0]
    assert record["extraction"]["storage"] == "float16"
    assert record["extraction"]["train_store"] == half["key"]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_extract__files_for_other_programs_hold_the_stores_features(hjepa, kind: str) -> None:
    output = hjepa("extract", *MODEL, "--level", 1, "--format", kind, "--out", "mine", "--json")
    folder = Path(stores(output.out)["test", "mean"]["folder"])
    expected, labels = read_features(folder, 1), read_labels(folder)
    if kind == "npy":
        np.testing.assert_array_equal(np.load("mine/test-mean/level1.npy"), expected)
        np.testing.assert_array_equal(np.load("mine/test-mean/labels.npy"), labels)
        assert not Path("mine/test-mean/level0.npy").exists()
    else:
        table = parquet.read_table("mine/test-mean/features.parquet")
        np.testing.assert_array_equal(np.stack(table["level1"].to_numpy()), expected)
        assert table["label"].to_pylist() == labels.tolist()
    assert Path("mine/train-mean").is_dir()


def test_read_ranks__torchrun_slurm_and_alone() -> None:
    assert read_ranks({}) == Ranks(0, 1, 0)
    assert read_ranks({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Ranks(3, 8, 1)
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}
    assert read_ranks(slurm) == Ranks(2, 4, 0)
    assert read_ranks({**slurm, "RANK": "0", "WORLD_SIZE": "2"}) == Ranks(0, 2, 0)


@pytest.mark.parametrize("broken", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_read_ranks__what_no_launcher_sets_is_one_line(broken: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"RANK=.*expected numbers"):
        read_ranks(broken)


SECOND_CALL = """
import sys
from hjepa_eval.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = [name for name in ("torch", "torchvision", "timm", "sklearn", "faiss") if name in sys.modules]
print("imported", ",".join(heavy))
"""


def test_extract__second_call_on_complete_stores_needs_no_torch(cifar10_sample: Path) -> None:
    arguments = ["extract", "--model", "random:vit_tiny_patch8_32", "--dataset", f"folder:{cifar10_sample}"]
    command = [sys.executable, "-c", SECOND_CALL, *arguments, "--device", "cpu", "--max-samples", "40"]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert "imported torch,torchvision,timm" in said[0]
    assert "from the cache" in said[1]
    assert said[1].endswith("imported \n")
