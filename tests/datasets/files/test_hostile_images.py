"""Images that lie about their size, or that were made to break a decoder."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.datasets.files.formats import MAX_PIXELS, SIGNATURE, check_size, jpeg_size, plain_png, webp_size
from hjepa_eval.datasets.images import fit
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError

SIDE = 60_000


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: tuple[int, ...], data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return SIGNATURE + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(width: int, height: int, *, before: bytes = b"") -> bytes:
    content = encoded(noise(), "JPEG")
    at = content.index(b"\xff\xc0")
    return content[:at] + before + content[at : at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


def gif(canvas: tuple[int, int], frame: tuple[int, int]) -> bytes:
    content = bytearray(encoded(noise("P"), "GIF"))
    image = content.index(b",\0\0\0\0")
    content[6:10] = struct.pack("<HH", *canvas)
    content[image + 5 : image + 9] = struct.pack("<HH", *frame)
    return bytes(content)


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBP" + kind + struct.pack("<I", len(data)) + data


BOMBS = {
    "png": png((SIDE, SIDE, 8, 2, 0, 0, 0), b""),
    "jpeg": jpeg(SIDE, SIDE),
    "jpeg behind a false header": jpeg(SIDE, SIDE, before=b"\xff\xfe\0\x0c\xff\xc0\0\x11\x08\0\x08\0\x08\x03"),
    "jpeg behind garbage": jpeg(SIDE, SIDE, before=b"garbage\xff\x00\xff\xd0\xff\xff\xff"),
    "gif": gif((SIDE, SIDE), (24, 16)),
    "gif frame": gif((24, 16), (SIDE, SIDE)),
    "webp": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
    "lossless webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(8)),
    "extended webp": webp(b"VP8X", bytes(4) + (SIDE - 1).to_bytes(3, "little") * 2),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_decode__bomb_is_refused_before_the_decoder_sees_it(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        pytest.fail("the decoder was called")

    monkeypatch.setattr("torchvision.io.decode_image", explode)
    with pytest.raises(DataError, match=r"^x is not a readable image: it declares (\d+) x \1 pixels, more than the"):
        decode(content, "x")


def test_check_size__limit_is_that_of_pillow() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    check_size(MAX_PIXELS, 1)


@pytest.mark.parametrize(
    "content",
    [png((0, 5, 8, 2, 0, 0, 0), b""), jpeg(0, 5), gif((0, 5), (24, 16)), gif((24, 16), (0, 5))],
    ids=["png", "jpeg", "gif", "gif frame"],
)
def test_decode__image_without_pixels_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"it declares 0 x 5 pixels$"):
        decode(content, "x")


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 9}, {"icc_profile": b"x" * 99}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_size__is_what_pillow_reads(mode: str, options: dict[str, Any]) -> None:
    assert jpeg_size(encoded(noise(mode, (37, 501)), "JPEG", **options)) == (37, 501)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(8)}])
def test_webp_size__is_what_pillow_reads(options: dict[str, Any]) -> None:
    assert webp_size(encoded(noise("RGB", (37, 501)), "WEBP", **options)) == (37, 501)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (zlib.compress(b"\x05" + bytes(30)), "filter that PNG does not know"),
        (zlib.compress(b"\0" + bytes(29)), "truncated"),
        (b"", "truncated"),
        (b"no zlib", "cannot be unpacked"),
        (zlib.compress(bytes(31), 0)[:20] + b"\xff" * 9, "truncated"),
    ],
    ids=["filter", "short", "none", "no zlib", "cut zlib"],
)
def test_decode__png_whose_data_lie_under_right_checksums_is_refused(data: bytes, problem: str) -> None:
    """torchvision 0.29 ends the process with a segmentation fault on the first of them."""
    with pytest.raises(DataError, match=f"x.png is not a readable image: .*{problem}"):
        decode(png((10, 1, 8, 2, 0, 0, 0), data), "x.png")


def test_decode__png_with_a_window_smaller_than_its_data_is_read() -> None:
    pixels = b"".join(b"\0" + bytes([row % 251] * 300) for row in range(100))
    packer = zlib.compressobj(9, zlib.DEFLATED, 9)
    content = png((100, 100, 8, 2, 0, 0, 0), packer.compress(pixels) + packer.flush())
    assert decode(content, "x.png")[1, :, 7].tolist() == [row % 251 for row in range(100)]


def test_plain_png__interlaced_image_is_unpacked() -> None:
    # Adam7 of 3 x 3: pass 1 holds (0,0); 4 (2,0); 5 (0,2) (2,2); 6 (1,0) (1,2); 7 the row 1.
    rows = [b"\0\x01", b"\0\x03", b"\0\x07\x09", b"\0\x02", b"\0\x08", b"\0\x04\x05\x06"]
    content = png((3, 3, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows)))
    assert decode(content, "x.png")[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with pytest.raises(DataError, match="truncated"):
        decode(png((3, 3, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows[:-1]))), "x.png")


def test_plain_png__every_pillow_mode_keeps_its_pixels() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        content = encoded(noise(mode), "PNG", **({"transparency": 3} if mode in ("L", "P") else {}))
        with Image.open(io.BytesIO(plain_png(content))) as plain:
            assert np.array_equal(np.asarray(plain), np.asarray(noise(mode))), mode


def test_decode__palette_png_without_palette_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.png is not a readable image: its header is damaged"):
        decode(png((10, 1, 8, 3, 0, 0, 0), zlib.compress(bytes(11))), "x.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1, 300_000), (7, 3)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_fit__survives_tiny_and_long_images(size: tuple[int, int], interpolation: str) -> None:
    image = torch.full((3, *size), 77, dtype=torch.uint8)
    fitted = fit(image, Transform(32, 36, interpolation))
    assert fitted.shape == (3, 32, 32)
    assert fitted.eq(77).all()


def test_fit__of_a_long_image_is_its_middle() -> None:
    image = torch.zeros(3, 2, 1001, dtype=torch.uint8)
    image[:, :, 480:521] = 200
    assert fit(image, Transform(16, 16)).eq(200).all()
