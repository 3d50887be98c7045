"""Trial passes: whether an encoder runs at all, which weights take part, and what comes out for fixed images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hjepa_eval.encoders.costs import Trace, memory_of, undisturbed
from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.errors import EncoderError, first_few

# What an interface that is not the expected one ends in.
FAILURES = (
    *(AttributeError, TypeError, UnboundLocalError, KeyError, IndexError, ValueError, RuntimeError, AssertionError),
)


def try_encoder(encoder: Encoder, *, advice: str) -> tuple[str, ...]:
    """Run an encoder once and return the names of the parameters that no level depends on.

    The pass computes shapes alone, on torch's meta device; where that is not possible it is computed.

    Args:
        encoder: is left as it was.
        advice: what to do when it does not run.

    Raises:
        EncoderError: it does not run, or gives what its levels do not declare; one line says why.
    """
    try:
        with torch.device("meta"):
            return _unused(encoder, torch.device("meta"))
    except (*FAILURES, EncoderError):
        pass  # Its code asks for values, or makes tensors on a device of its own.
    try:
        return _unused(encoder, torch.device("cpu"))
    except FAILURES as error:
        raise failure(encoder.name, error, advice=advice) from None


def failure(name: str, error: Exception, *, advice: str) -> EncoderError:
    """Return the error for a network that one of `FAILURES` came out of."""
    text = str(error).strip()
    reason = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    return EncoderError(f"{name} does not run on an image ({reason}); {advice}")


def _unused(encoder: Encoder, device: torch.device) -> tuple[str, ...]:
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    weights = next((t for t in encoder.parameters() if t.is_floating_point()), torch.empty(0))
    images = torch.zeros(2, 3, *encoder.transform.shape, device=device, dtype=weights.dtype)
    with undisturbed(encoder, device), Trace() as trace:
        outputs: list[Tensor] = functional_call(encoder, moved, (images,))
    check_outputs(encoder, outputs, 2)
    _, leaves = trace.ancestors(outputs)
    return tuple(name for name, _ in encoder.named_parameters() if memory_of(moved[name]) not in leaves)


def note_unused(unused: tuple[str, ...], model: nn.Module) -> tuple[str, ...]:
    """Return a sentence that names parameters without a part in any level, or nothing.

    Args:
        unused: their names, as of the encoder.
        model: the network inside it, whose blocks or stages after the deepest level are counted, not listed.
    """
    if not unused:
        return ()
    names = [name.removeprefix("model.") for name in unused]
    numbers = dict(model.named_parameters())
    count = sum(numbers[name].numel() for name in names if name in numbers)
    return (f"{len(names)} parameters ({count:,} numbers) take no part in any level: {first_few(names)}",)


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
