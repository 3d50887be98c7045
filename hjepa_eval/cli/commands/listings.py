"""`hjepa datasets`, `hjepa models` and `hjepa protocols`: what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.settings import ImageSettings


def _said(field: str) -> str:
    return str(ImageSettings.model_fields[field].description)


AsJson = Annotated[bool, typer.Option("--json", help="print JSON on stdout instead of a table")]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="of untrained weights and of fits  [default: 0]")]
FittedOn = Annotated[
    str | None, typer.Option("--dataset", help="dataset whose train images kmeans is fitted on; digits when not given")
]
Root = Annotated[str | None, typer.Option("--root", metavar="PATH", help=_said("root"))]
Download = Annotated[bool, typer.Option("--download", help=_said("download"))]
CacheDir = Annotated[str | None, typer.Option("--cache-dir", metavar="PATH", help=_said("cache_dir"))]


Pretrain = Annotated[
    str | None,
    typer.Option("--pretrain", metavar="CONFIG", help="a pretraining YAML file or preset, such as digits, instead"),
]
Layers = Annotated[
    bool, typer.Option("--layers", help="all layers of the encoder's network, with what each gives, for ?layers=NAME")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of --pretrain, repeatable")
]


def _print_memory(config: str, assignments: list[str], *, as_json: bool) -> None:
    from hjepa_eval.cli.pretraining import describe_memory

    description, lines = describe_memory(config, assignments)
    if as_json:
        print_json(description)
    else:
        print("\n".join(lines))


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, description in rows:
        print(f"{name:<{width}}{description}")


def datasets(as_json: AsJson = False) -> None:
    """List the datasets, and the options that their names take."""
    from hjepa_eval.datasets import DATASETS
    from hjepa_eval.datasets.subsets.subsets import OPTIONS

    entries = DATASETS.values()
    if as_json:
        print_json(
            [
                {"dataset": each.usage, "description": each.description, "options": [*OPTIONS, *each.options]}
                for each in entries
            ]
        )
        return
    _print_rows([(entry.usage, entry.description) for entry in entries])
    print("\nOptions of every dataset, such as cifar10?fraction=0.1?seed=1:")
    _print_rows([(f"  ?{key}=", text) for key, text in OPTIONS.items()])
    takers: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for entry in entries:
        if entry.options:
            takers.setdefault(tuple(entry.options.items()), []).append(entry.usage)
    for options, usages in takers.items():
        print(f"And of {', '.join(usages)}:")
        _print_rows([(f"  ?{key}=", text) for key, text in options])


def protocols(as_json: AsJson = False) -> None:
    """List the probes' protocols: where each is published, and what it cannot reproduce."""
    from hjepa_eval.evaluation.plans.few_shot import FEW_SHOT_DEVIATIONS
    from hjepa_eval.probes.few_labels.classifiers import SOURCES
    from hjepa_eval.probes.few_labels.low_shot_protocols import LOW_SHOT_PROTOCOLS
    from hjepa_eval.probes.knn_protocols import KNN_PROTOCOLS
    from hjepa_eval.probes.linear.protocols import LINEAR_PROTOCOLS

    rows = [("knn", each.name, each.source, each.deviations) for each in KNN_PROTOCOLS.values()]
    rows += [("linear", each.name, each.source, each.deviations) for each in LINEAR_PROTOCOLS.values()]
    rows += [("lowshot", each.name, each.source, each.deviations) for each in LOW_SHOT_PROTOCOLS.values()]
    rows += [("fewshot", name, source, FEW_SHOT_DEVIATIONS) for name, source in SOURCES.items()]
    if as_json:
        keys = ("probe", "protocol", "source", "deviations")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    for probe, name, source, deviations in rows:
        option = "--classifier" if probe == "fewshot" else "--protocol"
        print(f"hjepa {probe} {option} {name}\n  {source}")
        print("".join(f"  - {deviation}\n" for deviation in deviations), end="")


def models(
    model: Annotated[str | None, typer.Argument(help="an encoder to look at, such as random:resnet18")] = None,
    dataset: FittedOn = None,
    root: Root = None,
    download: Download = False,
    seed: Seed = None,
    cache_dir: CacheDir = None,
    pretrain: Pretrain = None,
    assignments: Assignments = None,
    layers: Layers = False,
    as_json: AsJson = False,
) -> None:
    """List encoders, or one encoder's levels: what they read, their sizes, and what they cost.

    With --pretrain it is what a pretraining configuration takes: parameters of each part, and memory of a step.
    """
    if pretrain is not None or assignments:
        if pretrain is None or model is not None:
            raise ConfigError("--pretrain takes a configuration instead of an encoder, and --set belongs to it")
        _print_memory(pretrain, assignments or [], as_json=as_json)
        return
    from hjepa_eval.cli.commands.models import describe, describe_layers, layer_lines, lines
    from hjepa_eval.config import load
    from hjepa_eval.encoders import ENCODERS

    if model is None:
        rows = [(kind.usage, kind.description) for kind in ENCODERS.values()]
        if as_json:
            print_json([{"model": usage, "description": description} for usage, description in rows])
        else:
            _print_rows(rows)
        return
    given = {"model": model, "dataset": dataset, "root": root, "seed": seed, "cache_dir": cache_dir}
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    asked = load(ImageSettings, flags={**flags, "download": download})
    if layers:
        named = describe_layers(asked)
        if as_json:
            print_json(named)
        else:
            print("\n".join(layer_lines(named)))
        return
    description = describe(asked)
    if as_json:
        print_json(description)
    else:
        print("\n".join(lines(description)))


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (datasets, protocols, models):
        app.command(command.__name__)(guarded(command))
