"""Profiles: what each level of an encoder knows, a record beside those of probes, with a file of its own."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from hjepa_eval.config import Settings
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.results.records import DatasetInfo, Extracted, ModelInfo, Provenance

PROFILE_VERSION = 1
PROFILE_SUFFIX = ".profile.json"
Kind = Literal["categorical", "numeric", "angle"]
Origin = Literal["dataset", "class", "fact"]


class FactorScore(Settings):
    """How well a level tells one factor, on test images that took no part in the fit.

    `value` is an accuracy (`categorical`) or R2 (`numeric`, and `angle` by cosine and sine); `chance` needs no
    features; `control` is the same probe with the factor dealt out anew among the train images; `strength` the
    regularisation that train chose. `origin` says whether the data set brings the factor, classes and superclasses do,
    or it is computed from the pixels of every image.
    """

    factor: str
    kind: Kind
    origin: Origin
    value: float
    low: float
    high: float
    chance: float
    control: float
    strength: float
    train_images: int
    test_images: int

    @property
    def selectivity(self) -> float:
        """What the level tells beyond what the probe makes of chance alone."""
        return self.value - self.control

    @property
    def share(self) -> float:
        """The way from chance (0) to all (1), so that factors of unlike chance can stand side by side."""
        return (self.value - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


class Measure(Settings):
    """One number that describes a level, such as RankMe or recall at 10.

    `value` is None where it cannot be told, and `note` says why, or what biases it. `low` and `high` are the ends of a
    95 % interval where there is one; `values` are those of several seeds, whose mean `value` is.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    chance: float | None = None
    num_samples: int
    parameters: dict[str, int | float | str] = Field(default_factory=dict)
    note: str = ""


class Drop(Settings):
    """An accuracy on changed images, and how much less it is than on the same images unchanged (paired)."""

    value: float
    drop: float
    low: float
    high: float
    p_value: float
    p_holm: float


class ChangeScore(Settings):
    """What one change of the images does to a level; `severity` is None for movements.

    `invariance` is the mean cosine of an image and its changed self beyond that of different images (`between`),
    `invariance_share` as a share of the most that it can be; `equivariance` the held-out R2 of a movement's parameter
    from features before and after it.
    """

    change: str
    severity: int | None = None
    knn: Drop
    linear: Drop
    invariance: float
    invariance_low: float
    invariance_high: float
    between: float
    invariance_share: float
    equivariance: float | None = None
    equivariance_low: float | None = None
    equivariance_high: float | None = None
    num_samples: int

    @property
    def name(self) -> str:
        """The change with its severity."""
        return self.change if self.severity is None else f"{self.change} {self.severity}"


class LevelProfile(Settings):
    """What is known of one level, or of all joined (`fused` names them; they have factors alone).

    `corruption_error` is the mean over corruptions of the kNN errors over severities, relative to k-means' on the same
    images; None without changes or without k-means.
    """

    level: int
    name: str
    width: int
    tokens: int
    fused: tuple[int, ...] = ()
    factors: tuple[FactorScore, ...] = ()
    geometry: tuple[Measure, ...] = ()
    neighbours: tuple[Measure, ...] = ()
    changes: tuple[ChangeScore, ...] = ()
    corruption_error: float | None = None
    notes: tuple[str, ...] = ()


class FactorTest(Settings):
    """A paired test of two levels on one factor: `difference` is first minus second, Holm over the whole table."""

    factor: str
    first: int
    second: int
    difference: float
    low: float
    high: float
    interval: str
    test: str
    p_value: float
    p_holm: float


class Agreement(Settings):
    """A similarity beside what permuted images give: `calibrated` is 0 at chance and 1 for equal levels."""

    value: float
    null_mean: float
    threshold: float
    calibrated: float
    p_value: float
    p_holm: float


class LevelPair(Settings):
    """How alike two levels are, of one model or (`other_model`) of two.

    `low` and `high` are the ends of the bootstrap interval of `mutual_knn.value`; `within_classes` has as its null
    images permuted inside their class, so that what remains is agreement beyond the label. `forward` is the R2 with
    which the first level predicts the second on test images, `backward` the other way round. `cka` is linear, without
    bias, `cka_chance` the same beside permuted images; `further` holds measures that were asked for by name.
    """

    first: int
    second: int
    other_model: str = ""
    neighbours: int
    mutual_knn: Agreement
    low: float
    high: float
    within_classes: Agreement
    cka: float
    forward: float
    backward: float
    cka_chance: Agreement | None = None
    further: dict[str, float] = Field(default_factory=dict)
    identical: bool = False
    num_samples: int


class Joining(Settings):
    """What one level adds to all others, in class accuracy of one linear classifier (paired).

    `alone` is the level's accuracy, `others` that of all others joined, `together` that of all: the difference of the
    last two is what the others lack of this level's class information.
    """

    level: int
    alone: float
    others: float
    together: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


class ChangeVerdict(Settings):
    """Whether the level chosen on clean images is the one to take under changes.

    `chosen` is the level that kNN on held-out train images chooses; `wrong` names the changes under which another level
    is better by a paired test (Holm over all of them), `better` that level; `asked` is the number of changes.
    """

    chosen: int
    wrong: tuple[str, ...] = ()
    better: tuple[int, ...] = ()
    asked: int

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        count = len(self.wrong)
        return (
            f"the level you would choose on clean images ({self.chosen}) is the wrong one for {count} of {self.asked} "
            "changes"
        )


class LeftOut(Settings):
    """A factor or a part that is not in the profile, and why."""

    name: str
    reason: str


class Profile(Settings):
    """What every level of one model knows on one dataset."""

    kind: Literal["profile"] = "profile"
    profile_version: int = PROFILE_VERSION
    baseline: bool = False
    parts: tuple[str, ...]
    parameters: dict[str, Any] = Field(default_factory=dict)
    model: ModelInfo
    dataset: DatasetInfo
    extraction: Extracted
    levels: tuple[LevelProfile, ...]
    factor_tests: tuple[FactorTest, ...] = ()
    level_map: tuple[LevelPair, ...] = ()
    joining: tuple[Joining, ...] = ()
    verdict: ChangeVerdict | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def key(self) -> str:
        """The sha256 of what was measured and how."""
        extraction = self.extraction.model_dump(mode="json", exclude={"forward_images"})
        parts = [self.model.model_dump(mode="json"), self.dataset.model_dump(mode="json"), extraction]
        numbers = [level.level for level in self.levels]
        return hash_json([*parts, self.parts, self.parameters, self.provenance.seed, numbers])

    @property
    def file_name(self) -> str:
        """Name of the profile's file: model and dataset for people, the key's beginning to tell profiles apart."""
        words = [
            re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-")[-60:] for part in (self.model.name, self.dataset.name)
        ]
        return "__".join([*words, self.key[:8]]) + PROFILE_SUFFIX

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the factors, in their order."""
        return tuple(dict.fromkeys(score.factor for level in self.levels for score in level.factors))
