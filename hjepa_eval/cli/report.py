"""`hjepa report`: result records in, a table out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded
from hjepa_eval.errors import ResultError, unknown

if TYPE_CHECKING:
    from hjepa_eval.results import Record


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
        ResultError: a file cannot be written, or a gallery cannot be read; what was written before stays.
    """
    from hjepa_eval.cli.evaluation_page import write_evaluation_page
    from hjepa_eval.report.formats import markdown
    from hjepa_eval.report.plot import describe_plot, write_plot
    from hjepa_eval.report.table import build_table

    picture = write_plot(records, folder / "levels.png")
    text = f"# What each level knows\n\n{markdown(records)}\n![{describe_plot(build_table(records))}](levels.png)\n"
    text += f"\nMade by `{records[0].provenance.command}`, {_how(records[0])}.\n"
    text += "".join(f"- {line}\n" for line in _sources(records))
    written = [_write(folder / "report.md", text), picture]
    return [write_evaluation_page(records, folder, results=results or folder, images=images), *written]


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


def _write(path: Path, text: str) -> Path:
    from hjepa_eval.features.fingerprint import write_atomically

    try:
        write_atomically(path, text.encode(errors="replace"))
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another with --out") from None
    return path


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("report")
    @guarded
    def report(
        results: Annotated[list[Path] | None, typer.Argument(help="result files or folders", metavar="RESULTS")] = None,
        format_name: Annotated[
            str | None,
            typer.Option("--format", help="table, md, csv or json; else by --out's ending (txt: table)"),
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", help="file to write instead of printing")] = None,
    ) -> None:
        """Show result records level by level.

        A table per dataset, from results/ when no file or folder is named.
        """
        from hjepa_eval.report.formats import FORMATS
        from hjepa_eval.results import find_records

        if format_name is None:
            ending = "" if out is None else out.suffix.removeprefix(".")
            format_name = "table" if ending in ("", "txt") else ending
        if format_name not in FORMATS:
            raise unknown("format", format_name, FORMATS)
        text = FORMATS[format_name](find_records(results or [Path("results")]))
        if out is None:
            print(text, end="")
        else:
            print(f"written: {_write(out, text)}", file=sys.stderr)
