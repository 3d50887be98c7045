"""Segmentation: counts against brute force, the ceiling reached by tokens that are the truth, chance by noise."""

import numpy as np
import pytest

from hjepa_eval.datasets.generated.scenes import SceneOptions, Scenes
from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.dense.ceilings import Truth, find_ceilings
from hjepa_eval.probes.dense.cells import Frame, lay_cells
from hjepa_eval.probes.dense.knn_segmentation import gather_bank, rare_first, segment_by_neighbours, vote
from hjepa_eval.probes.dense.linear_segmentation import segment_linearly
from hjepa_eval.probes.dense.regions import Regions
from hjepa_eval.probes.dense.token_rows import PickedImages, TokenRows
from hjepa_eval.probes.search.bank import ArrayBank

IMAGES, GRID = 24, 4


@pytest.fixture(scope="module")
def truth() -> Truth:
    scenes = Scenes("train", SceneOptions(n=40, size=32))
    maps = [scenes.maps(index)["class"] for index in range(IMAGES)]
    cells = lay_cells(Frame.whole(32, 32), (GRID, GRID), (GRID, GRID))
    return Truth(maps.__getitem__, lambda image: cells, IMAGES, len(scenes.map_classes))


def _rows(tokens: np.ndarray) -> TokenRows:
    return TokenRows(ArrayBank(tokens.reshape(len(tokens), -1).astype(np.float32)), tokens.shape[1])


def _perfect(truth: Truth) -> np.ndarray:
    return np.stack([truth.histograms(image) for image in range(truth.images)])


def _brute_miou(regions: list[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    guess = np.concatenate([first[second != 255] for first, second in regions])
    true = np.concatenate([second[second != 255] for _, second in regions])
    found = [
        ((guess == label) & (true == label)).sum() / ((guess == label) | (true == label)).sum()
        for label in range(classes)
        if (true == label).any()
    ]
    return float(np.mean(found))


def test_miou__equals_brute_force_without_ignored_pixels() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        (generator.integers(0, 4, (5, 6)), generator.choice([0, 1, 2, 255], (5, 6)).astype(np.uint8)) for _ in range(7)
    ]
    regions = Regions.empty(7, 4)
    for image, (guess, true) in enumerate(pairs):
        regions.count(image, guess, true)
    assert regions.miou() == pytest.approx(_brute_miou(pairs, 4), abs=1e-12)
    kept = [(guess[true != 255] == true[true != 255]) for guess, true in pairs]
    assert regions.accuracy() == pytest.approx(np.concatenate(kept).mean(), abs=1e-12)
    assert regions.miou_parts().mean() == pytest.approx(regions.miou(), abs=1e-12)
    interval = regions.miou_interval()
    assert interval.low < interval.value < interval.high


def test_miou__parts_have_the_spread_of_the_bootstrap() -> None:
    generator = np.random.default_rng(1)
    regions = Regions.empty(200, 3)
    for image in range(200):
        true = generator.integers(0, 3, 50).astype(np.uint8)
        wrong = generator.random(50) < generator.random()
        regions.count(image, np.where(wrong, generator.integers(0, 3, 50), true), true)
    interval = regions.miou_interval(resamples=2000)
    half = 1.96 * regions.miou_parts().std(ddof=1) / np.sqrt(200)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.1)


def test_miou__images_of_ignored_pixels_alone_are_refused() -> None:
    regions = Regions.empty(1, 2)
    regions.count(0, np.zeros((2, 2), np.int64), np.full((2, 2), 255, np.uint8))
    with pytest.raises(ProbeError, match="all are ignored"):
        regions.miou()


def test_ceilings__equal_brute_force(truth: Truth) -> None:
    ceilings = find_ceilings(truth)
    pairs = []
    for image in range(truth.images):
        classes = truth.classes(image)
        majority = np.zeros(classes.shape, np.int64)
        for row in range(0, 32, 8):
            for column in range(0, 32, 8):
                block = classes[row : row + 8, column : column + 8]
                majority[row : row + 8, column : column + 8] = np.bincount(block.ravel()).argmax()
        pairs.append((majority, classes))
    assert ceilings.majority.miou() == pytest.approx(_brute_miou(pairs, truth.num_classes), abs=1e-12)


def test_knn_segmentation__tokens_that_are_the_truth_reach_the_ceiling_exactly(truth: Truth) -> None:
    tokens = _rows(_perfect(truth))
    bank = gather_bank(tokens, truth, images=np.arange(IMAGES))
    found = segment_by_neighbours(bank, tokens, truth, k=1)
    ceiling = find_ceilings(truth).soft
    np.testing.assert_array_equal(found.right, ceiling.right)
    np.testing.assert_array_equal(found.guessed, ceiling.guessed)
    assert found.miou() == ceiling.miou()


