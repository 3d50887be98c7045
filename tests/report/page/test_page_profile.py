"""The page's tab of profiles."""

from __future__ import annotations

from pathlib import Path

from made_page import NAME, located_of
from made_profiles import profile_of
from made_records import HOSTILE
from test_page import Reader

from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.results.profiles import Profile


def fitting(located: Located, profile: Profile) -> Profile:
    """Return the profile as one of the record's images."""
    return profile.model_copy(update={"dataset": located.record.dataset})


def test_profile__of_the_records_images_and_models_is_shown(tmp_path: Path) -> None:
    located = located_of(tmp_path)
    profiles = [fitting(located, profile_of(name, baseline=name == "kmeans")) for name in ("kmeans", "runs/demo")]
    read = Reader(build_page([located], [], profiles=profiles))
    assert read.open == []
    shown = read.of("profile")
    assert shown.index("runs/demo") < shown.index("kmeans"), "baselines come last"
    for expected in (
        "photographer is left out",
        "The curves of class and x cross",
        "calibrated",
        "wrong one for 1 of 3",
    ):
        assert expected in shown
    about = [attributes["data-about"] for _, attributes in read.tags if "data-about" in attributes]
    assert any("selectivity +30.0" in str(text) for text in about)
    blocks = [attributes for tag, attributes in read.tags if attributes.get("class") == "block"]
    assert [a.get("data-model") for a in blocks if "data-probe" not in a][:2] == ["0", None]


def test_profile__of_other_images_or_models_is_named_and_left_out(tmp_path: Path) -> None:
    located = located_of(tmp_path)
    unlike = profile_of()
    data = unlike.dataset.model_copy(update={"name": located.record.dataset.name})
    profiles = [fitting(located, profile_of("other")), unlike.model_copy(update={"dataset": data})]
    shown = Reader(build_page([located], [], profiles=profiles)).of("profile")
    assert "Profiles of other lie there too; hjepa report --profile shows them." in shown
    assert "Profiles of runs/demo are of other images of digits than the records" in shown
    assert "There is no profile of these models" in shown


def test_profile__twins_of_other_models_stay_with_them(tmp_path: Path) -> None:
    located = located_of(tmp_path)
    names = ("other", "random:other", "random:runs/demo")
    profiles = [fitting(located, profile_of(name, baseline=":" in name)) for name in names]
    shown = Reader(build_page([located], [], profiles=profiles)).of("profile")
    assert "Profiles of other, random:other lie there too" in shown
    assert "random:runs/demo" in shown


def test_profile__hostile_names_are_text(tmp_path: Path) -> None:
    profile = profile_of(HOSTILE)
    levels = tuple(
        level.model_copy(
            update={
                "name": NAME,
                "factors": tuple(
                    score.model_copy(update={"factor": f"{NAME}{score.factor}"}) for score in level.factors
                ),
            }
        )
        for level in profile.levels
    )
    page = build_page([], [], profiles=[profile.model_copy(update={"levels": levels, "notes": ('"onload="x',)})])
    read = Reader(page)
    assert read.open == []
    assert page.count("<script") == 2
    assert NAME in read.of("profile")
    assert [name for _, attributes in read.tags for name in attributes if name.startswith("on")] == []


def test_page__of_profiles_alone_has_their_part_and_no_other() -> None:
    read = Reader(build_page([], [], profiles=[profile_of()]))
    assert [attributes["id"] for tag, attributes in read.tags if tag == "section"] == ["profile"]
    assert "scenes: 400 train and 100 test images" in read.of("")
