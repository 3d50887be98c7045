"""Filling: an encoder runs over the images that stores lack, together with any other process that does the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from hjepa_eval.datasets.augment import View
from hjepa_eval.datasets.images import Batch, load_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.encoders.inference import Features, Inference
from hjepa_eval.features import store as stores
from hjepa_eval.features.assembly import Assembly
from hjepa_eval.features.claims import claim, this_process
from hjepa_eval.features.manifest import Manifest
from hjepa_eval.features.store import Range, StoreWriter

Progress = Callable[[int, int], None]
Say = Callable[[str], None]

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ExtractSettings:
    """How to extract; all of it that changes a feature beyond rounding is part of a store's key.

    Attributes:
        device: where the encoder runs.
        precision: `bf16` or `fp32`, of the forward pass.
        batch_size: images per forward pass.
        workers: decoding threads.
        max_samples: only the first so many images of the dataset's balanced order; None for all.
        on_bad_image: `error` or `skip`.
        storage: `float32` or `float16`, of the features on disk.
        compile: `on`, `off`, or `auto`: as the store was begun, else on when the images repay the compilation.
        rank: number of this process among those that were started together, from 0.
        world_size: how many they are.
    """

    device: torch.device
    precision: str
    batch_size: int = 256
    workers: int = 2
    max_samples: int | None = None
    on_bad_image: str = "error"
    storage: Literal["float32", "float16"] = "float32"
    compile: Literal["on", "off", "auto"] = "off"
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Pass:
    """One forward pass: what it reads, and the store of each readout that it fills."""

    encoder: EncoderHandle
    dataset: ImageDataset
    settings: ExtractSettings
    view: View | None
    compiled: bool
    manifests: Mapping[str, Manifest]
    folders: Mapping[str, Path]
    say: Say
    progress: Progress


def fill(work: Pass) -> int:
    """Fill the stores of a pass together with all other processes that do the same; return how many images were mine.

    Raises:
        DataError: an image cannot be read and is not to be skipped; finished shards stay.
        CompileError: the pass is to be compiled and cannot be; nothing was written.
        EncoderError: the encoder returns another shape than it declares.
        StoreError: the cache cannot be written; finished shards stay.
    """
    writers = {name: StoreWriter(work.folders[name], manifest) for name, manifest in work.manifests.items()}
    settings = work.settings
    owner = this_process(settings.rank, settings.world_size)
    total, done = _missing_images(writers), 0
    inference = Inference(
        work.encoder.build(),
        list(writers),
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=work.compiled,
    )
    waiting = False
    try:
        while units := _units(writers):
            before = done
            for unit in _own_order(units, settings):
                lacking = [writer.folder for writer in writers.values() if _lacks(writer, unit)]
                with claim(lacking, unit.file.removesuffix(".safetensors"), owner=owner, say=work.say) as mine:
                    if not mine:
                        continue
                    _refresh(writers)
                    report = partial(_report, work, total - _missing_images(writers), total)
                    done += _run(work, inference, writers, unit, report)
            _refresh(writers)
            if done == before and _units(writers):
                if not waiting:
                    work.say(f"waiting for another hjepa that fills {next(iter(work.folders.values()))}")
                waiting = True
                time.sleep(_POLL_SECONDS)
    finally:
        inference.close()
    return done


def _report(work: Pass, before: int, total: int, seen: int) -> None:
    work.progress(before + seen, total)


def _lacks(writer: StoreWriter, unit: Range) -> bool:
    return any(unit.start <= part.start < unit.stop for part in writer.missing)


def _refresh(writers: Mapping[str, StoreWriter]) -> None:
    for writer in writers.values():
        writer.refresh()


def _units(writers: Mapping[str, StoreWriter]) -> list[Range]:
    """Return the ranges that processes claim, as long as the largest shard, those in which a shard is missing."""
    num_images = next(iter(writers.values())).manifest.num_images
    units = stores.shard_ranges(num_images, stores.SHARD_SIZE)
    return [unit for unit in units if any(_lacks(writer, unit) for writer in writers.values())]


def _missing_images(writers: Mapping[str, StoreWriter]) -> int:
    return sum(unit.stop - unit.start for unit in _units(writers))


def _own_order(units: Sequence[Range], settings: ExtractSettings) -> list[Range]:
    """Return the units with this rank's own share first, then those of the others from their ends."""
    own = units[settings.rank :: settings.world_size]
    return [*own, *(unit for unit in reversed(units) if unit not in own)]


def _run(
    work: Pass, inference: Inference, writers: Mapping[str, StoreWriter], unit: Range, report: Callable[[int], None]
) -> int:
    """Run the encoder over what is missing in one unit; return the number of images.

    Batches are cut from the unit, not from what is missing, so that a shard that is done again has the same bytes.
    """
    assemblies = {name: Assembly(writer, unit) for name, writer in writers.items()}
    settings = work.settings
    grid = [
        range(start, min(start + settings.batch_size, unit.stop))
        for start in range(unit.start, unit.stop, settings.batch_size)
    ]
    parts = [part for part in grid if any(assembly.wants(part) for assembly in assemblies.values())]
    batches = load_batches(
        work.dataset,
        work.encoder.transform,
        parts,
        workers=settings.workers,
        skip_bad=settings.on_bad_image == "skip",
        pin=settings.device.type == "cuda",
    )
    seen = 0
    for images, index, skipped, features in _one_behind(work, inference, parts, batches):
        for name, assembly in assemblies.items():
            levels = [level.cpu().numpy() for level in features[name]]
            assembly.add(images, index, work.dataset.labels[index], levels, skipped)
        seen += len(images)
        report(seen)
    return seen


def _one_behind(
    work: Pass, inference: Inference, parts: Sequence[range], batches: Iterator[Batch]
) -> Iterator[tuple[range, list[int], dict[int, str], Features]]:
    """Yield each batch's features when the encoder has the next batch already, so that no CUDA device waits."""
    previous = None
    for part, (images, index, skipped) in zip(parts, batches, strict=True):
        inputs = images if work.view is None or not index else work.view.apply(images.to(inference.device), index)
        current = part, index, skipped, inference(inputs)
        if previous is not None:
            yield previous
        previous = current
    if previous is not None:
        yield previous
