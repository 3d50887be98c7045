"""What against where: how far each level tells the class and how far positions, and whether those curves cross."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hjepa_eval.report.tables.rounding import percent
from hjepa_eval.results.profiles import FactorScore, Profile
from hjepa_eval.results.records import Record

# Factors that say where something is, as data sets bring them; of images without any, where their edges are.
WHERE = ("position", "x", "y", "row", "column", "angle", "depth")
EDGES = ("edge density", "edges 0", "edges 90")
# More lines in one picture cannot be told apart.
MOST = 4
NO_CURVES = (
    "There is no class beside a factor of position or of edges at two levels or more, and so no two curves that could "
    "cross; a data set with factors, such as scenes, brings them."
)


@dataclass(frozen=True)
class Point:
    """A level's share of the way from chance (0) to all (1), with the ends of its interval."""

    level: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A factor over levels."""

    factor: str
    points: tuple[Point, ...]


def curves(profile: Profile, records: Sequence[Record] = ()) -> list[Curve]:
    """Return the curve of the class and, after it, those of where things are; none when there is nothing to compare.

    Args:
        profile: of a model.
        records: of which those of dense probes on the same model and images tell where objects are, by mIoU.
    """
    names = profile.factors
    classes = [score.factor for level in profile.levels for score in level.factors if score.origin == "class"]
    what = "class" if "class" in classes else next(iter(classes), None)
    where = [name for name in WHERE if name in names] or [name for name in EDGES if name in names]
    dense = [curve for record in records if (curve := _segmented(profile, record)) is not None]
    if what is None or not (where or dense):
        return []
    drawn = [_curve(profile, what), *dense[: MOST - 1]]
    drawn += [_curve(profile, name) for name in where[: MOST - len(drawn)]]
    return drawn if min(len(curve.points) for curve in drawn) > 1 else []


def _segmented(profile: Profile, record: Record) -> Curve | None:
    """Return mIoU over the levels of a dense record of the same model and images; chance counts as 0."""
    same = ("train_fingerprint", "test_fingerprint")
    unlike = any(getattr(record.dataset, name) != getattr(profile.dataset, name) for name in same)
    if record.probe != "dense" or record.model.name != profile.model.name or unlike:
        return None
    scores = [(level.level, score) for level in record.levels for score in level.scores if score.metric == "miou"]
    points = {level: Point(level, score.value, score.low, score.high) for level, score in reversed(scores)}
    return Curve(record.headed.of("", {}), tuple(points[level] for level in sorted(points))) if points else None


def sentences(profile: Profile, records: Sequence[Record] = ()) -> list[str]:
    """Return, for each curve of where, a sentence whether that of the class crosses it."""
    drawn = curves(profile, records)
    return [_sentence(drawn[0], curve) for curve in drawn[1:]]


def _curve(profile: Profile, factor: str) -> Curve:
    scores = (
        (level.level, score)
        for level in profile.levels
        for score in level.factors
        if score.factor == factor and not level.fused
    )
    return Curve(factor, tuple(_point(level, score) for level, score in scores))


def _point(level: int, score: FactorScore) -> Point:
    def share(value: float) -> float:
        return (value - score.chance) / (1 - score.chance) if score.chance < 1 else 0.0

    return Point(level, score.share, share(score.low), share(score.high))


def _sentence(what: Curve, where: Curve) -> str:
    both = list(_pairs(what, where))
    ahead = [pair for pair in both if pair[0].share > pair[1].share]
    behind = [pair for pair in both if pair[0].share < pair[1].share]
    names = f"{what.factor} and {where.factor}"
    if not ahead or not behind:
        better = what.factor if len(ahead) >= len(behind) else where.factor
        return f"The curves of {names} do not cross: {better} is told no worse at every level."
    first, second = _farthest(ahead), _farthest(behind)
    if first[0].low > first[1].high and second[0].high < second[1].low:
        return (
            f"The curves of {names} cross: level {first[0].level} tells {what.factor} better "
            f"({_against(*first)} percent of the way from chance), level {second[0].level} {where.factor} "
            f"({_against(*reversed(second))}), with intervals apart at both."
        )
    return f"The curves of {names} cross, but within their intervals: that may be chance."


def _farthest(pairs: list[tuple[Point, Point]]) -> tuple[Point, Point]:
    """Return the pair whose intervals lie farthest apart."""
    return max(pairs, key=lambda pair: max(pair[0].low - pair[1].high, pair[1].low - pair[0].high))


def _against(higher: Point, lower: Point) -> str:
    return f"{percent(higher.share)} against {percent(lower.share)}"


def _pairs(what: Curve, where: Curve) -> Iterator[tuple[Point, Point]]:
    others = {point.level: point for point in where.points}
    return ((point, others[point.level]) for point in what.points if point.level in others)
