"""The flat YAML of a plain JEPA (`backbone`, `learning_rate`, ...), read as our nested settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hjepa_eval.config import merge
from hjepa_eval.errors import ConfigError, did_you_mean
from hjepa_pretrain.config.settings import PretrainSettings

# The masks stay blocks, of which `mask_ratio` says how much they hide. A decay without a schedule is constant.
FLAT_KEYS: Mapping[str, tuple[str, ...]] = {
    "backbone": ("model.encoder_type",),
    "mask_ratio": ("masking.mask_ratio",),
    "batch_size": ("train.batch_size",),
    "learning_rate": ("train.lr",),
    "epochs": ("train.epochs",),
    "ema_decay": ("model.ema.momentum", "model.ema.momentum_end"),
    "loss_type": ("train.loss",),
}


def from_flat(values: Mapping[str, Any], *, source: str = "configuration") -> dict[str, Any]:
    """Return the nested mapping that `values` mean, whose top level may hold flat keys beside our sections.

    Nested keys stay as they are. With `ema_decay` a nested `model.ema.momentum_end` may still say where the decay rises
    to; otherwise the decay stays what it is.

    Args:
        values: what a YAML file or `--set` said.
        source: where it was said, for messages.

    Raises:
        ConfigError: a setting is given flat and nested, or an unknown key resembles a flat one; all of them are listed.
    """
    nested = {key: value for key, value in values.items() if key not in FLAT_KEYS}
    known = [*FLAT_KEYS, *PretrainSettings.model_fields]
    problems = [problem for key in nested if (problem := _misspelt(str(key), known))]
    translated: dict[str, Any] = {}
    for key in (key for key in FLAT_KEYS if key in values):
        first, *others = FLAT_KEYS[key]
        if _holds(nested, first):
            problems.append(f"{key} and {first} are the same setting; keep one of them")
        for dotted in (first, *(other for other in others if not _holds(nested, other))):
            translated = merge(translated, _tree(dotted, values[key]))
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))
    return merge(translated, nested)


# Settings of which one is given.
_RIVALS = (("train", "epochs", "minutes"), ("masking", "mask_ratio", "context_tokens"))


def without_rivals(written: Mapping[str, Any], assigned: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a file what `--set` says the other way: who sets epochs does not want the preset's minutes."""
    kept = {section: dict(keys) if isinstance(keys, Mapping) else keys for section, keys in written.items()}
    for section, first, second in _RIVALS:
        given = assigned.get(section)
        for key, rival in ((first, second), (second, first)):
            if isinstance(given, Mapping) and given.get(key) is not None and isinstance(kept.get(section), dict):
                kept[section].pop(rival, None)
    return kept


def _misspelt(key: str, known: list[str]) -> str:
    """Return the problem of an unknown `key` whose nearest known one is flat, which the schema does not know."""
    hint = "" if key in known else did_you_mean(key, known)
    return f"unknown key {key!r}{hint}" if any(f"{flat!r}" in hint for flat in FLAT_KEYS) else ""


def _holds(tree: Any, dotted: str) -> bool:
    """Return whether a nested mapping gives a value to a dotted key."""
    for part in dotted.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def _tree(dotted: str, value: Any) -> dict[str, Any]:
    """Return the nested mapping with `value` at a dotted key."""
    first, _, rest = dotted.partition(".")
    return {first: _tree(rest, value) if rest else value}
