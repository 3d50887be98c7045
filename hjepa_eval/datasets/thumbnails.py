"""Small copies of images as files' bytes, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hjepa_eval.datasets.images import MAX_RATIO
from hjepa_eval.datasets.protocol import ImageDataset

if TYPE_CHECKING:
    from torch import Tensor

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
