from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hjepa_eval.datasets.named.digits import Digits

MODEL = "random:vit_tiny_patch2_8?taps=1,3"


def test_attention__writes_one_page_and_says_what_is_in_it(hjepa: Callable, tmp_path: Path) -> None:
    done = hjepa("attention", "--model", MODEL, "--dataset", "digits", "--images", 3, "--json", "--quiet")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    page = tmp_path / "explorer.html"
    assert said["file"] == "explorer.html"
    assert said["bytes"] == page.stat().st_size
    assert (said["images"], said["blocks"], said["heads"]) == ([0, 1, 2], [1, 2, 3], 3)
    assert said["names"] == [Digits("test").source_name(place) for place in range(3)]
    assert (said["grid"], said["prefix"], said["notes"]) == ([4, 4], 1, [])
    text = page.read_text()
    assert text.count('data-image="') == 3
    assert "level 1: block 3, 2x2 cells" in text


def test_attention__images_blocks_and_levels_can_be_named(hjepa: Callable, tmp_path: Path) -> None:
    options = ["--index", 5, "--index", "2,5", "--layers", 3, "--level", 1, "--batch-size", 2, "--out", "a/b.html"]
    done = hjepa("attention", "--model", MODEL, "--dataset", "digits", *options)
    assert done.code == 0, done.err
    assert "2 images, 1 block of 3 heads" in done.out
    text = (tmp_path / "a" / "b.html").read_text()
    for place in (5, 2):
        name = Digits("test").source_name(place)
        assert f'alt="Image {place}, class {place}, {name}" title="{name}"' in text
    assert '"blocks": [3]' in text
    assert "level 0: block" not in text


def test_attention__a_blocks_rollout_goes_through_blocks_that_are_not_held(hjepa: Callable, tmp_path: Path) -> None:
    def rollouts(name: str, *options: object) -> dict[str, bytes]:
        assert (
            hjepa("attention", "--model", MODEL, "--dataset", "digits", "--images", 1, "--out", name, *options).code
            == 0
        )
        data = re.search(r'id="data">(.*?)</script>', (tmp_path / name).read_text(), flags=re.DOTALL)[1]
        return {key: base64.b64decode(packed) for key, packed in json.loads(data)["images"][0]["rollout"].items()}

    whole, last = rollouts("all.html"), rollouts("last.html", "--layers", 3)
    assert all(whole[key].endswith(last[key]) and len(whole[key]) == 3 * len(last[key]) for key in whole)


def test_attention__fewer_images_are_taken_where_all_do_not_fit_and_it_is_said(hjepa: Callable, tmp_path: Path) -> None:
    options = ["--model", MODEL, "--dataset", "digits", "--max-mb", 0.065]
    done = hjepa("attention", *options, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert 1 <= len(said["images"]) < 8
    assert said["bytes"] <= 65_000
    assert f"{len(said['images'])} of 8 images are shown: each takes 0.01 MB" in said["notes"][0]
    assert said["notes"][0] in done.err
    assert "images are shown: each takes" in (tmp_path / "explorer.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-mb", "0.02"], "the page with one image takes"),
        (["--index", "4000"], "--index 4000: digits test has 355 images here, numbered 0 to 354"),
        (["--max-samples", "10", "--index", "10"], "numbered 0 to 9"),
        (["--layers", "4"], "computes blocks 1 to 3, up to its deepest level"),
        (["--layers", "0"], "layers.0"),
        (["--level", "7"], "unknown level"),
        (["--model", "pixels:8"], "choose a ViT"),
        (["--out", "."], "is a folder"),
        (["--out", "taken/explorer.html"], "cannot write taken/explorer.html"),
        (["--split", "validation"], "split"),
    ],
)
def test_attention__mistakes_get_one_clear_line_and_no_file(
    hjepa: Callable, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    given = [] if "--model" in options else ["--model", MODEL]
    done = hjepa("attention", *given, "--dataset", "digits", "--images", 1, "--quiet", *options)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.rglob("*.html")) == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_attention__open_shows_the_file_in_the_browser(
    hjepa: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    done = hjepa("attention", "--model", MODEL, "--dataset", "digits", "--images", 1, "--open")
    assert done.code == 0, done.err
    assert opened == [(tmp_path / "explorer.html").as_uri()]


def test_attention__unreadable_images_stop_it_or_are_left_out(
    hjepa: Callable, cifar10_sample: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos" / "test"
    for name in ("bird", "cat"):
        (photos / name).mkdir(parents=True)
        for source in sorted((cifar10_sample / "test" / name).iterdir())[:2]:
            (photos / name / source.name).write_bytes(source.read_bytes())
    (photos.parent / "train").symlink_to("test")
    next((photos / "bird").iterdir()).write_bytes(b"no image")
    options = ["--model", "random:vit_tiny_patch4_8?levels=1", "--dataset", f"folder:{photos.parent}"]
    assert hjepa("attention", *options).code == 2
    done = hjepa("attention", *options, "--on-bad-image", "skip", "--json")
    assert done.code == 0, done.err
    assert "left out: " in done.err
    assert len(json.loads(done.out)["images"]) == 3
