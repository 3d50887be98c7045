"""Extraction against a plain loop, a peer and the machine: `python benchmarks/extract_speed.py --root DATA`.

DATA holds `cifar10/` and `imagenette/` as class folders. Every system reads the same files and runs the same weights;
times are wall times from files to features, ratios are of runs one after the other in this process. Peer: the extra
`bench`. Every section replaces its own rows in `benchmarks/results/extract_speed.json`; `benchmarks/README.md` shows
the table. On a machine with CUDA the same sections run on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hjepa_pretrain.diagnostics.measuring import matmul_peak
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder as PlainFolder
from torchvision.transforms import v2

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import image_batches
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.costs import encoder_costs
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.evaluation.models.given import default_workers
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.extraction.inference import Inference
from hjepa_eval.machine.devices import fast_bf16, resolve_device, resolve_precision
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples
from hjepa_eval.results.provenance import package_versions

RESULTS = Path(__file__).parent / "results" / "extract_speed.json"
DEVICE = resolve_device("auto")
PRECISION = resolve_precision("auto", DEVICE)
# The issue asks for 20,000; in float32 on two cores a tenth has to do.
IMAGES = 20_000 if PRECISION == "bf16" else 2_048
TINY = "random:vit_tiny_patch4_32"
SMALL = "random:vit_small_patch16_224"


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ours(
    encoder: Encoder, dataset: Any, *, count: int, readouts: Sequence[str] = ("mean",), compile: Any = "auto"
) -> float:
    """Return the seconds of an extraction into an empty cache, with the program's defaults; compilation included."""
    folder = Path(tempfile.mkdtemp())
    settings = Compute(str(DEVICE), PRECISION, workers=default_workers(), max_samples=count, compile=compile)
    try:
        torch.compiler.reset()
        return timed(lambda: extract(encoder, dataset, readouts=readouts, cache_dir=folder, settings=settings))
    finally:
        shutil.rmtree(folder)


def plain_images(encoder: Encoder, root: Path, split: str, count: int) -> DataLoader:
    """Return the loader that a user would write: Pillow, torchvision transforms, worker processes."""
    size, resize = encoder.transform.size, encoder.transform.resize
    mode = v2.InterpolationMode.BICUBIC
    steps = [] if size == resize == 32 else [v2.Resize(resize, mode), v2.CenterCrop(size)]
    normalise = v2.Normalize(encoder.transform.mean, encoder.transform.std)
    images = PlainFolder(
        root / split, v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), normalise])
    )
    some = Subset(images, np.random.default_rng(0).permutation(len(images))[:count].tolist())
    return DataLoader(some, batch_size=256, num_workers=os.cpu_count() or 1)


def plain(encoder: Encoder, root: Path, split: str, count: int) -> float:
    """Return the seconds of a timm model in float32 over a DataLoader, features of the last block kept in memory."""
    model: Any = encoder.model

    def loop() -> None:
        parts = []
        with torch.inference_mode():
            for images, _ in plain_images(encoder, root, split, count):
                tokens = model.forward_features(images.to(DEVICE))
                parts.append(tokens[:, model.num_prefix_tokens :].mean(1).cpu())
        torch.cat(parts).numpy()

    model.to(DEVICE)
    return timed(loop)


def lightly_embed(encoder: Encoder, root: Path, split: str, count: int) -> float:
    """Return the seconds that lightly's own embedding loop takes for the same weights and images."""
    from lightly.embedding import SelfSupervisedEmbedding

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = encoder.model
            self.backbone = self.forward

        def forward(self, images: Tensor) -> Tensor:
            return self.model.forward_features(images)[:, self.model.num_prefix_tokens :].mean(1)

    class Named(torch.utils.data.Dataset):
        """What lightly wants of a dataset: image, label, file name."""

        def __init__(self, images: Any) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def get_filenames(self) -> list[str]:
            return [str(index) for index in range(len(self))]

        def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
            return *self.images[index], str(index)

    images = Named(plain_images(encoder, root, split, count).dataset)
    loader = DataLoader(images, batch_size=256, num_workers=os.cpu_count() or 1)
    embedding = SelfSupervisedEmbedding(Backbone(), None, None, loader)
    return timed(lambda: embedding.embed(loader, device=DEVICE))


