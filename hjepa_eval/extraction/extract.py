"""Extraction: one forward pass over a dataset fills a feature store per readout with every level.

Any number of processes may fill the same stores: each claims a range of images that nobody works on, so they split the
work, and the stores come out the same, byte for byte, as from one process.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.encoders.readouts import check_readout, level_widths
from hjepa_eval.errors import CompileError, DataError, StoreError, first_few
from hjepa_eval.extraction.passes import Compute, Pass, Progress
from hjepa_eval.features.cache import has_store_of_before, store_folder
from hjepa_eval.features.claims import Say, filling, finishing, present, stay
from hjepa_eval.features.manifest import MANIFEST, Manifest, StoredLevel, read_manifest, shard_span, write_manifest
from hjepa_eval.features.names import write_names
from hjepa_eval.features.shards import superseded
from hjepa_eval.features.store import FeatureStore
from hjepa_eval.features.writer import StoreWriter

if TYPE_CHECKING:
    from hjepa_eval.datasets.transform import View
    from hjepa_eval.encoders.protocol import Encoder

__all__ = ["Compute", "ExtractedStores", "describe", "extract"]


@dataclass(frozen=True)
class ExtractedStores:
    """A complete store, and what it took to get it.

    Attributes:
        store: opened for reading.
        limit: images asked for; the store may hold more.
        images: images that went through the encoder now, in this process; 0 when the cache had all.
        seconds: wall time.
    """

    store: FeatureStore
    limit: int
    images: int
    seconds: float


def describe(
    encoder: EncoderHandle,
    dataset: ImageDataset,
    readout: str,
    settings: Compute,
    view: View | None = None,
    *,
    compiled: bool = False,
) -> Manifest:
    """Return the manifest, still without shards, of the store that an extraction of a view, or plain, would fill.

    Raises:
        UnknownNameError: there is no such readout.
        EncoderError: the encoder's levels lack what the readout reads.
    """
    check_readout(readout, encoder.levels)
    widths = level_widths(readout, encoder.levels)
    identity: dict[str, Any] = {
        "dataset": {"fingerprint": dataset.fingerprint, "split": dataset.split},
        "encoder": encoder.identity,
        "precision": settings.precision,
        "readout": readout,
        "storage": settings.token_storage if readout == "tokens" else settings.storage,
    }
    if view is not None:
        identity["view"] = view.identity()
    if compiled:
        identity["compiled"] = True
    wanted = len(dataset) if settings.max_samples is None else min(settings.max_samples, len(dataset))
    return Manifest(
        identity=identity,
        encoder=encoder.name,
        dataset=dataset.name,
        split=dataset.split,
        readout=readout,
        levels=tuple(
            StoredLevel(level.index, level.name, width, level.grid, level.tokens)
            for level, width in zip(encoder.levels, widths, strict=True)
        ),
        class_names=dataset.class_names,
        dataset_size=len(dataset),
        num_images=wanted,
        notes=dataset.notes,
    )


def extract(
    encoder: Encoder | EncoderHandle,
    dataset: ImageDataset,
    *,
    readouts: Sequence[str],
    cache_dir: Path,
    settings: Compute,
    view: View | None = None,
    repair: bool = True,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, ExtractedStores]:
    """Return one complete store per readout, running the encoder only over images that a store lacks.

    Args:
        encoder: on any device; it is moved to the settings' device. A handle is built only when a store lacks images.
        dataset: one split.
        readouts: names from `READOUTS`; all of them come from the same forward pass.
        cache_dir: where stores lie.
        settings: how to extract.
        view: crop and mirror the images before they go in; None takes them as they are.
        repair: redo the damaged shards of a finished store; otherwise they are an error.
        progress: called with (images done, images to do) after each batch.
        say: told in words about damage that is repaired, other processes, and an encoder that cannot be compiled.

    Raises:
        DataError: an image cannot be read and `on_bad_image` is `error`; finished shards stay.
        EncoderError: the encoder returns another shape than it declares, or cannot be compiled with `compile` on.
        StoreError: the cache cannot be written, or a store is damaged and `repair` is false; finished shards stay.
    """
    started = time.perf_counter()
    handle = encoder if isinstance(encoder, EncoderHandle) else EncoderHandle.of(encoder)
    modes = [
        _plan(handle, dataset, readouts, cache_dir, settings, view, compiled, say or _silent, progress or _silent)
        for compiled in {"off": (False,), "on": (True,), "auto": (False, True)}[settings.compile]
    ]
    limit = len(dataset) if settings.max_samples is None else min(settings.max_samples, len(dataset))
    with ExitStack() as here:
        for folder in {folder for mode in modes for folder in mode.folders.values()}:
            here.callback(stay(folder))
        finished = [_complete(mode, repair) for mode in modes]
        complete, images = next((part for part in finished if part.keys() == modes[0].manifests.keys()), None), 0
        if complete is None:
            _say_if_of_before(modes[0])
            complete, images = _make(modes, finished)
        seconds = time.perf_counter() - started
        for store in complete.values():
            _check_skipped(store, limit, settings)
            check_labels(store, dataset, limit)
        named = {name: _with_names(store, dataset) for name, store in complete.items()}
        for store in named.values():
            # Others may not remove it, or a shard of it, as long as it is read.
            weakref.finalize(store, _part_from, store.folder, stay(store.folder))
    return {name: ExtractedStores(named[name], limit, images, seconds) for name in readouts}


def _say_if_of_before(work: Pass) -> None:
    """Say why stored features are not used that only the preparation of images tells from these."""
    if any(has_store_of_before(work.folders[name], manifest) for name, manifest in work.manifests.items()):
        work.say(
            f"{work.encoder.name}, {work.dataset.name} {work.dataset.split}: features of before are not used, since "
            "images are now resized as torchvision does; hjepa cache ls shows them, hjepa cache rm KEY removes them"
        )


def _silent(*_: object) -> None:
    """Say and show nothing."""


def _plan(
    encoder: EncoderHandle,
    dataset: ImageDataset,
    readouts: Sequence[str],
    cache_dir: Path,
    settings: Compute,
    view: View | None,
    compiled: bool,
    say: Say,
    progress: Progress,
) -> Pass:
    manifests = {name: describe(encoder, dataset, name, settings, view, compiled=compiled) for name in readouts}
    folders = {name: store_folder(cache_dir, manifest) for name, manifest in manifests.items()}
    # A finished store that is longer stays so when it is repaired.
    manifests = {
        name: replace(manifest, num_images=max(manifest.num_images, finished_images(folders[name], manifest)))
        for name, manifest in manifests.items()
    }
    return Pass(encoder, dataset, settings, view, compiled, manifests, folders, say, progress)


def finished_images(folder: Path, manifest: Manifest) -> int:
    """Return how many images the finished store in a folder is of, damaged or not; 0 when there is none of this key."""
    try:
        known = read_manifest(folder)
    except StoreError:
        return 0
    return known.num_images if known.key == manifest.key else 0


def _check_skipped(store: FeatureStore, limit: int, settings: Compute) -> None:
    skipped = min(limit, store.manifest.num_images) - len(store.index(limit=limit)) if store.manifest.skipped else 0
    if skipped and settings.on_bad_image == "error":
        raise DataError(
            f"{skipped} images were skipped when {store.folder} was made: "
            f"{first_few(store.manifest.skipped[:skipped], 3)}; mend them, or accept it with --on-bad-image skip"
        )


def check_labels(store: FeatureStore, dataset: ImageDataset, limit: int) -> None:
    """Check that a store has the labels of the data set: its key is made of the fingerprint, which a memo may give."""
    if not np.array_equal(store.labels(limit=limit), dataset.labels[store.index(limit=limit)]):
        key = store.manifest.key[:16]
        raise StoreError(
            f"{store.folder} has other labels than {dataset.name}: it was made when what is remembered of the data set "
            f"was damaged; remove it with: hjepa cache rm {key}, and run the same command again"
        )


def _part_from(folder: Path, leave: Callable[[], None]) -> None:
    """End the use of a store; the last to leave removes shards that a longer run has put into others."""
    leave()
    with contextlib.suppress(StoreError, OSError):
        if not filling(folder):
            for file in superseded(folder, read_manifest(folder).shards):
                file.unlink(missing_ok=True)


def _complete(mode: Pass, repair: bool) -> dict[str, FeatureStore]:
    """Return the stores of a pass that are whole and hold what is wanted, by readout.

    Raises:
        StoreError: one is damaged and not to be repaired.
    """
    found = {}
    for name, manifest in mode.manifests.items():
        folder = mode.folders[name]
        if not (folder / MANIFEST).exists():
            continue
        try:
            store = FeatureStore(folder)
        except StoreError as error:
            if not repair:
                raise
            mode.say(f"repairing: {str(error).partition('; run')[0]}")
            continue
        if store.manifest.key == manifest.key and store.manifest.num_images >= manifest.num_images:
            found[name] = store
    return found


def _make(modes: Sequence[Pass], complete: Sequence[dict[str, FeatureStore]]) -> tuple[dict[str, FeatureStore], int]:
    """Return the stores of one of the passes, and how many images went through the encoder here."""
    work = _choose(modes)
    try:
        return _fill(work, complete[modes.index(work)])
    except CompileError as error:
        if len(modes) == 1:
            raise
        work.say(f"the encoder runs without torch.compile: {str(error).partition('; take')[0]}")
        return _fill(modes[0], complete[0])


def _fill(work: Pass, complete: dict[str, FeatureStore]) -> tuple[dict[str, FeatureStore], int]:
    # Its imports take seconds, which who reads a complete store need not wait for.
    from hjepa_eval.extraction.filling import fill

    lacking = [name for name in work.manifests if name not in complete]
    with present([work.folders[name] for name in lacking]):
        writers, images = fill(work, lacking)
        return {**complete, **{name: _finish(writer, work.dataset) for name, writer in writers.items()}}, images


def _finish(writer: StoreWriter, dataset: ImageDataset) -> FeatureStore:
    """Return the finished store; another process may have finished it, or a longer one, meanwhile."""
    with finishing(writer.folder):
        if finished_images(writer.folder, writer.manifest) > writer.manifest.num_images:
            return FeatureStore(writer.folder, verify=False)
        return writer.finish(_names(dataset, writer.manifest.num_images))


def _names(dataset: ImageDataset, count: int) -> list[str]:
    return [dataset.source_name(index) for index in range(count)]


def _with_names(store: FeatureStore, dataset: ImageDataset) -> FeatureStore:
    """Return a store that says where its images come from: one of before learns it, where it can be written."""
    if store.manifest.names is not None:
        return store
    with contextlib.suppress(OSError), finishing(store.folder):
        manifest = read_manifest(store.folder)
        if manifest.names is None:  # Another process may have written them meanwhile.
            named = write_names(store.folder, _names(dataset, manifest.num_images))
            write_manifest(store.folder, replace(manifest, names=named))
        return FeatureStore(store.folder, verify=False)
    return store


def _choose(modes: Sequence[Pass]) -> Pass:
    """Return the pass to run: the only one, or the compiled one if it was begun so or what is left repays it.

    Raises:
        CompileError: only the compiled one is wanted, and nothing here can compile.
    """
    import torch

    from hjepa_eval.encoders.costs import encoder_costs
    from hjepa_eval.extraction.inference import can_compile, compiling_pays

    eager, compiled = modes[0], modes[-1]
    if len(modes) == 1 and not eager.compiled:
        return eager
    device = torch.device(eager.settings.device)
    if not can_compile(device):
        missing = f"there is no compiler for {device.type} on this machine"
        if len(modes) == 1:
            raise CompileError(f"--compile on: {missing}; install one (g++, or triton for CUDA), or take --compile off")
        if _begun(compiled) == 0:
            return eager
        eager.say(f"the encoder runs without torch.compile, though these features were begun with it: {missing}")
        return eager
    if len(modes) == 1 or _begun(compiled):
        return compiled
    wanted = max(manifest.num_images for manifest in eager.manifests.values())
    gflop = encoder_costs(eager.encoder.build()).together.gflop / eager.settings.world_size
    left = max(0, wanted - _begun(eager))
    pays = compiling_pays(
        eager=gflop * left, compiled=gflop * wanted, device=device, precision=eager.settings.precision
    )
    return compiled if pays else eager


def _begun(work: Pass) -> int:
    """Return how many images the shards on disk hold, of the store that has the fewest."""
    counts = []
    for folder in work.folders.values():
        spans = [shard_span(file.name) for file in folder.glob("*.safetensors")]
        counts.append(sum(span[1] - span[0] for span in spans if span is not None))
    return min(counts)
