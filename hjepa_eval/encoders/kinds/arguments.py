"""Options `?key=value` as arguments of a user's function or class, typed as its signature says."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hjepa_eval.errors import EncoderError, unknown

_WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def read_arguments(
    build: Callable[..., Any] | None, options: Mapping[str, str], *, reserved: Collection[str], spec: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments for `build`, and the options that are not its own but `reserved`.

    Args:
        build: a function or class; None takes no arguments.
        options: as they were written.
        reserved: names that mean something to the toolkit, unless the signature has them.
        spec: for messages.

    Raises:
        UnknownNameError: the signature has no such parameter.
        EncoderError: a value is not of the parameter's type, or a parameter has neither a value nor a default.
    """
    parameters, hints, open_ended = _signature(build)
    arguments, ours = {}, {}
    for key, text in options.items():
        if key in parameters:
            arguments[key] = _read(text, hints.get(key), parameters[key].default, key=key, spec=spec)
        elif key in reserved:
            ours[key] = text
        elif open_ended:
            arguments[key] = _literal(text)
        else:
            raise unknown(f"option of {spec}", key, [*parameters, *reserved])
    absent = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if absent:
        raise EncoderError(f"{spec} needs {', '.join(absent)}; give it with ?{absent[0]}=VALUE")
    return arguments, ours


def _signature(build: Callable[..., Any] | None) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Return the parameters that can be named, their types, and whether any other name is taken too."""
    if build is None:
        return {}, {}, False
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # Written in C.
        return {}, {}, True
    try:
        hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    except (NameError, TypeError, AttributeError):  # A name that only a type checker knows.
        hints = {}
    kinds = inspect.Parameter
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    return named, hints, any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values())


def _read(text: str, hint: Any, default: Any, *, key: str, spec: str) -> Any:
    """Return a value of the type that the hint names, or else the default has, or else as Python would read it."""
    options = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    if type(None) in options and text.lower() == "none":
        return None
    wanted = next((option for option in options if option is not type(None)), None)
    if wanted is None or wanted is inspect.Parameter.empty:
        wanted = None if default is None or default is inspect.Parameter.empty else type(default)
    base = get_origin(wanted) or wanted
    try:
        if base is bool:
            return _WORDS[text.lower()]
        if base in (int, float):
            return base(text)
        if base in (tuple, list):
            return base(_literal(part) for part in text.split(","))
        if base is Literal:
            return next(value for value in get_args(wanted) if str(value) == text)
    except (KeyError, ValueError, StopIteration):
        expected = getattr(wanted, "__name__", str(wanted))
        raise EncoderError(f"{spec}: ?{key}={text} is not the {expected} that {key} is") from None
    return text if base is str else _literal(text)


def _literal(text: str) -> Any:
    """Return a number, bool or None where the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