def row(measure: str, value: float, bar: str, note: str) -> dict[str, Any]:
    found = {"measure": measure, "value": value, "bar": bar, "note": note}
    print(json.dumps(found), flush=True)
    return found


def against_plain(
    spec: str, name: str, root: Path, split: str, count: int, bar: str, peak: float
) -> list[dict[str, Any]]:
    encoder = load_encoder(spec)
    dataset = load_dataset(f"folder:{root}", split)
    turns = [
        (
            ours(encoder, dataset, count=count),
            plain(encoder, root, split, count),
            lightly_embed(encoder, root, split, count),
        )
        for _ in range(3)
    ]
    mine, theirs, peer = (statistics.median(times) for times in zip(*turns, strict=True))
    compiled = ours(encoder, dataset, count=count, compile="on")
    gflop = encoder_costs(encoder).together.gflop
    seconds = "; ".join(", ".join(f"{each:.1f}" for each in times) for times in zip(*turns, strict=True))
    note = f"{count:,} images, {PRECISION}; seconds: ours (compile auto), plain loop, lightly: {seconds}"
    return [
        row(f"{name}: images/s over a plain timm and DataLoader loop in fp32", theirs / mine, bar, note),
        row(f"{name}: images/s over lightly's embedding loop", peer / mine, "", "the same weights, files and turns"),
        row(
            f"{name}: images/s, compiled, over the plain loop, compilation included",
            theirs / compiled,
            "",
            f"{compiled:.1f} s, once",
        ),
        row(
            f"{name}: share of the matmul peak, files to features",
            gflop * count / mine / 1e3 / peak,
            "",
            f"{gflop:.2f} GFLOP an image, {count / mine:.1f} images/s; peak {peak:.3f} TFLOP/s ({PRECISION}, this run)",
        ),
    ]


def bench_cifar(data: Path) -> list[dict[str, Any]]:
    peak = matmul_peak(DEVICE, PRECISION)
    return against_plain(
        TINY, "ViT-Ti/4 at 32 px, CIFAR-10 JPEG files", data / "cifar10", "train", IMAGES, ">= 5x", peak
    )


def bench_imagenette(data: Path) -> list[dict[str, Any]]:
    """Also what is not the forward pass: the same decoded images through the encoder alone."""
    peak, count = matmul_peak(DEVICE, PRECISION), 64 if PRECISION == "fp32" else 9_000
    root = data / "imagenette"
    rows = against_plain(SMALL, "ViT-S/16 at 224 px, Imagenette JPEG files", root, "train", count, ">= 4x", peak)
    encoder, dataset = load_encoder(SMALL), load_dataset(f"folder:{root}", "train")
    batches = [
        images
        for images, _, _ in image_batches(dataset, encoder.transform, indices=range(count), batch_size=256, workers=2)
    ]
    inference = Inference(encoder, ["mean"], device=DEVICE, precision=PRECISION, batch_size=256)
    inference(batches[0])
    pairs = []
    for _ in range(3):
        forward = timed(lambda: [inference(batch) for batch in batches])
        pairs.append((forward, ours(encoder, dataset, count=count)))
    outside = statistics.median(1 - forward / whole for forward, whole in pairs)
    share = statistics.median(encoder_costs(encoder).together.gflop * count / f / 1e3 / peak for f, _ in pairs)
    seconds = ", ".join(f"{forward:.1f} of {whole:.1f} s" for forward, whole in pairs)
    return [
        *rows,
        row("ViT-S/16, Imagenette: time outside the forward pass", outside, "<= 10 %", f"forward alone {seconds}"),
        row("ViT-S/16: share of the matmul peak in the forward pass", share, ">= 45 % of bf16", PRECISION),
    ]


