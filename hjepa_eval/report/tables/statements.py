"""What the paired tests say, in sentences: which level was chosen without the test set, and how far levels differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hjepa_eval.report.tables.columns import column_names, label_variants, variant
from hjepa_eval.report.tables.rounding import p_equals, p_text, percent, points_within
from hjepa_eval.report.tables.selection import arrange
from hjepa_eval.results.records import LevelChoice, LevelComparison, Record, Score

MANY_LEVELS = 3
Heading = Callable[[Record, Score], str]


def statements(records: Sequence[Record]) -> list[str]:
    """Return the sentences about every headline score of several levels.

    The test of a model's highest level against the runner-up is always among them.
    """
    records = arrange(records)
    heading, labels = column_names(records), label_variants(records)
    return [
        f"{labels[variant(record)]}, {sentence}" if len(labels) > 1 else sentence
        for record in records
        for sentence in _of_record(record, heading)
    ]


def compared_table(records: Sequence[Record]) -> list[list[str]]:
    """Return rows of text, the first the header: every paired comparison of every record."""
    records = arrange(records)
    heading, labels = column_names(records), label_variants(records)
    rows = [["model", "probe", "levels", "difference", "95 % interval", "test", "p", "p (Holm)"]]
    for record in records:
        for pair in record.comparisons:
            gain, low, high = points_within(pair.difference, pair.low, pair.high)
            rows.append(
                [
                    labels[variant(record)],
                    _heading_of(record, pair.score, heading),
                    f"{_level(record, pair.first)} - {_level(record, pair.second)}",
                    gain,
                    f"{low} to {high}",
                    pair.test,
                    p_text(pair.p_value),
                    p_text(pair.p_holm),
                ]
            )
    return rows


def _of_record(record: Record, heading: Heading) -> Iterator[str]:
    choices = {choice.score: choice for choice in record.choices}
    for key in dict.fromkeys(pair.score for pair in record.comparisons):
        choice = choices.get(key)
        best = choice.level if choice is not None else _best(record, key)
        wanted = _pairs_to_show(record, key, best)
        shown = [pair for pair in record.comparisons if pair.score == key and {pair.first, pair.second} in wanted]
        shown += [
            pair
            for pair in record.comparisons
            if pair.score == key and _is_joined(record, pair.first) and pair.second == best
        ]
        said = [*([] if choice is None else [_chosen(choice)]), *(_compared(record, pair) for pair in shown)]
        yield f"{_heading_of(record, key, heading)}: {'; '.join(said)}"


def _chosen(choice: LevelChoice) -> str:
    text = f"level {choice.level} is chosen on train and reaches {percent(choice.value)}"
    if choice.oracle == choice.level:
        return f"{text}, the best on test"
    return f"{text}, the best on test is level {choice.oracle} with {percent(choice.oracle_value)}"


def _compared(record: Record, pair: LevelComparison) -> str:
    first, second = _level(record, pair.first), _level(record, pair.second)
    gain, low, high = points_within(pair.difference, pair.low, pair.high)
    return f"{first} - {second} {gain} [{low} to {high}], p {p_equals(pair.p_value)}, Holm {p_equals(pair.p_holm)}"


def explanations(records: Sequence[Record]) -> list[str]:
    """Return how to read the sentences of `statements`; nothing when there are none."""
    compared = [record for record in arrange(records) if record.comparisons]
    if not compared:
        return []
    rules = {record.protocol: record.choices[0].rule for record in compared if record.choices}
    tests = sorted({pair.test for record in compared for pair in record.comparisons})
    lines = [
        f"Differences are paired, with intervals over images; p: {', '.join(tests)}; Holm: over all pairs of levels."
    ]
    if any(sum(not level.fused for level in record.levels) > MANY_LEVELS for record in compared):
        lines.append(
            f"Of more than {MANY_LEVELS} levels the chosen and the highest one are compared, each with the highest of "
            "the others; the records have all pairs."
        )
    if rules:
        lines.append(f"Chosen on train means, for {'; for '.join(f'{name}: {rule}' for name, rule in rules.items())}.")
    if any(score.values for record in compared for level in record.levels for score in level.scores):
        lines.append(
            "Tests of several seeds or draws are over test samples; they do not cover how far other seeds would fall."
        )
    few_shot = [record.protocol_version for record in compared if record.probe == "fewshot"]
    if 1 in few_shot:
        lines.append("Few-shot intervals and tests cover the draw of episodes, not that of the test images.")
    elif few_shot:
        lines.append("Few-shot intervals and tests cover the draw of the images, as query and as labelled one.")
    return lines


def deviations(records: Sequence[Record]) -> list[str]:
    """Return a sentence per protocol about what it does not reproduce."""
    said = {f"protocol {r.protocol}: {'; '.join(r.deviations)}": None for r in arrange(records) if r.deviations}
    return list(said)


def calibrations(records: Sequence[Record]) -> list[str]:
    """Return a sentence about the calibration error of each record that has one."""
    records = arrange(records)
    labels, lines = label_variants(records), []
    for record in records:
        each = [
            f"{_level(record, level.level)} {percent(level.calibration['ece'])} to "
            f"{percent(level.calibration['ece_scaled'])} (T = {level.calibration['temperature']:.2f})"
            for level in record.levels
            if level.calibration
        ]
        if each:
            where = f"{labels[variant(record)]}, {record.protocol}"
            lines.append(f"{where}, calibration error by temperature scaling: {'; '.join(each)}")
    return lines


def _best(record: Record, key: str) -> int:
    singles = {level: value for level, value in _values(record, key).items() if not _is_joined(record, level)}
    return max(singles, key=lambda level: singles[level])


def _rival(record: Record, key: str, best: int) -> int | None:
    """Return the best of the other levels on test; None if there is none."""
    others = {
        level: value for level, value in _values(record, key).items() if level != best and not _is_joined(record, level)
    }
    return max(others, key=lambda level: others[level]) if others else None


def _pairs_to_show(record: Record, key: str, best: int) -> list[set[int]]:
    """Return every pair of up to three levels; of more, the chosen and the highest one, each with its best rival."""
    singles = [level.level for level in record.levels if not level.fused]
    if len(singles) <= MANY_LEVELS:
        return [{one, other} for one in singles for other in singles if one < other]
    rivals = [(level, _rival(record, key, level)) for level in (best, _best(record, key))]
    return [{level, rival} for level, rival in rivals if rival is not None]


def _values(record: Record, key: str) -> dict[int, float]:
    return {level.level: score.value for level in record.levels for score in level.scores if score.key == key}


def _heading_of(record: Record, key: str, heading: Heading) -> str:
    return next(heading(record, score) for level in record.levels for score in level.scores if score.key == key)


def _is_joined(record: Record, number: int) -> bool:
    return any(level.level == number and level.fused for level in record.levels)


def _level(record: Record, number: int) -> str:
    return "levels joined" if _is_joined(record, number) else f"level {number}"
