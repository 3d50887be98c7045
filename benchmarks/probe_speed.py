"""Probes against peers on real features, ratios inside one run: `python benchmarks/probe_speed.py --root CIFAR10`.

Features are whitened random patches of CIFAR-10 (Coates and Ng, 2011), 384 numbers per image, so that no encoder has to
be trained first. Writes `benchmarks/results/probe_speed.json`; `benchmarks/README.md` shows the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.probes.few_shot import few_shot
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear import fit_logistic
from hjepa_eval.probes.samples import Samples
from hjepa_eval.results import package_versions

RESULTS = Path(__file__).parent / "results" / "probe_speed.json"
KS = (10, 20, 100, 200)
FILTERS, PATCH = 96, 6


def normalised(patches: Tensor) -> Tensor:
    centred = patches - patches.mean(1, keepdim=True)
    return centred / torch.sqrt(patches.var(1, keepdim=True) + 10)


def patch_features(train: Tensor, test: Tensor) -> list[np.ndarray]:
    """Return float32 `[N, 384]` for uint8 images `[N, 3, 32, 32]`: whitened patches, rectified, four quadrants."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, len(train), (20_000,), generator=generator)
    corners = torch.randint(0, 33 - PATCH, (20_000, 2), generator=generator)
    patches = [
        train[i, :, row : row + PATCH, column : column + PATCH].reshape(-1)
        for i, (row, column) in zip(images.tolist(), corners.tolist(), strict=True)
    ]
    sample = normalised(torch.stack(patches).float())
    mean = sample.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(sample.T))
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    filters = ((sample - mean) @ whiten)[torch.randperm(len(sample), generator=generator)[:FILTERS]]
    filters = filters / filters.norm(dim=1, keepdim=True)

    def read(images: Tensor) -> np.ndarray:
        parts = []
        for part in images.split(500):
            windows = torch.nn.functional.unfold(part.float(), PATCH).transpose(1, 2).flatten(0, 1)
            answers = (((normalised(windows) - mean) @ whiten) @ filters.T - 0.5).clamp_min(0)
            maps = answers.reshape(len(part), 27, 27, FILTERS).permute(0, 3, 1, 2)
            parts.append(torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))
        return torch.cat(parts).numpy()

    return [read(train), read(test)]


def load_samples(root: Path) -> tuple[Samples, Samples]:
    same = Transform(32, 32)
    splits = [load_dataset("cifar10", split, root=root) for split in ("train", "test")]
    features = patch_features(*(stack_images(split, same) for split in splits))
    train, test = (Samples(array, split.labels) for array, split in zip(features, splits, strict=True))
    return train, test


def seconds(function: Callable[[], Any], *, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return times


def compare(name: str, ours: list[float], theirs: list[float], *, scale: float = 1.0, note: str = "") -> dict[str, Any]:
    """Return a row; `scale` multiplies their time where only a part of it was run."""
    mine, peer = statistics.median(ours), scale * statistics.median(theirs)
    row = {"measure": name, "ours_s": mine, "theirs_s": peer, "theirs_over_ours": peer / mine, "note": note}
    print(json.dumps(row))
    return row


def bench_knn(train: Samples, test: Samples) -> list[dict[str, Any]]:
    import faiss
    from sklearn.neighbors import KNeighborsClassifier

    def bare() -> None:
        bank, queries = (
            s.features / np.linalg.norm(s.features, axis=1, keepdims=True).clip(1e-12) for s in (train, test)
        )
        index = faiss.IndexFlatIP(bank.shape[1])
        index.add(bank)
        index.search(queries, max(KS))

    theirs, ours = [], []
    for _ in range(3):  # Turn by turn, so that a busy minute hits both.
        theirs += seconds(bare, repeats=1)
        ours += seconds(lambda: knn(train, test, num_classes=10, ks=KS), repeats=1)
    rows = [compare("kNN, four k, votes and intervals, against a bare FAISS flat search", ours, theirs)]

    def sklearn_one() -> None:
        model = KNeighborsClassifier(20, algorithm="brute", metric="cosine").fit(train.features, train.labels)
        model.predict(test.features)

    once = seconds(sklearn_one, repeats=1)
    note = "one k measured, times four: it searches again for every k"
    return [*rows, compare("the same against scikit-learn, brute force, cosine", ours, once, scale=4, note=note)]


def bench_logistic(train: Samples) -> list[dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression

    grid = 10.0 ** np.linspace(-6, 5, 45)
    ours = seconds(lambda: fit_logistic(train.features, train.labels, num_classes=10, cs=list(grid)), repeats=1)
    picked = grid[4::15]
    theirs = [
        seconds(lambda c=c: LogisticRegression(C=c, max_iter=1000).fit(train.features, train.labels), repeats=1)[0]
        for c in picked
    ]
    note = f"{len(picked)} of 45 values of C fitted, times {45 // len(picked)}"
    return [
        compare("45-value C path against 45 scikit-learn fits", ours, [sum(theirs)], scale=45 / len(picked), note=note)
    ]


def bench_few_shot(test: Samples) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    by_class = [np.flatnonzero(test.labels == label) for label in range(10)]
    unit = test.features / np.linalg.norm(test.features, axis=1, keepdims=True)

    def loop(episodes: int) -> None:
        for _ in range(episodes):
            classes = generator.choice(10, 5, replace=False)
            drawn = np.stack([generator.choice(by_class[c], 20, replace=False) for c in classes])
            means = unit[drawn[:, :5]].mean(1)
            queries = unit[drawn[:, 5:]].reshape(75, -1)
            distance = ((queries[:, None] - means[None]) ** 2).sum(-1)
            (distance.argmin(1) == np.repeat(np.arange(5), 15)).mean()

    ours = seconds(lambda: few_shot(test, num_classes=10, shots=5, episodes=10_000), repeats=3)
    theirs = seconds(lambda: loop(1000), repeats=1)
    return [compare("10,000 5-way 5-shot episodes against a numpy loop", ours, theirs, scale=10, note="1,000 looped")]


SECTIONS: dict[str, Callable[[Samples, Samples], list[dict[str, Any]]]] = {
    "knn": bench_knn,
    "few_shot": lambda train, test: bench_few_shot(test),
    "logistic": lambda train, test: bench_logistic(train),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HJEPA_DATA", "data")))
    parser.add_argument("--only", choices=list(SECTIONS), action="append", help="a section, repeatable; all by default")
    options = parser.parse_args()
    train, test = load_samples(options.root)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    shape = {"train": list(train.features.shape), "test": list(test.features.shape)}
    RESULTS.parent.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.only or SECTIONS:
        rows += SECTIONS[name](train, test)
        result = {"rows": rows, "features": shape, "machine": machine, "versions": package_versions()}
        # Written section by section: the slow peers come late, and what was measured should not wait for them.
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
