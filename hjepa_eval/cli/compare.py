"""`hjepa compare`: two models on the same images, paired."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.errors import ResultError, first_few

if TYPE_CHECKING:
    from hjepa_eval.report.model_pairs import Located, ModelPair
    from hjepa_eval.results import Record


def _locate(path: Path) -> list[Located]:
    """Return the records of one model in a file or folder.

    Raises:
        ResultError: there are none, or they are of several models.
    """
    from hjepa_eval.report.model_pairs import Located
    from hjepa_eval.results import read_record, record_files

    found = [Located(read_record(file), file.parent) for file in record_files([path])]
    models = list(dict.fromkeys(_variant(located.record) for located in found))
    if len(models) > 1:
        raise ResultError(
            f"{path} holds records of {len(models)} models: {first_few(models)}; name the files of one model"
        )
    return found


def _variant(record: Record) -> str:
    extraction = record.extraction
    return f"{record.model.name} ({extraction.readout}, {extraction.precision}, weights {record.model.weights[:8]})"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("compare")
    @guarded
    def compare(
        first: Annotated[Path, typer.Argument(help="a record, or a folder with records of one model")],
        second: Annotated[Path, typer.Argument(help="the same of the other model")],
        as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout instead of a table")] = False,
    ) -> None:
        """Compare two models on the same images.

        Paired tests from the per-sample outcomes of --predictions: McNemar for right and wrong, a paired t-test for
        episodes, differences with bootstrap intervals, p-values adjusted by Holm.
        """
        from hjepa_eval.report.model_pairs import compare_models

        one, other = _locate(first), _locate(second)
        pairs = compare_models(one, other)
        if as_json:
            print_json([asdict(pair) for pair in pairs])
        else:
            _show(pairs, one[0].record.model.name, other[0].record.model.name)


def _show(pairs: list[ModelPair], first: str, second: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from hjepa_eval.report.statements import p_text

    table = Table(box=box.SIMPLE_HEAD, safe_box=True)
    for column in ("probe", "levels", "first", "second", "difference", "95 % interval", "p", "p (Holm)"):
        table.add_column(column, justify="left" if column in ("probe", "levels") else "right")
    for pair in pairs:
        levels = f"{pair.why} ({pair.levels[0]}, {pair.levels[1]})" if pair.why == "chosen levels" else pair.why
        table.add_row(
            pair.probe,
            levels,
            *(f"{100 * value:.1f}" for value in pair.values),
            f"{100 * pair.difference:+.1f}",
            f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}",
            p_text(pair.p_value),
            p_text(pair.p_holm),
        )
    console = Console(width=max(100, Console().width), emoji=False, highlight=False, markup=False)
    console.print(f"first: {first}\nsecond: {second}")
    console.print(table)
    console.print("Accuracy in percent; differences in points, first minus second, with paired bootstrap intervals.")
