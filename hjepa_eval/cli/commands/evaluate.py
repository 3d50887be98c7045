"""`hjepa eval`: extract, run every probe on models and their baselines, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hjepa_eval.cli.console import print_json, say_error, told_errors
from hjepa_eval.cli.options import add_command, given_flags, option_parameters
from hjepa_eval.config import Settings
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.live.stages import REPORT
from hjepa_eval.evaluation.probe import load_probe
from hjepa_eval.evaluation.request import Models, ProfileRequest, Request, read_request
from hjepa_eval.evaluation.settings import EvalSettings, ProbeSettings

if TYPE_CHECKING:
    from hjepa_eval.results.profiles import Profile
    from hjepa_eval.results.records import Record

# The probes whose options are this command's, too; those of others come by --config and --set.
_WITH_OPTIONS = ("knn", "linear", "fewshot")


def evaluate_and_report(request: Request, talk: Talk, *, folder: Path, notes: Sequence[str] = ()) -> None:
    """Evaluate, write the report into a folder, say where it is, print the table, and open the page with `--open`.

    Args:
        request: what to evaluate.
        talk: told about progress.
        folder: where the report goes.
        notes: what else is said before the table, which comes last.

    Raises:
        HjepaError: as `evaluate`, or the report cannot be written; the records are, and their table is printed.
    """
    from hjepa_eval.cli.console import open_page, where_it_is
    from hjepa_eval.cli.pretraining import draw_mask_examples
    from hjepa_eval.evaluation.evaluate import evaluate
    from hjepa_eval.evaluation.front import profile
    from hjepa_eval.report.written import write_folder

    common = request.common
    images = isinstance(common, EvalSettings) and common.gallery
    records: list[Record] = []
    profiles: list[Profile] = []
    more = ""
    try:
        with talk.job():
            # The table says what protocols do not reproduce, where it is no JSON.
            request = replace(request, draw_masks=draw_mask_examples, closing=(REPORT,), say_deviations=common.as_json)
            records += evaluate(request=request, talk=talk).records
            if request.profile is not None:  # Features come from the cache.
                profiles += profile(request=ProfileRequest(request.models, request.profile), talk=talk)
            with talk.progress(REPORT, "", stage=REPORT):
                paths = write_folder(records, folder, results=common.out, images=images, say=say_error)
        more = f"{folder / 'report.md'}, or "
        for note in (*notes, f"records are in {common.out}/", where_it_is(paths)):
            talk.note(note)
    finally:
        if records:
            _show(records, profiles, common, more=more)
    if isinstance(common, EvalSettings) and common.open:
        open_page(paths[0])


def _show(records: Sequence[Record], profiles: Sequence[Profile], common: ProbeSettings, *, more: str) -> None:
    """Print the profiles and the table, or with `--json` a summary and the records."""
    from hjepa_eval.cli.commands.probes import show
    from hjepa_eval.cli.commands.profile import show_profiles

    if common.as_json:
        content = {"summary": summary(records), "records": [record.model_dump(mode="json") for record in records]}
        print_json(content | ({"profiles": [entry.model_dump(mode="json") for entry in profiles]} if profiles else {}))
    else:
        if profiles:
            show_profiles(profiles, as_json=False)
        show(records, common, more=more)


def summary(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a row per model and headline score: its value at every level, and the level that train chooses, if any."""
    from hjepa_eval.report.tables.columns import column_names

    heading = column_names(records)
    rows = []
    for record in records:
        chosen = {choice.score: choice.level for choice in record.choices}
        for score in (score for score in record.levels[0].scores if score.headline):
            values = {
                str(level.level): other.value
                for level in record.levels
                for other in level.scores
                if other.key == score.key
            }
            level = record.levels[0].level if len(record.levels) == 1 else chosen.get(score.key)
            rows.append(
                {
                    "model": record.model.name,
                    "dataset": record.dataset.name,
                    "probe": record.probe,
                    "score": heading(record, score),
                    "levels": values,
                    "level": level,
                    "value": None if level is None else values[str(level)],
                }
            )
    return rows


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    def run(config_file: Path | None = None, assignments: list[str] | None = None, **options: Any) -> None:
        with told_errors():
            flags = given_flags(options)
            if flags.get("gallery") is False and flags.get("map_method", flags.get("map")) is not None:
                raise ConfigError("--map lays out the gallery that --no-gallery leaves out; give one of them")
            request = read_request(EvalSettings, config=config_file, assignments=assignments or (), flags=flags)
            talk = Stderr(quiet=request.common.quiet)
            evaluate_and_report(request, talk, folder=request.common.out)

    schemas: list[type[Settings]] = [Models, EvalSettings, *(load_probe(name).settings for name in _WITH_OPTIONS)]
    add_command(app, "eval", run, option_parameters(schemas), "Extract, run every probe, and report.")
