"""From feature stores and a dataset to galleries: maps, neighbours, thumbnails, and a run's curves and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.images import MAX_RATIO
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.kinds.run import is_run
from hjepa_eval.encoders.run_facts import read_metrics
from hjepa_eval.errors import HjepaError
from hjepa_eval.evaluation.features import FeatureSet
from hjepa_eval.evaluation.gallery.neighbourhoods import find_neighbourhoods
from hjepa_eval.evaluation.gallery.projection import Method, check_method, project_levels, takes_umap
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.given import SPLITS, default_workers
from hjepa_eval.evaluation.settings import EvalSettings
from hjepa_eval.results.gallery import Gallery, ImageKey, LevelMap, MaskExamples, Neighbourhoods, write_gallery

if TYPE_CHECKING:
    from torch import Tensor

# (run folder, places [E] of train images) -> their masks, and a word about them
DrawMasks = Callable[[Path, NDArray[np.int64]], tuple[MaskExamples | None, str]]

SIDE = 64
QUALITY = 85


def thumbnail(image: Tensor, *, side: int = SIDE) -> bytes:
    """Return a copy of a uint8 RGB image `[3, H, W]`, as JPEG of quality 85 or, where that is smaller, as PNG.

    The longer side has at most `side` pixels; a smaller image stays as it is. Of an image more than 64 times as long as
    wide, or as wide as long, only the middle is kept.
    """
    # Two seconds, which who reads only features does not wait.
    from torchvision.io import encode_jpeg, encode_png
    from torchvision.transforms.v2 import functional as TF

    height, width = image.shape[-2:]
    if max(height, width) > side:
        longest = MAX_RATIO * min(height, width)
        if max(height, width) > longest:
            height, width = min(height, longest), min(width, longest)
            image = TF.center_crop(image, [height, width])
        scale = side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        image = TF.resize(image, size, antialias=True)
    files = [bytes(encode(image).numpy()) for encode in (lambda pixels: encode_jpeg(pixels, QUALITY), encode_png)]
    return min(files, key=len)


def thumbnails(dataset: ImageDataset, places: Iterable[int], *, workers: int) -> dict[int, bytes]:
    """Return the thumbnail of each image at `places` of the dataset's order, made in `workers` threads.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    wanted = sorted(set(places))
    with ThreadPoolExecutor(workers, thread_name_prefix="thumbnail") as pool:
        made = pool.map(lambda place: thumbnail(dataset.image(place)), wanted)
        return dict(zip(wanted, made, strict=True))


MOST_ON_MAP = 1000
MASKED = 4


def check_map(settings: EvalSettings) -> None:
    """Check, before any work, that the galleries asked for can be made.

    Raises:
        ConfigError: `--map umap`, and umap-learn is not installed.
    """
    if settings.gallery:
        check_method(settings.map_method)


def write_galleries(
    found: Mapping[str, Mapping[int, FeatureSet]],
    settings: EvalSettings,
    talk: Talk,
    *,
    draw_masks: DrawMasks | None = None,
) -> list[Path]:
    """Write a gallery per encoder into the results folder and return their paths.

    One that cannot be made is left out with a word about why: no number depends on it, and the records are there.

    Args:
        found: encoder as it was asked for -> seed -> features; the first seed's are shown.
        settings: of `resolve`.
        talk: told about progress.
        draw_masks: draws the masks of a run; without it galleries have none.
    """
    paths: list[Path] = []
    # What takes the time is said: with PCA a gallery takes about a second.
    how = (
        " with UMAP, which compiles first (--map pca is quick)" if takes_umap(settings.map_method, MOST_ON_MAP) else ""
    )
    with talk.progress(f"galleries{how}", "", stage="galleries") as report:
        for done, (model, seeds) in enumerate(found.items(), start=1):
            seed, features = next(iter(seeds.items()))
            try:
                gallery = make_gallery(
                    features, model=model, method=settings.map_method, seed=seed, draw_masks=draw_masks
                )
                paths.append(write_gallery(gallery, settings.out))
            except HjepaError as error:
                talk.alert(f"no gallery of {features.encoder.name}: {error}")
            report(done, len(found), "")
    return paths


