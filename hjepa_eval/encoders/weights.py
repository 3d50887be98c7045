"""Weights from files: safetensors, or foreign checkpoints read as plain tensors; every mismatch is an error."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hjepa_eval.encoders.protocol import hash_tensors
from hjepa_eval.errors import CheckpointError, first_few
from hjepa_eval.features.fingerprint import canonical_json, parse_json

# Where the metadata of a safetensors file holds what we say about it.
ABOUT = "hjepa"

# Where checkpoints keep their weights, the first that is there. Source: timm, models/_helpers.py, `load_state_dict`,
# takes EMA weights before raw ones; DINO evaluates its teacher.
SECTIONS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model")
# What DistributedDataParallel and torch.compile put before every name, one inside the other.
_WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class Weights:
    """Named tensors of a checkpoint.

    Attributes:
        tensors: by name, in the file's order.
        notes: what was unwrapped, chosen or left out on the way, for people.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: Path, *, section: str | None = None) -> Weights:
    """Return the named tensors in a `.safetensors` file or a PyTorch checkpoint, and how they were come by.

    A checkpoint is read with `weights_only=True`. Without a `section` its tensors are looked for in `SECTIONS`; leading
    `module.` and `_orig_mod.` are removed. Tensors of a zipped checkpoint stay in the file until they are used, so
    the sections that nobody asks for, such as an optimizer's, take no memory.

    Args:
        path: the file.
        section: the key under which the checkpoint keeps the tensors.

    Raises:
        CheckpointError: the file is absent, damaged, has no such section, holds anything but plain data, or two of its
            names are one without their wrappers.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    notes: list[str] = []
    if section is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(section), Mapping):
            held = first_few(content) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(f"{path} has no section {section!r} with tensors; it holds {held}")
        content = content[section]
    while section is None and isinstance(content, Mapping):
        keys = [key for key in SECTIONS if isinstance(content.get(key), Mapping)]
        if not keys:
            break
        others = f", not {' or '.join(keys[1:])}, which ?section= takes" if keys[1:] else ""
        notes.append(f"weights of the checkpoint's {keys[0]}{others}")
        content = content[keys[0]]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no named tensors, {_where_instead(content, section)}")
    return Weights(_without_wrappers(tensors, path=path), tuple(notes))


def read_tensors(path: Path, *, section: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of `read_weights` alone.

    Raises:
        CheckpointError: as `read_weights`.
    """
    return read_weights(path, section=section).tensors


def _where_instead(content: Any, section: str | None) -> str:
    if section is not None:
        return f"in its section {section!r}"
    keys = [str(key) for key, value in content.items() if _holds_tensors(value)] if isinstance(content, Mapping) else []
    if keys:
        return f"but its sections {first_few(keys)} do; name one with ?section={keys[0]}"
    return "also not under 'state_dict' or 'model'"


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(tensor, Tensor) for tensor in value.values())


