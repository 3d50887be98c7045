"""Where a score stands: among the levels of its model, and beside the baselines that are there to be beaten."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hjepa_eval.metrics.paired import Paired
from hjepa_eval.report.tables.columns import ColumnKey, Variant, column_keys, variant
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.results.headings import HEADINGS
from hjepa_eval.results.records import LevelResult, Record, Score

# In the order of rows and colours, whatever the order of files or of `--baselines`.
_KINDS = ("random", "pixels", "kmeans")


def is_baseline(model: str) -> bool:
    """Return whether a model's name is that of an untrained encoder, raw pixels or k-means."""
    return _kind(model) in _KINDS


def _kind(model: str) -> str:
    return model.partition("?")[0].partition(":")[0]


def baselines_among(models: Iterable[str]) -> frozenset[str]:
    """Return which of the models shown together are there to be beaten.

    Where there are baselines only, an untrained encoder is the model that was asked about, and pixels stand beside it.
    """
    names = frozenset(models)
    found = frozenset(name for name in names if is_baseline(name))
    if found != names:
        return found
    untrained = frozenset(name for name in found if twin_of(name) is not None)
    return found - (untrained or found)


def twin_of(baseline: str) -> str | None:
    """Return the name after `random:`, that of the trained encoder or its timm name; None for other models."""
    kind, _, name = baseline.partition("?")[0].partition(":")
    return name if kind == "random" else None


def is_twin_of_another(baseline: str, model: str, models: Iterable[str]) -> bool:
    """Return whether a baseline is the untrained twin of one of the models in view, and that one is not `model`."""
    twin = twin_of(baseline)
    owners = {name for name in models if twin is not None and _bare(name) == twin}
    return bool(owners) and model not in owners


def called(baseline: str, model: str) -> str:
    """Return what a baseline is called in a sentence about a model: `the untrained encoder` if it is that model's."""
    twin = twin_of(baseline)
    if twin is not None:
        return "the untrained encoder" if twin == _bare(model) else f"the untrained {twin}"
    return {"pixels": "raw pixels", "kmeans": "k-means"}.get(_kind(baseline), baseline)


def _bare(model: str) -> str:
    """Return a model's name as it stands after `random:`."""
    return model.partition("?")[0].removeprefix("timm:")


def baselines_last(located: Sequence[Located]) -> list[Located]:
    """Return the records of models in the order given, then those of baselines: untrained, pixels, k-means, by name."""
    beaten = baselines_among(each.record.model.name for each in located)

    def place(each: Located) -> tuple[int, str]:
        name = each.record.model.name
        return (1 + _KINDS.index(_kind(name)), name) if name in beaten else (0, "")

    return sorted(located, key=place)


def baseline_note(records: Sequence[Record]) -> list[str]:
    """Return the command that adds baselines to a table of one dataset; nothing where one is in view."""
    if any(is_baseline(record.model.name) for record in records):
        return []
    records = [record for record in records if record.extraction.readout != "imported"]  # No images, so no baselines.
    if not records:
        return []
    # Fine-tuning has a command of its own; all probes of this package can be asked of `hjepa eval`.
    probes = [each.probe for each in records if each.probe in HEADINGS and each.probe != "finetune"]
    record = next((record for record in records if record.probe in probes), records[0])
    model, data = shlex.quote(record.model.name), f"--dataset {shlex.quote(record.dataset.name)}"
    trained = _has_untrained_twin(record)
    if probes:
        named = ",".join(dict.fromkeys(probes))
        command = (
            f"hjepa eval --probes {named} --model {model} --baselines {'random,' if trained else ''}pixels:8 {data}"
        )
    elif trained and record.probe in HEADINGS:
        twin = shlex.quote(f"random:{_bare(record.model.name)}")
        command = f"hjepa {record.probe} --model {twin} {data}"
    else:
        return []
    return [f"no baseline is in view; {command}, with the other options as before, adds it"]


# Of the untrained encoder's RankMe; training raises it as a rule.
_FAR_BELOW = 0.5


def fallen_ranks(records: Sequence[Record]) -> list[str]:
    """Return a sentence per model whose levels use far fewer directions than those of its untrained twin in view."""
    ranks: dict[str, dict[int, float]] = {}
    for record in records:
        known = {level.level: level.rankme for level in record.levels if level.rankme is not None}
        ranks.setdefault(record.model.name, {}).update(known)
    sentences = []
    for model, own in ranks.items():
        twin = next((name for name in ranks if twin_of(name) == _bare(model)), None)
        before = ranks[twin] if twin is not None and twin != model else {}
        fallen = [
            f"level {level} {rank:.1f}, untrained {before[level]:.1f}"
            for level, rank in sorted(own.items())
            if rank < _FAR_BELOW * before.get(level, 0.0)
        ]
        if fallen:
            sentences.append(
                f"warning: {model} uses far fewer directions than before its training (RankMe: {'; '.join(fallen)}): "
                "it may have collapsed"
            )
    return sentences


def _has_untrained_twin(record: Record) -> bool:
    """Return whether `random:` can build the encoder again without weights: a timm model or the folder of a run."""
    name = record.model.name.partition("?")[0]
    kind, colon, argument = name.partition(":")
    return (not colon) or (kind == "timm" and not argument.startswith("local-dir:"))


APART = 0.05


@dataclass(frozen=True)
class Standing:
    """A score among the single levels of its model, in one column.

    Attributes:
        best: whether it is the highest; False where there is one level only, for levels joined, and where intervals
            are of episodes alone: other test images may well make another level the highest.
        delta: the score minus that of the model's last single level; None for that one, one level and levels joined.
        rival: number of the runner-up; None without a test.
        test: of the highest, minus the runner-up, where its record has the paired test.
    """

    best: bool = False
    delta: float | None = None
    rival: int | None = None
    test: Paired | None = None

    @property
    def apart(self) -> bool:
        """Whether the paired test tells it from the runner-up."""
        return self.test is not None and self.test.p_holm < APART


def standings(records: Sequence[Record]) -> Callable[[Record, LevelResult, Score], Standing]:
    """Return a function that says where a score stands among all the records' levels of the same model and column."""
    column = column_keys(records)
    values: dict[tuple[tuple, Variant, ColumnKey], dict[int, float]] = {}
    last: dict[tuple[tuple, Variant], int] = {}
    for record in records:
        model = record.dataset.key, variant(record)
        for level in record.levels:
            for score in () if level.fused else level.scores:
                values.setdefault((*model, column(record, score)), {})[level.level] = score.value
                last[model] = max(level.level, last.get(model, 0))

    def stand(record: Record, level: LevelResult, score: Score) -> Standing:
        model = record.dataset.key, variant(record)
        found = values.get((*model, column(record, score)), {})
        if level.fused or len(found) < 2:
            return Standing()
        end = last[model]
        delta = score.value - found[end] if end in found and end != level.level else None
        if score.value < max(found.values()) or not record.covers_images:
            return Standing(delta=delta)
        rival = max((number for number in sorted(found) if number != level.level), key=lambda number: found[number])
        test = _test(record, score.key, (level.level, rival))
        return Standing(best=True, delta=delta, rival=None if test is None else rival, test=test)

    return stand


def _test(record: Record, key: str, levels: tuple[int, int]) -> Paired | None:
    """Return the test of two levels, the first minus the second; None where the record lacks it."""
    for pair in record.tests:
        if pair.score == key and (pair.first, pair.second) == levels:
            return pair.paired
        if pair.score == key and (pair.second, pair.first) == levels:
            return pair.paired.turned()
    return None
