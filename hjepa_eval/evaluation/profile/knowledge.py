"""What is known of the images, whatever an encoder makes of them: factors of the data set, classes, and facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.factors import angle_columns
from hjepa_eval.datasets.factors import Factor, categorical
from hjepa_eval.datasets.subsets.superclasses import read_superclasses, superclasses_for
from hjepa_eval.encoders.kinds.facts import FACTS
from hjepa_eval.evaluation.features import FeatureSet
from hjepa_eval.evaluation.models.given import SPLITS
from hjepa_eval.evaluation.rows import level_rows
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.results.profiles import LeftOut, Origin

# Known values that a probe takes in either split.
_LEAST = 10


@dataclass(frozen=True)
class KnownFactor:
    """One factor of the images of both splits, by their place in the data set's order."""

    factor: Mapping[str, Factor]
    origin: Origin

    @property
    def name(self) -> str:
        """Its name."""
        return self.factor["train"].name

    @property
    def kind(self) -> str:
        """`categorical`, `numeric` or `angle`."""
        return self.factor["train"].kind

    @property
    def categories(self) -> int:
        """How many categories there are."""
        return len(self.factor["train"].categories)

    def values(self, split: str, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the values at places of the data set's order, `[N]`, of an angle cosine and sine, `[N, 2]`."""
        chosen = self.factor[split].values[index]
        return angle_columns(chosen) if self.kind == "angle" else chosen


@dataclass
class Knowledge:
    """All factors of a data set that a probe can ask for, and those that it cannot, with the reason.

    Attributes:
        factors: by name, classes first.
        left_out: the others.
        superclass: int64 `[C]` of each class, where there is such a hierarchy.
    """

    factors: dict[str, KnownFactor] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    superclass: NDArray[np.int64] | None = None

    def add(self, name: str, factor: Mapping[str, Factor], origin: Origin) -> None:
        """Take a factor, or note why it cannot be asked for."""
        reason = why_not(factor)
        if reason:
            self.left_out.append(LeftOut(name=name, reason=reason))
        else:
            self.factors[name] = KnownFactor(factor, origin)

    @property
    def identity(self) -> dict[str, str]:
        """A hash of the values of each factor that the data set brings: another file of factors is another profile."""
        return {
            name: hash_json([known.factor[split].values.tobytes().hex() for split in SPLITS])[:16]
            for name, known in self.factors.items()
            if known.origin == "dataset"
        }


def why_not(factor: Mapping[str, Factor]) -> str:
    """Return why a probe cannot ask for a factor of both splits, in words; empty where it can."""
    values = {split: factor[split].values[~np.isnan(factor[split].values)] for split in SPLITS}
    for split, known in values.items():
        if len(known) < _LEAST:
            return f"it is known of {len(known)} {split} images; a probe takes {_LEAST}"
    distinct = len(np.unique(values["train"]))
    if distinct == 1:
        return "it is the same for all train images"
    if factor["train"].kind != "categorical":
        return "it is the same for all test images" if len(np.unique(values["test"])) == 1 else ""
    if 2 * distinct > len(values["train"]):
        return f"it has {distinct} categories for {len(values['train'])} train images: a name, no property"
    if not np.isin(values["test"], values["train"]).any():
        return "no test image has a category that train has"
    return ""


def gather_knowledge(features: FeatureSet, facts: FeatureSet | None, *, superclasses: Path | None) -> Knowledge:
    """Return what is known of the images of features.

    Args:
        features: of any encoder; they say which classes and images there are.
        facts: features of the encoder `facts` on the same images; None where there are no images.
        superclasses: a JSON file of them, instead of those that the data set's authors defined.

    Raises:
        DataError: the data set's factors, or the superclasses, cannot be read.
    """
    knowledge = Knowledge()
    manifest = features.splits["train"].store.manifest
    names = features.class_names
    sizes = {split: features.splits[split].store.manifest.dataset_size for split in SPLITS}
    labels = {split: _spread(features, split, sizes[split]) for split in SPLITS}
    knowledge.add("class", {split: Factor("class", "categorical", labels[split], names) for split in SPLITS}, "class")
    groups = read_superclasses(superclasses, names) if superclasses else superclasses_for(manifest.dataset, names)
    own = {split: features.images[split].factors if features.images else {} for split in SPLITS}
    if groups is None and "superclass" in own["train"]:
        _take_hierarchy(knowledge, own["train"]["superclass"], labels["train"], len(names))
    elif groups is not None:
        knowledge.superclass = groups.of_class
        coarse = {
            split: np.where(np.isnan(label), 0, groups.of_class[np.nan_to_num(label).astype(np.int64)])
            for split, label in labels.items()
        }
        known = {split: categorical("superclass", coarse[split], groups.names) for split in SPLITS}
        knowledge.add("superclass", known, "class")
    for name in own["train"]:
        if name in own["test"] and name not in knowledge.factors:
            knowledge.add(name, {split: own[split][name] for split in SPLITS}, "dataset")
    for column, name in enumerate(FACTS if facts is not None else ()):
        assert facts is not None
        both = {split: Factor(name, "numeric", _fact(facts, split, column, sizes[split])) for split in SPLITS}
        if name not in knowledge.factors:
            knowledge.add(name, both, "fact")
    return knowledge


def _take_hierarchy(knowledge: Knowledge, factor: Factor, labels: NDArray[np.float64], classes: int) -> None:
    """Note the superclass of each class where every image of a class has the same."""
    known = ~(np.isnan(factor.values) | np.isnan(labels))
    pairs = np.unique(np.column_stack([labels[known], factor.values[known]]).astype(np.int64), axis=0)
    if len(pairs) == classes == len(np.unique(pairs[:, 0])):
        knowledge.superclass = pairs[:, 1]


def _spread(features: FeatureSet, split: str, size: int) -> NDArray[np.float64]:
    """Return the labels by place in the data set's order, NaN where the store has no such image."""
    extraction = features.splits[split]
    index = extraction.store.index(limit=extraction.limit)
    labels = np.full(max(size, int(index.max(initial=-1)) + 1), np.nan)
    labels[index] = extraction.store.labels(limit=extraction.limit)
    return labels


def _fact(facts: FeatureSet, split: str, column: int, size: int) -> NDArray[np.float64]:
    row = level_rows(facts, fuse=False)[-1]
    values = np.full(size, np.nan)
    values[row.index(split)] = row.samples(split).features[:, column]
    return values
