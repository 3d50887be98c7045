"""`hjepa compare`: models on the same images, paired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded, say_written
from hjepa_eval.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("compare")
    @guarded
    def run(
        results: Annotated[
            list[Path] | None,
            typer.Argument(help="records, or folders with records; results/ when not given", metavar="RESULTS"),
        ] = None,
        model: Annotated[
            list[str] | None, typer.Option("--model", help="only this model, or this baseline; repeatable")
        ] = None,
        dataset: Annotated[str | None, typer.Option("--dataset", help="only records of this dataset")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="the same as --format json")] = False,
        format_name: Annotated[
            str | None,
            typer.Option("--format", help="table, md, csv, json or latex; else by --out's ending (tex: latex)"),
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", help="file to write instead of printing")] = None,
    ) -> None:
        """Compare models on the same images.

        Two models probe by probe and level by level, more of them all against the best. Paired tests from the outcome
        of every test image (--predictions), p-values adjusted by Holm. Baselines are left aside unless named.
        """
        from hjepa_eval.evaluation.front import compare
        from hjepa_eval.report.formats.named import write_output
        from hjepa_eval.report.formats.pairs import PAIR_FORMATS
        from hjepa_eval.report.written import choose_format

        if as_json and format_name not in (None, "json"):
            raise ConfigError(f"--json and --format {format_name} ask for two formats; give one of them")
        chosen = choose_format("json" if as_json else format_name, out, PAIR_FORMATS)
        text = compare(*(results or [Path("results")]), models=model or (), dataset=dataset).text(chosen)
        if out is None:
            print(text, end="")
        else:
            say_written(write_output(out, text))
