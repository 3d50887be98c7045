"""What a run reads: images to train on, a bank and held-out images to measure with."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.batches import BatchOrder, ImageSource, ResidentImages, image_source, split_images


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images `[N, 3, S, S]` at the encoder's size with labels int64 `[N]`."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingData:
    """What a run reads.

    Attributes:
        order: which images a step works on.
        source: their pixels.
        bank: trained images that vote and whose rank is measured; none but on the leader, rank 0, which measures.
        held_out: images that are never trained on; likewise.
    """

    order: BatchOrder
    source: ImageSource
    bank: LabelledImages
    held_out: LabelledImages


_LOOKED_AT = 5


def typical_size(dataset: ImageDataset) -> tuple[int, int]:
    """Return the median height and width in pixels of a few images, (0, 0) where none of them can be read."""
    places = torch.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).long().tolist()
    sizes = []
    for place in places:
        with suppress(DataError):  # One that is trained on is named when its turn comes.
            sizes.append(dataset.image(place).shape[1:])
    if not sizes:
        return 0, 0
    height, width = torch.tensor(sizes).median(dim=0).values.tolist()
    return height, width


def load_training_data(
    settings: PretrainSettings,
    dataset: ImageDataset,
    transform: Transform,
    *,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
) -> TrainingData:
    """Split the train images and read what a run needs of them before its first step.

    Args:
        settings: of the run.
        dataset: the train split.
        transform: how evaluation prepares images.
        device: where steps are computed.
        rank: of this process.
        ranks: processes that share every batch.

    Raises:
        DataError: an image cannot be read, or there are too few or too many of them.
    """
    data, train = settings.data, settings.train
    count = min(data.max_samples or len(dataset), len(dataset))
    measured = settings.diagnostics.bank > 0
    split = split_images(count, settings.diagnostics.held_out if measured else 0.0)
    order = BatchOrder(split.trained, train.batch_size, seed=train.seed, rank=rank, ranks=ranks, parts=train.accumulate)
    stored = data.stored_size or transform.size
    kept = replace(transform, size=stored, resize=stored)
    source = image_source(dataset, kept, order, settings=data, count=count, device=device)
    labels = torch.from_numpy(dataset.labels)

    def labelled(positions: Tensor) -> LabelledImages:
        if isinstance(source, ResidentImages) and kept == transform:
            return LabelledImages(source.images[positions.to(device)], labels[positions])
        images = stack_images(dataset, transform, indices=positions.tolist(), workers=data.workers)
        return LabelledImages(images, labels[positions])

    few = torch.linspace(0, len(split.trained) - 1, min(settings.diagnostics.bank, len(split.trained)))
    bank, held_out = split.trained[few.long()], split.held_out
    if rank != 0:
        # The leader measures for all: nobody else would look at them.
        bank, held_out = bank[:0], held_out[:0]
    return TrainingData(order, source, labelled(bank), labelled(held_out))
