"""What an evaluation works on: the encoder and the images that names mean on this machine, or that the caller holds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hjepa_eval.datasets import load_dataset, reads_root
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle, open_encoder
from hjepa_eval.encoders.kinds.run import is_run, newest_run, read_run_config, with_branch
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.settings import ImageSettings
from hjepa_eval.features.cache import default_cache_dir, memo_dir
from hjepa_eval.features.imported import is_imported
from hjepa_eval.machine.devices import device_name, resolve_precision
from hjepa_eval.machine.ranks import read_ranks

if TYPE_CHECKING:
    from torch import nn

    from hjepa_eval.datasets.transform import Transform

# A name as on the command line, an encoder, or with `layers` any module.
Model: TypeAlias = "str | Path | nn.Module"
# A name, or both splits: {"train": ..., "test": ...} or (train, test).
Dataset: TypeAlias = str | Path | Mapping[str, ImageDataset] | Sequence[ImageDataset]
SettingsT = TypeVar("SettingsT", bound=ImageSettings)

RUNS = Path("runs")
DEFAULT_DATASET = "digits"
SPLITS = ("train", "test")
_OF_THE_PROGRAM = ("json", "open", "verbose")


def resolve_model(model: str | None) -> str:
    """Return the encoder asked for, or the newest finished run.

    Raises:
        EncoderError: none was asked for and there is no finished run.
    """
    return model if model is not None else str(newest_run(RUNS))


def resolve_dataset(dataset: str | None, model: str) -> tuple[str, Path | None]:
    """Return the dataset asked for, or the one a run was pretrained on with its folder, or digits."""
    if dataset is not None:
        return dataset, None
    if is_imported(model):
        return "imported", None  # Images and labels are the features' own.
    folder = Path(model.partition("?")[0].removeprefix("random:"))
    if is_run(folder):
        data = read_run_config(folder).get("settings", {}).get("data", {})
        name, root = str(data.get("dataset", DEFAULT_DATASET)), data.get("root")
        return name, Path(root) if root and reads_root(name) else None
    return DEFAULT_DATASET, None


def resolve(settings: SettingsT) -> SettingsT:
    """Return the settings with every default filled in that depends on this machine: model, data, device, cache.

    Raises:
        HjepaError: there is no model to take, it has no such branch, or there is no such device.
    """
    model = with_branch(resolve_model(settings.model), settings.encoder)
    dataset, root = resolve_dataset(settings.dataset, model)
    device = device_name(read_ranks().device(settings.device))
    found = {
        "model": model,
        "encoder": None,  # The name says it now; a baseline beside the model has no branch.
        "dataset": dataset,
        "root": settings.root or root,
        "device": device,
        "precision": resolve_precision(settings.precision, device),
        "num_workers": settings.num_workers or default_workers(),
        "cache_dir": settings.cache_dir or default_cache_dir(),
    }
    return settings.model_copy(update=found)


def default_workers() -> int:
    """Return how many threads decode images: as many as this process may use cores, shared with the ranks beside it."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    return max(1, cores // read_ranks().local_world_size)


def load_split(settings: ImageSettings, split: str) -> ImageDataset:
    """Return the images that resolved settings ask for.

    Raises:
        HjepaError: the dataset is unknown, missing or incomplete.
    """
    memo = memo_dir(settings.cache_dir or default_cache_dir())
    return load_dataset(str(settings.dataset), split, root=settings.root, download=settings.download, memo=memo)


def find_encoder(settings: ImageSettings, *, images: Mapping[str, ImageDataset] | None = None) -> EncoderHandle:
    """Return the encoder that resolved settings ask for.

    Args:
        settings: of `resolve`.
        images: both splits, for an encoder that is fitted on train; loaded by name when not given.

    Raises:
        HjepaError: it is unknown, or its weights are missing or do not fit.
    """
    return open_encoder(
        str(settings.model),
        seed=settings.seed,
        download=settings.download,
        train_images=lambda: images["train"] if images else load_split(settings, "train"),
        cache_dir=settings.cache_dir,
    )


