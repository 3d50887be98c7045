"""Two models, probe by probe and level by level, on the same test samples: paired tests from their records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.errors import ResultError, first_few
from hjepa_eval.features.fingerprint import differences
from hjepa_eval.metrics.paired import Paired, adjusted, compare
from hjepa_eval.report.tables.columns import column_names, label_variants, variant
from hjepa_eval.results.outcomes import SampleOutcomes, read_outcomes
from hjepa_eval.results.records import Record, Score

CHOSEN = "chosen levels"


@dataclass(frozen=True)
class ModelPair:
    """One paired comparison: the first model at a level minus the second model at a level.

    Attributes:
        models: the first's and the second's name, with whatever differs where they have one name.
        probe: as headed in tables.
        why: `chosen levels`, or `level 2` where both have one.
        levels: of the first and of the second model.
        values: score of the first and of the second.
        difference: first minus second.
        test: interval and p-values, adjusted for all tests of the list; one that stands in two rows counts once. None
            where the outcomes are of episodes, which say nothing of other test images.
        records: keys of the first's and of the second's record.
        score: key of the score in both.
    """

    models: tuple[str, str]
    probe: str
    why: str
    levels: tuple[int, int]
    values: tuple[float, float]
    difference: float
    test: Paired | None
    records: tuple[str, str]
    score: str


@dataclass(frozen=True)
class Located:
    """A record, the folder it was read from, and, where known, its file, or the outcomes of its samples themselves."""

    record: Record
    folder: Path
    path: Path | None = None
    held: SampleOutcomes | None = None

    @cached_property
    def samples(self) -> SampleOutcomes:
        """The per-sample outcomes that were written beside the record, read once.

        Raises:
            ResultError: there are none, or the file is not the one that was written.
        """
        if self.held is not None:
            return self.held
        record = self.record
        where = f"{record.model.name}, {record.probe}"
        if record.predictions is None:
            raise ResultError(
                f"{where}: the record has no per-sample outcomes; run that probe again with --predictions"
            )
        path = self.folder / record.predictions.file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != record.predictions.sha256:
            raise ResultError(f"{path} is not the file that was written with its record; run that probe again")
        return read_outcomes(path)


def compare_models(first: Sequence[Located], second: Sequence[Located]) -> list[ModelPair]:
    """Return every comparison of two models' records that share images, probe, protocol and parameters.

    Raises:
        ResultError: no two records fit together, outcomes are missing, or the samples differ.
    """
    fitting = [(one, other) for one in first for other in second if fits(one.record, other.record)]
    if not fitting:
        raise ResultError(f"nothing to compare: {_mismatch(first, second)}")
    # A folder may hold some records with outcomes and some without.
    whole = [pair for pair in fitting if all(located.record.predictions for located in pair)]
    heading = column_names([each.record for each in (*first, *second)])
    return adjust([pair for one, other in whole or fitting for pair in _pairs(one, other, heading)])


def adjust(pairs: Sequence[ModelPair]) -> list[ModelPair]:
    """Return the comparisons with p-values adjusted over all that are tests; the same test twice counts once."""
    tests = {_test_of(pair): pair.test for pair in pairs if pair.test is not None}
    together = dict(zip(tests, adjusted(list(tests.values())), strict=True))
    return [replace(pair, test=together.get(_test_of(pair))) for pair in pairs]


def _test_of(pair: ModelPair) -> tuple:
    """Return what a row tests, the same in two rows where the chosen levels are one level."""
    return pair.records, pair.score, pair.levels


def _score_keys(samples: SampleOutcomes) -> set[str]:
    """Return the keys of the scores that have outcomes."""
    return {key for _, key in samples.outcomes}


def _conditions(record: Record) -> dict[str, Any]:
    """Return what two records must share to be compared."""
    data = record.dataset
    return {
        "dataset": data.name,
        "train images": data.train_images,
        "test images": data.test_images,
        "content": [data.train_fingerprint[:8], data.test_fingerprint[:8]],
        "version": record.protocol_version,
        "seeds": list(record.seeds or (record.provenance.seed,)),
        **record.parameters,
    }


def fits(one: Record, other: Record) -> bool:
    """Return whether two records measured the same on the same images."""
    kinds = (one.probe, one.protocol) == (other.probe, other.protocol)
    return kinds and one.dataset.key == other.dataset.key and not differences(_conditions(one), _conditions(other))


def _mismatch(first: Sequence[Located], second: Sequence[Located]) -> str:
    """Return why no record of one model has a partner."""

    pairs = [(a.record, b.record) for a in first for b in second if a.record.protocol == b.record.protocol]
    if not pairs:
        named = [first_few(dict.fromkeys(each.record.protocol for each in side)) for side in (first, second)]
        return f"the first has {named[0]}, the second {named[1]}; run the same protocol on both"
    found = min((differences(_conditions(a), _conditions(b)) for a, b in pairs), key=len)
    return f"{first_few(found)}; images, parameters and seeds must be the same"


def _pairs(one: Located, other: Located, heading: Callable[[Record, Score], str]) -> Iterator[ModelPair]:
    """Yield the comparisons of two records, the p-values not yet adjusted."""
    check_samples(one, other)
    for score in one.record.levels[0].scores:
        if not score.headline or not all(score.key in _score_keys(located.samples) for located in (one, other)):
            continue
        tested: dict[tuple[int, int], ModelPair] = {}
        for why, levels in _levels(one.record, other.record, score.key):
            # Every test draws bootstrap samples, and two rows may show one.
            pair = tested.get(levels) or pair_at(one, other, score, levels=levels, heading=heading)
            tested[levels] = pair
            yield replace(pair, why=why)


def check_samples(one: Located, other: Located) -> None:
    """Check that two records were tested on the same samples in the same order.

    Raises:
        ResultError: they were not, or one has no outcomes.
    """
    samples = one.samples, other.samples
    if not all(np.array_equal(*arrays) for arrays in zip(*((s.index, s.labels) for s in samples), strict=True)):
        raise ResultError(
            f"{one.record.model.name} and {other.record.model.name} were tested on other samples, or in another order; "
            "run both probes again with the same --max-samples and --on-bad-image"
        )


def pair_at(
    one: Located,
    other: Located,
    score: Score,
    *,
    levels: tuple[int, int],
    heading: Callable[[Record, Score], str],
) -> ModelPair:
    """Return the comparison of two records' scores of a key at two levels, its p-value not yet adjusted."""
    labels = label_variants([one.record, other.record])
    first, second = (
        located.samples.outcomes[level, score.key] for located, level in zip((one, other), levels, strict=True)
    )
    values = (float(np.mean(first)), float(np.mean(second)))
    test = compare(first, second)
    return ModelPair(
        models=(labels[variant(one.record)], labels[variant(other.record)]),
        probe=heading(one.record, score),
        why=CHOSEN,
        levels=levels,
        values=values,
        difference=values[0] - values[1],
        test=test if one.record.covers_images else None,
        records=(one.record.key, other.record.key),
        score=score.key,
    )


def _levels(one: Record, other: Record, key: str) -> Iterator[tuple[str, tuple[int, int]]]:
    chosen = [next((choice.level for choice in record.choices if choice.score == key), None) for record in (one, other)]
    single = [[level.level for level in record.levels if not level.fused] for record in (one, other)]
    # A model of one level has nothing to choose.
    picked = [
        level if level is not None else levels[0] if len(levels) == 1 else None
        for level, levels in zip(chosen, single, strict=True)
    ]
    if picked[0] is not None and picked[1] is not None:
        yield CHOSEN, (picked[0], picked[1])
    for level in sorted(set(single[0]) & set(single[1])):
        # Of two models of one level the row would say the same again.
        if max(map(len, single)) > 1 or picked != [level, level]:
            yield f"level {level}", (level, level)
