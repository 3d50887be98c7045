"""`hjepa report`: result records in, a table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded, open_page, say_error, say_written
from hjepa_eval.errors import ConfigError

_Results = Annotated[list[Path] | None, typer.Argument(help="result files or folders", metavar="RESULTS")]
_Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="table, md, csv, json, latex or html; else by --out's ending (txt: table, tex: latex)"
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="as --format json")]
_Out = Annotated[
    Path | None, typer.Option("--out", help="file to write instead of printing; html: else report.html there")
]
_Dataset = Annotated[str | None, typer.Option("--dataset", help="only records of this dataset")]
_Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="only this model beside the baselines, or this baseline; repeatable"),
]
_Rank = Annotated[
    bool, typer.Option("--rank", help="one row per model and probe, the best first, each tested against it")
]
_Profile = Annotated[bool, typer.Option("--profile", help="what hjepa profile wrote there, not probes")]
_Verbose = Annotated[bool, typer.Option("--verbose", help="on a terminal: costs, all tests and notes too")]
_Open = Annotated[bool, typer.Option("--open", help="open the HTML page in the browser")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("report")
    @guarded
    def run(
        results: _Results = None,
        format_name: _Format = None,
        as_json: _Json = False,
        out: _Out = None,
        dataset: _Dataset = None,
        model: _Models = None,
        rank: _Rank = False,
        profile: _Profile = False,
        verbose: _Verbose = False,
        open_it: _Open = False,
    ) -> None:
        """Show result records level by level.

        A table per dataset, from results/ when no file or folder is named. HTML is one page of one dataset.
        """
        from hjepa_eval.report.formats.named import FORMATS
        from hjepa_eval.report.written import choose_format, report

        if as_json and format_name not in (None, "json"):
            raise ConfigError(f"--json beside --format {format_name}; keep one of them")
        chosen = choose_format("json" if as_json else format_name, out, (*FORMATS, "html"))
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
