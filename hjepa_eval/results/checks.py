"""What must hold of a record, whatever the numbers are: bounds, counts that add up, levels that exist.

A record that was edited by hand or by a bad disk is refused with the fields that cannot be, instead of being printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from hjepa_eval.results.records import CostEntry, LevelChoice, LevelComparison, LevelResult, Record, Score

# Means of many numbers in another order differ by rounding.
_CLOSE = 1e-6
# Metrics that are shares of samples; of others only the order of value and interval can be checked.
_SHARES = ("top1", "top5", "accuracy", "superclass")
# Intervals `value +- z * error`, which few-shot papers print, may leave [0, 1], on both sides alike.
_SYMMETRIC = "normal"
_PLAIN_NAME = re.compile(r"[^/\\\x00]+\.npz")
# Probes whose scores of one metric are all of the same test images.
_SAME_IMAGES = ("knn", "linear")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def not_finite(content: Any, path: str = "") -> list[str]:
    """Return where nested values hold NaN or infinity, as `levels.0.scores.1.value is nan`."""
    if isinstance(content, float) and not math.isfinite(content):
        return [f"{path} is {content}"]
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, dict | list | tuple):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
    return [wrong for key, value in parts for wrong in not_finite(value, f"{path}.{key}".strip("."))]


def record_problems(record: Record) -> list[str]:
    """Return what cannot be so in a record, each with its field and the value there; an empty list when all holds."""
    return [*_about(record), *_levels(record), *_comparisons(record), *_choices(record)]


def _about(record: Record) -> Iterator[str]:
    if record.schema_version < 1:
        yield f"schema_version is {record.schema_version}, not a positive number"
    try:
        datetime.fromisoformat(record.provenance.created)
    except ValueError:
        yield f"provenance.created is {record.provenance.created!r}, no date as 2026-01-31T12:00:00+00:00"
    yield from (
        f"provenance.seconds.{phase} is {seconds}, below 0"
        for phase, seconds in record.provenance.seconds.items()
        if seconds < 0
    )
    counts = {
        name: getattr(record.dataset, name) for name in ("num_classes", "train_images", "test_images", "skipped_images")
    }
    yield from (f"dataset.{name} is {count}, below 0" for name, count in counts.items() if count < 0)
    outcomes = record.predictions
    if outcomes is not None and not _PLAIN_NAME.fullmatch(outcomes.file):
        yield f"predictions.file is {outcomes.file!r}, not the name of an .npz file beside the record"
    if outcomes is not None and not _SHA256.fullmatch(outcomes.sha256):
        yield f"predictions.sha256 is {outcomes.sha256!r}, not 64 hexadecimal digits"


def _levels(record: Record) -> Iterator[str]:
    if not record.levels:
        yield "levels is empty"
    numbers = [level.level for level in record.levels]
    if len(set(numbers)) < len(numbers):
        yield f"levels have the numbers {', '.join(map(str, numbers))}, some of them twice"
    for place, level in enumerate(record.levels):
        yield from (f"levels.{place}.{wrong}" for wrong in _level(level))
    if record.probe in _SAME_IMAGES:
        yield from _image_counts(record)


def _image_counts(record: Record) -> Iterator[str]:
    """Yield the metrics whose scores at different levels or parameters rest on different numbers of images."""
    counts: dict[str, dict[int, str]] = {}
    for place, level in enumerate(record.levels):
        for number, score in enumerate(level.scores):
            where = f"levels.{place}.scores.{number}.num_samples"
            counts.setdefault(score.metric, {}).setdefault(score.num_samples, where)
    for metric, wheres in counts.items():
        if len(wheres) > 1:
            numbers = " and ".join(f"{where} {count}" for count, where in wheres.items())
            yield f"{metric} is of different images: {numbers}"


def _level(level: LevelResult) -> Iterator[str]:
    for name, least in (("level", 0), ("width", 1), ("tokens", 0)):
        if getattr(level, name) < least:
            yield f"{name} is {getattr(level, name)}, below {least}"
    if level.rankme is not None and not 0 <= level.rankme <= level.width * (1 + _CLOSE):
        yield f"rankme is {level.rankme}, outside [0, {level.width}]"
    if not level.scores:
        yield "scores is empty"
    keys = [score.key for score in level.scores]
    if len(set(keys)) < len(keys):
        yield f"scores are of {', '.join(keys)}, some of them twice"
    for place, score in enumerate(level.scores):
        yield from (f"scores.{place}.{wrong}" for wrong in _score(score))
    yield from _classes(level)
    yield from () if level.cost is None else _cost(level.cost)
    calibration = level.calibration
    yield from (
        f"calibration.{name} is {calibration[name]}, outside [0, 1]"
        for name in ("ece", "ece_scaled")
        if not 0 <= calibration.get(name, 0.0) <= 1
    )
    if calibration.get("temperature", 1.0) <= 0:
        yield f"calibration.temperature is {calibration['temperature']}, not above 0"


def _score(score: Score) -> Iterator[str]:
    value, low, high = score.value, score.low, score.high
    if not low - _CLOSE <= value <= high + _CLOSE:
        yield f"value is {value}, outside its interval from low {low} to high {high}"
    if score.metric in _SHARES:
        yield from (f"value is {share}, outside [0, 1]" for share in (value, *score.values) if not 0 <= share <= 1)
        symmetric = score.interval.startswith(_SYMMETRIC) and abs((high - value) - (value - low)) < _CLOSE
        if not symmetric and (low < 0 or high > 1):
            yield f"low is {low} and high {high}, outside [0, 1]"
    if score.num_samples < 1:
        yield f"num_samples is {score.num_samples}, below 1"
    if score.values and abs(math.fsum(score.values) / len(score.values) - value) > _CLOSE:
        yield f"value is {value}, not the mean of values"
    if score.std is not None and score.std < 0:
        yield f"std is {score.std}, below 0"


def _classes(level: LevelResult) -> Iterator[str]:
    """Yield what does not fit in the counts of classes; they are of the first headline score, over all its runs."""
    for name, (right, total) in level.per_class.items():
        if not 0 <= right <= total:
            yield f"per_class.{name} is {right} of {total}"
    headline = next((score for score in level.scores if score.headline), None)
    if headline is None or not level.per_class or headline.num_samples < 1:
        return
    right, total = (sum(counts) for counts in zip(*level.per_class.values(), strict=True))
    runs = total // headline.num_samples
    # Of draws within seeds `values` has the seeds.
    fitting = runs == 1 if not headline.values else runs > 0 and runs % len(headline.values) == 0
    if total % headline.num_samples or not fitting:
        yield f"per_class counts {total} samples, num_samples is {headline.num_samples}"
    elif abs(right / total - headline.value) > _CLOSE:
        yield f"value of {headline.key} is {headline.value}, per_class counts {right} of {total}"


def _cost(cost: CostEntry) -> Iterator[str]:
    bounds = {
        "gflop": cost.gflop,
        "parameters": cost.parameters,
        "milliseconds": cost.milliseconds,
        "spread": cost.spread,
        "batch": cost.batch,
    }
    yield from (f"cost.{name} is {value}, below 0" for name, value in bounds.items() if value is not None and value < 0)


def _values(record: Record, key: str) -> dict[int, float]:
    """Return level -> score of this key."""
    return {level.level: score.value for level in record.levels for score in level.scores if score.key == key}


def _comparisons(record: Record) -> Iterator[str]:
    for place, pair in enumerate(record.comparisons):
        yield from (f"comparisons.{place}.{wrong}" for wrong in _comparison(pair, _values(record, pair.score)))


def _comparison(pair: LevelComparison, values: dict[int, float]) -> Iterator[str]:
    if pair.first == pair.second or not {pair.first, pair.second} <= values.keys():
        yield f"first and second are {pair.first} and {pair.second}, not two levels that have a score {pair.score!r}"
    elif abs(values[pair.first] - values[pair.second] - pair.difference) > _CLOSE:
        yield f"difference is {pair.difference}, that of the scores {values[pair.first] - values[pair.second]}"
    if not pair.low - _CLOSE <= pair.difference <= pair.high + _CLOSE:
        yield f"difference is {pair.difference}, outside its interval from low {pair.low} to high {pair.high}"
    if not 0 <= pair.p_value <= pair.p_holm <= 1:
        yield f"p_value is {pair.p_value} and p_holm {pair.p_holm}, not 0 <= p_value <= p_holm <= 1"


def _choices(record: Record) -> Iterator[str]:
    for place, choice in enumerate(record.choices):
        yield from (f"choices.{place}.{wrong}" for wrong in _choice(choice, _values(record, choice.score)))


def _choice(choice: LevelChoice, values: dict[int, float]) -> Iterator[str]:
    for name, level, value in (
        ("level", choice.level, choice.value),
        ("oracle", choice.oracle, choice.oracle_value),
    ):
        if level not in values:
            yield f"{name} is {level}, not a level that has a score {choice.score!r}"
        elif abs(values[level] - value) > _CLOSE:
            yield f"{name} is {level} with {value}, its score is {values[level]}"
    if choice.level not in choice.held_out or not choice.held_out.keys() <= values.keys():
        yield f"held_out is of levels {', '.join(map(str, choice.held_out))}, level is {choice.level}"
    if choice.score.split()[0] in _SHARES:
        yield from (
            f"held_out.{level} is {value}, outside [0, 1]"
            for level, value in choice.held_out.items()
            if not 0 <= value <= 1
        )
