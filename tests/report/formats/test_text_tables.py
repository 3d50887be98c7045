"""Markdown as a parser with GitHub's tables reads it, and the terminal at widths that people have."""

from __future__ import annotations

import re
import textwrap

import pytest
from made_records import HOSTILE, compared, costed, pair_of, record_of
from markdown_it import MarkdownIt

from hjepa_eval.report.formats.named import FORMATS, brief_table
from hjepa_eval.report.formats.pairs import PAIR_FORMATS
from hjepa_eval.report.written import markdown_report
from hjepa_eval.results.records import LevelChoice, Record
from hjepa_eval.results.text import markdown_text

PLAIN = {"text", "text_special", "strong_open", "strong_close", "softbreak"}
BLOCKS = {"paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td"}


def parse(text: str) -> tuple[list[list[list[str]]], list[str]]:
    """Return the cells of every table and all other paragraphs as text; a name that became markup fails."""
    tables: list[list[list[str]]] = []
    others: list[str] = []
    in_table = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline":
            assert {child.type for child in token.children} <= PLAIN
            shown = "".join(child.content for child in token.children)
            (tables[-1][-1] if in_table else others).append(shown)
            continue
        assert token.type.removesuffix("_open").removesuffix("_close") in BLOCKS, token.type
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
            tables += [[]] * in_table
        elif token.type == "tr_open":
            tables[-1] = [*tables[-1], []]
    return tables, others


def hostile_records() -> list:
    record = compared(record_of(model=HOSTILE, dataset=HOSTILE, note=HOSTILE, protocol=HOSTILE), (1, 0, 0.25, 0.01))
    levels = tuple(level.model_copy(update={"name": HOSTILE}) for level in record.levels)
    return [record.model_copy(update={"levels": levels}), record_of(model="pixels", dataset=HOSTILE, values=(0.2,))]


def test_markdown__hostile_names_are_shown_as_they_are_in_whole_rows() -> None:
    (table, comparisons), others = parse(FORMATS["md"](hostile_records()))
    assert [len(row) for row in table] == [len(table[0])] * 4
    plain = " ".join(HOSTILE.split())
    assert [row[0] for row in table] == ["model", plain, plain, "pixels"]
    assert [row[2] for row in table[1:]] == [plain, plain, "block 1"]
    column = table[0].index(f"kNN k=20 {plain}")
    assert [row[column] for row in table[1:3]] == ["50.0 [40.0-55.0] (-25.0)", "75.0** [65.0-80.0]"]
    assert [len(row) for row in comparisons] == [8, 8]
    assert comparisons[1][0] == plain
    assert any(plain in line for line in others)


def test_markdown_report__hostile_names_and_commands_are_shown_as_they_are() -> None:
    command = f"hjepa eval --model {HOSTILE!r}\n```\n# no heading"
    records = hostile_records()
    made = records[0].provenance.model_copy(update={"command": command, "device": HOSTILE})
    tokens = (
        MarkdownIt("commonmark")
        .enable("table")
        .parse(markdown_report([records[0].model_copy(update={"provenance": made}), records[1]]))
    )
    assert [token.content for token in tokens if token.type == "fence"] == [f"{command}\n"]
    assert sum(token.type == "heading_open" for token in tokens) == 1
    inline = [token for token in tokens if token.type == "inline"]
    assert {child.type for token in inline for child in token.children} <= {*PLAIN, "image"}
    (picture,) = (child for token in inline for child in token.children if child.type == "image")
    assert (picture.attrs["src"], {child.type for child in picture.children} <= PLAIN) == ("levels.png", True)
    plain = " ".join(HOSTILE.split())
    assert f"highest {plain} level 1" in "".join(child.content for child in picture.children)
    shown = ["".join(child.content for child in token.children) for token in inline]
    assert any(f"fp32 on {plain}; hjepa " in line for line in shown)
    assert f"{plain}: features from the cache, no forward pass" in shown


NAMES = ["# a", "- a", "1. a", "12) a", "> a", "+ a", "---", "- - -", "a\nb", "&lt;", "&amp;copy;", "~~a~~", "[x] a"]


@pytest.mark.parametrize("name", NAMES)
def test_markdown__no_name_begins_a_list_a_heading_or_a_quotation(name: str) -> None:
    tables, others = parse(f"- {markdown_text(name)}\n")
    assert (tables, others) == ([], [" ".join(name.split())])


