"""Links that leave the data set, and file names with every byte that a file system takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import image_batches, stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError

SAME = Transform(8, 8)
FOLLOW = "add ?links=follow to the data set's name to allow it"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("photos/train", "photos/test", "elsewhere"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / folder / name).mkdir(parents=True)
            for image in range(2):
                picture = Image.new("RGB", (8, 8), (number * 40, image * 40, len(folder)))
                picture.save(tmp_path / folder / name / f"{image}.png")
    return tmp_path / "photos"


def kept(dataset: ImageDataset) -> int:
    batches = image_batches(dataset, SAME, indices=range(len(dataset)), batch_size=3, workers=1, skip_bad=True)
    return sum(len(images) for images, *_ in batches)


def test_links__an_image_outside_is_a_bad_image_unless_allowed(root: Path, tmp_path: Path) -> None:
    (root / "train" / "cat" / "out.png").symlink_to(tmp_path / "elsewhere" / "cat" / "1.png")
    dataset = load_dataset(f"folder:{root}", "train")
    assert (len(dataset), kept(dataset)) == (5, 4)
    with pytest.raises(DataError) as error:
        stack_images(dataset, SAME)
    target = tmp_path / "elsewhere" / "cat" / "1.png"
    expected = f"{root}/train/cat/out.png is a link that leaves {root.resolve()} (to {target}); {FOLLOW}"
    assert str(error.value) == expected
    allowed = load_dataset(f"folder:{root}?links=follow", "train")
    assert (len(allowed), kept(allowed)) == (5, 5)
    assert allowed.fingerprint != dataset.fingerprint


def test_links__what_is_outside_is_not_read_for_the_fingerprint(root: Path, tmp_path: Path) -> None:
    outside, memo = tmp_path / "elsewhere" / "cat" / "1.png", tmp_path / "memo"
    (root / "train" / "cat" / "out.png").symlink_to(os.path.relpath(outside, root / "train" / "cat"))

    def prints(options: str) -> str:
        return load_dataset(f"folder:{root}{options}", "train", memo=memo).fingerprint

    before, followed = prints(""), prints("?links=follow")
    outside.write_bytes(outside.read_bytes() + b"\0")
    assert prints("") == before
    assert prints("?links=follow") != followed
    # A link that is not followed is no reason to read all the rest again.
    assert len(list(memo.iterdir())) == 3


@pytest.mark.parametrize("part", ["train", "train/cat"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_links__a_folder_outside_is_refused_unless_allowed(root: Path, tmp_path: Path, part: str, split: str) -> None:
    (root / part).rename(tmp_path / "moved")
    (root / part).symlink_to(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"photos/{part} is a link that leaves .*photos \(to .*moved\); add \?links="):
        load_dataset(f"folder:{root}", split)
    assert kept(load_dataset(f"folder:{root}?links=follow", split)) == 4


def test_links__inside_are_followed_and_so_is_the_root_itself(root: Path, tmp_path: Path) -> None:
    (root / "train" / "cat" / "same.png").symlink_to("../../test/dog/1.png")
    (root / "train" / "lynx").symlink_to(root / "test" / "cat")
    (tmp_path / "alias").symlink_to(root)
    dataset = load_dataset(f"folder:{tmp_path / 'alias'}", "train")
    assert dataset.class_names == ("cat", "dog", "lynx")
    assert kept(dataset) == len(dataset) == 7


def test_links__a_folder_whose_name_begins_alike_is_outside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "photos2").mkdir()
    (tmp_path / "photos2" / "x.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    (root / "train" / "cat" / "out.png").symlink_to("../../../photos2/x.png")
    assert kept(load_dataset(f"folder:{root}", "train")) == 4


def test_links__a_file_beside_the_classes_is_no_matter(root: Path, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("photographs")
    (root / "train" / "README").symlink_to(tmp_path / "README")
    assert len(load_dataset(f"folder:{root}", "train")) == 4


def test_links__other_values_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"\?links=yes: expected \?links=follow"):
        load_dataset(f"folder:{root}?links=yes", "train")


@pytest.mark.parametrize("name", ["a b.png", 'it\'s "so".png', "new\nline.png", "tab\t.png", "ü…😀.png", "-x=?%.png"])
def test_names__of_every_kind_are_read_and_told_in_one_line(root: Path, tmp_path: Path, name: str) -> None:
    folder = root / "train" / name.removesuffix(".png")
    (root / "train" / "dog").rename(folder)
    (root / "test" / "dog").rename(root / "test" / folder.name)
    (folder / "0.png").rename(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    dataset = load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo")
    assert set(dataset.class_names) == {"cat", folder.name}
    assert f"{folder.name}/{name}" in {dataset.image_name(index) for index in range(len(dataset))}
    assert load_dataset(f"folder:{root}", "train", memo=tmp_path / "memo").fingerprint == dataset.fingerprint
    assert (len(dataset), kept(dataset)) == (5, 4)
    with pytest.raises(DataError, match=r"broken\.png is no JPEG") as error:
        stack_images(dataset, SAME)
    assert str(error.value).isprintable()
