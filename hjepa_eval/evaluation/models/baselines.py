"""Which models an evaluation has: those asked for, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.given import Given, resolve
from hjepa_eval.evaluation.models.imported import check_imported
from hjepa_eval.evaluation.settings import EvalSettings, ProbeSettings, ProfileSettings
from hjepa_eval.features.imported import is_imported

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
