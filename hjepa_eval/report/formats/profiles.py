"""The formats of profiles by name; those for documents, papers and programs: Markdown, LaTeX, tidy CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from hjepa_eval.report.formats.grids import latex_grid, markdown_grid
from hjepa_eval.report.formats.latex import PACKAGES, distinct_labels, label
from hjepa_eval.report.formats.profile_terminal import profiles_text
from hjepa_eval.report.formats.tidy import csv_text
from hjepa_eval.report.tables.curves import sentences
from hjepa_eval.report.tables.prediction import agreements, prediction_grids
from hjepa_eval.report.tables.profile import grids, profile_caption
from hjepa_eval.results.profiles import Drop, LevelProfile, Profile
from hjepa_eval.results.text import markdown_text

STARS = (
    "* the highest level of a line; ** told from the runner-up, or of changes from the chosen level, by a paired test "
    "(Holm)."
)
# What a row of CSV says of a number beyond what it is, where it is known.
_KNOWN = (
    *("low", "high", "chance", "control", "strength", "p_value", "p_holm", "null_mean", "threshold", "calibrated"),
    *("train_images", "num_samples", "note"),
)


def markdown(profiles: Sequence[Profile]) -> str:
    """Return a heading per profile and a Markdown table per grid."""
    lines: list[str] = []
    for profile in profiles:
        lines += [f"## {markdown_text(profile.model.name)} on {markdown_text(profile_caption(profile.dataset))}", ""]
        for grid in grids(profile):
            lines += [f"**{markdown_text(grid.title)}**", "", *markdown_grid(grid)]
        lines += [f"- {markdown_text(line)}" for line in _below(profile)] + [""]
    for grid in prediction_grids(profiles):
        lines += [f"## {markdown_text(grid.title)}", "", *markdown_grid(grid)]
    return "\n".join(lines)


def latex(profiles: Sequence[Profile]) -> str:
    """Return a LaTeX table per grid; it needs only the package booktabs."""
    lines = [PACKAGES]
    for profile in profiles:
        tables = grids(profile)
        for place, grid in enumerate(tables):
            about = f"{grid.title}. {profile.model.name} on {profile_caption(profile.dataset)}."
            name = "profile-" + label(f"{grid.title} {profile.model.name} {profile.dataset.name}").lower()
            lines += latex_grid(grid, about, name, _below(profile) if place == len(tables) - 1 else [])
    for grid in prediction_grids(profiles):
        lines += latex_grid(grid, f"{grid.title}.", "profile-" + label(grid.title).lower(), [])
    return distinct_labels("\n".join(lines) + "\n")


def as_csv(profiles: Sequence[Profile]) -> str:
    """Return tidy CSV: one row per number."""
    return csv_text(tidy(profiles))


def as_json(profiles: Sequence[Profile]) -> str:
    """Return the profiles as they were written, and the tidy numbers."""
    whole = [profile.model_dump(mode="json") for profile in profiles]
    content = {"profiles": whole, "numbers": tidy(profiles), "prediction": list(predictions(profiles))}
    return json.dumps(content, indent=2) + "\n"


PROFILE_FORMATS: dict[str, Callable[[Sequence[Profile]], str]] = {
    "table": profiles_text,
    "md": markdown,
    "csv": as_csv,
    "json": as_json,
    "latex": latex,
}


def predictions(profiles: Sequence[Profile]) -> Iterator[dict[str, Any]]:
    """Yield how well each measure of geometry orders accuracies, one flat row per number; None where it cannot."""
    for key in dict.fromkeys(profile.dataset.key for profile in profiles):
        same = [profile for profile in profiles if profile.dataset.key == key]
        for measure, accuracy, across, ranked, _ in agreements(same):
            known = {} if ranked is None else {**asdict(ranked.tau), "lost": ranked.lost, "by_chance": ranked.by_chance}
            said = {name: known.get(name) for name in ("low", "high", "num_samples", "lost", "by_chance")}
            where = {"dataset": same[0].dataset.name, "measure": measure, "accuracy": accuracy, "across": across}
            yield {**where, "tau": known.get("value"), **said}


def tidy(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Return one flat row per number: `part` and `name` say what it is, `level` and `other` of which levels."""
    return [
        {
            "model": profile.model.name,
            "weights": profile.model.weights,
            "baseline": profile.baseline,
            "dataset": profile.dataset.name,
            "test_fingerprint": profile.dataset.test_fingerprint,
            "readout": profile.extraction.readout,
            "seed": profile.provenance.seed,
            **row,
        }
        for profile in profiles
        for row in _numbers(profile)
    ]


