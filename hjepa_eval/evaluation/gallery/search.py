"""Search with one's own images: at each level the train images that lie nearest, with their names and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.errors import ConfigError, DataError
from hjepa_eval.evaluation.features import Filling, choose_levels
from hjepa_eval.evaluation.gallery.gallery import thumbnail, thumbnails
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.given import NOTHING_GIVEN, Given, default_workers
from hjepa_eval.evaluation.settings import SearchSettings
from hjepa_eval.features.imported import is_imported
from hjepa_eval.features.names import read_names
from hjepa_eval.probes.search.search import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa_eval.encoders.handle import EncoderHandle


@dataclass(frozen=True)
class SearchResult:
    """The train images nearest to some images, nearest first; L levels, Q images, K neighbours.

    Attributes:
        model: the encoder's name.
        dataset: whose train images were searched.
        images: names of the Q images, paths as given, or `image 0` for arrays.
        levels: number and name of each of the L levels.
        class_names: name of each label.
        names: text [L, Q, K], where each neighbour comes from, such as `train/cat/1.png`.
        labels: int64 [L, Q, K].
        cosine: float32 [L, Q, K], in [-1, 1].
        index: int64 [L, Q, K], places in the train split's order.
        pictures: small copies of the Q images, then by place those of the neighbours; empty unless asked for.
    """

    model: str
    dataset: str
    images: tuple[str, ...]
    levels: tuple[tuple[int, str], ...]
    class_names: tuple[str, ...]
    names: NDArray[np.str_]
    labels: NDArray[np.int64]
    cosine: NDArray[np.float32]
    index: NDArray[np.int64]
    pictures: tuple[list[bytes], dict[int, bytes]] = field(default=([], {}), repr=False)

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class name of each neighbour, text [L, Q, K]."""
        return np.array(self.class_names)[self.labels]


def search_images(
    settings: SearchSettings,
    images: Sequence[Path | str | NDArray[np.uint8]],
    talk: Talk,
    *,
    given: Given = NOTHING_GIVEN,
    pictures: bool = False,
) -> SearchResult:
    """Return the train images nearest to `images` at each level asked for, by exact cosine search.

    An image goes the way of the data set's: decoded, resized, cropped, normalised, at the precision of the store.

    Args:
        settings: of `resolve`.
        images: files, or uint8 arrays, RGB [H, W, 3] or grey [H, W].
        talk: told about progress.
        given: encoder and images where the caller holds them.
        pictures: make small copies of all images that the answer has.

    Raises:
        ConfigError: the model is imported features, which no image can be sent through.
        DataError: an image cannot be read.
        HjepaError: as `collect_features`.
    """
    if not images:
        raise ConfigError("no image to search with; name at least one file")
    if is_imported(str(settings.model)):
        raise ConfigError(f"{settings.model} has no network that could take an image; search with an encoder")
    named, pixels = zip(*(_read(place, image) for place, image in enumerate(images)), strict=True)
    encoder = given.encoder(settings)
    levels = choose_levels(encoder, settings.level)
    train = given.split(settings, "train")
    extraction = Filling(encoder, (settings.readout,), settings, talk, repair=True)(train)[settings.readout]
    store, limit = extraction.store, extraction.limit
    queries = _embed(encoder, pixels, settings)
    labels, index = store.labels(limit=limit), store.index(limit=limit)
    names = np.array(read_names(store, limit=limit) or [f"train/{place}" for place in index.tolist()])
    positions = {level.index: place for place, level in enumerate(encoder.levels)}
    answers = [
        nearest(
            store.stream(level, limit=limit),
            queries[positions[level]],
            k=min(settings.k, len(labels)),
            device=settings.device,
        )
        for level in levels
    ]
    rows = np.stack([answer.index for answer in answers])
    copies: tuple[list[bytes], dict[int, bytes]] = ([], {})
    if pictures:
        places = index[rows].ravel().tolist()
        copies = [thumbnail(image) for image in pixels], thumbnails(train, places, workers=default_workers())
    return SearchResult(
        model=encoder.name,
        dataset=train.name,
        images=named,
        levels=tuple((level.index, level.name) for level in encoder.levels if level.index in levels),
        class_names=train.class_names,
        names=names[rows],
        labels=labels[rows],
        cosine=np.stack([answer.similarity for answer in answers]).astype(np.float32),
        index=index[rows],
        pictures=copies,
    )


def _read(place: int, image: Path | str | NDArray[np.uint8]) -> tuple[str, Tensor]:
    """Return the name of an image and its pixels, uint8 RGB `[3, H, W]`."""
    import torch

    if isinstance(image, Path | str):
        path = Path(image).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror}") from None
        return str(image), decode(content, str(path))
    array: Any = np.asarray(image)
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or not array.size
    ):
        raise DataError(
            f"image {place} is {array.dtype} of the shape {list(array.shape)}; expected uint8 [H, W, 3], or [H, W]"
        )
    colours = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    return f"image {place}", torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))


def _embed(encoder: EncoderHandle, pixels: Sequence[Tensor], settings: SearchSettings) -> list[NDArray[np.float32]]:
    """Return the features of images, float32 [Q, D] per level of the encoder."""
    import torch

    from hjepa_eval.datasets.images import fit
    from hjepa_eval.extraction.inference import Inference

    device, size = torch.device(settings.device), settings.batch_size
    inference = Inference(
        encoder.build(), [settings.readout], device=device, precision=settings.precision, batch_size=size
    )
    try:
        parts = []
        for start in range(0, len(pixels), size):
            batch = torch.stack([fit(image, encoder.transform) for image in pixels[start : start + size]])
            parts.append([level.cpu().numpy() for level in inference(batch)[settings.readout]])
    finally:
        inference.close()
    return [np.concatenate(level) for level in zip(*parts, strict=True)]
