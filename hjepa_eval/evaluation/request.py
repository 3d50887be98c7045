"""What an evaluation is asked for: which models, with what every probe shares, and which probes with their options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from hjepa_eval.config import Settings, build, build_together, given_values
from hjepa_eval.errors import ConfigError, EncoderError
from hjepa_eval.evaluation.probe import Probe, load_probe
from hjepa_eval.evaluation.settings import DATA, EvalSettings, ProbeSettings, ProfileSettings, option

if TYPE_CHECKING:
    from hjepa_eval.evaluation.gallery.gallery import DrawMasks
    from hjepa_eval.evaluation.models.given import Given

# Not split at commas: `?layers=blocks.1,blocks.3` is part of a name.
_Models = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value])
]


class Models(Settings):
    """The encoders to evaluate."""

    model: _Models = option(
        (),
        "encoder, as in 'hjepa models', ALIAS=NAME to show it under a short name, or a glob of runs such as 'runs/*'; "
        "repeatable; the newest finished run under runs/ when not given",
        group=DATA,
    )


# Named among probes, but no probe: it has no single score.
PROFILE = "profile"


@dataclass(frozen=True)
class Request:
    """An evaluation to be made.

    Attributes:
        models: as asked for, globs resolved; empty for the newest finished run.
        common: what all probes share; its `model` is filled in for each model.
        probes: each with its own options.
        command: what asked for it, as records say it; empty for the program's own command line.
        profile: what to profile beside the probes; None where nobody named it among them.
        given: encoders and images that the caller holds.
        write: write records, and what else the options ask for, into the folder `out`.
        draw_masks: draws the masks of a run for its gallery.
        closing: names of stages that the caller adds.
        say_deviations: say what protocols do not reproduce, which records and tables hold, too.
        aliases: model, as asked for -> its short name.
    """

    models: tuple[str, ...]
    common: ProbeSettings
    probes: tuple[tuple[Probe[Any], Settings], ...]
    command: str = ""
    profile: ProfileSettings | None = None
    given: Given | None = None
    write: bool = True
    draw_masks: DrawMasks | None = None
    closing: tuple[str, ...] = ()
    say_deviations: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProfileRequest:
    """The models to profile, and what to measure."""

    models: tuple[str, ...]
    settings: ProfileSettings


def read_request(
    schema: type[ProbeSettings],
    *,
    probes: Sequence[Probe[Any]] | None = None,
    config: Path | None = None,
    assignments: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Request:
    """Return what options ask for.

    Args:
        schema: of what the probes share; `EvalSettings` names the probes, too.
        probes: to run, where no option names them.
        config: YAML file with options.
        assignments: `KEY=VALUE`.
        flags: options by key.

    Raises:
        ConfigError: anything does not fit; the message lists all problems.
        UnknownNameError: there is no such probe.
        EncoderError: a glob of runs names none, or one that is not finished.
    """
    given = given_values(schema, config=config, assignments=assignments, flags=flags)
    source = f"{config} and options" if config is not None else "options"
    named_models = build(Models, {"model": given.pop("model")} if "model" in given else {}, source).model
    models, aliases = read_aliases(named_models)
    profiled = False
    if probes is None:
        named = {"probes": given["probes"]} if "probes" in given else {}
        names = dict.fromkeys(build(EvalSettings, named, source).probes)
        profiled = PROFILE in names
        probes = [load_probe(name) for name in names if name != PROFILE]
        if not probes:
            raise ConfigError("--probes profile alone has no table; run hjepa profile, or name probes beside it")
    schemas = [schema, *(probe.settings for probe in probes)]
    of_profile = _only_of_profile(given, schemas) if profiled else {}
    common, *options = build_together(schemas, {key: given[key] for key in given if key not in of_profile}, source)
    assert isinstance(common, ProbeSettings)
    twice = {probe.name for probe in probes if [other.name for other in probes].count(probe.name) > 1}
    if twice:
        raise ConfigError(f"--probes has two probes of the name {sorted(twice)[0]}; a record tells them apart by name")
    _check_seeds(models, common, options)
    profile = _profile_settings(common, of_profile, source) if profiled else None
    return Request(
        expand_models(models), common, tuple(zip(probes, options, strict=True)), profile=profile, aliases=aliases
    )


# Encoders whose weights, or centres, are drawn.
_DRAWN = ("random", "kmeans")


def _check_seeds(models: Sequence[str], common: ProbeSettings, options: Sequence[Settings]) -> None:
    """Check that `--seed` beside `--seeds` says something: the seed of untrained weights or augmented passes.

    Raises:
        ConfigError: it does not.
    """
    encoders = [*models, *(common.baselines if isinstance(common, EvalSettings) else ())]
    if not common.seeds or "seed" not in common.model_fields_set:
        return
    if any(getattr(own, "views", 0) for own in options):
        return
    if not any(encoder.startswith(_DRAWN) for encoder in encoders):
        raise ConfigError(
            f"--seed {common.seed} beside --seeds {','.join(map(str, common.seeds))} has no effect; leave out --seed"
        )


def _only_of_profile(given: Mapping[str, Any], schemas: Sequence[type[Settings]]) -> dict[str, Any]:
    """Return what was given for a profile alone, such as `changes`; what probes know too is theirs."""
    known = {key for schema in schemas for name, field in schema.model_fields.items() for key in (name, field.alias)}
    return {key: value for key, value in given.items() if key in ProfileSettings.model_fields and key not in known}


def _profile_settings(common: ProbeSettings, more: Mapping[str, Any], source: str) -> ProfileSettings:
    """Return a profile of the same images, with what was said of them, and with options of `hjepa profile`.

    Raises:
        ConfigError: one of these does not fit.
    """
    shared = {name for name in common.model_fields_set if name in ProfileSettings.model_fields} - {"as_json"}
    return build(ProfileSettings, {**{name: getattr(common, name) for name in shared}, **more}, source)


def read_profile_request(
    *, config: Path | None = None, assignments: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> ProfileRequest:
    """Return the models to profile and what to measure.

    Raises:
        ConfigError: anything does not fit; the message lists all problems.
        EncoderError: a glob of runs names none, or one that is not finished.
    """
    given = given_values(ProfileSettings, config=config, assignments=assignments, flags=flags)
    source = f"{config} and options" if config is not None else "options"
    models = build(Models, {"model": given.pop("model")} if "model" in given else {}, source).model
    return ProfileRequest(expand_models(read_aliases(models)[0]), build(ProfileSettings, given, source))


# `late=enc.py:late`; in names, `=` stands after a colon, a slash or a question mark.
_ALIAS = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


def read_aliases(models: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return models without the aliases of `ALIAS=NAME`, and name -> alias.

    Raises:
        ConfigError: two names have one alias, or one name two.
    """
    names, aliases = [], dict[str, str]()
    for model in models:
        match = None if Path(model).exists() else _ALIAS.fullmatch(model)
        name = match[2] if match else model
        names.append(name)
        if match and (
            aliases.get(name, match[1]) != match[1] or (name not in aliases and match[1] in aliases.values())
        ):
            raise ConfigError(f"--model {model}: each alias is for one model, and each model has one alias")
        if match:
            aliases[name] = match[1]
    return tuple(names), aliases


