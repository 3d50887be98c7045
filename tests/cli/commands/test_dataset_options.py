"""Options behind a data set's name, through the program."""

from __future__ import annotations

import json
from pathlib import Path


def test_knn__on_a_subset_is_recorded_under_its_own_name(hjepa, cifar10_sample: Path) -> None:
    Path("pets.txt").write_text("cat\ndog\nship\n")
    spec = "cifar10?classes=pets.txt?per_class=10"
    arguments = ("knn", "--model", "pixels:8", "--root", cifar10_sample, "--k", 1, "--json", "--quiet")
    whole, part = (json.loads(hjepa(*arguments, "--dataset", each).out)[0] for each in ("cifar10", spec))
    data = part["dataset"]
    assert (data["name"], data["num_classes"], data["train_images"], data["test_images"]) == (spec, 3, 30, 60)
    assert data["train_fingerprint"] != whole["dataset"]["train_fingerprint"]
    assert any(note.startswith("3 of cifar10's 10 classes, those in pets.txt") for note in data["notes"])
    assert any("10 images of each class, 30 images drawn with seed 0" in note for note in data["notes"])


def test_knn__on_fewer_train_images_has_the_test_features_already(hjepa, cifar10_sample: Path) -> None:
    arguments = ("knn", "--model", "pixels:8", "--root", cifar10_sample, "--k", 1, "--json", "--quiet")
    whole, part = (
        json.loads(hjepa(*arguments, "--dataset", each).out)[0] for each in ("cifar10", "cifar10?fraction=0.5")
    )
    assert part["extraction"]["test_store"] == whole["extraction"]["test_store"]
    assert part["extraction"]["forward_images"] == 200


def test_extract__what_does_not_fit_is_one_line(hjepa) -> None:
    done = hjepa("extract", "--model", "pixels", "--dataset", "digits?per_class=1000")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("hjepa: digits has 1")
    assert "images of class 0, fewer than per_class=1000; ask for fewer" in done.err


def test_datasets__lists_the_options_once(hjepa) -> None:
    shown = hjepa("datasets").out
    assert shown.count("?fraction=   ") == 1
    assert "?links=" in shown
    listed = {each["dataset"]: each["options"] for each in json.loads(hjepa("datasets", "--json").out)}
    assert listed["digits"] == ["classes", "images", "fraction", "per_class", "test", "seed"]
    assert listed["folder:PATH"] == [*listed["digits"], "links"]


def test_datasets__an_option_of_two_sources_is_told_for_each(hjepa) -> None:
    shards, tables = hjepa("datasets").out.split("And of wds:PATTERN:")[1].split("And of hf:NAME_OR_FOLDER:")
    assert "?test=  pattern of the test shards" in shards
    assert "?test=     name of the test split" in tables
