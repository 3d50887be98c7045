"""Raw pixels: the baseline that needs no encoder."""

from __future__ import annotations

from torch import Tensor

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import EncoderError


class Pixels(Encoder):
    """The image itself, values in [0, 1], as one token of `3 * size * size` numbers."""

    def __init__(self, size: int = 32) -> None:
        """Take images resized to `size` x `size`."""
        super().__init__()
        self.name = "pixels"
        self.levels = (Level(0, f"{size}x{size} pixels", 3 * size * size, (1, 1)),)
        self.transform = Transform(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.settings = {}
        self.files = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return `[B, 1, 3 * size * size]` for images `[B, 3, size, size]`."""
        return [images.flatten(1).unsqueeze(1)]


def load_pixels(argument: str) -> Encoder:
    """Return `pixels` or `pixels:SIZE`.

    Raises:
        EncoderError: SIZE is no positive number.
    """
    if argument and not (argument.isdigit() and int(argument) > 0):
        raise EncoderError(f"pixels:{argument}: expected a size in pixels, such as pixels:32")
    return Pixels(int(argument)) if argument else Pixels()
