"""The page of real photographs: CIFAR-10's images on every map, as `hjepa eval` makes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODEL = "random:test_vit?levels=3"


def test_page__of_cifar10_is_whole_and_below_8_mb(
    digits_run: Path, cifar10_images: Callable[[dict[str, int]], Path], tmp_path: Path
) -> None:
    from hjepa_eval.cli import main

    # A map takes 1,000 test images at most, so a page of all 10,000 holds no more of them than this one.
    root = cifar10_images({"train": 100, "test": 100})
    data = ["--dataset", "cifar10", "--root", root, "--predictions", "--episodes", 50, "--c", 1, "--map", "pca"]
    where = ["--out", tmp_path / "results", "--cache-dir", tmp_path / "cache", "--quiet"]
    for model, baselines in ((digits_run, ("random", "pixels:8")), (MODEL, ("none",))):
        named = [word for name in baselines for word in ("--baselines", name)]
        with pytest.raises(SystemExit) as stop:
            main(["eval", "--model", *map(str, (model, *named, *data, *where))])
        assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "results"), "--format", "html", "--out", str(tmp_path / "page.html")])
    assert stop.value.code == 0
    page = (tmp_path / "page.html").read_text()
    maps = re.findall(r'data-points="([^"]+)"', page)
    assert len(maps) == 2 + 2 + 1 + 3
    assert page.count("data-point=") == 1_000 * len(maps)
    photographs = page.count("background-image:url(data:image/jpeg") + page.count("background-image:url(data:image/png")
    assert photographs >= 1_000
    assert "no thumbnail here" not in page
    assert "To keep the file small" not in page
    # kNN and linear at each level.
    assert page.count('class="picture matrix"') == 2 * len(maps)
    assert 1_500_000 < len(page.encode()) < 8_000_000
