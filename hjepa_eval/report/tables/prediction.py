"""Does it predict accuracy? How well measures of geometry, which need no labels or no probe, order kNN and linear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.metrics.kendall import LEAST, Ranked, rank_agreement
from hjepa_eval.report.tables.grid import Grid, GridCell, GridLine
from hjepa_eval.report.tables.rounding import points
from hjepa_eval.results.profiles import LevelProfile, Profile


def _nearest_to_one(value: float) -> float:
    return -abs(value - 1)


def _more(value: float) -> float:
    return value


def _less(value: float) -> float:
    return -value


# Which way a measure is said to be better: what its authors claim, fixed before anything is measured.
BETTER: Mapping[str, tuple[Callable[[float], float], str]] = {
    **dict.fromkeys(("RankMe", "effective rank", "participation ratio", "stable rank"), (_more, "the larger")),
    "alpha-ReQ": (_nearest_to_one, "the nearer to 1"),
    **dict.fromkeys(("TwoNN dimension", "MLE dimension", "correlation dimension"), (_less, "the smaller")),
    **dict.fromkeys(("uniformity", "alignment", "hubness"), (_less, "the smaller")),
    **dict.fromkeys(
        ("NC1 within / between", "NC2 norms", "NC2 angles", "NC3 duality", "NC4 nearest mean"), (_less, "the smaller")
    ),
}
ACCURACIES = ("kNN", "linear")
_CHECKPOINT = re.compile(r"/checkpoints/step-\d+/?")
_SEED = re.compile(r"seed[-_=]?\d+")
# Of levels, checkpoints, seeds and models: how items come to be in one group, in words for a cell that has too few.
ACROSS = {
    "levels": "levels of one model",
    "checkpoints": "checkpoints of one run at one level (RUN/checkpoints/step-N)",
    "seeds": "seeds of one model at one level (--seed, or names with seed-N)",
    "models": "models, each at its last level",
}


@dataclass(frozen=True)
class Item:
    """A level of a profile: its measures, larger is better, and its accuracies."""

    profile: Profile
    level: LevelProfile
    measures: Mapping[str, float]
    accuracies: Mapping[str, float]


def items_of(profile: Profile) -> list[Item]:
    """Return the single levels of a profile with what they measure and what they reach."""
    items = []
    for level in profile.levels:
        if level.fused:
            continue
        known = {m.name: m.value for m in level.geometry if m.value is not None and m.name in BETTER}
        measures = {name: BETTER[name][0](value) for name, value in known.items()}
        told = {"linear": next((score.value for score in level.factors if score.factor == "class"), None)}
        told["kNN"] = next((measure.value for measure in level.neighbours if measure.name.startswith("kNN")), None)
        reached = {name: value for name, value in told.items() if value is not None}
        items.append(Item(profile, level, measures, reached))
    return items


def grouped(profiles: Sequence[Profile]) -> dict[str, list[list[Item]]]:
    """Return the groups of items that are compared, by what differs within them."""
    by_model = [items_of(profile) for profile in profiles]
    items = [item for of_model in by_model for item in of_model]
    finished = [profile for profile in profiles if not _is_checkpoint(profile)]
    representatives: dict[tuple[str, ...], Profile] = {}
    for profile in sorted(finished or profiles, key=lambda entry: (entry.provenance.seed, entry.model.name)):
        representatives.setdefault(_seedless(profile), profile)
    last = [items_of(profile)[-1] for profile in representatives.values() if any(not x.fused for x in profile.levels)]
    whole = [item for item in items if not _is_checkpoint(item.profile)]
    return {
        "levels": by_model,
        "checkpoints": _split(items, lambda item: (*_run(item.profile), str(item.level.level))),
        "seeds": _split(whole, lambda item: (*_seedless(item.profile), str(item.level.level))),
        "models": [last],
    }


def _split(items: Sequence[Item], key: Callable[[Item], tuple[str, ...]]) -> list[list[Item]]:
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _is_checkpoint(profile: Profile) -> bool:
    return _CHECKPOINT.search(profile.model.name) is not None


def _run(profile: Profile) -> tuple[str, ...]:
    """Return what checkpoints of one run, and the run itself, have in common."""
    name = _CHECKPOINT.sub("", profile.model.name)
    return name, str(profile.provenance.seed), profile.extraction.readout


def _seedless(profile: Profile) -> tuple[str, ...]:
    return _SEED.sub("seed", profile.model.name), profile.extraction.readout


def agreements(profiles: Sequence[Profile]) -> Iterator[tuple[str, str, str, Ranked | None, int]]:
    """Yield measure, accuracy, what differs, how well the one orders the other, and the most items that a group has."""
    groups = grouped(profiles)
    for measure in BETTER:
        if not any(measure in item.measures for group in groups["levels"] for item in group):
            continue
        for across, of_kind in groups.items():
            for accuracy in ACCURACIES:
                pairs = [_pair(group, measure, accuracy) for group in of_kind]
                most = max((len(x) for x, _ in pairs), default=0)
                yield measure, accuracy, across, rank_agreement(pairs), most


def _pair(group: Sequence[Item], measure: str, accuracy: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = [item for item in group if measure in item.measures and accuracy in item.accuracies]
    x = np.array([item.measures[measure] for item in known], dtype=np.float64)
    return x, np.array([item.accuracies[accuracy] for item in known], dtype=np.float64)


def prediction_grids(profiles: Sequence[Profile]) -> list[Grid]:
    """Return for the profiles of each dataset whether measures predict accuracy; none where nothing can be compared."""
    grids = []
    for key in dict.fromkeys(profile.dataset.key for profile in profiles):
        same = [profile for profile in profiles if profile.dataset.key == key]
        several = len({profile.dataset.key for profile in profiles}) > 1
        grid = _grid(same, about=f", {same[0].dataset.name}" if several else "")
        grids += [] if grid is None else [grid]
    return grids


def _grid(profiles: Sequence[Profile], *, about: str) -> Grid | None:
    cells: dict[str, list[GridCell | None]] = {}
    counts: dict[str, str] = {}
    for measure, accuracy, across, ranked, most in agreements(profiles):
        cells.setdefault(measure, []).append(_cell(measure, accuracy, across, ranked, most))
        if ranked is not None:
            counts[across] = f"{ranked.tau.num_samples} items in {ranked.groups} groups of {ACROSS[across]}"
    if not counts:
        return None
    missing = [f"across {across}: needs {LEAST} {words}" for across, words in ACROSS.items() if across not in counts]
    lines = tuple(GridLine(name, f"{BETTER[name][1]}, the better", tuple(row)) for name, row in cells.items())
    columns = tuple(f"{accuracy}, {across}" for across in ACROSS for accuracy in ACCURACIES)
    return Grid(
        title=f"Does it predict accuracy?{about}",
        lede=(
            "Kendall's tau between a measure of geometry and accuracy on test images: 1 where the better measure "
            "always goes with the higher accuracy, 0 where it says nothing, with a bootstrap interval over groups and "
            "items; then the points lost, on average, by choosing with it. Which way a measure is better was fixed "
            "beforehand."
        ),
        corner="measure",
        columns=columns,
        levels=("",) * len(columns),
        lines=lines,
        notes=(*(f"across {across}: {words}" for across, words in counts.items()), *missing),
    )


def _cell(measure: str, accuracy: str, across: str, ranked: Ranked | None, most: int) -> GridCell:
    if ranked is None:
        why = f"needs {LEAST} items, there are {most}" if most < LEAST else "all of them are equal"
        return GridCell("\N{EN DASH}", about=f"{measure} and {accuracy} across {across}: {why}")
    tau = ranked.tau
    ends = f"{tau.low:.2f} to {tau.high:.2f}"
    about = (
        f"{measure} and {accuracy} across {across}: tau {tau.value:.2f}, 95 % interval {ends}; "
        f"{tau.num_samples} items in {ranked.groups} groups; choosing by it loses {points(ranked.lost)} points, "
        f"choosing blindly {points(ranked.by_chance)}"
    )
    # Told from chance only where the interval leaves out 0.
    mark = "**" if tau.low > 0 or tau.high < 0 else ""
    return GridCell(f"{tau.value + 0.0:.2f}", f"{ends}; {100 * ranked.lost:.1f} lost", mark, None, about)
