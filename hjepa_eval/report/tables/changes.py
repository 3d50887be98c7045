"""What changes of the images do to each level, as grids: accuracy left, invariance, and every severity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hjepa_eval.report.tables.grid import Grid, GridCell, GridLine, column_of, level_grid
from hjepa_eval.report.tables.rounding import p_text, percent, points
from hjepa_eval.results.profiles import ChangeScore, Drop, LevelProfile, Profile

_Draw = Callable[[LevelProfile, Sequence[ChangeScore]], GridCell | None]


def change_grid(profile: Profile) -> Grid | None:
    """Return changes down and levels across: kNN accuracy on changed images, mean over severities, and the drop."""
    better = _better(profile)

    def draw(level: LevelProfile, scores: Sequence[ChangeScore]) -> GridCell:
        value, drop = (_mean([getattr(score.knn, name) for score in scores]) for name in ("value", "drop"))
        clean = value + drop
        right = [score.name for score in scores if level.level in better.get(score.name, ())]
        said = f"; the better level for {', '.join(right)}" if right else ""
        about = f"{scores[0].change}, {column_of(level)}: {'; '.join(map(_words, scores))}{said}"
        lost = min(1.0, max(0.0, drop / clean)) if clean > 0 else 0.0
        return GridCell(percent(value), points(-drop), "**" if right else "", lost, about)

    lines = _lines(profile, draw, whole=False)
    errors = [level.corruption_error for level in _changed(profile)]
    if any(error is not None for error in errors):
        cells = tuple(None if error is None else GridCell(percent(error)) for error in errors)
        lines.append(GridLine("mean corruption error", "kNN, in percent of k-means' error", cells))
    return level_grid(
        _changed(profile),
        lines,
        title="What changes of the images do",
        lede=(
            "kNN accuracy in percent on changed test images against an unchanged bank, a mean over severities, and "
            "below it the points lost on the same images; the stronger the colour, the more is lost. A star: another "
            "level than the one chosen on clean images is better there (paired test, Holm)."
        ),
        corner="change",
        notes=[] if profile.verdict is None else [f"By kNN, {profile.verdict.sentence}."],
    )


def invariance_grid(profile: Profile) -> Grid | None:
    """Return changes down and levels across: how little the features move, and what is left of a movement's size."""

    def draw(level: LevelProfile, scores: Sequence[ChangeScore]) -> GridCell:
        share = _mean([score.invariance_share for score in scores])
        known = [score.equivariance for score in scores if score.equivariance is not None]
        below = f"R2 {_mean(known):.2f}" if known else ""
        about = "; ".join(
            f"{score.name}: cosine beyond that of different images {score.invariance:.3f}, 95 % interval "
            f"{score.invariance_low:.3f} to {score.invariance_high:.3f}; between different images {score.between:.3f}"
            for score in scores
        )
        return GridCell(f"{share:.2f}", below, "", min(1.0, max(0.0, share)), f"{column_of(level)}, {about}")

    return level_grid(
        _changed(profile),
        _lines(profile, draw, whole=False),
        title="What each level ignores",
        lede=(
            "Invariance: 1 where the features of an image and its changed self are alike, 0 where they differ as those "
            "of different images do. Below it, of movements, R2 with which their size can be told from both: what is "
            "not ignored but kept."
        ),
        corner="change",
    )


def severity_grid(profile: Profile) -> Grid | None:
    """Return every severity with its paired drop, of kNN and of the linear probe."""
    lines = []
    for name, pick in (("kNN", "knn"), ("linear", "linear")):

        def draw(level: LevelProfile, scores: Sequence[ChangeScore], pick: str = pick) -> GridCell:
            drop: Drop = getattr(scores[0], pick)
            ends = f"{points(-drop.high)} to {points(-drop.low)}"
            about = f"{column_of(level)}, {_words(scores[0])}"
            return GridCell(f"{percent(drop.value)} ({points(-drop.drop)})", ends, "", None, about)

        lines += [
            GridLine(f"{line.name}, {name}", line.reads, line.cells) for line in _lines(profile, draw, whole=True)
        ]
    return level_grid(
        _changed(profile),
        lines,
        title="Every change and severity",
        lede="Accuracy in percent, in brackets the points lost on the same images with their 95 % interval (paired).",
        corner="change",
        folded=True,
    )


def _changed(profile: Profile) -> list[LevelProfile]:
    return [level for level in profile.levels if level.changes]


def _lines(profile: Profile, draw: _Draw, *, whole: bool) -> list[GridLine]:
    """Return a line per change, or, of the whole, per change and severity."""
    levels = _changed(profile)
    scores = [score for level in levels for score in level.changes]
    names = dict.fromkeys(score.name if whole else score.change for score in scores)
    lines = []
    for name in names:
        of_level = [[s for s in level.changes if name == (s.name if whole else s.change)] for level in levels]
        cells = tuple(draw(level, some) if some else None for level, some in zip(levels, of_level, strict=True))
        most = max(map(len, of_level))
        lines.append(GridLine(name, f"{most} severities" if most > 1 else "", cells))
    return lines


def _better(profile: Profile) -> dict[str, tuple[int, ...]]:
    """Return change -> the level that is better there than the chosen one."""
    verdict = profile.verdict
    if verdict is None:
        return {}
    return {name: (level,) for name, level in zip(verdict.wrong, verdict.better, strict=False)}


def _words(score: ChangeScore) -> str:
    said = [
        f"{name} {percent(drop.value)}, {points(-drop.drop)} points [{points(-drop.high)} to {points(-drop.low)}], "
        f"p (Holm) {p_text(drop.p_holm)}"
        for name, drop in (("kNN", score.knn), ("linear", score.linear))
    ]
    where = "" if score.severity is None else f"severity {score.severity}, "
    return where + ", ".join(said)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
