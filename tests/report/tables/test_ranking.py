"""Models in one ranking, and models compared: each at its chosen level, tested against the best."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from made_page import KEY, located_of
from made_records import HOSTILE, record_of
from scipy.stats import binomtest
from typer.testing import CliRunner

from hjepa_eval.cli import app
from hjepa_eval.errors import ResultError, UnknownNameError
from hjepa_eval.metrics.paired import holm
from hjepa_eval.report.formats.ranks import ONE_MODEL, RANK_FORMATS
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.ranking import rankings
from hjepa_eval.report.tables.selection import models_to_compare, select
from hjepa_eval.results.files import write_record


@pytest.fixture
def located(tmp_path: Path) -> list[Located]:
    names = {"runs/a": (10, 30), "runs/b": (12, 22), "runs/c": (36, 28), "pixels:8": (33,)}
    return [located_of(tmp_path, name, right=right) for name, right in names.items()]


def test_rankings__are_of_chosen_levels_the_highest_first_each_tested_against_it(located: list[Located]) -> None:
    (ranking,) = rankings(select(located))
    assert ranking.title == "kNN k=20"
    # Chosen on train is the last level, also where another is the best on test: of runs/c 28, not 36.
    assert [(row.model, row.level, round(40 * row.score.value)) for row in ranking.rows] == [
        ("pixels:8", 0, 33),
        ("runs/a", 1, 30),
        ("runs/c", 1, 28),
        ("runs/b", 1, 22),
    ]
    best, *others = ranking.rows
    assert best.behind is None
    assert [round(40 * row.behind.difference) for row in others] == [-3, -5, -11]
    # The first images are right: those of one model are a part of those of another.
    p_values = [binomtest(0, count).pvalue for count in (3, 5, 11)]
    assert [row.behind.test.p_value for row in others] == pytest.approx(p_values)
    assert [row.behind.test.p_holm for row in others] == pytest.approx(holm(p_values))
    assert [row.told for row in others] == [False, False, True]
    assert [row.baseline for row in ranking.rows] == [True, False, False, False]


def test_rankings__a_model_without_outcomes_has_its_place_and_no_test(located: list[Located], tmp_path: Path) -> None:
    bare = Located(record_of(model="bare", values=(0.2, 0.5)), tmp_path)
    (ranking,) = rankings(select([*located, bare]))
    assert (ranking.rows[-1].model, ranking.rows[-1].how, ranking.rows[-1].behind) == ("bare", "the last", None)
    assert "--predictions" in ranking.notes[0]


def test_rankings__one_model_is_no_ranking(located: list[Located]) -> None:
    assert rankings(select(located[:1])) == []
    assert ONE_MODEL in RANK_FORMATS["table"](located[:1])


@pytest.mark.parametrize("format_name", list(RANK_FORMATS))
@pytest.mark.parametrize("columns", [80, 200])
def test_rank_formats__have_a_row_per_model(
    located: list[Located], format_name: str, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = RANK_FORMATS[format_name]([*located, located_of(tmp_path, HOSTILE, right=(4, 5))])
    order = [text.index(name) for name in ("pixels:8", "runs/a", "runs/c", "runs/b")]
    assert order == sorted(order)
    assert "<script>" not in text or format_name in ("table", "csv", "json")
    if format_name == "table":
        below = text[text.index("digits: ") :].splitlines()
        assert max(map(len, below)) <= columns


def test_rank_formats__are_the_same_numbers(located: list[Located]) -> None:
    rows = list(csv.DictReader(io.StringIO(RANK_FORMATS["csv"](located))))
    values = json.loads(RANK_FORMATS["json"](located))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in values] == [0.825, 0.75, 0.7, 0.55]
    assert [row["place"] for row in values] == [1, 2, 3, 4]
    assert values[0]["behind"] is None
    assert values[1]["behind_p_holm"] == pytest.approx(float(rows[1]["behind_p_holm"]))


def test_models_to_compare__baselines_are_aside_unless_named(located: list[Located]) -> None:
    def names(**options: object) -> list[str]:
        return [side[0].record.model.name for side in models_to_compare([located], **options)]

    assert names() == ["runs/a", "runs/b", "runs/c"]
    assert names(models=("runs/a", "pixels:8")) == ["runs/a", "pixels:8"]
    with pytest.raises(UnknownNameError, match="runs/d"):
        names(models=("runs/d",))
    with pytest.raises(ResultError, match="it takes two to compare"):
        names(models=("runs/a",))
    assert [len(side) for side in models_to_compare([located[:1], located[3:]])] == [1, 1]
    assert [side[0].record.key for side in models_to_compare([located[:1], located[:1]])] == [located[0].record.key] * 2


def test_models_to_compare__a_folder_named_twice_is_one(located: list[Located], tmp_path: Path) -> None:
    kept = [Located(each.record, tmp_path, tmp_path / f"{number}.json") for number, each in enumerate(located)]
    once, twice = models_to_compare([kept]), models_to_compare([kept, list(kept)])
    assert [len(side) for side in twice] == [len(side) for side in once]


def test_commands__report_ranks_and_compare_takes_what_report_takes(
    located: list[Located], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = located[0].folder
    for each in located:
        write_record(each.record, folder)
    monkeypatch.chdir(folder)
    run = CliRunner().invoke
    ranked = run(app, ["report", ".", "--rank", "--format", "csv"])
    assert [row["model"] for row in csv.DictReader(io.StringIO(ranked.stdout))][:2] == ["pixels:8", "runs/a"]
    three = run(app, ["compare", ".", "--json"])
    assert [row["model"] for row in json.loads(three.stdout)] == ["runs/a", "runs/c", "runs/b"]
    two = run(app, ["compare", ".", "--model", "runs/a", "--model", "pixels:8", "--json"])
    assert {tuple(pair["models"]) for pair in json.loads(two.stdout)} == {("runs/a", "pixels:8")}
    assert json.loads(two.stdout)[0]["score"] == KEY
    one = run(app, ["compare", ".", "--model", "runs/a"])
    assert (one.exit_code, one.stdout) == (2, "")
    assert "it takes two to compare" in one.stderr