def expand_models(models: Sequence[str]) -> tuple[str, ...]:
    """Return the models, each once, with the runs that a glob such as `runs/*` means in its place.

    Raises:
        EncoderError: a glob names no run, or one that is not finished; or a name is two, with a comma between.
    """
    expanded: list[str] = []
    for model in models:
        name, *options = model.split("?")
        if ":" in name.partition(",")[2]:
            several = " ".join(f"--model {part.strip()}" for part in name.split(","))
            raise EncoderError(f"--model {model} is several names; give each its own: {several}")
        expanded += ["?".join([run, *options]) for run in _runs(name)] if "*" in name else [model]
    return tuple(dict.fromkeys(expanded))


def _runs(pattern: str) -> list[str]:
    """Return the folders of finished runs that a pattern names, by name."""
    from hjepa_eval.encoders.kinds.run import is_run

    path = Path(pattern).expanduser()
    root = Path(path.anchor) if path.is_absolute() else Path()
    runs = sorted(run for run in root.glob(str(path.relative_to(root))) if is_run(run))
    if not runs:
        raise EncoderError(f"--model {pattern}: no pretraining run there; 'hjepa pretrain' or 'hjepa demo' makes one")
    unfinished = [run for run in runs if not (run / "summary.json").is_file()]
    if unfinished:
        listed = ", ".join(map(str, unfinished))
        raise EncoderError(
            f"--model {pattern}: not finished: {listed}; let it go on with hjepa pretrain --resume {unfinished[0]}, or "
            "name the other runs, each with --model"
        )
    return [str(run) for run in runs]
