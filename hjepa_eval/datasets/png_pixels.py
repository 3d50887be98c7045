"""PNG files with their pixel data unpacked and checked before the decoder sees them.

torchvision's decoder ends the whole process when libpng meets damaged pixel data (0.29: a segmentation fault).
Checksums find damage by accident; they do not find data that were written wrongly, or by an enemy. So zlib unpacks the
data here, and libpng gets them in a stream that cannot fail; that costs a third to a half of the decoding.
"""

from __future__ import annotations

import struct
import zlib

from hjepa_eval.datasets.headers import Damage, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_FILTERS = 5
# First column, first row, column step and row step of the seven passes of an interlaced image.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def plain_png(content: bytes) -> bytes:
    """Return a PNG of the same pixels whose data are stored, not compressed; transparency and texts are left out.

    Raises:
        Damage: a chunk does not match its checksum, or the pixel data are not those of the image declared.
    """
    chunks = _critical_chunks(content)
    header = bytes(chunks.get(b"IHDR", [b""])[0])
    if len(header) != 13:
        raise Damage("its header is damaged")
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or interlaced > 1:
        raise Damage("its header is damaged")
    passes = [(width, height)]
    if interlaced:
        passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
    rows = [(1 + (w * _CHANNELS[colour] * depth + 7) // 8, h) for w, h in passes if w > 0 and h > 0]
    pixels = _unpacked(b"".join(chunks.get(b"IDAT", [])), rows)
    palette = [_chunk(b"PLTE", bytes(data)) for data in chunks.get(b"PLTE", [])[:1] if colour == _PALETTE]
    # Level 0 stores, and adds the checksum that libpng will want to see.
    parts = [_chunk(b"IHDR", header), *palette, _chunk(b"IDAT", zlib.compress(pixels, 0)), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def _critical_chunks(content: bytes) -> dict[bytes, list[memoryview]]:
    """Return the data of the chunks that make the pixels, in the order of the file."""
    view = memoryview(content)
    found: dict[bytes, list[memoryview]] = {}
    at = len(SIGNATURE)
    while at + 12 <= len(content):
        kind = content[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        # Like libpng, forgive the checksums of the others, but not a chunk whose name is none.
        if kind in (b"IHDR", b"PLTE", b"IDAT") or not kind.isalpha():
            if end > len(content):
                raise Damage("it is truncated")
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise Damage(f"its PNG chunk at byte {at} does not match its checksum")
            found.setdefault(kind, []).append(view[at + 8 : end - 4])
        if kind == b"IEND":
            break
        at = end
    return found


def _unpacked(compressed: bytes, rows: list[tuple[int, int]]) -> bytes:
    """Return the filtered rows of all passes, given as (bytes of a row, number of rows)."""
    expected = sum(stride * count for stride, count in rows)
    try:
        pixels = zlib.decompressobj().decompress(compressed, expected)
    except zlib.error:
        raise Damage("its pixel data cannot be unpacked") from None
    if len(pixels) < expected:
        raise Damage("it is truncated")
    start = 0
    for stride, count in rows:
        if max(pixels[start : start + stride * count : stride]) >= _FILTERS:
            raise Damage("its pixel data have a filter that PNG does not know")
        start += stride * count
    return pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))
