"""A profile as grids of cells: factors, likeness of levels, geometry, changes; every format draws the same grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hjepa_eval.report.tables.changes import change_grid, invariance_grid, severity_grid
from hjepa_eval.report.tables.grid import Grid, GridCell, GridLine, column_of, level_grid
from hjepa_eval.report.tables.measures import geometry_grid, neighbour_grid
from hjepa_eval.report.tables.rounding import p_text, percent, points
from hjepa_eval.results.profiles import FactorScore, Joining, LevelPair, LevelProfile, Profile
from hjepa_eval.results.records import DatasetInfo

# From which p on, adjusted by Holm over the whole table, a paired test tells two levels apart.
APART = 0.05
APART_MARK = "**"
_ORIGINS = {"dataset": "of the data set", "class": "of the class", "fact": "computed from the pixels"}
_SCORES = {"categorical": "accuracy", "numeric": "R2", "angle": "R2 of cosine and sine"}


def profile_caption(data: DatasetInfo) -> str:
    """Return which images a profile is of."""
    return f"{data.name}: {data.train_images:,} train and {data.test_images:,} test images"


def factor_grid(profile: Profile) -> Grid | None:
    """Return factors down and levels across, the stronger the colour the farther from chance."""
    levels = [level for level in profile.levels if level.factors]
    lines = []
    for factor in profile.factors:
        scores = [next((score for score in level.factors if score.factor == factor), None) for level in levels]
        marks = factor_marks(profile, factor, levels, scores)
        known = next(score for score in scores if score is not None)
        chance = f", chance {percent(known.chance)}" if known.kind == "categorical" else ""
        cells = tuple(
            None if score is None else _factor_cell(score, column_of(level), mark)
            for score, level, mark in zip(scores, levels, marks, strict=True)
        )
        lines.append(GridLine(factor, f"{_SCORES[known.kind]}{chance}, {_ORIGINS[known.origin]}", cells))
    return level_grid(
        levels,
        lines,
        title="What each level tells",
        lede=(
            "Factors go down, levels across. A number is what a linear probe on that level reaches on test images: "
            "accuracy in percent, or R2, of which 1 is all and 0 nothing. The colour is the way from chance to all, so "
            "that unlike factors can stand side by side. Selectivity is what is left over the same probe on shuffled "
            "factors."
        ),
        corner="factor",
        notes=[f"{entry.name} is left out: {entry.reason}" for entry in profile.left_out],
    )


def score_text(score: FactorScore, value: float) -> str:
    """Return an accuracy in percent, or R2 with two places."""
    # What rounds to zero has no sign.
    return percent(value) if score.kind == "categorical" else f"{round(value, 2) + 0.0:.2f}"


def _factor_cell(score: FactorScore, column: str, mark: str) -> GridCell:
    values = (score.value, score.low, score.high, score.chance, score.control)
    value, low, high, chance, control = (score_text(score, number) for number in values)
    selectivity = points(score.selectivity) if score.kind == "categorical" else f"{score.selectivity:+.2f}"
    about = (
        f"{score.factor}, {column}: {_SCORES[score.kind]} {value}, 95 % interval {low} to {high}, chance {chance}; "
        f"shuffled {control}, selectivity {selectivity}; {score.train_images:,} train and {score.test_images:,} test "
        "images"
    )
    return GridCell(value, f"{low} to {high}", mark, min(1.0, max(0.0, score.share)), about)


def factor_marks(
    profile: Profile, factor: str, levels: Sequence[LevelProfile], scores: Sequence[FactorScore | None]
) -> list[str]:
    """Return `*` for the highest level, or `**` where a paired test tells it from the runner-up; joined have none."""
    single = {
        level.level: score.value
        for level, score in zip(levels, scores, strict=True)
        if score is not None and not level.fused
    }
    if len(single) < 2:
        return [""] * len(levels)
    first, second, *_ = sorted(single, key=lambda number: (-single[number], number))
    apart = any(
        test.factor == factor
        and test.p_holm < APART
        and (test.first, test.second, test.difference > 0) in {(first, second, True), (second, first, False)}
        for test in profile.factor_tests
    )
    highest = [not level.fused and single.get(level.level) == single[first] for level in levels]
    return [(APART_MARK if apart else "*") if best else "" for best in highest]


_ITSELF = GridCell("\N{EN DASH}", about="a level and itself")


def map_grid(profile: Profile) -> Grid | None:
    """Return levels down and across: calibrated mutual-kNN above the diagonal, debiased CKA below it."""
    pairs = {(pair.first, pair.second): pair for pair in profile.level_map if not pair.other_model}
    levels = [level for level in profile.levels if any(level.level in pair for pair in pairs) and not level.fused]
    lines = []
    for row in levels:
        cells: list[GridCell | None] = []
        for column in levels:
            pair = pairs.get((row.level, column.level)) or pairs.get((column.level, row.level))
            above = row.level < column.level
            cells.append(_ITSELF if row is column else _map_cell(pair, above=above))
        lines.append(GridLine(column_of(row), row.name, tuple(cells)))
    return level_grid(
        levels,
        lines,
        title="Which levels are alike",
        lede=(
            "Above the diagonal: the share of nearest neighbours that two levels have in common, calibrated, so that 0 "
            "is what permuted images give and 1 equal neighbours, with its p-value (Holm). Below it: debiased linear "
            "CKA of the same two levels, and the same calibrated."
        ),
        corner="level",
    )


def _map_cell(pair: LevelPair | None, *, above: bool) -> GridCell | None:
    if pair is None:
        return None
    about = _pair_words(pair)
    if not above:
        chance = pair.cka_chance
        below = "CKA" if chance is None else f"calibrated {chance.calibrated:.2f}"
        return GridCell(f"{pair.cka:.2f}", below, "", min(1.0, max(0.0, pair.cka)), about)
    shared = pair.mutual_knn
    below = "identical" if pair.identical else f"p {p_text(shared.p_holm)}"
    return GridCell(f"{shared.calibrated:.2f}", below, "", min(1.0, max(0.0, shared.calibrated)), about)


def _pair_words(pair: LevelPair) -> str:
    shared, within = pair.mutual_knn, pair.within_classes
    return (
        f"levels {pair.first} and {pair.second}: mutual kNN (k = {pair.neighbours}) {shared.value:.3f}, 95 % interval "
        f"{pair.low:.3f} to {pair.high:.3f}, permuted {shared.null_mean:.3f}, calibrated {shared.calibrated:.3f}; "
        f"within classes {within.calibrated:.3f}, p (Holm) {p_text(within.p_holm)}; CKA {pair.cka:.3f}; "
        f"R2 {pair.forward:.2f} forward, {pair.backward:.2f} backward; {pair.num_samples:,} images"
    )


def pair_grid(profile: Profile) -> Grid | None:
    """Return every pair of levels, those with other models too, with all that was measured of it."""
    lines = []
    further = list(dict.fromkeys(name for pair in profile.level_map for name in pair.further))
    for pair in profile.level_map:
        other = f" of {pair.other_model}" if pair.other_model else ""
        shared, within = pair.mutual_knn, pair.within_classes
        measured: tuple[str, ...] = (
            f"{shared.value:.3f}",
            f"{pair.low:.3f} to {pair.high:.3f}",
            f"{shared.calibrated:.3f}",
            p_text(shared.p_holm),
            f"{within.calibrated:.3f}",
            p_text(within.p_holm),
            f"{pair.cka:.3f}",
            "" if pair.cka_chance is None else f"{pair.cka_chance.calibrated:.3f}",
            f"{pair.forward:.2f}",
            f"{pair.backward:.2f}",
        )
        texts = (*measured, *(f"{pair.further[key]:.2f}" if key in pair.further else "" for key in further))
        name = f"level {pair.first} and level {pair.second}{other}"
        reads = "identical" if pair.identical else ""
        lines.append(GridLine(name, reads, tuple(GridCell(text, about=_pair_words(pair)) for text in texts)))
    first = ("mutual kNN", "95 %", "calibrated", "p (Holm)", "within classes", "p (Holm)")
    columns = (*first, "CKA", "calibrated", "R2", "R2 back", *further)
    lede = (
        "Within classes the null permutes images inside their class: what remains is agreement beyond the label. R2: "
        "how well a linear map predicts the second level from the first on test images, and back."
    )
    grid = Grid("All pairs of levels", lede, "pair", columns, ("",) * len(columns), tuple(lines), folded=True)
    return grid if lines else None


def joining_grid(profile: Profile) -> Grid | None:
    """Return what each level adds to all others in class accuracy."""
    lines = tuple(GridLine(f"level {entry.level}", "", tuple(_joining_cells(entry))) for entry in profile.joining)
    columns = ("alone", "all others", "all", "adds", "95 %", "p (Holm)")
    lede = "Class accuracy in percent of a linear classifier; a level adds what all levels reach beyond all others."
    grid = Grid("What joining a level adds", lede, "level", columns, ("",) * len(columns), lines)
    return grid if lines else None


def _joining_cells(entry: Joining) -> Iterator[GridCell]:
    yield from (GridCell(percent(share)) for share in (entry.alone, entry.others, entry.together))
    apart = entry.p_holm < APART and entry.difference > 0
    yield GridCell(points(entry.difference), mark="**" if apart else "")
    yield GridCell(f"{points(entry.low)} to {points(entry.high)}")
    yield GridCell(p_text(entry.p_holm))


def grids(profile: Profile) -> list[Grid]:
    """Return all tables of a profile that it has numbers for, in their order."""
    order: tuple[Callable[[Profile], Grid | None], ...] = (
        factor_grid,
        map_grid,
        pair_grid,
        joining_grid,
        geometry_grid,
        neighbour_grid,
        change_grid,
        invariance_grid,
        severity_grid,
    )
    return [grid for make in order if (grid := make(profile)) is not None]