def _without_wrappers(tensors: Mapping[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    """Return tensors by their bare names.

    Raises:
        CheckpointError: two names are one without their wrappers.
    """
    bare: dict[str, str] = {}
    for name in tensors:
        short = name
        while short.startswith(_WRAPPERS):
            short = short.partition(".")[2]
        if short in bare:
            raise CheckpointError(
                f"{path} holds {bare[short]} and {name}, two names of one tensor; write a file with only one of them"
            )
        bare[short] = name
    return {short: tensors[name] for short, name in bare.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(ABOUT)
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    if about is not None and _told_hash(about) != hash_tensors(tensors):
        raise CheckpointError(f"{path} is not what was written (its sha256 differs); take the file again")
    return tensors


def checked_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """Return tensors as the bytes of a safetensors file whose metadata holds their sha256, which `read_tensors` checks.

    Args:
        tensors: by name.
        about: further JSON values for the metadata.
    """
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = canonical_json({**(about or {}), "sha256": hash_tensors(plain)})
    return _ordered(save(plain, metadata={"format": "pt", ABOUT: text}))


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file whose metadata has its keys in order; safetensors writes them in another each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # Tensors begin at a multiple of eight bytes.
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _told_hash(about: str) -> Any:
    """Return the sha256 that a file's metadata gives, None where it gives none."""
    try:
        return parse_json(about)["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_checkpoint(path: Path) -> Any:
    try:
        # A zip archive has its table of contents at the end: with a zip's beginning and no such end, the rest is lost.
        whole = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04" and not whole:
                raise CheckpointError(
                    f"{path} is cut short after {path.stat().st_size} bytes; copy or download it again"
                )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # It is refused, or it is read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError as error:
        # torch's own text advises to read the file without weights_only, which is what must not happen.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it would run {code[1]}" if code else "it holds other Python objects"
        way = f"; if you trust it, save its tensors alone with: {saving_line(path)}" if code else ""
        raise CheckpointError(
            f"{path} is not a checkpoint of plain tensors: {reason}; only a file of tensors and numbers is read{way}"
        ) from None
    except (RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        # Bytes that are no pickle at all end in whatever error their first opcode happens to cause.
        raise CheckpointError(f"{path} is not a checkpoint of plain tensors: {_first_line(error)}") from None


def saving_line(path: Path) -> str:
    """Return the shell line that saves the tensors of a checkpoint, or of a whole pickled model, in a file beside it.

    It runs the code in the file, which this program never does: it is for who made the file.
    """
    target = path.with_name(f"{path.name.partition('.')[0]}.tensors.pth")
    code = (
        f"import torch; c = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "c = c if isinstance(c, dict) else c.state_dict(); "
        f"torch.save({{k: v for k, v in c.items() if isinstance(v, (dict, torch.Tensor))}}, {str(target)!r})"
    )
    plain = not set('"$`\\!') & set(code)
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__} {text.splitlines()[0]}" if text else type(error).__name__


def load_strict(
    model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, ignore: Collection[str] = ()
) -> tuple[str, ...]:
    """Copy `tensors` into `model`; nothing may be missing, left over, or of another shape.

    Args:
        model: module to fill.
        tensors: by the names of the model's state.
        source: where they come from, for the message.
        ignore: prefixes of names that may be left over, such as a classifier's.

    Returns:
        The names that were left over.

    Raises:
        CheckpointError: they do not fit; the message lists the first five of each kind.
    """
    state = model.state_dict()
    missing = [name for name in state if name not in tensors]
    left = [name for name in tensors if name not in state]
    extra = [name for name in left if not name.startswith(tuple(ignore))]
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(state[name].shape)}"
        for name in state
        if name in tensors and tensors[name].shape != state[name].shape
    ]
    problems = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    misfits = [f"{len(names)} {kind}: {first_few(names)}" for kind, names in problems.items() if names]
    if misfits:
        raise CheckpointError(f"{source} does not fit the encoder; tensors {'; '.join(misfits)}")
    model.load_state_dict({name: tensors[name] for name in state})
    return tuple(left)


# Beyond what any encoder has; a file that asks for more would take all memory before its weights are looked at.
_MOST_BLOCKS, _MOST_OF_ANYTHING = 1_000, 65_536


def check_sizes(arguments: Mapping[str, Any], *, source: str) -> None:
    """Check that the numbers in a network's `arguments` can be those of an encoder, before it is built.

    Raises:
        CheckpointError: one is far too large; the message names it and its `source`.
    """
    for name, value in arguments.items():
        most = _MOST_BLOCKS if name.startswith("depth") else _MOST_OF_ANYTHING
        for number in value if isinstance(value, list | tuple) else [value]:
            if name != "seed" and isinstance(number, int | float) and not abs(number) <= most:
                raise CheckpointError(f"{source}: {name} is {number:g}, and no encoder has more than {most:,}")
