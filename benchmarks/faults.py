"""A fault campaign: kills, flips, edits, hostile files, odd streams, second processes; `python benchmarks/faults.py`.

Each try disturbs one run of the program and looks at what comes of it. It holds when the program refuses in one line
with exit 2, or gives the very same numbers, files or bytes; it fails with a traceback, a hang, a thing lost, or a
number that differs without a word (silent). Linux only, CPU, some 20 minutes; writes `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fault_families.ground import Fault, Ground, SilentNumber, Try
from fault_families.program import prepare

RESULTS = Path(__file__).parent / "results" / "faults.json"
# Family: the functions that yield its tries.
FAMILIES = {
    "kills of extract": "kills:extract_kills",
    "kills of pretrain": "kills:pretrain_kills",
    "kills of other commands": "kills:other_kills",
    "flips": "damage:flips",
    "edits of records": "edits:record_edits",
    "edits of runs and memos": "edits:other_edits",
    "hostile files": "hostile:hostile_files",
    "hostile images and names": "hostile_data:hostile_data",
    "streams and environment": "surroundings:surroundings",
    "second processes": "together:second_processes",
}


def attempt(what: Try, scratch: Path) -> dict[str, Any]:
    """Do one try in an empty folder; return how it ended."""
    scratch.mkdir()
    started = time.monotonic()
    row: dict[str, Any] = {"what": what.what, "name": what.name, "held": True, "silent": False}
    try:
        row["outcome"] = what.act(scratch)
    except Fault as fault:
        row |= {"held": False, "silent": isinstance(fault, SilentNumber), "outcome": str(fault)}
    row["seconds"] = time.monotonic() - started
    shutil.rmtree(scratch, ignore_errors=True)
    return row


def campaign(names: list[str], seed: int, share: float, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Do the tries of the families; a family that fails tells so at once."""
    ground = Ground(folder)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        module, function = FAMILIES[name].split(":")
        family = getattr(importlib.import_module(f"fault_families.{module}"), function)
        tries = family(ground, random.Random(f"{seed} {name}"), share)
        rows[name] = []
        for number, what in enumerate(tries):
            rows[name].append(attempt(what, folder / f"try-{name.replace(' ', '-')}-{number}"))
            if not rows[name][-1]["held"]:
                row = rows[name][-1]
                print(f"  failed: {row['what']}, {row['name']}: {row['outcome']}", flush=True)
        failed = sum(not row["held"] for row in rows[name])
        seconds = sum(row["seconds"] for row in rows[name])
        print(f"{name}: {len(rows[name])} tries, {failed} failed, {seconds:.0f} s", flush=True)
    return rows


def side_by_side(names: list[str], options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run every family in a process of its own, some at a time; return their summaries."""
    waiting, working, failed = list(names), {}, []
    while waiting or working:
        while waiting and len(working) < options.jobs:
            name = waiting.pop(0)
            part = folder / f"{name}.json"
            words = ["--family", name, "--seed", str(options.seed), "--out", str(part), *["--quick"] * options.quick]
            working[name] = (subprocess.Popen([sys.executable, __file__, *words]), part)
        for name, (process, part) in list(working.items()):
            if process.poll() is not None:
                del working[name]
                failed += [] if part.is_file() else [name]
        time.sleep(0.2)
    if failed:
        raise SystemExit(f"no results of {', '.join(failed)}")
    return {name: json.loads((folder / f"{name}.json").read_text())["families"][name] for name in names}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for every kind of try of a family how many there were, and how they ended."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["what"], []).append(row)
    return [
        {
            "what": what,
            "tries": len(tries),
            "held": sum(row["held"] for row in tries),
            "failed": sum(not row["held"] for row in tries),
            "silent": sum(row["silent"] for row in tries),
            "outcomes": dict(sorted(Counter(row["outcome"] for row in tries if row["held"]).items())),
            "failures": [f"{row['name']}: {row['outcome']}" for row in tries if not row["held"]],
        }
        for what, tries in kinds.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, action="append", help="repeatable; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of moments, bits and values")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tries; writes no file")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time, each in a process of its own")
    parser.add_argument("--out", type=Path, help=f"the JSON; {RESULTS} when all families run")
    options = parser.parse_args()
    names = options.family or list(FAMILIES)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if options.jobs > 1:
            families = side_by_side(names, options, Path(folder))
        else:
            prepare()
            rows = campaign(names, options.seed, 0.1 if options.quick else 1.0, Path(folder))
            families = {name: summary(tries) for name, tries in rows.items()}
    from hjepa_eval.results.provenance import package_versions

    kinds = [kind for family in families.values() for kind in family]
    result = {
        **{name: sum(kind[name] for kind in kinds) for name in ("tries", "held", "failed", "silent")},
        "seed": options.seed,
        "jobs": options.jobs,
        "seconds": round(time.monotonic() - started),
        "load": os.getloadavg()[2],
        "families": families,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "versions": package_versions(),
    }
    print(f"{result['tries']} tries, {result['failed']} failed, {result['silent']} silent, {result['seconds']} s")
    target = options.out or (None if options.quick or options.family else RESULTS)
    if target is not None:
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {target}")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
