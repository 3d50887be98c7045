"""Probes against peers on real features, ratios inside one run: `python benchmarks/probe_speed.py --root CIFAR10`.

Features are whitened random patches of CIFAR-10 (Coates and Ng, 2011), 384 numbers per image, so that no encoder has to
be trained first; other random patches give other levels. Peers: the extra `bench`. Every section replaces its own rows
in `benchmarks/results/probe_speed.json`; `benchmarks/README.md` shows the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.probes.few_labels.classifiers import Classifier
from hjepa_eval.probes.few_labels.episodes import draw_episodes
from hjepa_eval.probes.few_labels.few_shot import few_shot
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.logistic_path import fit_logistic
from hjepa_eval.probes.samples import Samples
from hjepa_eval.probes.side_by_side import side_by_side
from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "probe_speed.json"
KS = (10, 20, 100, 200)
FILTERS, PATCH = 96, 6


def normalised(patches: Tensor) -> Tensor:
    centred = patches - patches.mean(1, keepdim=True)
    return centred / torch.sqrt(patches.var(1, keepdim=True) + 10)


def patch_features(train: Tensor, test: Tensor, seed: int) -> list[np.ndarray]:
    """Return float32 `[N, 384]` for uint8 images `[N, 3, 32, 32]`: whitened patches, rectified, four quadrants."""
    generator = torch.Generator().manual_seed(seed)
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


@dataclass(frozen=True)
class Level:
    """Train and test samples of one level."""

    train: Samples
    test: Samples


def load_levels(root: Path, count: int) -> list[Level]:
    same = Transform(32, 32)
    splits = [load_dataset("cifar10", split, root=root) for split in ("train", "test")]
    images = [stack_images(split, same) for split in splits]
    levels = []
    for seed in range(count):
        features = patch_features(*images, seed)
        levels.append(Level(*(Samples(array, split.labels) for array, split in zip(features, splits, strict=True))))
    return levels


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


def bench_knn(levels: list[Level]) -> list[dict[str, Any]]:
    import faiss
    from lightly.utils.benchmarking import knn_predict
    from sklearn.neighbors import KNeighborsClassifier

    train, test = levels[0].train, levels[0].test

    def bare() -> None:
        bank, queries = (
            s.features / np.linalg.norm(s.features, axis=1, keepdims=True).clip(1e-12) for s in (train, test)
        )
        index = faiss.IndexFlatIP(bank.shape[1])
        index.add(bank)
        index.search(queries, max(KS))

    def lightly_all() -> None:
        bank, queries = (torch.nn.functional.normalize(torch.from_numpy(s.features), dim=1) for s in (train, test))
        columns, labels = bank.T.contiguous(), torch.from_numpy(train.labels)
        for k in KS:
            for batch in queries.split(512):
                knn_predict(batch, columns, labels, 10, k, 0.07)

    def sklearn_one() -> None:
        model = KNeighborsClassifier(20, algorithm="brute", metric="cosine").fit(train.features, train.labels)
        model.predict(test.features)

    theirs, ours = [], []
    for _ in range(5):  # Turn by turn, so that a busy minute hits both.
        theirs += seconds(bare, repeats=1)
        ours += seconds(lambda: knn(train, test, num_classes=10, ks=KS), repeats=1)
    rows = [compare("kNN, four k, votes and intervals, against a bare FAISS flat search", ours, theirs)]
    note = "one k measured, times four: it searches again for every k"
    once = seconds(sklearn_one, repeats=1)
    rows.append(compare("the same against scikit-learn, brute force, cosine", ours, once, scale=4, note=note))
    again = seconds(lightly_all, repeats=2)
    note = "batches of 512; it searches again for every k"
    return [*rows, compare("the same against lightly's knn_predict", ours, again, note=note)]


def bench_logistic(levels: list[Level]) -> list[dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression

    train = levels[0].train
    grid = 10.0 ** np.linspace(-6, 5, 45)
    ours = seconds(lambda: fit_logistic(train.features, train.labels, num_classes=10, cs=list(grid)), repeats=3)
    picked = grid[2::5]
    theirs = [
        seconds(lambda c=c: LogisticRegression(C=c, max_iter=1000).fit(train.features, train.labels), repeats=1)[0]
        for c in picked
    ]
    note = f"{len(picked)} of 45 values of C fitted, times {45 // len(picked)}"
    return [
        compare("45-value C path against 45 scikit-learn fits", ours, [sum(theirs)], scale=45 / len(picked), note=note)
    ]


def bench_levels(levels: list[Level]) -> list[dict[str, Any]]:
    """Choice of C, refit and test: `theirs` is three levels at once, so `theirs_over_ours` is what two more cost."""

    def job(level: Level) -> Callable[[], Any]:
        return lambda: logistic_regression(level.train, level.test, num_classes=10)

    one, three = [], []
    for _ in range(3):
        one += seconds(job(levels[0]), repeats=1)
        three += seconds(lambda: list(side_by_side([job(level) for level in levels])), repeats=1)
    return [compare("logreg probe: one level (ours), three levels at once (theirs)", one, three)]


def bench_few_shot(levels: list[Level]) -> list[dict[str, Any]]:
    from easyfsl.methods import PrototypicalNetworks
    from sklearn.linear_model import LogisticRegression

    test = levels[0].test
    unit = test.features / np.linalg.norm(test.features, axis=1, keepdims=True)

    drawn = draw_episodes(test.labels, num_classes=10, shots=5, episodes=300)
    classes = np.repeat(np.arange(5), 5)
    truth = np.repeat(np.arange(5), 15)

    def easyfsl_episodes() -> None:
        """Its method on gathered rows, as ours: its DataLoader collates single rows, which takes most of its time."""
        method, rows = PrototypicalNetworks(torch.nn.Identity()), torch.from_numpy(unit)
        shown, asked = torch.from_numpy(classes), torch.from_numpy(truth)
        for support, queries in zip(drawn.support, drawn.queries, strict=True):
            method.process_support_set(rows[torch.from_numpy(support.ravel())], shown)
            (method(rows[torch.from_numpy(queries.ravel())]).argmax(1) == asked).float().mean()

    def sklearn_episodes() -> None:
        for support, queries in zip(drawn.support, drawn.queries, strict=True):
            model = LogisticRegression(C=1.0, max_iter=1000).fit(unit[support.ravel()], classes)
            (model.predict(unit[queries.ravel()]) == truth).mean()

    def ours(classifier: Classifier) -> list[float]:
        return seconds(
            lambda: few_shot(test, num_classes=10, shots=5, episodes=10_000, classifier=classifier), repeats=3
        )

    name = "10,000 5-way 5-shot {} episodes against {}"
    easy = seconds(easyfsl_episodes, repeats=2)
    loop = seconds(sklearn_episodes, repeats=2)
    return [
        compare(
            name.format("prototype", "easyfsl"),
            ours("prototype"),
            easy,
            scale=100 / 3,
            note="arrays, without its DataLoader; 300 run, times 33.3",
        ),
        compare(
            name.format("logistic", "a scikit-learn loop"),
            ours("logreg"),
            loop,
            scale=100 / 3,
            note="300 run, times 33.3",
        ),
    ]


SECTIONS: dict[str, Callable[[list[Level]], list[dict[str, Any]]]] = {
    "knn": bench_knn,
    "few_shot": bench_few_shot,
    "levels": bench_levels,
    "logistic": bench_logistic,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HJEPA_DATA", "data")))
    parser.add_argument("--only", choices=list(SECTIONS), action="append", help="a section, repeatable; all by default")
    options = parser.parse_args()
    wanted = options.only or list(SECTIONS)
    levels = load_levels(options.root, 3 if "levels" in wanted else 1)
    shape = {name: list(getattr(levels[0], name).features.shape) for name in ("train", "test")}
    RESULTS.parent.mkdir(exist_ok=True)
    found = json.loads(RESULTS.read_text()).get("sections", {}) if RESULTS.exists() else {}
    for name in wanted:
        found[name] = {
            "rows": SECTIONS[name](levels),
            "load": os.getloadavg()[0],
            "threads": torch.get_num_threads(),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        cpu = platform.processor() or platform.machine()
        result = {"sections": found, "features": shape, "cpu": cpu, "versions": versions()}
        # Written section by section: the slow peers come late, and what was measured should not wait for them.
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULTS}")


def versions() -> dict[str, str]:
    peers = {name: version(name) for name in ("lightly", "easyfsl")}
    return {**package_versions(), **peers}


if __name__ == "__main__":
    main()
