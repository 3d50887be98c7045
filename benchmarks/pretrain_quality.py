"""What pretraining on two CPU cores is worth: presets and the ladder, run, measured on CIFAR-10 and written down.

    python benchmarks/pretrain_quality.py --root data cifar10_cpu_masked flat_ijepa --seeds 0 1 2
    python benchmarks/pretrain_quality.py --root data ladder --seeds 0 1 --minutes 10

Every finished run is one entry of `benchmarks/results/pretrain_cifar10_cpu.json` or `pretrain_ladder.json`; an entry
that is there is not run again, so the hours this takes can be spent in pieces. Runs end after `train.minutes`: nothing
else should run meanwhile; the load that was seen stands in each entry.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results"
PROBES = {"knn": "knn20", "linear": "linear", "fewshot": "shots"}

# Each rung adds to the one before; the settings of the rung, in words of `hjepa pretrain --set`.
_FLAT = {
    "model.num_hierarchies": 1,
    "model.taps": "final",
    "data.augmentation": "asym",
    "train.predicted_share": 1.0,
    "train.whole_image.contrast": 0.0,
}
LADDER: dict[str, dict[str, Any]] = {
    "flat": _FLAT,
    "depth taps": {"model.num_hierarchies": 3, "model.taps": "depth"},
    "aligned cells": {"masking.aligned": 0.5},
    "global level": {"data.augmentation": "asym+global", "train.whole_image.predict": 1.0},
    "coarse to fine": {"model.predictor.order": "coarse_to_fine"},
    # Their blocks always lie on the cells of their level, so there is nothing left to align.
    "level-specific masks": {"masking.type": "hierarchical", "masking.aligned": 0.0},
}
# Not a rung: the preset itself for as long as a rung, which shows what the contrast term adds.
LADDER_EXTRA = {"preset": {}}
PRESETS = {"cifar10_cpu_masked": "cifar10_cpu_masked", "flat_ijepa": "flat_ijepa_cifar10_cpu"}
PLANS = ["baselines", *PRESETS, "ladder"]


def ladder_settings() -> dict[str, dict[str, Any]]:
    """Return all settings of each rung."""
    rungs: dict[str, dict[str, Any]] = {}
    sofar: dict[str, Any] = {}
    for name, added in LADDER.items():
        sofar = {**sofar, **added}
        rungs[name] = dict(sofar)
    return {**rungs, **LADDER_EXTRA}


def hjepa(*arguments: str) -> None:
    """Run the program as a user would.

    Raises:
        CalledProcessError: it did not end well.
    """
    subprocess.run([sys.executable, "-m", "hjepa_eval", *arguments], check=True)


def commit() -> str:
    """Return the commit that is measured, with a plus sign when the tree has changes."""
    git = ["git", "-C", str(RESULTS.parent)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    return name.strip() + ("+" if changed.strip() else "")


def measure(model: str, folder: Path, root: Path) -> list[dict[str, Any]]:
    """Return, per level, the headline scores of every probe on all of CIFAR-10."""
    out, cache = folder / "results", folder / "cache"
    where = ("--dataset", "cifar10", "--root", str(root), "--out", str(out), "--cache-dir", str(cache), "--quiet")
    hjepa("eval", "--model", model, "--baselines", "none", "--no-predictions", *where)
    levels: dict[int, dict[str, Any]] = {}
    for file in sorted(out.glob("*.json")):
        record = json.loads(file.read_text())
        for level in record["levels"]:
            entry = levels.setdefault(level["level"], {"level": level["level"], "name": level["name"]})
            for score in level["scores"]:
                if score["headline"]:
                    shots = score["parameters"].get("shots", "")
                    name = f"{PROBES[record['probe']]}{shots}"
                    entry[name] = {key: round(100 * score[key], 2) for key in ("value", "low", "high")}
    shutil.rmtree(cache, ignore_errors=True)
    return [levels[number] for number in sorted(levels)]


def run(preset: str, assignments: dict[str, Any], *, seed: int, folder: Path, root: Path) -> dict[str, Any]:
    """Pretrain, measure, and return the entry."""
    load = os.getloadavg()[0]
    sets = [part for key, value in assignments.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    out = folder / "run"
    hjepa("pretrain", "--config", preset, "--root", str(root), "--seed", str(seed), "--out", str(out), *sets)
    after = os.getloadavg()[0]
    summary = json.loads((out / "summary.json").read_text())
    levels = measure(str(out), folder, root)
    kept = ("steps", "epochs", "seconds", "images_per_second", "best")
    return {
        "preset": preset,
        "set": assignments,
        "seed": seed,
        "levels": levels,
        **{key: summary[key] for key in kept},
        "load": [round(load, 2), round(after, 2)],
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "versions": package_versions(),
    }


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=f"of {', '.join(PLANS)}; all when none is named")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HJEPA_DATA", "data")))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="instead of the preset's, for all runs")
    parser.add_argument("--keep", type=Path, help="folder where the runs stay; else they are removed once measured")
    arguments = parser.parse_args()
    plans = arguments.plans or PLANS
    if unknown := [plan for plan in plans if plan not in PLANS]:
        parser.error(f"unknown plans {', '.join(unknown)}; known: {', '.join(PLANS)}")
    timed = {} if arguments.minutes is None else {"train.minutes": arguments.minutes}
    todo = []
    for plan in plans:
        file = RESULTS / ("pretrain_ladder.json" if plan == "ladder" else "pretrain_cifar10_cpu.json")
        if plan == "ladder":
            todo += [
                (file, f"{name}, seed {seed}", "cifar10_cpu_masked", {**settings, **timed}, seed)
                for seed in arguments.seeds
                for name, settings in ladder_settings().items()
            ]
        elif plan == "baselines":
            todo += [(file, name, "", {}, 0) for name in ("random:cifar10_cpu_masked", "pixels:8", "kmeans")]
        else:
            todo += [(file, f"{plan}, seed {seed}", PRESETS[plan], timed, seed) for seed in arguments.seeds]
    for file, name, preset, settings, seed in todo:
        found = json.loads(file.read_text()) if file.is_file() else {}
        if name in found:
            print(f"{name}: there already")
            continue
        folder = Path(tempfile.mkdtemp(prefix="pretrain-quality-"))
        try:
            if preset:
                entry = run(preset, settings, seed=seed, folder=folder, root=arguments.root)
            else:
                entry = baseline(name, folder, arguments.root)
            if arguments.keep and preset:
                shutil.copytree(folder / "run", arguments.keep / name.replace(", ", "-").replace(" ", "_"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**found, name: entry}, indent=1) + "\n")
        print(f"{name}: {json.dumps(entry['levels'])}")


def baseline(name: str, folder: Path, root: Path) -> dict[str, Any]:
    """Return the entry of a model without training."""
    model = name
    if name.startswith("random:"):
        # The untrained twin of a run is built from the run's own description; one step makes one.
        out = folder / "run"
        sets = ("--set", "train.minutes=null", "--set", "train.epochs=0.001", "--set", "data.max_samples=1000")
        hjepa("pretrain", "--config", name.partition(":")[2], "--root", str(root), "--out", str(out), *sets)
        model = f"random:{out}"
    return {"levels": measure(model, folder, root), "commit": commit(), "versions": package_versions()}


if __name__ == "__main__":
    main()