def bench_levels(data: Path) -> list[dict[str, Any]]:
    dataset, count = load_dataset(f"folder:{data / 'cifar10'}", "test"), 1_024
    last, every = load_encoder(f"{TINY}?levels=1?taps=12"), load_encoder(f"{TINY}?levels=3")
    ours(last, dataset, count=512)
    turns = [
        (ours(last, dataset, count=count), ours(every, dataset, count=count, readouts=("mean", "grid")))
        for _ in range(5)
    ]
    ratio = statistics.median(both / one for one, both in turns)
    seconds = ", ".join(f"{both:.1f} against {one:.1f} s" for one, both in turns)
    return [row("all 3 levels and 2 readouts against the last level only", ratio, "<= 1.05x", seconds)]


def bench_second_call(data: Path) -> list[dict[str, Any]]:
    """The whole program, from the shell, on a complete store of 60,000 images, against importing torch."""
    with tempfile.TemporaryDirectory() as cache:
        options = ["--dataset", f"folder:{data / 'cifar10'}", "--cache-dir", cache, "--quiet"]
        command = [sys.executable, "-m", "hjepa_eval", "extract", "--model", "random:vit_tiny_patch8_32", *options]

        def run() -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        run()
        pairs = []
        for _ in range(5):
            torch_alone = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
            pairs.append((timed(run), torch_alone))
    extra = statistics.median(whole - alone for whole, alone in pairs)
    note = ", ".join(f"{whole:.2f} - {alone:.2f} s" for whole, alone in pairs)
    return [row("second call on a complete store of 60,000 images, s beyond importing torch", extra, "<= 1 s", note)]


def bench_parity(data: Path) -> list[dict[str, Any]]:
    root = data / "cifar10"
    train, test = (load_dataset(f"folder:{root}", split) for split in ("train", "test"))
    counts = (1_000, 500) if not fast_bf16(DEVICE) else (50_000, 10_000)
    found: dict[str, list[list[np.ndarray]]] = {}
    for precision in ("fp32", "bf16"):
        inference = Inference(load_encoder(TINY), ["mean"], device=DEVICE, precision=precision, batch_size=256)
        found[precision] = []
        for dataset, count in zip((train, test), counts, strict=True):
            parts = image_batches(dataset, inference.encoder.transform, indices=range(count), batch_size=256, workers=2)
            features = [inference(images)["mean"] for images, _, _ in parts]
            found[precision].append([torch.cat(level).cpu().numpy() for level in zip(*features, strict=True)])
    rows = []
    for level in range(3):
        exact, rounded = (
            [
                Samples(split[level], dataset.labels[:count])
                for split, dataset, count in zip(found[p], (train, test), counts, strict=True)
            ]
            for p in ("fp32", "bf16")
        )
        a, b = torch.from_numpy(exact[1].features), torch.from_numpy(rounded[1].features)
        cosine = torch.nn.functional.cosine_similarity(a, b).sort().values
        share = float((cosine >= 0.999).float().mean())
        scores = [100 * knn(bank, query, num_classes=10, ks=(20,)).scores[20].value for bank, query in (exact, rounded)]
        note = (
            f"kNN top-1 {scores[0]:.1f} fp32, {scores[1]:.1f} bf16; lowest cosine {cosine[0]:.5f}; {counts[1]:,} images"
        )
        rows.append(row(f"parity, level {level}: share of images with cosine >= 0.999", share, ">= 99 %", note))
    return rows


SECTIONS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "cifar": bench_cifar,
    "imagenette": bench_imagenette,
    "levels": bench_levels,
    "second_call": bench_second_call,
    "parity": bench_parity,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HJEPA_DATA", "data")))
    parser.add_argument("--section", choices=SECTIONS, action="append")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"sections": {}}
    versions = package_versions()
    try:
        versions["lightly"] = version("lightly")
    except PackageNotFoundError:
        sys.exit("lightly is missing; install the peers with: pip install '.[bench]'")
    for name in arguments.section or SECTIONS:
        rows = SECTIONS[name](arguments.root)
        found["sections"][name] = {"rows": rows, "load": os.getloadavg()[0], "threads": torch.get_num_threads()}
        device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
        found |= {"versions": versions, "machine": platform.processor() or platform.machine(), "device": device}
        found["precision"] = PRECISION
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
