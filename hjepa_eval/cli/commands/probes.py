"""`hjepa knn`, `linear`, `fewshot`, `lowshot`: a command for every probe, made from what the probe declares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hjepa_eval.cli.console import print_json, told_errors
from hjepa_eval.cli.options import add_command, given_flags, option_parameters
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.plans import PROBES
from hjepa_eval.evaluation.probe import load_probe
from hjepa_eval.evaluation.request import Models, read_request
from hjepa_eval.evaluation.settings import ProbeSettings

if TYPE_CHECKING:
    from hjepa_eval.results.records import Record


def is_brief(common: ProbeSettings) -> bool:
    """Return whether results are shown in short: on a terminal, unless `--verbose` asks for everything."""
    return sys.stdout.isatty() and not common.verbose


def show(records: Sequence[Record], common: ProbeSettings, *, more: str = "") -> None:
    """Print the table, or the records themselves with `--json`; `more` says where a short table's rest is."""
    if common.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    elif is_brief(common):
        from hjepa_eval.report.formats.terminal import brief
        from hjepa_eval.report.tables.selection import select_records

        print(brief(select_records(records), more=f"costs, tests and notes: {more}--verbose"), end="")
    else:
        from hjepa_eval.report.formats.named import FORMATS, quiet_table

        table = quiet_table if common.quiet else FORMATS["table"]
        print(table(records), end="")


def register(app: typer.Typer, name: str) -> None:
    """Add the command of a probe to the program."""
    probe = load_probe(name)

    def run(config_file: Path | None = None, assignments: list[str] | None = None, **options: Any) -> None:
        with told_errors():
            from hjepa_eval.evaluation.evaluate import evaluate

            flags = given_flags(options)
            request = read_request(
                ProbeSettings, probes=[probe], config=config_file, assignments=assignments or (), flags=flags
            )
            talk = Stderr(quiet=request.common.quiet)
            result = evaluate(request=replace(request, say_deviations=request.common.as_json), talk=talk)
            # Files are there before stdout, which may take nothing.
            for entry in result.located:
                talk.note(f"written: {entry.path}")
            show(result.records, request.common)

    description = f"{PROBES[name][1]}\n\n{probe.description}"
    add_command(app, name, run, option_parameters([Models, ProbeSettings, probe.settings]), description)
