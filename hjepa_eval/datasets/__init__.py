"""Datasets by name. To add one: a file beside this one, and a line in `DATASETS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hjepa_eval.datasets.cifar import load_cifar
from hjepa_eval.datasets.digits import Digits
from hjepa_eval.datasets.folder import ImageFolder
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import DataError, UnknownNameError, unknown


@dataclass(frozen=True)
class Source:
    """Where a split comes from: the part of the name after `:`, the data folder, and what may be done to get it."""

    argument: str
    split: str
    root: Path
    download: bool
    memo: Path | None
    options: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One line of `hjepa datasets`."""

    load: Callable[[Source], ImageDataset]
    usage: str
    description: str
    options: tuple[str, ...] = ()


def _digits(source: Source) -> ImageDataset:
    return Digits(source.split)


def _cifar10(source: Source) -> ImageDataset:
    return load_cifar("cifar10", source.root, split=source.split, download=source.download, memo=source.memo)


def _cifar100(source: Source) -> ImageDataset:
    return load_cifar("cifar100", source.root, split=source.split, download=source.download, memo=source.memo)


def _folder(source: Source) -> ImageDataset:
    folder = _expand(Path(source.argument)) if source.argument else source.root
    return ImageFolder(f"folder:{folder.resolve().name}", folder, split=source.split, memo=source.memo)


def _expand(path: Path) -> Path:
    """Return the path with a leading `~` resolved: a shell leaves it alone after `folder:`, and YAML has no shell."""
    return Path(os.path.expanduser(path))


DATASETS: dict[str, Entry] = {
    "digits": Entry(_digits, "digits", "1,797 scanned digits, 8x8 grey, 10 classes; ships with scikit-learn"),
    "cifar10": Entry(_cifar10, "cifar10", "60,000 photographs, 32x32, 10 classes; official files or class folders"),
    "cifar100": Entry(_cifar100, "cifar100", "60,000 photographs, 32x32, 100 classes; official files or class folders"),
    "folder": Entry(_folder, "folder:PATH", "your own: PATH/train/<class>/<image> and PATH/test/ or PATH/val/"),
}


def load_dataset(
    spec: str, split: str, *, root: Path | None = None, download: bool = False, memo: Path | None = None
) -> ImageDataset:
    """Return one split of the dataset that `spec` names.

    Args:
        spec: a name from `DATASETS`, with its argument after a colon, such as `folder:photos`.
        split: `train` or `test`.
        root: folder that holds the files; `data` when not given.
        download: fetch official files that are missing.
        memo: folder for remembered fingerprints.

    Raises:
        UnknownNameError: there is no such dataset, or it takes no argument.
        DataError: its files are missing, incomplete, or have an empty class.
    """
    full, *queries = spec.split("?")
    options = dict(_option(spec, query) for query in queries)
    name, colon, argument = full.partition(":")
    if name not in DATASETS:
        raise unknown("dataset", name, [entry.usage for entry in DATASETS.values()])
    if colon and ":" not in DATASETS[name].usage:
        raise UnknownNameError(f"dataset {name} takes no argument, found {spec!r}; write {name}")
    for key in options:
        if key not in DATASETS[name].options:
            raise unknown(f"option of {DATASETS[name].usage}", key, DATASETS[name].options)
    return DATASETS[name].load(Source(argument, split, _expand(root or Path("data")), download, memo, options))


def _option(spec: str, query: str) -> tuple[str, str]:
    key, equals, value = query.partition("=")
    if not equals:
        raise DataError(f"--dataset {spec}: expected ?key=value after the name, found ?{query}")
    return key, value
