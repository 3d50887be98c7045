"""What was fitted once is kept: tensors under the hash of the recipe that made them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hjepa_eval.encoders.protocol import hash_tensors
from hjepa_eval.features.claims import alone
from hjepa_eval.features.fingerprint import canonical_json, hash_json, write_atomically


def fitted_tensors(
    recipe: dict[str, Any], fit: Callable[[], dict[str, Tensor]], *, cache_dir: Path | None
) -> dict[str, Tensor]:
    """Return what `fit` gives for `recipe`, from `cache_dir` when it was fitted before.

    A file that is damaged, or made by another recipe, is replaced; a folder that cannot be written costs another fit
    the next time, nothing else.

    Args:
        recipe: all that the tensors depend on, as JSON values.
        fit: makes the tensors.
        cache_dir: where they are kept, below `encoders`; None keeps nothing.
    """
    if cache_dir is None:
        return _fit(fit)
    path = cache_dir / "encoders" / f"{hash_json(recipe)[:16]}.safetensors"
    kept = _recall(path, recipe)
    if kept is not None:
        return kept
    with alone(path):
        kept = _recall(path, recipe)  # Another process may have fitted it while this one waited.
        if kept is not None:
            return kept
        tensors = _fit(fit)
        about = canonical_json({"recipe": recipe, "sha256": hash_tensors(tensors)})
        with contextlib.suppress(OSError):
            write_atomically(path, save(tensors, metadata={"hjepa": about}))
    return tensors


def _fit(fit: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in fit().items()}


def _recall(path: Path, recipe: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the tensors in the file, or None unless it is whole and of this recipe."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["hjepa"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        whole = about["sha256"] == hash_tensors(tensors) and hash_json(about["recipe"]) == hash_json(recipe)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return tensors if whole else None
