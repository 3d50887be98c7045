"""No setting is a promise that nobody keeps: every key is read where something is computed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from folders import ROOT
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.objectives.objective import OBJECTIVES
from pydantic import BaseModel

READERS = list((ROOT / "pretrain" / "hjepa_pretrain").rglob("*.py"))
# These say again what follows from others; a check is all that they are for.
CHECKS = {"model.embed_dim", "masking.num_hierarchies"}


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def keys(schema: type[BaseModel], section: str = "", path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield section, name and dotted key of every setting with more than one possible value."""
    for name, field in schema.model_fields.items():
        if is_section(field.annotation):
            yield from keys(field.annotation, name, f"{path}{name}.")
        elif get_origin(field.annotation) is not Literal or len(get_args(field.annotation)) > 1:
            yield section, name, f"{path}{name}"


def sections(schema: type[BaseModel]) -> dict[str, str]:
    """Return the section that each settings class is, by the name of the class."""
    found = {}
    for name, field in schema.model_fields.items():
        if is_section(field.annotation):
            found |= {field.annotation.__name__: name, **sections(field.annotation)}
    return found


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def aliases(tree: ast.AST) -> set[tuple[str, str]]:
    """Return (name, section) of names that stand for a section: `whole = train.whole_image`, `x: TrainSettings`."""
    classes = sections(PretrainSettings)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            found |= {(node.arg, classes[name]) for name in classes if name in ast.unparse(node.annotation)}
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                tuples = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if tuples else [(target, node.value)]
                found |= {(last_name(name), last_name(value)) for name, value in pairs}
    return {(name, section) for name, section in found if section in classes.values()}


def reads(tree: ast.AST) -> set[tuple[str, str]]:
    """Return (section, name) of everything that a module reads of settings."""
    called = aliases(tree)
    pairs = {(last_name(node.value), node.attr) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return pairs | {(section, name) for base, name in pairs for alias, section in called if alias == base}


def without_checks(tree: ast.Module) -> ast.Module:
    """Leave out functions that only look for problems: to refuse a value is not to keep its promise."""
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and "problems" in node.name)]
    return tree


def test_settings__every_key_is_read_outside_of_their_schema() -> None:
    # Weights of objectives on projections are read by the objective's name.
    kept = {("whole_image", objective.name) for objective in OBJECTIVES}
    checked: set[tuple[str, str]] = set()
    for path in (path for path in READERS if path.name not in ("settings.py", "flat_keys.py")):
        checked |= reads(ast.parse(path.read_text()))
        kept |= reads(without_checks(ast.parse(path.read_text())))
    promises = list(keys(PretrainSettings))
    assert len(promises) > 80
    unread = [key for section, name, key in promises if (section, name) not in (checked if key in CHECKS else kept)]
    assert not unread, f"nobody reads: {', '.join(unread)}"


def test_reads__follows_aliases_and_annotations_and_nothing_else() -> None:
    code = """
def one(settings: TrainSettings, masking: MaskingSettings | None):
    whole, other = settings.whole_image, 3
    return settings.lr, whole.contrast, masking.roll, geometry.depth
"""
    found = reads(ast.parse(code))
    assert {("train", "lr"), ("whole_image", "contrast"), ("masking", "roll"), ("train", "whole_image")} <= found
    assert not any(name == "depth" and section in ("model", "predictor") for section, name in found)
