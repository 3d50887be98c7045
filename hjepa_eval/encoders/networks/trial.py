"""A trial forward pass, without any arithmetic: whether an encoder runs at all, and which weights take part in it."""

from __future__ import annotations

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