def test_knn_segmentation__noise_does_no_better_than_the_background_alone(truth: Truth) -> None:
    noise = _rows(np.random.default_rng(0).normal(size=(IMAGES, GRID * GRID, 16)))
    other = _rows(np.random.default_rng(1).normal(size=(IMAGES, GRID * GRID, 16)))
    bank = gather_bank(noise, truth, images=np.arange(IMAGES))
    found = segment_by_neighbours(bank, other, truth)
    background = truth.score(np.zeros((32, 32), np.int64) for _ in range(IMAGES))
    assert found.miou() < background.miou() + 0.05
    assert found.single_class().miou() == background.miou()


def test_knn_segmentation__votes_equal_the_plain_formula(truth: Truth) -> None:
    generator = np.random.default_rng(2)
    tokens = generator.normal(size=(IMAGES, GRID * GRID, 8)).astype(np.float32)
    queries = generator.normal(size=(3, GRID * GRID, 8)).astype(np.float32)
    bank = gather_bank(_rows(tokens), truth, images=np.arange(IMAGES))
    unit = bank.tokens / np.linalg.norm(bank.tokens, axis=1, keepdims=True)
    for image, votes in enumerate(vote(bank, _rows(queries), k=5)):
        for cell, token in enumerate(queries[image]):
            cosine = unit @ (token / np.linalg.norm(token))
            best = np.argsort(-cosine)[:5]
            weight = np.exp(cosine[best] / 0.02 - cosine[best].max() / 0.02)
            np.testing.assert_allclose(votes[cell], weight @ bank.shares[best] / weight.sum(), atol=1e-4)


def test_rare_first__prefers_rare_classes_and_is_seeded() -> None:
    classes = np.repeat([0, 1], [9900, 100])
    drawn = rare_first(classes, limit=200, seed=0)
    assert len(drawn) == len(np.unique(drawn)) == 200
    assert 60 < (classes[drawn] == 1).sum() <= 100
    np.testing.assert_array_equal(drawn, rare_first(classes, limit=200, seed=0))


def test_gather_bank__a_sample_has_the_tokens_and_shares_of_its_images(truth: Truth) -> None:
    tokens = np.arange(IMAGES * GRID * GRID * 2, dtype=np.float32).reshape(IMAGES, GRID * GRID, 2)
    bank = gather_bank(_rows(tokens), truth, images=np.arange(IMAGES), limit=50)
    assert bank.available == IMAGES * GRID * GRID
    assert len(bank.tokens) == 50
    for token, share in zip(bank.tokens, bank.shares, strict=True):
        image, cell = divmod(int(token[0]) // 2, GRID * GRID)
        np.testing.assert_array_equal(share, truth.histograms(image)[cell])


def test_linear_segmentation__finds_a_linear_truth_and_the_strength_by_held_out_images() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, (IMAGES, GRID, GRID)).astype(np.uint8)
    cells = lay_cells(Frame.whole(32, 32), (GRID, GRID), (GRID, GRID))
    blocks = Truth(lambda image: np.kron(labels[image], np.ones((8, 8), np.uint8)), lambda image: cells, IMAGES, 4)
    tokens = np.eye(3)[labels.reshape(IMAGES, -1)] + 0.3 * generator.normal(size=(IMAGES, GRID * GRID, 3))
    found = segment_linearly(_rows(tokens), _rows(tokens), (blocks, blocks), held=np.arange(3), cs=(1e-6, 1.0))
    assert found.c == 1.0
    assert found.known.tolist() == [True, True, True, False]
    assert found.test.miou() > 0.8 * find_ceilings(blocks).soft.miou()


def test_token_rows__blocks_rows_and_picked_images_are_the_same_tokens() -> None:
    tokens = np.random.default_rng(4).normal(size=(5, 3, 2)).astype(np.float32)
    rows = _rows(tokens)
    flat = tokens.reshape(15, 2)
    np.testing.assert_array_equal(np.concatenate(list(rows.blocks(4))), flat)
    np.testing.assert_array_equal(rows.rows(np.array([14, 0, 7])), flat[[14, 0, 7]])
    picked = TokenRows(PickedImages(rows, np.array([4, 1])), 3)
    np.testing.assert_array_equal(np.concatenate(list(picked.images())), tokens[[4, 1]])


def test_token_rows__nan_is_refused() -> None:
    tokens = np.ones((2, 3, 2))
    tokens[1, 1, 1] = np.nan
    with pytest.raises(ProbeError, match="NaN or infinity"):
        list(_rows(tokens).images())
