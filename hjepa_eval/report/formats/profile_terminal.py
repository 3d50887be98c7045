"""A profile on the terminal: factors x levels as coloured cells that print their numbers, the level map, geometry."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hjepa_eval.report.tables.prediction import prediction_grids
from hjepa_eval.report.tables.profile import APART_MARK, factor_marks
from hjepa_eval.results.profiles import FactorScore, LevelProfile, Measure, Profile
from hjepa_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.text import Text

LEAST_WIDTH = 80
_NAME, _CELL = 24, 9
# Of a heat-map's columns: more would not fit a line.
_MOST_LEVELS = 6
_HEAT = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#084594")
_SHOWN = (
    ("geometry", "RankMe"),
    ("geometry", "TwoNN dimension"),
    ("geometry", "correlation dimension"),
    ("geometry", "uniformity"),
    ("geometry", "hubness"),
    ("geometry", "NC1 within / between"),
    ("neighbours", "mAP"),
    ("neighbours", "clustering accuracy"),
    ("neighbours", "OOD AUROC"),
)


def profiles_text(profiles: Sequence[Profile]) -> str:
    """Return what the terminal shows of profiles: the models' in whole, of baselines their best level beside it."""
    from rich.console import Console

    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width, emoji=False)
    shown = [profile for profile in profiles if not profile.baseline] or list(profiles)
    beaten = [profile for profile in profiles if profile.baseline and profile not in shown]
    with console.capture() as capture:
        for profile in shown:
            for line in _profile(profile, beaten):
                console.print(line, highlight=False, soft_wrap=True)
        for line in _predictions(profiles):
            console.print(line, highlight=False, soft_wrap=True)
    return capture.get()


def _profile(profile: Profile, beaten: Sequence[Profile]) -> Iterator[Any]:
    from rich.text import Text

    data = profile.dataset
    said = f"{profile.model.name}, {data.name}: {data.train_images:,} train, {data.test_images:,} test images"
    yield Text(one_line(said), "bold")
    levels = list(profile.levels)[:_MOST_LEVELS]
    if profile.factors:
        yield from _heat_map(profile, levels, beaten)
    yield from _changes(profile, levels)
    yield from _map(profile)
    yield from _measures([level for level in levels if not level.fused])
    for entry in profile.left_out:
        yield Text(one_line(f"left out: {entry.name}: {entry.reason}"), "dim")
    yield ""


def _title(level: LevelProfile) -> str:
    return "joined" if level.fused else f"level {level.level}"


def _head(name: str, titles: Sequence[str]) -> Text:
    from rich.text import Text

    return Text(
        f"{name:<{_NAME}}" + "".join(f"{one_line(title)[: _CELL - 1]:>{_CELL - 1}} " for title in titles), "bold"
    )


