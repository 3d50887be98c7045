"""docs/make_pictures.py: pictures of a page in light and dark, small enough for a README."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from folders import ROOT
from needed_tools import need_module, need_program

SCRIPT = ROOT / "docs/make_pictures.py"
PAGE = """<!doctype html><title>a page</title><style>
body { background: rgb(250, 250, 250) }
@media (prefers-color-scheme: dark) { body { background: rgb(20, 20, 20) } }
</style><h1>Levels</h1>"""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "pretrain")]), **changes}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.browser
def test_make_pictures__light_and_dark_of_desktop_width(tmp_path: Path) -> None:
    from PIL import Image

    need_module("playwright")
    need_program(*load_script().BROWSERS)
    (tmp_path / "page.html").write_text(PAGE)
    done = run(tmp_path / "page.html", "--name", "shown", "--out", tmp_path, "--height", 400)
    assert done.returncode == 0, done.stderr
    corners = {}
    for name in ("shown", "shown-dark"):
        picture = Image.open(tmp_path / f"{name}.png").convert("RGB")
        assert picture.size == (1200, 400)
        corners[name] = picture.getpixel((1199, 399))
    assert corners == {"shown": (250, 250, 250), "shown-dark": (20, 20, 20)}


def test_shrink__a_busy_picture_gets_fewer_colours_until_it_fits() -> None:
    from PIL import Image

    script = load_script()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(noise).save(written, "PNG")
    counts = {}
    for largest in (300_000, 30_000):
        small = script.shrink(written.getvalue(), largest=largest)
        assert len(small) <= largest
        counts[largest] = len(Image.open(io.BytesIO(small)).getcolors())
    assert counts[30_000] < counts[300_000] <= 256
    with pytest.raises(script.ResultError, match="choose a lower --height"):
        script.shrink(written.getvalue(), largest=100)


@pytest.mark.parametrize(
    ("page", "changes", "words"),
    [("absent.html", {}, "no page absent.html"), ("page.html", {"PATH": ""}, "no browser on this machine")],
)
def test_make_pictures__says_in_one_line_what_is_missing(page: str, changes: dict[str, str], words: str) -> None:
    Path("page.html").write_text(PAGE)
    if "PATH" not in changes:
        need_program(*load_script().BROWSERS)
    done = run(page, **changes)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
