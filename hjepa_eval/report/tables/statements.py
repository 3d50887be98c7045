"""What the paired tests say, in sentences: which level was chosen without the test set, and how far levels differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hjepa_eval.errors import first_few
from hjepa_eval.report.tables.rounding import gain_within, p_equals, p_text, percent
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.results.records import LevelChoice, LevelComparison, Record, Score

Heading = Callable[[Record, Score], str]
MANY_LEVELS = 3
_TIE = 1e-9


def statements(selection: Selection, *, baselines: bool = True) -> list[str]:
    """Return the sentences about every headline score of several levels.

    The test of a model's highest level against the runner-up is always among them.

    Args:
        selection: what is shown.
        baselines: say it of baselines too.
    """
    shown = [record for record in selection.records if baselines or not selection.beaten(record)]
    several = len({selection.label(record) for record in shown}) > 1
    return [
        f"{selection.label(record)}, {sentence}" if several else sentence
        for record in shown
        for sentence in sentences_of(record, selection.heading)
    ]


def choices(selection: Selection) -> list[str]:
    """Return a sentence per score of a model that is no baseline: which level was chosen without the test set."""
    shown = [record for record in selection.records if not selection.beaten(record)]
    several = len({selection.label(record) for record in shown}) > 1
    return [
        f"{f'{selection.label(record)}, ' if several else ''}{_heading_of(record, choice.score, selection.heading)}: "
        f"{_briefly(choice)}"
        for record in shown
        for choice in record.choices
    ]


def _briefly(choice: LevelChoice) -> str:
    """Return what `chosen` says, in less than a line."""
    text = f"level {choice.level} is chosen on train, {percent(choice.value)};"
    if choice.oracle == choice.level:
        return f"{text} the best on test"
    if abs(choice.oracle_value - choice.value) < _TIE:
        return f"{text} a tie with level {choice.oracle}, the best on test"
    told = ", not told apart" if choice.level in choice.oracle_ties else ""
    return f"{text} best on test level {choice.oracle}, {percent(choice.oracle_value)}{told}"


def compared_table(selection: Selection) -> list[list[str]]:
    """Return rows of text, the first the header: every paired comparison of every record."""
    rows = [["model", "probe", "levels", "difference", "95 % interval", "test", "p", "p (Holm)"]]
    for record in selection.records:
        for pair in record.tests:
            gain, ends = gain_within(pair.paired)
            rows.append(
                [
                    selection.label(record),
                    _heading_of(record, pair.score, selection.heading),
                    f"{_level(record, pair.first)} - {_level(record, pair.second)}",
                    gain,
                    ends,
                    pair.test,
                    p_text(pair.p_value),
                    p_text(pair.p_holm),
                ]
            )
    return rows


def sentences_of(record: Record, heading: Heading) -> Iterator[str]:
    """Yield a sentence per score that several levels of a record have: the choice of one, and the tests to show."""
    choices = {choice.score: choice for choice in record.choices}
    for key in dict.fromkeys([*choices, *(pair.score for pair in record.tests)]):
        choice = choices.get(key)
        best = choice.level if choice is not None else _best(record, key)
        wanted = _pairs_to_show(record, key, best)
        pairs = [pair for pair in record.tests if pair.score == key]
        shown = [pair for pair in pairs if {pair.first, pair.second} in wanted]
        shown += [pair for pair in pairs if _is_joined(record, pair.first) and pair.second == best]
        said = [*([] if choice is None else [chosen(choice)]), *(_compared(record, pair) for pair in shown)]
        yield f"{_heading_of(record, key, heading)}: {'; '.join(said)}"


def chosen(choice: LevelChoice) -> str:
    """Return which level was chosen without the test set, and how far it is from the best on test."""
    ties = f" (not told from level {', '.join(map(str, choice.ties))} there)" if choice.ties else ""
    text = f"level {choice.level} is chosen on train{ties} and reaches {percent(choice.value)}"
    if choice.oracle == choice.level:
        return f"{text}, the best on test"
    if abs(choice.oracle_value - choice.value) < _TIE:
        return f"{text}, a tie with level {choice.oracle} for the best on test"
    told = ", not told from it" if choice.level in choice.oracle_ties else ""
    return f"{text}, the best on test is level {choice.oracle} with {percent(choice.oracle_value)}{told}"


def _compared(record: Record, pair: LevelComparison) -> str:
    first, second = _level(record, pair.first), _level(record, pair.second)
    gain, ends = gain_within(pair.paired)
    return f"{first} - {second} {gain} [{ends}], p {p_equals(pair.p_value)}, Holm {p_equals(pair.p_holm)}"


def explanations(selection: Selection) -> list[str]:
    """Return how to read the sentences of `statements`; nothing when there are none."""
    return [*_about_tests([record for record in selection.records if record.tests]), *of_episodes(selection.records)]


def _about_tests(compared: Sequence[Record]) -> Iterator[str]:
    if not compared:
        return
    tests = sorted({pair.test for record in compared for pair in record.tests})
    yield f"Differences are paired, with intervals over images; p: {', '.join(tests)}; Holm: over all pairs of levels."
    if any(sum(not level.fused for level in record.levels) > MANY_LEVELS for record in compared):
        yield (
            f"Of more than {MANY_LEVELS} levels the chosen and the highest one are compared, each with the highest of "
            "the others; the records have all pairs."
        )
    rules = {record.protocol: record.choices[0].rule for record in compared if record.choices}
    if rules:
        yield f"Chosen on train means, for {'; for '.join(f'{name}: {rule}' for name, rule in rules.items())}."
    if any(score.values for record in compared for level in record.levels for score in level.scores):
        yield (
            "Tests of several seeds or draws are over test samples; they do not cover how far other seeds would fall."
        )
    if any(record.probe == "fewshot" for record in compared):
        yield "Few-shot intervals and tests cover the draw of the images, as query and as labelled one."


def of_episodes(records: Sequence[Record]) -> list[str]:
    """Return what to say of records whose intervals are of episodes alone; nothing where there are none."""
    named = dict.fromkeys(record.model.name for record in records if not record.covers_images)
    if not named:
        return []
    return [
        f"Few-shot of {first_few(named)}: the intervals cover the draw of episodes and not that of the test images, so "
        "no level is marked and nothing is tested; running the probe again measures both."
    ]


def deviations(selection: Selection) -> list[str]:
    """Return a sentence per protocol about what it does not reproduce."""
    said = {f"protocol {r.protocol}: {'; '.join(r.deviations)}": None for r in selection.records if r.deviations}
    return list(said)


def calibrations(selection: Selection) -> list[str]:
    """Return a sentence about the calibration error of each record that has one."""
    lines = []
    for record in selection.records:
        each = [
            f"{_level(record, level.level)} {percent(level.calibration['ece'])} to "
            f"{percent(level.calibration['ece_scaled'])} (T = {level.calibration['temperature']:.2f})"
            for level in record.levels
            if level.calibration
        ]
        if each:
            where = f"{selection.label(record)}, {record.protocol}"
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
