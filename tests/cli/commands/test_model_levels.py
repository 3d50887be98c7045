from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

# Where ms/image begins in the table of a ViT.
LAST_COLUMN = len("    0  block 4, 1x1 cells    8x8      65    192            1.80        0.244")


def test_models__one_encoder_as_a_table(hjepa) -> None:
    done = hjepa("models", "random:vit_tiny_patch4_32")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line[:LAST_COLUMN].rstrip() for line in lines[1:5]] == [
        "level  reads                grid  tokens  width  parameters (M)  GFLOP/image",
        "    0  block 4, 1x1 cells    8x8      65    192            1.80        0.244",
        "    1  block 8, 2x2 cells    4x4      17    192            3.58        0.487",
        "    2  block 12, 4x4 cells   2x2       5    192            5.36        0.730",
    ]
    assert lines[0] == "random:vit_tiny_patch4_32: 5.36M parameters, images 32x32, 0.730 GFLOP per image"
    assert [line[LAST_COLUMN:].strip() for line in lines[1:2]] == ["ms/image"]
    assert all(float(line[LAST_COLUMN:].partition("±")[0]) > 0 for line in lines[2:5])
    assert lines[5:7] == [
        "readouts and their widths: mean 192, max 192, cls 192, cls_mean 384, last4 192/384/576, grid 768, "
        "tokens 12288/3072/768",
        "parameters and GFLOP from the image up to that level alone; a multiply-add is 2 FLOP, elementwise work is 0",
    ]
    assert re.fullmatch(
        r"ms measured now, median and half of the middle half, on this machine \(.+\); all levels \d+\.\d{3}±.+",
        lines[7],
    )


@pytest.mark.slow
def test_models__one_encoder_as_json(hjepa) -> None:
    looked = json.loads(hjepa("models", "random:resnet18", "--json").out)
    assert looked["parameters"] == 11_176_512
    assert looked["image_size"] == 224
    assert looked["gflop"] == looked["levels"][3]["gflop"] == 3.627122688
    assert [level["parameters"] for level in looked["levels"]] == [157_504, 683_072, 2_782_784, 11_176_512]
    assert looked["levels"][0]["readouts"] == {"mean": 64, "max": 64, "last4": 64, "grid": 256, "tokens": 56 * 56 * 64}
    assert all(level["milliseconds"] > 0 for level in looked["levels"])
    assert looked["milliseconds"] > 0
    assert looked["timed"].keys() == {"device", "hardware", "threads", "precision", "batch", "steady"}
    assert "cls" not in hjepa("models", "pixels:8").out


def test_models__layers_of_a_users_module_are_listed_with_what_they_give(hjepa) -> None:
    Path("net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.LazyLinear(5))\n"
    )
    assert hjepa("models", "net.py:Net?size=16", "--layers").out.splitlines() == [
        "layer   class    gives",
        "0       Conv2d   [B, 4, 2, 2]",
        "1       Flatten  [B, 16]",
        "2       Linear   [B, 5]",
        "output  Net      [B, 5]",
    ]


@pytest.mark.parametrize("asked", [["net.py:Net", "--layers"], ["net.py:Net?layers=0"]])
def test_models__network_of_another_image_size_is_told_how_to_say_it(hjepa, asked: list[str]) -> None:
    Path("net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(16, 5))\n\n"
        "    def forward(self, images):\n        return super().forward(images)\n"
    )
    refused = hjepa("models", *asked)
    first, where, _ = refused.err.splitlines()
    assert refused.code == 2
    assert "failed on images of 224x224 pixels (?size= sets others): RuntimeError:" in first
    assert where.endswith("net.py, line 9, in forward")
    assert hjepa("models", f"{asked[0]}?size=16", *asked[1:]).code == 0
    rows = json.loads(hjepa("models", "random:resnet10t", "--layers", "--json").out)
    assert {"layer": "layer1", "class": "Sequential", "gives": "[B, 64, 44, 44]"} in rows
    done = hjepa("models", "net.py:Net?layers=7")
    assert done.code == 2
    assert "the nearest names are" in done.err


USER_FILE = """
import torch
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level

class Distances(Encoder):
    name, settings, transform = "distances", {}, Transform(8, 8)
    levels = (Level(0, "corner", 3, (1, 1), prefix=1), Level(1, "distances", 2, (1, 1)))

    def forward(self, images):
        corner = images[:, :, :1, :2].flatten(2).transpose(1, 2)
        return [corner, torch.cdist(corner[:, :1], corner, p=1.0)]

def build():
    return Distances()
"""


def test_models__what_is_not_counted_is_said(hjepa, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER_FILE)
    out = hjepa("models", "mine.py:build").out
    assert "not counted: aten._cdist_forward" in out
    assert "cls 3/-" in out  # the second level has no class token
    levels = json.loads(hjepa("models", "mine.py:build", "--json").out)["levels"]
    assert [level["uncounted"] for level in levels] == [[], ["aten._cdist_forward"]]


def test_models__kmeans_is_fitted_on_the_dataset_asked_for(hjepa, cifar10_sample: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = ("models", "kmeans:8", "--cache-dir", cache)
    on_digits = hjepa(*arguments).out
    assert on_digits.startswith("kmeans:8: no parameters, ")
    assert "numbers fitted on digits, images 32x32" in on_digits
    asked = (*arguments, "--dataset", "cifar10", "--root", cifar10_sample)
    looked = json.loads(hjepa(*asked, "--json").out)
    assert (looked["fitted_on"], looked["parameters"], looked["levels"][0]["dim"]) == ("cifar10", 0, 32)
    # R whitened directions of 6x6 RGB patches with an offset each, 8 centroids, mean and deviation of 4 * 8 sums.
    directions = (looked["buffers"] - 2 * 32) / (6 * 6 * 3 + 1 + 8)
    assert directions in range(1, 109)
    assert len(list((cache / "encoders").glob("*.safetensors"))) == 2


def test_models__weights_that_are_not_here_say_how_to_get_them(hjepa) -> None:
    done = hjepa("models", "timm:vit_tiny_patch16_224")
    assert done.code == 2
    assert "--download" in done.err


def test_models__options_of_other_commands_are_checked_likewise(hjepa) -> None:
    assert "options: seed: input should be a valid integer" in hjepa("models", "kmeans", "--seed", "no").err
    assert "nowhere" in hjepa("models", "kmeans", "--dataset", "cifar10", "--root", "nowhere").err


def test_models__layers_that_differ_in_a_number_are_one_line(hjepa) -> None:
    text = hjepa("models", "random:vit_tiny_patch16_224", "--layers").out
    assert "blocks.0-11.attn.qkv" in text
    assert len(text.splitlines()) < 40
    assert len(json.loads(hjepa("models", "random:vit_tiny_patch16_224", "--layers", "--json").out)) > 150
