from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hjepa_eval.datasets import DATASETS, load_dataset
from hjepa_eval.datasets.images import fit, image_batches, stack_images
from hjepa_eval.datasets.protocol import interleave
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError, HjepaError, UnknownNameError

SAME = Transform(32, 32)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def test_interleave__makes_every_prefix_balanced() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 0])
    assert labels[interleave(labels)].tolist() == [0, 1, 2, 0, 1, 0, 0]


def test_digits__splits_are_disjoint_stratified_and_fixed() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    assert np.bincount(test.labels).min() >= 34
    rows = {train.image(i).numpy().tobytes() for i in range(len(train))}
    assert sum(test.image(i).numpy().tobytes() in rows for i in range(len(test))) == 0
    assert train.image(0).shape == (3, 8, 8)
    assert train.image(0).max() == 255
    # Golden: the split never changes, or results of different versions could not be compared.
    assert train.fingerprint.startswith("f980c38e")
    assert test.fingerprint.startswith("d44ff2f3")


def test_cifar10__class_folder_copy_is_found_by_itself(cifar10_sample: Path) -> None:
    for root in (cifar10_sample, cifar10_sample.parent):
        dataset = load_dataset("cifar10", "test", root=root)
        assert len(dataset) == 200
        assert dataset.class_names[dataset.labels[3]] == "cat"
        assert dataset.image(0).shape == (3, 32, 32)
        assert "200 of cifar10's 10,000 test images" in dataset.notes[0]


def test_cifar10__missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--root.*HJEPA_DATA.*--download"):
        load_dataset("cifar10", "train", root=tmp_path)


def test_cifar10__half_downloaded_files_say_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=r"incomplete or damaged; delete that folder and fetch them again"):
        load_dataset("cifar10", "train", root=tmp_path)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "cifar-10-python.tar.gz").write_bytes(b"half")
    with pytest.raises(DataError, match="found only the archive"):
        load_dataset("cifar10", "train", root=tmp_path / "only")


def test_cifar10__copy_without_a_class_is_refused(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "c")
    shutil.rmtree(root / "train" / "ship")
    with pytest.raises(DataError, match="9 of cifar10's 10 classes"):
        load_dataset("cifar10", "train", root=root)


def test_cifar10__official_files_are_read_in_balanced_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's loader on a small set of files in the official format; only their checksums are replaced."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 3072), dtype=np.uint8)
    labels = [0] * 20 + [1] * 20
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    names = ["cat", "dog"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", ""]])
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: setattr(self, "classes", names))
    dataset = load_dataset("cifar10", "train", root=tmp_path)
    assert dataset.labels[:4].tolist() == [0, 1, 0, 1]
    assert dataset.class_names == tuple(names)
    np.testing.assert_array_equal(dataset.image(1).numpy(), pixels[20].reshape(3, 32, 32))


def test_folder__reads_val_as_test_and_names_itself(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "my photos")
    (root / "test").rename(root / "val")
    dataset = load_dataset(f"folder:{root}", "test")
    assert (dataset.name, len(dataset)) == ("folder:my photos", 200)


def test_folder__empty_class_is_named(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "c")
    (root / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match="no images in class zebra"):
        load_dataset(f"folder:{root}", "train")


def test_folder__class_that_train_lacks_is_named(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "c")
    (root / "test" / "cat").rename(root / "test" / "lynx")
    with pytest.raises(DataError, match="classes that train lacks: lynx"):
        load_dataset(f"folder:{root}", "test")


@pytest.mark.parametrize(
    ("make", "part"), [("none", "no folder"), ("empty", "no train/"), ("bare", "no class folders")]
)
def test_folder__missing_parts_are_named(tmp_path: Path, make: str, part: str) -> None:
    root = tmp_path / "photos"
    if make != "none":
        root.mkdir()
    if make == "bare":
        (root / "train").mkdir()
    with pytest.raises(DataError, match=part):
        load_dataset(f"folder:{root}", "train")


def test_folder__fingerprint_follows_content_and_is_remembered(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "c")
    memo = tmp_path / "memo"
    before = load_dataset("cifar10", "test", root=root, memo=memo).fingerprint
    assert len(list(memo.iterdir())) == 1
    assert load_dataset("cifar10", "test", root=root, memo=memo).fingerprint == before
    assert load_dataset("cifar10", "test", root=cifar10_sample).fingerprint == before
    image = next((root / "test" / "cat").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    assert load_dataset("cifar10", "test", root=root, memo=memo).fingerprint != before
    next(memo.iterdir()).write_text("damaged")
    assert load_dataset("cifar10", "test", root=root, memo=memo).fingerprint != before


def test_load_dataset__suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_dataset("cifra10", "train")
    assert {"digits", "cifar10", "cifar100", "folder"} <= set(DATASETS)


def test_fit__resizes_the_short_side_and_crops_the_centre() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, 20:60] = 200
    fitted = fit(image, Transform(size=16, resize=16, interpolation="bilinear"))
    assert fitted.shape == (3, 16, 16)
    assert fitted[:, :, 1:-1].eq(200).all()
    assert fit(torch.zeros(3, 32, 32, dtype=torch.uint8), SAME).shape == (3, 32, 32)


def test_image_batches__order_does_not_depend_on_workers(cifar10_sample: Path) -> None:
    dataset = load_dataset("cifar10", "test", root=cifar10_sample)
    one = stack_images(dataset, SAME, workers=1)
    assert one.shape == (200, 3, 32, 32)
    assert torch.equal(one, stack_images(dataset, SAME, workers=4))
    assert torch.equal(stack_images(dataset, SAME, indices=[7, 0, 7]), one[[7, 0, 7]])
    assert stack_images(dataset, SAME, indices=[]).shape == (0, *one.shape[1:])
    assert torch.equal(one[17], dataset.image(17))


def test_image_batches__bad_image_stops_or_is_skipped_and_counted(cifar10_sample: Path, tmp_path: Path) -> None:
    root = copy_of(cifar10_sample, tmp_path / "c")
    victim = sorted((root / "test" / "cat").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:100])
    (root / "test" / "dog" / "notes.txt").write_text("not an image")
    dataset = load_dataset("cifar10", "test", root=root)
    with pytest.raises(DataError, match=victim.name):
        stack_images(dataset, SAME)
    batches = list(image_batches(dataset, SAME, indices=range(len(dataset)), batch_size=64, workers=2, skip_bad=True))
    assert sum(len(images) for images, _, _ in batches) == 199
    skipped = [reason for _, _, reasons in batches for reason in reasons.values()]
    assert len(skipped) == 2
    assert victim.name in skipped[0]
    assert "notes.txt" in skipped[1]


@pytest.mark.parametrize("spec", ["digits", "scenes", "folder:photos", "hf:photos", "wds:{split}.tar"])
def test_load_dataset__a_data_folder_that_nothing_reads_is_refused(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"--root .* has no meaning"):
        load_dataset(spec, "train", root=tmp_path)
    # HJEPA_DATA is given to all data sets alike.
    monkeypatch.setenv("HJEPA_DATA", str(tmp_path))
    assert "--root" not in refusal(spec, tmp_path)


def refusal(spec: str, root: Path) -> str:
    try:
        load_dataset(spec, "train", root=root)
    except HjepaError as error:
        return str(error)
    return ""
