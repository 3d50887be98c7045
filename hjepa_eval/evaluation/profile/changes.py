"""The part changes: what corruptions and movements of the images do to each level, with probes fitted on clean ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.factors import CS, Standardised
from hjepa_eval.analysis.sphere import alignment
from hjepa_eval.analysis.steadiness import equivariance, invariance, mean_corruption_error
from hjepa_eval.datasets.changes.changed import ChangedImages
from hjepa_eval.datasets.changes.changes import MOVEMENTS, Change
from hjepa_eval.datasets.changes.corruptions import CORRUPTIONS, SEVERITIES
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.features import Filling
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.extraction.extract import ExtractedStores
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.metrics.paired import Paired, adjusted, compare, holm
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.samples import Samples
from hjepa_eval.results.profiles import ChangeScore, ChangeVerdict, Drop, Measure

K = 20
# Of the features' spread: what bf16 and other batches make of the same images is less.
_ROUNDING = 0.05
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Changed:
    """What all changes did.

    Attributes:
        scores: level -> a score per change.
        alignment: level -> mean squared distance of two views, an image and its shifted self.
        errors: level -> corruption -> kNN error at each severity.
        verdict: whether the level chosen on clean images holds; None of a single level.
        notes: what a reader must know of the encoder.
    """

    scores: dict[int, tuple[ChangeScore, ...]]
    alignment: dict[int, Measure]
    errors: dict[int, dict[str, list[float]]]
    verdict: ChangeVerdict | None
    notes: tuple[str, ...] = ()

    def corruption_error(self, level: int, reference: Mapping[str, Sequence[float]]) -> float | None:
        """Return the mean corruption error of a level relative to k-means'; None where that makes no error."""
        try:
            return mean_corruption_error(self.errors[level], reference)
        except ProbeError:
            return None


def all_changes(seed: int) -> list[Change]:
    """Return the corruptions at every severity, and the movements."""
    corrupted = [Change(name, severity, seed) for name in CORRUPTIONS for severity in range(1, SEVERITIES + 1)]
    return [*corrupted, *(Change(name, None, seed) for name in MOVEMENTS)]


class CleanProbe:
    """kNN and a linear classifier of one level, fitted on clean train images."""

    def __init__(self, row: LevelRow, clean: NDArray[np.float32], labels: NDArray[np.int64], *, images: int, seed: int):
        """Fit both on the first `images` train images; `clean` are test images of which changed ones will follow."""
        taken = np.arange(min(images, len(row.index("train"))))
        self.train = Samples(row.stream("train").features.rows(taken), row.stream("train").labels[taken])
        self.classes, self.device, self.labels, self.clean = len(row.class_names), row.features.device, labels, clean
        self._scaled = Standardised(self.train.features, clean)
        fitted = Samples(self._scaled.train.astype(np.float32), self.train.labels)
        tested = Samples(self._scaled.test.astype(np.float32), labels)
        linear = logistic_regression(fitted, tested, num_classes=self.classes, cs=CS, seed=seed)
        self._weight, self._bias = linear.weight, linear.bias
        self.right = self.judge(clean)

    def judge(self, features: NDArray[np.float32]) -> tuple[Right, Right]:
        """Return which images kNN and the linear classifier get right."""
        found = knn(self.train, Samples(features, self.labels), num_classes=self.classes, ks=(K,), device=self.device)
        scaled = (features - self._scaled.mean) * self._scaled.scale
        guesses = (scaled @ self._weight.T + self._bias).argmax(axis=1)
        return next(iter(found.predictions.values())) == self.labels, guesses == self.labels

    def held_out(self, seed: int) -> float:
        """Return the accuracy of kNN on a held-out tenth of train: what a level is chosen by."""
        held = stratified_holdout(self.train.labels, fraction=0.1, seed=seed)[1]
        found = knn(self.train, leave_one_out=held, num_classes=self.classes, ks=(K,), device=self.device)
        return next(iter(found.scores.values())).value


def measure_changes(
    rows: Sequence[LevelRow],
    fill: Filling,
    *,
    readout: str,
    count: int,
    images: int,
    seed: int,
    report: Callable[[int, int], None],
) -> Changed:
    """Return what changes do to levels; features of changed images come from the cache, or are extracted into it.

    Args:
        rows: the levels.
        fill: extracts.
        readout: of the levels.
        count: test images that are changed, the first ones.
        images: train images that the probes are fitted on, at most.
        seed: of changes, held-out parts and draws.
        report: told about (changes done, changes).
    """
    parent = rows[0].features.images["test"]
    number = min(count, rows[0].features.splits["test"].limit, len(parent))
    clean = fill(ChangedImages(parent, None, count=number))[readout]
    labels, places = clean.store.labels(), clean.store.index()
    probes = {
        row.level: CleanProbe(row, clean.store.features(row.level), labels, images=images, seed=seed) for row in rows
    }
    changes = all_changes(seed)
    scores: dict[int, list[ChangeScore]] = {row.level: [] for row in rows}
    outcomes: dict[int, list[tuple[Right, Right]]] = {row.level: [] for row in rows}
    aligned: dict[int, Measure] = {}
    for done, change in enumerate(changes):
        report(done, len(changes))
        stores = fill(ChangedImages(parent, change, count=number))[readout]
        for level, probe in probes.items():
            features = _same(stores, places, change).features(level)
            outcomes[level].append(probe.judge(features))
            scores[level].append(_score(change, probe, features, outcomes[level][-1], places))
            if change.name == "shift":
                value = alignment(probe.clean, features)
                aligned[level] = Measure(name="alignment", value=value, num_samples=len(features), note="of shifts")
    return Changed(
        _with_holm(scores),
        aligned,
        {level: _errors(changes, pairs) for level, pairs in outcomes.items()},
        _verdict(probes, changes, outcomes, seed) if len(rows) > 1 else None,
        _wavering(rows, clean.store, parent),
    )


