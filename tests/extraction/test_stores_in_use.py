"""A store that is used stays whole until its last user has ended, and has the labels of its data set."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.errors import StoreError
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.cache import find_stores, list_stores, remove_store
from hjepa_eval.features.garbage import collect_garbage

# Extracts the first so many digits in shards of 32, says so, and holds the store until stdin ends.
USER = """
import sys
from pathlib import Path
import torch
from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import manifest as ranges
ranges.SHARD_SIZE = 32
how = Compute(torch.device("cpu"), "fp32", batch_size=16, max_samples=int(sys.argv[2]))
found = extract(load_encoder("pixels:4"), load_dataset("digits", "train"), readouts=["mean"],
    cache_dir=Path(sys.argv[1]), settings=how)["mean"]
print("holds", flush=True)
sys.stdin.read()
print(len(found.store.features(0, limit=found.limit)), flush=True)
"""


def use(cache: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USER, str(cache), str(count)]
    user = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "holds\n"
    return user


def how(count: int) -> Compute:
    return Compute(torch.device("cpu"), "fp32", batch_size=16, max_samples=count)


def test_extract__a_store_in_use_is_not_removed_and_keeps_the_shards_of_a_shorter_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", 32)
    user = use(tmp_path, 40)
    (store,) = find_stores(tmp_path, "all")
    with pytest.raises(StoreError, match="is in use by another hjepa; wait until it ends"):
        remove_store(store)
    taken = [garbage.path for garbage in collect_garbage(tmp_path, max_bytes=0, unused_seconds=0)]
    assert not any(path.is_relative_to(store.folder) for path in taken)
    encoder, dataset = load_encoder("pixels:4"), load_dataset("digits", "train")
    longer = extract(encoder, dataset, readouts=["mean"], cache_dir=tmp_path, settings=how(100))
    assert longer["mean"].store.manifest.num_images == 100
    assert (store.folder / "00000032-00000040.safetensors").exists()
    del longer
    gc.collect()
    out, _ = user.communicate("", timeout=120)
    assert (out, user.returncode) == ("40\n", 0)
    assert not (store.folder / "00000032-00000040.safetensors").exists()
    assert list((tmp_path / "claims").glob("*present*")) == []
    assert remove_store(next(iter(list_stores(tmp_path)))) > 0


def test_extract__a_store_with_other_labels_than_its_data_set_is_refused(tmp_path: Path) -> None:
    encoder, dataset = load_encoder("pixels:4"), load_dataset("digits", "train")
    true = dataset.labels
    dataset.labels = np.roll(true, 1)  # As a memo of earlier versions could have it.
    extract(encoder, dataset, readouts=["mean"], cache_dir=tmp_path, settings=how(40))
    dataset.labels = true
    with pytest.raises(StoreError, match=r"has other labels than digits: .*remove it with: hjepa cache rm \w{16}"):
        extract(encoder, dataset, readouts=["mean"], cache_dir=tmp_path, settings=how(40))
    gc.collect()
    remove_store(next(iter(list_stores(tmp_path))))
    assert len(
        extract(encoder, dataset, readouts=["mean"], cache_dir=tmp_path, settings=how(40))["mean"].store.labels()
    )
