from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_jpeg, write_png

from hjepa_eval.datasets.files.decoding import decode
from hjepa_eval.errors import DataError


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def palette() -> Image.Image:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 250, 20, 30])
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0 no jpeg"])
def test_decode__names_what_is_no_image(content: bytes) -> None:
    with pytest.raises(DataError, match=r"photo\.jpg"):
        decode(content, "photo.jpg")


def test_decode__truncated_photograph_is_refused(cifar10_sample: Path) -> None:
    content = next((cifar10_sample / "test" / "cat").iterdir()).read_bytes()
    with pytest.raises(DataError, match=r"^photo\.jpg is not a readable image: [^/]*truncated$"):
        decode(content[: len(content) // 2], "photo.jpg")


def test_decode__grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    write_png(torch.full((1, 5, 7), 9, dtype=torch.uint8), str(tmp_path / "grey.png"))
    write_jpeg(torch.full((1, 5, 7), 9, dtype=torch.uint8), str(tmp_path / "grey.jpg"))
    for name in ("grey.png", "grey.jpg"):
        image = decode((tmp_path / name).read_bytes(), name)
        assert image.shape == (3, 5, 7)
        assert image.dtype == torch.uint8
        assert image.eq(9).all()


def test_decode__sixteen_bit_grey_is_scaled_to_eight() -> None:
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values), "PNG"), "x.png")
    assert image.dtype == torch.uint8
    for channel in image:
        # By hand: 128 / 257 = 0.498, 129 / 257 = 0.502, 32767 / 257 = 127.498, 32768 / 257 = 127.502.
        assert channel.tolist() == [[0, 0, 1, 1], [127, 128, 254, 255]]


def test_decode__sixteen_bit_colour_is_scaled_to_eight() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 257 * 7, 129)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    image = decode(b"\x89PNG\r\n\x1a\n" + chunks, "x.png")
    assert (image.dtype, image.flatten().tolist()) == (torch.uint8, [255, 7, 1])


@pytest.mark.parametrize(
    ("content", "size", "pixel"),
    [
        (encoded(palette(), "PNG"), (2, 3), [250, 20, 30]),
        (encoded(palette(), "PNG", transparency=1), (2, 3), [250, 20, 30]),
        (encoded(Image.new("LA", (3, 2), (100, 0)), "PNG"), (2, 3), [100, 100, 100]),
        (encoded(Image.new("1", (9, 2), 1), "PNG"), (2, 9), [255, 255, 255]),
        (encoded(palette(), "GIF"), (2, 3), [250, 20, 30]),
        (encoded(palette(), "GIF", save_all=True, append_images=[Image.new("P", (3, 2))]), (2, 3), [250, 20, 30]),
        (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), (1, 1), [1, 2, 3]),
        (encoded(Image.new("RGB", (1, 1), (90, 90, 90)), "JPEG"), (1, 1), [90, 90, 90]),
        (encoded(Image.new("RGB", (3, 2), (9, 8, 7)), "WEBP", lossless=True), (2, 3), [9, 8, 7]),
    ],
    ids=["palette", "transparent palette", "grey+alpha", "one bit", "gif", "two frames", "1x1", "1x1 jpeg", "webp"],
)
def test_decode__every_kind_becomes_uint8_rgb(content: bytes, size: tuple[int, int], pixel: list[int]) -> None:
    image = decode(content, "x")
    assert image.shape == (3, *size)
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == pixel


def test_decode__cmyk_photograph_becomes_rgb() -> None:
    image = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), "x.jpg")
    red, green, blue = image.float().mean((1, 2)).tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("content", [b"hello", b"GIF is not one", b"RIFF1234WAVE", encoded(noise(), "BMP")])
