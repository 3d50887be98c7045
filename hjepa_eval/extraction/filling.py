"""Filling: an encoder runs over the images that stores lack, together with any other process that does the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch

from hjepa_eval.datasets.images import Batch, load_batches
from hjepa_eval.errors import CompileError, DataError
from hjepa_eval.extraction.inference import Features, Inference
from hjepa_eval.extraction.passes import Compute, Pass
from hjepa_eval.features import manifest as ranges
from hjepa_eval.features.claims import claim, this_process
from hjepa_eval.features.manifest import Range
from hjepa_eval.features.writer import StoreWriter, check_small


class Assembly:
    """Fills the missing shards within one range of a store, in order, holding one shard in memory at a time."""

    def __init__(self, writer: StoreWriter, within: Range) -> None:
        """Look which shards of `writer` inside `within` are missing."""
        self._writer = writer
        self._missing = [part for part in writer.missing if within.start <= part.start < within.stop]
        self._levels: list[npt.NDArray] = []
        self._labels: list[npt.NDArray[np.int64]] = []
        self._index: list[int] = []
        self._skipped: list[str] = []

    def wants(self, images: range) -> bool:
        """Tell whether a missing shard holds any of these images."""
        return any(part.start < images.stop and images.start < part.stop for part in self._missing)

    def add(
        self,
        images: range,
        index: Sequence[int],
        labels: npt.NDArray[np.int64],
        levels: Sequence[npt.NDArray[np.float32]],
        skipped: Mapping[int, str],
    ) -> None:
        """Take in one batch, and write every shard that it completes.

        Args:
            images: places in the dataset's order that the batch stands for; batches come in rising order.
            index: those of them that could be read, rising, `[B]`.
            labels: int64 `[B]`.
            levels: float32 `[B, D_l]`, finest first.
            skipped: why the others could not be read, by place.

        Raises:
            StoreError: a shard cannot be written; finished shards stay.
        """
        while self._missing and self._missing[0].start < images.stop:
            part = self._missing[0]
            first, last = np.searchsorted(index, [part.start, part.stop])
            self._copy(part, len(self._index), [level[first:last] for level in levels])
            self._index += index[first:last]
            self._labels.append(labels[first:last])
            self._skipped += [reason for place, reason in skipped.items() if part.start <= place < part.stop]
            if images.stop < part.stop:
                return
            self._write(part)

    def _copy(self, part: Range, start: int, rows: Sequence[npt.NDArray[np.float32]]) -> None:
        manifest = self._writer.manifest
        if not self._levels:
            size = part.stop - part.start
            self._levels = [np.empty((size, level.width), manifest.storage) for level in manifest.levels]
        for stored, level, features in zip(self._levels, manifest.levels, rows, strict=True):
            if manifest.storage == "float16":
                check_small(features, level=level.index, where=str(part.file))
            # A value too large for float16 becomes infinite, which the writer refuses.
            with np.errstate(over="ignore"):
                stored[start : start + len(features)] = features

    def _write(self, part: Range) -> None:
        count = len(self._index)
        levels = {
            f"level{level.index}": rows[:count]
            for level, rows in zip(self._writer.manifest.levels, self._levels, strict=True)
        }
        columns = {"labels": np.concatenate(self._labels), "index": np.asarray(self._index, dtype=np.int64)}
        self._writer.write(part, {**levels, **columns}, tuple(self._skipped))
        self._missing.pop(0)
        self._levels, self._labels, self._index, self._skipped = [], [], [], []


_POLL_SECONDS = 0.2


def fill(work: Pass, readouts: Sequence[str]) -> tuple[dict[str, StoreWriter], int]:
    """Fill stores of a pass together with all other processes that do the same.

    Returns:
        Writers, by readout, that lack nothing any more, and how many images went through the encoder here.

    Raises:
        DataError: an image cannot be read and is not to be skipped; finished shards stay.
        CompileError: the pass is to be compiled and cannot be; nothing was written.
        EncoderError: the encoder returns another shape than it declares.
        StoreError: the cache cannot be written; finished shards stay.
    """
    settings = work.settings
    writers = {name: StoreWriter(work.folders[name], work.manifests[name]) for name in readouts}
    owner = this_process(settings.rank, settings.world_size)
    total, done = _missing_images(writers), 0
    inference = Inference(
        work.encoder.build(),
        list(writers),
        device=torch.device(settings.device),
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=work.compiled,
    )
    work.progress(0, total)  # From here on it is the images that take time.
    say = cache(work.say)  # Several stores lose the same owner; that is said once.
    try:
        while units := _units(writers):
            before = done
            for unit in _own_order(units, settings):
                lacking = [writer.folder for writer in writers.values() if _lacks(writer, unit)]
                with claim(lacking, unit.file.removesuffix(".safetensors"), owner=owner, say=say) as mine:
                    if not mine:
                        continue
                    _refresh(writers)
                    report = partial(_report, work, total - _missing_images(writers), total)
                    done += _run(work, inference, writers, unit, report)
            _refresh(writers)
            if done == before and _units(writers):
                say(f"waiting for another hjepa that fills {next(iter(work.folders.values()))}")
                time.sleep(_POLL_SECONDS)
    except DataError as error:
        raise DataError(f"{error}; mend it, or leave such images out with --on-bad-image skip") from None
    except CompileError:
        for writer in writers.values():
            with contextlib.suppress(OSError):
                writer.folder.rmdir()  # Only if nothing is in it.
        raise
    finally:
        inference.close()
    return writers, done


def _report(work: Pass, before: int, total: int, seen: int) -> None:
    work.progress(before + seen, total)


def _lacks(writer: StoreWriter, unit: Range) -> bool:
    return any(unit.start <= part.start < unit.stop for part in writer.missing)


def _refresh(writers: Mapping[str, StoreWriter]) -> None:
    for writer in writers.values():
        writer.refresh()


def _units(writers: Mapping[str, StoreWriter]) -> list[Range]:
    """Return the ranges that processes claim, as long as the largest shard, those in which a shard is missing."""
    num_images = max(writer.manifest.num_images for writer in writers.values())
    size = ranges.SHARD_SIZE
    wanted = {part.start // size for writer in writers.values() for part in writer.missing}
    return [Range(place * size, min((place + 1) * size, num_images)) for place in sorted(wanted)]


def _missing_images(writers: Mapping[str, StoreWriter]) -> int:
    return sum(unit.stop - unit.start for unit in _units(writers))


def _own_order(units: Sequence[Range], settings: Compute) -> list[Range]:
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
        pin=inference.device.type == "cuda",
    )
    seen = 0
    for images, index, skipped, features in _one_behind(work, inference, parts, batches):
        for name, assembly in assemblies.items():
            levels = [level.numpy() for level in features[name]]
            assembly.add(images, index, work.dataset.labels[index], levels, skipped)
        seen += len(images)
        report(seen)
    return seen


def _one_behind(
    work: Pass, inference: Inference, parts: Sequence[range], batches: Iterator[Batch]
) -> Iterator[tuple[range, list[int], dict[int, str], Features]]:
    """Yield each batch's features when the encoder has the next batch already, so that no CUDA device waits.

    The copy to the host stands between the two in the device's queue: it is over when the next pass begins.
    """
    previous = None
    for part, (images, index, skipped) in zip(parts, batches, strict=True):
        inputs = images
        if work.view is not None and index:
            inputs = work.view.apply(images.to(inference.device, non_blocking=True), index)
        current = part, index, skipped, inference.to_host(inference(inputs))
        if previous is not None:
            yield *previous[:3], previous[3].wait()
        previous = current
    if previous is not None:
        yield *previous[:3], previous[3].wait()
