"""Write `benchmarks/README.md` from the JSON results: `python benchmarks/write_readme.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Runnable comparisons with peers: each compares inside one run, reports ratios of medians with versions, and writes its
JSON to `results/`. `make bench` installs the peers, runs them all and writes this page (`write_readme.py`); name the
folder of CIFAR-10 with `HJEPA_DATA`.
"""


def probe_speed() -> str:
    """Return the section about `probe_speed.py`."""
    found = json.loads((HERE / "results" / "probe_speed.json").read_text())
    sections = found["sections"].values()
    measured = [row for section in sections for row in section["rows"]]
    lines = [
        f"| {r['measure']} | {r['ours_s']:.2f} | {r['theirs_s']:.1f} | {r['theirs_over_ours']:.2f}x | {r['note']} |"
        for r in measured
    ]
    peak = max(section["peak_memory_mib"] for section in sections)
    (rows, width), (tests, _) = (found["features"][split] for split in ("train", "test"))
    threads = max(section["threads"] for section in sections)
    load = ", ".join(f"{name} {section['load']:.1f}" for name, section in found["sections"].items())
    return f"""
## `probe_speed.py`

Features {rows:,} x {width} train, {tests:,} test, 10 classes: whitened patches of CIFAR-10. {threads} threads, no GPU;
{versions(found)}.
The machine's load at the end of each section (2 is both cores at work): {load}.
Peak memory, peers included: {peak:,.0f} MiB.

| measure | ours, s | theirs, s | theirs / ours | note |
|---|---|---|---|---|
""" + "\n".join(lines)


def parity() -> str:
    """Return the section about `parity.py`."""
    found = json.loads((HERE / "results" / "parity.json").read_text())
    lines = [
        f"| {row['what']} | {row['peer']} | {row['differ']} of {row['total']} {row['unit']} | {row['because']} |"
        for row in found["rows"]
    ]
    (rows, width), (tests, _) = found["features"]["train"], found["features"]["test"]
    peers = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"""
## `parity.py`

The same numbers by the peers' own code, on {rows:,} x {width} train and {tests:,} test digits; {peers}.

| what | peer | differ | because |
|---|---|---|---|
"""
        + "\n".join(lines)
        + "\n"
    )


def stream_bank() -> str:
    """Return the section about `stream_bank.py`."""
    found = json.loads((HERE / "results" / "stream_bank.json").read_text())
    names = {"flat": "hjepa kNN, bank streamed from its store", "faiss": "bare FAISS flat search, bank in memory"}
    lines = [
        f"| {names.get(row['way'], row['way'])} | {row['seconds']:.0f} | {row['peak_over_start_bytes'] / 2**20:,.0f} |"
        for row in found["rows"]
    ]
    rows, width = found["bank"]
    return f"""

## `stream_bank.py`

{found["queries"]:,} queries, k up to 200, against a synthetic bank of {rows:,} x {width}, the size of ImageNet's train;
{found["machine"]["threads"]} threads, no GPU; {versions(found)}.

| way | seconds | peak memory over the start, MiB |
|---|---|---|
""" + "\n".join(lines)


def extract_speed() -> str:
    """Return the section about `extract_speed.py`."""
    found = json.loads((HERE / "results" / "extract_speed.json").read_text())
    lines = [
        f"| {r['measure']} | {r['value']:.3g} | {r['bar']} | {r['note']} |"
        for section in found["sections"].values()
        for r in section["rows"]
    ]
    load = ", ".join(f"{name} {section['load']:.1f}" for name, section in found["sections"].items())
    threads = max(section["threads"] for section in found["sections"].values())
    return f"""

## `extract_speed.py`

{threads} threads, {found["device"]}, {found["machine"]}, {found["precision"]}; {versions(found)}, timm
{found["versions"]["timm"]}.
The machine's load at the end of each section: {load}.

| measure | value | bar | note |
|---|---|---|---|
""" + "\n".join(lines)


