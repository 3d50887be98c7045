"""Where a score stands: marks, deltas, runner-up; and what is shown of records that overlap."""

from __future__ import annotations

import pytest
from made_records import compared, costed, made_at, record_of

from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.report.tables.legend import cost_columns, how_to_read, runner_ups
from hjepa_eval.report.tables.selection import by_data, left_out, select_records
from hjepa_eval.report.tables.standing import baselines_among
from hjepa_eval.report.tables.statements import chosen, explanations, statements
from hjepa_eval.report.tables.table import build_table
from hjepa_eval.results.records import LevelChoice

LEVELS = (0.5, 0.75, 0.7)
# Coarser minus finer, as records have them.
PAIRS = ((1, 0, 0.25, 0.001), (2, 0, 0.2, 0.002), (2, 1, -0.05, 0.04))


def column(record, place: int = 0):
    return [row.cells[place] for row in build_table(select_records([record])).rows]


@pytest.mark.parametrize(
    ("shown", "beaten"),
    [
        (["runs/a", "random:runs/a", "pixels:8"], {"random:runs/a", "pixels:8"}),
        (["pixels:8", "random:vit"], {"pixels:8"}),
        (["pixels:8", "kmeans"], set()),
        (["runs/a"], set()),
    ],
)
def test_baselines__an_untrained_encoder_among_baselines_alone_is_the_model(shown: list[str], beaten: set[str]) -> None:
    assert baselines_among(shown) == beaten
    records = select_records([record_of(model=name) for name in shown]).records
    assert [record.model.name in beaten for record in records] == sorted(name in beaten for name in shown)


def test_delta__is_the_level_minus_the_last_single_level() -> None:
    deltas = [cell.standing.delta for cell in column(record_of(values=LEVELS))]
    assert deltas == [pytest.approx(-0.2), pytest.approx(0.05), None]
    joined = record_of(values=(*LEVELS, 0.9))
    levels = (*joined.levels[:3], joined.levels[3].model_copy(update={"fused": (0, 1, 2)}))
    cells = column(joined.model_copy(update={"levels": levels}))
    assert [cell.standing.delta for cell in cells] == [pytest.approx(-0.2), pytest.approx(0.05), None, None]
    assert [cell.standing.best for cell in cells] == [False, True, False, False]
    assert column(record_of(values=(0.5,)))[0].standing.delta is None, "one level has nothing to differ from"


def test_runner_up__is_best_minus_second_whichever_way_the_record_has_it() -> None:
    cells = column(compared(record_of(values=LEVELS), *PAIRS))
    standing, test = cells[1].standing, cells[1].standing.test
    assert (standing.rival, test.difference, test.low, test.high) == (
        2,
        0.05,
        pytest.approx(0.02),
        pytest.approx(0.07),
    ), "the record has level 2 - level 1: -5 [-7, -2]"
    assert (test.p_holm, test.test) == (0.04, "McNemar exact")
    assert [cell.standing.test for cell in (cells[0], cells[2])] == [None, None]
    forward = column(compared(record_of(values=(0.5, 0.75)), (1, 0, 0.25, 0.2)))[1].standing
    assert (forward.rival, forward.test.difference, forward.test.low) == (0, 0.25, pytest.approx(0.23))
    assert column(record_of(values=LEVELS))[1].standing.test is None, "no test was made"


@pytest.mark.parametrize(("p", "mark"), [(0.049, "**"), (0.05, "*"), (0.5, "*")])
def test_mark__has_a_second_star_only_where_the_paired_test_tells_the_levels_apart(p: float, mark: str) -> None:
    record = compared(record_of(values=LEVELS), (2, 1, -0.05, p))
    assert [cell.mark for cell in column(record)] == ["", mark, ""]
    assert ("** one that a paired test" in how_to_read(build_table(select_records([record])))[0]) == (mark == "**")


def test_runner_up__is_said_once_in_words_with_four_levels_and_another_choice() -> None:
    pairs = [(3, 2, 0.04, 0.01), (3, 1, 0.1, 0.01), (3, 0, 0.2, 0.01), (1, 0, 0.1, 0.01)]
    record = compared(record_of(values=(0.5, 0.6, 0.66, 0.7)), *pairs)
    (said,) = statements(select_records([record]))
    assert said.count("level 3 - level 2 +4.0") == 1
    assert runner_ups(build_table(select_records([record]))) == [
        "runs/demo, the highest level against the runner-up: "
        "kNN k=20 level 3 - level 2 +4.0 [+2.0 to +7.0], Holm = 0.01."
    ]


