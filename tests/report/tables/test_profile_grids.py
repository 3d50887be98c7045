"""The grids of a profile, their stars and strengths, and the curves of what against where."""

from __future__ import annotations

import pytest
from made_profiles import FACTORS, profile_of
from made_records import record_of

from hjepa_eval.report.tables import curves as curves_module
from hjepa_eval.report.tables.changes import change_grid, severity_grid
from hjepa_eval.report.tables.curves import curves, sentences
from hjepa_eval.report.tables.grid import Grid
from hjepa_eval.report.tables.measures import geometry_grid, neighbour_grid
from hjepa_eval.report.tables.profile import factor_grid, grids, joining_grid, map_grid, pair_grid
from hjepa_eval.results.profiles import Profile


def line(grid: Grid | None, name: str) -> list[str]:
    assert grid is not None
    (cells,) = [each.cells for each in grid.lines if each.name == name]
    return ["" if cell is None else cell.text + cell.mark for cell in cells]


def with_test(profile: Profile, first: int, second: int, difference: float, p: float) -> Profile:
    """Return the profile with one paired test of the factor class."""
    change = {"first": first, "second": second, "difference": difference, "p_value": p, "p_holm": p}
    ends = {"low": difference - 0.1, "high": difference + 0.1}
    test = profile.factor_tests[0].model_copy(update={**change, **ends})
    return profile.model_copy(update={"factor_tests": (test,)})


def with_values(profile: Profile, factor: str, values: tuple[float, ...], spread: float = 0.02) -> Profile:
    """Return the profile with other values of a factor at its single levels."""
    levels = [
        level.model_copy(
            update={
                "factors": tuple(
                    score.model_copy(update={"value": value, "low": value - spread, "high": value + spread})
                    if score.factor == factor
                    else score
                    for score in level.factors
                )
            }
        )
        for level, value in zip(profile.levels, values, strict=False)
    ]
    return profile.model_copy(update={"levels": (*levels, *profile.levels[len(values) :])})


def test_factors__shares_are_in_percent_and_r2_in_its_own_unit() -> None:
    grid = factor_grid(profile_of())
    assert grid is not None
    assert (grid.columns, grid.levels) == (("level 0", "level 1", "level 2", "joined"), ("0", "1", "2", "joined"))
    assert line(grid, "class") == ["40.0", "60.0", "80.0*", "80.0"]
    assert line(grid, "contrast") == ["0.95*", "0.90", "-0.10", "-0.10"]
    assert [each.name for each in grid.lines] == list(FACTORS)
    assert line(factor_grid(with_values(profile_of(), "x", (-0.001, 0.0, 0.1))), "x")[0] == "0.00"
    assert grid.notes == ("photographer is left out: it is the same for all images",)


@pytest.mark.parametrize(
    ("first", "second", "difference", "p", "mark"),
    [
        (2, 1, 0.2, 0.01, "**"),
        (1, 2, -0.2, 0.01, "**"),
        (2, 1, 0.2, 0.06, "*"),
        (2, 0, 0.4, 0.001, "*"),  # Not the runner-up.
        (2, 1, -0.2, 0.01, "*"),  # Told apart the other way round.
    ],
)
def test_stars__tell_the_highest_level_from_the_runner_up(
    first: int, second: int, difference: float, p: float, mark: str
) -> None:
    grid = factor_grid(with_test(profile_of(), first, second, difference, p))
    assert line(grid, "class")[2] == f"80.0{mark}"


def test_stars__go_to_all_levels_that_share_the_highest_value() -> None:
    profile = with_test(with_values(profile_of(), "class", (0.8, 0.6, 0.8)), 0, 1, 0.2, 0.01)
    assert line(factor_grid(profile), "class") == ["80.0*", "60.0", "80.0*", "80.0"]


def test_factors__strength_is_the_way_from_chance_and_words_say_selectivity() -> None:
    grid = factor_grid(profile_of())
    assert grid is not None
    by_name = {each.name: each.cells for each in grid.lines}
    assert [cell.strength for cell in by_name["class"] if cell][:3] == pytest.approx([1 / 3, 5 / 9, 7 / 9])
    low = by_name["contrast"][2]
    assert low is not None
    assert low.strength == 0.0, "worse than nothing is no stronger than nothing"
    first = by_name["class"][0]
    assert first is not None
    assert "accuracy 40.0, 95 % interval 38.0 to 42.0, chance 10.0; shuffled 10.0, selectivity +30.0" in first.about


def test_map__has_neighbours_above_the_diagonal_and_cka_below() -> None:
    grid = map_grid(profile_of())
    assert line(grid, "level 0") == ["\N{EN DASH}", "0.40", "0.40"]
    assert line(grid, "level 2") == ["0.70", "0.70", "\N{EN DASH}"]
    assert grid is not None
    cell = grid.lines[0].cells[1]
    assert cell is not None
    assert cell.below == "p 0.015"
    assert "permuted 0.010, calibrated 0.400; within classes 0.300" in cell.about


