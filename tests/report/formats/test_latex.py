"""LaTeX that compiles with booktabs alone, whatever names hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from made_records import HOSTILE, compared, costed, pair_of, record_of
from needed_tools import need_program

from hjepa_eval.report.formats.latex import distinct_labels
from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.report.formats.pairs import PAIR_FORMATS
from hjepa_eval.results.text import latex_text

DOCUMENT = "\\documentclass[%s]{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\n\\end{document}\n"


def compiled(folder: Path, body: str, *, columns: str = "onecolumn") -> str:
    """Return pdflatex's log of an article with this body; any error fails."""
    program = need_program("pdflatex")
    (folder / "report.tex").write_text(DOCUMENT % (columns, body), encoding="utf-8")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
    log = (folder / "report.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-3000:]
    assert (folder / "report.pdf").stat().st_size > 5000
    return log


def records() -> list:
    probes = [costed(compared(record_of(values=(0.5, 0.75, 0.7)), (2, 1, -0.05, 0.01)), 0.1, 0.2, 0.3)]
    probes += [record_of("linear", values=(0.5, 0.75, 0.7)), record_of("linear", protocol="ridge", values=(0.1, 1.0))]
    return [*probes, record_of(model="pixels", values=(0.2,))]


def test_latex__compiles_with_booktabs_and_no_line_is_too_long(tmp_path: Path) -> None:
    text = FORMATS["latex"](records())
    assert text.startswith("% needs \\usepackage{booktabs}\n")
    assert re.findall(r"\\usepackage\{(\w+)\}", text) == ["booktabs"]
    log = compiled(tmp_path, text)
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log


def test_latex__two_columns_take_it_as_the_comment_says(tmp_path: Path) -> None:
    text = FORMATS["latex"](records())
    assert "\\begin{table*} and \\end{table*}" in text.splitlines()[1]
    wide = re.sub(r"(?m)^(\\begin|\\end)\{table\}", r"\1{table*}", text)
    assert wide.count("{table*}") == 4
    assert "Overfull \\hbox" not in compiled(tmp_path, wide, columns="twocolumn")


def test_latex__hostile_names_compile_and_are_shown(tmp_path: Path) -> None:
    record = record_of(model=HOSTILE, dataset=HOSTILE, note=HOSTILE, protocol=HOSTILE)
    levels = tuple(level.model_copy(update={"name": f"[{HOSTILE}"}) for level in record.levels)
    text = FORMATS["latex"]([record.model_copy(update={"levels": levels})])
    compiled(tmp_path, text)
    for part in (r"5\% \& \# \$x\$ \{y\} \textasciitilde{} \textasciicircum{}", r"-{}- caf\'{e} [U+65E5]", r"\_d\_"):
        assert part in text


def test_latex__best_in_bold_with_its_mark_intervals_small_models_parted() -> None:
    text = FORMATS["latex"](records())
    assert r"\textbf{75.0}$^{**}$ {\scriptsize ($+5.0$)}" in text
    assert r"{\scriptsize 65.0--80.0}" in text
    assert r"\textbf{75.0}$^{*}$" in text, "no test was made of the linear probe's levels"
    assert "level 1 - level 2 +5.0 [+2.0 to +7.0], Holm = 0.01" in text
    tabulars = re.findall(r"\\begin\{tabular\}\{rl.*?\\bottomrule", text, flags=re.DOTALL)
    for tabular in tabulars:
        assert tabular.count(r"\midrule") == tabular.count(r"\multicolumn") == 2
    assert text.index("runs/demo") < text.index(r"\textbf{pixels}")
    assert r"\label{tab:levels-digits}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(tabulars)


def test_latex__a_table_per_dataset() -> None:
    text = FORMATS["latex"]([record_of(), record_of(dataset="cifar10")])
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:levels-digits", "tab:levels-cifar10"]


def test_latex__many_columns_stand_below_each_other_and_still_fit(tmp_path: Path) -> None:
    many = [record_of(protocol=f"protocol-{place}", values=(0.123, 0.456)) for place in range(9)]
    text = FORMATS["latex"](many)
    assert text.count("12.3") == 9
    assert text.count(r"\begin{tabular}{rl") > 1
    assert "Overfull \\hbox" not in compiled(tmp_path, text)


def test_latex__long_names_of_levels_are_wrapped(tmp_path: Path) -> None:
    record = costed(record_of(), 0.1, 12345.6)
    levels = tuple(level.model_copy(update={"name": "stage " * 12}) for level in record.levels)
    log = compiled(tmp_path, FORMATS["latex"]([record.model_copy(update={"levels": levels})]))
    assert "Overfull \\hbox" not in log


def test_latex__every_printable_character_of_latin_1_and_extended_a_compiles(tmp_path: Path) -> None:
    lines = [latex_text("".join(map(chr, range(start, start + 32)))) for start in range(0, 0x180, 32)]
    log = compiled(tmp_path, "\n\n".join(lines))
    assert "Missing character" not in log


def test_escape__characters_do_not_melt_together() -> None:
    assert latex_text("--seed '' ``") == "-{}-seed '{}' `{}`"
    assert latex_text("a\nb") == "a b"


def test_compare_latex__compiles_with_hostile_names(tmp_path: Path) -> None:
    pair = pair_of((HOSTILE, "pixels"), "*[kNN] k=20", why="chosen levels", levels=(2, 0), p=1e-9, p_holm=0.02)
    text = PAIR_FORMATS["latex"]([pair])
    assert r"\multicolumn{7}{l}{\textbf{*[kNN] k=20}}" in text
    assert r"chosen (2, 0) & 75.0 & 50.0 & +25.0 & +20.0 to +30.0 & \textless{} 0.0001 & 0.02 \\" in text
    assert "Overfull \\hbox" not in compiled(tmp_path, text.replace(latex_text(HOSTILE), "a"))
    compiled(tmp_path, text)


def test_latex__a_label_is_said_once() -> None:
    table = "\\label{tab:levels-folder-a}\n"
    assert distinct_labels(3 * table + "\\label{tab:b}") == (
        "\\label{tab:levels-folder-a}\n\\label{tab:levels-folder-a-2}\n\\label{tab:levels-folder-a-3}\n\\label{tab:b}"
    )


def test_latex__control_characters_of_names_stand_as_escapes_in_comments_too() -> None:
    text = FORMATS["latex"]([record_of(model="runs/\x1b[2Ja\u2066", values=(0.5, 0.75))])
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2066]", text)
