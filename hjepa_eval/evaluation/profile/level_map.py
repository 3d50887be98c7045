"""The part map: how alike levels are, of one model and of two, and what joining a level to the others adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.agreement import NEIGHBOURS, cka_null, cosine_neighbours, debiased_cka, shared_neighbours
from hjepa_eval.analysis.calibration import Calibrated, calibrate, neighbour_null, permutations
from hjepa_eval.analysis.factors import PENALTIES, Standardised, ridge_factors
from hjepa_eval.analysis.kernels import MEASURES
from hjepa_eval.evaluation.rows import LevelRow, root_mean_square_norm
from hjepa_eval.metrics.intervals import bootstrap_interval
from hjepa_eval.metrics.paired import adjusted, compare, holm
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.samples import Samples
from hjepa_eval.results.profiles import Agreement, Joining, LevelPair

# Test images between which neighbours are sought, and train images that predict one level from another.
MAP_IMAGES, PREDICT_IMAGES = 2_000, 5_000
# Levels of one predicted from the other better than this, both ways, say the same.
_SAME = 1 - 1e-6


@dataclass(frozen=True)
class View:
    """A level as the map sees it.

    Attributes:
        model: its name.
        level: its number.
        train: float32 `[M, D]`.
        test: float32 `[N, D]`.
        labels: int64 `[N]`.
    """

    model: str
    level: int
    train: NDArray[np.float32]
    test: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, row: LevelRow) -> View:
        """Return the view of a level."""
        samples = row.samples("test")
        taken = np.arange(min(PREDICT_IMAGES, len(row.index("train"))))
        train = row.stream("train").features.rows(taken)
        kept = slice(MAP_IMAGES)
        return cls(row.features.encoder.name, row.level, train, samples.features[kept].copy(), samples.labels[kept])

    @cached_property
    def neighbours(self) -> NDArray[np.int64]:
        """The nearest other test images of each."""
        return cosine_neighbours(self.test, count=min(NEIGHBOURS, len(self.test) - 1))


def map_levels(
    views: Sequence[View],
    others: Sequence[View],
    *,
    further: Sequence[str] = (),
    report: Callable[[int, int], None],
) -> tuple[LevelPair, ...]:
    """Return all pairs of a model's levels, and of each with the levels of other models, Holm over all of them.

    Args:
        views: of the model's levels.
        others: of other models' levels, of the same images.
        further: names of `MEASURES` beside those that every map has.
        report: told about (pairs done, pairs).
    """
    pairs = [(first, second) for place, first in enumerate(views) for second in views[place + 1 :]]
    pairs += [(first, second) for first in views for second in others if len(first.test) == len(second.test)]
    measured = []
    for done, (first, second) in enumerate(pairs):
        report(done, len(pairs))
        measured.append(_measure(first, second, further))
    return _with_holm(measured)


def _with_holm(pairs: Sequence[LevelPair]) -> tuple[LevelPair, ...]:
    """Return the pairs with p-values adjusted over all of them, of each similarity for itself."""
    raised = list(pairs)
    for name in ("mutual_knn", "within_classes", "cka_chance"):
        adjusted_values = holm([getattr(pair, name).p_value for pair in raised])
        raised = [
            pair.model_copy(update={name: getattr(pair, name).model_copy(update={"p_holm": p})})
            for pair, p in zip(raised, adjusted_values, strict=True)
        ]
    return tuple(raised)


def _measure(first: View, second: View, further: Sequence[str]) -> LevelPair:
    shared = shared_neighbours(first.neighbours, second.neighbours)
    interval = bootstrap_interval(shared)
    value, count = float(shared.mean()), len(first.test)
    draws = permutations(count)()
    free = calibrate(value, neighbour_null(first.neighbours, second.neighbours, draws))
    kept = permutations(count, labels=first.labels)()
    within = calibrate(value, neighbour_null(first.neighbours, second.neighbours, kept))
    cka = min(1.0, max(-1.0, debiased_cka(first.test, second.test)))
    forward, backward = _predicted(first, second), _predicted(second, first)
    return LevelPair(
        first=first.level,
        second=second.level,
        other_model=second.model if second.model != first.model else "",
        neighbours=first.neighbours.shape[1],
        mutual_knn=_agreement(free),
        low=min(interval.low, value),
        high=max(interval.high, value),
        within_classes=_agreement(within),
        cka=cka,
        cka_chance=_agreement(calibrate(cka, cka_null(first.test, second.test, draws))),
        further={name: float(MEASURES[name](first.test, second.test)) for name in further},
        forward=forward,
        backward=backward,
        identical=min(forward, backward) > _SAME and value > _SAME,
        num_samples=count,
    )


def _agreement(found: Calibrated) -> Agreement:
    return Agreement(**asdict(found), p_holm=found.p_value)


def _predicted(source: View, target: View) -> float:
    """Return the R2 on test with which ridge regression predicts one level's standardised features from another's."""
    wanted = Standardised(target.train, target.test)
    varying = wanted.scale > 0
    if not varying.any():
        return 0.0
    fit = ridge_factors(
        Standardised(source.train, source.test),
        {"level": wanted.train[:, varying]},
        {"level": wanted.test[:, varying]},
        penalties=PENALTIES,
    )
    return float(fit["level"].value)


def join_levels(rows: Sequence[LevelRow], *, images: int) -> tuple[Joining, ...]:
    """Return what each level adds to all others in class accuracy, by one ridge classifier, Holm over the levels.

    Args:
        rows: two levels or more.
        images: train images at most.
    """
    taken = np.arange(min(images, len(rows[0].index("train"))))
    labels = rows[0].stream("train").labels[taken], rows[0].samples("test").labels
    parts = []
    for row in rows:
        norm = np.float32(root_mean_square_norm(row.stream("train").features))
        parts.append((row.stream("train").features.rows(taken) / norm, row.samples("test").features / norm))

    def right(chosen: Sequence[int]) -> NDArray[np.bool_]:
        train, test = (np.concatenate([parts[place][split] for place in chosen], axis=1) for split in (0, 1))
        classes = len(rows[0].class_names)
        fit = ridge_regression(Samples(train, labels[0]), Samples(test, labels[1]), num_classes=classes)
        return np.asarray(fit.predictions == labels[1])

    places = list(range(len(rows)))
    together = right(places)
    alone = [right([place]) for place in places]
    # Of two levels the other one is what is left.
    without = alone[::-1] if len(rows) == 2 else [right([p for p in places if p != place]) for place in places]
    tests = adjusted([compare(together, others) for others in without])
    return tuple(
        Joining(
            level=row.level,
            alone=float(own.mean()),
            others=float(others.mean()),
            together=float(together.mean()),
            difference=test.difference,
            low=test.low,
            high=test.high,
            p_value=test.p_value,
            p_holm=test.p_holm,
        )
        for row, own, others, test in zip(rows, alone, without, tests, strict=True)
    )
