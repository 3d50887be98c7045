"""Does it predict accuracy: which profiles are compared, in which direction, and what is said where too few are."""

from __future__ import annotations

import json
import re

import pytest
from made_profiles import profile_of

from hjepa_eval.report.formats.profiles import PROFILE_FORMATS
from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.tables.grid import Grid
from hjepa_eval.report.tables.prediction import prediction_grids
from hjepa_eval.results.profiles import Measure, Profile


def measured(name: str, *, seed: int = 0, rank: float = 100.0, accuracy: float = 0.5) -> Profile:
    """Return a profile whose RankMe falls, and whose accuracies rise, with the level."""
    profile = profile_of(name)
    levels = []
    for level in profile.levels:
        found = Measure(name="kNN k=20", value=accuracy + level.level / 10, num_samples=100)
        rankme = Measure(name="RankMe", value=rank - 10 * level.level, num_samples=100)
        levels.append(
            level if level.fused else level.model_copy(update={"neighbours": (found,), "geometry": (rankme,)})
        )
    provenance = profile.provenance.model_copy(update={"seed": seed})
    return profile.model_copy(update={"levels": tuple(levels), "provenance": provenance})


def texts(grid: Grid, name: str) -> dict[str, str]:
    (cells,) = [line.cells for line in grid.lines if line.name == name]
    return {column: "" if cell is None else cell.text for column, cell in zip(grid.columns, cells, strict=True)}


def test_prediction__across_levels_of_one_model_with_reasons_for_the_rest() -> None:
    (grid,) = prediction_grids([measured("runs/demo")])
    said = texts(grid, "RankMe")
    assert (said["kNN, levels"], said["linear, levels"]) == ("-1.00", "-1.00")
    assert {said[f"kNN, {across}"] for across in ("checkpoints", "seeds", "models")} == {"\N{EN DASH}"}
    assert any(note.startswith("across seeds: needs 3 seeds of one model") for note in grid.notes)
    cell = grid.lines[0].cells[0]
    assert cell is not None
    assert "choosing by it loses +20.0 points" in cell.about


def test_prediction__tells_checkpoints_seeds_and_models_apart() -> None:
    profiles = [
        measured("runs/a", rank=90, accuracy=0.6),
        *(measured(f"runs/a/checkpoints/step-{n}00", rank=60 + 10 * n, accuracy=0.3 + 0.1 * n) for n in (1, 2)),
        *(measured("random:vit", seed=seed, rank=50 - seed, accuracy=0.2 + seed / 100) for seed in range(3)),
        measured("pixels:8", rank=10, accuracy=0.1),
    ]
    (grid,) = prediction_grids(profiles)
    said = texts(grid, "RankMe")
    assert said["kNN, checkpoints"] == "1.00"
    assert said["kNN, seeds"] == "-1.00"
    # One of each model: the run, one seed of the untrained network, pixels.
    assert said["kNN, models"] == "1.00"
    assert any("across models: 3 items in 1 groups" in note for note in grid.notes)


def test_prediction__measures_turn_the_way_their_authors_say() -> None:
    profile = measured("runs/demo")
    levels = tuple(
        level
        if level.fused
        else level.model_copy(
            update={
                "geometry": tuple(
                    Measure(name=name, value=value, num_samples=100)
                    for name, value in (("uniformity", -1.0 - level.level), ("alpha-ReQ", 2.0 - level.level / 2))
                )
            }
        )
        for level in profile.levels
    )
    (grid,) = prediction_grids([profile.model_copy(update={"levels": levels})])
    assert texts(grid, "uniformity")["kNN, levels"] == "1.00"
    assert texts(grid, "alpha-ReQ")["kNN, levels"] == "1.00"


def test_prediction__of_two_datasets_is_two_tables_and_of_two_levels_none() -> None:
    one, other = measured("runs/demo"), measured("runs/other")
    data = other.dataset.model_copy(update={"name": "digits", "test_fingerprint": "c" * 64})
    grids = prediction_grids([one, other.model_copy(update={"dataset": data})])
    assert [grid.title for grid in grids] == [
        "Does it predict accuracy?, scenes",
        "Does it predict accuracy?, digits",
    ]
    assert prediction_grids([one.model_copy(update={"levels": one.levels[:2]})]) == []


@pytest.mark.parametrize("format_name", ["table", "md", "latex", "json"])
def test_prediction__stands_in_every_format(format_name: str) -> None:
    text = PROFILE_FORMATS[format_name]([measured("runs/demo")])
    if format_name == "json":
        rows = json.loads(text)["prediction"]
        assert {(row["across"], row["tau"]) for row in rows if row["accuracy"] == "kNN"} >= {
            ("levels", -1.0),
            ("seeds", None),
        }
    else:
        assert "Does it predict accuracy?" in text


def test_prediction__stands_on_the_page_and_a_page_of_baselines_has_their_names() -> None:
    page = build_page([], [], profiles=[measured("kmeans").model_copy(update={"baseline": True})])
    assert "Does it predict accuracy?" in page
    assert re.search(r"<title>[^<]*kmeans", page)