def pretrain_speed() -> str:
    """Return the section about `pretrain_speed.py`."""
    found = json.loads((HERE / "results" / "pretrain_speed.json").read_text())
    sections = found["sections"]
    lines = [
        f"| {r['measure']} | {r['value']:.3g} | {r['bar']} | {r['note']} |"
        for section in sections.values()
        for r in section["rows"]
    ]
    load = ", ".join(f"{name} {section['load']:.1f}" for name, section in sections.items())
    some = next(iter(sections.values()))
    return f"""

## `pretrain_speed.py`

{some["threads"]} threads, {", ".join(sorted({section["device"] for section in sections.values()}))}; {versions(some)}.
The machine's load at the end of each section: {load}.

| measure | value | bar | note |
|---|---|---|---|
""" + "\n".join(lines)


def pretrain_quality() -> str:
    """Return the sections about `pretrain_quality.py`: presets and baselines, then the ladder, each first in short."""
    text = """

## `pretrain_quality.py`

CIFAR-10 (a JPEG copy), two CPU cores, `train.minutes` of wall clock; all of test, with all of train as bank.
Percent with 95 % intervals. Held-out kNN chooses the checkpoint; it sees a bank of 4,096 train images only.
Other programs ran too, so the numbers of steps differ; they and the machine's load stand beside each run.
"""
    for name in ("pretrain_cifar10_cpu", "pretrain_ladder"):
        file = HERE / "results" / f"{name}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text())
        runs: dict[str, dict[int, dict[str, Any]]] = {}
        for run, entry in found.items():
            runs.setdefault(run.partition(", seed ")[0], {})[entry.get("seed", 0)] = entry
        text += f"""
`results/{name}.json`, the last level of each run, a value per seed:

| run | seeds | kNN-20 | linear | steps |
|---|---|---|---|---|
"""
        text += "".join(_in_short(run, entries) for run, entries in runs.items())
        text += """
Every level:

| run | level | kNN-20 | linear | 5-way 1-shot | 5-shot | steps, images/s | load |
|---|---|---|---|---|---|---|---|
"""
        for run, entries in runs.items():
            for seed, entry in sorted(entries.items()):
                title = f"{run}, seed {seed}" if "seed" in entry else run
                text += _every_level(title, entry)
    return text


def _in_short(run: str, entries: dict[int, dict[str, Any]]) -> str:
    """Return one row: the last level of every seed of a run."""
    ordered = [entry for _, entry in sorted(entries.items())]
    scores = [
        " / ".join(f"{entry['levels'][-1][key]['value']:.1f}" for entry in ordered) for key in ("knn20", "linear")
    ]
    seeds = " / ".join(str(entry["seed"]) for entry in ordered if "seed" in entry)
    steps = " / ".join(f"{entry['steps']:,}" for entry in ordered if "steps" in entry)
    return f"| {run} | {seeds} | {scores[0]} | {scores[1]} | {steps} |\n"


def _every_level(run: str, entry: dict[str, Any]) -> str:
    """Return a row per level of one run, with intervals."""
    speed = f"{entry['steps']:,}, {entry['images_per_second']:.0f}" if "steps" in entry else ""
    load = "{} to {}".format(*entry["load"]) if "load" in entry else ""
    text = ""
    for level in entry["levels"]:
        scores = " | ".join(_percent(level.get(key)) for key in ("knn20", "linear", "shots1", "shots5"))
        text += f"| {run} | {level['name']} | {scores} | {speed} | {load} |\n"
    return text


def _percent(score: dict[str, float] | None) -> str:
    return "" if score is None else f"{score['value']:.1f} ({score['low']:.1f}-{score['high']:.1f})"


def faults() -> str:
    """Return the section about `faults.py`: what was tried, how often, and how it held."""
    file = HERE / "results" / "faults.json"
    if not file.is_file():
        return ""
    found = json.loads(file.read_text())
    lines = [
        f"| {family} | {kind['what']} | {kind['tries']} | {kind['held']} | {kind['failed']} | {kind['silent']} | "
        + ", ".join(f"{count} {outcome}" for outcome, count in kind["outcomes"].items())
        + " |"
        for family, kinds in found["families"].items()
        for kind in kinds
    ]
    return f"""

## `faults.py`

Each try disturbs one run of the program: it holds when that is refused in one line with exit 2, or gives the very same
numbers, files or bytes. {found["tries"]} tries, {found["failed"]} failed, {found["silent"]} numbers that differed
without a word; seed {found["seed"]}, {found["seconds"] / 60:.0f} minutes with a load of {found["load"]:.1f} on
{found["machine"]["cpus"]} CPUs; {versions(found)}.

| family | what | tries | held | failed | silent | how it held |
|---|---|---|---|---|---|---|
""" + "\n".join(lines)


