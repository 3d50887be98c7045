"""`hjepa knn`, `hjepa linear`, `hjepa fewshot` and `hjepa eval`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.console import Talk, print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.cli.settings import EvalSettings, FewShotSettings, KnnSettings, LinearSettings, OutputSettings

if TYPE_CHECKING:
    from hjepa_eval.results import Record


def finish(records: Sequence[Record], settings: OutputSettings, talk: Talk) -> None:
    """Write the records and print them: the table, or the records themselves with `--json`."""
    from hjepa_eval.report.formats import terminal
    from hjepa_eval.results import write_record

    paths = [write_record(record, settings.out) for record in records]
    if settings.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print(terminal(records), end="")
    talk.note("written: " + ", ".join(str(path) for path in paths))


def evaluate(settings: EvalSettings, talk: Talk) -> list[Record]:
    """Return the records of all probes for the model and its baselines."""
    from hjepa_eval.cli.probing import run_few_shot, run_knn, run_linear
    from hjepa_eval.cli.workflow import collect_features, resolve_dataset, resolve_model

    model = resolve_model(settings.model)
    dataset, root = resolve_dataset(settings.dataset, model)
    chosen = settings.model_copy(update={"model": model, "dataset": dataset, "root": settings.root or root})
    records = []
    for spec in (model, *settings.baselines):
        # A baseline has its own levels: the choice of levels is the model's.
        own = chosen if spec == model else chosen.model_copy(update={"model": spec, "level": ()})
        features = collect_features(own, talk)
        records += [run(features, own, talk) for run in (run_knn, run_linear, run_few_shot)]
    return records


def register(app: typer.Typer) -> None:
    """Add the probe commands to the program."""

    @settings_command(app, "knn", KnnSettings)
    def knn(settings: KnnSettings) -> None:
        """Nearest neighbours at every level.

        FAISS exact search, cosine, DINO's weighting; all k from one search.
        """
        from hjepa_eval.cli.probing import run_knn
        from hjepa_eval.cli.workflow import collect_features

        talk = Talk(quiet=settings.quiet)
        finish([run_knn(collect_features(settings, talk), settings, talk)], settings, talk)

    @settings_command(app, "linear", LinearSettings)
    def linear(settings: LinearSettings) -> None:
        """Logistic regression at every level.

        C is chosen on a held-out part of train, then all of train is fitted; test is touched once.
        """
        from hjepa_eval.cli.probing import run_linear
        from hjepa_eval.cli.workflow import collect_features

        talk = Talk(quiet=settings.quiet)
        finish([run_linear(collect_features(settings, talk), settings, talk)], settings, talk)

    @settings_command(app, "fewshot", FewShotSettings)
    def fewshot(settings: FewShotSettings) -> None:
        """Few-shot episodes at every level.

        Drawn from the test images, the same episodes for every level; nearest class mean of normalised features.
        """
        from hjepa_eval.cli.probing import run_few_shot
        from hjepa_eval.cli.workflow import collect_features

        talk = Talk(quiet=settings.quiet)
        finish([run_few_shot(collect_features(settings, talk), settings, talk)], settings, talk)

    @settings_command(app, "eval", EvalSettings)
    def eval_(settings: EvalSettings) -> None:
        """Extract, run every probe, and report."""
        from hjepa_eval.cli.report import write_report

        talk = Talk(quiet=settings.quiet)
        records = evaluate(settings, talk)
        finish(records, settings, talk)
        talk.note("report: " + ", ".join(str(path) for path in write_report(records, settings.out)))
