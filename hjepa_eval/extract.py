"""Extraction: one forward pass over a dataset fills a feature store per readout with every level.

Any number of processes may fill the same stores: each claims a range of images that nobody works on, so they split the
work, and the stores come out the same, byte for byte, as from one process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa_eval.datasets.augment import View
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.filling import ExtractSettings, Pass, Progress, Say, fill
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.encoders.inference import can_compile, compiling_pays
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.readouts import get_readout
from hjepa_eval.errors import CompileError, DataError, StoreError, first_few
from hjepa_eval.features.cache import store_folder
from hjepa_eval.features.claims import finishing
from hjepa_eval.features.manifest import MANIFEST, Manifest, StoredLevel
from hjepa_eval.features.store import FeatureStore, StoreWriter

__all__ = ["ExtractSettings", "Extraction", "describe", "extract"]


@dataclass(frozen=True)
class Extraction:
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
    settings: ExtractSettings,
    view: View | None = None,
    *,
    compiled: bool = False,
) -> Manifest:
    """Return the manifest, still without shards, of the store that an extraction of a view, or plain, would fill.

    Raises:
        UnknownNameError: there is no such readout.
    """
    reader = get_readout(readout)
    identity: dict[str, Any] = {
        "dataset": {"fingerprint": dataset.fingerprint, "split": dataset.split},
        "encoder": encoder.identity,
        "precision": settings.precision,
        "readout": readout,
        "storage": settings.storage,
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
            StoredLevel(level.index, level.name, reader.width(level), level.grid, level.tokens)
            for level in encoder.levels
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
    settings: ExtractSettings,
    view: View | None = None,
    repair: bool = True,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Extraction]:
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

    def plan(compiled: bool) -> Pass:
        manifests = {name: describe(handle, dataset, name, settings, view, compiled=compiled) for name in readouts}
        folders = {name: store_folder(cache_dir, manifest) for name, manifest in manifests.items()}
        return Pass(handle, dataset, settings, view, compiled, manifests, folders, say or _silent, progress or _silent)

    eager = plan(False)
    modes = {"off": [eager], "on": [plan(True)], "auto": [eager, plan(True)]}[settings.compile]
    images = 0
    complete = next((found for mode in modes if (found := _all_complete(mode, repair))), None)
    if complete is None:
        try:
            chosen = _choose(modes)
            images = fill(chosen)
        except CompileError as error:
            if settings.compile != "auto":
                raise
            eager.say(f"the encoder runs without torch.compile: {error}")
            chosen = eager
            images = fill(chosen)
        complete = {name: _finish(chosen, name) for name in readouts}
    for store in complete.values():
        _check_skipped(store, settings)
    seconds, limit = time.perf_counter() - started, next(iter(eager.manifests.values())).num_images
    return {name: Extraction(complete[name], limit, images, seconds) for name in readouts}


def _silent(*_: object) -> None:
    """Say and show nothing."""


def _check_skipped(store: FeatureStore, settings: ExtractSettings) -> None:
    skipped = store.manifest.skipped
    if skipped and settings.on_bad_image == "error":
        raise DataError(
            f"{len(skipped)} images were skipped when {store.folder} was made: {first_few(skipped, 3)}; "
            "mend them, or accept it with --on-bad-image skip"
        )


def _all_complete(mode: Pass, repair: bool) -> dict[str, FeatureStore] | None:
    """Return the stores of a pass when all of them are whole."""
    found = {}
    for name, manifest in mode.manifests.items():
        store = _complete(mode.folders[name], manifest, repair, mode.say)
        if store is None:
            return None
        found[name] = store
    return found


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


def _choose(modes: Sequence[Pass]) -> Pass:
    """Return the pass to run: the only one, or the one that was begun, or the compiled one if the images repay it."""
    if len(modes) == 1:
        return modes[0]
    for mode in modes:
        if any(any(folder.glob("*.safetensors")) for folder in mode.folders.values()):
            return mode
    from hjepa_eval.encoders.costs import encoder_costs

    eager, compiled = modes
    images = next(iter(eager.manifests.values())).num_images
    gflop = images * encoder_costs(eager.encoder.build()).together.gflop
    if not compiling_pays(gflop, device=eager.settings.device, precision=eager.settings.precision):
        return eager
    if not can_compile(eager.settings.device):
        eager.say("the encoder runs without torch.compile: there is no compiler for it on this machine")
        return eager
    return compiled


def _finish(work: Pass, readout: str) -> FeatureStore:
    """Return the finished store; of several processes one writes the manifest."""
    folder, manifest = work.folders[readout], work.manifests[readout]
    with finishing(folder):
        store = _complete(folder, manifest, True, None)
        return store if store is not None else StoreWriter(folder, manifest).finish()
