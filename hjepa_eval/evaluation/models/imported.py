"""From files of another program's features to stores, and from their name to what probes read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hjepa_eval.datasets.protocol import check_class_numbers, check_every_class, interleave, numbered_classes
from hjepa_eval.errors import ConfigError, DataError, ProbeError, StoreError, did_you_mean, first_few, unknown
from hjepa_eval.evaluation.features import FeatureSet
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.settings import ProbeSettings, ProfileSettings
from hjepa_eval.extraction.extract import ExtractedStores
from hjepa_eval.features.arrays import LABELS, Arrays, read_arrays
from hjepa_eval.features.cache import default_cache_dir
from hjepa_eval.features.imported import READOUT, Imported, Split, is_imported, open_imported, write_imported
from hjepa_eval.results.records import ModelInfo

# What says something about images or a forward pass, and so nothing about features that are there.
_OF_IMAGES = ("dataset", "root", "encoder", "readout", "storage", "compile", "on_bad_image", "precision", "download")


def import_features(
    files: Sequence[Path | str],
    *,
    name: str,
    labels: Sequence[Path | str] = (),
    ids: Sequence[Path | str] = (),
    classes: Path | str | None = None,
    dataset: str = "imported",
    cache_dir: Path | None = None,
    replace: bool = False,
) -> Imported:
    """Make stores of features that another program computed; the model `features:NAME` stands for them.

    Images are put in the order of all data sets: the first of each class, then the second of each; within a class by
    their ids, or as in the file where there are none. So files in another order give the same stores.

    Args:
        files: `.npz`, `.npy`, `.safetensors`, `.parquet` or folders, as `read_arrays` takes them.
        name: of the model.
        labels: files with labels, where they are not with the features: class numbers, or names.
        ids: files with the images' names.
        classes: text file with the name of each class number, one a line.
        dataset: what the images are called in reports.
        cache_dir: where stores lie; as `hjepa cache path` when not given.
        replace: let a name lead to these that leads to others.

    Raises:
        StoreError: a file or an array is not as it must be; no store is left that is not whole.
        DataError: labels do not fit the classes.
    """
    arrays, class_names = read_arrays(
        [Path(file) for file in files],
        labels=[Path(file) for file in labels],
        ids=[Path(file) for file in ids],
        classes=None if classes is None else Path(classes),
    )
    if "train" not in arrays:
        raise StoreError(f"no train features in {first_few(files)}; neighbours and classifiers are of train images")
    numbers, names = _numbers(arrays, class_names)
    splits = {split: _split(split, part, numbers[split]) for split, part in arrays.items()}
    cache = cache_dir or default_cache_dir()
    return write_imported(name, splits, class_names=names, dataset=dataset, cache_dir=cache, replace=replace)


def _numbers(arrays: dict[str, Arrays], names: Sequence[str] | None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the class numbers int64 [N] of each split, and the name of each class.

    Raises:
        DataError: labels are neither whole numbers from 0 nor names, or do not fit the classes.
    """
    given = {split: np.asarray(part.labels) for split, part in arrays.items()}
    words = [split for split, labels in given.items() if labels.dtype.kind not in "iu"]
    if words and len(words) < len(given):
        raise DataError(f"labels of {words[0]} are no whole numbers, and those of the other split are; make them agree")
    if words:
        texts = {split: _texts(labels, arrays[split].places[LABELS]) for split, labels in given.items()}
        known = tuple(names) if names is not None else tuple(sorted(set(texts["train"])))
        number = {name: label for label, name in enumerate(known)}
        for split, text in texts.items():
            strange = [name for name in dict.fromkeys(text) if name not in number]
            if strange:
                near = did_you_mean(strange[0], known)
                raise DataError(f"{split} has the class {strange[0]}{near}, which is not among those of train")
        given = {split: np.array([number[name] for name in text], np.int64) for split, text in texts.items()}
    for split, labels in given.items():
        if labels.min() < 0:
            raise DataError(f"{arrays[split].places[LABELS]} holds {labels.min()}; class numbers begin at 0")
    numbers = {split: labels.astype(np.int64) for split, labels in given.items()}
    if not words:
        remedy = "or --classes with the name of every class"
        where = arrays["train"].places[LABELS]
        known = tuple(names) if names is not None else numbered_classes(numbers["train"], where=where, remedy=remedy)
    for split, labels in numbers.items():
        where = arrays[split].places[LABELS]
        check_class_numbers(labels, known, sample=partial(_row, where))
        check_every_class(labels, known, where=where, remedy="is a part of the data missing?")
    return numbers, known


