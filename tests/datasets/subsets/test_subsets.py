"""Parts of data sets behind `?`: what is drawn, in which order, under which name and fingerprint."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hjepa_eval.datasets import DATASETS, load_dataset
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.subsets.lists import IMAGENET100, read_class_list
from hjepa_eval.datasets.subsets.superclasses import CIFAR100, superclasses_for
from hjepa_eval.errors import DataError, HjepaError, UnknownNameError


def pixels(dataset: ImageDataset) -> list[bytes]:
    return [dataset.image(index).numpy().tobytes() for index in range(len(dataset))]


def names(dataset: ImageDataset) -> set[str]:
    return {str(dataset.image_name(index)) for index in range(len(dataset))}


def written(text: str, name: str = "list.txt") -> Path:
    Path(name).write_text(text)
    return Path(name)


def test_fraction__takes_the_rounded_share_of_each_class_of_train_alone() -> None:
    whole, part = load_dataset("digits", "train"), load_dataset("digits?fraction=0.1", "train")
    counts = np.bincount(whole.labels)
    assert np.bincount(part.labels).tolist() == [round(0.1 * count) for count in counts.tolist()]
    assert part.name == "digits?fraction=0.1"
    assert part.notes == (f"train is 10 % of each class, {len(part)} images drawn with seed 0",)
    assert set(pixels(part)) <= set(pixels(whole))
    test = load_dataset("digits?fraction=0.1", "test")
    assert (test.name, test.fingerprint) == ("digits", load_dataset("digits", "test").fingerprint)


def test_fraction__the_smallest_keeps_one_image_a_class() -> None:
    assert np.bincount(load_dataset("digits?fraction=0.0001", "train").labels).tolist() == [1] * 10


def test_draws__smaller_ones_are_contained_in_larger_ones_of_the_seed(cifar10_sample: Path) -> None:
    specs = ["per_class=3", "fraction=0.1", "per_class=5", "fraction=0.5", "per_class=40", "fraction=1"]
    for seed in ("", "?seed=7"):
        drawn = [names(load_dataset(f"cifar10?{each}{seed}", "train", root=cifar10_sample)) for each in specs]
        assert [len(each) for each in drawn] == [30, 40, 50, 200, 400, 400]
        assert all(small <= large for small, large in itertools.pairwise(drawn))
    one, other = (load_dataset(f"cifar10?per_class=5?seed={seed}", "train", root=cifar10_sample) for seed in (0, 7))
    # Of 400 images, 50 are drawn twice: 6 in common if draws have nothing to do with each other.
    assert len(names(one) & names(other)) < 20
    assert (one.name, other.name) == ("cifar10?per_class=5", "cifar10?per_class=5?seed=7")


def test_draws__are_those_of_every_version_and_machine() -> None:
    """Golden: records of different versions are compared by name and fingerprint."""
    part = load_dataset("digits?per_class=2?seed=3", "train")
    content = b"".join(pixels(part))
    assert hashlib.sha256(content).hexdigest()[:8] == "9300ac1f"
    assert part.fingerprint[:8] == "6a3decb2"


@pytest.mark.parametrize("options", ["fraction=0.3", "per_class=7", "classes=list.txt", "images=images.txt"])
def test_subset__is_interleaved_by_class_and_keeps_the_order_within(cifar10_sample: Path, options: str) -> None:
    whole = load_dataset("cifar10", "train", root=cifar10_sample)
    written("ship\ncat\n")
    written("\n".join(sorted(names(whole))[::3]), "images.txt")
    part = load_dataset(f"cifar10?{options}", "train", root=cifar10_sample)
    counts = np.bincount(part.labels)
    for limit in (len(counts), 3 * len(counts)):
        assert np.bincount(part.labels[:limit]).tolist() == [limit // len(counts)] * len(counts)
    place = {whole.image_name(index): index for index in range(len(whole))}
    for label in range(len(counts)):
        members = [place[part.image_name(int(index))] for index in np.flatnonzero(part.labels == label)]
        assert members == sorted(members)
    for index in (0, len(part) - 1):
        assert torch.equal(part.image(index), whole.image(place[part.image_name(index)]))
        assert part.class_names[part.labels[index]] == str(part.image_name(index)).partition("/")[0]


def test_classes__restrict_both_splits_and_renumber_in_the_order_of_the_data_set(cifar10_sample: Path) -> None:
    path = written("truck\n\ncat\nbird\n")
    for split, count in (("train", 120), ("test", 60)):
        part = load_dataset(f"cifar10?classes={path}", split, root=cifar10_sample)
        assert part.class_names == ("bird", "cat", "truck")
        assert np.bincount(part.labels).tolist() == [count // 3] * 3
        assert part.name == "cifar10?classes=list.txt"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        assert part.notes[-1] == f"3 of cifar10's 10 classes, those in list.txt (sha256 {sha256})"


def test_classes__what_is_drawn_of_a_class_does_not_depend_on_the_others(cifar10_sample: Path) -> None:
    path = written("cat\ndog\n")
    all_of_them = load_dataset("cifar10?per_class=6", "train", root=cifar10_sample)
    two = load_dataset(f"cifar10?classes={path}?per_class=6", "train", root=cifar10_sample)
    assert two.name == "cifar10?classes=list.txt?per_class=6"
    assert names(two) == {name for name in names(all_of_them) if name.startswith(("cat/", "dog/"))}


def test_classes__unknown_names_are_listed_with_the_nearest(cifar10_sample: Path) -> None:
    path = written("cat\ntrukc\nzebra\n")
    with pytest.raises(DataError, match=r"lacks 2 of the 3 classes in list.txt: trukc \(did you mean 'truck'\?\), z"):
        load_dataset(f"cifar10?classes={path}", "test", root=cifar10_sample)


def test_images__are_the_train_images_and_the_test_split_stays_whole(cifar10_sample: Path) -> None:
    whole = load_dataset("cifar10", "train", root=cifar10_sample)
    chosen = sorted(names(whole))[::4]
    written("\n".join(chosen), "1percent.txt")
    part = load_dataset("cifar10?images=1percent.txt", "train", root=cifar10_sample)
    assert names(part) == set(chosen)
    assert part.name == "cifar10?images=1percent.txt"
    assert len(load_dataset("cifar10?images=1percent.txt", "test", root=cifar10_sample)) == 200
    written("cat\ndog\n")
    both = load_dataset("cifar10?images=1percent.txt?classes=list.txt", "train", root=cifar10_sample)
    assert names(both) == {name for name in chosen if name.startswith(("cat/", "dog/"))}
    assert both.name == "cifar10?classes=list.txt?images=1percent.txt"


def test_images__a_class_without_an_image_is_named(cifar10_sample: Path) -> None:
    whole = load_dataset("cifar10", "train", root=cifar10_sample)
    written("\n".join(name for name in names(whole) if not name.startswith("ship/")))
    with pytest.raises(DataError, match=r"cifar10\?images=list.txt, train: no images in class ship"):
        load_dataset("cifar10?images=list.txt", "train", root=cifar10_sample)


def test_fingerprint__tells_all_choices_apart(cifar10_sample: Path) -> None:
    def found(options: str, split: str = "train") -> str:
        return load_dataset(f"cifar10{options}", split, root=cifar10_sample).fingerprint

    written("cat\ndog\n")
    written("dog\ncat\n", "other.txt")
    specs = ["", "?fraction=1", "?fraction=0.5", "?fraction=0.5?seed=1", "?per_class=20", "?per_class=20?seed=1"]
    specs += ["?classes=list.txt", "?classes=other.txt", "?classes=list.txt?per_class=20"]
    prints = [found(spec) for spec in specs] + [found("?classes=list.txt", "test")]
    assert len(set(prints)) == len(prints)
    assert prints == [found(spec) for spec in specs] + [found("?classes=list.txt", "test")]


def test_per_class__more_than_there_is_names_class_and_count(cifar10_sample: Path) -> None:
    with pytest.raises(DataError, match=r"has 40 train images of class airplane, fewer than per_class=41"):
        load_dataset("cifar10?per_class=41", "train", root=cifar10_sample)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?fraction=0", "fraction must be a number above 0 and up to 1, such as 0.1, found '0'"),
        ("?fraction=nan", "fraction must be"),
        ("?fraction=10%", "fraction must be"),
        ("?per_class=0", "per_class must be a whole number from 1, found '0'"),
        ("?per_class=2.5", "per_class must be"),
        ("?fraction=0.1?seed=-1", "seed must be a whole number from 0, found '-1'"),
        ("?fraction=0.1?per_class=3", "fraction and per_class both say how many to draw; keep one"),
        ("?images=x.txt?per_class=3", "images names the train images, so per_class has nothing to draw; keep one"),
        ("?seed=1", "seed without fraction, per_class or test draws nothing"),
        ("?fraction=0.1?fraction=0.2", r"\?fraction is said twice"),
        ("?classes=gone.txt", "cannot read the class list gone.txt: No such file"),
        ("?images=gone.txt", "cannot read the image list gone.txt: No such file"),
        ("?fraction", r"expected \?key=value"),
        ("?per_class=x?seed=y", "per_class must be .*found 'x'; seed must be .*found 'y'"),
    ],
)
def test_options__that_do_not_fit_are_told_before_the_data_is_looked_for(options: str, words: str) -> None:
    for spec in (f"digits{options}", f"cifar10{options}", f"imagenet1k{options}"):
        with pytest.raises(HjepaError, match=words) as error:
            load_dataset(spec, "test", root=Path("nowhere"))
        assert "\n" not in str(error.value)


def test_options__misspelt_ones_are_refused_by_every_data_set() -> None:
    for entry in DATASETS.values():
        with pytest.raises(UnknownNameError, match="did you mean 'fraction'"):
            load_dataset(f"{entry.usage.partition(':')[0]}?fracton=0.1", "train")


def test_class_list__a_name_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"the class list list.txt names 1 classes more than once: cat"):
        read_class_list(str(written("cat\ndog\ncat\n")))


def test_class_list__cmc_is_the_published_file() -> None:
    found = read_class_list("cmc")
    assert len(set(found.names)) == 100
    assert found.names == IMAGENET100
    # Of imagenet100.txt in HobbitLong/CMC at bc687a26.
    assert found.sha256 == "79f3f1552ccc478ce24bd934b4573625db584ddc1f4643ae23c994a94cb11397"


def test_superclasses__of_a_subset_of_the_images_are_those_of_the_whole() -> None:
    classes = [name for members in CIFAR100.values() for name in members]
    assert superclasses_for("cifar100?fraction=0.1", classes) is not None
