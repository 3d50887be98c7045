from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from folders import SUPPORT
from made_records import compared, record_of

from hjepa_eval.errors import ResultError
from hjepa_eval.report.figures.levels import draw_levels, write_plot
from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.report.tables.selection import select_records
from hjepa_eval.report.tables.statements import explanations, statements
from hjepa_eval.report.tables.table import build_table
from hjepa_eval.results.files import find_records, read_record, write_record
from hjepa_eval.results.records import LevelChoice, LevelComparison


def test_record__survives_writing_and_reading(tmp_path: Path) -> None:
    record = record_of()
    path = write_record(record, tmp_path)
    assert path.name == f"runs-demo__digits__knn__{record.key[:8]}.json"
    assert read_record(path) == record
    assert record.extraction.from_cache
    versions = record.provenance.versions
    assert all(versions[package] for package in ("hjepa", "python", "torch", "numpy"))
    assert "faiss-gpu" in versions or "faiss-cpu" in versions
    assert record.provenance.seconds == {"knn": 1.235}


def test_read_record__refuses_what_it_cannot_understand(tmp_path: Path) -> None:
    path = write_record(record_of(), tmp_path)
    content = json.loads(path.read_text())
    for change, part in (
        ({"schema_version": 99}, "update hjepa"),
        ({"schema_version": None}, "not a result record"),
        ({"levles": []}, "did you mean 'levels'"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ResultError, match=part):
            read_record(path)
    path.write_text("{")
    with pytest.raises(ResultError, match="cannot read"):
        read_record(path)


def test_write_record__unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="--out"):
        write_record(record_of(), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_find_records__empty_folder_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="hjepa eval writes some"):
        find_records([tmp_path])


def test_table__levels_down_probes_across_best_of_each_model_marked() -> None:
    records = [
        record_of("linear"),
        record_of("knn", values=(0.9, 0.2)),
        record_of("knn", model="pixels", values=(0.8,)),
    ]
    table = build_table(select_records(records))
    assert table.columns == ("kNN k=20", "linear")
    assert [(row.model, row.level) for row in table.rows] == [("runs/demo", 0), ("runs/demo", 1), ("pixels", 0)]
    best = [[cell.standing.best if cell else None for cell in row.cells] for row in table.rows]
    assert best == [[True, False], [False, True], [False, None]]


def test_record__files_of_other_seeds_levels_readouts_and_images_do_not_overwrite_each_other(tmp_path: Path) -> None:
    record = record_of()
    provenance, data, extraction = record.provenance, record.dataset, record.extraction
    others = [
        record.model_copy(update={"provenance": provenance.model_copy(update={"seed": 1})}),
        record.model_copy(update={"levels": record.levels[:1]}),
        record.model_copy(update={"parameters": {"k": [5]}}),
        record.model_copy(update={"extraction": extraction.model_copy(update={"readout": "max"})}),
        record.model_copy(update={"dataset": data.model_copy(update={"train_images": 100})}),
    ]
    assert len({write_record(item, tmp_path) for item in (record, *others)}) == 6
    again = record.model_copy(update={"extraction": extraction.model_copy(update={"forward_images": 7})})
    assert write_record(again, tmp_path).name == record.file_name


def test_table__variants_of_one_encoder_are_told_apart() -> None:
    record = record_of()
    other = record.model_copy(update={"extraction": record.extraction.model_copy(update={"readout": "max"})})
    seeded = other.model_copy(update={"provenance": record.provenance.model_copy(update={"seed": 3})})
    models = list(dict.fromkeys(row.model for row in build_table(select_records([record, other, seeded])).rows))
    assert models == ["runs/demo (mean, seed 0)", "runs/demo (max, seed 0)", "runs/demo (max, seed 3)"]


def test_report__one_table_per_dataset_and_one_json_document() -> None:
    records = [record_of(), record_of(dataset="cifar10")]
    assert FORMATS["table"](records).count("test images") == 2
    assert len(json.loads(FORMATS["json"](records))["tables"]) == 2
    assert FORMATS["csv"](records).count("model,weights") == 1


