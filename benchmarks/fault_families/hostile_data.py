"""Hostile images, tars and names: no hang, no bomb, nothing outside the folder, no raw control character anywhere."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_families.edits import signed
from fault_families.ground import Fault, Ground, Try, copied, counted, raw_controls, refused

PATIENCE = 30.0
NAMES = (
    "\x1b[31mred",
    "\x1b]0;title\x07x",
    "\x1b[2J",
    "\x9b31m",
    "a\u202egpj.exe",
    "a\u2066b",
    "=cmd()",
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "[bold red]x[/]",
    "[link=x]y",
    "<script>alert(1)</script>",
    "a|b",
    r"\input{x}#&~$%",
    "%00",
    "con",
    "line\nbreak",
    "tab\tbed",
    "x" * 200,
    "cr\rback",
    "b\bs",
)
PLACES = ("class", "file", "path", "record")
FORMATS = ("table", "md", "csv", "json", "latex", "html")


def png(width: int, height: int, data: bytes, *, extra: bytes = b"") -> bytes:
    """Return a PNG file of 8-bit grey with this compressed data, true or not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    content = b"Comment\x00\x00" + zlib.compress(b"x" * (100 << 20), 9)
    head = struct.pack(">I", len(content)) + b"zTXt" + content
    return head + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def _bytes(make: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(make())


def _sparse(file: Path, size: int) -> None:
    file.write_bytes(b"\xff\xd8\xff\xe0")
    os.truncate(file, size)


def _pillow(kind: str, size: tuple[int, int], **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": _bytes(bytes),
    "text": _bytes(lambda: b"no image"),
    "PNG 60,000 squared": _bytes(lambda: png(60_000, 60_000, zlib.compress(bytes(100)))),
    "PNG of 169 megapixels": _bytes(lambda: png(13_000, 13_000, zlib.compress(bytes(13_001 * 13_000), 9))),
    "PNG without data": _bytes(lambda: png(32, 32, b"")),
    "PNG with 300 MB for 32 x 32": _bytes(lambda: png(32, 32, zlib.compress(bytes(300 << 20), 9))),
    "PNG with 100 MB of text": _bytes(lambda: png(32, 32, zlib.compress(bytes(33 * 32)), extra=_text_bomb())),
    "PNG of no size": _bytes(lambda: png(0, 0, zlib.compress(b""))),
    "GIF 60,000 squared": _bytes(lambda: b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\x00\x00\x00;"),
    "GIF cut": _bytes(lambda: _pillow("GIF", (32, 32))[:30]),
    "JPEG cut": _bytes(lambda: _pillow("JPEG", (32, 32))[:200]),
    "JPEG 1 x 60,000": _bytes(lambda: _pillow("JPEG", (1, 60_000))),
    "WebP cut": _bytes(lambda: _pillow("WEBP", (32, 32))[:40]),
    "SVG": _bytes(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "sparse 3 GiB": lambda file: _sparse(file, 3 << 30),
    "sparse 1 TiB": lambda file: _sparse(file, 1 << 40),
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": lambda file: file.symlink_to(file.name),
    "link to /dev/zero": lambda file: file.symlink_to("/dev/zero"),
    "link to /dev/tty": lambda file: file.symlink_to("/dev/tty"),
    "link outside": lambda file: file.symlink_to("/etc/passwd"),
    "dead link": lambda file: file.symlink_to("nowhere"),
}


def hostile_data(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Hostile images in class folders and tars; hostile names of classes, files, models, checkpoints, tar keys."""
    tries = [_image_try(ground, name, skip) for name in IMAGES for skip in (False, True)]
    tries += [_tar_try(ground, name) for name in TARS]
    tries += [_name_try(ground, name, where) for name in NAMES for where in draw.sample(PLACES, 2)]
    yield from draw.sample(tries, len(counted(len(tries), share)))


def _small(folder: Path, ground: Ground) -> Path:
    """Return a small data set of class folders of its own."""
    for file in (ground.folder / "images").glob("*/*/00[0-5].png"):
        copied(file, folder / file.relative_to(ground.folder / "images"))
    return folder


def _probe(ground: Ground, scratch: Path, dataset: str, *words: str) -> bool:
    """Run kNN on a data set; tell whether it was refused, which is as good as a table."""
    ended = ground.do("knn", "--model", "pixels:8", "--dataset", dataset, *words, folder=scratch, patience=PATIENCE)
    return refused(ended)


def _image_try(ground: Ground, name: str, skip: bool) -> Try:
    def act(scratch: Path) -> str:
        images = _small(scratch / "images", ground)
        IMAGES[name](images / "train/c0/0000.jpg")
        return "refused" if _probe(ground, scratch, f"folder:{images}", *words) else "left out or read"

    words = ("--on-bad-image", "skip") if skip else ()
    return Try("images", f"{name}{', skip' * skip}", act)


def _entry(name: str, **fields: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def _label(text: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(_entry("z.cls"), text)]


TARS: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "absolute": [(_entry("/tmp/z.png"), b"x"), *_label(b"0")],
    "upwards": [(_entry("../../z.png"), b"x"), *_label(b"0")],
    "within and upwards": [(_entry("a/../../z.png"), b"x"), *_label(b"0")],
    "link": [(_entry("z.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""), *_label(b"0")],
    "hard link": [(_entry("z.png", type=tarfile.LNKTYPE, linkname="/etc/passwd"), b""), *_label(b"0")],
    "device": [(_entry("z.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""), *_label(b"0")],
    "FIFO": [(_entry("z.png", type=tarfile.FIFOTYPE), b""), *_label(b"0")],
    "label -1": _label(b"-1"),
    "label 999999999": _label(b"999999999"),
    "label NaN": _label(b"NaN"),
    "label of 5,000 digits": _label(b"9" * 5000),
    "label twice": [*_label(b"0"), *_label(b"1")],
    "no image": _label(b"0"),
    "escape in a key": [(_entry("\x1b[31mz.png"), b"x")],
    "turned key": [(_entry("z\u202e.png"), b"x")],
    "cut": [],
    "sparse member of 3 GiB": [],
    "empty": [],
}


def _tar_try(ground: Ground, name: str) -> Try:
    def act(scratch: Path) -> str:
        image = next((ground.folder / "images/train").glob("*/*.png")).read_bytes()
        for split in ("train", "test"):
            with tarfile.open(scratch / f"{split}.tar", "w") as tar:
                good = [
                    (f"{n}.{kind}", data) for n in range(8) for kind, data in (("png", image), ("cls", b"%d" % (n % 2)))
                ]
                for entry, content in [*((_entry(key), data) for key, data in good), *TARS[name]]:
                    if entry.isfile():
                        entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        train = scratch / "train.tar"
        if name == "empty":
            train.write_bytes(b"")
        elif name == "cut":
            train.write_bytes(train.read_bytes()[:1300])
        elif name == "sparse member of 3 GiB":
            with train.open("r+b") as file:
                file.seek(-10240, 2)
                file.write(_entry("z.png", size=3 << 30).tobuf())
            os.truncate(train, 4 << 30)
        outcome = "refused" if _probe(ground, scratch, "wds:{split}.tar") else "read"
        if (scratch.parent / "z.png").exists() or Path("/tmp/z.png").exists():
            raise Fault("a member was written outside")
        return outcome

    return Try("tars", name, act)


def _name_try(ground: Ground, name: str, where: str) -> Try:
    def act(scratch: Path) -> str:
        if where == "record":
            return _record(ground, scratch, name)
        images = _small(scratch / "images", ground)
        as_file = name.replace("/", "-")
        if where == "path":
            refused(ground.do("report", as_file, folder=scratch))
            (scratch / f"{as_file[:100]}.pth").write_bytes(b"no checkpoint")
            refused(ground.do("models", f"timm:vit_tiny_patch16_224?checkpoint={as_file[:100]}.pth", folder=scratch))
            images = images.rename(scratch / as_file)
            return "refused" if _probe(ground, scratch, f"folder:{images}") else "escaped"
        if where == "class":
            for split in ("train", "test"):
                (images / split / "c1").rename(images / split / as_file)
        else:
            (images / "train/c1/000.png").rename(images / f"train/c1/{as_file}.png")
            (images / f"train/c1/{as_file}.jpg").write_bytes(b"no image")
            _probe(ground, scratch, f"folder:{images}")
            (images / f"train/c1/{as_file}.jpg").unlink()
        _probe(ground, scratch, f"folder:{images}", "--predictions")
        return _reported(ground, scratch)

    return Try("names", f"{ascii(name)[:40]} as {where}", act)


def _record(ground: Ground, scratch: Path, name: str) -> str:
    results = copied(ground.results, scratch / "results")
    file = next(results.glob("run__*__knn__*.json"))
    content = json.loads(file.read_text())
    content["model"]["name"] = name
    file.write_text(json.dumps(signed(content)))
    return _reported(ground, scratch)


def _reported(ground: Ground, scratch: Path) -> str:
    """Report the records in every format; no format holds a raw control character, CSV no formula."""
    for kind in FORMATS:
        ended = ground.do("report", "results", "--format", kind, "--out", f"report.{kind}", folder=scratch)
        if refused(ended):
            return "refused"
        content = (scratch / f"report.{kind}").read_bytes()
        if raw := raw_controls(content):
            raise Fault(f"{kind} holds raw {raw}")
        if kind == "csv" and re.search(r'(^|,)"?[=+@]', content.decode(), flags=re.MULTILINE):
            raise Fault("csv holds a formula")
        if kind == "html" and b"<script>alert" in content:
            raise Fault("the page holds a script from data")
    return "escaped"
