from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.gallery.neighbourhoods import AT_RANDOM, choose_queries, find_neighbourhoods
from hjepa_eval.probes.search.bank import ArrayBank


@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    splits = {}
    for split in ("train", "test"):
        images = load_dataset("digits", split)
        pixels = [images.image(place)[0].numpy().astype(np.float32).ravel() for place in range(len(images))]
        splits[split] = np.stack(pixels), images.labels
    return splits


def test_neighbours__equal_a_brute_force_search_on_digits(digits) -> None:
    (train, train_labels), (test, test_labels) = digits["train"], digits["test"]
    parts = [slice(None), slice(0, 24)]
    found = find_neighbourhoods(
        [ArrayBank(train[:, part]) for part in parts],
        [test[:, part] for part in parts],
        train_labels=train_labels,
        test_labels=test_labels,
        levels=(0, 1),
        num_classes=10,
    )
    assert found.rows.shape == found.similarity.shape == (2, 12, 8)
    right = []
    for level, part in enumerate(parts):
        bank, asked = (each[:, part].astype(np.float64) for each in (train, test))
        unit = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-30) for each in (bank, asked)]
        cosines = unit[1] @ unit[0].T
        order = np.lexsort((np.broadcast_to(np.arange(len(bank)), cosines.shape), -cosines.round(12)))
        assert (found.rows[level] == order[found.queries, :8]).all()
        best = np.take_along_axis(cosines, order[:, :20], axis=1)
        assert found.similarity[level] == pytest.approx(best[found.queries, :8], abs=1e-6)
        votes = np.zeros((len(test), 10))
        for label in range(10):
            votes[:, label] = (np.exp(best / 0.07) * (train_labels[order[:, :20]] == label)).sum(axis=1)
        right.append(votes.argmax(axis=1) == test_labels)
    disputed = [place for place, why in enumerate(found.chosen) if why != AT_RANDOM]
    assert len(disputed) == 6
    for place in disputed:
        sides = [level[found.queries[place]] for level in right]
        yes, no = (sides.index(side) for side in (True, False))
        assert found.chosen[place] == f"levels disagree: kNN is right at level {yes}, wrong at level {no}"


def test_queries__half_are_random_over_classes_and_half_are_disputed_most() -> None:
    labels = np.repeat(np.arange(4), 25)
    right = np.ones((4, 100), bool)
    right[0, 10:30] = False  # one against three
    right[:2, [40, 60, 80]] = False  # two against two
    rows, chosen = choose_queries(labels, right, levels=(0, 1, 2, 3), count=8, seed=3)
    assert len(set(rows.tolist())) == 8
    assert chosen[:4] == (AT_RANDOM,) * 4
    assert sorted(labels[rows[:4]]) == [0, 1, 2, 3]
    most = {40, 60, 80} - set(rows[:4].tolist())
    assert set(rows[4 : 4 + len(most)].tolist()) == most
    assert all(10 <= row < 30 for row in rows[4 + len(most) :])
    assert chosen[4] == "levels disagree: kNN is right at levels 2, 3, wrong at levels 0, 1"
    assert chosen[7] == "levels disagree: kNN is right at levels 1, 2, 3, wrong at level 0"


def test_queries__are_drawn_by_the_seed_alone() -> None:
    labels = np.arange(300) % 10
    right = np.random.default_rng(0).random((3, 300)) < 0.5
    one, again, other = (choose_queries(labels, right, levels=(0, 1, 2), seed=seed) for seed in (0, 0, 1))
    assert (one[0] == again[0]).all()
    assert one[1] == again[1]
    assert not (one[0] == other[0]).all()
    # Being right does not make an image likelier to be drawn.
    assert (choose_queries(labels, ~right, levels=(0, 1, 2), seed=0)[0][:6] == one[0][:6]).all()


def test_queries__are_all_random_where_levels_agree_and_never_more_than_images() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    rows, chosen = choose_queries(labels, np.ones((2, 6), bool), levels=(0, 1), count=4)
    assert chosen == (AT_RANDOM,) * 4
    assert sorted(labels[rows][:3]) == [0, 1, 2]
    assert len(set(rows.tolist())) == 4
    few, _ = choose_queries(labels, np.eye(2, 6, dtype=bool), levels=(0, 1), count=12)
    assert sorted(few.tolist()) == [0, 1, 2, 3, 4, 5]


def test_neighbours__are_no_more_than_train_images_and_no_image_is_an_error() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels = np.array([0, 1, 1])
    shared = {"levels": (0,), "num_classes": 2}
    found = find_neighbourhoods([features], [features], train_labels=labels, test_labels=labels, **shared)
    assert sorted(found.queries.tolist()) == [0, 1, 2]
    assert found.rows.shape == (1, 3, 3)
    assert (found.rows[0, :, 0] == found.queries).all(), "nearest to an image is the image itself"
    with pytest.raises(ProbeError, match="--max-samples"):
        find_neighbourhoods([features], [features[:0]], train_labels=labels, test_labels=labels[:0], **shared)
