from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from hjepa_eval.report.figures.drawing import drawn, page_style
from hjepa_eval.report.figures.svg import Picture, inline_svg

SVG = "{http://www.w3.org/2000/svg}"


@page_style()
def figure_of(label: str = "label", colour: str = "") -> Any:
    figure = Figure(figsize=(340 / 72, 260 / 72), dpi=72, layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1, 2], [3, 1, 2], color=colour or drawn("series-1"), marker="o")
    panel.scatter([0, 1, 2], [1, 2, 3], c=[drawn("series-2"), drawn("series-3"), drawn("rest")], gid="points")
    panel.set_xticks([0, 1, 2], [label, "b", "c"])
    return figure


def picture_of(label: str = "label", *, prefix: str = "p-") -> Picture:
    return inline_svg(figure_of(label), title="a title", text="what it shows", prefix=prefix)


def test_inline_svg__is_one_named_element_as_wide_as_drawn_or_less() -> None:
    picture = picture_of()
    assert picture.svg.startswith("<svg ")
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg"
    assert (root.get("role"), root.get("viewBox")) == ("img", "0 0 340 260")
    assert root.get("aria-labelledby") == "p-title p-text"
    assert [(each.tag, each.get("id"), each.text) for each in root[:2]] == [
        (f"{SVG}title", "p-title", "a title"),
        (f"{SVG}desc", "p-text", "what it shows"),
    ]
    assert "width:100%;max-width:340px;height:auto" in root.get("style", "")
    assert (picture.title, picture.text) == ("a title", "what it shows")


def test_inline_svg__has_nothing_that_reaches_out_of_it() -> None:
    root = ElementTree.fromstring(picture_of().svg)
    tags = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert tags <= {"svg", "title", "desc", "g", "defs", "path", "use", "text", "clipPath", "rect"}
    assert "http" not in picture_of().svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "xlink" not in picture_of().svg
    assert not re.search(r"<\?|<!|font-family", picture_of().svg)


def test_inline_svg__ids_of_two_pictures_differ_and_all_references_are_its_own() -> None:
    found = []
    for prefix in ("one-", "two-"):
        text = picture_of(prefix=prefix).svg
        ids = re.findall(r'\bid="([^"]+)"', text)
        references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
        assert {one or other for one, other in references} <= set(ids)
        assert references
        assert all(each.startswith(prefix) for each in ids)
        found += ids
    assert len(found) == len(set(found))


def test_inline_svg__colours_are_the_stylesheets_with_a_fallback() -> None:
    text = picture_of().svg
    assert "fill:var(--series-2,#d55e00)" in text
    assert "stroke:var(--series-1,#0072b2)" in text
    assert "fill:var(--ink,#1f2328)" in text
    assert not re.findall(r"(?<![,(])#[0-9a-f]{3,6}\b(?!\))", re.sub(r'(href="|url\()#[^")]+', "", text))


def test_inline_svg__a_colour_that_is_not_of_the_palette_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="#123456 is not of the palette"):
        inline_svg(figure_of(colour="#123456"), title="", text="", prefix="p-")


@pytest.mark.parametrize("prefix", ["", "1-", "a b", 'a"', "é"])
def test_inline_svg__a_prefix_that_begins_no_id_is_our_own_bug(prefix: str) -> None:
    with pytest.raises(ValueError, match="cannot begin an id"):
        picture_of(prefix=prefix)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$x_2$", r"\alpha & $ % #", '"quoted"', "日本", "-->"])
def test_inline_svg__names_are_shown_as_they_are(name: str) -> None:
    picture = inline_svg(figure_of(name), title=name, text=name, prefix="p-")
    assert "<script" not in picture.svg
    root = ElementTree.fromstring(picture.svg)
    written = [each.text for each in root.iter(f"{SVG}text")]
    assert name in written
    assert [each.text for each in root[:2]] == [name, name]


def test_inline_svg__signs_that_no_file_can_hold_are_escapes() -> None:
    figure = figure_of()
    figure.axes[0].set_xlabel("a\x00b\udcffc")
    picture = inline_svg(figure, title="t\x1b", text="\udcff", prefix="p-")
    assert (picture.title, picture.text) == ("t\\x1b", "\\udcff")
    picture.svg.encode()
    assert "a\\x00b\\udcffc" in [each.text for each in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


def test_inline_svg__points_are_numbered_in_their_order() -> None:
    root = ElementTree.fromstring(picture_of().svg)
    (group,) = [each for each in root.iter(f"{SVG}g") if each.get("id") == "p-points"]
    points = list(group.iter(f"{SVG}use"))
    assert [point.get("data-point") for point in points] == ["0", "1", "2"]
    assert [re.search(r"fill:var\(--([a-z0-9-]+)", point.get("style", ""))[1] for point in points] == [
        "series-2",
        "series-3",
        "rest",
    ]
    assert [float(point.get("x", "")) for point in points] == sorted(float(point.get("x", "")) for point in points)


def test_inline_svg__is_the_same_every_time() -> None:
    assert picture_of().svg == picture_of().svg


def test_page_style__holds_whatever_the_users_settings_are() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "#ff0000", "text.usetex": True}):
        odd = picture_of().svg
    assert odd == picture_of().svg
