"""What holds for every picture of a page, whatever it shows: all kinds, with names that would break a careless page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_galleries import gallery, masks, plane, png
from made_tables import cell, row, table

from hjepa_eval.metrics.classes import confusion_counts, per_class_differences
from hjepa_eval.report.figures.confusion import confusion_picture
from hjepa_eval.report.figures.cost import cost_pictures
from hjepa_eval.report.figures.drawing import PALETTE
from hjepa_eval.report.figures.levels import level_pictures, what_where_picture
from hjepa_eval.report.figures.map import map_picture
from hjepa_eval.report.figures.masks import mask_pictures
from hjepa_eval.report.figures.per_class import class_difference_picture
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.figures.training import training_pictures
from hjepa_eval.report.tables.curves import Curve, Point
from hjepa_eval.results.records import CostEntry

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ("<script>alert(1)</script>", "$x_2$ \\frac", 'a" onload="x', "]]> --> &", "日本\udcff\x00", "café\n" * 9)
COLOUR = re.compile(r"(?:^|;)(fill|stroke|color|stop-color):([^;]+)")


def _pictures() -> list[Picture]:
    cost = CostEntry(gflop=1.0, parameters=9, milliseconds=2.0, batch=8, device=HOSTILE[0], precision="fp32")
    rows = [row(name, level, cell(0.5, 0.4, 0.6), cost=cost) for name in HOSTILE for level in (0, 1)]
    made = table(*rows, row("one", 0, cell(0.5, 0.4, 0.6)), columns=HOSTILE[:1])
    labels, guesses = np.random.default_rng(0).integers(0, 6, (2, 60))
    counts = confusion_counts(labels, guesses, 6)
    many = [f"{name}{place}" for place in range(8) for name in HOSTILE]
    right = labels == guesses
    on_map = gallery(plane([[[0.0, 1.0], [2.0, 1.0]]], [0, 5]), HOSTILE)
    points = (Point(0, 0.5, 0.4, 0.6), Point(1, -3.0, -4.0, -2.0))
    run = [{"step": step, "losses": {"loss": 1.0, "level_0": 0.5}, "knn": [0.5], "lr": 1e-4} for step in (1, 2)]
    return [
        *level_pictures(made),
        *cost_pictures(made, "gflop"),
        *cost_pictures(made, "milliseconds"),
        confusion_picture(counts, HOSTILE, title=HOSTILE[0], prefix="confusion-"),
        confusion_picture(np.eye(len(many), dtype=np.int64), many, title="many", prefix="many-"),
        class_difference_picture(
            per_class_differences(labels, right, ~right, HOSTILE),
            title=HOSTILE[1],
            prefix="classes-",
            levels=HOSTILE[:2],
        ),
        map_picture(on_map, 0, prefix="map-"),
        *training_pictures(run),
        what_where_picture([Curve(name, points) for name in HOSTILE[:4]], title=HOSTILE[0], prefix="curves-"),
        *mask_pictures(masks(), {("train", 7): png((1, 2, 3)), ("train", 3): png((4, 5, 6))}),
    ]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return _pictures()


def test_pictures__are_well_formed_with_one_title_and_words(pictures: list[Picture]) -> None:
    assert len(pictures) == 13
    for picture in pictures:
        root = ElementTree.fromstring(picture.svg)
        assert [each.text for each in root.iter(f"{SVG}title")] == [picture.title]
        assert [each.text for each in root.iter(f"{SVG}desc")] == [picture.text]
        assert picture.text.strip()
        picture.svg.encode()


def test_pictures__ids_differ_and_every_reference_is_found(pictures: list[Picture]) -> None:
    ids = [each for picture in pictures for each in re.findall(r'\bid="([^"]+)"', picture.svg)]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        own = set(re.findall(r'\bid="([^"]+)"', picture.svg))
        wanted = {one or other for one, other in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture.svg)}
        assert wanted <= own


def test_pictures__run_nothing_and_fetch_nothing(pictures: list[Picture]) -> None:
    for picture in pictures:
        for element in ElementTree.fromstring(picture.svg).iter():
            assert element.tag.removeprefix(SVG) not in ("script", "style", "foreignObject", "a")
            assert not [name for name in element.attrib if name.lower().startswith("on")]
            for name in ("href", "src"):
                assert element.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert "http" not in picture.svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "<script" not in picture.svg


def test_pictures__every_colour_is_of_the_stylesheet_or_none(pictures: list[Picture]) -> None:
    seen = set()
    for picture in pictures:
        for element in ElementTree.fromstring(picture.svg).iter():
            assert not {"fill", "stroke", "color"} & element.attrib.keys()
            for _, value in COLOUR.findall(element.get("style", "")):
                assert value == "none" or re.fullmatch(r"var\(--[a-z0-9-]+,#[0-9a-f]{6}\)", value), value
                seen.add(value)
    names = {value[6 : value.index(",")] for value in seen - {"none"}}
    assert {"ink", "grid", "heat", "series-1"} <= names <= set(PALETTE["dark"])


def test_pictures__a_phone_shows_one_per_row_with_legible_text(pictures: list[Picture]) -> None:
    for picture in pictures:
        root = ElementTree.fromstring(picture.svg)
        width = float(root.get("viewBox", "").split()[2])
        assert width <= 340
        sizes = [float(size) for size in re.findall(r"font(?:-size)?:\s*(\d+(?:\.\d+)?)px", picture.svg)]
        assert sizes
        assert min(sizes) >= 11


def test_pictures__names_are_shown_as_they_are(pictures: list[Picture]) -> None:
    confusion = next(picture for picture in pictures if 'id="confusion-title"' in picture.svg)
    written = [each.text for each in ElementTree.fromstring(confusion.svg).iter(f"{SVG}text")]
    assert {"$x_2$ \\frac", 'a" onload="x', "]]> --> &", "日本\\udcff\\x00", "<scrip…ript>"} <= set(written)


def test_pictures__are_the_same_every_time(pictures: list[Picture]) -> None:
    assert _pictures() == pictures
