"""Evaluate: every probe asked for, on every model and its baselines, from names to records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hjepa_eval.errors import ConfigError, ProbeError
from hjepa_eval.evaluation.features import NOTHING_GIVEN, FeatureSet, Given, collect_features, find_encoder, resolve
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.stages import evaluation_stages, feature_seeds
from hjepa_eval.evaluation.measure import Measured, Task, measure
from hjepa_eval.evaluation.models.imported import check_imported, imported_features
from hjepa_eval.evaluation.request import Request
from hjepa_eval.evaluation.settings import EvalSettings, ProbeSettings, ProfileSettings
from hjepa_eval.features.imported import is_imported
from hjepa_eval.results.files import check_folder
from hjepa_eval.results.outcomes import SampleOutcomes
from hjepa_eval.results.records import Record

if TYPE_CHECKING:
    from hjepa_eval.evaluation.gallery.gallery import DrawMasks


@dataclass(frozen=True)
class Evaluated:
    """A record, the outcome of every sample, and the file that both were written to, if any."""

    record: Record
    samples: SampleOutcomes
    path: Path | None = None


def evaluate(
    request: Request,
    talk: Talk,
    *,
    given: Given = NOTHING_GIVEN,
    write: bool = True,
    draw_masks: DrawMasks | None = None,
    closing: Sequence[str] = (),
    say_deviations: bool = True,
) -> list[Evaluated]:
    """Return the records of all probes for the models and their baselines; each is written as soon as it is there.

    Args:
        request: models, probes, options.
        talk: told about progress.
        given: encoders and images that the caller holds.
        write: write records, and what else the options ask for, into the folder `out`.
        draw_masks: draws the masks of a run for its gallery.
        closing: names of stages that the caller adds.
        say_deviations: say what protocols do not reproduce, which records and reports hold, too.

    Raises:
        HjepaError: anything that the user can mend; what was written stays.
    """
    if write:
        check_folder(request.common.out)
    settings = models_and_baselines(request.models, request.common, talk, given)
    tasks = [Task(probe.name, probe.heading, probe.plan(own), {}) for probe, own in request.probes]
    views = max(task.plan.views for task in tasks)
    gallery = _gallery(request.common) if write else None
    # A typo in any but the first ends here, before any work; the first is opened next.
    later = list(settings.items())[1:]
    check_imported(settings, request.common)
    encoders = {
        spec: given.encoders.get(spec) or find_encoder(own, images=given.images)
        for spec, own in later
        if not is_imported(spec)
    }
    steps = [task.heading.title for task in tasks]
    closing = [*(["galleries"] if gallery else []), *closing]
    talk.plan(evaluation_stages(settings, steps, encoders, views=views, closing=closing))
    evaluated: list[Evaluated] = []
    features = {}
    left_out: set[str] = set()
    for spec, own in settings.items():
        features[spec] = collect_seeds(own, tasks, talk, repair=len(tasks) > 1, given=given)
        for measured in _measure(tasks, request, own, features[spec], talk, left_out=left_out):
            evaluated.append(_written(measured, own) if write else Evaluated(measured.record, measured.samples))
    if gallery is not None and not any(map(is_imported, features)):  # Imported features have no images to show.
        from hjepa_eval.evaluation.gallery.gallery import write_galleries

        write_galleries(features, gallery, talk, draw_masks=draw_masks)
    for task in tasks if say_deviations else ():
        if any(entry.record.probe == task.probe for entry in evaluated):
            _say_deviations(task, talk)
    return evaluated


def collect_seeds(
    settings: ProbeSettings, tasks: Sequence[Task], talk: Talk, *, repair: bool = False, given: Given = NOTHING_GIVEN
) -> dict[int, FeatureSet]:
    """Return the features for every seed; only untrained weights and augmented views differ from seed to seed."""
    views = max(task.plan.views for task in tasks)
    readouts = (settings.readout, *(readout for task in tasks for readout in task.plan.readouts))
    if is_imported(str(settings.model)):
        on_test = next((task.heading.title for task in tasks if task.plan.split == "test"), "")
        features = imported_features(settings, talk, readouts=readouts, views=views, needs_test=on_test)
        return dict.fromkeys(settings.all_seeds, features)
    seeds = settings.all_seeds
    collected = {
        seed: collect_features(
            settings.model_copy(update={"seed": seed}),
            talk,
            readouts=readouts,
            views=views,
            repair=repair,
            needs_test=any(task.plan.split == "test" for task in tasks),
            costs=seed == seeds[0],  # The weights of a seed change no cost; a record says those of the first.
            given=given,
        )
        for seed in feature_seeds(settings, views=views)
    }
    return collected if len(collected) == len(seeds) else dict.fromkeys(seeds, collected[seeds[0]])


def _measure(
    tasks: Sequence[Task],
    request: Request,
    settings: ProbeSettings,
    features: Mapping[int, FeatureSet],
    talk: Talk,
    *,
    left_out: set[str],
) -> Iterator[Measured]:
    """Yield what each probe measures; of several, one that the images do not allow may be left out, which is said."""
    for task, (_, options) in zip(tasks, request.probes, strict=True):
        said = {**settings.model_dump(mode="json", by_alias=True), **options.model_dump(mode="json", by_alias=True)}
        own = replace(task, settings=said, fuse=settings.fuse == "concat", command=request.command)
        try:
            yield measure(own, features, talk, said=task is not tasks[0])
        except ProbeError as error:
            if len(tasks) == 1 or not task.plan.may_be_left_out:
                raise
            if str(error) not in left_out:  # Most reasons are the images', and so every encoder's.
                left_out.add(str(error))
                talk.note(f"{task.heading.title} is left out: {error}")


def _written(measured: Measured, settings: ProbeSettings) -> Evaluated:
    path, record = measured.write(settings.out, predictions=settings.predictions)
    return Evaluated(record, measured.samples, path)


def _say_deviations(task: Task, talk: Talk) -> None:
    """Say what a protocol does not reproduce; the record and the Markdown report carry it too."""
    for deviation in task.plan.deviations:
        talk.note(f"protocol {task.plan.protocol}: {deviation}")


def _gallery(common: ProbeSettings) -> EvalSettings | None:
    """Return the settings of the galleries to write, if any.

    Raises:
        ConfigError: they cannot be made.
    """
    if not isinstance(common, EvalSettings) or not common.gallery:
        return None
    from hjepa_eval.evaluation.gallery.gallery import check_map

    check_map(common)
    return common


_WITH_BASELINES = (EvalSettings, ProfileSettings)
SettingsT = TypeVar("SettingsT", ProbeSettings, ProfileSettings)


def models_and_baselines(models: Sequence[str], common: SettingsT, talk: Talk, given: Given) -> dict[str, SettingsT]:
    """Return spec -> settings with every default filled in: of the models, then of their baselines, each once.

    Raises:
        ConfigError: models were pretrained on different data and none was named, or a baseline cannot be.
    """
    check_imported(models, common)
    if given.images:
        common = common.model_copy(update={"dataset": given.images["train"].name})
    resolved = [resolve(common.model_copy(update={"model": model})) for model in models or (None,)]
    if not models:
        talk.note(f"--model {resolved[0].model}, the newest finished run")
    data = {(own.dataset, own.root) for own in resolved}
    if len(data) > 1:
        named = ", ".join(f"{own.model}: {own.dataset}" for own in resolved)
        raise ConfigError(f"the models were pretrained on different data ({named}); name one for all with --dataset")
    settings = {str(own.model): own for own in resolved}
    for own in resolved:
        for baseline in baselines_of(str(own.model), common) if isinstance(common, _WITH_BASELINES) else ():
            # A baseline has its own levels: the choice of levels is the model's.
            settings.setdefault(baseline, own.model_copy(update={"model": baseline, "level": ()}))
    return settings


def baselines_of(model: str, settings: EvalSettings | ProfileSettings) -> list[str]:
    """Return the names of a model's baselines.

    Of baselines that nobody named, those are left out that say nothing about this model: its untrained twin where it
    has none, and pixels beside pixels.

    Raises:
        ConfigError: `--baselines random` was asked for and there is no such twin.
    """
    named = "baselines" in settings.model_fields_set
    if is_imported(model) and not named:
        return []
    baselines = []
    for baseline in settings.baselines:
        if not named and baseline.startswith("pixels") and model.partition(":")[0] == "pixels":
            continue
        try:
            baselines.append(_untrained(model) if baseline == "random" else baseline)
        except ConfigError:
            if named:
                raise
    return [baseline for baseline in dict.fromkeys(baselines) if baseline != model]


def _untrained(model: str) -> str:
    """Return the name of the same encoder before its training: `--baselines random`.

    Raises:
        ConfigError: only a run, a network of timm's and a module with a checkpoint can be built again without weights.
    """
    from hjepa_eval.encoders.kinds.run import is_run
    from hjepa_eval.encoders.networks.naming import OPTIONS

    name, *options = model.split("?")
    kind, colon, argument = name.partition(":")
    # Without what says which weights, and how they are read.
    kept = [entry for entry in options if entry.partition("=")[0] not in OPTIONS]
    if kind == "timm" and colon and not argument.startswith("local-dir:"):
        return "?".join([f"random:{argument}", *kept])
    if kind == "packaged" and argument:
        return f"random:tf_{argument}"
    if name.rpartition(":")[0].endswith(".py") and any(entry.startswith("checkpoint=") for entry in options):
        return "?".join([name, *kept])
    if is_run(Path(name)):
        return f"random:{name}"
    raise ConfigError(f"--baselines random: {model} has no untrained twin; name one, such as random:vit_tiny_patch4_32")