def make_gallery(
    features: FeatureSet,
    *,
    model: str,
    method: Method = "auto",
    seed: int = 0,
    draw_masks: DrawMasks | None = None,
) -> Gallery:
    """Return the gallery of an encoder on a dataset.

    The map is of the first 1,000 test images at most, which are balanced over classes as all datasets are; queries are
    chosen among them.

    Args:
        features: stores of both splits.
        model: the encoder as it was asked for; a run's has curves and masks.
        method: of the map.
        seed: of the map and of what is drawn.
        draw_masks: draws the masks of a run.

    Raises:
        HjepaError: a store or an image cannot be read, or the method is not there.
    """
    train, test = (features.splits[split] for split in SPLITS)
    train_index, test_index = (each.store.index(limit=each.limit) for each in (train, test))
    train_labels, test_labels = (each.store.labels(limit=each.limit) for each in (train, test))
    count = min(MOST_ON_MAP, len(test_index))
    numbers = [level.index for level in features.levels]
    points = [test.store.stream(level, limit=test.limit).rows(np.arange(count)) for level in numbers]
    shown = find_neighbourhoods(
        [train.store.stream(level, limit=train.limit) for level in numbers],
        points,
        train_labels=train_labels,
        test_labels=test_labels[:count],
        levels=numbers,
        num_classes=len(features.class_names),
        seed=seed,
        device=features.device,
    )
    # Stores lack the images that could not be read, so their rows are no places in the dataset's order.
    neighbourhoods = Neighbourhoods(
        index=test_index[shown.queries],
        labels=test_labels[shown.queries],
        chosen=shown.chosen,
        train_index=train_index[shown.rows],
        train_labels=train_labels[shown.rows],
        similarity=shown.similarity,
    )
    planes = project_levels(points, method=method, seed=seed)
    plane = LevelMap(test_index[:count], test_labels[:count], planes.points, planes.method, planes.explained)
    drawn = np.random.default_rng(seed).choice(train_index, min(MASKED, len(train_index)), replace=False)
    run = Path(model.partition("?")[0])
    masks, said = draw_masks(run, np.sort(drawn)) if draw_masks is not None and is_run(run) else (None, "")
    most = f"of {len(test_index):,} test images the map shows the first {count:,}; queries are chosen among them"
    notes = (most,) if count < len(test_index) else ()
    copies = dict(_copies(features.images, plane, neighbourhoods, masks))
    return Gallery(
        model=features.encoder.name,
        dataset=features.dataset_info().name,
        train_store=train.store.manifest.key,
        test_store=test.store.manifest.key,
        class_names=features.class_names,
        levels=tuple((level.index, level.name) for level in features.levels),
        images=copies,
        map=plane,
        neighbourhoods=neighbourhoods,
        training=read_metrics(run) if is_run(run) else (),
        masks=masks,
        no_masks=said if masks is None else "",
        notes=(*notes, *([said] if masks is not None and said else [])),
        names={(split, index): features.images[split].source_name(index) for split, index in copies},
    )


def _copies(
    images: Mapping[str, ImageDataset], plane: LevelMap, shown: Neighbourhoods, masks: MaskExamples | None
) -> Iterator[tuple[ImageKey, bytes]]:
    """Yield a small copy of every image that a gallery shows."""
    wanted = {
        "train": [*shown.train_index.ravel().tolist(), *(masks.index.tolist() if masks is not None else ())],
        "test": [*plane.index.tolist(), *shown.index.tolist()],
    }
    for split, places in wanted.items():
        made = thumbnails(images[split], places, workers=default_workers())
        yield from (((split, place), content) for place, content in made.items())
