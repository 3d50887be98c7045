"""Extraction: one forward pass over a dataset fills a feature store per readout with every level."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from hjepa_eval.datasets.augment import View
from hjepa_eval.datasets.images import image_batches
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.encoders.readouts import get_readout
from hjepa_eval.errors import DataError, StoreError, first_few
from hjepa_eval.features.cache import store_folder
from hjepa_eval.features.manifest import MANIFEST, Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore, Range, StoreWriter

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExtractSettings:
    """How to extract; none of it but `precision` changes a feature beyond rounding.

    Attributes:
        device: where the encoder runs.
        precision: `bf16` or `fp32`.
        batch_size: images per forward pass.
        workers: decoding threads.
        max_samples: only the first so many images of the dataset's balanced order; None for all.
        on_bad_image: `error` or `skip`.
    """

    device: torch.device
    precision: str
    batch_size: int = 256
    workers: int = 2
    max_samples: int | None = None
    on_bad_image: str = "error"


@dataclass(frozen=True)
class Extraction:
    """A complete store, and what it took to get it.

    Attributes:
        store: opened for reading.
        limit: images asked for; the store may hold more.
        images: images that went through the encoder now; 0 when the cache had all.
        seconds: wall time.
    """

    store: FeatureStore
    limit: int
    images: int
    seconds: float


def describe(
    encoder: Encoder, dataset: ImageDataset, readout: str, settings: ExtractSettings, view: View | None = None
) -> Manifest:
    """Return the manifest, still without shards, of the store that an extraction of a view, or plain, would fill.

    Raises:
        UnknownNameError: there is no such readout.
    """
    reader = get_readout(readout)
    identity = {
        "dataset": {"fingerprint": dataset.fingerprint, "split": dataset.split},
        "encoder": encoder.identity(),
        "precision": settings.precision,
        "readout": readout,
        "storage": "float32",
    }
    if view is not None:
        identity["view"] = view.identity()
    wanted = len(dataset) if settings.max_samples is None else min(settings.max_samples, len(dataset))
    return Manifest(
        identity=identity,
        encoder=encoder.name,
        dataset=dataset.name,
        split=dataset.split,
        readout=readout,
        levels=tuple(
            StoredLevel(level.index, level.name, reader.width(level), level.grid, level.tokens)
            for level in encoder.levels
        ),
        class_names=dataset.class_names,
        dataset_size=len(dataset),
        num_images=wanted,
        notes=dataset.notes,
    )


def extract(
    encoder: Encoder,
    dataset: ImageDataset,
    *,
    readouts: Sequence[str],
    cache_dir: Path,
    settings: ExtractSettings,
    view: View | None = None,
    repair: bool = True,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Extraction]:
    """Return one complete store per readout, running the encoder only over images that a store lacks.

    Args:
        encoder: on any device; it is moved to the settings' device.
        dataset: one split.
        readouts: names from `READOUTS`; all of them come from the same forward pass.
        cache_dir: where stores lie.
        settings: how to extract.
        view: crop and mirror the images before they go in; None takes them as they are.
        repair: redo the damaged shards of a finished store; otherwise they are an error.
        progress: called with (images done, images to do) after each batch.
        say: told in words about damage that is repaired, and about waiting for another process.

    Raises:
        DataError: an image cannot be read and `on_bad_image` is `error`; finished shards stay.
        EncoderError: the encoder returns another shape than it declares.
        StoreError: the cache cannot be written, or a store is damaged and `repair` is false; finished shards stay.
    """
    say = say or (lambda message: None)
    started = time.perf_counter()
    manifests = {readout: describe(encoder, dataset, readout, settings, view) for readout in readouts}
    folders = {readout: store_folder(cache_dir, manifest) for readout, manifest in manifests.items()}
    stores = {readout: _complete(folders[readout], manifests[readout], repair, say) for readout in readouts}
    images = 0
    if None in stores.values():
        with ExitStack() as locks:
            for folder in sorted(folders.values()):
                locks.enter_context(_lock(folder, say))
            # Another process may have finished while this one waited.
            stores = {readout: _complete(folders[readout], manifests[readout], repair, None) for readout in readouts}
            lacking = [readout for readout, store in stores.items() if store is None]
            writers = {readout: StoreWriter(folders[readout], manifests[readout]) for readout in lacking}
            images = _fill(encoder, dataset, writers, settings, view, progress)
            stores.update({readout: writer.finish() for readout, writer in writers.items()})
    seconds = time.perf_counter() - started
    limit = next(iter(manifests.values())).num_images
    found = {readout: store for readout, store in stores.items() if store is not None}
    for store in found.values():
        _check_skipped(store, settings)
    return {readout: Extraction(found[readout], limit, images, seconds) for readout in readouts}


def _check_skipped(store: FeatureStore, settings: ExtractSettings) -> None:
    skipped = store.manifest.skipped
    if skipped and settings.on_bad_image == "error":
        raise DataError(
            f"{len(skipped)} images were skipped when {store.folder} was made: {first_few(skipped, 3)}; "
            "mend them, or accept it with --on-bad-image skip"
        )


@contextmanager
def _lock(folder: Path, say: Say) -> Iterator[None]:
    """Hold a store's lock; wait, and say so, while another process fills it."""
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another hjepa that is filling {folder}")
            lock.acquire()
    except OSError as error:
        raise StoreError(
            f"cannot write the cache folder {folder.parent}: {error.strerror}; "
            "choose another with --cache-dir or HJEPA_CACHE"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _complete(folder: Path, manifest: Manifest, repair: bool, say: Say | None) -> FeatureStore | None:
    """Return the store in `folder` when it is whole, of this key, and holds at least what `manifest` wants."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        store = FeatureStore(folder)
    except StoreError as error:
        if not repair:
            raise
        if say is not None:
            say(f"repairing: {str(error).partition('; run')[0]}")
        return None
    fits = store.manifest.key == manifest.key and store.manifest.num_images >= manifest.num_images
    return store if fits else None


def _fill(
    encoder: Encoder,
    dataset: ImageDataset,
    writers: Mapping[str, StoreWriter],
    settings: ExtractSettings,
    view: View | None,
    progress: Progress | None,
) -> int:
    """Run the encoder over every range that a writer misses; return the number of images."""
    missing = sorted({part for writer in writers.values() for part in writer.missing}, key=lambda part: part.start)
    total = sum(part.stop - part.start for part in missing)
    done = 0
    encoder.to(settings.device).eval()
    try:
        for part in missing:
            wanting = {readout: writer for readout, writer in writers.items() if part in writer.missing}

            def report(images: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + images, total)

            features, index, skipped = _forward(encoder, dataset, part, list(wanting), settings, view, report)
            labels = dataset.labels[index]
            for readout, writer in wanting.items():
                writer.write(part, {**features[readout], "labels": labels, "index": index}, skipped)
            done += part.stop - part.start
    finally:
        encoder.to("cpu")
    return done


def _forward(
    encoder: Encoder,
    dataset: ImageDataset,
    part: Range,
    readouts: Sequence[str],
    settings: ExtractSettings,
    view: View | None,
    report: Callable[[int], None],
) -> tuple[dict[str, dict[str, npt.NDArray[np.float32]]], npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the features of one shard by readout and level, the indices kept, and what was skipped."""
    gathered: dict[str, list[list[Tensor]]] = {readout: [[] for _ in encoder.levels] for readout in readouts}
    index: list[int] = []
    skipped: list[str] = []
    batches = image_batches(
        dataset,
        encoder.transform,
        indices=range(part.start, part.stop),
        batch_size=settings.batch_size,
        workers=settings.workers,
        skip_bad=settings.on_bad_image == "skip",
    )
    seen = 0
    for images, kept, reasons in batches:
        index += kept
        skipped += reasons
        if kept:
            inputs = images if view is None else view.apply(images.to(settings.device), kept)
            for readout, levels in encode(encoder, inputs, readouts, settings).items():
                for place, features in zip(gathered[readout], levels, strict=True):
                    place.append(features)
        seen += len(kept) + len(reasons)
        report(seen)
    arrays = {
        readout: {
            f"level{level.index}": _stack(parts, get_readout(readout).width(level))
            for level, parts in zip(encoder.levels, places, strict=True)
        }
        for readout, places in gathered.items()
    }
    return arrays, np.asarray(index, dtype=np.int64), tuple(skipped)


def _stack(parts: Sequence[Tensor], width: int) -> npt.NDArray[Any]:
    return torch.cat(list(parts)).numpy() if parts else np.empty((0, width), dtype=np.float32)


@torch.inference_mode()
def encode(
    encoder: Encoder, images: Tensor, readouts: Sequence[str], settings: ExtractSettings
) -> dict[str, list[Tensor]]:
    """Return float32 features `[B, F]` on the CPU by readout, one per level, for uint8 images `[B, 3, S, S]`.

    Raises:
        EncoderError: the encoder returns another shape than it declares.
    """
    batch = encoder.transform.normalise(images.to(settings.device, non_blocking=True))
    with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        outputs = encoder(batch)
    check_outputs(encoder, outputs, len(images))
    return {
        readout: [
            get_readout(readout).read(tokens.float(), level).cpu()
            for tokens, level in zip(outputs, encoder.levels, strict=True)
        ]
        for readout in readouts
    }