def _row(where: str, row: int) -> str:
    return f"row {row} of {where}"


def _texts(labels: np.ndarray, where: str) -> list[str]:
    if labels.dtype.kind not in "USO":
        raise DataError(f"{where} holds {labels.dtype}; expected class numbers (whole numbers) or class names (text)")
    return [label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in labels.tolist()]


def _split(split: str, arrays: Arrays, labels: np.ndarray) -> Split:
    rows = np.arange(len(labels)) if arrays.ids is None else np.argsort(np.array(arrays.ids), kind="stable")
    order = rows[interleave(labels[rows])].astype(np.int64)
    names = [f"{split}/{row}" if arrays.ids is None else arrays.ids[row] for row in order.tolist()]
    places = {level: arrays.places[f"level{level}"] for level in arrays.levels}
    return Split(arrays.levels, order, labels[order], names, places, arrays.ids is not None)


def check_imported(models: Iterable[str], settings: ProbeSettings | ProfileSettings) -> None:
    """Check, before any work, that what is asked of imported features can be had.

    Raises:
        ConfigError: images are asked for, which they have none of, or they stand beside encoders of images.
    """
    kinds = {model: is_imported(model) for model in models}
    if not any(kinds.values()):
        return
    first = next(model for model, imported in kinds.items() if imported)
    if not all(kinds.values()):
        other = next(model for model, imported in kinds.items() if not imported)
        raise ConfigError(f"{first} has no images that {other} could be shown; evaluate them apart, compare afterwards")
    said = [name for name in _OF_IMAGES if name in settings.model_fields_set]
    if said:
        flags = first_few([f"--{name.replace('_', '-')}" for name in said])
        raise ConfigError(f"{first} brings its features and labels, so {flags} has nothing to say; leave it out")


def imported_features(
    settings: ProbeSettings | ProfileSettings, talk: Talk, *, readouts: Sequence[str], views: int, needs_test: str = ""
) -> FeatureSet:
    """Return what probes read of imported features.

    Args:
        settings: of `resolve`.
        talk: told about progress.
        readouts: what probes want to read; one only.
        views: augmented passes, which cannot be had.
        needs_test: what is measured on test, in words; empty where train is enough.

    Raises:
        UnknownNameError: nothing was imported under the name, or it has no such level.
        ConfigError: augmented views or further readouts are asked for.
        StoreError: a store is gone or damaged.
        ProbeError: there is no test split and it is needed.
    """
    started = time.perf_counter()
    model = str(settings.model)
    if views or len(set(readouts)) > 1:
        what = "augmented views" if views else "further readouts"
        raise ConfigError(f"{model} has no images, so no {what}; leave them out")
    with talk.progress(f"read {model}", "", stage="extract train") as report:
        imported = open_imported(model, settings.cache_dir or default_cache_dir())
        report.spared("imported, no forward pass")
    stores = imported.stores
    if "test" not in stores and needs_test:
        raise ProbeError(
            f"{model} has train features only, and {needs_test} is measured on test; import a test split too, or take "
            "hjepa knn --leave-one-out"
        )
    levels = stores["train"].manifest.levels
    for level in settings.level:
        if level not in [stored.index for stored in levels]:
            raise unknown(f"level of {model}", str(level), [str(stored.index) for stored in levels])
    splits = {
        split: ExtractedStores(store, min(settings.max_samples or store.manifest.rows, store.manifest.rows), 0, 0.0)
        for split, store in stores.items()
    }
    # Of train alone: the records' other half is what is not read, none of its images.
    splits.setdefault("test", ExtractedStores(stores["train"], 0, 0, 0.0))
    return FeatureSet(
        ModelInfo(name=imported.name, weights=imported.identity["weights"], identity=imported.identity),
        splits,
        tuple(level for level in levels if not settings.level or level.index in settings.level),
        READOUT,
        settings.device,
        {"load features": time.perf_counter() - started},
    )
