"""Fields of a command's schema: the types that an option's text is read into, and `option`, which makes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def _split(value: Any) -> Any:
    """Turn `["0,2", "3"]`, `"0,2"` or `2` into a flat list."""
    items = value if isinstance(value, list | tuple) else [value]
    return [part.strip() if isinstance(part, str) else part for item in items for part in _parts(item)]


def _parts(item: Any) -> list[Any]:
    return item.split(",") if isinstance(item, str) else [item]


def _levels(value: Any) -> Any:
    parts = _split(value)
    return () if "all" in parts else parts


def _encoder_names(value: Any) -> Any:
    """Turn `random,pixels:8` into a list and `none` into an empty one; in `vit?taps=2,4` the numbers are one name's."""
    names: list[Any] = []
    for part in _split(value):
        if names and isinstance(part, str) and part.isdecimal():
            names[-1] = f"{names[-1]},{part}"
        else:
            names.append(part)
    return () if names == ["none"] else names


Levels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_levels)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], BeforeValidator(_split)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split)]
Fractions = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_split)]
Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split), Field(min_length=1)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]

ReadoutName = Literal["mean", "max", "cls", "grid", "tokens"]
Readouts = Annotated[tuple[ReadoutName, ...], BeforeValidator(_split)]
EncoderNames = Annotated[tuple[str, ...], BeforeValidator(_encoder_names)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_levels)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_split)]
Range = Annotated[tuple[float, float], BeforeValidator(_split)]

# The order in which a command's help lists its options: what, which probe, how, where to.
DATA, PROBE, RUNNING, OUTPUT = range(4)


def option(default: Any, description: str, *, group: int, env: str = "", **checks: Any) -> Any:
    """Return a schema field that is also a command-line option, named by the field or its alias."""
    extra: dict[str, Any] = {"group": group}
    if env:
        extra["env"] = env
    return Field(default, description=description, json_schema_extra=extra, **checks)
