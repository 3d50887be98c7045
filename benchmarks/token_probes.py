"""Token probes against plain loops, ratios inside one run: `python benchmarks/token_probes.py [--only NAME ...]`.

`attentive`: 12 heads trained at once, against the published formulation in torch's own modules, a head after another on
the same batches (and against this package's, one head at a time). `segmentation`: kNN segmentation of `scenes`, against
the plain loop of the in-context protocol in torch. `memory`: the peak over the start of both on tokens on disk.
Every section replaces its part of `benchmarks/results/token_probes.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hjepa_eval.datasets.generated.scenes import SceneOptions, Scenes
from hjepa_eval.probes.attentive.heads import HeadShape, make_heads
from hjepa_eval.probes.attentive.training import Schedule, train_heads
from hjepa_eval.probes.dense.ceilings import Truth
from hjepa_eval.probes.dense.cells import Frame, lay_cells
from hjepa_eval.probes.dense.knn_segmentation import gather_bank, vote
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.search.bank import ArrayBank
from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "token_probes.json"
TOKENS, WIDTH, CLASSES, QUERIES = 64, 192, 10, 32
GRID = [(rate, decay) for rate in (3e-4, 1e-3, 3e-3, 1e-2) for decay in (0.0, 0.1, 1.0)]


class Published(torch.nn.Module):
    """Efficient probing as it is published: values of all tokens are projected, then pooled."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        start = make_heads(shape, 1, seed=0).weights
        self.query = torch.nn.Parameter(start["query0"][0].clone())
        self.value = torch.nn.Parameter(start["value0"][0].permute(1, 0, 2).reshape(WIDTH, -1).clone())
        self.norm = torch.nn.BatchNorm1d(shape.width, affine=False)
        self.weight = torch.nn.Parameter(start["weight"][0].clone())
        self.bias = torch.nn.Parameter(start["bias"][0].clone())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [B, C] for tokens [B, T, D]."""
        attention = torch.softmax(tokens @ self.query.T * tokens.shape[-1] ** -0.5, dim=1)
        values = (tokens @ self.value).reshape(*tokens.shape[:2], QUERIES, -1)
        pooled = torch.einsum("btm,btmp->bmp", attention, values).flatten(1)
        return self.norm(pooled) @ self.weight + self.bias


def train_published(read: Any, labels: np.ndarray, shape: HeadShape, schedule: Schedule) -> np.ndarray:
    """Return the losses [steps, heads] of heads trained one after another."""
    images = np.arange(len(labels))
    total = schedule.epochs * schedule.steps(len(images))
    curves = []
    for rate, decay in GRID:
        module = Published(shape)
        others = [each for name, each in module.named_parameters() if name != "bias"]
        groups = [{"params": others, "weight_decay": decay}, {"params": [module.bias], "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=rate)
        generator, curve = np.random.default_rng(0), []
        for _ in range(schedule.epochs):
            order = generator.permutation(images)
            for start in range(0, len(order), schedule.batch_size):
                batch = np.sort(order[start : start + schedule.batch_size])
                for group in optimiser.param_groups:
                    group["lr"] = rate * schedule.factor(len(curve), total)
                loss = F.cross_entropy(module(read(batch)[0]), torch.from_numpy(labels[batch]))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                curve.append(float(loss.detach()))
        curves.append(curve)
    return np.array(curves).T


def attentive(images: int, epochs: int) -> dict[str, Any]:
    """Return how long 12 heads take together, one after another, and one after another as published."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(images, TOKENS * WIDTH)).astype(np.float16)
    labels = generator.integers(0, CLASSES, images)
    stored[:, :CLASSES] += 3 * np.eye(CLASSES)[labels].astype(np.float16)
    rows = TokenRows(ArrayBank(stored), TOKENS)
    shape, schedule = HeadShape("ep", QUERIES, (WIDTH,), CLASSES), Schedule(epochs, 256, 1)

    def read(part: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(rows.of(part))]

    def ours(grid: list[tuple[float, float]]) -> np.ndarray:
        rates, decays = zip(*grid, strict=True)
        common: dict[str, Any] = {"images": np.arange(images), "schedule": schedule}
        return train_heads(read, labels, shape, rates=rates, decays=decays, **common)[1]

    seconds, losses = {}, {}
    for name, run in {
        "together": lambda: ours(GRID),
        "one after another, published": lambda: train_published(read, labels, shape, schedule),
        "one after another, ours": lambda: np.concatenate([ours([pair]) for pair in GRID], axis=1),
    }.items():
        started = time.perf_counter()
        losses[name] = run()
        seconds[name] = time.perf_counter() - started
    apart = {name: float(np.abs(curve - losses["together"]).max()) for name, curve in losses.items()}
    return {
        "images": images,
        "tokens": [TOKENS, WIDTH],
        "heads": len(GRID),
        "epochs": epochs,
        "seconds": seconds,
        "ratio": {name: each / seconds["together"] for name, each in seconds.items()},
        "largest_difference_of_losses": apart,
    }


