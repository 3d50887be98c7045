"""Grids of what tokens know: dense numbers beside the ceilings of their grids, and levels against tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa_eval.report.tables.grid import Grid, GridCell, GridLine
from hjepa_eval.report.tables.rounding import interval, p_text, percent, points
from hjepa_eval.results.records import Contrast, LevelResult, Record, Score

_MEASURES = {
    "miou": "mIoU",
    "r2": "R2",
    "within": "within one cell",
    "corloc": "CorLoc",
    "accuracy": "accuracy of pixels",
    "ceiling": "ceiling",
    "share": "share of the ceiling",
    "near": "within a tenth of the image",
    "chance": "chance",
    "rmse": "RMSE",
}
_CELLS = {
    "soft": "each cell knows the shares of its classes",
    "majority": "each cell knows its majority",
    "nearest": "each cell finds the nearest",
    "edges": "boxes with the grid's edges",
}
_OF = {"within": "within one cell", "near": "within a tenth", "miou": "mIoU", "r2": "R2", "corloc": "CorLoc"}
DENSE_LEDE = (
    "The ceiling is what a level's grid allows: the same reading of cells that know the truth. A share compares levels "
    "that grids favour unequally."
)


def token_grids(records: Sequence[Record]) -> list[Grid]:
    """Return a grid per dense record and two per attentive record; none of other probes."""
    grids = [_dense(record) for record in records if record.probe == "dense"]
    for record in records:
        if record.probe == "attentive":
            grids += [grid for grid in (levels_against_tokens(record), _attention(record)) if grid is not None]
    return grids


def _dense(record: Record) -> Grid:
    keys = dict.fromkeys(score.key for level in record.levels for score in level.scores if score.metric != "iou")
    lines = [_line(key, record.levels) for key in keys]
    classes = dict.fromkeys(score.key for level in record.levels for score in level.scores if score.metric == "iou")
    lines += [_line(key, record.levels) for key in classes]
    return Grid(
        title=f"{record.headed.of('', {})}: {record.model.name}",
        lede=DENSE_LEDE,
        corner="measure",
        columns=tuple(f"level {level.level}" for level in record.levels),
        levels=tuple(str(level.level) for level in record.levels),
        lines=tuple(lines),
        notes=tuple(f"level {level.level}: {level.name}" for level in record.levels),
    )


def _line(key: str, levels: Sequence[LevelResult]) -> GridLine:
    scores = [next((score for score in level.scores if score.key == key), None) for level in levels]
    known = next(score for score in scores if score is not None)
    said = {name: str(value) for name, value in known.parameters.items()}
    if known.metric == "iou":
        name, reads = f"IoU of {said['class']}", ""
    else:
        of = _OF.get(said.get("of", ""), "")
        name = " ".join([_MEASURES.get(known.metric, known.metric), *([f"of {of}"] if of else [])])
        reads = _CELLS.get(said.get("cells", ""), "")
    return GridLine(name, reads, tuple(None if score is None else _cell(score, name) for score in scores))


def _cell(score: Score, name: str) -> GridCell:
    sure = score.high > score.low
    number = f"{score.value:.2f}" if score.metric == "rmse" else percent(score.value)
    about = f"{name}: {number}; {score.interval}; {score.num_samples:,} images"
    return GridCell(
        number, interval(score) if sure else "", strength=score.value if score.headline else None, about=about
    )


def levels_against_tokens(record: Record) -> Grid | None:
    """Return {last level, all levels} x {pooled, tokens} with its paired tests; None of a single level."""
    joined = next((level for level in record.levels if level.fused), None)
    if joined is None:
        return None
    last = [level for level in record.levels if not level.fused][-1]
    columns = (last, joined)
    lines = []
    for reads, name in (("pooled", "pooled"), ("tokens", "all tokens")):
        cells = [_cell(_of(level, f"top1 reads={reads}"), f"{name}, level {level.level}") for level in columns]
        lines.append(GridLine(name, "", tuple(cells)))
    notes = [_sentence(test, joined.level) for test in record.contrasts]
    return Grid(
        title=f"Levels against tokens: {record.model.name}",
        lede="The same heads and budget in all four cells; paired tests are McNemar's, Holm over all six pairs.",
        corner="reads",
        columns=(f"level {last.level}", "all levels"),
        levels=(str(last.level), "joined"),
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _of(level: LevelResult, key: str) -> Score:
    return next(score for score in level.scores if score.key == key)


def _sentence(test: Contrast, joined: int) -> str:
    first, second = (
        f"{'all levels' if level == joined else f'level {level}'} {key.rpartition('=')[2]}"
        for level, key in (test.first, test.second)
    )
    return (
        f"{first} - {second}: {points(test.difference)} [{points(test.low)}, {points(test.high)}]; right alone "
        f"{test.only_first:,} against {test.only_second:,}; {p_text(test.p_holm)} (Holm)"
    )


def _attention(record: Record) -> Grid | None:
    joined = next((level for level in record.levels if level.fused), None)
    if joined is None:
        return None
    names = {level.level: level.name for level in record.levels}
    lines = []
    for reads, name in (("pooled", "pooled"), ("tokens", "all tokens")):
        cells = [_cell(_of(joined, f"attention reads={reads} level={level}"), name) for level in joined.fused]
        lines.append(GridLine(name, "", tuple(cells)))
    return Grid(
        title=f"Attention mass by level: {record.model.name}",
        lede="The share of the joined heads' attention on each level's tokens, in percent, with intervals.",
        corner="reads",
        columns=tuple(f"level {level}" for level in joined.fused),
        levels=tuple(map(str, joined.fused)),
        lines=tuple(lines),
        notes=tuple(f"level {level}: {names[level]}" for level in joined.fused if level in names),
    )
