"""From an encoder and images to features: fill what the cache lacks, and say what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hjepa_eval.datasets.overlap import count_shared, shared_note
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.errors import NoSplitError, unknown
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.stages import COSTS
from hjepa_eval.evaluation.models.costs import LevelCosts, level_costs
from hjepa_eval.evaluation.models.given import NOTHING_GIVEN, Given, default_workers
from hjepa_eval.evaluation.models.tokens import TokenNeed, WantedTokens
from hjepa_eval.evaluation.settings import (
    ExtractCommandSettings,
    ImageSettings,
    ProbeSettings,
    ProfileSettings,
    SearchSettings,
)
from hjepa_eval.extraction.extract import Compute, ExtractedStores, extract
from hjepa_eval.features.cache import default_cache_dir, memo_dir
from hjepa_eval.features.manifest import StoredLevel
from hjepa_eval.machine.ranks import read_ranks
from hjepa_eval.results.records import DatasetInfo, Extracted, ModelInfo

if TYPE_CHECKING:
    from hjepa_eval.datasets.transform import Transform, View
    from hjepa_eval.encoders.protocol import Encoder


@dataclass
class FeatureSet:
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
        images: the datasets that they are of.
        shared: how many of the test images are in train too.
        ranks: RankMe of each level, once it was asked for.
        tokens: tokens, and what else a probe of tokens reads, by readout: of a part of train where that was asked for.
        beside: further images made of the test images, by name, with one extraction each.
        transform: how images became the encoder's input; None for imported features.
    """

    encoder: ModelInfo
    splits: dict[str, ExtractedStores]
    levels: tuple[StoredLevel, ...]
    precision: str
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    views: tuple[ExtractedStores, ...] = ()
    others: tuple[FeatureSet, ...] = ()
    costs: LevelCosts | None = None
    images: Mapping[str, ImageDataset] = field(default_factory=dict)
    shared: int = 0
    ranks: dict[int, float | None] = field(default_factory=dict)
    tokens: Mapping[str, FeatureSet] = field(default_factory=dict)
    beside: Mapping[str, ExtractedStores] = field(default_factory=dict)
    transform: Transform | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        return self.splits["train"].store.manifest.class_names

    def dataset_info(self) -> DatasetInfo:
        """Return what a record says about the images."""
        train, test = self.splits["train"], self.splits.get("test")
        manifests = [stores.store.manifest for stores in self.splits.values()]
        test_images = 0 if test is None else len(test.store.labels(limit=test.limit))
        notes = dict.fromkeys(note for manifest in manifests for note in manifest.notes)
        return DatasetInfo(
            name=manifests[0].dataset,
            train_fingerprint=manifests[0].identity["dataset"]["fingerprint"],
            test_fingerprint="" if test is None else manifests[-1].identity["dataset"]["fingerprint"],
            num_classes=len(self.class_names),
            train_images=len(train.store.labels(limit=train.limit)),
            test_images=test_images,
            skipped_images=sum(len(manifest.skipped) for manifest in manifests),
            shared_images=self.shared,
            notes=(*notes, *shared_note(self.shared, test_images)),
        )

    def under(
        self, readout: str, stores: Mapping[str, Mapping[str, ExtractedStores]], levels: Sequence[int]
    ) -> FeatureSet:
        """Return the features under a readout, of `stores` by split and readout, at some levels."""
        splits = {split: of_split[readout] for split, of_split in stores.items()}
        known = splits["train"].store.manifest.levels
        return replace(self, splits=splits, levels=tuple(level for level in known if level.index in levels))

    def extracted(self) -> Extracted:
        """Return what a record says about the extraction."""
        train, test = self.splits["train"], self.splits.get("test")
        passes = [*self.splits.values(), *self.views]
        return Extracted(
            readout=train.store.manifest.readout,
            precision=self.precision,
            storage=train.store.manifest.storage,
            train_store=train.store.manifest.key,
            test_store="" if test is None else test.store.manifest.key,
            forward_images=sum(stores.images for stores in passes),
        )


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


