"""From settings to samples: find the encoder and the images, fill what the cache lacks, read the levels asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle, open_encoder
from hjepa_eval.encoders.kinds.run import is_run, newest_run, read_run_config, with_branch
from hjepa_eval.encoders.precision import device_name, resolve_precision
from hjepa_eval.errors import unknown
from hjepa_eval.evaluation.costs import LevelCosts, level_costs
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.settings import ExtractionSettings, ImageSettings
from hjepa_eval.evaluation.stages import COSTS
from hjepa_eval.extraction.extract import Extraction, ExtractSettings, extract
from hjepa_eval.features.cache import default_cache_dir, memo_dir
from hjepa_eval.features.manifest import StoredLevel
from hjepa_eval.ranks import read_ranks
from hjepa_eval.results.records import DatasetInfo, Extracted, ModelInfo

if TYPE_CHECKING:
    from hjepa_eval.datasets.transform import View
    from hjepa_eval.encoders.protocol import Encoder

SettingsT = TypeVar("SettingsT", bound=ImageSettings)

RUNS = Path("runs")
DEFAULT_DATASET = "digits"
SPLITS = ("train", "test")


@dataclass
class Features:
    """Stores of both splits of one encoder, and what a record says about them.

    Attributes:
        encoder: the encoder's name and identity.
        splits: one extraction per split.
        levels: the levels asked for.
        precision: `bf16` or `fp32`.
        device: where the forward pass runs or would run.
        seconds: wall time per phase.
        views: one extraction per augmented pass over the train images.
        others: the same images under the other readouts asked for.
        costs: what an image takes up to each level; None where that is not known or was not asked.
    """

    encoder: ModelInfo
    splits: dict[str, Extraction]
    levels: tuple[StoredLevel, ...]
    precision: str
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    views: tuple[Extraction, ...] = ()
    others: tuple[Features, ...] = ()
    costs: LevelCosts | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.splits["train"].store.manifest.class_names

    def dataset_info(self) -> DatasetInfo:
        """Return what a record says about the images."""
        train, test = (self.splits[split] for split in SPLITS)
        manifests = (train.store.manifest, test.store.manifest)
        return DatasetInfo(
            name=manifests[0].dataset,
            train_fingerprint=manifests[0].identity["dataset"]["fingerprint"],
            test_fingerprint=manifests[1].identity["dataset"]["fingerprint"],
            num_classes=len(self.class_names),
            train_images=len(train.store.labels(limit=train.limit)),
            test_images=len(test.store.labels(limit=test.limit)),
            skipped_images=sum(len(manifest.skipped) for manifest in manifests),
            notes=tuple(dict.fromkeys(note for manifest in manifests for note in manifest.notes)),
        )

    def extracted(self) -> Extracted:
        """Return what a record says about the extraction."""
        train, test = (self.splits[split] for split in SPLITS)
        return Extracted(
            readout=train.store.manifest.readout,
            precision=self.precision,
            storage=train.store.manifest.storage,
            train_store=train.store.manifest.key,
            test_store=test.store.manifest.key,
            forward_images=train.images + test.images + sum(view.images for view in self.views),
        )


def resolve_model(model: str | None) -> str:
    """Return the encoder asked for, or the newest finished run.

    Raises:
        EncoderError: none was asked for and there is no finished run.
    """
    return model if model is not None else str(newest_run(RUNS))


def resolve_dataset(dataset: str | None, model: str) -> tuple[str, Path | None]:
    """Return the dataset asked for, or the one a run was pretrained on with its folder, or digits."""
    if dataset is not None:
        return dataset, None
    folder = Path(model.partition("?")[0].removeprefix("random:"))
    if is_run(folder):
        data = read_run_config(folder).get("settings", {}).get("data", {})
        root = data.get("root")
        return str(data.get("dataset", DEFAULT_DATASET)), Path(root) if root else None
    return DEFAULT_DATASET, None


def choose_levels(encoder: Encoder | EncoderHandle, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the wanted level numbers, all of them for none.

    Raises:
        UnknownNameError: the encoder lacks one; the message says which exist.
    """
    known = [level.index for level in encoder.levels]
    for level in wanted:
        if level not in known:
            raise unknown(f"level of {encoder.name}", str(level), [str(index) for index in known])
    return tuple(sorted(set(wanted))) or tuple(known)


def resolve(settings: SettingsT) -> SettingsT:
    """Return the settings with every default filled in that depends on this machine: model, data, device, cache.

    Raises:
        HjepaError: there is no model to take, it has no such branch, or there is no such device.
    """
    model = with_branch(resolve_model(settings.model), settings.encoder)
    dataset, root = resolve_dataset(settings.dataset, model)
    device = device_name(read_ranks().device(settings.device))
    found = {
        "model": model,
        "encoder": None,  # The name says it now; a baseline beside the model has no branch.
        "dataset": dataset,
        "root": settings.root or root,
        "device": device,
        "precision": resolve_precision(settings.precision, device),
        "num_workers": settings.num_workers or default_workers(),
        "cache_dir": settings.cache_dir or default_cache_dir(),
    }
    return settings.model_copy(update=found)


