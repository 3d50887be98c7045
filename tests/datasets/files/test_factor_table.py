"""factors.csv beside the splits: kinds, missing values, and one clear line for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_png

from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 12)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = torch.randint(0, 256, (3, 8, 8), generator=generator, dtype=torch.uint8)
                write_png(image, str(folder / f"{number:02}.png"))
    return tmp_path / "photos"


def table(folder: Path, *lines: str) -> None:
    (folder / "factors.csv").write_text("\n".join(["name,weather,hour,camera:categorical", *lines]) + "\n")


def test_factors__kinds_come_from_values_or_headings_and_gaps_are_missing(photos: Path) -> None:
    table(photos, "train/cat/00.png,rain,13.5,2", "train/dog/00.png,sun,,10", "test/cat/01.png,snow,7,2")
    train = load_dataset(f"folder:{photos}", "train")
    factors = train.factors
    assert {name: factor.kind for name, factor in factors.items()} == {
        "weather": "categorical",
        "hour": "numeric",
        "camera": "categorical",
    }
    # Categories are those of both splits: one number means one thing.
    assert factors["weather"].categories == ("rain", "snow", "sun")
    place = next(index for index in range(len(train)) if train.source_name(index) == "train/dog/00.png")
    assert factors["weather"].values[place] == 2
    assert np.isnan(factors["hour"].values[place])
    assert np.isnan(factors["hour"].values).sum() == 23
    assert np.nansum(load_dataset(f"folder:{photos}", "test").factors["hour"].values) == 7


def test_factors__follow_the_images_into_a_subset(photos: Path) -> None:
    table(photos, "train/cat/00.png,rain,1,1", "train/cat/01.png,sun,2,2")
    part = load_dataset(f"folder:{photos}?per_class=6", "train")
    names = [part.source_name(index) for index in range(len(part))]
    hours = dict(zip(names, part.factors["hour"].values, strict=True))
    assert {name: hour for name, hour in hours.items() if not np.isnan(hour)} == {
        name: hour for name, hour in (("train/cat/00.png", 1.0), ("train/cat/01.png", 2.0)) if name in names
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train/cat/99.png,rain,1,1", "train/cow/1.png,rain,1,1"], "names 2 files that are not there: train/cat/99"),
        (["train/cat/00.png,rain,1,1", "train/cat/00.png,sun,1,1"], "line 3: train/cat/00.png is named twice"),
        (["train/cat/00.png,rain,1"], "line 2: it has more or fewer fields"),
        (["train/cat/00.png,rain,1,1,5"], "line 2: it has more or fewer fields"),
    ],
)
def test_factors__what_cannot_be_is_said_with_its_place(photos: Path, lines: list[str], message: str) -> None:
    table(photos, *lines)
    with pytest.raises(DataError, match=message):
        _ = load_dataset(f"folder:{photos}", "train").factors


def test_factors__a_numeric_column_holds_numbers(photos: Path) -> None:
    (photos / "factors.csv").write_text("name,hour:numeric\ntrain/cat/00.png,noon\n")
    with pytest.raises(DataError, match="line 2: hour:numeric is 'noon', no number"):
        _ = load_dataset(f"folder:{photos}", "train").factors
    (photos / "factors.csv").write_text("file,hour\ntrain/cat/00.png,1\n")
    with pytest.raises(DataError, match="no column 'name'"):
        _ = load_dataset(f"folder:{photos}", "train").factors
    (photos / "factors.csv").write_bytes(b"name,hour\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="cannot read"):
        _ = load_dataset(f"folder:{photos}", "train").factors


def test_profile__leaves_out_a_constant_factor_and_a_name_for_every_image(
    photos: Path, hjepa: Callable[..., object]
) -> None:
    import json

    names = [
        str(file.relative_to(photos)) for split in ("train", "test") for file in sorted((photos / split).rglob("*.png"))
    ]
    lines = [f"{name},{name},{place % 7},9" for place, name in enumerate(names)]
    table(photos, *lines)
    shown = hjepa(
        *("profile", "--model", "facts:32", "--dataset", f"folder:{photos}", "--baselines", "none"),
        *("--parts", "factors", "--json", "--quiet"),
    )
    assert shown.code == 0, shown.err  # type: ignore[attr-defined]
    (profile,) = json.loads(shown.out)  # type: ignore[attr-defined]
    reasons = {entry["name"]: entry["reason"] for entry in profile["left_out"]}
    assert "for every" in reasons["weather"] or "24 categories for 24 train images" in reasons["weather"]
    assert "same for all" in reasons["camera"]
    measured = [score["factor"] for score in profile["levels"][0]["factors"]]
    assert "hour" in measured
    assert {"weather", "camera"}.isdisjoint(measured)


def test_profile__files_that_are_absent_are_one_line(photos: Path, hjepa: Callable[..., object]) -> None:
    table(photos, "train/cat/99.png,rain,1,1")
    shown = hjepa("profile", "--model", "facts:32", "--dataset", f"folder:{photos}", "--baselines", "none", "--quiet")
    assert (shown.code, shown.out) == (2, "")  # type: ignore[attr-defined]
    assert len(shown.err.splitlines()) == 1  # type: ignore[attr-defined]
    assert "names 1 files that are not there: train/cat/99.png" in shown.err  # type: ignore[attr-defined]