def test_markdown__costs_stand_right_of_the_probes_and_only_where_they_are_known() -> None:
    (table,), _ = parse(FORMATS["md"]([costed(record_of(), 0.0413, 1234.5), record_of(model="pixels", values=(0.2,))]))
    assert table[0] == ["model", "level", "reads", "kNN k=20", "width", "tokens", "GFLOP", "ms", "store"]
    assert [row[-5:] for row in table[1:]] == [
        ["8", "4", "0.0413", "0.0413", "58 kB"],
        ["8", "4", "1,234", "1,234", "58 kB"],
        ["8", "4", "", "", "58 kB"],
    ]
    (bare,), _ = parse(FORMATS["md"]([record_of()]))
    assert bare[0][-3:] == ["width", "tokens", "store"]


def test_compare_markdown__a_table_per_two_models_with_hostile_names() -> None:
    pair = pair_of((HOSTILE, "b"))
    other = pair_of(("c", "b"), "linear", why="level 0", levels=(0, 0), values=(0.5, 0.5), ends=(-0.1, 0.1), p=1.0)
    (first, second), others = parse(PAIR_FORMATS["md"]([pair, other]))
    assert first[1] == ["kNN k=20", "level 1", "75.0", "50.0", "+25.0", "+20.0 to +30.0", "0.5", "0.5"]
    assert second[1][:2] == ["linear", "level 0"]
    assert others[0].startswith(" ".join(HOSTILE.split()))


