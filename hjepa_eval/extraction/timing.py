"""Milliseconds per image: what an encoder takes up to each level alone, on the machine at hand.

A tape is one forward pass written down operation by operation, so that what one level needs can be run alone. As in
`costs`, memory decides what a level needs, not names: an operation that writes in place is needed by all that read the
same memory later. `torch.fx.experimental.proxy_tensor.make_fx` writes such tapes too; it took 2.4 s of processor time
for a ViT of 12 blocks, and removes no operation that writes in place.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from hjepa_eval.encoders.costs import memory_of, mutated, undisturbed
from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.extraction.inference import Inference
from hjepa_eval.machine.devices import float32_products


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write all operations of what runs under this mode into a graph.

    Attributes:
        outputs: the nodes of what `record` returned.
    """

    def __init__(self, images: Tensor) -> None:
        """Begin at the images, the one input; every other tensor that is met is a constant."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._nodes: Any = WeakIdKeyDictionary()
        self._memory: dict[fx.Node, Any] = {}
        self._written: dict[fx.Node, set[Any]] = {}
        self.outputs: list[fx.Node] = []
        self._name(images, self._graph.placeholder("images"))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs, named = tree_map_only(Tensor, self._node, (args, kwargs))
        written = {memory_of(tensor) for tensor in mutated(func, args, kwargs)}
        result = func(*args, **kwargs)
        node = self._graph.call_function(func, inputs, named)
        self._written[node] = written
        if isinstance(result, Tensor):
            self._name(result, node)
        elif isinstance(result, list | tuple):
            for place, each in enumerate(result):
                if isinstance(each, Tensor):
                    self._name(each, self._graph.call_function(operator.getitem, (node, place)))
        return result

    def _name(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[tensor] = node
        self._memory[node] = memory_of(tensor)

    def _node(self, tensor: Tensor) -> fx.Node:
        """Return what made a tensor; one that nothing here made becomes a constant."""
        if tensor not in self._nodes:
            name = f"constant_{len(self._memory)}"
            self._root.register_buffer(name, tensor, persistent=False)
            self._name(tensor, self._graph.get_attr(name))
        node: fx.Node = self._nodes[tensor]
        return node

    def finish(self, outputs: Sequence[Tensor]) -> None:
        """Say which tensors the tape is for."""
        self.outputs = [self._node(output) for output in outputs]

    def alone(self, wanted: fx.Node) -> fx.GraphModule:
        """Return a module of the operations that one output needs; it takes images of the same shape."""
        needed, memories = {wanted}, {self._memory[wanted]}
        kept = []
        for node in reversed(self._graph.nodes):
            if node in needed or not memories.isdisjoint(self._written.get(node, ())):
                kept.append(node)
                needed.update(node.all_input_nodes)
                memories.update(self._memory[each] for each in node.all_input_nodes if each in self._memory)
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        if not any(node.op == "placeholder" for node in kept):
            graph.placeholder("images")
        for node in reversed(kept):
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[wanted])
        return fx.GraphModule(self._root, graph)


def record(run: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> Tape:
    """Return the tape of `run(images)`; what happens outside torch, as in numpy, becomes a constant."""
    tape = Tape(images)
    with tape:
        outputs = run(images)
    tape.finish(outputs)
    return tape


# Images per forward pass: the same for all encoders and levels, or their milliseconds would compare nothing.
_BATCH = {"cpu": 8}
_BATCH_ELSEWHERE = 64
# So many passes of each level, and within these bounds until each has had its seconds.
_FEWEST, _MOST, _LEVEL_SECONDS = 5, 20, 0.25
# The middle half of the passes may differ by this share of the median, or by so many seconds; beyond both the machine
# does something else as well, and what was timed is its mood.
_UNSTEADY, _JITTER = 0.25, 1e-3
# How often an unsteady measurement is begun anew.
_TRIES = 3
# One that took so many seconds is not: nobody waits minutes for a column of a table.
_LONG = 20.0
# Rounding of bfloat16; a level whose numbers differ by more was not taken apart rightly.
_SAME = 0.01
# What a dispatch mode or a replay raises on operations that cannot be written down.
_UNWRITABLE = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, AssertionError)


def timed_batch(device: str) -> int:
    """Return how many images a timed forward pass takes on a kind of device."""
    return _BATCH.get(torch.device(device).type, _BATCH_ELSEWHERE)


@dataclass(frozen=True)
class Milliseconds:
    """Time per image.

    Attributes:
        median: over forward passes.
        spread: half of the range of their middle half.
        steady: whether passes agree; where they do not, the machine was busy and the median means little.
    """

    median: float
    spread: float
    steady: bool


@dataclass(frozen=True)
class EncoderTiming:
    """Milliseconds per image, of several forward passes that took turns.

    Attributes:
        levels: up to each level alone, finest first; None where an encoder of several levels cannot be taken apart.
        together: of the forward pass that gives all levels.
        batch: images per forward pass.
        passes: of each level.
    """

    levels: tuple[Milliseconds, ...] | None
    together: Milliseconds
    batch: int
    passes: int

    @property
    def steady(self) -> bool:
        """Whether the passes of every level agree."""
        return all(spent.steady for spent in (*(self.levels or ()), self.together))


def encoder_timing(encoder: Encoder, *, device: torch.device, precision: str, batch: int) -> EncoderTiming:
    """Return how long `encoder` takes up to each level alone, and for all levels together.

    One forward pass is written down (`tape`); a level is timed by running the operations that it needs, and nothing
    that only other levels need. Levels and the whole encoder take turns, so that a slow moment of the machine meets
    all of them; where passes differ much, all is measured again, three times at most and for 20 seconds.
    Eager, without torch.compile,
    decoding, normalisation and readouts.

    Args:
        encoder: comes back on the device where it was.
        device: where it is timed.
        precision: `bf16` (autocast), `tf32` or `fp32`.
        batch: images per forward pass.

    Raises:
        EncoderError: the encoder does not return what its levels declare.
    """
    home = next((tensor.device for tensor in encoder.state_dict().values()), device)
    try:
        with undisturbed(encoder, device), torch.inference_mode(), float32_products(precision):
            inference = Inference(encoder, (), device=device, precision=precision, batch_size=batch)
            images, others = _noise(inference, batch), _noise(inference, batch)
            check_outputs(encoder, inference.tokens(images), batch)  # This first pass warms up, too.
            alone = _levels_alone(inference, images, others) if len(encoder.levels) > 1 else []
            runs: list[Callable[[Tensor], object]] = [*alone, inference.tokens]
            calls = [partial(run, images) for run in runs]
            for _ in range(_TRIES):
                turns = _take_turns(calls, device)
                *levels, together = (_summary(seconds, batch) for seconds in turns)
                if all(spent.steady for spent in (*levels, together)) or sum(map(sum, turns)) > _LONG:
                    break
    finally:
        encoder.to(home)
    one = len(encoder.levels) == 1
    return EncoderTiming((together,) if one else tuple(levels) or None, together, batch, len(turns[0]))


def _summary(seconds: Sequence[float], batch: int) -> Milliseconds:
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    steady = high - low <= max(_UNSTEADY * median, _JITTER)
    return Milliseconds(1000 * median / batch, 500 * (high - low) / batch, steady)


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


def _take_turns(calls: Sequence[Callable[[], object]], device: torch.device) -> list[list[float]]:
    """Return the seconds of each call in every turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - started > _LEVEL_SECONDS * len(calls):
            break
        for call, spent in zip(calls, seconds, strict=True):
            spent.append(_seconds(call, device))
    return seconds


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
