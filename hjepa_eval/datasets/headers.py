"""What the header of an image file declares, read before anything is decoded: a small file can declare a huge image."""

from __future__ import annotations

import re

# The limit beyond which Pillow, too, takes a file for a decompression bomb.
MAX_PIXELS = 178_956_970

# What libjpeg takes for the next marker: it skips garbage, fill bytes and the markers without a length.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
_NO_SEGMENT = frozenset({0x00, 0x01, *range(0xD0, 0xD8), 0xFF})
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_ENDS = frozenset({0xD9, 0xDA})


class Damage(Exception):
    """Raised with what is wrong in the bytes of an image; `decode` turns it into an error that names the file."""


def check_size(width: int, height: int) -> None:
    """Check that an image has pixels, and not more than can be decoded safely.

    Raises:
        Damage: it has none, or more than `MAX_PIXELS`.
    """
    if width * height == 0:
        raise Damage(f"it declares {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise Damage(f"it declares {width} x {height} pixels, more than the {MAX_PIXELS:,} allowed (a bomb?)")


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG in pixels, without the rotation that EXIF may ask for.

    Raises:
        Damage: no frame header comes before the first scan.
    """
    at, size = 2, len(content) - 9
    while at <= size:
        marker = content[at + 1]
        if content[at] != 0xFF or marker in _NO_SEGMENT:
            found = _JPEG_MARKER.search(content, at)
            if found is None or found.end() - 2 > size:
                break
            at, marker = found.end() - 2, content[found.end() - 1]
        if marker in _JPEG_FRAMES:
            return content[at + 7] << 8 | content[at + 8], content[at + 5] << 8 | content[at + 6]
        if marker in _JPEG_ENDS:
            break
        at += 2 + (content[at + 2] << 8 | content[at + 3])
    raise Damage("its header is damaged")


def webp_size(content: bytes) -> tuple[int, int]:
    """Return width and height of a WebP's canvas in pixels.

    Raises:
        Damage: its first chunk is none that begins a WebP.
    """
    kind, data = content[12:16], content[20:30]
    if kind == b"VP8X" and len(data) == 10:
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) == 10:
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    raise Damage("its header is damaged")