def test_decode__unknown_format_says_which_are_known(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^a/photo is no JPEG, PNG, GIF or WebP image$"):
        decode(content, "a/photo")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_decode__damage_is_told_without_build_paths(kind: str, keep: float) -> None:
    content = encoded(noise(), kind)
    with pytest.raises(DataError, match=r"^x is not a readable image: .") as error:
        decode(content[: int(len(content) * keep)], "x")
    assert "/" not in str(error.value)
    assert ".cpp" not in str(error.value)
    assert "\n" not in str(error.value)


def test_decode__damaged_png_is_refused_before_the_decoder_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision 0.29 ends the process with a segmentation fault on such pixel data."""

    def crash(*_: object, **__: object) -> None:
        pytest.fail("the decoder was called")

    content = encoded(noise(), "PNG")
    monkeypatch.setattr("torchvision.io.decode_image", crash)
    for place in (20, 60, len(content) // 2, len(content) - 14):
        damaged = bytearray(content)
        damaged[place] ^= 255
        with pytest.raises(DataError, match="does not match its checksum"):
            decode(bytes(damaged), "x.png")
    zeros = content[: len(content) // 2] + bytes(len(content) // 2)
    with pytest.raises(DataError, match="checksum"):
        decode(zeros, "x.png")


def test_decode__what_libpng_forgives_is_forgiven() -> None:
    content = encoded(noise(), "PNG")
    expected = decode(content, "x.png")
    damaged_text = bytearray(png_chunk(b"tEXt", b"Title\0cat"))
    damaged_text[-1] ^= 1
    for kind in (content[:33] + bytes(damaged_text) + content[33:], content + b"more", content[:-12]):
        assert torch.equal(decode(kind, "x.png"), expected)


def photograph(folder: Path) -> Image.Image:
    with Image.open(next((folder / "test" / "cat").iterdir())) as image:
        return image.convert("RGB").resize((61, 37))


@pytest.mark.parametrize("damage", ["half", "without its end mark"])
@pytest.mark.parametrize("progressive", [False, True])
def test_decode__jpeg_that_is_not_whole_is_an_error_not_half_an_image(
    cifar10_sample: Path, damage: str, progressive: bool
) -> None:
    content = encoded(photograph(cifar10_sample), "JPEG", quality=95, progressive=progressive)
    assert decode(content, "x").shape == (3, 37, 61)
    broken = {"half": content[: len(content) // 2], "without its end mark": content[:-2]}[damage]
    with pytest.raises(DataError, match="truncated"):
        decode(broken, "x")


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"bits": 8}),
        ("LA", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("RGB", "PNG", {"transparency": (0, 0, 0)}),
        ("1", "PNG", {}),
        ("P", "GIF", {"interlace": 1}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
    ],
)
def test_decode__pixels_are_those_of_pillow(
    cifar10_sample: Path, mode: str, kind: str, options: dict[str, Any]
) -> None:
    content = encoded(photograph(cifar10_sample).convert(mode), kind, **options)
    with Image.open(io.BytesIO(content)) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode(content, "x"), expected)


def test_decode__ycck_photograph_becomes_rgb(cifar10_sample: Path) -> None:
    """YCCK is what Photoshop writes: Adobe's marker says that the first three inks are a luma and two chromas."""
    content = bytearray(encoded(photograph(cifar10_sample).convert("CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    difference = decode(bytes(content), "x").int() - expected.int()
    assert difference.abs().max() <= 2
    assert expected.float().std() > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_decode__exif_rotation_is_ignored(cifar10_sample: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photograph(cifar10_sample), kind, exif=exif)
    plain = encoded(photograph(cifar10_sample), kind)
    assert turned != plain
    assert torch.equal(decode(turned, "x"), decode(plain, "x"))


def test_decode__animation_shows_its_first_frame_whatever_follows(cifar10_sample: Path) -> None:
    first = photograph(cifar10_sample).convert("P")
    content = encoded(first, "GIF", save_all=True, append_images=[first.rotate(90), first.rotate(180)], duration=9)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert torch.equal(decode(content, "x"), decode(encoded(first, "GIF"), "x"))
    assert torch.equal(decode(content[:-200], "x"), decode(content, "x"))
    alone = encoded(first, "GIF")
    assert torch.equal(decode(alone[:-1], "x"), decode(alone, "x"))
    with pytest.raises(DataError, match="it is truncated"):
        decode(alone[:-200], "x")


def test_decode__gif_colours_beyond_its_table_are_black_every_time() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    table = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(pixels, "L").convert("P")
    image.putdata(pixels.reshape(-1).tolist())
    image.putpalette(table.reshape(-1).tolist())
    content = encoded(image, "GIF")
    rgb = decode(content, "x").permute(1, 2, 0).numpy()
    entries = (content[10] & 7) + 1
    assert entries == 8
    colours = np.frombuffer(content[13 : 13 + 768], np.uint8).reshape(256, 3)
    index = np.array([np.flatnonzero((colours == pixel).all(1))[0] for pixel in rgb.reshape(-1, 3)])
    for bits in (1, 2, 4, 7):
        short = content[:10] + bytes([content[10] & 0xF8 | bits - 1]) + content[11 : 13 + 3 * 2**bits] + content[781:]
        expected = np.where(index[:, None] < 2**bits, rgb.reshape(-1, 3), 0).reshape(32, 32, 3)
        for _ in range(3):
            np.testing.assert_array_equal(decode(short, "x").permute(1, 2, 0).numpy(), expected)


def test_decode__gif_local_table_is_filled_up_too_and_one_without_any_is_refused() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).convert("P")
    content = encoded(image, "GIF")
    size = 3 << (content[10] & 7) + 1
    frame = content.index(b",", 13 + size)
    none = content[:10] + bytes([content[10] & 0x7F]) + content[11:13] + content[13 + size :]
    with pytest.raises(DataError, match="it has no colour table"):
        decode(none, "x")
    at = frame - size
    local = none[: at + 9] + bytes([none[at + 9] & 0x40 | 0x80]) + b"\xff\0\0\0\xff\0" + none[at + 10 :]
    pixels = decode(local, "x")
    assert pixels.sum() == 0 or pixels.unique().tolist() == [0, 255]
    assert torch.equal(pixels, decode(local, "x"))
