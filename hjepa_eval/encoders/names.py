"""Names of encoders: kind, argument and options, or which name was meant."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from hjepa_eval.config import split_options
from hjepa_eval.encoders.kinds.run import is_run
from hjepa_eval.errors import EncoderError, UnknownNameError, did_you_mean, first_few

# A folder and a file are themselves the name: `runs/demo`, `file.py:build`.
_NAMED_BY_PATH = ("run", "file")


def parse_name(spec: str, usages: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    """Return kind, argument and options of an encoder's name.

    Args:
        spec: as `load_encoder` takes it.
        usages: how the names of each kind are spelled.

    Raises:
        ConfigError: an option has no value, or is said twice.
        EncoderError: the kind takes no argument, or needs one.
        UnknownNameError: it is of no kind; the nearest names are given.
    """
    name, options = split_options(spec, what="--model")
    kind, colon, argument = name.partition(":")
    if kind in usages and kind not in _NAMED_BY_PATH:
        usage = usages[kind]
        if f"{kind}:" in usage and not argument:
            raise EncoderError(f"--model {spec}: expected a name after the colon: {usage}")
        if ":" not in usage and colon:
            raise EncoderError(f"--model {spec}: {kind} takes no argument; write {usage}")
        return kind, argument, options
    if not name.strip():
        raise UnknownNameError(f"--model is empty; give one of: {', '.join(usages.values())}")
    if colon and (name.rpartition(":")[0].endswith(".py") or _can_be_imported(kind, argument)):
        return "file", name, options
    if is_run(Path(name)):
        return "run", name, options
    if Path(name).is_dir():
        raise EncoderError(f"{name} is a folder without config.json, so no pretraining run")
    if name.endswith(".py") and Path(name).is_file():
        raise EncoderError(f"{name} is a file; say what in it builds the encoder: --model {name}:NAME{_named_in(name)}")
    if "/" in name and not colon:
        raise UnknownNameError(
            f"no folder {name}, so no pretraining run{_runs_beside(Path(name))}; of the hub: hf:NAME"
        )
    if name.startswith("vit_"):
        raise UnknownNameError(f"unknown model {name!r} (did you mean 'random:{name}' or 'timm:{name}'?)")
    if name.endswith((".pth", ".pth.tar")):
        raise UnknownNameError(
            f"unknown model {name!r} (did you mean 'ijepa:{name}' or 'timm:NAME?checkpoint={name}'?)"
        )
    kinds = ", ".join(usages.values())
    neighbours = [str(path) for path in Path(name).parent.glob("*") if is_run(path)]
    names = ["timm:NAME", "random:NAME", "pixels:8", "kmeans"]
    hint = did_you_mean(str(Path(name)), neighbours) or did_you_mean(kind, names)
    raise UnknownNameError(f"unknown model {spec!r}{hint}; give one of: {kinds}")


def _can_be_imported(module: str, name: str) -> bool:
    """Tell whether `module:name` names something in an installed package, such as `torchvision.models:resnet18`."""
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return False
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _named_in(file: str) -> str:
    """Return the classes and functions in a Python file, which is not run."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef)
    names = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return f" (it has {first_few(names)})" if names else ""


def _runs_beside(path: Path) -> str:
    """Return the runs in the folder where another was looked for, the nearest name first."""
    runs = sorted(str(other) for other in path.parent.glob("*") if is_run(other))
    near = did_you_mean(str(path), runs)
    return near or (
        f"; {path.parent} has {first_few(runs)}" if runs else "; 'hjepa pretrain' or 'hjepa demo' makes one"
    )
