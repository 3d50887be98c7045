"""How long a profile takes on stored features: `python benchmarks/profile_speed.py`.

Made features of CIFAR-10's size: 50,000 train and 10,000 test images, 3 levels of 192 numbers, 10 classes, and as many
numeric factors as there are facts. CPU seconds of every part but changes, which forward passes bound, and memory. The
rows go to `benchmarks/results/profile_speed.json`.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.encoders.kinds.facts import FACTS
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.imported import import_features, imported_features
from hjepa_eval.evaluation.profile.factors import probe_factors
from hjepa_eval.evaluation.profile.geometry import measure_geometry
from hjepa_eval.evaluation.profile.knowledge import Knowledge, gather_knowledge
from hjepa_eval.evaluation.profile.level_map import View, join_levels, map_levels
from hjepa_eval.evaluation.profile.neighbours import measure_neighbours
from hjepa_eval.evaluation.rows import LevelRow, level_rows
from hjepa_eval.evaluation.settings import ProfileSettings
from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "profile_speed.json"
CLASSES, LEVELS, WIDTH = 10, 3, 192
BAR_SECONDS, BAR_BYTES = 120, 2 << 30


def made(folder: Path, train: int, test: int) -> Path:
    """Write features whose levels share a part, and tell classes better from level to level."""
    generator = np.random.default_rng(0)
    means, mixing = generator.normal(size=(CLASSES, 24)), generator.normal(size=(LEVELS, 24, WIDTH))
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % CLASSES
        for level in range(LEVELS):
            hidden = 0.4 * (1 + level) * means[labels] + generator.normal(size=(count, 24))
            noise = generator.normal(size=(count, WIDTH))
            arrays[f"{split}_level{level}"] = (hidden @ mixing[level] + noise).astype(np.float32)
        arrays[f"{split}_labels"] = labels
    path = folder / "features.npz"
    np.savez(path, **arrays)
    return path


def with_facts(knowledge: Knowledge, rows: list[LevelRow]) -> Knowledge:
    """Add numeric factors that a level holds a part of, as many as there are facts."""
    generator = np.random.default_rng(1)
    read = {split: rows[0].samples(split).features for split in ("train", "test")}
    for name in FACTS:
        direction = generator.normal(size=WIDTH)
        factor = {}
        for split, features in read.items():
            values = np.empty(len(features))
            values[rows[0].index(split)] = features @ direction + 20 * generator.normal(size=len(features))
            factor[split] = Factor(name, "numeric", values)
        knowledge.add(name, factor, "fact")
    return knowledge


def parts(settings: ProfileSettings) -> dict[str, Callable[[], Any]]:
    """Return what a profile does, part by part."""
    features = imported_features(settings, Talk(quiet=True), readouts=("mean",), views=0, needs_test="a profile")
    rows = level_rows(features, fuse=True)
    single = [row for row in rows if not row.fused]
    knowledge = with_facts(gather_knowledge(features, None, superclasses=None), single)

    def ignore(done: int, count: int) -> None:
        return None

    return {
        "factors": lambda: probe_factors(rows, knowledge, images=settings.images, seed=0, report=ignore),
        "geometry": lambda: [measure_geometry(row) for row in single],
        "neighbours": lambda: [measure_neighbours(row, knowledge, group="background") for row in single],
        "map": lambda: map_levels([View.of(row) for row in single], (), report=ignore),
        "joining": lambda: join_levels(single, images=settings.images),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--part", action="append", help="only this part, repeatable")
    parser.add_argument("--calls", action="store_true", help="print where the time goes instead of writing the result")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = ProfileSettings(model="features:made", cache_dir=Path(folder) / "cache", device="cpu", quiet=True)
        import_features([made(Path(folder), chosen.train, chosen.test)], name="made", cache_dir=settings.cache_dir)
        start, seconds, wall = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}, {}
        for name, run in parts(settings).items():
            if chosen.part and name not in chosen.part:
                continue
            begun, cpu = time.perf_counter(), time.process_time()
            if chosen.calls:
                cProfile.runctx("run()", {"run": run}, {}, sort="cumulative")
            else:
                run()
            seconds[name], wall[name] = time.process_time() - cpu, time.perf_counter() - begun
            print(f"{name:<12}{seconds[name]:8.1f} CPU s{wall[name]:8.1f} s", flush=True)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
    result = {
        "images": [chosen.train, chosen.test],
        "levels": [LEVELS, WIDTH],
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "bar_seconds": BAR_SECONDS,
        "memory_bytes": grown,
        "bar_bytes": BAR_BYTES,
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "versions": package_versions(),
    }
    print(f"{'all':<12}{sum(seconds.values()):8.1f} CPU s{sum(wall.values()):8.1f} s, memory +{grown / 2**20:.0f} MiB")
    if not chosen.calls and not chosen.part:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
