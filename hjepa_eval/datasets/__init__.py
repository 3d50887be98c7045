"""Datasets by name. To add one: a file beside this one, and a line in `DATASETS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hjepa_eval.config import split_options
from hjepa_eval.datasets.files.folder import load_folder
from hjepa_eval.datasets.generated.scenes import OPTIONS as SCENE_OPTIONS
from hjepa_eval.datasets.generated.scenes import Scenes, read_options
from hjepa_eval.datasets.huggingface import OPTIONS as TABLE_OPTIONS
from hjepa_eval.datasets.huggingface import load_table
from hjepa_eval.datasets.named.cifar import load_cifar
from hjepa_eval.datasets.named.digits import Digits
from hjepa_eval.datasets.named.imagenet import load_imagenet1k, load_imagenet100
from hjepa_eval.datasets.named.imagenette import load_imagenette
from hjepa_eval.datasets.named.segmented import load_ade20k, load_pets, load_voc2012
from hjepa_eval.datasets.named.stl10 import load_stl10
from hjepa_eval.datasets.named.tinyimagenet import load_tinyimagenet
from hjepa_eval.datasets.protocol import ImageDataset, check_classes
from hjepa_eval.datasets.shards.wds import load_shards
from hjepa_eval.datasets.subsets.subsets import OPTIONS, read_choice, take_subset
from hjepa_eval.errors import DataError, UnknownNameError, did_you_mean, first_few, unknown

LINKS = {"links": "follow: read links that lead out of the data set's folder"}
TEST_SHARDS = {"test": "pattern of the test shards, where it is not that of train with another {split}"}


@dataclass(frozen=True)
class Source:
    """Where a split comes from, and what may be done to get it.

    Attributes:
        argument: the part of the name after `:`.
        split: `train` or `test`.
        root: the data folder.
        download: fetch official files that are missing.
        memo: folder for remembered fingerprints.
        options: those of the source.
        single: a test split will be made of train.
        unlabelled: images without classes will do.
    """

    argument: str
    split: str
    root: Path
    download: bool
    memo: Path | None
    options: Mapping[str, str]
    single: bool = False
    unlabelled: bool = False


@dataclass(frozen=True)
class Entry:
    """One line of `hjepa datasets`.

    Attributes:
        load: returns a split.
        usage: how the name is written.
        description: what it is.
        options: what each does, beside those of subsets, which every data set takes.
    """

    load: Callable[[Source], ImageDataset]
    usage: str
    description: str
    options: Mapping[str, str] = field(default_factory=dict)


def _digits(source: Source) -> ImageDataset:
    return Digits(source.split)


def _scenes(source: Source) -> ImageDataset:
    return Scenes(source.split, read_options(source.options))


def _cifar(name: str) -> Callable[[Source], ImageDataset]:
    def load(source: Source) -> ImageDataset:
        split, follow = source.split, _follow_links(source)
        return load_cifar(
            name, source.root, split=split, download=source.download, memo=source.memo, follow_links=follow
        )

    return load


def _folder(source: Source) -> ImageDataset:
    folder = _expand(Path(source.argument)) if source.argument else source.root
    name = f"folder:{folder.resolve().name}"
    return load_folder(
        name,
        folder,
        split=source.split,
        memo=source.memo,
        follow_links=_follow_links(source),
        single=source.single,
        unlabelled=source.unlabelled,
    )


def _imagenet1k(source: Source) -> ImageDataset:
    return load_imagenet1k(source.root, split=source.split, memo=source.memo, follow_links=_follow_links(source))


def _imagenet100(source: Source) -> ImageDataset:
    return load_imagenet100(source.root, split=source.split, memo=source.memo, follow_links=_follow_links(source))


def _imagenette(source: Source) -> ImageDataset:
    return load_imagenette(source.root, split=source.split, memo=source.memo, follow_links=_follow_links(source))


def _tinyimagenet(source: Source) -> ImageDataset:
    return load_tinyimagenet(source.root, split=source.split, memo=source.memo, follow_links=_follow_links(source))


def _stl10(source: Source) -> ImageDataset:
    return load_stl10(source.root, split=source.split, download=source.download, memo=source.memo)


def _segmented(load: Callable[..., ImageDataset]) -> Callable[[Source], ImageDataset]:
    return lambda source: load(source.root, split=source.split, memo=source.memo)


def _wds(source: Source) -> ImageDataset:
    test = source.options.get("test")
    return load_shards(source.argument, split=source.split, test_pattern=test, memo=source.memo)


def _hf(source: Source) -> ImageDataset:
    return load_table(
        source.argument, split=source.split, options=source.options, download=source.download, memo=source.memo
    )


def _follow_links(source: Source) -> bool:
    value = source.options.get("links")
    if value not in (None, "follow"):
        raise DataError(f"?links={value}: expected ?links=follow, or no ?links to stay inside the data set's folder")
    return value == "follow"


def _expand(path: Path) -> Path:
    """Return the path with a leading `~` resolved: a shell leaves it alone after `folder:`, and YAML has no shell."""
    return Path(os.path.expanduser(path))


DATASETS: dict[str, Entry] = {
    "digits": Entry(_digits, "digits", "1,797 scanned digits, 8x8 grey, 10 classes; ships with scikit-learn"),
    "scenes": Entry(
        _scenes,
        "scenes",
        "5,000 generated scenes, 64x64, of which everything is known: class, colour, place, ...; drawn here",
        SCENE_OPTIONS,
    ),
    "cifar10": Entry(
        _cifar("cifar10"), "cifar10", "60,000 photographs, 32x32, 10 classes; official files or class folders", LINKS
    ),
    "cifar100": Entry(
        _cifar("cifar100"), "cifar100", "60,000 photographs, 32x32, 100 classes; official files or class folders", LINKS
    ),
    "stl10": Entry(_stl10, "stl10", "13,000 labelled photographs, 96x96, 10 classes; official binary files"),
    "tinyimagenet": Entry(
        _tinyimagenet, "tinyimagenet", "110,000 photographs, 64x64, 200 classes; official layout", LINKS
    ),
    "imagenette": Entry(
        _imagenette, "imagenette", "13,394 photographs, 10 easy classes of ImageNet; wnid folders", LINKS
    ),
    "imagenet100": Entry(
        _imagenet100, "imagenet100", "131,689 photographs, CMC's 100 classes; folders of ImageNet-1k will do", LINKS
    ),
    "imagenet1k": Entry(_imagenet1k, "imagenet1k", "1,331,167 photographs, 1,000 classes; wnid folders", LINKS),
    "voc2012": Entry(
        _segmented(load_voc2012), "voc2012", "2,913 photographs with masks of 20 classes; VOCdevkit/VOC2012 as unpacked"
    ),
    "pets": Entry(
        _segmented(load_pets), "pets", "7,349 photographs of 37 breeds with masks; Oxford-IIIT Pets as unpacked"
    ),
    "ade20k": Entry(
        _segmented(load_ade20k), "ade20k", "22,210 photographs with masks of 150 classes; ADEChallengeData2016"
    ),
    "folder": Entry(_folder, "folder:PATH", "your own: PATH/train/<class>/<image> and PATH/test/ or PATH/val/", LINKS),
    "wds": Entry(
        _wds,
        "wds:PATTERN",
        "tar shards in WebDataset's naming, such as 'wds:photos-{split}-{000..099}.tar'",
        TEST_SHARDS,
    ),
    "hf": Entry(_hf, "hf:NAME_OR_FOLDER", "a Hugging Face data set: a folder, or a name on the hub", TABLE_OPTIONS),
}


# They are made here, or named whole; so is `folder:PATH`.
_ROOTLESS = ("digits", "scenes", "wds", "hf")


def reads_root(spec: str) -> bool:
    """Tell whether a data set is looked for in a data folder."""
    name, _, argument = spec.partition("?")[0].partition(":")
    return name not in _ROOTLESS and not argument


def load_dataset(
    spec: str,
    split: str,
    *,
    root: Path | None = None,
    download: bool = False,
    memo: Path | None = None,
    unlabelled: bool = False,
) -> ImageDataset:
    """Return one split of the dataset that `spec` names.

    Args:
        spec: a name from `DATASETS`, with its argument after a colon and options after question marks, such as
            `folder:photos?fraction=0.1?seed=1`.
        split: `train` or `test`.
        root: folder that holds the files; `data` when not given.
        download: fetch official files that are missing.
        memo: folder for remembered fingerprints.
        unlabelled: images of `folder:` without classes will do, for pretraining; see `ImageDataset.labelled`.

    Raises:
        UnknownNameError: there is no such dataset, or it takes no argument.
        ConfigError: an option has no value, or is said twice.
        NoSplitError: it has no such split.
        DataError: its files are missing, incomplete, or have an empty class; or options do not fit it.
    """
    full, options = split_options(spec, what="--dataset")
    name, colon, argument = full.partition(":")
    if name not in DATASETS:
        raise _unknown_dataset(full)
    if colon and ":" not in DATASETS[name].usage:
        raise UnknownNameError(f"dataset {name} takes no argument, found {spec!r}; write {name}")
    known = (*OPTIONS, *DATASETS[name].options)
    for key in options:
        if key not in known:
            raise unknown(f"option of {DATASETS[name].usage}", key, known)
    asked = {key: options.pop(key) for key in _of_subset(options, DATASETS[name].options)}
    # Lists are read before the data set is: that may take long.
    choice = read_choice(asked, spec=spec)
    single = choice is not None and choice.test is not None
    # HJEPA_DATA is given to all data sets alike.
    everywhere = _expand(Path(os.environ.get("HJEPA_DATA") or ""))
    if root is not None and not reads_root(spec) and _expand(root) != everywhere:
        raise DataError(
            f"dataset {spec} is not looked for in a data folder, so --root {root} has no meaning; leave it out"
        )
    source = Source(
        argument,
        "train" if single else split,
        _expand(root or Path("data")),
        download,
        memo,
        options,
        single=single,
        unlabelled=unlabelled,
    )
    dataset = DATASETS[name].load(source)
    if choice is not None and not dataset.labelled:
        raise DataError(f"--dataset {spec}: {dataset.where} has no classes, so ?{next(iter(asked))} has no meaning")
    if choice is not None:
        dataset = take_subset(dataset, choice, split=split)
    check_classes(dataset)
    return dataset


def _of_subset(options: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """Return the keys that choose a part of any data set; a source may take `test` for a name or a pattern."""
    return [key for key in OPTIONS if key in options and not (key in own and not _is_number(options[key]))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown_dataset(name: str) -> UnknownNameError:
    """Return the error for a name that is none; one that is a path gets the prefix that it lacks."""
    path = _expand(Path(name))
    kind = "folder" if path.is_dir() else "wds" if name.endswith(".tar") else ""
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        kind = "hf"
    usages = [entry.usage for entry in DATASETS.values()]
    hint = f" (did you mean '{kind}:{name}'?)" if kind else did_you_mean(name, usages)
    return UnknownNameError(f"unknown dataset {name!r}{hint}; known: {first_few(usages, 20)}")
