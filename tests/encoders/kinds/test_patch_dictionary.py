from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from hjepa_eval.datasets.files.folder import ImageFolder
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.fitted import ROUNDS, draw_patches, kmeans, normalise_contrast, whitening


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def patches(cifar10_sample: Path) -> torch.Tensor:
    images = stack_images(ImageFolder("cifar10", cifar10_sample, split="train", memo=None), Transform(32, 32))
    return normalise_contrast(draw_patches(images, patch=6, per_image=50, generator=generator()))


def test_draw_patches__every_patch_is_a_window_of_its_own_image() -> None:
    images = torch.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5).byte()
    drawn = draw_patches(images, patch=2, per_image=40, generator=generator())
    windows = torch.nn.functional.unfold(images.float() / 255, 2)
    for number, patch in enumerate(drawn):
        assert (patch == windows[number // 40].T).all(1).any()
    assert len(drawn[:40].unique(dim=0)) > 10  # of 16 places


def test_normalise_contrast__hand_computed() -> None:
    # Mean 0.5; deviation from 0, 0.5, 1 with n - 1 in the denominator: sqrt(0.25 + 10 / 255^2).
    values = normalise_contrast(torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.3, 0.3]]))
    expected = 0.5 / (0.25 + 10 / 65025) ** 0.5
    torch.testing.assert_close(values, torch.tensor([[-expected, 0.0, expected], [0.0, 0.0, 0.0]]))


def test_whitening__covariance_is_the_identity_where_there_is_variance(patches: torch.Tensor) -> None:
    mean, directions = whitening(patches)
    variances = torch.linalg.eigvalsh(torch.cov(patches.T).double()).flip(0)[: directions.shape[1]]
    covariance = torch.cov(((patches - mean) @ directions).T).double()
    torch.testing.assert_close(covariance, torch.diag(variances / (variances + 0.1)), atol=2e-5, rtol=1e-4)
    assert covariance[0, 0] == pytest.approx(1, abs=0.02)
    everything = torch.linalg.eigvalsh(torch.cov(patches.T).double()).clamp_min(0)
    assert 0.99 <= covariance.trace() / (everything / (everything + 0.1)).sum() < 0.993


def test_whitening__distances_are_those_of_zca(patches: torch.Tensor) -> None:
    """Rotating back changes no distance; what was left out is a hundredth of the variance."""
    mean, directions = whitening(patches)
    some = patches[:200]
    variances, vectors = torch.linalg.eigh(torch.cov(patches.T).double())
    zca = (vectors * (variances.clamp_min(0) + 0.1).rsqrt() @ vectors.T).float()
    ours, theirs = ((some - mean) @ way for way in (directions, zca))
    wanted = torch.cdist(theirs, theirs)
    assert (torch.cdist(ours, ours) - wanted).norm() < 0.02 * wanted.norm()


def test_kmeans__is_lloyds_algorithm(patches: torch.Tensor) -> None:
    points = patches[:, :12].contiguous()
    start = points[torch.randperm(len(points), generator=generator())[:9]]
    theirs = SklearnKMeans(9, init=start.numpy(), n_init=1, max_iter=ROUNDS, tol=0).fit(points.numpy())
    ours = kmeans(points, count=9, generator=generator())
    torch.testing.assert_close(ours, torch.from_numpy(theirs.cluster_centers_), rtol=1e-3, atol=1e-3)


def test_kmeans__a_centroid_without_points_stays() -> None:
    points = torch.tensor([[0.0, 0.0]] * 6 + [[4.0, 0.0]] * 2)
    found = kmeans(points, count=8, generator=generator())
    assert found.isfinite().all()
    assert sorted(set(map(tuple, found.tolist()))) == [(0, 0), (4, 0)]
