"""Run a planned probe over levels and seeds, and make its result record with the statistics across levels."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from hjepa_eval.evaluation.features import FeatureSet
from hjepa_eval.evaluation.findings import Finding, count_classes, merge_seeds
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.doubts import doubts_of, used_directions
from hjepa_eval.evaluation.probe import Plan
from hjepa_eval.evaluation.rows import LevelRow, level_rows
from hjepa_eval.metrics.paired import adjusted, choose_level, compare, compare_levels, outcome_ends, tied_levels
from hjepa_eval.probes.side_by_side import side_by_side
from hjepa_eval.results.files import write_record
from hjepa_eval.results.headings import Heading
from hjepa_eval.results.outcomes import SampleOutcomes, write_outcomes
from hjepa_eval.results.provenance import make_provenance
from hjepa_eval.results.records import Contrast, LevelChoice, LevelComparison, LevelResult, Predictions, Record


@dataclass(frozen=True)
class Measured:
    """A record and the outcome of every sample."""

    record: Record
    samples: SampleOutcomes

    def write(self, folder: Path, *, predictions: bool) -> tuple[Path, Record]:
        """Write the record, with `predictions` the per-sample outcomes beside it; return its path and what it holds."""
        record = self.record
        if predictions:
            path = folder / Path(record.file_name).with_suffix(".npz")
            write_outcomes(self.samples, path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            record = record.model_copy(update={"predictions": Predictions(file=path.name, sha256=digest)})
        return write_record(record, folder), record


@dataclass(frozen=True)
class Task:
    """A probe that is to be run.

    Attributes:
        probe: its name in records.
        heading: what tables call it.
        plan: how it runs.
        settings: all options, for the record.
        fuse: add a row with all levels joined.
        command: what asked for it; empty for the program's own command line.
    """

    probe: str
    heading: Heading
    plan: Plan
    settings: Mapping[str, Any]
    fuse: bool = False
    command: str = ""


def measure(task: Task, features: Mapping[int, FeatureSet], talk: Talk, *, said: bool = False) -> Measured:
    """Run a probe on every level of `features` (seed -> stores) and return its record.

    Args:
        task: the probe.
        features: by seed.
        talk: told about progress, and what makes a level doubtful.
        said: another probe has told what is doubtful about these features; the record has it all the same.

    Raises:
        ProbeError: features or labels do not allow the probe.
    """
    started = time.perf_counter()
    plan = task.plan
    rows = {seed: level_rows(stores, fuse=task.fuse or plan.joins) for seed, stores in features.items()}
    first = next(iter(rows.values()))
    choosing = len(first) > 1
    found: dict[int, dict[int, Finding]] = {row.level: {} for row in first}
    jobs = [(seed, row) for seed, each in rows.items() for row in each]
    size = sum(row.width for _, row in jobs)
    title = f"{task.probe}, {first[0].features.encoder.name}"
    with talk.progress(title, "", stage=task.heading.title, size=size) as report:
        report(0, len(jobs))
        for done, ((seed, row), finding) in enumerate(_run(plan, jobs, choosing), start=1):
            found[row.level][seed] = finding
            report(done, len(jobs))
    merged = {row.level: merge_seeds(found[row.level]) for row in first}
    merged = _doubted(merged, first, plan.split, talk, said=said)
    samples = _samples(plan, first[0], merged)
    record = _record(task, first, merged, samples, features, time.perf_counter() - started)
    return Measured(record, samples)


def _run(
    plan: Plan, jobs: Sequence[tuple[int, LevelRow]], choosing: bool
) -> Iterator[tuple[tuple[int, LevelRow], Finding]]:
    calls = [partial(plan.run, row, seed, choosing) for seed, row in jobs]
    # A fit holds what it reads, and a copy less what is held out.
    size = sum(2 * 4 * row.width * len(row.index("train")) * row.copies for _, row in jobs)
    levels = len({row.level for _, row in jobs})
    results = side_by_side(calls, size=size, workers=levels) if plan.together else (call() for call in calls)
    return zip(jobs, results, strict=True)


def _doubted(
    merged: dict[int, Finding], rows: Sequence[LevelRow], split: str, talk: Talk, *, said: bool
) -> dict[int, Finding]:
    """Return the findings with what makes a level doubtful among their notes, and say it unless it was `said`."""
    of_features, of_scores = doubts_of(merged, rows, split)
    for doubts in (of_scores,) if said else (of_features, of_scores):
        for level, sentences in doubts.items():
            for sentence in sentences:
                talk.alert(f"warning: {rows[0].features.encoder.name}, level {level}: {sentence}")
    return {
        level: replace(finding, notes=(*finding.notes, *of_features.get(level, ()), *of_scores.get(level, ())))
        for level, finding in merged.items()
    }


def _samples(plan: Plan, row: LevelRow, merged: Mapping[int, Finding]) -> SampleOutcomes:
    outcomes = {(level, key): array for level, one in merged.items() for key, array in one.outcomes.items()}
    predictions = {(level, key): array for level, one in merged.items() for key, array in one.predictions.items()}
    labels = row.stream(plan.split).labels
    return SampleOutcomes(
        row.index(plan.split), labels, outcomes, predictions, row.names(plan.split) or (), row.class_names
    )


def _record(
    task: Task,
    rows: Sequence[LevelRow],
    merged: Mapping[int, Finding],
    samples: SampleOutcomes,
    features: Mapping[int, FeatureSet],
    seconds: float,
) -> Record:
    plan = task.plan
    first = next(iter(features.values()))
    phases = {phase: sum(one.seconds.get(phase, 0.0) for one in features.values()) for phase in first.seconds}
    return Record(
        probe=task.probe,
        protocol=plan.protocol,
        protocol_version=plan.version,
        parameters=plan.parameters,
        model=first.encoder,
        dataset=first.dataset_info(),
        extraction=first.extracted(),
        levels=tuple(_level(row, merged[row.level], samples) for row in rows),
        comparisons=tuple(_comparisons(merged)),
        choices=tuple(_choices(plan, rows, merged)),
        contrasts=tuple(_contrasts(rows, merged)) if plan.contrasts else (),
        deviations=plan.deviations,
        seeds=tuple(features) if len(features) > 1 else (),
        heading=plan.heading or task.heading,
        provenance=make_provenance(
            seed=next(iter(features)),
            device=first.device if plan.moves else "cpu",
            settings=dict(task.settings),
            seconds={**phases, task.probe: seconds},
            command=task.command,
        ),
    )


def _level(row: LevelRow, finding: Finding, samples: SampleOutcomes) -> LevelResult:
    headline = next(score.key for score in finding.scores if score.headline)
    # Of several seeds or draws each has its predictions: `top1 k=20 seed=1`.
    guesses = {
        key: guess
        for key, guess in finding.predictions.items()
        if key.partition(" seed=")[0].partition(" draw=")[0] == headline
    }
    costs = row.features.costs
    return LevelResult(
        level=row.level,
        name=row.name,
        width=row.width,
        tokens=row.tokens,
        scores=finding.scores,
        chosen=finding.chosen,
        notes=finding.notes + (costs.note(row.parts) if costs else ()),
        calibration=finding.calibration,
        fused=row.fused,
        per_class=count_classes(guesses, samples.labels, row.class_names),
        cost=costs.of(row.parts) if costs else None,
        rankme=None if row.fused else used_directions(row),
    )


def _comparisons(merged: Mapping[int, Finding]) -> Iterator[LevelComparison]:
    for key in next(iter(merged.values())).outcomes:
        tests = compare_levels({level: one.outcomes[key] for level, one in merged.items()})
        yield from (LevelComparison.of(key, levels, test) for levels, test in tests.items())


def _contrasts(rows: Sequence[LevelRow], merged: Mapping[int, Finding]) -> Iterator[Contrast]:
    """Yield all pairs of the headline scores of the last single level and of all levels together."""
    single = [row.level for row in rows if not row.fused]
    levels = [single[-1], *(row.level for row in rows if row.fused)]
    cells = [(level, score.key) for level in levels for score in merged[level].scores if score.headline]
    pairs = [(second, first) for first, second in combinations(cells, 2)]
    tests = adjusted([compare(*(merged[level].outcomes[key] for level, key in pair)) for pair in pairs])
    for (first, second), test in zip(pairs, tests, strict=True):
        yield Contrast(first=first, second=second, **asdict(test))


def _choices(plan: Plan, rows: Sequence[LevelRow], merged: Mapping[int, Finding]) -> Iterator[LevelChoice]:
    levels = [row.level for row in rows if not row.fused]
    everywhere = [key for key in merged[levels[0]].held_out if all(key in merged[level].held_out for level in levels)]
    for key in everywhere if len(levels) > 1 else ():
        held_out = {level: merged[level].held_out[key] for level in levels}
        values = {level: _value(merged[level], key) for level in levels}
        chosen, oracle = choose_level(held_out), max(levels, key=lambda level: values[level])
        # A probe may keep the mean alone: then its choice has no interval, and no ties are known.
        kept = all(key in merged[level].held_out_outcomes for level in levels)
        inside = {level: merged[level].held_out_outcomes[key] for level in levels} if kept else {}
        yield LevelChoice(
            score=key,
            rule=plan.rule,
            held_out=held_out,
            level=chosen,
            value=values[chosen],
            oracle=oracle,
            oracle_value=values[oracle],
            held_out_ends={level: outcome_ends(right) for level, right in inside.items()},
            ties=tied_levels(inside, chosen) if kept else (),
            oracle_ties=tied_levels({level: merged[level].outcomes[key] for level in levels}, oracle),
        )


def _value(finding: Finding, key: str) -> float:
    return next(score.value for score in finding.scores if score.key == key)
