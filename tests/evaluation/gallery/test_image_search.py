"""Search with own images: the nearest of brute force, by command and in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hjepa_eval as hjepa
from hjepa_eval.cli import main
from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import ConfigError, DataError
from hjepa_eval.features import read_features, read_names
from hjepa_eval.features.cache import default_cache_dir, list_stores

MODEL = "random:vit_tiny_patch8_32?taps=4,8,12"


@pytest.fixture
def photos(cifar10_sample: Path, tmp_path: Path) -> Path:
    """Eight train and two test images of three classes."""
    for split, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog", "ship"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for image in sorted((cifar10_sample / split / name).iterdir())[:count]:
                shutil.copy(image, tmp_path / "photos" / split / name)
    return tmp_path / "photos"


def test_search__finds_what_brute_force_finds_and_the_image_itself_first(photos: Path) -> None:
    image = sorted((photos / "train" / "dog").iterdir())[3]
    other = sorted((photos / "test" / "ship").iterdir())[0]
    result = hjepa.search([image, other], MODEL, f"folder:{photos}", k=4, precision="fp32", quiet=True)
    assert result.images == (str(image), str(other))
    assert result.names.shape == result.labels.shape == result.cosine.shape == (3, 2, 4)
    assert set(result.names[:, 0, 0].tolist()) == {f"train/dog/{image.name}"}
    np.testing.assert_allclose(result.cosine[:, 0, 0], 1, atol=1e-5)
    assert set(result.classes[:, 0, 0].tolist()) == {"dog"}
    store = next(
        entry.folder for entry in list_stores(default_cache_dir()) if entry.manifest and entry.manifest.split == "train"
    )
    names = read_names(store)
    for level in range(3):
        bank = np.array(read_features(store, level), np.float64)
        bank /= np.linalg.norm(bank, axis=1, keepdims=True)
        row = names.index(f"train/dog/{image.name}")
        order = np.argsort(-(bank @ bank[row]), kind="stable")[:4]
        assert result.names[level, 0].tolist() == [names[place] for place in order]
        np.testing.assert_allclose(result.cosine[level, 0], (bank @ bank[row])[order], atol=1e-5)


def test_search__arrays_are_images_too_and_k_is_at_most_what_there_is(photos: Path) -> None:
    dataset = load_dataset(f"folder:{photos}", "train")
    pixels = dataset.image(5).permute(1, 2, 0).numpy()
    options = {"k": 99, "level": [2], "precision": "fp32", "quiet": True}
    result = hjepa.search(pixels, MODEL, f"folder:{photos}", **options)
    assert result.index.shape == (1, 1, 24)
    assert result.index[0, 0, 0] == 5
    assert result.levels[0][0] == 2
    with pytest.raises(DataError, match=r"image 0 is float64 of the shape \[4\]; expected uint8"):
        hjepa.search(np.ones(4), MODEL, f"folder:{photos}", quiet=True)
    with pytest.raises(ConfigError, match="no image to search with"):
        hjepa.search([], MODEL, f"folder:{photos}", quiet=True)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_command__prints_names_classes_and_cosines_and_draws(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    image = sorted((photos / "train" / "cat").iterdir())[0]
    evil = photos / "train" / "cat" / "<b>$x$.png"
    Image.open(image).save(evil)
    data = ("--model", MODEL, "--dataset", f"folder:{photos}", "--k", 3, "--quiet")
    code, out, err = run(capsys, "search", image, *data, "--level", 0)
    assert code == 0, err
    assert f"  1.000  cat  train/cat/{image.name}" in out
    page = Path("search.html").read_text()
    assert page.count("<li>") == 3
    assert "train/cat/&lt;b&gt;$x$.png" in page
    assert "<b>$x$" not in page
    code, out, err = run(capsys, "search", image, evil, *data, "--out", "a/near.png", "--json")
    assert code == 0, err
    answers = json.loads(out)["answers"]
    assert [(answer["image"], answer["level"]) for answer in answers][:4] == [
        *((str(image), level) for level in range(3)),
        (str(evil), 0),
    ]
    assert len(answers[0]["neighbours"]) == 3
    with Image.open("a/near.png") as drawn:
        assert drawn.width > 400
        assert drawn.height > 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.png",), "cannot read the image gone.png: No such file"),
        (("text.png",), "text.png is no JPEG, PNG, GIF or WebP image"),
        (("photo.png", "--out", "x.pdf"), "--out x.pdf: name a file ending in .html or .png"),
        (("photo.png", "--level", "7"), "unknown level"),
        (("photo.png", "--model", "features:mine"), "features:mine has no network that could take an image"),
    ],
)
def test_command__mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    model = () if "--model" in arguments else ("--model", "pixels:8")
    code, out, err = run(capsys, "search", *arguments, *model, "--max-samples", 20, "--quiet")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
