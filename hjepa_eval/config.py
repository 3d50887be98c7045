"""Settings: pydantic schemas filled from flags, environment and YAML, with one readable error for everything wrong.

A schema's fields are the only place where an option is described and has its default; the command line and the
YAML files are read against it. Precedence: flags, then environment, then YAML, then the schema.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hjepa_eval.errors import ConfigError, did_you_mean, shown

if TYPE_CHECKING:
    import yaml

SettingsT = TypeVar("SettingsT", bound="Settings")


def split_options(spec: str, *, what: str) -> tuple[str, dict[str, str]]:
    """Return the name in `name?key=value?key=value`, and its options.

    Args:
        spec: as the user wrote it.
        what: the flag that it stands behind, for messages.

    Raises:
        ConfigError: an option has no value, or a key is said twice.
    """
    name, *queries = spec.split("?")
    options: dict[str, str] = {}
    for query in queries:
        key, equals, value = query.partition("=")
        if not equals:
            raise ConfigError(f"{what} {spec}: expected ?key=value after the name, found ?{query}")
        if key in options:
            raise ConfigError(f"{what} {spec}: ?{key} is said twice; keep one of them")
        glued = re.search(r",([a-z_]+=)", value)
        if glued:
            raise ConfigError(
                f"{what} {spec}: options begin with ? each; write ?{glued[1]}... instead of ,{glued[1]}..."
            )
        options[key] = value
    return name, options


class Settings(BaseModel):
    """Parent of all schemas: unknown keys are errors, and settings do not change once they are read."""

    # Built when first used: who asks for help waits for no validator.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


@functools.cache
def _strict_loader() -> Any:
    """Return a YAML loader for which a key said twice is an error and `1e-4` is a number.

    It is made when a text is read: yaml takes a fifth of the time in which a help is there.
    """
    import yaml

    class StrictLoader(yaml.SafeLoader):
        pass

    StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
    # YAML 1.1 reads `1e-4` as a string, because it has no dot.
    StrictLoader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
    return StrictLoader


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: {shown(key)} cannot be a key; write a word")
        if key in mapping:
            line = key_node.start_mark.line + 1
            raise ConfigError(f"line {line}: the key {shown(key)} is said twice; keep one of them")
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


def parse_yaml(text: str, source: str) -> Any:
    """Return the content of a YAML `text`.

    Raises:
        ConfigError: the text is not YAML, or says a key twice; the message names `source` and the line.
    """
    import yaml

    # It is a SafeLoader: it builds plain values only.
    try:
        loader = _strict_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: it is nested deeper than {_DEEPEST} levels") from None
    except ValueError as error:  # Of the constructor: a day that no month has, a number of thousands of digits.
        raise ConfigError(f"{source}: a value cannot be read: {str(error).partition(';')[0]}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{source}: {where}not valid YAML: {getattr(error, 'problem', error)}") from None


# A configuration of thousands of values is none; aliases could make billions of a few lines.
_DEEPEST, _MOST_VALUES = 64, 100_000


def _check_size(node: Any) -> None:
    """Check how deep a YAML document is nested, and how many values it stands for when its aliases are written out.

    Raises:
        ConfigError: too deep, or too many.
    """
    sizes: dict[int, int] = {}

    def measure(node: Any, depth: int) -> int:
        if depth > _DEEPEST:  # An alias of something that it is in comes here, too.
            raise ConfigError(f"line {node.start_mark.line + 1}: it is nested deeper than {_DEEPEST} levels")
        if id(node) not in sizes:
            inside = node.value if isinstance(node.value, list) else []
            parts = [part for item in inside for part in (item if isinstance(item, tuple) else (item,))]
            sizes[id(node)] = 1 + sum(measure(part, depth + 1) for part in parts)
        if sizes[id(node)] > _MOST_VALUES:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: it stands for more than {_MOST_VALUES:,} values; "
                "write out what its aliases (*name) mean"
            )
        return sizes[id(node)]

    measure(node, 0)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping at its top.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    content = parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(content).__name__}")
    return content


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the nested mapping that `a.b=value` strings (the `--set` option) spell; values are read as YAML.

    Raises:
        ConfigError: a string has no `=`.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"--set {shown(assignment)}: expected KEY=VALUE, for example --set train.minutes=5")
        *parents, leaf = dotted.strip().split(".")
        node = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {shown(assignment)}: {parent!r} was set to a value already")
            node = child
        node[leaf] = parse_yaml(text, f"--set {assignment}")
    return tree


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Return one nested mapping; where two trees say the same key, the later one wins."""
    merged: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _known_keys(schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys that `schema` knows beside the unknown one at `location`."""
    current: Any = schema
    for part in location[:-1]:
        field = current.model_fields.get(part) if isinstance(part, str) and hasattr(current, "model_fields") else None
        current = getattr(field, "annotation", None)
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
    return [field.alias or name for name, field in current.model_fields.items()]


def describe_problems(schema: type[BaseModel], error: ValidationError, source: str) -> str:
    """Return one line that lists every problem of a failed validation: key, value found, what was expected."""
    return f"{source}: " + "; ".join(_problems(schema, error))


def _problems(schema: type[BaseModel], error: ValidationError) -> list[str]:
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(schema, problem["loc"])
            problems.append(f"unknown key {shown(key)}{did_you_mean(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            problems.append(f"{key} is missing")
        elif problem["type"] in ("value_error", "assertion_error"):
            problems.append(f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"]))
        else:
            problems.append(f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {shown(problem['input'])}")
    return problems


def build(schema: type[SettingsT], values: Mapping[str, Any], source: str) -> SettingsT:
    """Return the settings that `values` spell.

    Raises:
        ConfigError: one or more values do not fit; the message names `source` and lists them all.
    """
    try:
        made = schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(describe_problems(schema, error, source)) from None
    if endless := list(_endless(made.model_dump())):
        raise ConfigError(f"{source}: {'; '.join(endless)}")
    return made


def _endless(value: Any, path: str = "") -> Iterator[str]:
    """Yield where a setting is infinite or no number: nothing can be computed with it, nor written as JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} is {value}, expected a finite number"
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        yield from _endless(part, f"{path}.{name}".strip("."))


