"""Evaluate: every probe asked for, on every model and its baselines, from names to records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.encoders.kinds.run import with_branch
from hjepa_eval.errors import ConfigError, ProbeError
from hjepa_eval.evaluation.features import FeatureSet, collect_features
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.live.stages import evaluation_stages, feature_seeds
from hjepa_eval.evaluation.measure import Measured, Task, measure
from hjepa_eval.evaluation.models.baselines import models_and_baselines
from hjepa_eval.evaluation.models.given import NOTHING_GIVEN, Dataset, Given, Model, find_encoder, read_call
from hjepa_eval.evaluation.models.imported import check_imported, imported_features
from hjepa_eval.evaluation.models.tokens import join_needs
from hjepa_eval.evaluation.probe import Probe, load_probe
from hjepa_eval.evaluation.request import PROFILE, Request, read_request
from hjepa_eval.evaluation.result import Evaluated, Result
from hjepa_eval.evaluation.settings import EvalSettings, ProbeSettings
from hjepa_eval.features.imported import is_imported
from hjepa_eval.results.files import check_folder

if TYPE_CHECKING:
    from hjepa_eval.datasets.transform import Transform

DEFAULT_PROBES = ("knn", "linear")


def evaluate(
    model: Model | Sequence[Model] | None = None,
    dataset: Dataset | None = None,
    *,
    probes: Sequence[str | Probe[Any]] = DEFAULT_PROBES,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    request: Request | None = None,
    talk: Talk | None = None,
    **options: Any,
) -> Result:
    """Measure what each level of one or several encoders knows.

    What the cache has is not extracted again; it is the command line's cache, and the commands call this function.

    Args:
        model: a name as in `hjepa models`, an `Encoder`, any `nn.Module` with `layers`, or several; the newest finished
            run under `runs/` when not given.
        dataset: a name as in `hjepa datasets`, or two datasets, of train and of test; the one a run was pretrained on,
            else digits, when not given.
        probes: names, `FILE.py:PROBE`, or probes.
        layers: of modules: the named layers that are its levels.
        transform: of modules: how images become their input.
        out: folder to write records, outcomes and galleries to, as the command does; nothing is written without it.
        quiet: no progress, no notes.
        request: instead of all of the above: what to evaluate, as commands read it from their options.
        talk: told about progress; stderr or the notebook when not given.
        **options: those of `hjepa eval` by their names, such as `baselines=["none"]`, `seeds=[0, 1]`, `k=[5, 20]`.

    Raises:
        HjepaError: anything that the caller can mend, in one line; what was written stays.
    """
    if request is None:
        if PROFILE in probes:
            raise ConfigError("a profile is no probe with a score; hjepa.profile(model, dataset) returns it")
        declared = [probe if isinstance(probe, Probe) else load_probe(probe) for probe in probes]
        if not declared:
            raise ConfigError("probes is empty; give at least one, such as probes=['knn']")
        call = read_call(
            model,
            dataset,
            options,
            layers=layers,
            transform=transform,
            quiet=quiet,
            probes=[probe.name for probe in declared],
        )
        flags = {**call.flags, **({"model": list(call.models)} if call.models else {})}
        request = read_request(EvalSettings, probes=declared, flags=flags | ({} if out is None else {"out": Path(out)}))
        request = replace(
            request, command=f"hjepa_eval.evaluate{call.spelled}", given=call.given, write=out is not None
        )
    talk = talk or Stderr(quiet=request.common.quiet)
    with talk.job():
        return Result(_evaluate(request, talk, given=request.given or NOTHING_GIVEN))


def _evaluate(request: Request, talk: Talk, *, given: Given) -> list[Evaluated]:
    """Return the records of all probes for the models and their baselines; each is written as soon as it is there."""
    if request.write:
        check_folder(request.common.out)
    settings = models_and_baselines(request.models, request.common, talk, given)
    aliases = {with_branch(name, request.common.encoder): alias for name, alias in request.aliases.items()}
    tasks = [Task(probe.name, probe.heading, probe.plan(own), {}) for probe, own in request.probes]
    gallery = _gallery(request.common) if request.write else None
    _plan(request, settings, tasks, talk, given=given)
    evaluated: list[Evaluated] = []
    features = {}
    left_out: set[str] = set()
    for spec, own in settings.items():
        collected = collect_seeds(own, tasks, talk, repair=len(tasks) > 1, given=given)
        features[spec] = {seed: _renamed(one, aliases.get(spec, "")) for seed, one in collected.items()}
        for measured in _measure(tasks, request, own, features[spec], talk, left_out=left_out):
            evaluated.append(_written(measured, own) if request.write else Evaluated(measured.record, measured.samples))
    if gallery is not None and not any(map(is_imported, features)):  # Imported features have no images to show.
        from hjepa_eval.evaluation.gallery.gallery import write_galleries

        write_galleries(features, gallery, talk, draw_masks=request.draw_masks)
    for task in tasks if request.say_deviations else ():
        if any(entry.record.probe == task.probe for entry in evaluated):
            _say_deviations(task, talk)
    return evaluated


def _renamed(features: FeatureSet, alias: str) -> FeatureSet:
    """Return features whose records carry an alias of the encoder, where there is one."""
    encoder = features.encoder.model_copy(update={"alias": alias})
    return replace(features, encoder=encoder) if alias else features


def _plan(
    request: Request, settings: Mapping[str, ProbeSettings], tasks: Sequence[Task], talk: Talk, *, given: Given
) -> None:
    """Say which stages are to come; a typo in any model but the first ends here, before any work."""
    check_imported(settings, request.common)
    later = list(settings.items())[1:]  # The first is opened next.
    encoders = {
        spec: given.encoders.get(spec) or find_encoder(own, images=given.images)
        for spec, own in later
        if not is_imported(spec)
    }
    galleries = ["galleries"] if request.write and _gallery(request.common) else []
    steps = [task.heading.title for task in tasks]
    views = max(task.plan.views for task in tasks)
    talk.plan(evaluation_stages(settings, steps, encoders, views=views, closing=[*galleries, *request.closing]))


def collect_seeds(
    settings: ProbeSettings, tasks: Sequence[Task], talk: Talk, *, repair: bool = False, given: Given = NOTHING_GIVEN
) -> dict[int, FeatureSet]:
    """Return the features for every seed; only untrained weights and augmented views differ from seed to seed."""
    views = max(task.plan.views for task in tasks)
    readouts = (settings.readout, *(readout for task in tasks for readout in task.plan.readouts))
    if is_imported(str(settings.model)):
        reading = next((task.heading.title for task in tasks if task.plan.tokens is not None), "")
        if reading:
            raise ProbeError(f"{settings.model} has one vector per image and no tokens, which {reading} reads")
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
            tokens=join_needs([task.plan.tokens for task in tasks]),
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
