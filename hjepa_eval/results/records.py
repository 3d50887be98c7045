"""Result records: one JSON per model, dataset and probe, with everything needed to trust and repeat the numbers."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hjepa_eval.config import Settings
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.results.headings import Heading, heading_of

if TYPE_CHECKING:
    from hjepa_eval.metrics.paired import Paired

# 2 added comparisons, choices, deviations, several seeds, per-class counts; 3 the cost of a level; 4 the checksum of
# the file and the heading. Records of before lack them and stay readable.
SCHEMA_VERSION = 4
CHECKSUM_SINCE = 4


class Score(Settings):
    """One number with its interval.

    `parameters` are the probe's, such as `{"k": 20}`; `headline` marks the one that tables show. Where several seeds
    were run, `value` is their mean, `values` are all of them and `std` their sample standard deviation.
    """

    metric: str
    parameters: dict[str, int | float | str] = Field(default_factory=dict)
    value: float
    low: float
    high: float
    num_samples: int
    interval: str
    headline: bool = False
    values: tuple[float, ...] = ()
    std: float | None = None

    @property
    def key(self) -> str:
        """What was measured, such as `top1 k=20`: the same at every level."""
        return " ".join([self.metric, *(f"{name}={value}" for name, value in self.parameters.items())])


class CostEntry(Settings):
    """What an image costs from its pixels up to a level, and nothing that only other levels need.

    `gflop` counts 2 for a multiply-add, `parameters` the weights that are read; `milliseconds` is the time per
    image, the median of forward passes of `batch` images on `device` at `precision` (before `spread` was there, the
    fastest), None where it could not be measured; `spread` is half of the range of the passes' middle half.
    """

    gflop: float
    parameters: int
    milliseconds: float | None = None
    spread: float | None = None
    batch: int | None = None
    device: str = ""
    precision: str = ""


class LevelResult(Settings):
    """What a probe found at one level, or at all of them joined (`fused` names them; `level` is then one more).

    `per_class` has for each class (right, all) test samples of the first headline score, over all seeds; `calibration`
    the expected calibration error on test before (`ece`) and after (`ece_scaled`) dividing logits by `temperature`;
    `cost` what an image takes up to here, of levels joined that of all of them together; `rankme` how many directions
    the first 1,024 train features use, None of levels joined and of records of before.
    """

    level: int
    name: str
    width: int
    tokens: int
    scores: tuple[Score, ...]
    chosen: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fused: tuple[int, ...] = ()
    per_class: dict[str, tuple[int, int]] = Field(default_factory=dict)
    calibration: dict[str, float] = Field(default_factory=dict)
    cost: CostEntry | None = None
    rankme: float | None = None


class LevelComparison(Settings):
    """A paired test of two levels on the same samples: `difference` is first minus second.

    `p_holm` is the p-value adjusted for all comparisons of the same score in this record.
    """

    score: str
    first: int
    second: int
    difference: float
    low: float
    high: float
    interval: str
    test: str
    p_value: float
    p_holm: float

    @classmethod
    def of(cls, score: str, levels: tuple[int, int], test: Paired) -> LevelComparison:
        """Return the comparison of two levels as a record keeps it."""
        kept = {name: value for name, value in asdict(test).items() if name in cls.model_fields}
        kept |= {"low": max(-1.0, test.low), "high": min(1.0, test.high)}
        return cls(score=score, first=levels[0], second=levels[1], **kept)

    @property
    def paired(self) -> Paired:
        """The comparison as it was measured."""
        from hjepa_eval.metrics.paired import Paired

        parts = (self.difference, self.low, self.high, self.interval, self.test, self.p_value, self.p_holm)
        return Paired(*parts)


class LevelChoice(Settings):
    """The level chosen without the test set, with its test score, beside the best on test (the oracle).

    `held_out_ends` are the ends of each held-out score's 95 % interval. `ties` are levels that a paired test (Holm over
    all of them) on the held-out samples does not tell from the chosen one, `oracle_ties` those that one on test does
    not tell from the oracle. Records of before lack the three.
    """

    score: str
    rule: str
    held_out: dict[int, float]
    level: int
    value: float
    oracle: int
    oracle_value: float
    held_out_ends: dict[int, tuple[float, float]] = Field(default_factory=dict)
    ties: tuple[int, ...] = ()
    oracle_ties: tuple[int, ...] = ()


class Contrast(Settings):
    """A paired test of two scores of two levels on the same samples: `difference` is first minus second.

    `first` and `second` are (level, score key). `only_first` samples the first alone gets right, `only_second` the
    second; `p_holm` is adjusted over all contrasts of the record.
    """

    first: tuple[int, str]
    second: tuple[int, str]
    difference: float
    low: float
    high: float
    interval: str
    test: str
    p_value: float
    p_holm: float
    only_first: int
    only_second: int


class Predictions(Settings):
    """The file with the per-sample outcomes, beside the record."""

    file: str
    sha256: str


class ModelInfo(Settings):
    """Which encoder: as the user named it, and by its weights; `alias` is the short name of `--model ALIAS=NAME`."""

    name: str
    weights: str
    identity: dict[str, Any]
    alias: str = ""

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.alias or self.name


class DatasetInfo(Settings):
    """Which images: by name and by content, and how many were used.

    `shared_images` of the test images are in train too, byte for byte; None where nobody counted.
    """

    name: str
    train_fingerprint: str
    test_fingerprint: str
    num_classes: int
    train_images: int
    test_images: int
    skipped_images: int = 0
    shared_images: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str | int, ...]:
        """What records in one table share: the same images, as many of them."""
        return self.train_fingerprint, self.test_fingerprint, self.train_images, self.test_images


class Extracted(Settings):
    """Where the features came from; `forward_images` is 0 when the cache had them all."""

    readout: str
    precision: str
    storage: str = "float32"
    train_store: str
    test_store: str
    forward_images: int

    @property
    def from_cache(self) -> bool:
        """True when no image went through the encoder."""
        return self.forward_images == 0


class Provenance(Settings):
    """Who made the record, with what, when and how fast."""

    created: str
    command: str
    seed: int
    device: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    versions: dict[str, str]
    git: str | None = None
    platform: str = ""


class Record(Settings):
    """One probe on one model and one dataset, level by level."""

    schema_version: int = SCHEMA_VERSION
    probe: str
    protocol: str
    protocol_version: int = 1
    parameters: dict[str, Any] = Field(default_factory=dict)
    model: ModelInfo
    dataset: DatasetInfo
    extraction: Extracted
    levels: tuple[LevelResult, ...]
    comparisons: tuple[LevelComparison, ...] = ()
    choices: tuple[LevelChoice, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    deviations: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    predictions: Predictions | None = None
    heading: Heading | None = None
    provenance: Provenance

    @property
    def covers_images(self) -> bool:
        """Whether intervals and tests cover what other test images would change.

        Thousands of episodes drawn from a hundred images are no thousands of observations: few-shot of version 1 was
        tested over episodes, which covers their draw and nothing else.
        """
        return self.probe != "fewshot" or self.protocol_version > 1

    @property
    def tests(self) -> tuple[LevelComparison, ...]:
        """The comparisons of levels that say something about other test images."""
        return self.comparisons if self.covers_images else ()

    @property
    def headed(self) -> Heading:
        """What tables call the scores; of a record that does not say it, as its probe was called."""
        return self.heading or heading_of(self.probe, self.parameters)

    @property
    def key(self) -> str:
        """The sha256 of what was measured and how; records of other seeds, levels or images have other keys."""
        extraction = self.extraction.model_dump(mode="json", exclude={"forward_images"})
        parts = [
            self.model.model_dump(mode="json", exclude={"alias"}),
            self.dataset.model_dump(mode="json"),
            extraction,
        ]
        how = [self.probe, self.protocol, self.protocol_version, self.parameters, self.provenance.seed, *self.seeds]
        return hash_json([*parts, *how, [level.level for level in self.levels]])

    @property
    def file_name(self) -> str:
        """Name of the record's file: model, dataset and probe for people, the key's beginning to tell them apart."""
        words = [_as_file(part) for part in (self.model.title, self.dataset.name, self.probe)]
        return "__".join([*words, self.key[:8]]) + ".json"


_LONGEST = 60


def _as_file(name: str) -> str:
    """Return a name as part of a file's: of a long one its last 60 characters, from the beginning of a word."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "unnamed"
    if len(plain) <= _LONGEST:
        return plain
    end = plain[-_LONGEST:]
    whole = not plain[-_LONGEST - 1].isalnum() or not end[0].isalnum()
    return (end if whole else re.sub(r"^[A-Za-z0-9]+", "", end) or end).lstrip("-._")
