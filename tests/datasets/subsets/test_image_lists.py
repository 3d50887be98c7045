"""Official lists of images, matched by file name."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.subsets.lists import indices_of, read_image_list
from hjepa_eval.errors import DataError

NAMES = {"cat": ["n1_1.png", "n1_2.png", "same.png"], "dog": ["n2_1.png", "n2_7.png", "same.png"]}


@pytest.fixture
def photos(tmp_path: Path) -> ImageDataset:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    for name, files in NAMES.items():
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_bytes(buffer.getvalue())
    return load_dataset("folder:photos", "train")


def written(text: str | bytes) -> Path:
    path = Path("1percent.txt")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_read_image_list__names_in_order_and_the_sha256_of_the_file() -> None:
    content = b"n2_7.png\r\n\ncat/n1_1.png  \n"
    found = read_image_list(written(content))
    assert found.names == ("n2_7.png", "cat/n1_1.png")
    assert (found.file, found.sha256) == ("1percent.txt", hashlib.sha256(content).hexdigest())


def test_indices_of__finds_files_with_and_without_their_class(photos: ImageDataset) -> None:
    indices = indices_of(photos, ["n2_7.png", "cat/n1_1.png", "dog/same.png"])
    assert indices.dtype == np.int64
    assert (np.diff(indices) > 0).all()
    assert {photos.image_name(int(i)) for i in indices} == {"dog/n2_7.png", "cat/n1_1.png", "dog/same.png"}
    assert sorted(photos.labels[indices].tolist()) == [0, 1, 1]


def test_indices_of__the_order_of_the_list_is_no_matter(photos: ImageDataset) -> None:
    names = ["n2_7.png", "n1_1.png", "n1_2.png"]
    assert (indices_of(photos, names) == indices_of(photos, names[::-1])).all()


def test_indices_of__lists_what_the_dataset_lacks(photos: ImageDataset) -> None:
    absent = [f"n9_{i}.png" for i in range(7)]
    with pytest.raises(
        DataError, match=r"lacks 7 of the 8 listed images: n9_0.png, .*n9_4.png and 2 more; is the list"
    ):
        indices_of(photos, ["n1_1.png", *absent])


def test_indices_of__a_file_name_of_several_images_needs_its_class(photos: ImageDataset) -> None:
    with pytest.raises(
        DataError, match=r"2 images of .* are called same.png: cat/same.png, dog/same.png; list class/f"
    ):
        indices_of(photos, ["same.png"])


def test_indices_of__refuses_one_image_under_two_names(photos: ImageDataset) -> None:
    with pytest.raises(DataError, match=r"names 1 images of .* twice"):
        indices_of(photos, ["n1_1.png", "cat/n1_1.png"])


def test_indices_of__a_dataset_without_file_names_says_so() -> None:
    with pytest.raises(DataError, match="digits has no file names that a list could name; draw a fraction"):
        indices_of(load_dataset("digits", "train"), ["0001.png"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n \n", "is empty; expected one image file name a line"),
        ("a.png\nb.png\na.png\n", "names 1 images more than once: a.png"),
        (b"\x89PNG\xff\xfe", "is no text"),
    ],
)
def test_read_image_list__refuses_what_is_no_list(text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_image_list(written(text))


def test_read_image_list__a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"cannot read the image list nowhere.txt: No such file"):
        read_image_list(Path("nowhere.txt"))
