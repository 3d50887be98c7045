"""`hjepa report`: result records in, a table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded
from hjepa_eval.cli.pages import deliver, open_page
from hjepa_eval.errors import ConfigError

if TYPE_CHECKING:
    from hjepa_eval.report.tables.model_pairs import Located
    from hjepa_eval.results.records import Record

# Formats for programs: what a reader must know stands beside them, on stderr.
_WITHOUT_NOTES = ("csv", "json")


def write_report(
    records: Sequence[Record], folder: Path, *, results: Path | None = None, images: bool = True
) -> list[Path]:
    """Write `report.html`, `report.md` and `levels.png` of one evaluation into a folder and return their paths.

    Args:
        records: of the evaluation.
        folder: where the files go.
        results: where the records and their galleries lie; the same folder when not given.
        images: show the records' galleries on the page.

    Raises:
        ResultError: a file cannot be written; what was written before stays.
    """
    from hjepa_eval.cli.pages import write_evaluation_page
    from hjepa_eval.report.figures.levels import write_plot
    from hjepa_eval.report.formats.named import write_output
    from hjepa_eval.report.tables.selection import select_records

    picture = write_plot(select_records(records), folder / "levels.png")
    written = [write_output(folder / "report.md", markdown_report(records)), picture]
    return [write_evaluation_page(records, folder, results=results or folder, images=images), *written]


def markdown_report(records: Sequence[Record]) -> str:
    """Return `report.md`: the table, the picture beside it, and how both were made."""
    from hjepa_eval.report.figures.levels import describe_plot
    from hjepa_eval.report.formats.markdown import fenced, markdown
    from hjepa_eval.report.tables.selection import select_records
    from hjepa_eval.report.tables.table import build_table
    from hjepa_eval.results.text import markdown_text

    selection = select_records(records)
    text = f"# What each level knows\n\n{markdown(selection)}\n"
    text += f"![{markdown_text(describe_plot(build_table(selection)))}](levels.png)\n\n"
    text += f"Made by\n\n{fenced(records[0].provenance.command)}\n\n{markdown_text(_how(records[0]))}.\n\n"
    return text + "".join(f"- {markdown_text(line)}\n" for line in _sources(records))


def _how(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record.provenance.versions.items())
    return f"seed {record.provenance.seed}, {record.extraction.precision} on {record.provenance.device}; {versions}"


def _sources(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in records:
        images = record.extraction.forward_images
        how = f"{images:,} images went through the encoder" if images else "features from the cache, no forward pass"
        lines.append(f"{record.model.name}: {how}")
    return list(dict.fromkeys(lines))


def _write_html(located: Sequence[Located], paths: Sequence[Path], out: Path | None) -> Path:
    """Write the page of one dataset, beside the first records where no file is named, and return its path."""
    from hjepa_eval.cli.pages import PAGE, write_located
    from hjepa_eval.report.tables.selection import check_same_data

    records = [each.record for each in located]
    check_same_data(records)
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return write_located(located, paths, out or folder / PAGE)


def _deliver_page(located: Sequence[Located], paths: Sequence[Path], out: Path | None, *, open_it: bool) -> None:
    from hjepa_eval.results.text import visible

    page = _write_html(located, paths, out)
    print(f"written: {visible(str(page))}", file=sys.stderr)
    if open_it:
        open_page(page)


def _deliver_profiles(
    paths: Sequence[Path],
    chosen: str,
    *,
    out: Path | None,
    dataset: str | None,
    models: Sequence[str],
    rank: bool,
    open_it: bool,
) -> None:
    from hjepa_eval.report.written import profile_report

    if rank:
        raise ConfigError("profiles have no ranking; leave out --rank")
    if chosen == "html" and out is None:
        folder = paths[0] if paths[0].is_dir() else paths[0].parent
        out = folder / "profile.html"
    deliver(profile_report(paths, chosen, dataset=dataset, models=models), out)
    if open_it and out is not None:
        open_page(out)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("report")
    @guarded
    def report(
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
        from hjepa_eval.report.tables.selection import check_versions, keep, locate
        from hjepa_eval.report.written import choose_format, profiles_alone

        chosen = choose_format(format_name, out, (*FORMATS, "html"))
        if open_it and chosen != "html":
            raise ConfigError(f"--open shows an HTML page, the format is {chosen}; add --format html")
        paths = results or [Path("results")]
        if profile or profiles_alone(paths):
            _deliver_profiles(paths, chosen, out=out, dataset=dataset, models=model or (), rank=rank, open_it=open_it)
            return
        located = keep(locate(paths), dataset=dataset, models=model or ())
        check_versions([each.record for each in located], [each.path or each.folder for each in located])
        if chosen == "html":
            _deliver_page(located, paths, out, open_it=open_it)
            return
        short = chosen == "table" and out is None and sys.stdout.isatty() and not verbose
        deliver(_text(located, chosen, rank=rank, short=short), out)


def _text(located: Sequence[Located], chosen: str, *, rank: bool, short: bool) -> str:
    """Return the report as text; of formats for programs what a reader must know goes to stderr."""
    from hjepa_eval.report.formats.named import FORMATS, brief_table
    from hjepa_eval.report.formats.ranks import RANK_FORMATS
    from hjepa_eval.report.tables.selection import left_out
    from hjepa_eval.results.text import visible

    records = [each.record for each in located]
    if chosen in _WITHOUT_NOTES:
        for note in left_out(records):
            print(visible(note), file=sys.stderr)
    if rank:
        return RANK_FORMATS[chosen](located)
    return brief_table(records, more="costs, tests and notes: --verbose") if short else FORMATS[chosen](records)
