"""The part factors: what each level, and all of them joined, tell of every factor, with control tasks and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.factors import FactorFit, Standardised, logistic_factors, ridge_factors, shuffled
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.profile.knowledge import Knowledge, KnownFactor, why_not
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.metrics.paired import adjusted, compare
from hjepa_eval.results.profiles import FactorScore, FactorTest, LeftOut

# level -> factor -> what was measured
Fits = dict[int, dict[str, FactorFit]]
Values = Mapping[str, NDArray[np.float64]]
# No factor's name ends so.
_CONTROL = "\0control"


def probe_factors(
    rows: Sequence[LevelRow], knowledge: Knowledge, *, images: int, seed: int, report: Callable[[int, int], None]
) -> tuple[dict[int, tuple[FactorScore, ...]], tuple[FactorTest, ...]]:
    """Return the scores of every factor by level, and paired tests of the levels, Holm over the whole table.

    Args:
        rows: levels, and all of them joined.
        knowledge: what is known of the images; factors that cannot be probed move to its `left_out`.
        images: train images at most, the first of the balanced order, the same for all levels.
        seed: of held-out parts, controls and bootstraps.
        report: told about (levels done, levels).
    """
    _check_taken(rows[0], knowledge, images)
    scores: dict[int, tuple[FactorScore, ...]] = {}
    fits: Fits = {}
    for done, row in enumerate(rows):
        report(done, len(rows))
        taken = np.arange(min(images, len(row.index("train"))))
        split = Standardised(row.stream("train").features.rows(taken), row.samples("test").features)
        values = {
            name: (known.values("train", row.index("train")[taken]), known.values("test", row.index("test")))
            for name, known in knowledge.factors.items()
        }
        measured, controls = _numeric(split, values, knowledge, seed)
        named, named_controls = _categorical(split, values, knowledge, seed)
        fits[row.level] = {name: {**measured, **named}[name] for name in knowledge.factors}
        controls |= named_controls
        scores[row.level] = tuple(
            _score(known, fits[row.level][name], controls[name]) for name, known in knowledge.factors.items()
        )
    report(len(rows), len(rows))
    single = [row.level for row in rows if not row.fused]
    return scores, compare_on_factors({level: fits[level] for level in single}, knowledge.factors)


def _check_taken(row: LevelRow, knowledge: Knowledge, images: int) -> None:
    """Leave out factors that the images taken do not tell, such as one that is the same for all of them."""
    places = {"train": row.index("train")[:images], "test": row.index("test")}
    for name, known in list(knowledge.factors.items()):
        taken = {
            split: replace(known.factor[split], values=known.factor[split].values[index])
            for split, index in places.items()
        }
        reason = why_not(taken)
        if reason:
            knowledge.left_out.append(LeftOut(name=name, reason=reason))
            del knowledge.factors[name]


def _numeric(
    split: Standardised,
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    knowledge: Knowledge,
    seed: int,
) -> tuple[dict[str, FactorFit], dict[str, float]]:
    names = [name for name, known in knowledge.factors.items() if known.kind != "categorical"]
    if not names:
        return {}, {}
    train, test = ({name: values[name][part] for name in names} for part in (0, 1))
    # Controls lack the same images, and so share the decomposition of the features.
    train |= {f"{name}{_CONTROL}": shuffled(train[name], seed=seed) for name in names}
    test |= {f"{name}{_CONTROL}": test[name] for name in names}
    fits = ridge_factors(split, train, test, seed=seed)
    return {name: fits[name] for name in names}, {name: fits[f"{name}{_CONTROL}"].value for name in names}


def _categorical(
    split: Standardised,
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    knowledge: Knowledge,
    seed: int,
) -> tuple[dict[str, FactorFit], dict[str, float]]:
    measured, controls = {}, {}
    for name in [name for name, known in knowledge.factors.items() if known.kind == "categorical"]:
        train, test = ({name: part} for part in values[name])
        count = {name: knowledge.factors[name].categories}
        try:
            fit = logistic_factors(split, train, test, categories=count, seed=seed)[name]
            dealt = {name: shuffled(train[name], seed=seed)}
            # The control takes the strength that was chosen: it is the same probe.
            control = logistic_factors(split, dealt, test, categories=count, cs=(fit.strength,), seed=seed)[name]
        except ProbeError as error:
            knowledge.left_out.append(LeftOut(name=name, reason=str(error)))
            del knowledge.factors[name]
            continue
        measured[name], controls[name] = fit, control.value
    return measured, controls


def _score(known: KnownFactor, fit: FactorFit, control: float) -> FactorScore:
    return FactorScore(
        factor=known.name,
        kind=known.kind,  # type: ignore[arg-type]
        origin=known.origin,
        value=fit.value,
        low=fit.low,
        high=fit.high,
        chance=fit.chance,
        control=control,
        strength=fit.strength,
        train_images=fit.num_train,
        test_images=fit.num_test,
    )


def compare_on_factors(fits: Fits, factors: Mapping[str, KnownFactor]) -> tuple[FactorTest, ...]:
    """Return all pairs of levels on every factor, the coarser minus the finer, Holm over all of them."""
    asked, tests = [], []
    for name, known in factors.items():
        for finer, coarser in combinations(sorted(fits), 2):
            one, other = (fits[level][name].influence for level in (coarser, finer))
            shown = ~np.isnan(one)
            pair = [values[shown] for values in (one, other)]
            if known.kind == "categorical":
                pair = [values.astype(np.bool_) for values in pair]
            asked.append((name, coarser, finer))
            tests.append(compare(pair[0], pair[1]))
    kept = FactorTest.model_fields
    return tuple(
        FactorTest(
            factor=name,
            first=first,
            second=second,
            **{key: value for key, value in asdict(test).items() if key in kept},
        )
        for (name, first, second), test in zip(asked, adjusted(tests) if tests else [], strict=True)
    )
