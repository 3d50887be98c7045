"""`BaseModel`: a module that knows its configuration and its device, and is saved as safetensors and JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from hjepa_eval.encoders.weights import load_strict, read_tensors
from hjepa_eval.errors import CheckpointError, ConfigError
from hjepa_eval.features.fingerprint import canonical_json, parse_json, write_atomically

Model = TypeVar("Model", bound="BaseModel")
FORMAT_VERSION = 1
_CONFIG, _WEIGHTS = "model.json", "model.safetensors"


class BaseModel(nn.Module):
    """Parent of our parts, and of a user's own who wants to save them.

    A child passes its arguments on: `super().__init__(hidden_dim=hidden_dim)`.

    Attributes:
        config: arguments that build it again: JSON values, or modules.
    """

    def __init__(self, **config: Any) -> None:
        """Keep `config`, what built this model."""
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU when it has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def save(self, folder: str | Path) -> Path:
        """Write weights and configuration into `folder`, and return it.

        Raises:
            CheckpointError: it cannot be written.
        """
        folder = Path(folder)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state_dict().items()}
        weights = save(tensors)
        sha256 = hashlib.sha256(weights).hexdigest()
        described = {"format_version": FORMAT_VERSION, "sha256": sha256, **describe(self)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / _WEIGHTS, weights)
            write_atomically(folder / _CONFIG, canonical_json(described).encode())
        except OSError as error:
            raise CheckpointError(f"cannot write {folder}: {error.strerror}; name another folder") from None
        return folder

    def load(self: Model, folder: str | Path) -> Model:
        """Fill this model with the weights in `folder`, and return it.

        Raises:
            CheckpointError: they are absent, damaged, or not of such a model; the first names are listed.
        """
        file = Path(folder) / _WEIGHTS
        if hashlib.sha256(_read(file)).hexdigest() != _described(Path(folder)).get("sha256"):
            raise CheckpointError(f"{file} is not what was written (its sha256 differs); copy both files again")
        load_strict(self, read_tensors(file), source=str(file))
        return self

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path, *, device: str = "cpu", **parts: Any) -> Model:
        """Return the model that was saved in `folder`, on `device`.

        Args:
            folder: of `save`.
            device: such as `cpu` or `cuda`.
            **parts: arguments that a file cannot hold, such as an `encoder` of your own; they replace those saved.

        Raises:
            CheckpointError: there is none, or it is damaged or of another class.
            ConfigError: a part is of a class that is no `BaseModel`, and was not given.
        """
        described = _described(Path(folder))
        kind = _class_named(str(described.get("class")), source=Path(folder))
        if not issubclass(kind, cls):
            raise CheckpointError(f"{folder} holds a {kind.__name__}, and {cls.__name__} was asked for")
        model = _build(kind, described["config"], parts, source=Path(folder))
        if not isinstance(model, cls):
            raise CheckpointError(f"{folder} holds no {cls.__name__}")
        return model.load(folder).to(device)


def describe(module: nn.Module) -> dict[str, Any]:
    """Return JSON values: class and configuration; a module that is no `BaseModel` has no configuration."""
    if not isinstance(module, BaseModel):
        return {"class": type(module).__name__, "config": None}
    values = {name: describe(value) if isinstance(value, nn.Module) else value for name, value in module.config.items()}
    return {"class": type(module).__name__, "config": values}


def _build(kind: type[BaseModel], config: dict[str, Any], parts: dict[str, Any], *, source: Path) -> BaseModel:
    arguments: dict[str, Any] = {}
    for name, value in config.items():
        if name in parts:
            arguments[name] = parts[name]
        elif isinstance(value, dict) and value.keys() == {"class", "config"}:
            if value["config"] is None:
                raise ConfigError(
                    f"{source}: {name} is a {value['class']}, which only your own code builds; pass "
                    f"from_pretrained(..., {name}=...)"
                )
            arguments[name] = _build(_class_named(value["class"], source=source), value["config"], {}, source=source)
        else:
            arguments[name] = value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise CheckpointError(f"{source / _CONFIG} does not describe a {kind.__name__}: {error}") from None


def _class_named(name: str, *, source: Path) -> type[BaseModel]:
    for kind in _kinds(BaseModel):
        if kind.__name__ == name:
            return kind
    raise CheckpointError(f"{source} holds a {name}, which is not known here; import the module that defines it first")


def _kinds(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        content = parse_json(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION or "config" not in content:
        raise CheckpointError(f"{path}: expected format_version {FORMAT_VERSION}; was it made by another program?")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; name a folder that save() wrote") from None
