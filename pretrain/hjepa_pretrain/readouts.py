"""Features for diagnostics: the mean token of every level, from images that need not fit in memory as floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hjepa_pretrain.models.encoders import ContextEncoder
from hjepa_pretrain.spread import token_variance


@dataclass(frozen=True)
class LevelFeatures:
    """One level of N images, float32 on the CPU.

    Attributes:
        features: `[N, D]`, the mean token as evaluation reads it.
        before_norm: `[N, D]`, the mean token before the encoder's final LayerNorm; `features` where there is none.
        within: `[N]`, the variance over an image's tokens, averaged over dimensions.
    """

    features: Tensor
    before_norm: Tensor
    within: Tensor

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.features)


@torch.no_grad()
def readouts(
    encoder: ContextEncoder, batches: Iterable[Tensor], *, normalise: Callable[[Tensor], Tensor] | None = None
) -> list[LevelFeatures]:
    """Return the features of every level; one batch at a time is on the encoder's device.

    A compiled encoder runs uncompiled here: its kernels are made for the batch of a training step, and would hide what
    goes into the norm.

    Args:
        encoder: in whichever mode it shall be read; the context encoder drops paths unless it is in evaluation mode.
        batches: whole images `[B, 3, H, W]`, such as `images.split(256)`.
        normalise: makes the encoder's input of a batch on its device (of uint8, say); batches are the input if absent.
    """
    device = next(encoder.parameters()).device
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in encoder.taps]
    with _NormInputs(encoder) as seen, torch.compiler.set_stance("force_eager"):
        for batch in batches:
            images = batch.to(device)
            outputs = encoder(images if normalise is None else normalise(images))
            raw = seen.take(outputs)
            for level, part in enumerate(parts):
                tokens = outputs[level][:, encoder.prefix :].float()
                before = raw[level][:, encoder.prefix :].float().mean(dim=1)
                part.append((tokens.mean(dim=1).cpu(), before.cpu(), token_variance(tokens).cpu()))
    return [LevelFeatures(*(torch.cat(column) for column in zip(*part, strict=True))) for part in parts]


class _NormInputs:
    """Watches the encoder's final norm: which of its inputs became which output."""

    def __init__(self, encoder: ContextEncoder) -> None:
        norm = getattr(getattr(encoder, "vit", None), "norm", None)
        self.norm: nn.Module | None = norm if isinstance(norm, nn.Module) else None
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> _NormInputs:
        watch = self.norm.register_forward_hook if self.norm is not None else None
        self.handle = watch(self._note) if watch else None
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.remove()

    def _note(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.pairs.append((inputs[0], output))

    def take(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return what was normed into each of `outputs`, or the output itself, and forget the batch."""
        found = [next((before for before, after in self.pairs if after is output), output) for output in outputs]
        self.pairs.clear()
        return found
