"""From the bytes of an image file to uint8 RGB, or one clear line that says why not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hjepa_eval.datasets.files import formats as png_pixels
from hjepa_eval.datasets.files.formats import Damage, check_size, first_frame, jpeg_size, webp_size
from hjepa_eval.errors import DataError, lacks_memory

if TYPE_CHECKING:
    from torch import Tensor

_BUILD_PATH = re.compile(r"^.*\.(?:cpp|cu|h):\d+[,\]]\s*")


def decode(content: bytes, name: str) -> Tensor:
    """Return the image in JPEG, PNG, GIF or WebP bytes as uint8 RGB `[3, H, W]`, the first one of an animated GIF.

    Transparency is dropped; 16-bit samples become round(v / 257), so that 65535 is 255. A rotation that EXIF asks for
    is ignored, as torchvision's and timm's own data sets do.

    Raises:
        MemoryError: there is no memory for it.
        DataError: the bytes are no image, a damaged or truncated one, or one of more than 178,956,970 pixels; the
            message gives `name`. A JPEG that someone closed with an end mark in its middle passes, as in Pillow.
    """
    if not content:
        raise DataError(f"{name} is empty (0 bytes)")
    try:
        return _decode(_checked(content, name))
    except Damage as damage:
        raise DataError(f"{name} is not a readable image: {damage}") from None


def _checked(content: bytes, name: str) -> bytes:
    """Return bytes of the same image that the decoder can be trusted with; it must not learn sizes by itself."""
    if content.startswith(b"\xff\xd8\xff"):
        check_size(*jpeg_size(content))
    elif content.startswith(png_pixels.SIGNATURE):
        return png_pixels.plain_png(content)
    elif content.startswith((b"GIF87a", b"GIF89a")):
        return first_frame(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        check_size(*webp_size(content))
    else:
        raise DataError(f"{name} is no JPEG, PNG, GIF or WebP image")
    return content


def _decode(content: bytes) -> Tensor:
    # Two seconds, which who reads only features does not wait.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    try:
        # frombuffer needs a writable buffer; the copy is small next to the decoding.
        image: Tensor = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        # What is too large for this machine's memory now is no bad image.
        raise MemoryError(str(error)) if lacks_memory(error) else Damage(_reason(error)) from None
    if image.dtype == torch.uint16:
        return ((image.to(torch.int32) + 128) // 257).to(torch.uint8)
    return image


def _reason(error: RuntimeError) -> str:
    """Return what a decoder says, without the paths of the machine that built it."""
    reason = _BUILD_PATH.sub("", str(error).strip().splitlines()[0])
    if reason == "Internal error.":
        return "its header is damaged"
    return reason if "/" not in reason else "it is damaged"