def plain_votes(bank: np.ndarray, shares: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the votes of the in-context protocol, image by image, as a plain loop in torch has them."""
    known, labels = F.normalize(torch.from_numpy(bank)), torch.from_numpy(shares)
    votes = []
    for image in queries:
        cosine = F.normalize(torch.from_numpy(image)) @ known.T
        nearest, index = cosine.topk(30, dim=1)
        weights = torch.softmax(nearest / 0.02, dim=1)
        votes.append((weights[:, :, None] * labels[index]).sum(dim=1))
    return torch.stack(votes).numpy()


def segmentation(train: int, test: int) -> dict[str, Any]:
    """Return how long kNN segmentation of `scenes` at 8 x 8 cells takes, ours and the plain loop's, and its labels."""
    scenes = {split: Scenes(split, SceneOptions(n=max(40, train))) for split in ("train", "test")}
    cells = lay_cells(Frame.whole(64, 64), (8, 8), (8, 8))
    counts = {"train": train, "test": test}
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3 * 64, WIDTH)) / 14
    maps, tokens = {}, {}
    for split, images in scenes.items():
        maps[split] = [images.maps(index)["class"] for index in range(counts[split])]
        pixels = np.stack([images.image(index).numpy() for index in range(counts[split])]).astype(np.float32) / 255
        patches = pixels.reshape(-1, 3, 8, 8, 8, 8).transpose(0, 2, 4, 1, 3, 5).reshape(counts[split], TOKENS, -1)
        tokens[split] = np.maximum((patches - 0.5) @ mixing, 0).astype(np.float32)
    truths = {s: Truth(maps[s].__getitem__, lambda image: cells, counts[s], 7) for s in counts}
    rows = {s: TokenRows(ArrayBank(tokens[s].reshape(counts[s], -1)), TOKENS) for s in counts}
    bank = gather_bank(rows["train"], truths["train"], images=np.arange(train))
    started = time.perf_counter()
    ours = np.stack(list(vote(bank, rows["test"])))
    middle = time.perf_counter()
    plain = plain_votes(bank.tokens, bank.shares, tokens["test"])
    ended = time.perf_counter()
    same = sum(
        int((cells.label_pixels(first) == cells.label_pixels(second)).sum())
        for first, second in zip(ours, plain, strict=True)
    )
    return {
        "images": [train, test],
        "tokens": [len(bank.tokens), test * TOKENS, WIDTH],
        "seconds": {"ours": middle - started, "plain loop": ended - middle},
        "ratio": (ended - middle) / (middle - started),
        "pixels_of_the_same_class": same,
        "pixels": test * 64 * 64,
    }


def write_tokens(folder: str, images: int) -> None:
    """Write a store of random tokens, in a process of its own: what that takes is no part of the measurement."""
    from hjepa_eval.features.manifest import Manifest, StoredLevel
    from hjepa_eval.features.writer import StoreWriter

    level = StoredLevel(0, "tokens", TOKENS * WIDTH, (8, 8), TOKENS)
    identity = {"storage": "float16", "dataset": {"fingerprint": "", "split": "train"}}
    names = tuple(map(str, range(CLASSES)))
    manifest = Manifest(identity, "made", "made", "train", "tokens", (level,), names, images, images)
    writer = StoreWriter(Path(folder), manifest)
    values = np.random.default_rng(0).normal(size=(2048, level.width)).astype(np.float16)
    for part in writer.missing:
        index = np.arange(part.start, part.stop)
        writer.write(part, {"level0": values[index % 2048], "labels": index % CLASSES, "index": index}, ())
    writer.finish([f"train/{place}" for place in range(images)])


def memory(images: int) -> dict[str, Any]:
    """Return the peak of resident memory over the start, of steps of 12 heads and of a search, tokens on disk."""
    from hjepa_eval.features.store import FeatureStore

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        writing = multiprocessing.get_context("spawn").Process(target=write_tokens, args=(folder, images))
        writing.start()
        writing.join()
        store = FeatureStore(Path(folder), verify=False)
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows, labels = TokenRows(store.stream(0), TOKENS), store.labels()
        shape, schedule = HeadShape("ep", QUERIES, (WIDTH,), CLASSES), Schedule(1, 256, 1)
        rates, decays = zip(*GRID, strict=True)
        part = np.sort(generator.permutation(images)[:1024])
        common: dict[str, Any] = {"images": part, "rates": rates, "decays": decays, "schedule": schedule}
        train_heads(lambda index: [torch.from_numpy(rows.of(index))], labels, shape, **common)
        heads = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cells = lay_cells(Frame.whole(32, 32), (8, 8), (8, 8))
        mask = generator.integers(0, 3, (32, 32), dtype=np.uint8)
        truth = Truth(lambda image: mask, lambda image: cells, images, 3)
        bank = gather_bank(rows, truth, images=np.arange(images))
        for _ in vote(bank, TokenRows(ArrayBank(rows.rows(np.arange(64 * 16)).reshape(16, -1)), TOKENS)):
            pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": images,
        "bytes_on_disk": images * TOKENS * WIDTH * 2,
        "bank": len(bank.tokens),
        "over_start_mib": {"heads": (heads - start) / 1024, "heads and search": (peak - start) / 1024},
    }


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["memory", "attentive", "segmentation"])
    parser.add_argument("--images", type=int, default=50_000, help="train images of attentive and memory")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--scenes", type=int, nargs=2, default=(4000, 1000))
    asked = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"sections": {}}
    for name in asked.only:
        section = {
            "memory": lambda: memory(asked.images),
            "attentive": lambda: attentive(asked.images, asked.epochs),
            "segmentation": lambda: segmentation(*asked.scenes),
        }[name]()
        section |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "versions": package_versions()}
        known["sections"][name] = section
        print(json.dumps({name: section}, indent=1))
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