def _heat_map(profile: Profile, levels: Sequence[LevelProfile], beaten: Sequence[Profile]) -> Iterator[Any]:
    """Yield a row per factor; a star marks the best level where a paired test tells it from the next."""
    from rich.text import Text

    names = [other.model.name.partition(":")[0] for other in beaten]
    space = max(0, (LEAST_WIDTH - _NAME) // _CELL - len(levels))
    yield _head("factor (accuracy, R2)", [*map(_title, levels), *names[:space]])
    for factor in profile.factors:
        scores = [_of(level, factor) for level in levels]
        known = [score for score in scores if score is not None]
        sign = "%" if known[0].kind == "categorical" else ""
        row = Text(f"{one_line(factor)[: _NAME - 1]:<{_NAME}}")
        for score, mark in zip(scores, factor_marks(profile, factor, levels, scores), strict=True):
            row.append_text(_cell(score, star="*" if mark == APART_MARK else " "))
        for other in beaten[:space]:
            best = [score for level in other.levels if (score := _of(level, factor)) is not None]
            row.append_text(_cell(max(best, key=lambda score: score.value, default=None), star=" "))
        yield row + Text(f"  chance {100 * known[0].chance:.0f}" if sign else "", "dim")
    yield Text("colour: from chance to all; *: the best level, told from the next (paired test, Holm)", "dim")


def _of(level: LevelProfile, factor: str) -> FactorScore | None:
    return next((score for score in level.factors if score.factor == factor), None)


def _cell(score: FactorScore | None, *, star: str) -> Text:
    from rich.text import Text

    if score is None:
        return Text(f"{'-':>{_CELL - 1}} ", "dim")
    number = f"{100 * score.value:.1f}" if score.kind == "categorical" else f"{score.value:.2f}"
    return Text(f"{number:>{_CELL - 1}}{star}", _heat(score.share))


def _heat(share: float) -> str:
    place = min(len(_HEAT) - 1, max(0, int(share * len(_HEAT))))
    return f"{'white' if place >= len(_HEAT) // 2 else 'black'} on {_HEAT[place]}"


def _changes(profile: Profile, levels: Sequence[LevelProfile]) -> Iterator[Any]:
    """Yield kNN under changes, a corruption's severities averaged, and the verdict."""
    from rich.text import Text

    single = [level for level in levels if level.changes]
    if not single:
        return
    yield ""
    yield _head("kNN under changes", [_title(level) for level in single])
    for change in dict.fromkeys(score.change for score in single[0].changes):
        row = Text(f"{change:<{_NAME}}")
        for level in single:
            values = [score.knn.value for score in level.changes if score.change == change]
            value = sum(values) / len(values)
            row.append_text(Text(f"{100 * value:>{_CELL - 1}.1f} ", _heat(value)))
        yield row
    errors = [level.corruption_error for level in single]
    if None not in errors:
        text = "".join(f"{error:>{_CELL - 1}.2f} " for error in errors if error is not None)
        yield Text(f"{'corruption error':<{_NAME}}{text}  (k-means: 1)")
    if profile.verdict is not None:
        yield Text(profile.verdict.sentence, "bold")


def _map(profile: Profile) -> Iterator[Any]:
    from rich.text import Text

    own = [pair for pair in profile.level_map if not pair.other_model]
    if own:
        yield ""
        yield _head("level map", ["kNN", "in class", "CKA", "R2 ->", "R2 <-"])
    for pair in own:
        values = (pair.mutual_knn.calibrated, pair.within_classes.calibrated, pair.cka, pair.forward, pair.backward)
        row = Text(f"{f'{pair.first} and {pair.second}':<{_NAME}}")
        for value in values:
            row.append_text(Text(f"{value:>{_CELL - 1}.2f} ", _heat(value)))
        yield row + Text(" identical" if pair.identical else "", "bold")
    for joining in profile.joining:
        said = f"level {joining.level} adds {100 * joining.difference:+.1f} points to all others"
        yield Text(f"{said} [{100 * joining.low:+.1f}, {100 * joining.high:+.1f}], p {joining.p_holm:.2g}")


def _measures(levels: Sequence[LevelProfile]) -> Iterator[Any]:
    from rich.text import Text

    rows = []
    for part, name in _SHOWN:
        measures = [_measure(getattr(level, part), name) for level in levels]
        if any(measure is not None for measure in measures):
            rows.append((name, measures))
    if rows:
        yield ""
        yield _head("geometry, neighbours", [_title(level) for level in levels])
    for name, measures in rows:
        shown = ["-" if m is None or m.value is None else f"{m.value:.3g}" for m in measures]
        note = next((m.note for m in measures if m is not None and m.note), "")
        cells = "".join(f"{text:>{_CELL - 1}} " for text in shown)
        yield Text(f"{name:<{_NAME}}{cells}") + Text(" (a note)" if note else "", "dim")


def _measure(measures: Sequence[Measure], name: str) -> Measure | None:
    return next((measure for measure in measures if measure.name == name), None)


def _predictions(profiles: Sequence[Profile]) -> Iterator[Any]:
    """Yield Kendall's tau of each measure with accuracies, of what could be compared."""
    from rich.text import Text

    for grid in prediction_grids(profiles):
        shown = [
            place
            for place in range(len(grid.columns))
            if any(cell is not None and cell.below for cell in (line.cells[place] for line in grid.lines))
        ]
        yield Text(one_line(grid.title), "bold")
        for column in shown:
            yield Text(f"  {grid.columns[column]}: Kendall's tau, 95 % interval; points lost by choosing with it")
            for line in grid.lines:
                cell = line.cells[column]
                if cell is not None:
                    yield Text(f"  {line.name:<{_NAME}}{cell.text:>{_CELL}}{cell.mark:<3}{cell.below}")
        for note in grid.notes:
            yield Text(f"  {one_line(note)}", "dim")
