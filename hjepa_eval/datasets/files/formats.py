"""What image files declare and hold, checked before a native decoder that does not check gets them.

A small file can declare a huge image; a decoder would unpack every frame of an animation to show one; and torchvision's
ends the whole process when libpng meets damaged pixel data (0.29: a segmentation fault). Checksums find damage by
accident; they do not find data that were written wrongly, or by an enemy. So zlib unpacks PNG data here, and libpng
gets them in a stream that cannot fail; that costs a third to a half of the decoding.
"""

from __future__ import annotations

import re
import struct
import zlib

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


_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B


def first_frame(content: bytes) -> bytes:
    """Return a GIF of its first frame, whose colour tables hold 256 colours; no block is unpacked.

    torchvision's decoder looks a pixel's colour up without asking how long the table is (0.29), so each is filled up
    with black. What follows the first frame is not looked at.

    Raises:
        Damage: the first frame is not whole, there is none or no colour table, or canvas or frame are empty or too
            large.
    """
    try:
        check_size(int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little"))
        header, at = _full_table(content, 10, 13)
        parts = [content[:10], header, content[11:13], *_table(content, 10, 13)]
        while content[at] == _EXTENSION:
            start, at = at, _after_blocks(content, at + 2)
            parts.append(content[start:at])
        if content[at] == _END:
            raise Damage("it holds no frame")
        if content[at] != _IMAGE:
            raise Damage(f"its GIF block at byte {at} is of no known kind")
        check_size(
            int.from_bytes(content[at + 5 : at + 7], "little"), int.from_bytes(content[at + 7 : at + 9], "little")
        )
        if not (content[10] | content[at + 9]) & _HAS_TABLE:
            raise Damage("it has no colour table")
        flags, data = _full_table(content, at + 9, at + 10)
        parts += [content[at : at + 9], flags, *_table(content, at + 9, at + 10)]
        parts.append(content[data : _after_blocks(content, data + 1)])
    except IndexError:
        raise Damage("it is truncated") from None
    return b"".join([*parts, bytes([_END])])


_HAS_TABLE, _TABLE_SIZE = 0x80, 0x07


def _full_table(content: bytes, flags: int, at: int) -> tuple[bytes, int]:
    """Return the byte at `flags`, announcing 256 colours if it announces a table, and where the table at `at` ends."""
    value = content[flags]
    if not value & _HAS_TABLE:
        return bytes([value]), at
    return bytes([value | _TABLE_SIZE]), at + (3 << (value & _TABLE_SIZE) + 1)


def _table(content: bytes, flags: int, at: int) -> list[bytes]:
    """Return the colour table at `at`, filled up to 256 colours; nothing where the byte at `flags` announces none."""
    _, end = _full_table(content, flags, at)
    if end > len(content):
        raise Damage("it is truncated")
    return [content[at:end].ljust(3 * 256, b"\0")] if end > at else []


def _after_blocks(content: bytes, at: int) -> int:
    while content[at]:
        at += content[at] + 1
    return at + 1


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