def test_report__names_are_never_interpreted() -> None:
    record = record_of(dataset="two: :smile: $\\foo$ [bold]", model="[red]x$\\bad$")
    text = FORMATS["table"]([record])
    assert ":smile: $\\foo$ [bold]" in text
    assert "[red]x$" in text
    draw_levels(select_records([record])).savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"dataset": "cifar10"}, "cannot mix datasets: digits .*, cifar10 .*; name one with --dataset"),
        ({"version": 2}, "mix versions of the protocol dino-knn: version 1 of runs/demo, version 2 of runs/demo; run"),
    ],
)
def test_table__refuses_records_that_do_not_belong_together(other: dict, part: str) -> None:
    with pytest.raises(ResultError, match=part):
        build_table(select_records([record_of(), record_of(**other)]))


def test_table__protocols_and_parameters_of_a_probe_have_columns_of_their_own() -> None:
    records = [
        record_of(parameters={"temperature": 0.07}),
        record_of(parameters={"temperature": 0.1}),
        record_of("linear"),
        record_of("linear", protocol="ridge"),
    ]
    assert build_table(select_records(records)).columns == (
        "kNN k=20 (temperature 0.07)",
        "kNN k=20 (temperature 0.1)",
        "linear",
        "linear ridge",
    )


def test_table__a_note_on_every_level_is_said_once() -> None:
    assert build_table(select_records([record_of(note="clipped")])).notes[0] == "runs/demo, knn: clipped"
    part = record_of()
    levels = (part.levels[0], part.levels[1].model_copy(update={"notes": ("odd",)}))
    assert (
        build_table(select_records([part.model_copy(update={"levels": levels})])).notes[0]
        == "runs/demo level 1, knn: odd"
    )


def test_terminal__what_does_not_fit_goes_into_a_table_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    records = [record_of(protocol=f"protocol-{place}", values=(0.123, 0.456)) for place in range(9)]
    text = FORMATS["table"](records)
    assert text.count("12.3") == text.count("45.6") == 9
    assert all(len(line) <= 80 for line in text.splitlines() if "12.3" in line)
    assert all(f"protocol-{place}" in text.replace("\n", " ") for place in range(9))


def test_read_record__records_of_schema_1_stay_readable() -> None:
    record = read_record(SUPPORT / "records" / "schema_1_knn.json")
    assert (record.schema_version, record.comparisons, record.choices, record.seeds) == (1, (), (), ())
    assert build_table(select_records([record])).rows[0].cells[0].score.value == 0.238
    new = record_of(values=(0.5,), parameters={**record.parameters, "index": "flat"})
    same_data = new.model_copy(update={"dataset": record.dataset})
    assert build_table(select_records([record, same_data])).columns == ("kNN k=20",), (
        "what the old one does not name differs in nothing"
    )


def test_statements__name_the_choice_the_oracle_and_the_gain_of_joined_levels() -> None:
    record = record_of("linear", values=(0.5, 0.75, 0.8))
    joined = record.levels[2].model_copy(update={"fused": (0, 1), "name": "levels 0+1 joined"})
    pairs = [(1, 0, 0.25), (2, 0, 0.3), (2, 1, 0.05)]
    comparisons = tuple(
        LevelComparison(
            score="top1",
            first=first,
            second=second,
            difference=gain,
            low=gain - 0.02,
            high=gain + 0.02,
            interval="bootstrap 95%",
            test="McNemar exact",
            p_value=1e-9,
            p_holm=0.034,
        )
        for first, second, gain in pairs
    )
    choice = LevelChoice(
        score="top1", rule="a tenth", held_out={0: 0.6, 1: 0.5}, level=0, value=0.5, oracle=1, oracle_value=0.75
    )
    record = record.model_copy(
        update={"levels": (*record.levels[:2], joined), "comparisons": comparisons, "choices": (choice,)}
    )
    assert statements(select_records([record])) == [
        "linear: level 0 is chosen on train and reaches 50.0, the best on test is level 1 with 75.0; "
        "level 1 - level 0 +25.0 [+23.0 to +27.0], p < 0.0001, Holm = 0.034; "
        "levels joined - level 0 +30.0 [+28.0 to +32.0], p < 0.0001, Holm = 0.034"
    ]
    assert explanations(select_records([record]))[1] == "Chosen on train means, for logreg: a tenth."
    table = build_table(select_records([record]))
    assert [row.label for row in table.rows] == ["0", "1", "+"]
    assert [row.cells[0].standing.best for row in table.rows] == [False, True, False], "joined levels are no level"
    text = FORMATS["md"]([record])
    assert text.count("McNemar exact") == 1 + len(comparisons)
    assert "level 1 - level 0 | +25.0 | +23.0 to +27.0" in text
    draw_levels(select_records([record]))


