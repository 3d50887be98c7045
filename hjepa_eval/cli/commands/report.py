"""`hjepa report`: result records in, a table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded, open_page, say_error, say_written
from hjepa_eval.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("report")
    @guarded
    def run(
        results: Annotated[list[Path] | None, typer.Argument(help="result files or folders", metavar="RESULTS")] = None,
        format_name: Annotated[
            str | None,
            typer.Option(
                "--format", help="table, md, csv, json, latex or html; else by --out's ending (txt: table, tex: latex)"
            ),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="file to write instead of printing; html: else report.html there")
        ] = None,
        dataset: Annotated[str | None, typer.Option("--dataset", help="only records of this dataset")] = None,
        model: Annotated[
            list[str] | None,
            typer.Option("--model", help="only this model beside the baselines, or this baseline; repeatable"),
        ] = None,
        rank: Annotated[
            bool, typer.Option("--rank", help="one row per model and probe, the best first, each tested against it")
        ] = False,
        profile: Annotated[bool, typer.Option("--profile", help="what hjepa profile wrote there, not probes")] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", help="on a terminal: costs, all tests and notes too")
        ] = False,
        open_it: Annotated[bool, typer.Option("--open", help="open the HTML page in the browser")] = False,
    ) -> None:
        """Show result records level by level.

        A table per dataset, from results/ when no file or folder is named. HTML is one page of one dataset.
        """
        from hjepa_eval.report.formats.named import FORMATS
        from hjepa_eval.report.written import choose_format, report

        chosen = choose_format(format_name, out, (*FORMATS, "html"))
        if open_it and chosen != "html":
            raise ConfigError(f"--open shows an HTML page, the format is {chosen}; add --format html")
        paths = results or [Path("results")]
        file = _page(paths, profile=profile) if chosen == "html" and out is None else out
        text = report(
            paths,
            format=chosen,
            out=file,
            dataset=dataset,
            models=model or (),
            rank=rank,
            profile=profile,
            brief=file is None and sys.stdout.isatty() and not verbose,
            say=say_error,
        )
        if file is None:
            print(text, end="")
            return
        say_written(text)
        if open_it:
            open_page(file)


def _page(paths: Sequence[Path], *, profile: bool) -> Path:
    """Return where a page goes that nobody named: beside the first records."""
    from hjepa_eval.report.written import PAGE, profiles_alone

    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return folder / ("profile.html" if profile or profiles_alone(paths) else PAGE)
