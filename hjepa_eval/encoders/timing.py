"""Milliseconds per image: what an encoder takes up to each level alone, on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx

from hjepa_eval.encoders.costs import undisturbed
from hjepa_eval.encoders.inference import Inference
from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.encoders.tape import record

# Larger batches are tried until one forward pass takes so many seconds.
_PASS_SECONDS = 0.2
# So many passes of each level, and within these bounds until each has had its seconds.
_FEWEST, _MOST, _LEVEL_SECONDS = 5, 20, 0.25
# Rounding of bfloat16; a level whose numbers differ by more was not taken apart rightly.
_SAME = 0.01
# What a dispatch mode or a replay raises on operations that cannot be written down.
_UNWRITABLE = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, AssertionError)


@dataclass(frozen=True)
class EncoderTiming:
    """Milliseconds per image, of the fastest of several forward passes: whatever else runs only ever adds to it.

    Attributes:
        levels: up to each level alone, finest first; None where an encoder of several levels cannot be taken apart.
        together: of the forward pass that gives all levels.
        batch: images per forward pass.
    """

    levels: tuple[float, ...] | None
    together: float
    batch: int


def encoder_timing(encoder: Encoder, *, device: torch.device, precision: str, largest: int) -> EncoderTiming:
    """Return how long `encoder` takes up to each level alone, and for all levels together.

    One forward pass is written down (`tape`); a level is timed by running the operations that it needs, and nothing
    that only other levels need. Levels and the whole encoder take turns, so that a slow moment of the machine meets
    all of them. Eager, without torch.compile, decoding, normalisation and readouts.

    Args:
        encoder: comes back on the device where it was.
        device: where it is timed.
        precision: `bf16` (autocast) or `fp32`.
        largest: images per forward pass at most; fewer where a pass takes long.

    Raises:
        EncoderError: the encoder does not return what its levels declare.
    """
    home = next((tensor.device for tensor in encoder.state_dict().values()), device)
    try:
        with undisturbed(encoder, device), torch.inference_mode():
            inference = Inference(encoder, (), device=device, precision=precision, batch_size=largest)
            images, others = _batch(inference)
            alone = _levels_alone(inference, images, others) if len(encoder.levels) > 1 else []
            runs: list[Callable[[Tensor], object]] = [*alone, inference.tokens]
            turns = _take_turns([partial(run, images) for run in runs], device)
            *levels, together = (1000 * seconds / len(images) for seconds in turns)
    finally:
        encoder.to(home)
    if len(encoder.levels) == 1:
        return EncoderTiming((together,), together, len(images))
    return EncoderTiming(tuple(levels) or None, together, len(images))


def _batch(inference: Inference) -> tuple[Tensor, Tensor]:
    """Return two batches of noise, of the most images whose forward pass should stay below a fifth of a second."""
    count = 1
    inference.tokens(_noise(inference, 1))  # The first one warms up.
    while True:
        images = _noise(inference, count)
        # The better of two: a busy moment must not decide on the batch.
        seconds = min(_seconds(partial(inference.tokens, images), inference.device) for _ in range(2))
        if 2 * count > inference.batch_size or 2 * seconds > _PASS_SECONDS:
            check_outputs(inference.encoder, inference.tokens(images), count)
            return images, _noise(inference, count)
        count *= 2


def _noise(inference: Inference, count: int) -> Tensor:
    size = inference.encoder.transform.size
    noise = torch.randn(count, 3, size, size, device=inference.device)
    return noise.contiguous(memory_format=inference.memory_format)


def _levels_alone(inference: Inference, images: Tensor, others: Tensor) -> list[fx.GraphModule]:
    """Return a module per level, finest first; none where they do not give what the encoder gives for other images."""
    try:
        tape = record(inference.tokens, images)
        modules = [tape.alone(output) for output in tape.outputs]
        found = [module(others) for module in modules]
    except _UNWRITABLE:
        return []
    expected = inference.tokens(others)
    same = all(_same(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    return modules if same else []


def _same(ours: Tensor, theirs: Tensor) -> bool:
    difference = (ours.float() - theirs.float()).norm()
    return ours.shape == theirs.shape and bool(difference <= _SAME * theirs.float().norm())


def _take_turns(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the seconds of each call when it was fastest."""
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - started > _LEVEL_SECONDS * len(calls):
            break
        for call, found in zip(calls, seconds, strict=True):
            found.append(_seconds(call, device))
    return [min(found) for found in seconds]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    """Wait until the device has done what it was given; a GPU works beside the program."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
