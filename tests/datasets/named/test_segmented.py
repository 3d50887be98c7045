"""Data sets with masks: the official layouts on small copies, `masks/` beside folders, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.named.segmented import VOC_CLASSES
from hjepa_eval.errors import DataError

SIZE = (12, 10)


def _image(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(file)


def _mask(file: Path, values: np.ndarray, *, palette: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette([(7 * place) % 256 for place in range(768)])
    image.save(file)


def _halves(top: int, bottom: int) -> np.ndarray:
    values = np.full(SIZE, top)
    values[6:] = bottom
    return values


def test_voc2012__palette_masks_and_lists_of_the_official_layout(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for part in ("train", "val"):
        names = [f"{part}_{number:02d}" for number in range(1, 21)]
        for number, name in enumerate(names, start=1):
            _image(folder / "JPEGImages" / f"{name}.jpg", number)
            values = _halves(0, number)
            values[5] = 255
            _mask(folder / "SegmentationClass" / f"{name}.png", values, palette=True)
        lists = folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("\n".join(names) + "\n")
    images = load_dataset("voc2012", "test", root=tmp_path)
    assert images.map_classes == VOC_CLASSES
    assert len(images) == 20
    for index in range(20):
        mask = images.maps(index)["class"]
        assert mask.shape == images.image(index).shape[1:]
        assert set(np.unique(mask)) == {0, int(images.labels[index]) + 1, 255}


def test_pets__trimaps_are_pet_background_and_a_border_that_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for part in ("trainval", "test"):
        lines = ["#Image CLASS-ID SPECIES BREED ID"]
        for number, breed in enumerate(("Abyssinian", "great_pyrenees"), start=1):
            name = f"{breed}_{part}"
            _image(folder / "images" / f"{name}.jpg", number)
            values = _halves(1, 2)
            values[6] = 3
            _mask(folder / "annotations" / "trimaps" / f"{name}.png", values)
            lines.append(f"{name} {number} 1 {number}")
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    images = load_dataset("pets", "train", root=tmp_path)
    assert images.class_names == ("Abyssinian", "great_pyrenees")
    mask = images.maps(0)["class"]
    assert [int(row[0]) for row in (mask[0], mask[6], mask[7])] == [1, 255, 0]


def test_ade20k__numbers_begin_at_1_and_0_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "ADEChallengeData2016"
    for part in ("training", "validation"):
        _image(folder / "images" / part / "ADE_00000001.jpg")
        _mask(folder / "annotations" / part / "ADE_00000001.png", _halves(0, 150))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{n}\t0.1\t1\t1\t0\tthing{n}, other" for n in range(1, 151))]
    (folder / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    images = load_dataset("ade20k", "train", root=tmp_path)
    assert images.map_classes[0] == "thing1"
    assert len(images.map_classes) == 150
    mask = images.maps(0)["class"]
    assert [int(mask[0, 0]), int(mask[-1, 0])] == [255, 149]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            _image(tmp_path / split / name / "1.jpg", number)
            _mask(tmp_path / "masks" / split / name / "1.png", _halves(0, number))
    (tmp_path / "masks" / "classes.txt").write_text("ground\nanimal\n")
    return tmp_path


def test_folder__masks_lie_beside_the_splits_under_the_same_names(folder: Path) -> None:
    images = load_dataset(f"folder:{folder}", "test")
    assert images.map_classes == ("ground", "animal")
    dog = int(np.flatnonzero(images.labels == images.class_names.index("dog"))[0])
    np.testing.assert_array_equal(images.maps(dog)["class"], _halves(0, 1))
    part = load_dataset(f"folder:{folder}?per_class=1", "train")
    assert part.maps(0)["class"].shape == SIZE


def _resized(folder: Path) -> None:
    _mask(folder / "masks" / "test" / "cat" / "1.png", np.zeros((3, 4)))


def _coloured(folder: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "masks" / "test" / "cat" / "1.png")


def _removed(folder: Path) -> None:
    (folder / "masks" / "test" / "cat" / "1.png").unlink()


def _torn(folder: Path) -> None:
    (folder / "masks" / "test" / "cat" / "1.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_resized, "is 3 x 4, its image 12 x 10"),
        (_coloured, "is RGB; a mask has class numbers"),
        (_removed, "is missing: every image needs a mask"),
        (_torn, "cannot be read as a mask"),
    ],
)
def test_folder__a_mask_that_does_not_fit_is_one_line_with_its_name(folder: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    images = load_dataset(f"folder:{folder}", "test")
    with pytest.raises(DataError, match=message) as caught:
        images.maps(0)
    assert "1.png" in str(caught.value)


def test_folder__without_masks_or_names_is_said(folder: Path) -> None:
    (folder / "masks" / "classes.txt").unlink()
    images = load_dataset(f"folder:{folder}", "test")
    with pytest.raises(DataError, match=r"classes\.txt"):
        _ = images.map_classes
    with pytest.raises(DataError, match="knows no classes of pixels"):
        load_dataset("digits", "test").maps(0)
