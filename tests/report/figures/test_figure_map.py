from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_galleries import gallery, plane
from matplotlib.colors import to_hex

from hjepa_eval.report.figures.drawing import drawn
from hjepa_eval.report.figures.map import class_colours, draw_map, grey_classes, map_picture

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [[[0.0, 0.0], [1.0, 0.5], [4.0, 0.0], [0.5, 0.0]], [[9.0, 9.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]]
MADE = gallery(plane(POINTS, [0, 1, 2, 0]), ("cat", "dog", "owl"))


def test_draw_map__a_circle_per_image_in_the_colour_of_its_class() -> None:
    (panel,) = draw_map(MADE.map, 0, colours=["series-1", "series-2", "rest"]).axes
    (circles,) = panel.collections
    assert circles.get_offsets().tolist() == POINTS[0]
    expected = [drawn(name) for name in ("series-1", "series-2", "rest", "series-1")]
    assert [to_hex(colour) for colour in circles.get_facecolors()] == expected
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("50.0 % of the variance", "25.0 % of the variance")
    assert panel.get_aspect() == 1.0


def test_map_picture__the_script_finds_image_n_as_point_n() -> None:
    root = ElementTree.fromstring(map_picture(MADE, 1, prefix="m1-").svg)
    (group,) = [each for each in root.iter(f"{SVG}g") if each.get("id") == "m1-points"]
    points = list(group.iter(f"{SVG}use"))
    assert [point.get("data-point") for point in points] == ["0", "1", "2", "3"]
    # Level 1 has the first image furthest to the right, then the others from left to right; y goes down in SVG.
    assert np.argsort([float(point.get("x", "")) for point in points]).tolist() == [1, 2, 3, 0]
    assert np.argsort([-float(point.get("y", "")) for point in points]).tolist() == [1, 2, 3, 0]


def test_map_picture__says_what_it_shows() -> None:
    picture = map_picture(MADE, 0, prefix="m-")
    assert picture.title == "PCA of level 0, block 0"
    assert picture.text == (
        "Map of level 0, block 0 of runs/demo: 4 test images of 3 classes. PCA; made by hand. The axes carry 50.0 and "
        "25.0 percent of the variance. "
        "Nearest to each other in the middle: cat with dog, dog with owl and cat with owl."
    )


def test_map_picture__umap_has_no_shares_and_one_class_no_neighbours() -> None:
    made = gallery(plane(POINTS, [0, 0, 0, 0], method="UMAP of cosines; seed 0"), ("cat",))
    picture = map_picture(made, 0, prefix="m-")
    assert picture.title == "UMAP of level 0, block 0"
    assert "variance" not in picture.svg
    assert "Nearest" not in picture.text


def test_class_colours__of_more_than_twenty_classes_the_most_frequent_have_colours() -> None:
    # Class 24 is on the map three times, class 23 twice, the others once.
    labels = [*range(25), 23, 24, 24]
    points = [[[float(place), 0.0] for place in range(len(labels))]]
    made = gallery(plane(points, labels), tuple(f"n{label}" for label in range(25)))
    colours = class_colours(made)
    assert (colours[24], colours[23], colours[0]) == ("var(--series-1)", "var(--series-2)", "var(--series-3)")
    assert [label for label, colour in colours.items() if colour == "var(--rest)"] == [17, 18, 19, 20, 21, 22]
    assert grey_classes(made) == "The 19 most frequent classes have colours, the other 6 are grey."
    assert grey_classes(MADE) == ""
    picture = map_picture(made, 0, prefix="m-")
    assert "The 19 most frequent classes have colours, the other 6 are grey." in picture.text
    fills = re.findall(r'data-point="\d+"[^>]*', picture.svg) or re.findall(r"<use[^>]*data-point[^>]*", picture.svg)
    assert len(fills) == len(labels)
    assert len(re.findall(r"<use[^>]*--rest[^>]*data-point", picture.svg)) == 6


@pytest.mark.parametrize("classes", [10, 20])
def test_class_colours__up_to_twenty_classes_each_have_their_own(classes: int) -> None:
    made = gallery(plane([[[0.0, 0.0]]], [0]), tuple(f"n{label}" for label in range(classes)))
    assert list(class_colours(made).values()) == [f"var(--series-{place})" for place in range(1, classes + 1)]


def test_map_picture__a_thousand_points_stay_small() -> None:
    points = np.random.default_rng(0).normal(size=(1, 1000, 2)).tolist()
    made = gallery(plane(points, [place % 10 for place in range(1000)]), tuple(f"n{label}" for label in range(10)))
    picture = map_picture(made, 0, prefix="m-")
    assert picture.svg.count("data-point=") == 1000
    assert len(picture.svg) < 150_000
