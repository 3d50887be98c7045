"""`hjepa compare`: two models on the same images, paired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded
from hjepa_eval.cli.pages import deliver
from hjepa_eval.errors import ConfigError, ResultError, first_few

if TYPE_CHECKING:
    from hjepa_eval.report.tables.model_pairs import Located
    from hjepa_eval.results.records import Record


def _locate(path: Path) -> list[Located]:
    """Return the records of one model in a file or folder; the baselines beside it are left aside.

    Raises:
        ResultError: there are none, or they are of several models.
    """
    from hjepa_eval.report.tables.selection import locate
    from hjepa_eval.report.tables.standing import baselines_among

    everything = locate([path])
    beaten = baselines_among(located.record.model.name for located in everything)
    found = [located for located in everything if located.record.model.name not in beaten]
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
        first: Annotated[
            Path, typer.Argument(help="a record, or a folder with records of one model, its baselines aside")
        ],
        second: Annotated[Path, typer.Argument(help="the same of the other model")],
        as_json: Annotated[bool, typer.Option("--json", help="the same as --format json")] = False,
        format_name: Annotated[
            str | None,
            typer.Option("--format", help="table, md, csv, json or latex; else by --out's ending (tex: latex)"),
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", help="file to write instead of printing")] = None,
    ) -> None:
        """Compare two models on the same images.

        Paired tests from the per-image outcomes of --predictions: McNemar for right and wrong, a paired t-test for
        few-shot episodes, differences with intervals over images, p-values adjusted by Holm.
        """
        from hjepa_eval.report.formats.pairs import PAIR_FORMATS
        from hjepa_eval.report.tables.model_pairs import compare_models
        from hjepa_eval.report.written import choose_format

        if as_json and format_name not in (None, "json"):
            raise ConfigError(f"--json and --format {format_name} ask for two formats; give one of them")
        chosen = choose_format("json" if as_json else format_name, out, PAIR_FORMATS)
        deliver(PAIR_FORMATS[chosen](compare_models(_locate(first), _locate(second))), out)
