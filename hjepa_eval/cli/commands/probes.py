"""From a probe's settings to its printed table and written record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hjepa_eval.cli.console import Talk, print_json
from hjepa_eval.evaluation.features import Features, collect_features, resolve
from hjepa_eval.evaluation.measure import Plan, measure
from hjepa_eval.evaluation.settings import OutputSettings, ProbeSettings
from hjepa_eval.evaluation.stages import feature_seeds, probe_stages, probe_word
from hjepa_eval.report.formats.terminal import terminal
from hjepa_eval.results.files import check_folder
from hjepa_eval.results.records import Record

SettingsT = TypeVar("SettingsT", bound=ProbeSettings)


def show(records: Sequence[Record], settings: OutputSettings) -> None:
    """Print the table, or the records themselves with `--json`."""
    if settings.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print(terminal(records), end="")


def prepare(settings: SettingsT, talk: Talk) -> SettingsT:
    """Check that results can be written, fill in every default, and say which model is taken when none was named."""
    check_folder(settings.out)
    resolved = resolve(settings)
    if settings.model is None:
        talk.note(f"--model {resolved.model}, the newest finished run")
    return resolved


def collect_seeds(settings: ProbeSettings, talk: Talk, *, repair: bool = False) -> dict[int, Features]:
    """Return the features for every seed; only untrained weights and augmented views differ from seed to seed."""
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
    talk = Talk(quiet=settings.quiet)
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
