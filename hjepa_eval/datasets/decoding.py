"""From the bytes of an image file to uint8 RGB, or one clear line that says why not."""

from __future__ import annotations

import re
import zlib

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from hjepa_eval.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_STARTS = (b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a")
_BUILD_PATH = re.compile(r"^.*\.(?:cpp|cu|h):\d+[,\]]\s*")


def decode(content: bytes, name: str) -> Tensor:
    """Return the image in JPEG, PNG, GIF or WebP bytes as uint8 RGB `[3, H, W]`, the first one of an animation.

    Transparency is dropped; 16-bit samples become round(v / 257), so that 65535 is 255.

    Raises:
        DataError: the bytes are no image, or a damaged one; the message gives `name`.
    """
    if not content:
        raise DataError(f"{name} is empty (0 bytes)")
    if not content.startswith(_STARTS) and not (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        raise DataError(f"{name} is no JPEG, PNG, GIF or WebP image")
    damage = _png_damage(content) if content.startswith(_PNG) else ""
    if damage:
        raise DataError(f"{name} is not a readable image: {damage}")
    try:
        # frombuffer needs a writable buffer; the copy is small next to the decoding.
        image = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise DataError(f"{name} is not a readable image: {_reason(error)}") from None
    first: Tensor = image[0] if image.ndim == 4 else image
    if first.dtype == torch.uint16:
        return ((first.to(torch.int32) + 128) // 257).to(torch.uint8)
    return first


def _png_damage(content: bytes) -> str:
    """Return what is wrong with the chunks of a PNG, or an empty string.

    torchvision's decoder ends the whole process when libpng meets damaged pixel data (0.29: a segmentation fault),
    so the checksums of the chunks that it decodes are compared before; that costs 2 to 10 % of the decoding.
    """
    view = memoryview(content)
    at = len(_PNG)
    while at + 12 <= len(content):
        kind = content[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        # libpng itself forgives the checksums of the others, but not a chunk whose name is none.
        checked = kind in (b"IHDR", b"PLTE", b"IDAT") or not kind.isalpha()
        if checked and end > len(content):
            return "it is truncated"
        if checked and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"its PNG chunk at byte {at} does not match its checksum"
        if kind == b"IEND":
            break
        at = end
    return ""


def _reason(error: RuntimeError) -> str:
    """Return what a decoder says, without the paths of the machine that built it."""
    reason = _BUILD_PATH.sub("", str(error).strip().splitlines()[0])
    if reason == "Internal error.":
        return "its header is damaged"
    return reason if "/" not in reason else "it is damaged, or too large for the memory"
