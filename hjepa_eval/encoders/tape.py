"""Tapes: one forward pass written down operation by operation, so that what one level needs can be run alone.

As in `costs`, memory decides what a level needs, not names: an operation that writes in place is needed by all that
read the same memory later. `torch.fx.experimental.proxy_tensor.make_fx` writes such tapes too; it took 2.4 s of
processor time for a ViT of 12 blocks, and removes no operation that writes in place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from hjepa_eval.encoders.costs import memory_of, mutated


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
