"""Facts: what every image has, computed from its pixels, so that a probe can ask which levels know it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import EncoderError

FACTS = (
    "lightness",
    "green to red",
    "blue to yellow",
    "brightness",
    "contrast",
    "colourfulness",
    "sharpness",
    "edge density",
    "edges 0",
    "edges 45",
    "edges 90",
    "edges 135",
    "spectral slope",
    "symmetry",
)
# A gradient of luma, per pixel and of a range of 1, from which on a pixel counts as an edge.
_EDGE = 0.1
_LUMA = (0.299, 0.587, 0.114)
# From linear sRGB to CIE XYZ over its white, D65; rows X, Y, Z (IEC 61966-2-1).
_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def lab(images: Tensor) -> Tensor:
    """Return CIE L*a*b* `[N, 3, H, W]` of sRGB images in [0, 1]; L* is 0 to 100."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("xc,nchw->nxhw", torch.tensor(_XYZ, dtype=images.dtype), linear)
    root = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def image_facts(images: Tensor) -> Tensor:
    """Return the facts of images, float32 `[N, 14]` in the order of `FACTS`.

    Lightness and the two colour axes are means of CIE L*a*b*; contrast is the deviation of luma; sharpness the log of
    the deviation of its Laplacian; edge density the share of pixels with a gradient above 0.1; the four orientations
    share the gradients' energy; the spectral slope is that of log power over log frequency; symmetry the correlation
    with the mirror image.

    Args:
        images: `[N, 3, H, W]` in [0, 1], at least 4 pixels high and wide.

    Source: Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003, equation for M3; Pech-Pacheco et
        al. 2000 for the Laplacian's spread; Field 1987 for the slope.
    """
    luma = torch.einsum("c,nchw->nhw", torch.tensor(_LUMA, dtype=images.dtype), images)
    red, green, blue = images.unbind(dim=1)
    across, along = red - green, (red + green) / 2 - blue
    spread = (across.var((1, 2), correction=0) + along.var((1, 2), correction=0)).sqrt()
    colourfulness = spread + 0.3 * (across.mean((1, 2)).square() + along.mean((1, 2)).square()).sqrt()
    columns = [
        lab(images).mean(dim=(2, 3)),
        luma.mean((1, 2))[:, None],
        luma.std((1, 2), correction=0)[:, None],
        colourfulness[:, None],
        _edges(luma),
        _spectral_slope(luma)[:, None],
        _symmetry(luma)[:, None],
    ]
    return torch.cat(columns, dim=1).to(torch.float32)


def _edges(luma: Tensor) -> Tensor:
    """Return sharpness, edge density and the share of four orientations in the gradients' energy, `[N, 6]`."""
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=luma.dtype) / 8
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=luma.dtype)
    right, down, second = F.conv2d(padded, torch.stack([sobel, sobel.T, laplace])[:, None]).unbind(dim=1)
    energy = right.square() + down.square()
    sharpness = (second.std((1, 2), correction=0) + 1e-4).log()
    density = (energy > _EDGE**2).to(luma.dtype).mean((1, 2))
    # Twice the angle of the gradient: edges of opposite contrast are alike. Weights fall to 0 at 45 degrees.
    angle = torch.atan2(down, right) % math.pi
    shares = []
    for orientation in range(4):
        apart = (angle - orientation * math.pi / 4).abs()
        apart = torch.minimum(apart, math.pi - apart)
        shares.append((energy * (1 - apart / (math.pi / 4)).clamp(min=0)).sum((1, 2)))
    total = torch.stack(shares, dim=1)
    return torch.cat(
        [sharpness[:, None], density[:, None], (total + 1e-6) / (total.sum(1, keepdim=True) + 4e-6)], dim=1
    )


def _spectral_slope(luma: Tensor) -> Tensor:
    """Return the least-squares slope of log power over log frequency, over all frequencies but 0, `[N]`."""
    height, width = luma.shape[-2:]
    power = torch.fft.rfft2(luma).abs().square()
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
    frequency = (down.square() + across.square()).sqrt().flatten()[1:]
    x = frequency.log() - frequency.log().mean()
    y = (power.flatten(1)[:, 1:] + 1e-6).log()
    slopes: Tensor = (y - y.mean(dim=1, keepdim=True)) @ x / x.square().sum()
    return slopes


def _symmetry(luma: Tensor) -> Tensor:
    """Return the correlation of luma with its mirror image, `[N]`; 0 where it does not vary."""
    centred = luma - luma.mean((1, 2), keepdim=True)
    energy = centred.square().sum((1, 2))
    return (centred * centred.flip(-1)).sum((1, 2)) / energy.clamp(min=1e-6)


class Facts(Encoder):
    """Facts of 8x8 cells, with each cell's row and column, and of the whole image."""

    def __init__(self, size: int = 64) -> None:
        """Take images resized to `size` x `size`, a multiple of 8."""
        super().__init__()
        self.name = "facts"
        self.cells = size // 8
        self.levels = (
            Level(0, f"facts of {self.cells}x{self.cells} cells", len(FACTS) + 2, (self.cells, self.cells)),
            Level(1, "facts of the image", len(FACTS), (1, 1)),
        )
        self.transform = Transform(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.settings = {"facts": 1}
        self.files = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, cells^2, 16]` and `[B, 1, 14]` for images `[B, 3, size, size]` in [0, 1]."""
        # Facts are numbers of pixels, not of the precision that a network runs in.
        exact, count = images.to(torch.float32), self.cells
        patches = exact.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 8, 8)
        rows, columns = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
        places = torch.stack([rows, columns], dim=-1).reshape(1, -1, 2) / max(1, count - 1)
        of_cells = image_facts(patches).reshape(len(images), -1, len(FACTS))
        return [torch.cat([of_cells, places.expand(len(images), -1, -1)], dim=2), image_facts(exact)[:, None]]


def load_facts(argument: str, options: Mapping[str, str]) -> Encoder:
    """Return `facts` or `facts:SIZE`.

    Raises:
        EncoderError: SIZE is no multiple of 8 from 16 on, or there are options.
    """
    if options or (argument and not (argument.isdigit() and int(argument) >= 16 and int(argument) % 8 == 0)):
        raise EncoderError(f"facts:{argument}: expected a size in pixels that 8 divides, such as facts:64")
    return Facts(int(argument)) if argument else Facts()
