"""A small convolutional network for small images: a fixed whitening stem, then groups that are levels.

It is named by its widths: `conv_64_256_256` has three groups. Its methods are those of timm's models with stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa_eval.errors import EncoderError

_NAME = re.compile(r"conv(_[1-9][0-9]{0,3})+")
LEAST_GROUPS, MOST_GROUPS = 2, 4


def is_convolutions(name: str) -> bool:
    """Tell whether a name is that of `Convolutions`."""
    return name.startswith("conv_")


def read_widths(name: str) -> tuple[int, ...]:
    """Return the widths of the groups that a name such as `conv_64_256_256` gives.

    Raises:
        EncoderError: it gives none, or too few or too many of them.
    """
    widths = tuple(map(int, name.split("_")[1:])) if _NAME.fullmatch(name) else ()
    if not LEAST_GROUPS <= len(widths) <= MOST_GROUPS:
        raise EncoderError(
            f"{name}: expected conv_ and {LEAST_GROUPS} to {MOST_GROUPS} widths from 1 to 9999, such as conv_64_256_256"
        )
    return widths


class Stem(nn.Module):
    """All 2x2 patches of an image, almost whitened, with both signs: `[B, 3, H, W]` to `[B, 24, H - 1, W - 1]`.

    Natural images have principal components near the cosine basis of patches and luma and two differences of colours;
    on that fixed basis a BatchNorm without parameters makes variances equal. Nothing is learned but these.

    Source: airbench (Keller Jordan), whose stem has the eigenvectors of patches of the train split, with both signs.
    Deviation: a fixed basis, so that the stem needs no images to be built, and is the same for all data.
    """

    basis: Tensor

    def __init__(self) -> None:
        """Build the basis."""
        super().__init__()
        colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
        waves = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
        basis = torch.einsum("ac,iy,jx->aijcyx", F.normalize(colours, dim=1), waves, waves)
        self.register_buffer("basis", basis.reshape(12, 3, 2, 2))
        self.norm = nn.BatchNorm2d(12, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations."""
        white = self.norm(F.conv2d(images, self.basis))
        return F.gelu(torch.cat((white, -white), dim=1))


class Group(nn.Module):
    """A 3x3 convolution, whose maximum halves the grid, and another one around which the input is added."""

    def __init__(self, before: int, width: int) -> None:
        """Build a group of `width` channels for maps of `before` channels."""
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        for convolution in (self.first, self.second):
            # So that maps are of size 1 before the norms have seen an image, too.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """Return `[B, width, rows // 2, columns // 2]`."""
        halved = F.gelu(self.first_norm(F.max_pool2d(self.first(maps), 2)))
        added: Tensor = F.gelu(halved + self.second_norm(self.second(halved)))
        return added


class Convolutions(nn.Module):
    """The stem and the groups. A map of 32 pixels has 15, 7 and 3 rows after three groups, one of 16 has 7, 3 and 1.

    Attributes:
        num_features: width of the last group.
        feature_info: as timm's models have it.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        """Build groups of these `widths`."""
        super().__init__()
        self.stem = Stem()
        self.groups = nn.ModuleList(Group(*pair) for pair in zip((24, *widths), widths, strict=False))
        self.num_features = widths[-1]
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** (number + 1), "module": f"groups.{number}"}
            for number, width in enumerate(widths)
        ]
        self.pretrained_cfg = {"input_size": (3, 32, 32)}

    def forward_intermediates(self, images: Tensor, *, indices: Sequence[int], **_: Any) -> list[Tensor]:
        """Return the maps `[B, D_l, rows_l, columns_l]` of the groups `indices`, of images `[B, 3, H, W]`."""
        maps, kept = self.stem(images), []
        for group in self.groups[: max(indices) + 1]:
            maps = group(maps)
            kept.append(maps)
        return [kept[index] for index in indices]

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the map of the last group."""
        (last,) = self.forward_intermediates(images, indices=[len(self.groups) - 1])
        return last

    def forward(self, images: Tensor) -> Tensor:
        """Return `[B, num_features]`, the mean over the last map."""
        return self.forward_features(images).mean(dim=(2, 3))
