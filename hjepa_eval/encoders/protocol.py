"""What an encoder is: images in, one tensor of tokens per level out, finest level first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.readouts import Level
from hjepa_eval.errors import EncoderError

__all__ = ["Encoder", "Level", "check_outputs", "hash_outputs", "hash_tensors", "probe_images"]

# Numbers that stand for a level's output on one image, and to how many digits: a machine's or a thread count's own
# rounding, 1e-16 of a sum in float64 and 1e-7 in float32, must hardly ever change one.
_PROJECTIONS = 8
_DIGITS = {torch.float64: 8, torch.float32: 3}


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


def probe_images(encoder: Encoder, *, count: int) -> Tensor:
    """Return float32 noise `[count, 3, H, W]` as the encoder takes it, always the same, on the encoder's device."""
    weights = next(encoder.parameters(), torch.empty(0))
    noise = torch.randn(3, 3, *encoder.transform.shape, generator=torch.Generator().manual_seed(0))
    return noise[:count].to(weights.device)


@torch.no_grad()
def hash_outputs(encoder: Encoder) -> str:
    """Return a hash of what an encoder computes for two fixed images: its code may change where its weights do not.

    Of each level and image it takes eight weighted sums, in float64 where the encoder's code can, and rounds them.

    Raises:
        EncoderError: it does not return what its levels declare.
    """
    images = probe_images(encoder, count=2)
    try:
        with _float64(encoder):
            sums = _sums(encoder(images.double()))
    except (RuntimeError, TypeError, ValueError):  # Its code makes float32 tensors of its own.
        sums = None
    if sums is None:
        outputs = encoder(images)
        check_outputs(encoder, outputs, 2)
        sums = _sums(outputs)
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _sums(outputs: Sequence[Tensor]) -> list[list[str]]:
    sums = []
    for output in outputs:
        rows = output.detach().cpu().double().flatten(1)
        places = torch.arange(rows.shape[1], dtype=torch.float64)
        weights = torch.stack([torch.cos(places * (number + 0.5)) for number in range(_PROJECTIONS)])
        # Over the largest that the sums could be: one that is nearly 0 is rounded like the others.
        scaled = (rows @ weights.T) / rows.abs().sum(1, keepdim=True).clamp_min(1e-300)
        digits = _DIGITS.get(output.dtype, 2)
        sums.append([f"{round(value, digits) + 0.0:.{digits}f}" for value in scaled.flatten().tolist()])
        sums.append([f"{value:.{digits}e}" for value in rows.abs().mean(1).tolist()])
    return sums


@contextmanager
def _float64(module: nn.Module) -> Iterator[None]:
    """Let all floating-point weights be float64 meanwhile; they come back bit for bit."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data