def test_statements__come_by_model_and_in_the_order_of_the_columns() -> None:
    linear = (compared(record_of("linear", model=name), (1, 0, 0.25, 0.01), score="top1") for name in ("a", "b"))
    knn = (compared(record_of("knn", model=name), (1, 0, 0.25, 0.01)) for name in ("a", "b"))
    said = statements(select_records([*linear, *knn]))
    assert [text.partition(":")[0] for text in said] == ["a, kNN k=20", "a, linear", "b, kNN k=20", "b, linear"]


def test_markdown__escapes_names_and_shows_intervals() -> None:
    text = FORMATS["md"]([record_of(model="<script>|x", note="a * note")])
    assert "| &lt;script>\\|x | 1 | block 2 | **75.0\\*** [65.0-80.0] | 8 | 4 | 58 kB |" in text
    assert "a \\* note" in text


def test_csv__is_tidy_one_row_per_number() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"]([record_of()]))))
    assert len(rows) == 4
    assert rows[0]["parameters"] == "k=20"
    assert float(rows[0]["low"]) == pytest.approx(0.4)


def test_json__holds_table_and_scores() -> None:
    content = json.loads(FORMATS["json"]([record_of()]))
    assert content["tables"][0]["rows"][1]["cells"]["kNN k=20"]["value"] == 0.75
    assert content["tables"][0]["rows"][1]["cells"]["kNN k=20"]["best"] is True


def test_terminal__shows_every_number_of_the_table() -> None:
    text = FORMATS["table"]([record_of(note="k was clipped")])
    for part in ("digits: 1,442 train and 355 test images", "50.0", "75.0*", "65.0-80.0", "k was clipped"):
        assert part in text


def test_plot__names_models_in_the_tables_order_each_line_once() -> None:
    # matplotlib puts the line across of `one` before the curve of `runs/demo`; only the second panel has `late`.
    records = [
        record_of(),
        record_of("linear"),
        record_of(model="one", values=(0.5,)),
        record_of("linear", model="late"),
    ]
    (legend,) = draw_levels(select_records(records)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["runs/demo", "one", "late"]


def test_plot__legend_has_names_that_matplotlib_keeps_for_itself() -> None:
    records = [record_of(model="_hidden"), record_of(model="_nolegend_", values=(0.5,))]
    (legend,) = draw_levels(select_records(records)).legends
    assert [text.get_text() for text in legend.get_texts()] == ["_hidden", "_nolegend_"]
    assert [line.get_linestyle() for line in legend.get_lines()] == ["-", "--"]


def test_plot__draws_the_numbers_of_the_table(tmp_path: Path) -> None:
    figure = draw_levels(select_records([record_of(), record_of(model="pixels", values=(0.8,))]))
    (panel,) = figure.axes
    curve = panel.containers[0].lines[0]
    assert list(curve.get_ydata()) == [50.0, 75.0]
    assert [round(x) for x in curve.get_xdata()] == [0, 1]
    dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [80.0]
    content = write_plot(select_records([record_of()]), tmp_path / "levels.png").read_bytes()
    assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize("format_name", list(FORMATS))
def test_report__names_from_data_move_no_cursor_and_turn_no_line(format_name: str) -> None:
    names = {"model": "\x1b]0;pwn\x07\x1b[2Jx", "dataset": "a\u202eb", "note": "\x9b2J\u2066"}
    shown = FORMATS[format_name]([record_of(**names)])
    assert all(character.isprintable() or character == "\n" for character in shown)
