"""`hjepa knn`, `hjepa linear`, `hjepa fewshot` and `hjepa eval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from hjepa_eval.cli.console import Talk, print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.cli.settings import (
    EvalSettings,
    ExtractionSettings,
    FewShotSettings,
    KnnSettings,
    LinearSettings,
    OutputSettings,
)
from hjepa_eval.errors import ProbeError

if TYPE_CHECKING:
    from hjepa_eval.cli.workflow import Features
    from hjepa_eval.results import Record

SettingsT = TypeVar("SettingsT", bound=ExtractionSettings)


def show(records: Sequence[Record], settings: OutputSettings) -> None:
    """Print the table, or the records themselves with `--json`."""
    from hjepa_eval.report.formats import terminal

    if settings.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print(terminal(records), end="")


def run_probe(settings: SettingsT, probe: Callable[[Features, SettingsT, Talk], Record]) -> None:
    """Run one probe on one encoder: print what it found, then write the record."""
    from hjepa_eval.cli.workflow import collect_features, resolve
    from hjepa_eval.results import check_folder, write_record

    talk = Talk(quiet=settings.quiet)
    check_folder(settings.out)
    resolved = resolve(settings)
    if settings.model is None:
        talk.note(f"--model {resolved.model}, the newest finished run")
    record = probe(collect_features(resolved, talk), resolved, talk)
    show([record], settings)
    talk.note(f"written: {write_record(record, settings.out)}")


def evaluate(settings: EvalSettings, talk: Talk) -> list[Record]:
    """Return the records of all probes for the model and its baselines; each is written as soon as it is there."""
    from hjepa_eval.cli.probing import run_few_shot, run_knn, run_linear
    from hjepa_eval.cli.workflow import collect_features, resolve
    from hjepa_eval.encoders import load_encoder
    from hjepa_eval.results import check_folder, write_record

    check_folder(settings.out)
    resolved = resolve(settings)
    if settings.model is None:
        talk.note(f"--model {resolved.model}, the newest finished run")
    specs = list(dict.fromkeys([str(resolved.model), *settings.baselines]))
    for spec in specs[1:]:
        load_encoder(spec, seed=settings.seed, download=settings.download)  # A typo ends here, before any work.
    records = []
    for place, spec in enumerate(specs):
        # A baseline has its own levels: the choice of levels is the model's.
        own = resolved if place == 0 else resolved.model_copy(update={"model": spec, "level": ()})
        features = collect_features(own, talk, repair=True)
        for run in (run_knn, run_linear, run_few_shot):
            try:
                records.append(run(features, own, talk))
            except ProbeError as error:
                if run is not run_few_shot:
                    raise
                talk.note(f"few-shot is left out: {error}")
            else:
                write_record(records[-1], settings.out)
    return records


def register(app: typer.Typer) -> None:
    """Add the probe commands to the program."""

    @settings_command(app, "knn", KnnSettings)
    def knn(settings: KnnSettings) -> None:
        """Nearest neighbours at every level.

        FAISS exact search, cosine, DINO's weighting; all k from one search.
        """
        from hjepa_eval.cli.probing import run_knn

        run_probe(settings, run_knn)

    @settings_command(app, "linear", LinearSettings)
    def linear(settings: LinearSettings) -> None:
        """Logistic regression at every level.

        C is chosen on a held-out part of train, then all of train is fitted; test is touched once.
        """
        from hjepa_eval.cli.probing import run_linear

        run_probe(settings, run_linear)

    @settings_command(app, "fewshot", FewShotSettings)
    def fewshot(settings: FewShotSettings) -> None:
        """Few-shot episodes at every level.

        Drawn from the test images, the same episodes for every level; nearest class mean of normalised features.
        """
        from hjepa_eval.cli.probing import run_few_shot

        run_probe(settings, run_few_shot)

    @settings_command(app, "eval", EvalSettings)
    def eval_(settings: EvalSettings) -> None:
        """Extract, run every probe, and report."""
        from hjepa_eval.cli.report import write_report

        talk = Talk(quiet=settings.quiet)
        records = evaluate(settings, talk)
        show(records, settings)
        paths = write_report(records, settings.out)
        talk.note(f"records are in {settings.out}/, the report: {', '.join(map(str, paths))}")
