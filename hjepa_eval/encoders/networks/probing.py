"""What an encoder computes for fixed images, as a hash: code may change where weights do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hjepa_eval.encoders.protocol import Encoder, check_outputs

# Numbers that stand for a level's output on one image, and to how many digits: a machine's or a thread count's own
# rounding, 1e-16 of a sum in float64 and 1e-7 in float32, must hardly ever change one.
_PROJECTIONS = 8
_DIGITS = {torch.float64: 8, torch.float32: 3}


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
