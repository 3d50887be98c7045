"""Superclasses: which classes mean the same thing one step coarser, known for CIFAR-100 or read from a file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import DataError, did_you_mean, first_few
from hjepa_eval.features.fingerprint import parse_json

# Krizhevsky, "Learning multiple layers of features from tiny images", 2009; spelt as in the official files.
CIFAR100: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
        "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
        "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
        "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
        "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
        "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
        "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
        "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
        "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
        "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
        "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
        "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
        "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
        "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
        "people": ("baby", "boy", "girl", "man", "woman"),
        "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
        "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
        "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
        "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
        "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
    }
)
_KNOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({"cifar100": CIFAR100})


class Superclasses(NamedTuple):
    """The superclasses of a dataset.

    Attributes:
        names: of the S superclasses, sorted.
        of_class: int64 [C], the superclass of each class, an index into `names`.
    """

    names: tuple[str, ...]
    of_class: NDArray[np.int64]


def superclasses_for(dataset_name: str, class_names: Sequence[str]) -> Superclasses | None:
    """Return the official superclasses of a dataset, of a subset of its classes those that remain.

    None if it has no official ones, if a class has another name, or if fewer than two superclasses remain.
    """
    known = _KNOWN.get(dataset_name.partition("?")[0], {})
    superclass_of = {each: name for name, members in known.items() for each in members}
    kept = {name: superclass_of[name] for name in class_names if name in superclass_of}
    if len(kept) < len(class_names) or len(set(kept.values())) < 2:
        return None
    return _numbered(kept, class_names)


def read_superclasses(path: Path, class_names: Sequence[str]) -> Superclasses:
    """Return the superclasses in a JSON file, `{"superclass": ["class", ...]}` or `{"class": "superclass"}`.

    Raises:
        DataError: the file cannot be read or is no such JSON, names classes that are not there or one class twice,
            leaves a class out, or has a single superclass; the message lists everything wrong.
    """
    try:
        # Pairs, because a dict would silently keep the last of two equal keys.
        content = parse_json(path.read_bytes(), object_pairs_hook=_Pairs)
    except OSError as error:
        raise DataError(f"cannot read the superclasses {path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"the superclasses {path} are no JSON: {error}") from None
    if not isinstance(content, _Pairs):
        raise DataError(
            f'{path} must hold a JSON object: {{"superclass": ["class", ...]}} or {{"class": "superclass"}}'
        )
    entries, problems = _entries(content)
    superclass_of: dict[str, str] = {}
    twice = []
    for name, superclass in entries:
        if name in superclass_of:
            twice.append(f"{name} ({superclass_of[name]}, {superclass})")
        superclass_of.setdefault(name, superclass)
    unknown = [name + did_you_mean(name, class_names) for name in superclass_of if name not in set(class_names)]
    missing = [name for name in class_names if name not in superclass_of]
    for what, found in (("unknown classes", unknown), ("classes left out", missing), ("classes named twice", twice)):
        if found:
            problems.append(f"{len(found)} {what}: {first_few(found)}")
    if len(set(superclass_of.values())) < 2:
        problems.append("fewer than two superclasses tell nothing apart")
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}")
    return _numbered(superclass_of, class_names)


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, in order, equal keys kept."""


def _entries(content: Iterable[tuple[str, Any]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return pairs of class and superclass, and what is neither of the two forms."""
    entries, problems = [], []
    for key, value in content:
        if isinstance(value, str):
            entries.append((_composed(key), value))
        elif type(value) is list and all(isinstance(name, str) for name in value):
            entries += [(_composed(name), key) for name in value]
        else:
            problems.append(f"{key!r} must have a superclass's name or a list of class names")
    return entries, problems


def _composed(name: str) -> str:
    """Return a class's name as datasets have it, in composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)


def _numbered(superclass_of: Mapping[str, str], class_names: Sequence[str]) -> Superclasses:
    names = tuple(sorted(set(superclass_of.values())))
    number = {name: index for index, name in enumerate(names)}
    return Superclasses(names, np.array([number[superclass_of[name]] for name in class_names], dtype=np.int64))
