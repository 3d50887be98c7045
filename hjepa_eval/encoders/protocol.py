"""What an encoder is: images in, one tensor of tokens per level out, finest level first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.readouts import Level, check_readout, level_widths, read_levels
from hjepa_eval.errors import EncoderError

__all__ = ["Encoder", "Level", "check_outputs", "hash_tensors"]


class Encoder(nn.Module):
    """Parent of all encoders; a user's own `file.py:build` returns one.

    A child sets the attributes and defines `forward`.

    Attributes:
        name: how reports call it.
        levels: finest first.
        transform: how images become its input.
        settings: everything besides weights and transform that changes a feature, as JSON values.
        prefix_names: of the tokens before the cells, such as `register 1`; those that have none are numbered.
        channels_last: whether images and weights lie channels last in memory, as convolutions like it.
        files: all files that it was made from; while they stay as they are, its identity is remembered. None: unknown.
        notes: what a user should know of how it was made, such as which weights of a checkpoint were taken.
        embed: features of images at hand, as `embed_images`.
    """

    name: str
    levels: tuple[Level, ...]
    transform: Transform
    settings: dict[str, Any]
    prefix_names: tuple[str, ...] = ("class token",)
    channels_last: bool = False
    files: tuple[Path, ...] | None = None
    notes: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one `[B, T_l, D_l]` per level for normalised float images `[B, 3, H, W]`."""
        raise EncoderError(f"the encoder {type(self).__name__} does not define forward(images)")

    def name_prefix(self) -> tuple[str, ...]:
        """Return a name for each of the tokens before the cells of level 0."""
        count = self.levels[0].prefix
        numbered = (f"prefix token {number}" for number in range(len(self.prefix_names) + 1, count + 1))
        return (*self.prefix_names[:count], *numbered)

    def __getattr__(self, name: str) -> Any:
        """Give `embed` (`embed_images` of this encoder) where no part of a user's encoder has that name."""
        if name == "embed" and name not in self._modules:
            return partial(embed_images, self)
        return super().__getattr__(name)

    def weights_hash(self) -> str:
        """Return the sha256 of all parameters and buffers: names, dtypes, shapes and bytes."""
        return hash_tensors(self.state_dict())

    def identity(self) -> dict[str, Any]:
        """Return what tells this encoder from all others: class, levels, settings, transform and weights."""
        return {
            "class": type(self).__name__,
            "levels": [asdict(level) for level in self.levels],
            "settings": self.settings,
            "transform": asdict(self.transform),
            "weights": self.weights_hash(),
        }


@torch.inference_mode()
def embed_images(
    encoder: Encoder, images: Sequence[Any], *, readout: str = "mean", batch_size: int = 64
) -> dict[str, npt.NDArray[np.float32]]:
    """Return features float32 `[N, D]` of images by the name of their level, finest first, in float32 arithmetic.

    It is also the method `encoder.embed`, unless a part of the encoder is called so.

    Args:
        encoder: runs on the device that it is on.
        images: paths, PIL images, or uint8 arrays `[H, W]`, `[H, W, 3]` or `[3, H, W]`, also tensors; they are
            prepared by the encoder's own `transform`.
        readout: how a level's tokens become one vector.
        batch_size: images per forward pass.

    Raises:
        DataError: an image cannot be read; the message says which.
        EncoderError: the encoder does not return what its levels declare.
        UnknownNameError: there is no such readout.
    """
    from hjepa_eval.datasets.images import as_image, fit

    check_readout(readout, encoder.levels)
    weights = next(encoder.parameters(), torch.empty(0))
    encoder.eval()
    names = [level.name for level in encoder.levels]
    keys = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names)]
    parts: list[list[Tensor]] = [[torch.empty(0, width)] for width in level_widths(readout, encoder.levels)]
    for start in range(0, len(images), batch_size):
        part = enumerate(images[start : start + batch_size], start)
        fitted = [fit(as_image(image, name=f"image {place}"), encoder.transform) for place, image in part]
        batch = torch.stack(fitted).to(weights.device)
        outputs = encoder(encoder.transform.normalise(batch))
        check_outputs(encoder, outputs, len(batch))
        features = read_levels(readout, [output.float() for output in outputs], encoder.levels)
        for read, rows in zip(features, parts, strict=True):
            rows.append(read.cpu())
    return {key: torch.cat(rows).numpy() for key, rows in zip(keys, parts, strict=True)}


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the sha256 of named tensors, independent of their order in the mapping."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_outputs(encoder: Encoder, outputs: Sequence[Tensor], batch: int) -> None:
    """Check that an encoder returned what its levels declare.

    Raises:
        EncoderError: the number of levels or a shape differs; the message names the level and both shapes.
    """
    if not isinstance(outputs, list | tuple) or not all(isinstance(output, Tensor) for output in outputs):
        raise EncoderError(f"{encoder.name} returned {type(outputs).__name__}; return a list of one tensor per level")
    if len(outputs) != len(encoder.levels):
        raise EncoderError(
            f"{encoder.name} declares {len(encoder.levels)} levels and returned {len(outputs)} tensors; make them agree"
        )
    for level, output in zip(encoder.levels, outputs, strict=True):
        expected = (batch, level.tokens, level.dim)
        if tuple(output.shape) != expected:
            raise EncoderError(
                f"{encoder.name} level {level.index} declares {list(expected)} and returned {list(output.shape)}; "
                "make its grid, prefix and dim agree with what forward returns"
            )