def default_workers() -> int:
    """Return how many threads decode images: as many as this process may use cores, shared with the ranks beside it."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
    return max(1, cores // read_ranks().local_world_size)


def load_split(settings: ImageSettings, split: str) -> ImageDataset:
    """Return the images that resolved settings ask for.

    Raises:
        HjepaError: the dataset is unknown, missing or incomplete.
    """
    memo = memo_dir(settings.cache_dir or default_cache_dir())
    return load_dataset(str(settings.dataset), split, root=settings.root, download=settings.download, memo=memo)


def find_encoder(settings: ImageSettings) -> EncoderHandle:
    """Return the encoder that resolved settings ask for.

    Raises:
        HjepaError: it is unknown, or its weights are missing or do not fit.
    """
    return open_encoder(
        str(settings.model),
        seed=settings.seed,
        download=settings.download,
        train_images=lambda: load_split(settings, "train"),
        cache_dir=settings.cache_dir,
    )


def collect_features(settings: ExtractionSettings, talk: Talk, *, repair: bool = False, costs: bool = True) -> Features:
    """Return the features that resolved settings ask for; what the cache lacks is extracted on the way.

    Args:
        settings: of `resolve`.
        talk: told about progress.
        repair: redo damaged shards instead of refusing the store.
        costs: say what the levels cost, too; it is measured unless it is remembered.

    Raises:
        HjepaError: anything that the user can mend: names, data, weights, the cache.
    """
    started = time.perf_counter()
    encoder = find_encoder(settings)
    levels = choose_levels(encoder, settings.level)
    seconds = {"load encoder": time.perf_counter() - started}
    cache = settings.cache_dir or default_cache_dir()
    precision = settings.precision
    ranks = read_ranks()
    how = ExtractSettings(
        settings.device,
        precision,
        batch_size=settings.batch_size,
        workers=settings.num_workers or default_workers(),
        max_samples=settings.max_samples,
        on_bad_image=settings.on_bad_image,
        storage="float16" if settings.storage == "fp16" else "float32",
        compile=settings.compile,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    readouts = settings.all_readouts

    def fill(dataset: ImageDataset, view: View | None = None) -> dict[str, Extraction]:
        return _extract_split(encoder, dataset, readouts, cache, how, talk, repair, view)

    splits, datasets = {}, {split: load_split(settings, split) for split in SPLITS}
    for split, dataset in datasets.items():
        started = time.perf_counter()
        splits[split] = fill(dataset)
        seconds[f"extract {split}"] = time.perf_counter() - started
    started = time.perf_counter()
    numbers = range(1, settings.num_views + 1)
    views = []
    if numbers:
        from hjepa_eval.datasets.transform import View

        views = [fill(datasets["train"], View(number, settings.seed)) for number in numbers]
        seconds["extract views"] = time.perf_counter() - started
    measured = None
    # Ranks extract together, but records are made by one process.
    if costs and ranks.rank == 0:
        started = time.perf_counter()
        with talk.progress(f"costs of {encoder.name}", "", stage=COSTS):
            measured = level_costs(
                encoder,
                device=settings.device,
                precision=precision,
                batch_size=settings.batch_size,
                cache_dir=cache,
                say=talk.alert,
            )
        seconds["measure costs"] = time.perf_counter() - started
    model = ModelInfo(name=encoder.name, weights=encoder.identity["weights"], identity=encoder.identity)
    found = []
    for readout in readouts:
        own = {split: extractions[readout] for split, extractions in splits.items()}
        chosen = tuple(level for level in own["train"].store.manifest.levels if level.index in levels)
        augmented = tuple(view[readout] for view in views)
        found.append(Features(model, own, chosen, precision, settings.device, seconds, augmented))
    return replace(found[0], others=tuple(found[1:]), costs=measured)


def _extract_split(
    encoder: EncoderHandle,
    dataset: ImageDataset,
    readouts: Sequence[str],
    cache: Path,
    how: ExtractSettings,
    talk: Talk,
    repair: bool,
    view: View | None,
) -> dict[str, Extraction]:
    which = f"view {view.number}" if view else dataset.split
    what = f"extract {encoder.name}, {dataset.name} {dataset.split}" + (f" {which}" if view else "")
    images = len(dataset) if how.max_samples is None else min(how.max_samples, len(dataset))
    with talk.progress(what, "images", stage=f"extract {which}", size=images) as report:
        found = extract(
            encoder,
            dataset,
            readouts=readouts,
            cache_dir=cache,
            settings=how,
            view=view,
            repair=repair,
            say=talk.alert,
            progress=report,
        )
        if all(extraction.images == 0 for extraction in found.values()):
            report.spared("from the cache, no forward pass")
    return found
