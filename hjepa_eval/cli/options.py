"""A command is a function of a settings object: the schema's fields become its options."""

from __future__ import annotations

import inspect
import keyword
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from hjepa_eval.cli.console import told_errors
from hjepa_eval.config import Settings, load, option_keys

SettingsT = TypeVar("SettingsT", bound=Settings)


def _plain(annotation: Any) -> set[Any]:
    """Return the plain types in an annotation: `tuple[int, ...] | None` holds tuple and int."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, tuple, list):
        inside = set().union(*(_plain(argument) for argument in typing.get_args(annotation)))
        return inside | {tuple} if origin in (tuple, list) else inside
    return {annotation} if isinstance(annotation, type) else set()


def words_of(annotation: Any) -> list[str]:
    """Return the words of a Literal anywhere in an annotation, such as `tuple[Literal["a", "b"], ...] | None`."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    return [word for argument in typing.get_args(annotation) for word in words_of(argument)]


def _metavar(field: FieldInfo) -> str:
    choices = words_of(field.annotation)
    if choices:
        return f"[{'|'.join(choices)}]"
    kinds = _plain(field.annotation)
    for kind, name in ((Path, "PATH"), (int, "N"), (float, "X")):
        if kind in kinds:
            return name
    return "TEXT"


def _help(field: FieldInfo) -> str:
    if field.default is None or field.default == () or isinstance(field.default, bool):
        return str(field.description)
    value = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{field.description}  [default: {value}]"


def _group(field: FieldInfo) -> int:
    extra = field.json_schema_extra
    return int(str(extra["group"])) if isinstance(extra, dict) else 0


def _parameter(key: str, field: FieldInfo) -> inspect.Parameter:
    flag = "--" + key.replace("_", "-")
    kinds = _plain(field.annotation)
    kind: Any = bool if bool in kinds else (list[str] if tuple in kinds else str)
    if kind is bool and field.default:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"  # What is on already needs a way to be switched off.
    info = typer.Option(
        flag,
        help=_help(field),
        show_default=False,
        metavar=None if kind is bool else _metavar(field),
    )
    # A keyword of Python cannot name a parameter.
    name = f"{key}_" if keyword.iskeyword(key) else key
    # Every value travels as text: the schema converts it, and says what is wrong with it in its one message.
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _extra_parameters() -> list[inspect.Parameter]:
    """Return the parameters `--config` and `--set`, which stand last."""
    config = typer.Option("--config", help="YAML file with any of these options", metavar="PATH")
    assign = typer.Option("--set", metavar="KEY=VALUE", help="one setting, repeatable")
    return [
        inspect.Parameter(
            "config_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, config]
        ),
        inspect.Parameter(
            "assignments", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, assign]
        ),
    ]


def option_parameters(schemas: Sequence[type[Settings]]) -> list[inspect.Parameter]:
    """Return a parameter for every key of several schemas, in the order of a help; of equal keys the first counts."""
    fields: dict[str, FieldInfo] = {}
    for schema, keys in zip(schemas, option_keys(schemas), strict=True):
        for key, name in keys.items():
            fields.setdefault(key, schema.model_fields[name])
    return [_parameter(key, field) for key, field in sorted(fields.items(), key=lambda item: _group(item[1]))]


def given_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, by key."""
    return {key.rstrip("_"): value for key, value in options.items() if value is not None and value != []}


def add_command(
    app: typer.Typer, name: str, run: Callable[..., None], parameters: Sequence[inspect.Parameter], description: str
) -> None:
    """Register a function as the command `name`: it is called with `config_file`, `assignments` and the parameters."""
    parameters = [*parameters, *_extra_parameters()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = description
    app.command(name)(run)


def settings_command(
    app: typer.Typer, name: str, schema: type[SettingsT]
) -> Callable[[Callable[[SettingsT], None]], Callable[[SettingsT], None]]:
    """Register a function of `schema` as the command `name`, with an option per field, `--config` and `--set`."""

    def register(function: Callable[[SettingsT], None]) -> Callable[[SettingsT], None]:
        def run(config_file: Path | None = None, assignments: list[str] | None = None, **options: Any) -> None:
            with told_errors():
                flags = given_flags(options)
                function(load(schema, config=config_file, assignments=assignments or (), flags=flags))

        add_command(app, name, run, option_parameters([schema]), inspect.getdoc(function) or "")
        return function

    return register
