"""From a probe's settings to its printed table and written record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from hjepa_eval.cli.console import print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.plans.few_shot import plan_few_shot
from hjepa_eval.evaluation.plans.knn import plan_knn
from hjepa_eval.evaluation.plans.linear import plan_linear
from hjepa_eval.evaluation.plans.low_shot import plan_low_shot
from hjepa_eval.evaluation.settings import (
    FewShotSettings,
    KnnSettings,
    LinearSettings,
    LowShotSettings,
    OutputSettings,
    ProbeSettings,
)
from hjepa_eval.evaluation.stages import feature_seeds, probe_stages, probe_word

if TYPE_CHECKING:
    import typer

    from hjepa_eval.evaluation.features import Features
    from hjepa_eval.evaluation.measure import Plan
    from hjepa_eval.results.records import Record

SettingsT = TypeVar("SettingsT", bound=ProbeSettings)


def show(records: Sequence[Record], settings: OutputSettings) -> None:
    """Print the table, or the records themselves with `--json`."""
    if settings.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        from hjepa_eval.report.formats.terminal import terminal

        print(terminal(records), end="")


def prepare(settings: SettingsT, talk: Talk) -> SettingsT:
    """Check that results can be written, fill in every default, and say which model is taken when none was named."""
    from hjepa_eval.evaluation.features import resolve
    from hjepa_eval.results.files import check_folder

    check_folder(settings.out)
    resolved = resolve(settings)
    if settings.model is None:
        talk.note(f"--model {resolved.model}, the newest finished run")
    return resolved


def collect_seeds(settings: ProbeSettings, talk: Talk, *, repair: bool = False) -> dict[int, Features]:
    """Return the features for every seed; only untrained weights and augmented views differ from seed to seed."""
    from hjepa_eval.evaluation.features import collect_features

    seeds = settings.all_seeds
    found = {}
    for seed in feature_seeds(settings):
        own = settings.model_copy(update={"seed": seed})
        # The weights of a seed change no cost; a record says those of the first.
        found[seed] = collect_features(own, talk, repair=repair, costs=seed == seeds[0])
    return found if len(found) == len(seeds) else dict.fromkeys(seeds, found[seeds[0]])


def say_deviations(plan: Plan, talk: Talk) -> None:
    """Say what a protocol does not reproduce; the record and the Markdown report carry it too."""
    for deviation in plan.deviations:
        talk.note(f"protocol {plan.protocol}: {deviation}")


def run_probe(settings: SettingsT, plan: Callable[[SettingsT], Plan]) -> None:
    """Run one probe on one encoder: print what it found, then write the record."""
    from hjepa_eval.evaluation.measure import measure

    talk = Stderr(quiet=settings.quiet)
    resolved = prepare(settings, talk)
    planned = plan(resolved)  # An unknown protocol ends here, before any work.
    with talk.job():
        talk.plan(probe_stages(resolved, [probe_word(planned.probe)]))
        measured = measure(planned, collect_seeds(resolved, talk), resolved, talk)
    say_deviations(planned, talk)
    # Before stdout, which may take nothing.
    written = measured.write(settings.out, predictions=settings.predictions)
    show([measured.record], settings)
    talk.note(f"written: {written}")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @settings_command(app, "knn", KnnSettings)
    def knn(settings: KnnSettings) -> None:
        """Nearest neighbours at every level.

        FAISS exact search, cosine, DINO's weighting; all k from one search.
        """
        run_probe(settings, plan_knn)

    @settings_command(app, "linear", LinearSettings)
    def linear(settings: LinearSettings) -> None:
        """A linear classifier at every level.

        Logistic regression unless --protocol says otherwise. What is tuned is chosen on a held-out part of train, then
        all of train is fitted; test is touched once.
        """
        run_probe(settings, plan_linear)

    @settings_command(app, "fewshot", FewShotSettings)
    def fewshot(settings: FewShotSettings) -> None:
        """Few-shot episodes at every level.

        Drawn from the test images, the same episodes for every level; nearest class mean of normalised features.
        """
        run_probe(settings, plan_few_shot)

    @settings_command(app, "lowshot", LowShotSettings)
    def lowshot(settings: LowShotSettings) -> None:
        """Few labels at every level.

        A classifier sees a part of the train labels (1 % and 10 % when nothing is said) and is tested on all of test;
        several draws, the same for every level.
        """
        run_probe(settings, plan_low_shot)
