"""CSV and JSON read back: one row per number, the same values as in records and tables."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made_records import HOSTILE, compared, costed, made_at, record_of

from hjepa_eval.errors import ResultError
from hjepa_eval.report.formats.named import FORMATS


def read_csv(records) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(FORMATS["csv"](records))))


def test_csv__a_row_per_number_with_equal_values() -> None:
    records = [record_of(model=HOSTILE, values=(0.1, 1 / 3)), record_of("linear", values=(2 / 3,))]
    rows = read_csv(records)
    numbers = [(record, level, score) for record in records for level in record.levels for score in level.scores]
    assert len(rows) == len(numbers) == 6
    for row, (record, level, score) in zip(rows, numbers, strict=True):
        assert (row["model"], row["probe"], row["metric"]) == (record.model.name, record.probe, score.metric)
        assert int(row["level"]) == level.level
        assert [float(row[name]) for name in ("value", "low", "high")] == [score.value, score.low, score.high]
        assert int(row["num_samples"]) == score.num_samples
        assert row["std"] == "", "None is an empty field"


def test_csv__has_costs_delta_best_and_runner_up() -> None:
    record = costed(compared(record_of(values=(0.5, 0.75, 0.7)), (2, 1, -0.05, 0.01)), 0.25, 0.5, 1.5)
    rows = [row for row in read_csv([record, record_of(model="pixels", values=(0.2,))]) if row["headline"] == "True"]
    assert [row["best"] for row in rows] == ["False", "True", "False", "False"]
    assert [row["delta"] and round(float(row["delta"]), 9) for row in rows] == [-0.2, 0.05, "", ""]
    assert [row["runner_up_level"] for row in rows] == ["", "2", "", ""]
    assert (float(rows[1]["runner_up_difference"]), rows[1]["runner_up_p_holm"], rows[1]["apart"]) == (
        0.05,
        "0.01",
        "True",
    )
    assert [row["gflop"] for row in rows] == ["0.25", "0.5", "1.5", ""]
    assert [row["milliseconds"] for row in rows] == ["0.25", "0.5", "1.5", ""]
    assert [row["encoder_parameters"] for row in rows] == ["250000", "500000", "1500000", ""]
    assert {(row["width"], row["tokens"], row["store_bytes"]) for row in rows} == {("8", "4", str(8 * 4 * 1797))}
    assert [row["baseline"] for row in rows] == ["False", "False", "False", "True"]


def test_csv__says_how_a_row_was_measured_and_of_which_levels() -> None:
    record = record_of(values=(0.5, 0.75), parameters={"k": [10, 20], "metric": "cosine"})
    single, joined = record.levels
    levels = (single, joined.model_copy(update={"fused": (0, 1)}))
    extraction = record.extraction.model_copy(update={"storage": "float16"})
    for rows in (
        read_csv([record.model_copy(update={"levels": levels, "extraction": extraction})]),
        json.loads(FORMATS["json"]([record.model_copy(update={"levels": levels, "extraction": extraction})]))["scores"],
    ):
        assert json.loads(rows[0]["protocol_parameters"]) == record.parameters
        assert (rows[0]["storage"], rows[0]["test_fingerprint"]) == ("float16", "test digits")
        assert [row["fused"] for row in rows[::2]] == ["", "0;1"]


def test_csv__records_given_twice_are_not_counted_twice() -> None:
    record = record_of()
    assert len(read_csv([record, record])) == 4
    older = made_at(record_of(values=(0.1, 0.2)), "2026-01-01T00:00:00+00:00")
    newer = made_at(record, "2026-02-01T00:00:00+00:00")
    assert [row["value"] for row in read_csv([newer, older])] == ["0.5", "0.99", "0.75", "0.99"]


def test_csv__refuses_two_versions_of_a_protocol() -> None:
    with pytest.raises(ResultError, match="dino-knn: version 1 of runs/demo, version 2 of other"):
        FORMATS["csv"]([record_of(), record_of(model="other", version=2)])


def test_json__holds_what_the_table_holds() -> None:
    record = costed(compared(record_of(values=(0.5, 0.75)), (1, 0, 0.25, 0.01)), 0.25, 0.5)
    content = json.loads(FORMATS["json"]([record, record_of(model="pixels", values=(0.2,))]))
    first, second, pixels = content["tables"][0]["rows"]
    assert first["cost"]["gflop"] == 0.25
    assert first["store_bytes"] == 8 * 4 * 1797
    assert first["cells"]["kNN k=20"]["delta"] == -0.25
    cell = second["cells"]["kNN k=20"]
    assert (cell["value"], cell["best"], cell["apart"], cell["delta"]) == (0.75, True, True, None)
    assert cell["runner_up"] == {
        "level": 0,
        "difference": 0.25,
        "low": pytest.approx(0.23),
        "high": pytest.approx(0.28),
        "p_holm": 0.01,
        "test": "McNemar exact",
    }
    assert (pixels["baseline"], pixels["cost"]) == (True, None)
    assert len(content["scores"]) == 6
