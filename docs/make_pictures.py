"""Take pictures of a report's page, or of the attention explorer, for the README.

    python docs/make_pictures.py runs/demo/report.html           # docs/report.png and docs/report-dark.png
    python docs/make_pictures.py explorer.html --name attention  # docs/attention.png and docs/attention-dark.png

The first screen of a desktop, 1,200 pixels wide, in light and dark, by playwright (extra `dev`) with the system's own
chromium; nothing is fetched. PNG with at most 256 colours, which keeps a picture under 300 kB.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from hjepa_eval.errors import HjepaError, ResultError
from hjepa_eval.features.fingerprint import write_atomically

WIDTH, HEIGHT = 1200, 820
LARGEST = 300_000
COLOURS = (256, 128, 64, 32)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ENDINGS = {"light": "", "dark": "-dark"}


def find_browser() -> str:
    """Return the path of the system's chromium.

    Raises:
        ResultError: there is none.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise ResultError(f"no browser on this machine ({', '.join(BROWSERS)}); install chromium")


def take_pictures(page: Path, *, browser: str, height: int = HEIGHT) -> dict[str, bytes]:
    """Return the first screen of an HTML file as PNG, by colour scheme.

    Raises:
        ResultError: there is no such file, playwright is absent, or the browser cannot show it.
    """
    if not page.is_file():
        raise ResultError(f"no page {page}; hjepa report --format html --out {page} writes one")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise ResultError("pictures need playwright; pip install 'hjepa[dev]'") from None
    pictures = {}
    try:
        with sync_playwright() as driver:
            window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            for scheme in ENDINGS:
                view = window.new_page(
                    viewport={"width": WIDTH, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                view.goto(page.absolute().as_uri())
                pictures[scheme] = view.screenshot()
            window.close()
    except Error as error:
        raise ResultError(f"{browser} cannot show {page}: {error.message.splitlines()[0]}") from None
    return pictures


def shrink(picture: bytes, *, largest: int = LARGEST) -> bytes:
    """Return a PNG with as many of `COLOURS` as fit into `largest` bytes.

    Raises:
        ResultError: even the fewest do not.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        written = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
        if written.tell() <= largest:
            return written.getvalue()
    raise ResultError(f"the picture takes {written.tell():,} bytes with {colours} colours; choose a lower --height")


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="HTML file")
    parser.add_argument("--name", default="report", help="beginning of the pictures' names")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the pictures")
    parser.add_argument("--height", type=int, default=HEIGHT, help="pixels of the page to show")
    asked = parser.parse_args(arguments)
    try:
        pictures = take_pictures(asked.page, browser=find_browser(), height=asked.height)
        for scheme, picture in pictures.items():
            path = asked.out / f"{asked.name}{ENDINGS[scheme]}.png"
            small = shrink(picture)
            try:
                write_atomically(path, small)
            except OSError as error:
                raise ResultError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None
            print(f"{path}: {len(small):,} bytes")
    except HjepaError as error:
        print(f"make_pictures: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
