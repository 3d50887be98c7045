"""ImageNet-1k, ImageNet-100, Imagenette and Tiny ImageNet: small fakes in the published layouts."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.named.imagenette import CLASSES as IMAGENETTE
from hjepa_eval.datasets.subsets.lists import IMAGENET100
from hjepa_eval.errors import DataError

WNIDS = sorted({*IMAGENET100, *(f"n{number:08d}" for number in range(90_000_000, 90_000_900))})
TINY = [f"n{number:08d}" for number in range(91_000_000, 91_000_200)]


def jpeg(colour: int, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour % 256, 90, 200)).save(buffer, "jpeg")
    return buffer.getvalue()


def wnid_folders(root: Path, wnids: list[str], *, images: int = 1) -> Path:
    for split in ("train", "val"):
        for number, wnid in enumerate(wnids):
            (root / split / wnid).mkdir(parents=True)
            for image in range(images):
                (root / split / wnid / f"{wnid}_{image}.JPEG").write_bytes(jpeg(number + image))
    return root


def tiny_imagenet(root: Path) -> Path:
    for number, wnid in enumerate(TINY):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
        (root / "train" / wnid / "images" / f"{wnid}_0.JPEG").write_bytes(jpeg(number))
    (root / "val" / "images").mkdir(parents=True)
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t7\t7\n" for number, wnid in enumerate(TINY[::-1])]
    for number in range(len(lines)):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(number))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(TINY[::-1]) + "\n")
    return root


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wnid_folders(tmp_path_factory.mktemp("data") / "imagenet1k", WNIDS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_imagenet(tmp_path_factory.mktemp("data") / "tiny-imagenet-200")


@pytest.mark.parametrize("place", ["", "imagenet1k", "imagenet", "ILSVRC/Data/CLS-LOC"])
def test_imagenet1k__is_found_in_its_usual_places(imagenet: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    if place:
        (root / place).parent.mkdir(parents=True)
        (root / place).symlink_to(imagenet)
    dataset = load_dataset("imagenet1k", "test", root=root if place else imagenet)
    assert (dataset.name, len(dataset)) == ("imagenet1k", 1000)
    assert dataset.class_names == tuple(WNIDS)
    assert "1,000 of imagenet1k's 50,000 test images" in dataset.notes[0]


def test_imagenet1k__test_is_val_even_where_there_is_a_folder_test(imagenet: Path) -> None:
    # Kaggle's copy has test images without labels.
    (imagenet / "test").mkdir(exist_ok=True)
    (imagenet / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(jpeg(3))
    assert len(load_dataset("imagenet1k", "test", root=imagenet)) == 1000


def test_imagenet1k__flat_validation_images_say_how_to_sort_them(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(imagenet / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg(1))
    spec = "imagenet1k?links=follow"
    assert len(load_dataset(spec, "train", root=tmp_path)) == 1000
    for each in (spec, "imagenet100?links=follow"):
        with pytest.raises(DataError, match=r"1 validation images outside of class folders.*val/<wnid>/.*valprep\.sh"):
            load_dataset(each, "test", root=tmp_path)


def test_imagenet1k__another_number_of_classes_is_refused_before_images_are_read(tmp_path: Path) -> None:
    root = wnid_folders(tmp_path / "imagenet", WNIDS[:3])
    with pytest.raises(DataError, match=r"train has 3 of imagenet1k's 1,000 classes .* or name it folder:"):
        load_dataset("imagenet1k", "train", root=root)


def test_imagenet1k__classes_that_are_no_wordnet_ids_are_named(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / "train" / f"class{number}").mkdir(parents=True)
    with pytest.raises(DataError, match="1000 classes whose names are no WordNet ids such as n01440764: class0, "):
        load_dataset("imagenet1k", "train", root=tmp_path)


def test_imagenet100__is_a_part_of_imagenet1k_or_a_folder_of_its_own(imagenet: Path, tmp_path: Path) -> None:
    own = wnid_folders(tmp_path / "imagenet100", list(IMAGENET100))
    part = load_dataset("imagenet100", "train", root=imagenet)
    assert (part.name, len(part)) == ("imagenet100", 100)
    assert part.class_names == tuple(sorted(IMAGENET100))
    assert "(sha256 79f3f1552ccc478c)" in part.notes[0]
    assert "100 of imagenet100's 126,689 train images" in part.notes[1]
    alone = load_dataset("imagenet100", "train", root=own.parent)
    assert alone.class_names == part.class_names
    same = load_dataset("imagenet1k?classes=cmc", "train", root=imagenet)
    assert [same.image_name(index) for index in range(100)] == [part.image_name(index) for index in range(100)]
    assert same.class_names == part.class_names
    assert len({same.fingerprint, part.fingerprint, alone.fingerprint}) == 3


def test_imagenet100__missing_classes_are_named(tmp_path: Path) -> None:
    listed = sorted(IMAGENET100)
    wnid_folders(tmp_path, listed[2:])
    with pytest.raises(DataError, match=rf"lacks 2 of imagenet100's 100 classes: {listed[0]}, {listed[1]}; .*CMC's"):
        load_dataset("imagenet100", "train", root=tmp_path)


def test_imagenette__notes_say_how_many_images_and_which_size(tmp_path: Path) -> None:
    wnid_folders(tmp_path / "imagenette2", list(IMAGENETTE), images=2)
    dataset = load_dataset("imagenette", "test", root=tmp_path)
    assert (len(dataset), dataset.class_names) == (20, tuple(sorted(IMAGENETTE)))
    assert dataset.notes == (
        "this copy holds 20 of imagenette's 3,925 test images; do not compare its numbers with published ones",
    )
    for wnid in IMAGENETTE:
        (tmp_path / "imagenette2" / "val" / wnid / f"{wnid}_0.JPEG").write_bytes(jpeg(0, (200, 160)))
        (tmp_path / "imagenette2" / "val" / wnid / f"{wnid}_1.JPEG").write_bytes(jpeg(0, (160, 170)))
    notes = load_dataset("imagenette", "test", root=tmp_path).notes
    assert notes[1] == "imagenette's 160 px copy: the short sides of its images are 160 pixels"
    (tmp_path / "imagenette2" / "val" / "n01440764" / "n01440764_0.JPEG").write_bytes(b"damaged")
    assert len(load_dataset("imagenette", "test", root=tmp_path).notes) == 1


def test_imagenette__missing_and_foreign_classes_are_named(tmp_path: Path) -> None:
    wnid_folders(tmp_path, [*list(IMAGENETTE)[1:], "n02086240"])
    with pytest.raises(DataError, match=r"lacks 1: n01440764 \(tench\); it has 1 that are not imagenette's: n02086240"):
        load_dataset("imagenette", "train", root=tmp_path)


def test_tinyimagenet__labels_come_from_folders_and_from_the_text_file(tiny: Path) -> None:
    train, test = (load_dataset("tinyimagenet", split, root=tiny.parent) for split in ("train", "test"))
    assert (len(train), len(test)) == (200, 200)
    assert train.class_names == test.class_names == tuple(TINY)
    assert train.image_name(0) == f"{TINY[0]}/{TINY[0]}_0.JPEG"
    assert train.image(0).shape == (3, 8, 8)
    # Image val_0 is of the last class.
    place = next(index for index in range(200) if test.image_name(index) == f"{TINY[199]}/val_0.JPEG")
    assert test.labels[place] == 199
    assert np.bincount(test.labels).tolist() == [1] * 200
    assert "200 of tinyimagenet's 10,000 test images" in test.notes[0]


def test_tinyimagenet__other_labels_are_another_fingerprint(tiny: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny, tmp_path / "tinyimagenet"))
    before = load_dataset("tinyimagenet", "test", root=root).fingerprint
    assert before == load_dataset("tinyimagenet", "test", root=tiny).fingerprint
    file = root / "val" / "val_annotations.txt"
    lines = file.read_text().splitlines()
    swapped = [lines[0].replace(TINY[199], TINY[198]), lines[1].replace(TINY[198], TINY[199]), *lines[2:]]
    file.write_text("\n".join(swapped))
    assert load_dataset("tinyimagenet", "test", root=root).fingerprint != before


def test_tinyimagenet__what_is_missing_is_named(tiny: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny, tmp_path / "tinyimagenet"))
    (root / "val" / "images" / "extra.JPEG").write_bytes(jpeg(1))
    with pytest.raises(DataError, match=r"val_annotations.txt has no label for 1 images: extra.JPEG"):
        load_dataset("tinyimagenet", "test", root=root)
    os.remove(root / "val" / "val_annotations.txt")
    with pytest.raises(DataError, match=r"cannot read .*val_annotations.txt: No such file.*expected the official"):
        load_dataset("tinyimagenet", "test", root=root)
    shutil.rmtree(root / "train" / TINY[5])
    with pytest.raises(DataError, match=f"lacks 1: {TINY[5]}"):
        load_dataset("tinyimagenet", "train", root=root)
    (root / "wnids.txt").write_text(f"{TINY[0]}\n")
    with pytest.raises(DataError, match=r"wnids.txt names 1 classes; expected tinyimagenet's 200"):
        load_dataset("tinyimagenet", "train", root=root)


@pytest.mark.parametrize("name", ["imagenet1k", "imagenet100", "imagenette", "tinyimagenet"])
def test_missing_data__says_which_layout_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is not under .*: expected .*train/<wnid>/.*--root \(or HJEPA_DATA\)"):
        load_dataset(name, "train", root=tmp_path)
