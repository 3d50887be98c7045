"""`hjepa eval`: extract, run every probe on a model and its baselines, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.console import Talk
from hjepa_eval.cli.fewshot import plan_few_shot
from hjepa_eval.cli.knn import plan_knn
from hjepa_eval.cli.linear import plan_linear
from hjepa_eval.cli.options import settings_command
from hjepa_eval.cli.settings import EvalSettings
from hjepa_eval.errors import ConfigError, ProbeError

if TYPE_CHECKING:
    from hjepa_eval.results import Record


def evaluate(settings: EvalSettings, talk: Talk) -> list[Record]:
    """Return the records of all probes for the model and its baselines; each is written as soon as it is there."""
    from hjepa_eval.cli.gallery import check_map, write_galleries
    from hjepa_eval.cli.measure import measure
    from hjepa_eval.cli.probe_run import collect_seeds, prepare, say_deviations
    from hjepa_eval.cli.workflow import find_encoder

    resolved = prepare(settings, talk)
    check_map(resolved)
    plans = [plan_knn(resolved), plan_linear(resolved), plan_few_shot(resolved)]
    model = str(resolved.model)
    specs = list(
        dict.fromkeys([model, *(_untrained(model) if each == "random" else each for each in settings.baselines)])
    )
    for spec in specs[1:]:
        find_encoder(resolved.model_copy(update={"model": spec}))  # A typo ends here, before any work.
    records, measured_features = [], {}
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
                talk.note(f"few-shot is left out: {error}")
            else:
                measured.write(settings.out, predictions=settings.predictions)
                records.append(measured.record)
    if settings.gallery:
        write_galleries(measured_features, resolved, talk)
    for plan in plans:
        say_deviations(plan, talk)
    return records


def _untrained(model: str) -> str:
    """Return the name of the same encoder before its training: `--baselines random`.

    Raises:
        ConfigError: only a run and a timm model can be built again without their weights.
    """
    from hjepa_eval.encoders.run import is_run

    name, *options = model.split("?")
    kind, colon, argument = name.partition(":")
    if kind == "timm" and colon and not argument.startswith("local-dir:"):
        return "?".join([f"random:{argument}", *(each for each in options if not each.startswith("checkpoint="))])
    if is_run(Path(name)):
        return f"random:{name}"
    raise ConfigError(f"--baselines random: {model} has no untrained twin; name one, such as random:vit_tiny_patch4_32")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "eval", EvalSettings)
    def eval_(settings: EvalSettings) -> None:
        """Extract, run every probe, and report."""
        from hjepa_eval.cli.probe_run import show
        from hjepa_eval.cli.report import write_report

        talk = Talk(quiet=settings.quiet)
        records = evaluate(settings, talk)
        show(records, settings)
        paths = write_report(records, settings.out)
        talk.note(f"records are in {settings.out}/, the report: {', '.join(map(str, paths))}")
