"""Profiles as Markdown, LaTeX, CSV and JSON, and through `hjepa report`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from made_profiles import profile_of
from made_records import HOSTILE, record_of

from hjepa_eval.errors import ResultError, UnknownNameError
from hjepa_eval.report.formats.profiles import PROFILE_FORMATS
from hjepa_eval.report.written import profile_report, profiles_alone, report
from hjepa_eval.results.files import write_record
from hjepa_eval.results.profile_files import write_profile
from hjepa_eval.results.profiles import Profile


def hostile() -> Profile:
    """Return a profile whose names would break a careless format."""
    profile = profile_of(HOSTILE)
    levels = tuple(
        level.model_copy(
            update={
                "name": HOSTILE,
                "factors": tuple(
                    score.model_copy(update={"factor": f"{HOSTILE} {score.factor}"}) for score in level.factors
                ),
            }
        )
        for level in profile.levels
    )
    return profile.model_copy(update={"levels": levels, "notes": (HOSTILE,)})


def test_csv__has_a_row_per_number() -> None:
    rows = list(csv.DictReader(io.StringIO(PROFILE_FORMATS["csv"]([profile_of()]))))
    by_name = {(row["part"], row["name"], row["level"], row["kind"]): row for row in rows}
    score = by_name["factors", "class", "1", "categorical, class"]
    assert [float(score[name]) for name in ("value", "low", "high", "chance", "control")] == pytest.approx(
        [0.6, 0.58, 0.62, 0.1, 0.1]
    )
    assert float(by_name["changes", "gaussian-noise 5", "2", "knn drop"]["value"]) == pytest.approx(0.2)
    assert by_name["geometry", "alpha-ReQ", "0", ""]["value"] == ""
    assert by_name["geometry", "alpha-ReQ", "0", ""]["note"] == "too few directions to fit"
    assert {row["part"] for row in rows} == {
        *("factors", "geometry", "neighbours", "changes", "factor test", "map", "joining"),
    }


def test_markdown__has_a_table_per_grid_with_stars() -> None:
    text = PROFILE_FORMATS["md"]([profile_of()])
    assert "| class (accuracy, chance 10.0, of the class) | 40.0 (38.0 to 42.0) |" in text
    assert "**80.0\\*** (78.0 to 82.0)" in text
    assert text.count("| --- |") == 10
    assert "The curves of class and x cross" in text


def test_latex__columns_that_one_line_cannot_hold_stand_below() -> None:
    text = PROFILE_FORMATS["latex"]([profile_of()])
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 10
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 9
    assert r"\textbf{80.0}$^{*}$ {\scriptsize 78.0 to 82.0}" in text


def test_formats__names_from_data_are_shown_and_not_interpreted() -> None:
    for name in ("md", "latex"):
        text = PROFILE_FORMATS[name]([hostile()])
        assert "<script>" not in text, name
        assert "a|b" not in text, name
    rows = list(csv.DictReader(io.StringIO(PROFILE_FORMATS["csv"]([profile_of("=cmd()")]))))
    assert rows[0]["model"] == "'=cmd()"
    assert json.loads(PROFILE_FORMATS["json"]([hostile()]))["profiles"][0]["model"]["name"] == HOSTILE


def test_report__of_a_folder_of_profiles_alone_is_of_those(tmp_path: Path) -> None:
    write_profile(profile_of(), tmp_path)
    assert profiles_alone([tmp_path])
    assert report(tmp_path, format="md").startswith("## runs/demo on scenes")
    page = report(tmp_path, out=tmp_path / "page.html")
    assert "What against where" in Path(page).read_text()
    write_record(record_of(), tmp_path)
    assert not profiles_alone([tmp_path])
    assert "kNN" in report(tmp_path, format="md")
    assert report(tmp_path, format="md", profile=True).startswith("## runs/demo on scenes")


def test_profile_report__refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"no profiles in .*; hjepa profile writes some"):
        profile_report([tmp_path], "md")
    write_profile(profile_of(), tmp_path)
    with pytest.raises(UnknownNameError, match="unknown model in these profiles 'runs/dmeo'"):
        profile_report([tmp_path], "md", models=["runs/dmeo"])
    other = profile_of("b")
    write_profile(other.model_copy(update={"dataset": other.dataset.model_copy(update={"name": "x"})}), tmp_path)
    with pytest.raises(ResultError, match=r"a page cannot mix datasets: .*; name one with --dataset"):
        profile_report([tmp_path], "html")
    assert "runs/demo" in profile_report([tmp_path], "html", dataset="scenes")


def test_report_program__writes_the_page_of_profiles(hjepa, tmp_path: Path) -> None:
    write_profile(profile_of(), tmp_path)
    done = hjepa("report", str(tmp_path), "--format", "html")
    assert (done.code, done.err) == (0, f"written: {tmp_path / 'profile.html'}\n")
    done = hjepa("report", str(tmp_path), "--rank")
    assert (done.code, done.err) == (2, "hjepa: profiles have no ranking; leave out --rank\n")