def _wavering(rows: Sequence[LevelRow], clean: FeatureStore, parent: ImageDataset) -> tuple[str, ...]:
    """Return a note where the same images gave other features in another pass: such an encoder has no one answer."""
    squares = ChangedImages(parent, None, count=1)
    if tuple(parent.image(0).shape[1:]) != (squares.size, squares.size):
        return ()  # They were cut or resized: other images.
    places = clean.index()
    for row in rows:
        known = row.index("test")
        both, first, second = np.intersect1d(known, places, return_indices=True)
        before = row.samples("test").features[first]
        after = clean.features(row.level)[second]
        apart = float(np.sqrt(((before - after) ** 2).mean())) / (float(before.std()) or 1.0)
        if len(both) and apart > _ROUNDING:
            return (
                f"the encoder is not deterministic: at level {row.level} two passes over the same images differ by "
                f"{100 * apart:.0f} % of the features' spread; drops and invariance hold that noise too",
            )
    return ()


def _same(stores: ExtractedStores, places: NDArray[np.int64], change: Change) -> FeatureStore:
    if not np.array_equal(stores.store.index(), places):
        raise ProbeError(f"under {change} other images could be read than before; mend the images that cannot be")
    return stores.store


def _score(
    change: Change, probe: CleanProbe, features: NDArray[np.float32], right: tuple[Right, Right], places: NDArray
) -> ChangeScore:
    kept = invariance(probe.clean, features)
    drops = [_drop(compare(before, after), after) for before, after in zip(probe.right, right, strict=True)]
    told = None
    if change.severity is None:
        told = equivariance(probe.clean, features, change.parameters(places), seed=change.seed)
    return ChangeScore(
        change=change.name,
        severity=change.severity,
        knn=drops[0],
        linear=drops[1],
        invariance=kept.value.value,
        invariance_low=kept.value.low,
        invariance_high=kept.value.high,
        between=kept.between,
        invariance_share=kept.share,
        equivariance=None if told is None else told.value,
        equivariance_low=None if told is None else told.low,
        equivariance_high=None if told is None else told.high,
        num_samples=len(features),
    )


def _drop(test: Paired, after: Right) -> Drop:
    return Drop(
        value=float(after.mean()),
        drop=test.difference,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        p_holm=test.p_value,
    )


def _with_holm(scores: Mapping[int, Sequence[ChangeScore]]) -> dict[int, tuple[ChangeScore, ...]]:
    """Return the scores with p-values adjusted over all changes and levels, of either probe for itself."""
    told = {level: list(entries) for level, entries in scores.items()}
    for probe in ("knn", "linear"):
        places = [(level, number) for level, entries in told.items() for number in range(len(entries))]
        raised = holm([getattr(told[level][number], probe).p_value for level, number in places])
        for (level, number), p in zip(places, raised, strict=True):
            drop = getattr(told[level][number], probe).model_copy(update={"p_holm": p})
            told[level][number] = told[level][number].model_copy(update={probe: drop})
    return {level: tuple(entries) for level, entries in told.items()}


def _errors(changes: Sequence[Change], pairs: Sequence[tuple[Right, Right]]) -> dict[str, list[float]]:
    errors: dict[str, list[float]] = {}
    for change, (by_knn, _) in zip(changes, pairs, strict=True):
        if change.severity is not None:
            errors.setdefault(change.name, []).append(float(1 - by_knn.mean()))
    return errors


def _verdict(
    probes: Mapping[int, CleanProbe],
    changes: Sequence[Change],
    outcomes: Mapping[int, Sequence[tuple[Right, Right]]],
    seed: int,
) -> ChangeVerdict:
    """Return for how many changes another level is better by kNN than the one that clean train images choose."""
    held = {level: probe.held_out(seed) for level, probe in probes.items()}
    chosen = max(sorted(held), key=lambda level: held[level])
    others = [level for level in probes if level != chosen]
    asked = [(number, level) for number in range(len(changes)) for level in others]
    tests = adjusted([compare(outcomes[level][number][0], outcomes[chosen][number][0]) for number, level in asked])
    better: dict[int, tuple[float, int]] = {}
    for (number, level), test in zip(asked, tests, strict=True):
        if test.difference > 0 and test.p_holm < 0.05:
            better[number] = max(better.get(number, (0.0, level)), (test.difference, level))
    return ChangeVerdict(
        chosen=chosen,
        wrong=tuple(str(changes[number]) for number in better),
        better=tuple(level for _, level in better.values()),
        asked=len(changes),
    )