def collect_features(
    settings: ProbeSettings | ProfileSettings | ExtractCommandSettings,
    talk: Talk,
    *,
    readouts: Sequence[str],
    views: int = 0,
    repair: bool = False,
    costs: bool = True,
    needs_test: bool = True,
    given: Given = NOTHING_GIVEN,
    tokens: TokenNeed | None = None,
) -> FeatureSet:
    """Return the features that resolved settings ask for; what the cache lacks is extracted on the way.

    Args:
        settings: of `resolve`.
        talk: told about progress.
        readouts: to store, all from one forward pass; the first is the one that is measured.
        views: augmented passes over the train images.
        repair: redo damaged shards instead of refusing the store.
        costs: say what the levels cost, too; it is measured unless it is remembered.
        needs_test: without a test split there is nothing to do.
        given: encoder and images where the caller holds them.
        tokens: what a probe of tokens reads.

    Raises:
        HjepaError: anything that the user can mend: names, data, weights, the cache.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "load encoder"):
        encoder = given.encoder(settings)
        levels = choose_levels(encoder, settings.level)
    if costs:  # The first of several seeds.
        for note in encoder.notes:
            talk.note(f"{encoder.name}: {note}")
    images = _splits(settings, given, needs_test=needs_test)
    chosen = [level for level in encoder.levels if level.index in levels]
    wanted = WantedTokens(tokens, images, readouts, levels=chosen, seed=settings.seed)
    fill = Filling(encoder, wanted.together, settings, talk, repair)
    wanted.say(encoder, fill.how, fill.cache, talk)
    splits = {}
    for split in images:
        with _timed(seconds, f"extract {split}"):
            splits[split] = fill(images[split])
    apart = {}
    if wanted.others:
        with _timed(seconds, "extract tokens"):
            fill_tokens = Filling(encoder, wanted.readouts, settings, talk, repair)
            apart = {name: fill_tokens(dataset) for name, dataset in wanted.others.items()}
    augmented = []
    if views:
        with _timed(seconds, "extract views"):
            crop = Filling(encoder, tuple(readouts), settings, talk, repair)
            augmented = [crop.view(images["train"], number, settings.seed) for number in range(1, views + 1)]
    measured = None
    # Ranks extract together, but records are made by one process.
    if costs and read_ranks().rank == 0:
        with _timed(seconds, "measure costs"):
            measured = _costs(encoder, settings, talk)
    memo, test = memo_dir(settings.cache_dir or default_cache_dir()), images.get("test")
    shared = 0 if test is None else count_shared(images["train"], test, most=settings.max_samples, memo=memo)
    model = ModelInfo(name=encoder.name, weights=encoder.identity["weights"], identity=encoder.identity)
    how = settings.precision, settings.device, seconds
    first = FeatureSet(model, {}, (), *how, costs=None, images=images, shared=shared, transform=encoder.transform)
    sets = [
        replace(first.under(readout, splits, levels), views=tuple(view[readout] for view in augmented))
        for readout in dict.fromkeys(readouts)
    ]
    stores = {split: apart.get(split, splits[split]) for split in splits}
    of_tokens = {
        readout: replace(
            first.under(readout, stores, levels),
            beside={name: apart[name][readout] for name in wanted.beside},
            images={**wanted.images, **wanted.beside},
        )
        for readout in wanted.readouts
    }
    return replace(sets[0], others=tuple(sets[1:]), costs=measured, tokens=of_tokens)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - started


def _splits(settings: ImageSettings, given: Given, *, needs_test: bool) -> dict[str, ImageDataset]:
    """Return the images by split; without those of test where there are none and no probe needs them."""
    images = {"train": given.split(settings, "train")}
    try:
        images["test"] = given.split(settings, "test")
    except NoSplitError:
        if needs_test:
            raise
    return images


def _costs(
    encoder: EncoderHandle, settings: ProbeSettings | ProfileSettings | ExtractCommandSettings, talk: Talk
) -> LevelCosts | None:
    with talk.progress(f"costs of {encoder.name}", "", stage=COSTS):
        return level_costs(
            encoder,
            device=settings.device,
            precision=settings.precision,
            cache_dir=settings.cache_dir or default_cache_dir(),
            say=talk.alert,
        )


class Filling:
    """Fills the stores of one encoder, a pass over one split at a time."""

    def __init__(
        self,
        encoder: EncoderHandle,
        readouts: tuple[str, ...],
        settings: ProbeSettings | ProfileSettings | ExtractCommandSettings | SearchSettings,
        talk: Talk,
        repair: bool,
    ) -> None:
        """Take what to extract from, what to read, and how."""
        ranks = read_ranks()
        self.encoder, self.readouts, self.talk, self.repair = encoder, tuple(dict.fromkeys(readouts)), talk, repair
        self.cache, asked = settings.cache_dir or default_cache_dir(), settings.model_fields_set
        self.how = Compute(
            settings.device,
            settings.precision,
            batch_size=settings.batch_size,
            workers=settings.num_workers or default_workers(),
            max_samples=settings.max_samples,
            on_bad_image=settings.on_bad_image,
            storage="float16" if settings.storage == "fp16" else "float32",
            token_storage="float32" if settings.storage == "fp32" and "storage" in asked else "float16",
            compile=settings.compile,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    def view(self, dataset: ImageDataset, number: int, seed: int) -> dict[str, ExtractedStores]:
        """Return readout -> stores of an augmented view of a split."""
        from hjepa_eval.datasets.transform import View

        return self(dataset, View(number, seed))

    def __call__(self, dataset: ImageDataset, view: View | None = None) -> dict[str, ExtractedStores]:
        """Return readout -> stores of a split, or of an augmented view of it."""
        which = f"view {view.number}" if view else dataset.split
        what = f"extract {self.encoder.name}, {dataset.name} {dataset.split}" + (f" {which}" if view else "")
        images = len(dataset) if self.how.max_samples is None else min(self.how.max_samples, len(dataset))
        with self.talk.progress(what, "images", stage=f"extract {which}", size=images) as report:
            stores = extract(
                self.encoder,
                dataset,
                readouts=self.readouts,
                cache_dir=self.cache,
                settings=self.how,
                view=view,
                repair=self.repair,
                say=self.talk.alert,
                progress=report,
            )
            if all(extraction.images == 0 for extraction in stores.values()):
                report.spared("from the cache, no forward pass")
        return stores
