"""Writing stores: resumed, repaired, longer and shorter ones, and what is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.errors import StoreError
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.manifest import read_manifest
from hjepa_eval.features.shards import superseded
from hjepa_eval.features.store import FeatureStore, verify_store
from hjepa_eval.features.writer import ALIGNMENT

WIDTHS = (3, 2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", 10)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spans(parts: list[ranges.Range]) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in parts]


def test_writer__resumed_store_has_the_same_bytes_as_an_uninterrupted_one(make_store, tmp_path: Path) -> None:
    make_store(tmp_path / "whole", images=25)
    make_store(tmp_path / "resumed", images=25, finish=False, shards=1)
    writer = make_store(tmp_path / "resumed", images=25, finish=False, shards=0)
    assert spans(writer.missing) == [(10, 20), (20, 25)]
    make_store(tmp_path / "resumed", images=25)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_writer__longer_store_keeps_the_full_shards_of_the_shorter(make_store, tmp_path: Path) -> None:
    make_store(tmp_path / "s", images=15)
    writer = make_store(tmp_path / "s", images=25, finish=False, shards=0)
    assert spans(writer.missing) == [(10, 20), (20, 25)]
    make_store(tmp_path / "s", images=25)
    make_store(tmp_path / "whole", images=25)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_writer__shorter_run_leaves_a_longer_one_at_work_its_shards(make_store, tmp_path: Path) -> None:
    longer = make_store(tmp_path / "s", images=35, finish=False, shards=3)
    at_work = contents(tmp_path / "s")
    assert make_store(tmp_path / "s", images=15).labels().shape == (15,)
    assert at_work.items() <= contents(tmp_path / "s").items(), "15 images end within the shard of 10 to 20"
    longer.refresh()
    assert spans(longer.missing) == [(30, 35)]
    make_store(tmp_path / "s", images=35)
    make_store(tmp_path / "whole", images=35)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_superseded__is_only_what_one_shard_of_another_name_covers(make_store, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", images=25)
    for start, stop in ((0, 5), (3, 10), (5, 15), (10, 20), (20, 30), (0, 100), (30, 40)):
        (tmp_path / "s" / f"{start:08d}-{stop:08d}.safetensors").touch()
    (tmp_path / "s" / "not-mine.safetensors").touch()
    found = [path.name[:17] for path in superseded(tmp_path / "s", store.manifest.shards)]
    assert found == ["00000000-00000005", "00000003-00000010"]


def test_writer__shard_with_any_damaged_byte_is_written_again_as_it_was(make_store, tmp_path: Path) -> None:
    make_store(tmp_path / "s", images=5, widths=WIDTHS)
    (shard,) = (tmp_path / "s").glob("*.safetensors")
    before, whole = contents(tmp_path / "s"), shard.read_bytes()
    for place in [*range(0, 600, 7), *range(600, ALIGNMENT, 1500), ALIGNMENT, len(whole) - 1]:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        shard.write_bytes(content)
        assert len(verify_store(tmp_path / "s")) == 1
        writer = make_store(tmp_path / "s", images=5, widths=WIDTHS, finish=False, shards=0)
        assert spans(writer.missing) == [(0, 5)], place
        make_store(tmp_path / "s", images=5, widths=WIDTHS)
        assert contents(tmp_path / "s") == before, place


def test_writer__shard_without_its_manifests_hash_is_taken_over_and_named_anew(make_store, tmp_path: Path) -> None:
    # Two devices round differently: one repaired a shard and was killed before it wrote the manifest.
    make_store(tmp_path / "s", images=25)
    other = make_store(tmp_path / "other", images=25, finish=False, shards=0)
    part = other.missing[1]
    index = np.arange(part.start, part.stop)
    levels = {f"level{place}": np.ones((10, width), np.float32) for place, width in enumerate((6, 64))}
    other.write(part, {**levels, "labels": index % 2, "index": index})
    (tmp_path / "other" / part.file).replace(tmp_path / "s" / part.file)
    assert len(verify_store(tmp_path / "s")) == 1
    writer = make_store(tmp_path / "s", images=25, finish=False, shards=0)
    assert writer.missing == []
    writer.finish()
    assert verify_store(tmp_path / "s") == []
    assert FeatureStore(tmp_path / "s").features(1)[10:20].min() == 1


def test_writer__shards_of_another_key_or_of_other_images_are_not_taken_over(make_store, tmp_path: Path) -> None:
    make_store(tmp_path / "s", images=30)
    writer = make_store(tmp_path / "s", images=30, finish=False, shards=0, precision="bf16")
    assert len(writer.missing) == 3
    first, second, _ = sorted((tmp_path / "s").glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    writer = make_store(tmp_path / "s", images=30, finish=False, shards=0)
    assert spans(writer.missing) == [(10, 20)]


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"skipped": None},
        {"skipped": "none"},
        {"skipped": [1]},
        {"skipped": ["x"] * 11},
        {"images": [0, 11]},
        {"key": None},
    ],
)
def test_writer__shard_that_says_nonsense_about_itself_is_not_taken_over(
    make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: dict[str, object]
) -> None:
    store = make_store(tmp_path / "s", images=10)
    full = {"images": [0, 10], "key": store.manifest.key, "skipped": []}
    monkeypatch.setattr("hjepa_eval.features.writer.read_about", lambda content: full)
    assert make_store(tmp_path / "s", images=10, finish=False, shards=0).missing == []
    monkeypatch.setattr("hjepa_eval.features.writer.read_about", lambda content: {**full, **about} if about else about)
    assert len(make_store(tmp_path / "s", images=10, finish=False, shards=0).missing) == 1


def test_writer__full_disk_keeps_finished_shards(make_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s", images=25, finish=False, shards=1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; 1 finished shards stay"):
        make_store(tmp_path / "s", images=25)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["00000000-00000010.safetensors"]


def test_writer__unwritable_folder_is_named(make_store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="--cache-dir"):
        make_store(tmp_path / "file" / "s", images=5)


def test_writer__names_that_are_no_utf8_and_wide_spaces_survive_a_restart(make_store, tmp_path: Path) -> None:
    reason, name = os.fsdecode(b"/photos/k\xe4se  1.png is empty"), os.fsdecode(b"\xff")
    for folder in (tmp_path / "whole", tmp_path / "resumed"):
        writer = make_store(folder, images=25, class_names=("a", name), finish=False, shards=0)
        for part in writer.missing:
            index = np.arange(part.start, part.stop - 1)
            levels = {f"level{place}": np.ones((len(index), width), np.float32) for place, width in enumerate((6, 64))}
            writer.write(part, {**levels, "labels": index % 2, "index": index}, (reason,))
            if folder.name == "resumed":
                writer = make_store(folder, images=25, class_names=("a", name), finish=False, shards=0)
        writer.finish()
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    found = read_manifest(tmp_path / "whole")
    assert found.skipped == (" ".join(reason.split()),) * 3
    assert found.class_names == ("a", name)
    (tmp_path / "whole" / "manifest.json").read_text(encoding="utf-8")
