"""`hjepa profile`: what it prints, what it writes, and one line for what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_profiles import profile_of

from hjepa_eval.report.formats.profile_terminal import profiles_text

SCENES = "scenes?n=120?size=32"
SHORT = ("--model", "facts:32", "--dataset", SCENES, "--baselines", "none")


def test_profile__prints_the_heat_map_and_writes_the_profile(hjepa: Callable[..., Any]) -> None:
    shown = hjepa("profile", *SHORT, "--parts", "factors,map")
    assert shown.code == 0, shown.err
    assert "factor (accuracy, R2)" in shown.out
    assert "level map" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100
    (file,) = Path("results").glob("*.profile.json")
    assert f"written: {file}" in shown.err
    again = hjepa("profile", *SHORT, "--parts", "geometry", "--json", "--quiet")
    (content,) = json.loads(again.out)
    assert next(measure["name"] for measure in content["levels"][0]["geometry"]) == "RankMe"


def test_report__passes_profiles_by(hjepa: Callable[..., Any]) -> None:
    assert hjepa("profile", *SHORT, "--parts", "geometry").code == 0
    alone = hjepa("report", "results")
    assert alone.code == 0, alone.err  # A folder of profiles alone is reported as profiles.
    assert "rankme" in alone.out.lower()
    assert hjepa("knn", "--model", "facts:32", "--dataset", SCENES).code == 0
    both = hjepa("report", "results")
    assert both.code == 0
    assert "kNN" in both.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parts", "colour"), "parts"),
        (("--ood", "digit"), "unknown dataset"),
        (("--images", "3"), "images"),
        (("--superclasses", "none.json"), "none.json"),
        (("--level", "7"), "level"),
    ],
)
def test_what_cannot_be__is_one_line(hjepa: Callable[..., Any], arguments: tuple[str, str], message: str) -> None:
    shown = hjepa("profile", *SHORT, *arguments)
    assert (shown.code, shown.out) == (2, "")
    said = [line for line in shown.err.splitlines() if line.startswith("hjepa: ")]
    assert len(said) == 1
    assert message in said[0]


def test_terminal__is_readable_without_colour_in_80_columns() -> None:
    text = profiles_text([profile_of(), profile_of("pixels:8", baseline=True)])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 + len("  chance 10")
    assert any(line.startswith("colour") and "90.0" in line and "70.0" in line for line in lines)
    assert "the level you would choose on clean images (2) is the wrong one for 1 of 3 changes" in text
    assert "\x1b" not in text
    assert len(lines) <= 60


def test_terminal__names_from_data_move_no_cursor() -> None:
    profile = profile_of("evil\x1b[2J")
    assert "\x1b" not in profiles_text([profile])


def test_eval__takes_profile_among_the_probes(hjepa: Callable[..., Any]) -> None:
    shown = hjepa("eval", *SHORT, "--probes", "knn,profile", "--no-gallery", "--json", "--quiet")
    assert shown.code == 0, shown.err
    content = json.loads(shown.out)
    assert [record["probe"] for record in content["records"]] == ["knn"]
    assert [profile["model"]["name"] for profile in content["profiles"]] == ["facts:32"]
    assert len(list(Path("results").glob("*.profile.json"))) == 1
    alone = hjepa("eval", *SHORT, "--probes", "profile")
    assert (alone.code, "hjepa profile" in alone.err) == (2, True)
