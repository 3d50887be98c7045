"""What every token of a ViT attends to, in each head of each block, as the model itself computes it; and rollout.

All ViTs here let torch's `scaled_dot_product_attention` do the work, whatever their class. Its calls are watched, and
the weights are computed from the very arguments, so rotary positions, normalised queries and masks are in them.
`nn.MultiheadAttention`, of which torch's own transformer layers are made, gives its weights itself when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import EncoderError


def attention_rollout(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 `[layers, T, T]`: row i of layer l is the mix of input tokens in token i after block l.

    The mean over heads and the identity, which stands for the residual connection, each count one half; the rows are
    normalised, and the layers multiplied from the first on. Rows sum to 1.

    Args:
        attention: `[layers, heads, T, T]`, all blocks from the first on; rows are queries.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", equation 1, with the residual
        connection as in its section 3 (A = 0.5 W + 0.5 I).
    """
    layers, _, tokens, _ = attention.shape
    identity = np.eye(tokens)
    reached = identity
    result = np.empty((layers, tokens, tokens), np.float32)
    for layer in range(layers):
        step = 0.5 * attention[layer].mean(axis=0, dtype=np.float64) + 0.5 * identity
        step /= step.sum(axis=1, keepdims=True)
        reached = step @ reached
        result[layer] = reached
    return result


WHICH_DO = "choose a ViT: a run with one, or a ViT of timm:, hf:, ijepa: or random:"


@torch.no_grad()
def attention_maps(encoder: Encoder, images: Tensor) -> Tensor:
    """Return float32 `[layers, B, heads, T, T]` on the CPU: the share of each key (last axis) for each query.

    Each row sums to 1. `T` are the tokens of level 0, prefix tokens first. The layers are the blocks that the encoder
    computes: it may stop at its deepest tap.

    Args:
        encoder: is left as it was.
        images: normalised `[B, 3, H, W]`, on the encoder's device; autocast around the call holds inside.

    Raises:
        EncoderError: no attention was seen, or not one per block over all tokens of level 0.
    """
    with _fused(encoder), _no_fast_path(), torch.compiler.set_stance("force_eager"), _Watch() as watch:
        encoder(images)
    _check(encoder, watch.seen, len(images))
    return torch.stack(watch.seen)


def check_attention(encoder: Encoder) -> None:
    """Check on one blank image, before any work, that an encoder's attention can be shown.

    Raises:
        EncoderError: as `attention_maps`.
    """
    weights = next(encoder.parameters(), torch.empty(0))
    attention_maps(encoder, torch.zeros(1, 3, *encoder.transform.shape, device=weights.device))


def attention_weights(
    query: Tensor,
    key: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return float32 softmax(q k^T * scale + mask) `[..., heads, T, S]` with torch's meaning of all arguments.

    Args:
        query: `[..., heads, T, D]`.
        key: `[..., heads, S, D]`; with `enable_gqa` fewer heads, each for several of the query's.
        attn_mask: bool, True where attention is allowed, or float, added to the scores.
        is_causal: hide keys that come after the query.
        scale: 1 / sqrt(D) when not given.
        enable_gqa: as torch has it.

    Source: the reference code in the documentation of `torch.nn.functional.scaled_dot_product_attention`.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    # Autocast would turn the product back to 16 bits.
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-2, -1)
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask.float()
        return scores.softmax(dim=-1)


class _Watch(TorchFunctionMode):
    """Let all of torch pass, and write down the weights of each attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.seen.append(_weights_of_call(*args, **kwargs).cpu())
        if func is F.multi_head_attention_forward:
            # Nothing inside it is seen, as this method itself is not watched.
            output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            self.seen.append(weights.float().cpu())
            averaged = weights.mean(1) if kwargs.get("average_attn_weights", True) else weights
            return output, averaged if kwargs.get("need_weights", True) else None
        return func(*args, **kwargs)


def _weights_of_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the weights of a call with the signature of `scaled_dot_product_attention`; dropout is not in them."""
    return attention_weights(query, key, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Keep torch's transformer layers from running whole, as one operation that shows no attention."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _fused(encoder: Encoder) -> Iterator[None]:
    """Let modules that can do so call torch's attention, and the encoder evaluate; put everything back at the end."""
    before: list[tuple[Any, str, Any]] = []

    def change(owner: Any, attribute: str, value: Any) -> None:
        before.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)

    try:
        for module in encoder.modules():
            if module.training:
                change(module, "training", False)
            if getattr(module, "fused_attn", None) is False:  # timm
                change(module, "fused_attn", True)
            config = getattr(module, "config", None)
            if getattr(config, "_attn_implementation", "sdpa") not in ("sdpa", None):  # transformers
                change(config, "_attn_implementation", "sdpa")
        yield
    finally:
        for owner, attribute, value in reversed(before):
            setattr(owner, attribute, value)


def _check(encoder: Encoder, seen: list[Tensor], batch: int) -> None:
    """Check that there is one attention per block, over all tokens of level 0.

    Raises:
        EncoderError: there is not; the message says which encoders will do.
    """
    if not seen:
        raise EncoderError(f"{encoder.name}: no attention was seen in torch's scaled_dot_product_attention; {WHICH_DO}")
    tokens = encoder.levels[0].tokens
    for weights in seen:
        if weights.ndim != 4 or len(weights) != batch or weights.shape[-2:] != (tokens, tokens):
            raise EncoderError(
                f"{encoder.name}: a map of its attention is {list(weights.shape)}, and not over all {tokens} tokens of "
                f"level 0, as in windows or stages; {WHICH_DO}"
            )
    # The toolkit's own ViTs stop after their deepest tap; a user's encoder need not say what it computes.
    blocks = max(getattr(encoder, "taps", None) or [len(seen)])
    if len(seen) != blocks or len({weights.shape for weights in seen}) != 1:
        raise EncoderError(
            f"{encoder.name}: {len(seen)} attentions were seen in {blocks} blocks, or of different heads, so none can "
            f"be shown as a block's; {WHICH_DO}"
        )