def profile_speed() -> str:
    """Return the section about `profile_speed.py`: CPU seconds of each part of a profile, and its memory."""
    file = HERE / "results" / "profile_speed.json"
    if not file.is_file():
        return ""
    found = json.loads(file.read_text())
    rows = "\n".join(
        f"| {name} | {seconds:.1f} | {found['wall_seconds'][name]:.1f} |"
        for name, seconds in found["cpu_seconds"].items()
    )
    train, test = found["images"]
    levels, width = found["levels"]
    return f"""

## `profile_speed.py`

`hjepa profile` without changes on stored features, {train:,} train and {test:,} test images, {levels} levels of
{width}: {sum(found["cpu_seconds"].values()):.0f} CPU seconds (bar {found["bar_seconds"]} s on two cores),
{found["memory_bytes"] / 2**20:,.0f} MiB over the start (bar {found["bar_bytes"] / 2**20:,.0f}); {versions(found)}.

| part | CPU s | s |
|---|---|---|
{rows}"""


# Of a profile's factors and measures, those that the page shows: what and where, and what serves retrieval.
_FACTORS = (
    "class",
    "superclass",
    "colour",
    "texture",
    "size",
    "x",
    "y",
    "count",
    "background",
    "lightness",
    "contrast",
)
_MEASURES = ("kNN k=20", "mAP", "clustering NMI", "RankMe", "TwoNN dimension", "hubness")


def profiles() -> str:
    """Return the section about `profiles.py`: what each level tells of every factor, per dataset."""
    file = HERE / "results" / "profiles.json"
    if not file.is_file():
        return ""
    text = """

## `profiles.py`

What each level tells, test images: accuracy in percent or R2 of a linear probe, then measures; see docs/profile.md.
"""
    for title, entries in json.loads(file.read_text()).items():
        levels = [(entry, level) for entry in entries for level in entry["levels"]]
        header = [f"{entry['model']} {'joined' if level['fused'] else level['level']}" for entry, level in levels]
        lines = [f"| {title} | " + " | ".join(header) + " |", "|---" * (1 + len(levels)) + "|"]
        for factor in _FACTORS:
            cells = [_told(level["factors"].get(factor)) for _, level in levels]
            lines += [f"| {factor} | {' | '.join(cells)} |"] if any(cells) else []
        for measure in _MEASURES:
            values = [level["measures"].get(measure) for _, level in levels]
            shown = ["" if value is None else f"{value:.3g}" for value in values]
            lines += [f"| {measure} | {' | '.join(shown)} |"] if any(shown) else []
        train, test = entries[0]["images"]
        lines.append(f"\n{entries[0]['dataset']}: {train:,} train and {test:,} test images.")
        text += "\n" + "\n".join(lines) + "\n"
    return text


def _told(score: list[float] | None) -> str:
    """Return a value in percent where chance is above 0, as R2 else."""
    if score is None:
        return ""
    value, _, _, chance = score
    return f"{100 * value:.1f}" if chance else f"{value:.2f}"


def versions(found: dict[str, Any]) -> str:
    """Return the versions of torch, FAISS, scikit-learn and the peers in a result."""
    wanted = ("torch", "faiss-gpu", "faiss-cpu", "scikit-learn", "lightly", "easyfsl")
    return ", ".join(f"{name} {found['versions'][name]}" for name in wanted if name in found["versions"])


if __name__ == "__main__":
    (HERE / "README.md").write_text(
        HEAD
        + parity()
        + pretrain_quality()
        + pretrain_speed()
        + extract_speed()
        + probe_speed()
        + stream_bank()
        + profile_speed()
        + profiles()
        + faults()
        + "\n"
    )