def test_standing__levels_measured_one_by_one_share_a_column() -> None:
    whole = record_of(values=LEVELS)
    parts = [whole.model_copy(update={"levels": (level,)}) for level in whole.levels]
    cells = [row.cells[0] for row in build_table(select_records(parts)).rows]
    assert [cell.mark for cell in cells] == ["", "*", ""]
    assert cells[0].standing.delta == pytest.approx(-0.2)


def test_row__has_the_cost_and_the_bytes_of_the_store() -> None:
    record = costed(record_of(), 0.25, 1.5)
    half = record.model_copy(update={"extraction": record.extraction.model_copy(update={"storage": "float16"})})
    rows = build_table(select_records([half])).rows
    assert [row.cost.gflop for row in rows] == [0.25, 1.5]
    assert rows[0].store_bytes == 8 * 2 * (1442 + 355)
    assert build_table(select_records([record])).rows[0].store_bytes == 8 * 4 * (1442 + 355)
    bare = record_of("linear")
    assert build_table(select_records([bare])).rows[0].cost is None
    assert build_table(select_records([bare, record])).rows[0].cost.gflop == 0.25, (
        "an old record beside a new one hides no cost"
    )


def test_baselines__stand_after_the_models_and_silence_the_advice() -> None:
    names = ["timm:b", "runs/a", "random:runs/a", "pixels:4", "pixels:8", "kmeans?size=8"]
    records = [record_of(model=name) for name in names]
    # As `hjepa eval` measured them, and as their files lie.
    for given in (records, [*records[3:], *records[:3]], [*records[:2], *reversed(records[2:])]):
        table = build_table(select_records(given))
        assert list(dict.fromkeys(row.model for row in table.rows)) == names
        assert [row.baseline for row in table.rows[::2]] == [False, False, True, True, True, True]
    assert not any("baseline" in note for note in table.notes)


@pytest.mark.parametrize(
    ("model", "probe", "command"),
    [
        ("runs/a b", "knn", "hjepa eval --probes knn --model 'runs/a b' --baselines random,pixels:8 --dataset digits"),
        ("timm:vit", "linear", "hjepa eval --probes linear --model timm:vit --baselines random,pixels:8 --dataset"),
        ("hf:x/y", "knn", "hjepa eval --probes knn --model hf:x/y --baselines pixels:8"),
        ("mine.py:build", "knn", "hjepa eval --probes knn --model mine.py:build --baselines pixels:8"),
        ("timm:vit", "finetune", "hjepa finetune --model random:vit --dataset digits"),
    ],
)
def test_baselines__none_in_view_names_the_command_that_adds_them(model: str, probe: str, command: str) -> None:
    (note,) = build_table(select_records([record_of(probe, model=model, protocol="p", parameters={})])).notes
    assert command in note
    assert ("random" in note) == ("random" in command)


def test_selection__a_record_given_twice_is_shown_once() -> None:
    record = record_of()
    again = made_at(record, "2030-01-01T00:00:00+00:00")
    part = record.model_copy(update={"levels": record.levels[:1]})
    assert select_records([part, record, record, again]).records == [record]
    assert left_out([part, record, again]) == []
    assert len(build_table(select_records([record, record])).rows) == 2


def test_selection__of_two_that_disagree_the_newer_is_shown_and_the_older_named() -> None:
    old = made_at(record_of(values=(0.1, 0.2)), "2026-01-01T00:00:00+00:00")
    new = made_at(record_of(values=(0.5, 0.75)), "2026-02-01T00:00:00+00:00")
    for records in ([old, new], [new, old], [new, old, new]):
        table = build_table(select_records(records))
        assert [row.cells[0].score.value for row in table.rows] == [0.5, 0.75]
        assert (
            "runs/demo, knn: the record of 2026-02-01T00:00:00+00:00 is shown, "
            "one of 2026-01-01T00:00:00+00:00 with other numbers is left out"
        ) in table.notes


