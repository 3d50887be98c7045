from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hjepa_eval.datasets.files.folder import ImageFolder
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds import kmeans as module
from hjepa_eval.encoders.kinds.kmeans import fit_kmeans, quadrant_sums, triangle
from hjepa_eval.encoders.protocol import check_outputs
from hjepa_eval.errors import DataError, EncoderError, HjepaError
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples


@pytest.fixture
def train(cifar10_sample: Path) -> ImageDataset:
    return ImageFolder("cifar10", cifar10_sample, split="train", memo=None)


@pytest.fixture
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIT_PATCHES", 4_000)


def give(dataset: ImageDataset) -> Callable[[], ImageDataset]:
    return lambda: dataset


def test_triangle__hand_computed() -> None:
    distances = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1)
    assert triangle(distances).flatten().tolist() == [2, 1, 0]


def test_quadrant_sums__brute_force(train: ImageDataset) -> None:
    """Patch by patch in float64: normalise, whiten, measure, compare with the average, add up."""
    images = torch.stack([train.image(0), train.image(1)])[:, :, :11, :11]
    tensors = fit_kmeans(images, centroids=5, patch=4, seed=0)
    filters, offset, centroids = (tensors[name].double().numpy() for name in ("filters", "offset", "centroids"))
    directions = filters.reshape(len(filters), -1).T
    expected = np.zeros((2, 2, 2, 5))
    for number, image in enumerate(images.double().numpy() / 255):
        for row in range(8):
            for column in range(8):
                patch = image[:, row : row + 4, column : column + 4].reshape(-1)
                normal = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10 / 255**2)
                distances = np.linalg.norm(normal @ directions - offset - centroids, axis=1)
                expected[number, row // 4, column // 4] += np.maximum(0, distances.mean() - distances)
    sums = quadrant_sums(images.float() / 255, *(tensors[name] for name in ("filters", "offset", "centroids")))
    np.testing.assert_allclose(sums.numpy(), expected.reshape(2, 20), rtol=1e-4, atol=1e-3)


def test_kmeans__an_odd_row_belongs_to_the_first_half() -> None:
    """Of 3 x 3 places the quadrants hold 4, 2, 2 and 1."""
    filters, offset = torch.zeros(1, 3, 2, 2), torch.zeros(1)
    centroids = torch.tensor([[0.0], [2.0]])  # all patches at 0: distances 0 and 2, activations 1 and 0
    sums = quadrant_sums(torch.rand(1, 3, 4, 4), filters, offset, centroids)
    assert sums.tolist() == [[4, 0, 2, 0, 2, 0, 1, 0]]


@pytest.mark.usefixtures("few_patches")
def test_kmeans__features_are_standardised_over_the_fit(train: ImageDataset) -> None:
    encoder = load_encoder("kmeans:16", train_images=give(train))
    images = stack_images(train, encoder.transform)
    tokens = encoder(encoder.transform.normalise(images))
    check_outputs(encoder, tokens, len(train))
    assert tokens[0].shape == (400, 1, 64)
    torch.testing.assert_close(tokens[0].mean((0, 1)), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(tokens[0].std((0, 1)), torch.ones(64), atol=1e-2, rtol=0)


@pytest.mark.usefixtures("few_patches")
def test_kmeans__bfloat16_and_the_batch_change_nothing(train: ImageDataset) -> None:
    encoder = load_encoder("kmeans:16", train_images=give(train))
    images = encoder.transform.normalise(torch.stack([train.image(index) for index in range(40)]))
    (whole,) = encoder(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(images)[0], whole, rtol=0, atol=0)
    parts = torch.cat([encoder(part)[0] for part in torch.split(images, 7)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("few_patches")
def test_kmeans__same_seed_and_images_give_the_same_encoder(train: ImageDataset, cifar10_sample: Path) -> None:
    first, again, seed, size = (
        load_encoder(spec, seed=number, train_images=give(train)).identity()
        for spec, number in (("kmeans:16", 0), ("kmeans:16", 0), ("kmeans:16", 1), ("kmeans:16?size=24", 0))
    )
    assert first == again
    json.dumps(first)
    other = ImageFolder("cifar10", cifar10_sample, split="test", memo=None)
    images = load_encoder("kmeans:16", train_images=give(other)).identity()
    assert len({found["weights"] for found in (first, seed, size, images)}) == 4


@pytest.mark.usefixtures("few_patches")
def test_kmeans__is_fitted_once_and_mended(
    train: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def counted(images: torch.Tensor, **how: int) -> dict[str, torch.Tensor]:
        fits.append(len(images))
        return fit_kmeans(images, **how)

    monkeypatch.setattr(module, "fit_kmeans", counted)
    hashes = [load_encoder("kmeans:8", train_images=give(train), cache_dir=tmp_path).weights_hash() for _ in range(2)]
    assert fits == [400]
    (file,) = (tmp_path / "encoders").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    hashes.append(load_encoder("kmeans:8", train_images=give(train), cache_dir=tmp_path).weights_hash())
    assert fits == [400, 400]
    assert len(set(hashes)) == 1
    load_encoder("kmeans:8?patch=5", train_images=give(train), cache_dir=tmp_path)
    assert len(fits) == 3


def test_kmeans__beats_pixels(cifar10_sample: Path) -> None:
    splits = [ImageFolder("cifar10", cifar10_sample, split=split, memo=None) for split in ("train", "test")]
    scores = {}
    for spec in ("kmeans", "pixels"):
        encoder = load_encoder(spec, train_images=give(splits[0]))
        samples = []
        for split in splits:
            images = encoder.transform.normalise(stack_images(split, encoder.transform))
            samples.append(Samples(encoder(images)[0].flatten(1).numpy(), split.labels))
        scores[spec] = knn(*samples, num_classes=10, ks=(20,)).scores[20].value
    assert scores["kmeans"] > scores["pixels"] + 0.05, scores


class Grey(ImageDataset):
    """Images without any contrast; those in `bad` cannot be read."""

    def __init__(self, count: int = 6, bad: tuple[int, ...] = ()) -> None:
        self.name, self.split, self.fingerprint = "grey", "train", f"grey {count} {bad}"
        self.class_names, self.labels, self.bad = ("a", "b"), np.arange(count) % 2, bad

    def image(self, index: int) -> torch.Tensor:
        if index in self.bad:
            raise DataError(f"image {index} cannot be decoded")
        return torch.full((3, 32, 32), 40 * index, dtype=torch.uint8)


@pytest.mark.usefixtures("few_patches")
def test_kmeans__images_without_contrast_stay_finite() -> None:
    encoder = load_encoder("kmeans:4", train_images=give(Grey()))
    assert all(tensor.isfinite().all() for tensor in encoder.state_dict().values())
    generator = torch.Generator().manual_seed(0)
    for images in (torch.zeros(2, 3, 32, 32), torch.rand(2, 3, 32, 32, generator=generator)):
        assert encoder(images)[0].isfinite().all()


@pytest.mark.usefixtures("few_patches")
def test_kmeans__unreadable_images_are_left_out_of_the_fit() -> None:
    encoder = load_encoder("kmeans:4", train_images=give(Grey(bad=(0, 3))))
    assert encoder.settings["images"] == [6, 6]
    with pytest.raises(DataError, match=r"grey: none of the images .* image \d cannot be decoded"):
        load_encoder("kmeans:4", train_images=give(Grey(2, bad=(0, 1))))


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("kmeans:0", "kmeans:0: expected a number from 2, such as 128"),
        ("kmeans:1", "expected a number from 2"),
        ("kmeans:abc", "expected a number"),
        ("kmeans:²", "expected a number"),
        ("kmeans?patch=x", "kmeans?patch=x: expected a number from 2, such as 6"),
        ("kmeans?size=-1", "expected a number from 3"),
        ("kmeans?patch=32", "a patch of 32 pixels has no two places in an image of 32"),
        ("kmeans?path=3", "did you mean 'patch'"),
        ("kmeans:9000", "more centroids than the 4,000 patches"),
        ("kmean", "did you mean 'kmeans'"),
    ],
)
@pytest.mark.usefixtures("few_patches")
def test_kmeans__mistakes_get_one_clear_line(spec: str, part: str) -> None:
    with pytest.raises(HjepaError) as caught:
        load_encoder(spec, train_images=give(Grey(5)))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kmeans__without_a_dataset_says_what_it_needs() -> None:
    with pytest.raises(EncoderError, match="kmeans needs a dataset"):
        load_encoder("kmeans")
