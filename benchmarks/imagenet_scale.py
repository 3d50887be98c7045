"""Linear probes at ImageNet's size: 1,281,167 x 384 features of 1,000 classes, read from a file block by block.

    python benchmarks/imagenet_scale.py                     # ridge with its path of penalties, on all images
    python benchmarks/imagenet_scale.py --probe logistic --share 0.1

Features are drawn: class means on a sphere plus noise whose spectrum falls as that of encoders does. Each probe is also
run on a part that fits in memory, streamed and not, and must say the same. Memory is the peak of the process over what
it had before the probe began, pages of the file that the system may take back counted in.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.machine.devices import hardware_name
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.probes.search.bank import ArrayBank

RESULTS = Path(__file__).parent / "results" / "imagenet_scale.json"
IMAGES, WIDTH, CLASSES, TEST, PART = 1_281_167, 384, 1000, 50_000, 20_000
_BLOCK = 1 << 15


def draw(file: Path, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Write `count` features to `file` and return them as a memory map, with their labels."""
    labels = np.arange(count, dtype=np.int64) * 7919 % CLASSES
    spread = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    means = np.random.default_rng(0).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    rows = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=(count, WIDTH))
    for start in range(0, count, _BLOCK):
        own = labels[start : start + _BLOCK]
        noise = np.random.default_rng((seed, start)).standard_normal((len(own), WIDTH), dtype=np.float32)
        rows[start : start + len(own)] = (0.12 * means[own] + noise) * spread
    rows.flush()
    return np.load(file, mmap_mode="r"), labels


def memory_now() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what `call` returns, and its seconds, CPU seconds and peak of memory over the start in GiB."""
    before, peak, over = memory_now(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], memory_now())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, spent = time.perf_counter(), time.process_time()
    answer = call()
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    over.set()
    watcher.join()
    gib = (max(peak[0], memory_now()) - before) / 2**30
    return answer, {"seconds": round(wall, 1), "cpu_seconds": round(spent, 1), "peak_gib": round(gib, 3)}


def probe(name: str, train: Samples | StreamedSamples, test: Samples) -> Any:
    """Fit a probe: ridge with its usual penalties, or logistic regression at C = 1."""
    if name == "ridge":
        return ridge_regression(train, test, num_classes=CLASSES)
    return logistic_regression(train, test, num_classes=CLASSES, cs=[1.0])


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", choices=["ridge", "logistic"], default="ridge")
    parser.add_argument("--share", type=float, default=1.0, help="of ImageNet's train images")
    parser.add_argument("--part", type=int, default=PART, help="images of the part that is also solved in memory")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    count = int(options.share * IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        rows, labels = draw(Path(folder) / "train.npy", count, 1)
        shown, known = draw(Path(folder) / "test.npy", min(TEST, count), 2)
        test = Samples(np.array(shown), known)
        part = slice(0, min(options.part, count))
        small = [
            probe(options.probe, StreamedSamples(ArrayBank(rows[part]), labels[part]), test),
            probe(options.probe, Samples(np.array(rows[part]), labels[part]), test),
        ]
        same = float((small[0].predictions == small[1].predictions).mean())
        answer, cost = measured(lambda: probe(options.probe, StreamedSamples(ArrayBank(rows), labels), test))
    entry = {
        **cost,
        "images": count,
        "width": WIDTH,
        "classes": CLASSES,
        "top1": answer.score.value,
        "same_predictions_on_a_part": same,
        "largest_weight_difference_on_a_part": float(np.abs(small[0].weight - small[1].weight).max()),
        "iterations": getattr(answer, "iterations", None),
        "gap": getattr(answer, "gap", None),
        "penalty": getattr(answer, "penalty", None),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "machine": hardware_name("cpu"),
    }
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    results[f"{options.probe} {count:,}"] = entry
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
