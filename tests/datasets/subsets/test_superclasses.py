"""CIFAR-100's superclasses against an independent copy, and superclasses from files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from folders import SHARED_DATA

from hjepa_eval.datasets.subsets.superclasses import CIFAR100, read_superclasses, superclasses_for
from hjepa_eval.errors import DataError
from hjepa_eval.metrics.accuracy import superclass_accuracy

ANIMALS = ("cat", "dog", "oak", "rose")


def written(content: object) -> Path:
    path = Path("superclasses.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_cifar100__has_twenty_superclasses_of_five_classes() -> None:
    classes = [name for members in CIFAR100.values() for name in members]
    assert len(CIFAR100) == 20
    assert {len(members) for members in CIFAR100.values()} == {5}
    assert len(set(classes)) == 100
    assert list(CIFAR100) == sorted(CIFAR100)
    assert all(list(members) == sorted(members) for members in CIFAR100.values())


def test_cifar100__names_and_groups_equal_the_sample_of_the_official_files() -> None:
    archive = SHARED_DATA / "cifar100-sample.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no CIFAR-100 sample at {archive}; name its folder with HJEPA_SHARED_DATA")
    with tarfile.open(archive) as tar:
        official = json.load(tar.extractfile("cifar100-sample/superclasses.json"))
        folders = {Path(name).parts[2] for name in tar.getnames() if len(Path(name).parts) > 2}
    assert {name: group for group, members in CIFAR100.items() for name in members} == official
    assert folders == set(official)


def test_superclasses_for__numbers_follow_the_order_of_the_classes() -> None:
    names = sorted(name for members in CIFAR100.values() for name in members)
    found = superclasses_for("cifar100", names)
    assert found is not None
    superclasses, of_class = found
    assert superclasses == tuple(CIFAR100)
    assert of_class.dtype == np.int64
    assert np.bincount(of_class).tolist() == [5] * 20
    # The first of torchvision's class list and their published coarse labels.
    assert names[:4] == ["apple", "aquarium_fish", "baby", "bear"]
    assert of_class[:4].tolist() == [4, 1, 14, 8]
    reverse = superclasses_for("cifar100", names[::-1])
    assert reverse is not None
    assert (reverse.of_class[::-1] == of_class).all()


def test_superclasses_for__none_for_other_datasets_and_other_names() -> None:
    names = sorted(name for members in CIFAR100.values() for name in members)
    assert superclasses_for("cifar10", ["airplane", "cat"]) is None
    assert superclasses_for("cifar100", [name.upper() for name in names]) is None
    assert superclasses_for("cifar100", [*names, "unicorn"]) is None


def test_superclasses_for__of_some_classes_are_those_that_remain() -> None:
    found = superclasses_for("cifar100?classes=mine.txt", ["wolf", "rose", "lion", "tulip", "bear"])
    assert found is not None
    assert found.names == ("flowers", "large_carnivores")
    assert found.of_class.tolist() == [1, 0, 1, 0, 1]
    # A single superclass tells nothing apart.
    assert superclasses_for("cifar100?classes=mine.txt", ["wolf", "lion"]) is None


@pytest.mark.parametrize(
    "content",
    [
        {"plant": ["rose", "oak"], "animal": ["dog", "cat"]},
        {"rose": "plant", "dog": "animal", "cat": "animal", "oak": "plant"},
    ],
)
def test_read_superclasses__both_forms_say_the_same(content: dict[str, object]) -> None:
    found = read_superclasses(written(content), ANIMALS)
    assert found.names == ("animal", "plant")
    assert found.of_class.tolist() == [0, 0, 1, 1]
    # A cat taken for a dog is right, an oak taken for a dog is wrong.
    guesses, truth = np.array([1, 1]), np.array([0, 2])
    assert superclass_accuracy(guesses, truth, superclass=found.of_class).value == 0.5


def test_read_superclasses__all_problems_in_one_message() -> None:
    path = written('{"plant": ["oak", "rosse"], "animal": ["cat", "oak"], "oak": "tree", "thing": 3}')
    with pytest.raises(DataError) as caught:
        read_superclasses(path, ANIMALS)
    message = str(caught.value)
    assert "\n" not in message
    assert "1 unknown classes: rosse (did you mean 'rose'?)" in message
    assert "2 classes left out: dog, rose" in message
    assert "2 classes named twice: oak (plant, animal), oak (plant, tree)" in message
    assert "'thing' must have a superclass's name or a list" in message


def test_read_superclasses__a_repeated_key_is_no_silent_overwrite() -> None:
    path = written('{"cat": "animal", "dog": "animal", "oak": "plant", "rose": "plant", "cat": "plant"}')
    with pytest.raises(DataError, match=r"1 classes named twice: cat \(animal, plant\)"):
        read_superclasses(path, ANIMALS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "are no JSON"),
        ("[1]", "must hold a JSON object"),
        ({"all": list(ANIMALS)}, "fewer than two superclasses"),
        ({"plant": {"oak": 1}}, "'plant' must have"),
    ],
)
def test_read_superclasses__refuses_what_is_no_grouping(content: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_superclasses(written(content), ANIMALS)


def test_read_superclasses__a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"cannot read the superclasses nowhere.json: No such file"):
        read_superclasses(Path("nowhere.json"), ANIMALS)