@pytest.mark.parametrize("width", [80, 100, 140])
def test_terminal__no_number_is_cut_and_no_table_is_wider(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    plain = [record_of(protocol=f"protocol-{place}", values=(0.1 + place / 100, 1.0, 0.05)) for place in range(7)]
    records = [costed(compared(record, (1, 0, 0.8, 0.01)), 0.0413, 17.6, 1234.5) for record in plain]
    text = FORMATS["table"]([*records, record_of(model="pixels", values=(0.222,), protocol="protocol-0")])
    for place in range(7):
        assert re.search(rf"{10 + place}\.0   \(\+{5 + place}\.0\)", text)
    assert text.count("100.0** (+95.0)") == text.count("90.0-105.0") == 7
    assert text.count("1,234") >= 2
    assert "17.6" in text
    above = text[text.index("digits: ") :].splitlines()
    assert max(map(len, above)) <= width
    # Every line with a number shows whole cells: values, intervals, differences, costs, names.
    cells = re.compile(r"\d+\.\d\*{0,2}|-?\d+\.\d-\d+\.\d|\([+-]\d+\.\d\)|[\d,]+(\.\d+)?|kB")
    for line in above:
        if line.startswith(" " * 10):
            assert all(cells.fullmatch(word) for word in line.split()), line


def test_terminal__costs_stand_together_beside_the_scores_or_above(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [costed(record_of(probe), 0.5, 1.0) for probe in ("knn", "linear")]
    costs = ["width", "tokens", "GFLOP", "ms", "store"]
    for width, heading in ((80, ["level", *costs]), (140, ["level", "kNN", "k=20", "linear", *costs])):
        monkeypatch.setenv("COLUMNS", str(width))
        assert heading in [line.split() for line in FORMATS["table"](records).splitlines()]


def test_terminal__a_long_title_is_wrapped_and_a_long_name_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "runs/" + "x" * 60
    text = FORMATS["table"]([record_of(model=name, protocol="a-protocol-of " + "words " * 8)])
    text = text[text.index("digits: ") :]
    assert f" {name}\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("words") == 8


def test_terminal__long_names_of_levels_leave_costs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    record = costed(record_of(), 0.0413, 12345.6)
    levels = tuple(level.model_copy(update={"name": "stage " * 12, "width": 123456}) for level in record.levels)
    text = FORMATS["table"]([record.model_copy(update={"levels": levels})])
    above = text[text.index("digits: ") :]
    for part in ("123456", "0.0413", "12,346", "887 MB", "tokens", "GFLOP", "store", "40.0-55.0"):
        assert part in above
    assert max(map(len, above.splitlines())) <= 80


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal__what_is_said_breaks_between_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    record = compared(record_of(note="several words " * 20), (1, 0, 0.25, 0.01))
    pair = pair_of()
    monkeypatch.setenv("COLUMNS", str(width))
    for draw in (lambda: FORMATS["table"]([record]), lambda: PAIR_FORMATS["table"]([pair])):
        monkeypatch.setattr("sys.stdout.isatty", lambda: False)
        whole = draw()
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        coloured = draw()
        shown = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
        assert shown.split() == whole.split()
        # Tables are never narrower than 80 columns.
        said = [
            line
            for line in shown.splitlines()
            if "  " not in line.strip() and "\N{BOX DRAWINGS LIGHT HORIZONTAL}" not in line
        ]
        assert max(map(len, said)) <= width < max(map(len, whole.splitlines()))


def test_compare_terminal__fits_80_columns_without_folding_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    chosen = {"why": "chosen levels", "p": 1e-9}
    made = {**chosen, "levels": (2, 0), "values": (0.5, 0.671), "ends": (-0.25, -0.1)}
    most = {**chosen, "levels": (12, 10), "values": (1.0, 0.0), "difference": -1.0, "ends": (-1.0, -0.9876)}
    names = ("[bold]a" + "x" * 90, "b")
    text = PAIR_FORMATS["table"]([pair_of(names, "kNN leave-one-out k=20 (temperature 0.07)", **made)])
    lines = text[: text.index("Accuracy")].splitlines()
    assert max(map(len, lines[2:])) <= 80
    assert f"first: {names[0]}" in lines
    assert " kNN leave-one-out k=20 (temperature 0.07)" in lines
    for numbers, shown in (
        (made, ["chosen (2, 0)", "50.0", "67.1", "-17.1", "-25.0 to -10.0", "< 0.0001", "< 0.0001"]),
        (most, ["chosen (12, 10)", "100.0", "0.0", "-100.0", "-100.0 to -98.8", "< 0.0001", "< 0.0001"]),
    ):
        text = PAIR_FORMATS["table"]([pair_of(names, "linear", **numbers)])
        (line,) = [line for line in text.splitlines() if "chosen" in line]
        assert re.split(r"\s{2,}", line.strip()) == shown


def long_evaluation() -> list[Record]:
    """Return records of what `hjepa eval` shows: a model of four levels and them joined, its twin and pixels."""
    probes = {"knn": "top1 k=20", "linear": "top1"}
    records = []
    for model, values in (
        ("runs/a", (0.5, 0.6, 0.7, 0.65)),
        ("random:runs/a", (0.3, 0.2, 0.35, 0.1)),
        ("pixels:8", (0.4,)),
    ):
        for protocol in ("dino-knn", "other-knn", "logreg", "ridge"):
            probe = "knn" if protocol.endswith("knn") else "linear"
            record = costed(record_of(probe, model=model, values=values, protocol=protocol, note="note " * 30), *values)
            if len(values) > 1:
                choice = LevelChoice(
                    score=probes[probe],
                    rule="a tenth",
                    held_out={1: 0.5},
                    level=1,
                    value=values[1],
                    oracle=2,
                    oracle_value=values[2],
                )
                pairs = [(1, 0, 0.1, 0.01), (2, 0, 0.2, 0.01), (2, 1, 0.1, 0.04), (3, 2, -0.05, 0.5)]
                record = compared(record, *pairs, score=probes[probe]).model_copy(update={"choices": (choice,)})
            records.append(record)
    return records


@pytest.mark.parametrize("width", [80, 100, 160, 240])
def test_brief__ends_with_the_accuracies_in_24_lines_after_at_most_12_of_prose(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = brief_table(long_evaluation(), more="more: --verbose")
    said, tables = text.split("digits: ", 1)
    assert sum(len(textwrap.wrap(line, width)) for line in said.splitlines()) <= 12
    assert "level 1 is chosen on train, 60.0; best on test level 2, 70.0" in said
    assert "--verbose" in said
    last = tables.splitlines()[-24:]
    numbers = [line for line in last if re.search(r"\d\.\d\*{0,2} +\d+\.\d-", line)]
    assert len(numbers) == 9, "four levels, four of the twin, pixels"
    assert max(map(len, tables.splitlines())) <= width
    for value in ("70.0*", "60.0-75.0", "35.0", "40.0"):
        assert sum(line.count(value) for line in last) >= 4


def test_terminal__says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    records = long_evaluation()
    whole, short = FORMATS["table"](records), brief_table(records, more="more")
    for part in ("Holm = 0.04", "(-15.0)", "McNemar exact"):
        assert part in whole
        assert part not in short
    assert whole.count("note note") > short.count("note note")