def _numbers(profile: Profile) -> Iterator[dict[str, Any]]:
    for level in profile.levels:
        yield from _of_level(level)
    for test in profile.factor_tests:
        yield _row("factor test", test.factor, test.difference, test, level=test.first, other=test.second)
    for pair in profile.level_map:
        where = {"level": pair.first, "other": pair.second, "other_model": pair.other_model}
        count = {"num_samples": pair.num_samples}
        ends = {"low": pair.low, "high": pair.high}
        yield {**_row("map", "mutual kNN", pair.mutual_knn.value, pair.mutual_knn, **where), **count, **ends}
        within = pair.within_classes
        yield {**_row("map", "mutual kNN within classes", within.value, within, **where), **count}
        for name in ("cka", "forward", "backward"):
            words = {"cka": "CKA", "forward": "R2 forward", "backward": "R2 backward"}[name]
            chance = pair.cka_chance if name == "cka" else None
            yield {**_row("map", words, getattr(pair, name), chance, **where), **count}
        for name, value in pair.further.items():
            yield {**_row("map", name, value, None, **where), **count}
    for joining in profile.joining:
        yield _row("joining", "adds", joining.difference, joining, level=joining.level)
        for name in ("alone", "others", "together"):
            yield _row("joining", name, getattr(joining, name), None, level=joining.level)


def _of_level(level: LevelProfile) -> Iterator[dict[str, Any]]:
    where: dict[str, Any] = {"level": level.level, "level_name": level.name, "fused": ";".join(map(str, level.fused))}
    for score in level.factors:
        row = _row("factors", score.factor, score.value, score, **where, kind=f"{score.kind}, {score.origin}")
        yield {**row, "num_samples": score.test_images}
    for part in ("geometry", "neighbours"):
        for measure in getattr(level, part):
            yield _row(part, measure.name, measure.value, measure, **where, kind=_words(measure.parameters))
    for change in level.changes:
        count = {"num_samples": change.num_samples}
        for probe in ("knn", "linear"):
            drop: Drop = getattr(change, probe)
            yield {**_row("changes", change.name, drop.value, None, **where, kind=probe), **count}
            yield {**_row("changes", change.name, drop.drop, drop, **where, kind=f"{probe} drop"), **count}
        for name in ("invariance", "invariance_share", "equivariance"):
            if getattr(change, name) is not None:
                ends = {end: getattr(change, f"{name}_{end}", None) for end in ("low", "high")}
                row = _row("changes", change.name, getattr(change, name), None, **where, kind=name)
                yield {**row, **count, **ends}
    if level.corruption_error is not None:
        yield _row("changes", "mean corruption error", level.corruption_error, None, **where)


def _row(part: str, name: str, value: float | None, entry: Any, **where: Any) -> dict[str, Any]:
    """Return a row of the same keys for every number; what an entry does not know is None."""
    empty = {"level": None, "level_name": "", "fused": "", "other": None, "other_model": "", "kind": ""}
    known = {key: getattr(entry, key, None) for key in _KNOWN}
    return {"part": part, "name": name, "value": value, **empty, **where, **known}


def _words(parameters: dict[str, Any]) -> str:
    return ";".join(f"{name}={value}" for name, value in parameters.items())


def _below(profile: Profile) -> list[str]:
    """Return the lines below the tables of a profile."""
    of_levels = [f"{level.name}: {note}" for level in profile.levels for note in level.notes]
    return [STARS, *sentences(profile), *profile.notes, *of_levels]
