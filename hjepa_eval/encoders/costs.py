"""What a level costs: floating-point operations and parameters that its output depends on.

The encoder sees one blank image while a dispatch mode writes down every operation: its FLOP, the memory it reads, and
the memory it writes. A level's cost is the sum over the ancestors of its output, each once. So a level's number is what
a user pays to get up to that level alone, for any encoder, without a word from its author.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop

from hjepa_eval.encoders.protocol import Encoder, check_outputs

# Stands among the uncounted where torch sees no way from the image to the output, as through numpy.
OUTSIDE = "work outside torch"

_ATEN = torch.ops.aten
# Attention kernels of single devices; torch before 2.8 has no formula for the CPU's, and would count nothing.
_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)
# Products hidden in one operation for which torch has no formula.
_PRODUCTS = {
    *("_cdist_forward", "_euclidean_dist", "mv", "addmv", "dot", "vdot", "addr", "addbmm", "_trilinear"),
    *("_cudnn_rnn", "mkldnn_rnn_layer", "_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
    *("_fft_r2c", "_fft_c2r", "_fft_c2c"),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a forward pass of one image takes.

    Attributes:
        gflop: 10^9 floating-point operations.
        parameters: numbers in the parameters that it reads.
        uncounted: operations that do work but have no formula, and `OUTSIDE`; `gflop` leaves them out.
    """

    gflop: float
    parameters: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LevelCost(Cost):
    """What level number `level` alone takes: all from the image up to it, and nothing that only other levels need."""

    level: int


@dataclass(frozen=True)
class EncoderCost:
    """What each level takes alone, finest first, and what `together`, all levels of one forward pass, take."""

    levels: tuple[LevelCost, ...]
    together: Cost


@dataclass(frozen=True)
class _Operation:
    flop: int
    uncounted: str | None
    parents: frozenset[int]
    leaves: frozenset[Any]


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write down all operations and which memory each reads and writes.

    Memory, not tensors: a view reads what was written through another view, and an in-place operation changes what
    every view reads. A slice of a memory therefore depends on all that was written anywhere in it.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        attention = {getattr(_ATEN, name): sdpa_flop for name in _ATTENTION if hasattr(_ATEN, name)}
        self.formulas: dict[Any, Any] = {**attention, **flop_registry}
        self.operations: list[_Operation] = []
        self.writer: dict[Any, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet not in self.formulas and isinstance(func, torch._ops.OpOverload) and func.namespace != "prim":
            # In inference mode a linear layer or an attention arrives whole; its parts have the formulas.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        reads = {memory_of(tensor) for tensor in tensors_in((args, kwargs))}
        writes = {memory_of(tensor) for tensor in tensors_in(result)} - reads
        writes |= {memory_of(tensor) for tensor in mutated(func, args, kwargs)}
        if writes:
            formula = self.formulas.get(packet)
            flop = int(formula(*args, **kwargs, out_val=result)) if formula else 0
            uncounted = None if formula or _is_light(func) else str(packet)
            self._record(flop, uncounted, reads, writes)
        return result

    def _record(self, flop: int, uncounted: str | None, reads: set[Any], writes: set[Any]) -> None:
        parents = frozenset(self.writer[memory] for memory in reads if memory in self.writer)
        leaves = frozenset(memory for memory in reads if memory not in self.writer)
        for memory in writes:
            self.writer[memory] = len(self.operations)
        self.operations.append(_Operation(flop, uncounted, parents, leaves))

    def ancestors(self, outputs: Iterable[Tensor]) -> tuple[list[_Operation], set[Any]]:
        """Return the operations that `outputs` depend on, each once, and the memory that no operation wrote."""
        memories = {memory_of(output) for output in outputs}
        leaves = {memory for memory in memories if memory not in self.writer}
        waiting = [self.writer[memory] for memory in memories - leaves]
        found: set[int] = set()
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                leaves |= self.operations[number].leaves
                waiting.extend(self.operations[number].parents)
        return [self.operations[number] for number in found], leaves


def memory_of(tensor: Tensor) -> Any:
    """Return what stands for the memory of a tensor for as long as it is kept."""
    if tensor.layout is torch.strided:
        # The weak reference frees the values and yet keeps their address from being given to another tensor.
        return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
    return id(tensor)  # a sparse tensor has no single storage


def tensors_in(tree: Any) -> list[Tensor]:
    """Return all tensors in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that the operation's schema says it writes into."""
    if not isinstance(func, torch._ops.OpOverload):
        return []
    written = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += tensors_in(args[place] if place < len(args) else kwargs.get(argument.name))
    return written


def _is_light(func: Any) -> bool:
    """Tell whether an operation without a formula is elementwise, a reduction or a copy, as nearly all of torch's."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    return func.namespace in ("aten", "prim", "prims") and func._overloadpacket.__name__ not in _PRODUCTS


@contextmanager
def undisturbed(encoder: Encoder, device: torch.device) -> Iterator[None]:
    """Evaluate `encoder` in a way that can be counted, and leave it, torch and the random numbers as they were."""
    training = [module for module in encoder.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    # What torch.compile has fused cannot be seen.
    with generators, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        try:
            encoder.eval()
            # torch.nn's own fast path runs a whole transformer layer as one operation without a formula.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module in training:
                module.training = True


def encoder_costs(encoder: Encoder) -> EncoderCost:
    """Return what each level of `encoder` costs alone, and all of them together, for one image.

    One multiply-add is 2 FLOP (papers that say "FLOPs" for multiply-adds give half of it). Matrix products,
    convolutions and attention are counted; elementwise work, norms, pooling and softmax are not, nor is what happens
    outside torch, as in numpy.

    Raises:
        EncoderError: the encoder does not return what its levels declare.

    Source: the formulas of `torch.utils.flop_counter`.
    Deviation: `FlopCounterMode` sums over all that runs; here only what the outputs depend on counts, and
        `torch.nn`'s fast path for transformers, which it counts as nothing, is switched off.
    """
    tensors = chain(encoder.parameters(), encoder.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    blank = torch.zeros(1, 3, *encoder.transform.shape, device=device)
    with undisturbed(encoder, device), Trace() as trace:
        outputs = encoder(blank)
    check_outputs(encoder, outputs, 1)

    def cost(wanted: Iterable[Tensor]) -> Cost:
        operations, leaves = trace.ancestors(wanted)
        uncounted = {operation.uncounted for operation in operations if operation.uncounted}
        if memory_of(blank) not in leaves:
            uncounted.add(OUTSIDE)
        return Cost(
            gflop=sum(operation.flop for operation in operations) / 1e9,
            parameters=sum(each.numel() for each in encoder.parameters() if memory_of(each) in leaves),
            uncounted=tuple(sorted(uncounted)),
        )

    levels = tuple(
        LevelCost(level=level.index, **asdict(cost([output])))
        for level, output in zip(encoder.levels, outputs, strict=True)
    )
    return EncoderCost(levels, together=cost(outputs))


def level_costs(encoder: Encoder) -> tuple[LevelCost, ...]:
    """Return what each level of `encoder` costs alone, finest first; see `encoder_costs`."""
    return encoder_costs(encoder).levels