def environment_values(schema: type[BaseModel], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the values that environment variables give to fields which name one (`json_schema_extra={"env": ...}`)."""
    variables = os.environ if environment is None else environment
    found: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner = environment_values(field.annotation, variables)
            found |= {name: inner} if inner else {}
        extra = field.json_schema_extra
        variable = extra.get("env") if isinstance(extra, dict) else None
        if isinstance(variable, str) and variables.get(variable):
            found[field.alias or name] = variables[variable]
    return found


def load(
    schema: type[SettingsT],
    *,
    config: Path | None = None,
    assignments: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Return `schema` filled from a YAML file, the environment, `--set` assignments and flags, the later ones winning.

    Raises:
        ConfigError: anything does not fit; nothing has been done yet.
    """
    from_yaml = read_yaml(config) if config is not None else {}
    given = merge(from_yaml, environment_values(schema), parse_assignments(assignments), flags or {})
    return build(schema, given, f"{config} and options" if config is not None else "options")


def option_keys(schemas: Iterable[type[BaseModel]]) -> list[dict[str, str]]:
    """Return, for each of several schemas that take their values side by side, key -> name of its field.

    A key is a field's alias or name, as in one schema alone. An alias that several of them use, such as the `protocol`
    of two probes, is nobody's key; each such field has its own name.
    """
    fields = [schema.model_fields for schema in schemas]
    aliases = [field.alias for group in fields for field in group.values() if field.alias]
    return [
        {
            field.alias if field.alias and aliases.count(field.alias) == 1 else name: name
            for name, field in group.items()
        }
        for group in fields
    ]


def given_values(
    schema: type[BaseModel],
    *,
    config: Path | None = None,
    assignments: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what YAML file, environment of a schema, `--set` assignments and flags say, the later ones winning.

    Raises:
        ConfigError: the file cannot be read, or an assignment has no value.
    """
    from_yaml = read_yaml(config) if config is not None else {}
    return merge(from_yaml, environment_values(schema), parse_assignments(assignments), flags or {})


def build_together(schemas: Sequence[type[Settings]], given: Mapping[str, Any], source: str) -> list[Settings]:
    """Return every schema filled from one set of values; a key goes to every schema that knows it.

    Raises:
        ConfigError: anything does not fit any of them; the message lists all problems.
    """
    known = [
        {**{field: field for field in schema.model_fields}, **keys}
        for schema, keys in zip(schemas, option_keys(schemas), strict=True)
    ]
    everything = [key for keys in option_keys(schemas) for key in keys]
    problems = [
        f"unknown key {key!r}{did_you_mean(key, everything)}" for key in given if not any(key in keys for keys in known)
    ]
    made: list[Settings] = []
    for schema, keys in zip(schemas, known, strict=True):
        values = {schema.model_fields[keys[key]].alias or keys[key]: given[key] for key in given if key in keys}
        try:
            made.append(schema.model_validate(values))
            problems += _endless(made[-1].model_dump())
        except ValidationError as error:
            problems += _problems(schema, error)
    if problems:
        raise ConfigError(f"{source}: {'; '.join(dict.fromkeys(problems))}")
    return made


def find_preset(name: str, folder: str) -> Path:
    """Return the YAML file that `name` means: an existing file, or a preset of `configs/<folder>` by its stem.

    Raises:
        ConfigError: there is no such file; the message lists the presets.
    """
    if Path(name).is_file():
        return Path(name)
    here = Path(__file__).resolve().parent
    # A wheel carries the presets inside the package; a checkout has them beside it.
    roots = [here / "configs", here.parent / "configs"]
    presets = {path.stem: path for root in roots for path in sorted((root / folder).glob("*.yaml"))}
    stem = Path(name).stem if Path(name).parent == Path("configs", folder) else name
    if stem in presets:
        return presets[stem]
    hint = did_you_mean(stem, presets)
    raise ConfigError(f"no configuration {name!r}{hint}; give a YAML file or one of: {', '.join(presets)}")
