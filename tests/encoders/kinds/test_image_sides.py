"""Which images a user's network wants, where only its constructor says it, and names that are nearly right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds.hooked import load_module
from hjepa_eval.errors import ConfigError, EncoderError, HjepaError, UnknownNameError, UserCodeError

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, {name}=32):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, 8)
        self.register_buffer("positions", torch.zeros(1, 4, {name} // 8, {name} // 8))
    def forward(self, images):
        return self.patches(images) + self.positions
"""


@pytest.mark.parametrize("name", ["img_size", "image_size", "input_size"])
def test_user_file__the_side_is_what_the_constructor_was_given(name: str) -> None:
    Path("net.py").write_text(NET.format(name=name))
    assert load_encoder("net.py:Net?layers=patches").transform.size == 32
    assert load_encoder(f"net.py:Net?layers=patches?{name}=64").transform.size == 64


def test_user_file__a_side_that_nothing_says_is_asked_for_with_one_that_runs() -> None:
    Path("net.py").write_text(NET.format(name="pixels"))
    with pytest.raises(UserCodeError, match=r"failed on images of 224x224 pixels \(it runs on 32x32: \?size=32\)"):
        load_encoder("net.py:Net?layers=patches")
    assert load_encoder("net.py:Net?layers=patches?size=32").transform.size == 32


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, 8)
        self.positions = torch.zeros(1, 4, 12, 12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patches(images) + self.positions


def test_module__that_fails_on_usual_images_is_one_line_with_a_side_that_runs() -> None:
    with pytest.raises(EncoderError, match=r"it runs on 96x96: pass transform=Transform\(96, 96\)"):
        load_module(Fixed(), layers=["patches"], transform=None)


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("net.py", EncoderError, r"say what in it builds the encoder: --model net\.py:NAME \(it has Net\)"),
        ("runs/nope", UnknownNameError, "no folder runs/nope, so no pretraining run; 'hjepa pretrain'"),
        ("net.py:Net?size=96,layers=a", ConfigError, r"options begin with \? each; write \?layers="),
    ],
)
def test_name__that_is_nearly_right_is_told_what_is_missing(spec: str, kind: type[HjepaError], said: str) -> None:
    Path("net.py").write_text(NET.format(name="img_size"))
    with pytest.raises(kind, match=said):
        load_encoder(spec)
