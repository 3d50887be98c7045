"""Inference: an encoder on its device that turns uint8 batches into features, eager or compiled."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.encoders.readouts import get_readout, level_widths, read_levels
from hjepa_eval.errors import CompileError
from hjepa_eval.machine.devices import float32_products

# Compiling a ViT took 60 to 75 s on two cores, and made it a quarter faster in float32 (torch 2.15).
_COMPILE_SECONDS, _COMPILE_GAIN = 60.0, 1.25
# Rough speeds in GFLOP/s that a forward pass reaches: per core, and of one CUDA device.
_CPU_SPEED = {"fp32": 40.0, "bf16": 200.0}
_CUDA_SPEED = {"fp32": 20_000.0, "tf32": 80_000.0, "bf16": 150_000.0}
# So many of the features must have so high a cosine with those of the eager encoder.
_SAME_SHARE, _SAME_COSINE = 0.99, 0.999

Features = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Copies:
    """Features on their way to the host.

    Attributes:
        features: in the host's memory, whole only after `wait`.
        done: recorded behind the copy; None where nothing is copied.
        source: what is copied, kept until then.
    """

    features: Features
    done: torch.cuda.Event | None
    source: Tensor | None

    def wait(self) -> Features:
        """Return the features when they are whole."""
        if self.done is not None:
            self.done.synchronize()
        return self.features


class Inference:
    """Features of uint8 batches, computed on one device without gradients.

    Shapes are static when compiled: a short batch is padded to `batch_size` and cut again.
    """

    def __init__(
        self,
        encoder: Encoder,
        readouts: Sequence[str],
        *,
        device: torch.device,
        precision: str,
        batch_size: int,
        compiled: bool = False,
    ) -> None:
        """Move `encoder` to `device`.

        Args:
            encoder: stays there until `close`.
            readouts: names; all of them come from one forward pass.
            device: where it runs.
            precision: `bf16` (autocast), `tf32` or `fp32`.
            batch_size: the largest batch.
            compiled: compile normalisation, encoder and readouts at the first batch.

        Raises:
            UnknownNameError: there is no such readout.
        """
        self.memory_format = torch.channels_last if encoder.channels_last else torch.contiguous_format
        self.encoder = encoder.to(device).to(memory_format=self.memory_format).eval()
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        for name in readouts:
            get_readout(name)
        self._readouts = tuple(readouts)
        self._checked = False
        self._compiled: Any = None
        self._failures: tuple[type[Exception], ...] = ()
        if compiled:
            from torch._dynamo.exc import TorchDynamoException
            from torch._inductor.exc import InductorError

            self._failures = (TorchDynamoException, InductorError)
            options: Any = {"freezing": True} if device.type == "cpu" else {"triton.cudagraphs": True}
            self._compiled = torch.compile(self._features, dynamic=False, options=options)

    def close(self) -> None:
        """Move the encoder back to the CPU, and give back what it used of the device's memory.

        A compiled encoder holds its CUDA graphs' memory for as long as it lives, and torch keeps what it once had;
        FAISS, which comes next, allocates outside of both.
        """
        self.encoder.to("cpu")
        self._compiled = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Return float32 features `[B, F]` on the device, by readout, one per level, for uint8 images `[B, 3, S, S]`.

        Raises:
            EncoderError: the encoder returns another shape than it declares.
            CompileError: it cannot be compiled, or gives other features when it is.
        """
        with float32_products(self.precision):
            return self._run(images)

    def _run(self, images: Tensor) -> Features:
        count = len(images)
        if count == 0:
            return self._nothing()
        if self._compiled is None:
            return self._features(images.to(self.device, non_blocking=True))
        if count < self.batch_size:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, self.batch_size - count))
        images = images.to(self.device, non_blocking=True)
        try:
            features: Features = self._compiled(images)
        except self._failures as error:
            reason = str(error).strip().splitlines()[0]
            raise CompileError(f"torch.compile failed on {self.encoder.name}: {reason}; take --compile off") from None
        if not self._checked:
            self._compare(features, self._features(images), count)
        self._checked = True
        # The next call of a CUDA graph writes into the same memory.
        keep = Tensor.clone if self.device.type == "cuda" else lambda tensor: tensor
        return {name: [keep(level[:count]) for level in levels] for name, levels in features.items()}

    def to_host(self, features: Features) -> Copies:
        """Begin to copy `features` to the host, all levels of all readouts at once, and return how to wait for them.

        To be called right after the forward pass, so that the copy is not behind the next one in the device's queue.
        """
        rows = [level for levels in features.values() for level in levels]
        widths = [level.shape[1] for level in rows]
        if self.device.type != "cuda":
            return Copies(features, None, None)
        joined = torch.cat([level.to(self.device) for level in rows], dim=1)
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
        host.copy_(joined, non_blocking=True)
        done: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        parts = iter(torch.split(host, widths, dim=1))
        return Copies({name: [next(parts) for _ in levels] for name, levels in features.items()}, done, joined)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Return what the eager encoder gives at its precision for normalised float images `[B, 3, S, S]`."""
        batch = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs: list[Tensor] = self.encoder(batch)
        return outputs

    def _features(self, images: Tensor) -> Features:
        outputs = self.tokens(self.encoder.transform.normalise(images))
        check_outputs(self.encoder, outputs, len(images))
        tokens = [output.float() for output in outputs]
        return {name: read_levels(name, tokens, self.encoder.levels) for name in self._readouts}

    def _nothing(self) -> Features:
        widths = {name: level_widths(name, self.encoder.levels) for name in self._readouts}
        return {name: [torch.empty(0, width) for width in each] for name, each in widths.items()}

    def _compare(self, compiled: Features, eager: Features, count: int) -> None:
        """Check the first `count` features of a batch; the others belong to no image."""
        for name, levels in eager.items():
            for level, (expected, found) in enumerate(zip(levels, compiled[name], strict=True)):
                cosine = F.cosine_similarity(expected[:count], found[:count])
                same = (cosine >= _SAME_COSINE) | (expected[:count] == found[:count]).all(1)
                if same.float().mean() < _SAME_SHARE:
                    raise CompileError(
                        f"{self.encoder.name}, compiled, gives other features at level {level} ({name}: lowest cosine "
                        f"to the eager ones {cosine.min():.4f}); take --compile off"
                    )


def can_compile(device: torch.device) -> bool:
    """Tell whether there is what torch.compile needs: a C++ compiler for the CPU, triton for CUDA."""
    if device.type == "cpu":
        from torch._inductor import config

        wanted = config.cpp.cxx if isinstance(config.cpp.cxx, tuple) else (config.cpp.cxx,)
        return any(shutil.which(name) for name in wanted if name)
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return False


def compiling_pays(*, eager: float, compiled: float, device: torch.device, precision: str) -> bool:
    """Tell whether compiling is worth its time.

    Args:
        eager: GFLOP that are left for the eager encoder.
        compiled: GFLOP that the compiled one would have to do.
        device: where.
        precision: `bf16` or `fp32`.
    """
    speed = _CPU_SPEED[precision] * torch.get_num_threads() if device.type == "cpu" else _CUDA_SPEED[precision]
    return compiled / (speed * _COMPILE_GAIN) + _COMPILE_SECONDS < eager / speed