def test_pairs__name_the_other_model() -> None:
    grid = pair_grid(profile_of())
    assert grid is not None
    assert [each.name for each in grid.lines][-1] == "level 0 and level 0 of pixels:8"
    assert line(joining_grid(profile_of()), "level 1") == ["50.0", "70.0", "75.0", "+5.0**", "+1.0 to +9.0", "0.03"]


def test_measures__say_what_biases_them_once_for_levels_alike() -> None:
    grid = geometry_grid(profile_of())
    assert line(grid, "RankMe") == ["100", "70", "40"]
    assert line(grid, "alpha-ReQ") == ["\N{EN DASH}"] * 3
    assert grid is not None
    assert grid.notes[0] == "RankMe, level 0, 1, 2: 500 images for 192 dimensions"
    near = neighbour_grid(profile_of())
    assert near is not None
    assert [(each.name, each.cells[0] and each.cells[0].below) for each in near.lines] == [
        ("recall k=1", "0.75 to 0.85"),
        ("clustering accuracy", "0.4 to 0.6"),
    ]


def test_changes__mean_over_severities_and_star_where_another_level_is_better() -> None:
    grid = change_grid(profile_of())
    assert line(grid, "gaussian-noise") == ["50.0**", "50.0", "50.0"]
    assert grid is not None
    noise = grid.lines[0]
    assert (noise.reads, [cell.below for cell in noise.cells if cell]) == ("2 severities", ["0.0", "-10.0", "-20.0"])
    assert [cell.strength for cell in noise.cells if cell] == pytest.approx([0.0, 0.1 / 0.6, 0.2 / 0.7])
    assert line(grid, "mean corruption error") == ["90.0"] * 3
    assert "is the wrong one for 1 of 3 changes" in grid.notes[0]
    whole = severity_grid(profile_of())
    assert whole is not None
    assert len(whole.lines) == 6


def test_grids__of_parts_that_were_not_measured_are_not_there() -> None:
    profile = profile_of(changes=False)
    assert not [grid for grid in grids(profile) if grid.corner == "change"]
    bare = profile.model_copy(update={"level_map": (), "joining": (), "factor_tests": ()})
    levels = tuple(level.model_copy(update={"factors": (), "geometry": ()}) for level in bare.levels)
    assert [grid.title for grid in grids(bare.model_copy(update={"levels": levels}))] == [
        "Neighbours as products use them"
    ]


def test_curves__are_the_way_from_chance_and_leave_joined_levels_out() -> None:
    what, where = curves(profile_of())
    assert (what.factor, where.factor) == ("class", "x")
    assert [point.share for point in what.points] == pytest.approx([1 / 3, 5 / 9, 7 / 9])
    assert what.points[0].low == pytest.approx((0.38 - 0.1) / 0.9)
    assert len(where.points) == 3


def test_sentence__curves_cross_where_intervals_are_apart_on_both_sides() -> None:
    assert sentences(profile_of()) == [
        "The curves of class and x cross: level 2 tells class better (77.8 against 20.0 percent of the way from "
        "chance), level 0 x (80.0 against 33.3), with intervals apart at both."
    ]


def test_sentence__curves_that_cross_within_their_intervals_may_do_so_by_chance() -> None:
    profile = with_values(profile_of(), "x", (0.34, 0.5, 0.2))
    assert "but within their intervals" in sentences(profile)[0]


def test_sentence__curves_that_do_not_cross_name_the_one_above() -> None:
    profile = with_values(profile_of(), "x", (0.1, 0.2, 0.2))
    assert sentences(profile) == ["The curves of class and x do not cross: class is told no worse at every level."]


def test_curves__fall_back_to_edges_and_need_two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "WHERE", ())
    assert curves(profile_of()) == []
    monkeypatch.setattr(curves_module, "EDGES", ("contrast",))
    assert [curve.factor for curve in curves(profile_of())] == ["class", "contrast"]
    profile = profile_of()
    assert curves(profile.model_copy(update={"levels": profile.levels[:1]})) == []


def test_curves__miou_of_a_dense_record_stands_beside_the_class() -> None:
    profile = profile_of()
    record = record_of("linear", model="runs/demo", values=(0.6, 0.5, 0.3))
    levels = tuple(
        level.model_copy(update={"scores": (level.scores[0].model_copy(update={"metric": "miou"}),)})
        for level in record.levels
    )
    told = record.model_copy(update={"probe": "dense", "dataset": profile.dataset, "levels": levels})
    names = [curve.factor for curve in curves(profile, [told])]
    assert names == ["class", told.headed.of("", {}), "x"]
    assert [point.share for point in curves(profile, [told])[1].points] == [0.6, 0.5, 0.3]
    elsewhere = told.model_copy(update={"dataset": record.dataset})
    assert [curve.factor for curve in curves(profile, [elsewhere])] == ["class", "x"]
