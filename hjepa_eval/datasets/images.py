"""From images to uint8 batches: resize and crop, in threads that run ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform, resized_shape
from hjepa_eval.errors import ChangedError, DataError, lacks_memory, no_memory

MAX_RATIO = 64

if TYPE_CHECKING:
    from torch import Tensor

# uint8 images [B, 3, size, size], their indices [B], and why others of the batch cannot be read, by index
Batch: TypeAlias = "tuple[Tensor, list[int], dict[int, str]]"


def fit(image: Tensor, transform: Transform) -> Tensor:
    """Return a uint8 image `[3, H, W]` resized and cropped to `[3, *transform.shape]` as the transform says.

    Deviation: of an image more than 64 times as long as wide, or as wide as long, only the middle is resized.
    """
    height, width = image.shape[-2:]
    if (height, width) == transform.shape == transform.scaled:
        return image
    # Two seconds, which who reads only features does not wait.
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as TF

    longest = MAX_RATIO * min(height, width)
    if max(height, width) > longest:
        # 1 x 50,000 pixels would become 224 x 11,200,000 on the way to the crop.
        height, width = min(height, longest), min(width, longest)
        image = TF.center_crop(image, [height, width])
    target = resized_shape(height, width, transform)
    mode = InterpolationMode.BICUBIC if transform.interpolation == "bicubic" else InterpolationMode.BILINEAR
    resized = TF.resize(image, list(target), interpolation=mode, antialias=True)
    if transform.crop == "border":
        rows, columns = (max(0, side - have) for side, have in zip(transform.shape, target, strict=True))
        sides = [columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2]
        resized = TF.pad(resized, sides, fill=[round(255 * value) for value in transform.mean])
    cropped: Tensor = TF.center_crop(resized, list(transform.shape))
    return cropped


def as_image(value: Any, *, name: str) -> Tensor:
    """Return an image that a caller holds as uint8 RGB `[3, H, W]`.

    Args:
        value: the path of a file, a PIL image, or a uint8 array or tensor `[H, W]`, `[H, W, 3]` or `[3, H, W]`.
        name: how messages call it; of a file its path.

    Raises:
        DataError: it cannot be read, or is none of these.
    """
    import torch

    if isinstance(value, str | Path):
        from hjepa_eval.datasets.files.decoding import decode

        try:
            return decode(Path(value).read_bytes(), str(value))
        except OSError as error:
            raise DataError(f"{value} cannot be read: {error.strerror}") from None
    if hasattr(value, "convert"):  # Pillow's; its transparency is dropped, as a file's is.
        value = np.asarray(value.convert("RGB"))
    pixels = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    shape = list(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels.expand(3, *pixels.shape)
    elif pixels.ndim == 3 and pixels.shape[0] != 3 and pixels.shape[2] == 3:
        pixels = pixels.permute(2, 0, 1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise DataError(
            f"{name} is {pixels.dtype} {shape}; expected a path, a PIL image, or uint8 [H, W], [H, W, 3] or [3, H, W]"
        )
    return pixels.cpu()


def image_batches(
    dataset: ImageDataset,
    transform: Transform,
    *,
    indices: Sequence[int],
    batch_size: int,
    workers: int,
    skip_bad: bool = False,
) -> Iterator[Batch]:
    """Yield the images at `indices`, in that order, in batches of `batch_size`, as `load_batches` does."""
    parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    yield from load_batches(dataset, transform, parts, workers=workers, skip_bad=skip_bad)


def load_batches(
    dataset: ImageDataset,
    transform: Transform,
    parts: Iterable[Sequence[int]],
    *,
    workers: int,
    skip_bad: bool = False,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yield (uint8 images `[B, 3, size, size]`, their indices, what was skipped and why), decoding ahead in threads.

    Args:
        dataset: where the images come from.
        transform: how they are resized and cropped.
        parts: positions in the dataset of each batch; taken one by one as decoding goes on, so they need not end.
        workers: decoding threads; torchvision releases the interpreter lock while it decodes.
        skip_bad: leave out what cannot be decoded instead of raising.
        pin: put batches in page-locked memory, from where a CUDA device copies without waiting.

    Raises:
        DataError: an image cannot be decoded and `skip_bad` is false, or one changed since its dataset was opened.
        MachineError: the memory is used up.
    """

    import torch

    def load(part: Sequence[int]) -> Batch:
        images: list[Tensor] = []
        kept: list[int] = []
        skipped: dict[int, str] = {}
        for index in part:
            try:
                images.append(fit(dataset.image(index), transform))
            except DataError as error:
                if not skip_bad or isinstance(error, ChangedError):
                    raise
                skipped[index] = str(error)
            except (MemoryError, RuntimeError) as error:
                raise no_memory(error) if lacks_memory(error) else error from None
            else:
                kept.append(index)
        stacked = torch.stack(images) if images else torch.empty(0, 3, *transform.shape).byte()
        return stacked.pin_memory() if pin else stacked, kept, skipped

    yield from _ahead(load, parts, workers=max(1, workers))


def _ahead(load: Callable[[Sequence[int]], Batch], parts: Iterable[Sequence[int]], *, workers: int) -> Iterator[Batch]:
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for part in parts:
                pending.append(pool.submit(load, part))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def stack_images(
    dataset: ImageDataset, transform: Transform, *, indices: Sequence[int] | None = None, workers: int = 4
) -> Tensor:
    """Return images of a dataset as one uint8 tensor `[N, 3, size, size]`.

    Args:
        dataset: where they come from.
        transform: how they are resized and cropped.
        indices: which of them, in this order; all when not given.
        workers: decoding threads.

    Raises:
        DataError: an image cannot be decoded; the message names it.
    """
    import torch

    wanted = range(len(dataset)) if indices is None else indices
    images = torch.empty(len(wanted), 3, *transform.shape, dtype=torch.uint8)
    start = 0
    for batch, kept, _ in image_batches(dataset, transform, indices=wanted, batch_size=256, workers=workers):
        images[start : start + len(kept)] = batch
        start += len(kept)
    return images
