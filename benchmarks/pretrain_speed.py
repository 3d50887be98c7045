"""How fast a training step is, against the literal document, against the matrix product's peak, and part by part.

    python benchmarks/pretrain_speed.py [--device cuda] [--only NAME ...]

Writes `benchmarks/results/pretrain_speed.json` (a section per name, so that parts can be measured one at a time) and
the page that shows it. Everything that is compared is measured turn by turn inside one run.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the program does, before torch loads OpenMP

import torch
from hjepa_pretrain.checks import load_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.batches import BatchOrder, ResidentImages
from hjepa_pretrain.data.training_data import LabelledImages, TrainingData
from hjepa_pretrain.diagnostics.measuring import matmul_peak, step_gflop
from hjepa_pretrain.masks import create_mask_generator
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.runs.logs import open_logs
from hjepa_pretrain.training.trainer import Trainer

from hjepa_eval.results.provenance import package_versions

RESULT = Path(__file__).parent / "results" / "pretrain_speed.json"
Name = TypeVar("Name", bound=Hashable)
TURNS = 9
_INTERVAL = 50
# ViT-S/4 on 8x8 tokens, the network of the two steps that are compared.
SMALL = ["model.encoder_type=vit_small_patch4_32", "train.batch_size=64", "data.image_size=32"]


def settings_of(preset: str, *assignments: str) -> PretrainSettings:
    """Return a preset with assignments on top."""
    return load_settings(preset, assignments)


def make_trainer(settings: PretrainSettings, device: torch.device, *, compiled: bool = False) -> Trainer:
    """Return a trainer on random pixels: what a step costs does not depend on what is in the images."""
    geometry = resolve_geometry(settings)
    transform = run_transform(settings, geometry)
    count = 4 * settings.train.batch_size
    size = settings.data.stored_size or transform.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    order = BatchOrder(torch.arange(count), settings.train.batch_size, seed=0)
    nothing = LabelledImages(images[:0], torch.empty(0, dtype=torch.int64))
    data = TrainingData(order, ResidentImages(images.to(device), order), nothing, nothing)
    return Trainer(settings, data, transform, device=device, compiled=compiled)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return how long `work` takes, to the end of what it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def step_times(trainers: dict[Name, Trainer], device: torch.device, *, turns: int = TURNS) -> dict[Name, list[float]]:
    """Return the seconds of single steps of each trainer, taken in turns."""
    for trainer in trainers.values():
        for _ in range(3):
            trainer.train_step(0.5)
    times: dict[Name, list[float]] = {name: [] for name in trainers}
    for _ in range(turns):
        for name, trainer in trainers.items():
            times[name].append(seconds(lambda trainer=trainer: trainer.train_step(0.5), device))
    return times


def row(measure: str, value: float, bar: str, note: str) -> dict[str, Any]:
    return {"measure": measure, "value": value, "bar": bar, "note": note}


def drop_against_document(device: torch.device) -> list[dict[str, Any]]:
    """Compare a step of the literal document with one that drops hidden tokens and predicts narrowly.

    Each way is taken compiled, as long runs are by default, and eager; the document counts by its faster way.
    """
    # The preset's 49 of 196 tokens are 16 of 64.
    same = ["train.precision=auto", *SMALL, "model.embed_dim=null", "masking.context_tokens=16"]
    narrow = [
        "model.mask_mode=drop",
        "model.taps=depth",
        "model.predictor={depth: 4, num_heads: 3, embed_dim: 192}",  # that of cifar10_h100
    ]
    others = ["masking.allow_target_overlap=true", "masking.context_tokens=24", "masking.target_tokens=34"]
    settings = {
        "document": settings_of("as_documented", *same, "model.predictor.embed_dim=384"),
        "the document's masks": settings_of("as_documented", *same, *narrow),
        "masks of cifar10_h100": settings_of("as_documented", *same, *narrow, *others),
    }
    ways = {"eager": False, "compiled": True}
    trainers = {
        (name, way): make_trainer(each, device, compiled=compiled)
        for name, each in settings.items()
        for way, compiled in ways.items()
    }
    medians = {name: statistics.median(times) for name, times in step_times(trainers, device).items()}
    gflop = {name: step_gflop(trainers[name, "eager"]) / 64 for name in settings}
    rows = []
    for masks in list(settings)[1:]:
        for way in ways:
            literal = medians["document", "eager"]
            literal = literal if way == "eager" else min(literal, medians["document", "compiled"])
            took = medians[masks, way]
            bar = ">= 2.5x" if (masks, way) == ("the document's masks", "compiled") else ""
            note = (
                f"medians of {TURNS} turns: {literal:.3f} and {took:.3f} s; ViT-S/4, 8x8 tokens, batch 64, "
                f"{gflop['document']:.1f} and {gflop[masks]:.1f} GFLOP an image"
            )
            title = f"drop mode and narrow predictor, {masks}, {way}: times faster than as_documented"
            rows.append(row(title, literal / took, bar, note))
    return rows


def masks_against_step(device: torch.device) -> list[dict[str, Any]]:
    """Measure masks for 1,024 images against a step, and steps of growing batches."""
    settings = settings_of("cifar10_cpu_masked", "train.compile=off")
    geometry = resolve_geometry(settings)
    context = geometry.most_context_tokens(settings.masking)
    rows = []
    for kind in ("multi_block", "hierarchical", "random"):
        masking = settings.masking.model_copy(update={"type": kind})
        generator = create_mask_generator(
            masking,
            image_size=geometry.image_size,
            patch_size=geometry.patch_size,
            num_levels=settings.model.num_hierarchies,
            context_tokens=context,
            seed=0,
        )
        draw = functools.partial(
            generator.sample,
            1024,
            device,
            context_tokens=context,
            target_tokens=geometry.target_tokens(masking, context),
        )
        took = [seconds(functools.partial(draw, step=step), device) for step in range(12)]
        rows.append((kind, statistics.median(took[2:])))
    trainers = {
        str(batch): make_trainer(
            settings_of("cifar10_cpu_masked", "train.compile=off", f"train.batch_size={batch}"), device
        )
        for batch in (128, 256, 512, 1024)
    }
    times = {name: statistics.median(each) for name, each in step_times(trainers, device, turns=5).items()}
    note = f"a step of 1,024 images takes {times['1024']:.2f} s, one of the preset's 128 {times['128']:.3f} s"
    measured = [
        row(
            f"{kind} masks for 1,024 images, share of a step of 1,024",
            took / times["1024"],
            "<= 2 %",
            f"{1e3 * took:.1f} ms; {note}",
        )
        for kind, took in rows
    ]
    per_image = ", ".join(f"{name}: {1e3 * took / int(name):.2f}" for name, took in times.items())
    growth = (times["1024"] / 1024) / (times["256"] / 256)
    return [
        *measured,
        row("time per image at batch 1,024 over that at 256", growth, "about 1", f"ms per image: {per_image}"),
    ]


def preset_speed(device: torch.device) -> list[dict[str, Any]]:
    """Measure images per second of `cifar10_cpu_masked`, its share of the peak, and what is outside the model."""
    settings = settings_of("cifar10_cpu_masked")
    batch = settings.train.batch_size
    trainers = {"eager": make_trainer(settings, device), "compiled": make_trainer(settings, device, compiled=True)}
    peak = matmul_peak(device, trainers["eager"].precision)
    times = {name: statistics.median(each) for name, each in step_times(trainers, device, turns=15).items()}
    gflop = step_gflop(trainers["eager"])
    trainer = trainers["compiled"]
    outside = _outside(trainer, device)
    step = times["compiled"]
    share = gflop / 1e3 / step / peak
    parts = ", ".join(f"{name} {1e3 * took:.1f} ms" for name, took in outside.items())
    return [
        row(
            "cifar10_cpu_masked, compiled: images/s",
            batch / step,
            ">= 350 (2 AMX cores)",
            f"median of 15 steps of {batch}",
        ),
        row("cifar10_cpu_masked, eager: images/s", batch / times["eager"], "", "the same, turn by turn"),
        row(
            f"cifar10_cpu_masked: share of the {trainer.precision} matmul peak",
            share,
            "printed",
            f"{gflop / batch:.3f} GFLOP an image; peak {peak:.2f} TFLOP/s in this run",
        ),
        row("cifar10_cpu_masked: share of a step outside the model", sum(outside.values()) / step, "<= 15 %", parts),
    ]


def _outside(trainer: Trainer, device: torch.device) -> dict[str, float]:
    """Return the median seconds of what a step does beside forward and backward pass."""
    images = trainer.data.source.batch(trainer.step)
    work: dict[str, Callable[[], Any]] = {
        "reading the batch": lambda: trainer.data.source.batch(trainer.step),
        "augmentation, masks and directions": lambda: trainer.inputs(images, trainer.model, number=0, progress=0.5),
        "clipping": lambda: torch.nn.utils.clip_grad_norm_(trainer.parameters, 1e9),
        "AdamW": lambda: trainer.optimizer.step(),
        "EMA": lambda: trainer.model.update_target_encoder(0, progress=0.5),
        "logging, per step": lambda: _log(trainer, images),
    }
    found = {name: statistics.median([seconds(each, device) for _ in range(9)]) for name, each in work.items()}
    found["logging, per step"] /= _INTERVAL
    return found


def _log(trainer: Trainer, images: torch.Tensor) -> None:
    """Take the losses of one log interval and write a line, as the loop does."""
    trainer.pending = [torch.zeros(len(trainer.terms))] * _INTERVAL
    losses = trainer.take_losses(last_good="none")
    with tempfile.TemporaryDirectory() as folder:
        logs = open_logs(Path(folder), trainer.settings.diagnostics)
        logs.write({"step": trainer.step, "losses": losses, "images": len(images)})
        logs.close()


def gpu_speed(device: torch.device) -> list[dict[str, Any]]:
    """Measure `cifar10_h100` on a GPU: images per second, model FLOP utilisation, and the time outside kernels."""
    settings = settings_of("cifar10_h100")
    trainer = make_trainer(settings, device, compiled=True)
    batch = settings.train.batch_size
    took = statistics.median(step_times({"step": trainer}, device, turns=30)["step"])
    peak = matmul_peak(device, "bf16")
    gflop = step_gflop(trainer)
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        wall = seconds(lambda: [trainer.train_step(0.5) for _ in range(10)], device)
    events = [e for e in seen.key_averages() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    kernels = sum(event.self_device_time_total for event in events) / 1e6
    return [
        row("cifar10_h100: images/s", batch / took, "", f"median of 30 compiled steps of {batch}"),
        row(
            "cifar10_h100: MFU against 989 TFLOP/s",
            gflop / 1e3 / took / 989,
            ">= 30 %",
            f"measured peak {peak:.0f} TFLOP/s",
        ),
        row("cifar10_h100: share of time outside kernels", 1 - kernels / wall, "<= 5 %", "profiler over 10 steps"),
    ]


SECTIONS: dict[str, Callable[[torch.device], list[dict[str, Any]]]] = {
    "document": drop_against_document,
    "masks": masks_against_step,
    "preset": preset_speed,
    "gpu": gpu_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, help="sections to measure; the others stay as they are")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    names = arguments.only or [name for name in SECTIONS if (name == "gpu") == (device.type == "cuda")]
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"sections": {}}
    for name in names:
        rows = SECTIONS[name](device)
        found["sections"][name] = {
            "rows": rows,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
            "versions": package_versions(),
        }
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
        for each in rows:
            print(f"{each['measure']}: {each['value']:.3g} (bar {each['bar'] or 'none'}; {each['note']})")


if __name__ == "__main__":
    main()