def test_selection__leaves_out_nothing_that_differs_in_how_it_was_made() -> None:
    record = record_of(parameters={"temperature": 0.1})
    extraction = record.extraction
    others = [
        record.model_copy(update={"extraction": extraction.model_copy(update={"storage": "float16"})}),
        record.model_copy(update={"parameters": {"temperature": 0.1, "leave_one_out": True}}),
        record.model_copy(update={"parameters": {"temperature": 0.5}}),
        record.model_copy(update={"model": record.model.model_copy(update={"weights": "0123456789"})}),
        record_of("linear"),
        record_of(dataset="cifar10"),
    ]
    shown = [select_records(part).records for part in by_data([record, *others])]
    assert sum(map(len, shown)) == 7


def test_episodes__of_before_are_neither_marked_nor_tested_anywhere() -> None:
    record = compared(record_of("fewshot", values=LEVELS), *PAIRS, score="top1")
    assert not record.covers_images
    selection = select_records([record])
    assert [cell.mark for cell in column(record)] == ["", "", ""]
    assert statements(selection) == []
    assert "the draw of episodes and not that of the test images" in " ".join(explanations(selection))
    for name, draw in FORMATS.items():
        text = draw([record])
        assert "0.001" not in text.replace("<0.001", ""), name
        assert "McNemar" not in text, name
    new = record.model_copy(update={"protocol_version": 2})
    assert [cell.mark for cell in column(new)] == ["", "**", ""]
    assert "over images" in explanations(select_records([new]))[0]


def test_chosen__a_tie_is_called_one() -> None:
    made = {"score": "top1 k=20", "rule": "a tenth", "held_out": {0: 0.5, 1: 0.6}, "oracle": 0, "oracle_value": 0.37}
    choice = LevelChoice(**made, level=1, value=0.37)
    assert chosen(choice) == ("level 1 is chosen on train and reaches 37.0, a tie with level 0 for the best on test")
    near = choice.model_copy(update={"value": 0.36, "ties": (0,), "oracle_ties": (1,)})
    assert chosen(near) == (
        "level 1 is chosen on train (not told from level 0 there) and reaches 36.0, "
        "the best on test is level 0 with 37.0, not told from it"
    )


def test_times__measured_under_other_conditions_do_not_stand_beside_the_others() -> None:
    model, twin, pixels = (costed(record_of(model=name), 0.25, 1.5) for name in ("runs/a", "runs/b", "pixels:8"))
    cost = pixels.levels[0].cost.model_copy(update={"batch": 1})
    other = pixels.model_copy(update={"levels": (pixels.levels[0].model_copy(update={"cost": cost}),)})
    table = build_table(select_records([other, model, twin]))
    assert cost_columns(table)["ms"] == ["0.250", "1.50", "0.250", "1.50", ""]
    assert cost_columns(table)["GFLOP"] == ["0.250", "1.50", "0.250", "1.50", "0.250"]
    assert table.timed == "cpu, bf16, batch 64"
    (said,) = (note for note in table.notes if "ms" in note)
    assert said == (
        "no ms of pixels:8: measured on cpu, bf16, batch 1, which is not to be compared with the others "
        "(cpu, bf16, batch 64)"
    )
    assert "ms on cpu, bf16, batch 64" in how_to_read(table)[1]


def test_ranks__far_below_the_untrained_encoders_is_said_first() -> None:
    def ranked(model: str, *ranks: float):
        record = record_of(model=model, values=LEVELS[: len(ranks)])
        pairs = zip(record.levels, ranks, strict=True)
        levels = tuple(level.model_copy(update={"rankme": rank}) for level, rank in pairs)
        return record.model_copy(update={"levels": levels})

    twin = ranked("random:runs/a", 30.0, 40.0)
    table = build_table(select_records([ranked("runs/a", 20.0, 4.25), twin]))
    assert table.notes[0] == (
        "warning: runs/a uses far fewer directions than before its training (RankMe: level 1 4.2, untrained 40.0): "
        "it may have collapsed"
    )
    for others in ([ranked("runs/a", 20.0, 21.0), twin], [ranked("runs/b", 1.0, 1.0), twin], [twin]):
        assert not any("directions" in note for note in build_table(select_records(others)).notes)
