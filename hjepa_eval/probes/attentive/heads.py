"""Attentive heads, many at once: learned queries look at an image's tokens, and a linear classifier reads the answer.

All heads of a stack read the same tokens, so their products are taken together: what 12 heads ask is one product of
tokens with 12 times as many queries. Values are projected after they are pooled, which is the same number for a
fraction of the work: sum_t a_t (V x_t) = V (sum_t a_t x_t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

HeadKind = Literal["ep", "cross", "block"]
_MOMENTUM, _EPSILON, _SPREAD = 0.1, 1e-5, 0.02


@dataclass(frozen=True)
class HeadShape:
    """What a head is made of.

    Attributes:
        kind: `ep` (queries look at the tokens as they are; batch normalisation before the classifier), `cross` (one
            query in several parts, with projected keys and values) or `block` (that, with its residual and an MLP).
        queries: M, learned queries of `ep`, or parts of the single query of the others.
        widths: D of each level's tokens.
        num_classes: C.
    """

    kind: HeadKind
    queries: int
    widths: tuple[int, ...]
    num_classes: int

    @property
    def part(self) -> int:
        """Numbers that each query reads: all together are about as wide as the widest level."""
        return -(-max(self.widths) // self.queries)

    @property
    def width(self) -> int:
        """E, numbers that the classifier reads."""
        return self.part * self.queries


@dataclass
class HeadStack:
    """H heads of one shape.

    Attributes:
        shape: of each.
        weights: by name, [H, ...] each.
        running: mean and variance for batch normalisation at test, [H, E]; empty for kinds without.
    """

    shape: HeadShape
    weights: dict[str, Tensor]
    running: dict[str, Tensor]

    @property
    def count(self) -> int:
        """H."""
        return len(self.weights["bias"])

    def take(self, head: int) -> HeadStack:
        """Return one head as a stack of its own."""
        picked = [{name: each[head : head + 1].clone() for name, each in of.items()} for of in self._all()]
        return HeadStack(self.shape, *picked)

    def _all(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        return self.weights, self.running


def make_heads(shape: HeadShape, count: int, *, seed: int, device: str = "cpu") -> HeadStack:
    """Return `count` heads that start alike, so that they differ by how they are trained alone."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size: int, spread: float) -> Tensor:
        return (torch.randn(*size, generator=generator) * spread).expand(count, *size).contiguous().to(device)

    queries, part, width = shape.queries, shape.part, shape.width
    weights: dict[str, Tensor] = {}
    for level, dim in enumerate(shape.widths):
        if shape.kind == "ep":
            weights[f"query{level}"] = drawn(queries, dim, spread=_SPREAD)
        else:
            weights[f"key{level}"] = drawn(queries, dim, part, spread=dim**-0.5)
        weights[f"value{level}"] = drawn(queries, dim, part, spread=dim**-0.5)
    if shape.kind != "ep":
        weights["query"] = drawn(queries, part, spread=_SPREAD)
        weights["out"] = drawn(width, width, spread=width**-0.5)
    if shape.kind == "block":
        weights["up"], weights["down"] = (
            drawn(width, 4 * width, spread=width**-0.5),
            drawn(4 * width, width, spread=(4 * width) ** -0.5),
        )
    weights["weight"] = drawn(width, shape.num_classes, spread=0.01)
    weights["bias"] = torch.zeros(count, shape.num_classes, device=device)
    running = {}
    if shape.kind == "ep":
        running = {"mean": torch.zeros(count, width, device=device), "var": torch.ones(count, width, device=device)}
    return HeadStack(shape, weights, running)


def attend(stack: HeadStack, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the queries read, [H, B, E], and how they look at the tokens, [B, H * M, T].

    Args:
        stack: the heads.
        tokens: of each level [B, T_l, D_l]; T is the sum of the T_l.

    Source: Psomas et al., "Attention, please! Revisiting attentive probing through the lens of efficiency", ICLR 2026
        (`ep`); Bardes et al., V-JEPA, 2024 (`cross`, `block`).
    """
    heads, queries, part = stack.count, stack.shape.queries, stack.shape.part
    logits = []
    for level, x in enumerate(tokens):
        flat = x.reshape(-1, x.shape[-1])
        if stack.shape.kind == "ep":
            asked = stack.weights[f"query{level}"] * x.shape[-1] ** -0.5
        else:
            asked = torch.einsum("hmdp,hmp->hmd", stack.weights[f"key{level}"], stack.weights["query"]) * part**-0.5
        product = flat @ asked.reshape(heads * queries, -1).T
        logits.append(product.reshape(len(x), -1, heads * queries).transpose(1, 2))
    attention = torch.softmax(torch.cat(logits, dim=2) if len(logits) > 1 else logits[0], dim=2)
    read: Tensor | None = None
    start = 0
    for level, x in enumerate(tokens):
        share = attention[:, :, start : start + x.shape[1]]
        start += x.shape[1]
        pooled = torch.bmm(share, x).transpose(0, 1)
        value = stack.weights[f"value{level}"].reshape(heads * queries, x.shape[-1], part)
        answer = torch.bmm(pooled, value)
        read = answer if read is None else read + answer
    assert read is not None
    joined = read.reshape(heads, queries, -1, part).transpose(1, 2).reshape(heads, -1, queries * part)
    return joined, attention


def classify(stack: HeadStack, read: Tensor, *, training: bool) -> Tensor:
    """Return logits [H, B, C] from what the queries read, [H, B, E]; training moves the running mean and variance."""
    kind, weights = stack.shape.kind, stack.weights
    read = _normalised(stack, read, training=training) if kind == "ep" else torch.bmm(read, weights["out"])
    if kind == "block":
        read = read + weights["query"].reshape(stack.count, 1, -1)
        inside = F.gelu(torch.bmm(F.layer_norm(read, read.shape[-1:]), weights["up"]))
        read = read + torch.bmm(inside, weights["down"])
    if kind != "ep":
        read = F.layer_norm(read, read.shape[-1:])
    return torch.baddbmm(weights["bias"][:, None], read, weights["weight"])


def _normalised(stack: HeadStack, read: Tensor, *, training: bool) -> Tensor:
    """Return batch normalisation without affine part, of each head for itself, as `torch.nn.BatchNorm1d` does it."""
    if not training:
        mean, var = stack.running["mean"], stack.running["var"]
        return (read - mean[:, None]) * torch.rsqrt(var[:, None] + _EPSILON)
    var, mean = torch.var_mean(read, dim=1, correction=0)
    with torch.no_grad():
        count = read.shape[1]
        stack.running["mean"].lerp_(mean, _MOMENTUM)
        stack.running["var"].lerp_(var * count / max(1, count - 1), _MOMENTUM)
    return (read - mean[:, None]) * torch.rsqrt(var[:, None] + _EPSILON)
