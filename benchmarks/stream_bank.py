"""kNN on a bank that need not fit in memory: `python benchmarks/stream_bank.py`, about 2 GB of disk, some minutes.

Writes a store of synthetic features as large as ImageNet's train split (1,281,167 x 384, 1,000 classes), classifies
5,000 queries by it in a fresh process, and measures time and peak memory over the start; Linux only. The peer is a bare
FAISS flat search of the same queries with the bank in memory. Writes `benchmarks/results/stream_bank.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hjepa_eval.features.manifest import Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "stream_bank.json"
CLASSES, WIDTH, NOISE = 1000, 384, 1.5
WAYS = ("flat", "ivf", "hnsw", "ivfpq", "faiss")


def synthetic(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 `[M, 384]` and labels int64 `[M]` of samples `start` to `stop`: noise about 1,000 points.

    The noise lies in 32 directions of each class, as features of real encoders do not fill their space either.
    """
    fixed = np.random.default_rng(0)
    centres = fixed.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    directions = fixed.normal(size=(32 * 8, WIDTH)).astype(np.float32) / np.sqrt(np.float32(32))
    generator = np.random.default_rng([1, start])
    labels = generator.integers(0, CLASSES, stop - start)
    noise = generator.normal(size=(stop - start, 32, 1)).astype(np.float32)
    features = np.empty((stop - start, WIDTH), np.float32)
    for group in range(8):
        own = np.flatnonzero(labels % 8 == group)
        features[own] = centres[labels[own]] + NOISE * noise[own, :, 0] @ directions[32 * group : 32 * group + 32]
    return features, labels


def write_store(folder: Path, rows: int) -> None:
    manifest = Manifest(
        identity={"synthetic": [rows, WIDTH, NOISE]},
        encoder="synthetic",
        dataset="synthetic",
        split="train",
        readout="mean",
        levels=(StoredLevel(0, "only", WIDTH, (1, 1), 1),),
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        dataset_size=rows,
        num_images=rows,
    )
    writer = StoreWriter(folder, manifest)
    for part in writer.missing:
        features, labels = synthetic(part.start, part.stop)
        writer.write(part, {"level0": features, "labels": labels, "index": np.arange(part.start, part.stop)})
    writer.finish()


def memory(field: str) -> int:
    """Return `VmRSS` or its peak `VmHWM` of this process in bytes (`ru_maxrss` would begin with the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(folder: Path, way: str, queries: int) -> dict[str, Any]:
    """Classify the queries in this process, which does nothing else."""
    test = Samples(*synthetic(1 << 40, (1 << 40) + queries))  # Beyond any bank.
    small = test.take(np.arange(min(2000, queries)))
    knn(small, small, num_classes=CLASSES)  # The libraries' own buffers are not the bank's.
    started, before = time.perf_counter(), memory("VmRSS")
    row: dict[str, Any] = {"way": way}
    if way == "faiss":
        import faiss

        bank = FeatureStore(folder, verify=False).features(0)
        bank /= np.linalg.norm(bank, axis=1, keepdims=True)
        started = time.perf_counter()
        faiss.knn(test.features / np.linalg.norm(test.features, axis=1, keepdims=True), bank, 200, metric=0)
    else:
        store = FeatureStore(folder, verify=False)
        found = knn(StreamedSamples(store.stream(0), store.labels()), test, num_classes=CLASSES, index=way)
        row |= {"top1": {k: score.value for k, score in found.scores.items()}, "notes": found.notes}
    seconds = time.perf_counter() - started
    return row | {"seconds": seconds, "start_bytes": before, "peak_over_start_bytes": memory("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--way", choices=WAYS, action="append", help="repeatable; flat and faiss by default")
    parser.add_argument("--folder", type=Path, help="keep the store here; by default in a temporary folder")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure, options.queries)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "store"
        write_store(folder, options.rows)
        rows = []
        for way in options.way or ("flat", "faiss"):
            command = [sys.executable, __file__, "--measure", way, "--folder", str(folder)]
            done = subprocess.run([*command, "--queries", str(options.queries)], check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(done.stdout))
            print(json.dumps(rows[-1]))
    result = {
        "rows": rows,
        "bank": [options.rows, WIDTH],
        "queries": options.queries,
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": package_versions(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
