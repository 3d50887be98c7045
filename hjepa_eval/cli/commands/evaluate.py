"""`hjepa eval`: extract, run every probe on a model and its baselines, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.options import settings_command
from hjepa_eval.errors import ConfigError, ProbeError
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.plans.few_shot import plan_few_shot
from hjepa_eval.evaluation.plans.knn import plan_knn
from hjepa_eval.evaluation.plans.linear import plan_linear
from hjepa_eval.evaluation.settings import EvalSettings
from hjepa_eval.evaluation.stages import REPORT, evaluation_stages, probe_word

if TYPE_CHECKING:
    from hjepa_eval.encoders.handle import EncoderHandle
    from hjepa_eval.results.records import Record


def evaluate(settings: EvalSettings, talk: Talk) -> list[Record]:
    """Return the records of all probes for the model and its baselines; each is written as soon as it is there."""
    from hjepa_eval.cli.commands.probes import collect_seeds, prepare, say_deviations
    from hjepa_eval.cli.pretraining import draw_mask_examples
    from hjepa_eval.evaluation.features import find_encoder
    from hjepa_eval.evaluation.gallery.gallery import check_map, write_galleries
    from hjepa_eval.evaluation.measure import measure
    from hjepa_eval.results.files import read_record

    resolved = prepare(settings, talk)
    check_map(resolved)
    plans = [plan_knn(resolved), plan_linear(resolved), plan_few_shot(resolved)]
    specs = _encoders(resolved)
    encoders: dict[str, EncoderHandle | None] = {specs[0]: None}
    for spec in specs[1:]:
        encoders[spec] = find_encoder(resolved.model_copy(update={"model": spec}))  # A typo ends here, before any work.
    closing = ["galleries"] if settings.gallery else []
    talk.plan(evaluation_stages(resolved, [probe_word(plan.probe) for plan in plans], encoders, closing=closing))
    records, measured_features = [], {}
    left_out: list[str] = []
    for place, spec in enumerate(specs):
        # A baseline has its own levels: the choice of levels is the model's.
        own = resolved if place == 0 else resolved.model_copy(update={"model": spec, "level": ()})
        features = measured_features[spec] = collect_seeds(own, talk, repair=True)
        for plan in plans:
            try:
                measured = measure(plan, features, own, talk)
            except ProbeError as error:
                if plan.probe != "fewshot":
                    raise
                if str(error) not in left_out:  # Most reasons are the images', and so every encoder's.
                    left_out.append(str(error))
                    talk.note(f"few-shot is left out: {error}")
            else:
                # As written: with the file that its outcomes went to.
                records.append(read_record(measured.write(settings.out, predictions=settings.predictions)))
    if settings.gallery:
        write_galleries(measured_features, resolved, talk, draw_masks=draw_mask_examples)
    for plan in plans:
        if any(record.probe == plan.probe for record in records):
            say_deviations(plan, talk)
    return records


def _encoders(settings: EvalSettings) -> list[str]:
    """Return the names of the model and its baselines, each once.

    Of baselines that nobody named, those are left out that say nothing about this model: its untrained twin where it
    has none, and pixels beside pixels.

    Raises:
        ConfigError: `--baselines random` was asked for and there is no such twin.
    """
    model = str(settings.model)
    named = "baselines" in settings.model_fields_set
    found = [model]
    for baseline in settings.baselines:
        if not named and baseline.startswith("pixels") and model.partition(":")[0] == "pixels":
            continue
        try:
            found.append(_untrained(model) if baseline == "random" else baseline)
        except ConfigError:
            if named:
                raise
    return list(dict.fromkeys(found))


def _untrained(model: str) -> str:
    """Return the name of the same encoder before its training: `--baselines random`.

    Raises:
        ConfigError: only a run and a timm model can be built again without their weights.
    """
    from hjepa_eval.encoders.kinds.run import is_run

    name, *options = model.split("?")
    kind, colon, argument = name.partition(":")
    if kind == "timm" and colon and not argument.startswith("local-dir:"):
        return "?".join([f"random:{argument}", *(each for each in options if not each.startswith("checkpoint="))])
    if is_run(Path(name)):
        return f"random:{name}"
    raise ConfigError(f"--baselines random: {model} has no untrained twin; name one, such as random:vit_tiny_patch4_32")


def evaluate_and_report(settings: EvalSettings, talk: Talk, *, folder: Path) -> list[Path]:
    """Evaluate, write the report into a folder, print the table, and return the report's files, the page first.

    Raises:
        HjepaError: as `evaluate`, or the report cannot be written; the records are, and their table is printed.
    """
    from hjepa_eval.cli.commands.probes import show
    from hjepa_eval.cli.commands.report import write_report

    records: list[Record] = []
    try:
        with talk.job():
            records += evaluate(settings, talk)
            with talk.progress(REPORT, "", stage=REPORT):
                return write_report(records, folder, results=settings.out, images=settings.gallery)
    finally:
        if records:
            show(records, settings)


def finish(paths: Sequence[Path], settings: EvalSettings, talk: Talk) -> None:
    """Say where the report is, and open it with `--open`."""
    from hjepa_eval.cli.pages import open_page, where_it_is

    talk.note(where_it_is(paths))
    if settings.open:
        open_page(paths[0])


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "eval", EvalSettings)
    def eval_(settings: EvalSettings) -> None:
        """Extract, run every probe, and report."""
        talk = Stderr(quiet=settings.quiet)
        paths = evaluate_and_report(settings, talk, folder=settings.out)
        talk.note(f"records are in {settings.out}/")
        finish(paths, settings, talk)
