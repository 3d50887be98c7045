from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.generated.scenes import SceneOptions, Scenes
from hjepa_eval.datasets.generated.shapes import COLOURS, SHAPES, draw_sprite
from hjepa_eval.errors import DataError


def drawn(split: str, options: SceneOptions, count: int = 48) -> str:
    scenes = Scenes(split, options)
    digest = hashlib.sha256()
    for index in range(count):
        digest.update(np.asarray(scenes.image(index)).tobytes())
        digest.update(np.stack(list(scenes.maps(index).values())).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "options", "content"),
    [
        ("train", SceneOptions(), "1b69a73dcd7eb484"),
        ("test", SceneOptions(), "789d8a0c9563482a"),
        ("train", SceneOptions(size=32, objects="digits"), "e9880c82bf46e541"),
    ],
)
def test_scenes__are_the_same_bytes_on_every_machine(split: str, options: SceneOptions, content: str) -> None:
    assert drawn(split, options) == content


def test_scenes__train_and_test_are_of_other_draws_and_balanced() -> None:
    train, test = load_dataset("scenes", "train"), load_dataset("scenes", "test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.class_names == test.class_names == SHAPES
    assert np.ptp(np.bincount(train.labels)) <= 1
    assert train.fingerprint != test.fingerprint
    assert not np.array_equal(train.image(0), test.image(0))


def test_scenes__maps_and_factors_say_what_the_pixels_show() -> None:
    scenes = Scenes("train", SceneOptions(n=240))
    factors = scenes.factors
    for index in range(60):
        maps = scenes.maps(index)
        large = maps["instance"] == 1
        sizes = [int((maps["instance"] == number).sum()) for number in range(1, 5)]
        # The class is that of the largest object, and a good part of it is in sight.
        assert sizes[0] == max(sizes)
        assert sizes[0] > 60
        assert set(maps["class"][large]) == {scenes.labels[index] + 1}
        assert maps["instance"].max() <= factors["count"].values[index]
        assert ((maps["class"] == 0) == (maps["depth"] == 0)).all()
        rows, columns = np.nonzero(large)
        assert abs(rows.mean() / 64 - factors["y"].values[index]) < 0.16
        assert abs(columns.mean() / 64 - factors["x"].values[index]) < 0.16
        if factors["texture"].values[index] == 0:
            colour = list(COLOURS.values())[int(factors["colour"].values[index])]
            image = np.asarray(scenes.image(index)).transpose(1, 2, 0)
            assert (image[large] == colour).all(axis=1).mean() > 0.6


def test_scenes__discs_have_no_angle_and_squares_have_four_alike() -> None:
    scenes = Scenes("train", SceneOptions(n=240))
    angle = scenes.factors["angle"]
    round_ones = np.isin(scenes.labels, [SHAPES.index("disc"), SHAPES.index("ring")])
    assert np.isnan(angle.values[round_ones]).all()
    assert not np.isnan(angle.values[~round_ones]).any()
    quarter = [draw_sprite("square", texture="plain", centre=(64, 64), radius=30, angle=a, size=64) for a in (10, 100)]
    assert abs(quarter[0].cover - quarter[1].cover).max() <= 2


def test_scenes__spurious_backgrounds_tell_the_class_in_train_only() -> None:
    options = SceneOptions(n=1200, spurious=0.95)
    for split, low, high in (("train", 0.93, 0.98), ("test", 0.08, 0.28)):
        scenes = Scenes(split, options)
        share = (scenes.factors["background"].values == scenes.labels % 6).mean()
        assert low < share < high


def test_scenes__conflict_crosses_texture_and_shape_in_test() -> None:
    options = SceneOptions(n=400, conflict="texture")
    aligned = [
        Scenes(split, options).factors["texture"].values == Scenes(split, options).labels % 4
        for split in ("train", "test")
    ]
    assert aligned[0].all()
    assert not aligned[1].any()


def test_scenes__one_background_and_no_clutter_leave_the_large_object_alone() -> None:
    scenes = Scenes("train", SceneOptions(n=60, background="gradient", clutter=0))
    assert set(scenes.factors["count"].values) == {1}
    assert {scenes.factors["background"].categories[int(b)] for b in scenes.factors["background"].values} == {
        "gradient"
    }
    assert all(scenes.maps(index)["instance"].max() == 1 for index in range(20))


def test_scenes__options_name_the_data_set_and_its_size() -> None:
    scenes = load_dataset("scenes?size=32?objects=digits?n=200", "test")
    assert scenes.name == "scenes?size=32?n=200?objects=digits"
    assert scenes.image(0).shape == (3, 32, 32)
    assert len(scenes) == 50


@pytest.mark.parametrize(
    "wrong",
    ["size=8", "n=many", "objects=cats", "spurious=2", "conflict=colour", "draw=-1", "clutter=4", "background=sea"],
)
def test_scenes__a_wrong_option_is_named(wrong: str) -> None:
    with pytest.raises(DataError, match=wrong.replace("=", "=")):
        load_dataset(f"scenes?{wrong}", "train")