@dataclass(frozen=True)
class Given:
    """What the caller holds already, and no name stands for.

    Attributes:
        encoders: by the name that settings call them.
        images: both splits of the dataset; empty where settings name it.
    """

    encoders: Mapping[str, EncoderHandle] = field(default_factory=dict)
    images: Mapping[str, ImageDataset] = field(default_factory=dict)

    def encoder(self, settings: ImageSettings) -> EncoderHandle:
        """Return the encoder that resolved settings ask for.

        Raises:
            HjepaError: it is unknown, or its weights are missing or do not fit.
        """
        held = self.encoders.get(str(settings.model))
        return held if held is not None else find_encoder(settings, images=self.images)

    def split(self, settings: ImageSettings, split: str) -> ImageDataset:
        """Return the images that resolved settings ask for.

        Raises:
            HjepaError: the dataset is unknown, missing or incomplete.
        """
        return self.images[split] if self.images else load_split(settings, split)


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Call:
    """A call from Python in the words of the command line.

    Attributes:
        models: their names.
        flags: the options, and the dataset where it has a name.
        given: the encoders and images that have none.
        spelled: the call as records say it, without its function.
    """

    models: tuple[str, ...]
    flags: dict[str, Any]
    given: Given
    spelled: str

    @property
    def model(self) -> dict[str, str]:
        """The flag of the model, if there is one.

        Raises:
            ConfigError: there are several.
        """
        if len(self.models) > 1:
            raise ConfigError(f"{len(self.models)} models are given; this takes one at a time")
        return {"model": self.models[0]} if self.models else {}


def read_call(
    model: Model | Sequence[Model] | None,
    dataset: Dataset | None,
    options: Mapping[str, Any],
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    quiet: bool = False,
    probes: Sequence[str] = (),
) -> Call:
    """Return what a call asks for.

    Args:
        model: names, encoders or modules.
        dataset: a name, or both splits.
        options: further ones, by their names on the command line.
        layers: of modules: the named layers that are their levels.
        transform: of modules: how images become their input.
        quiet: no progress, no notes.
        probes: their names, for the record.

    Raises:
        ConfigError: an option of the program's, layers of a model that is named, or no pair of datasets.
    """
    for name in _OF_THE_PROGRAM:
        if name in options:
            raise ConfigError(f"{name} is for the command line; what the call returns can be printed, saved and shown")
    models, encoders = _models(model, layers=layers, transform=transform)
    named = {"dataset": str(dataset)} if isinstance(dataset, str | Path) else {}
    given = Given(encoders, _images(dataset))
    said = [repr(models[0]) if len(models) == 1 else repr(models)] if models else []
    if dataset is not None:
        said.append(repr(str(dataset)) if named else "dataset=...")
    said += [f"probes={list(probes)!r}"] if probes else []
    said += [f"{name}={value!r}" for name, value in options.items()]
    return Call(tuple(models), {**options, **named, "quiet": quiet}, given, f"({', '.join(said)})")


def _models(
    model: Model | Sequence[Model] | None, *, layers: Sequence[str], transform: Transform | None
) -> tuple[list[str], dict[str, EncoderHandle]]:
    """Return the models' names, and those that have no other.

    Raises:
        ConfigError: layers of a model that is named, or two of one name.
    """
    names, encoders = [], {}
    several: list[Any] = list(model) if isinstance(model, list | tuple) else [] if model is None else [model]
    for entry in several:
        if isinstance(entry, str | Path):
            if layers or transform is not None:
                raise ConfigError(f"layers and transform are for modules; of {entry} write ?layers= into its name")
            names.append(str(entry))
            continue
        encoder = _encoder(entry, layers=layers, transform=transform)
        if encoder.name in encoders:
            raise ConfigError(f"two models are called {encoder.name}; give each a .name of its own")
        encoders[encoder.name] = encoder
        names.append(encoder.name)
    return names, encoders


def _encoder(module: nn.Module, *, layers: Sequence[str], transform: Transform | None) -> EncoderHandle:
    from hjepa_eval.encoders import load_encoder
    from hjepa_eval.encoders.protocol import Encoder

    if isinstance(module, Encoder) and not layers:
        return EncoderHandle.of(module)
    return EncoderHandle.of(load_encoder(module, layers=layers, transform=transform))


def _images(dataset: Dataset | None) -> dict[str, ImageDataset]:
    """Return both splits where datasets were given, and nothing where a name was.

    Raises:
        ConfigError: they are no pair.
    """
    if dataset is None or isinstance(dataset, str | Path):
        return {}
    named = dataset if isinstance(dataset, Mapping) else dict(zip(SPLITS, dataset, strict=False))
    if set(named) != set(SPLITS) or len(dataset) != 2 or not all(isinstance(x, ImageDataset) for x in named.values()):
        raise ConfigError("dataset is a name, (train, test) or {'train': ..., 'test': ...} of two ImageDataset objects")
    return dict(named)
