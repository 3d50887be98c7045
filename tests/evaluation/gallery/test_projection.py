from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from needed_tools import need_module

from hjepa_eval.errors import ConfigError, ProbeError, UnknownNameError
from hjepa_eval.evaluation.gallery import projection
from hjepa_eval.evaluation.gallery.projection import pca_plane, project_levels, turn_onto


def turned(degrees: float, *, mirrored: bool = False) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return matrix @ np.diag([-1.0, 1.0]) if mirrored else matrix


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_pca__four_points_by_hand() -> None:
    # Centred they are (2, 0), (-2, 0), (0, 1), (0, -1) in a plane of three dimensions: variances 8 and 2 of 10.
    features = np.array([[7.0, 1, 5], [3, 1, 5], [5, 2, 5], [5, 0, 5]])
    assert pca_plane(features) == pytest.approx(np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]))
    planes = project_levels([features], method="pca")
    assert planes.explained[0] == pytest.approx([0.8, 0.2])
    assert planes.method.startswith("PCA")


@pytest.mark.parametrize("shape", [(40, 6), (12, 90)], ids=["long", "wide"])
def test_pca__is_what_a_singular_value_decomposition_gives(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1])
    left, values, right = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    plane = pca_plane(features)
    assert plane == pytest.approx(left[:, :2] * values[:2] * signs)
    order = np.random.default_rng(1).permutation(len(features))
    assert pca_plane(features[order] + 7.0) == pytest.approx(plane[order])
    shares = project_levels([features], method="pca").explained[0]
    assert shares == pytest.approx(values[:2] ** 2 / (values**2).sum(), abs=1e-6)


@pytest.mark.parametrize(
    ("features", "spread"),
    [
        (np.ones((5, 3)), [0.0, 0.0]),
        (np.ones((1, 3)), [0.0, 0.0]),
        (np.array([[1.0], [2], [6]]), [1.0, 0.0]),
        (np.outer([1.0, 2, 6], [0.1, 0.2, 0.3, 0.7]), [1.0, 0.0]),
    ],
    ids=["no variance", "one image", "one dimension", "a line"],
)
def test_pca__dimensions_without_variance_are_zero(features: np.ndarray, spread: list[float]) -> None:
    planes = project_levels([features, features], method="pca")
    assert np.isfinite(planes.points).all()
    assert planes.explained == pytest.approx(np.array([spread, spread]), abs=1e-6)
    assert np.ptp(planes.points[0], axis=0).astype(bool).tolist() == [share > 0 for share in spread]


@pytest.mark.parametrize("mirrored", [False, True])
def test_levels__lie_on_the_level_before_and_keep_their_distances(mirrored: bool) -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(30, 2))
    moved = first @ turned(70, mirrored=mirrored) * 3 + 5
    onto = turn_onto(moved, first)
    assert onto == pytest.approx(3 * (first - first.mean(axis=0)))
    levels = [np.column_stack([first, generator.normal(size=30) * 0.1]), generator.normal(size=(30, 5)), first]
    planes = project_levels(levels, method="pca")
    for points, features in zip(planes.points, levels, strict=True):
        assert distances(points) == pytest.approx(distances(pca_plane(features)), abs=1e-5)
    for before, after in pairwise(planes.points):
        best = ((after - before) ** 2).sum()
        for degrees in range(0, 360, 15):
            for flip in (False, True):
                assert ((after @ turned(degrees, mirrored=flip) - before) ** 2).sum() >= best - 1e-4


def test_levels__variance_is_shared_anew_when_axes_are_turned() -> None:
    generator = np.random.default_rng(0)
    levels = [generator.normal(size=(50, 4)), generator.normal(size=(50, 4)) * [5, 1, 1, 1]]
    planes = project_levels(levels, method="pca")
    for points, shares, features in zip(planes.points, planes.explained, levels, strict=True):
        assert shares == pytest.approx(points.var(axis=0) / features.var(axis=0).sum(), rel=1e-4)
    alone = project_levels(levels[1:], method="pca").explained[0]
    assert planes.explained[1].sum() == pytest.approx(alone.sum(), rel=1e-4)
    assert planes.explained[1].max() < alone.max()


def test_levels__must_hold_the_same_images() -> None:
    with pytest.raises(ProbeError, match="same images"):
        project_levels([np.ones((3, 2)), np.ones((4, 2))])
    with pytest.raises(ProbeError, match="at least one"):
        project_levels([np.ones((0, 2))])
    with pytest.raises(UnknownNameError, match=r"unknown map 'tsne'; known: auto, pca, umap"):
        project_levels([np.ones((3, 2))], method="tsne")


def test_umap__says_the_extra_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(40, 5))
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hjepa\[umap\]'"):
        project_levels([features], method="umap")
    assert project_levels([features]).method.startswith("PCA")


def test_umap__needs_more_images_than_a_neighbourhood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "find_spec", lambda name: name)
    features = np.random.default_rng(0).normal(size=(projection.NEIGHBOURS, 5))
    with pytest.raises(ProbeError, match="more than 15 images"):
        project_levels([features], method="umap")
    assert project_levels([features]).method.startswith("PCA")


@pytest.mark.rows("E7")
@pytest.mark.slow
def test_umap__keeps_classes_together_and_is_the_same_again() -> None:
    need_module("umap")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    levels = [pixels[:300], pixels[:300, ::2]]
    assert project_levels(levels, seed=1).method.startswith("PCA"), "so few do not repay the compiling"
    planes = project_levels(levels, method="umap", seed=1)
    assert planes.method.startswith("UMAP")
    assert planes.points.shape == (2, 300, 2)
    assert not planes.explained.any()
    for points in planes.points:
        apart = distances(points) + np.diag(np.full(300, np.inf))
        assert (labels[apart.argmin(axis=1)] == labels[:300]).mean() > 0.85
    assert (project_levels(levels, method="umap", seed=1).points == planes.points).all()
    assert not (project_levels(levels, method="umap", seed=2).points == planes.points).all()
    # One dimension has no second axis to start from.
    assert np.isfinite(project_levels([np.linspace(1, 2, 40)[:, None]], method="umap").points).all()
