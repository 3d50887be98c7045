"""Context and target encoder: a timm ViT that sees some tokens with gradient, its moving average that sees all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from hjepa_eval.encoders.vit import cells, pool_cells, rotation_of
from hjepa_eval.errors import unknown


def additive(allowed: Tensor) -> Tensor:
    """Return the float mask for a boolean one: 0 where attention is allowed, minus infinity elsewhere."""
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill_(~allowed, float("-inf"))


def use_plain_attention(model: nn.Module) -> None:
    """Compute attention as two matrix products instead of torch's fused kernel.

    On CPUs the fused kernel's backward pass takes a third of a training step of a ViT-Ti on 16 tokens; the plain
    products take a tenth of that.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = False


MaskMode = Literal["drop", "zero"]
MASK_MODES: tuple[MaskMode, ...] = get_args(MaskMode)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Return the tokens `[B, K, D]` that `indices` `[B, K]` name among `tokens` `[B, N, D]`."""
    return tokens.gather(1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def key_mask(valid: Tensor, prefix: int) -> Tensor:
    """Return float `[B, 1, 1, prefix + K]`, added to attention scores, that hides tokens which are not `valid`."""
    always = valid.new_ones(len(valid), prefix)
    return additive(torch.cat((always, valid), dim=1)[:, None, None])


def token_flags(context: Tensor, valid: Tensor | None, num_patches: int) -> Tensor:
    """Return bool `[B, N]`, True for the tokens `[B, K]` that are context; padding names token 0 and marks nothing."""
    listed = context if valid is None else torch.where(valid, context, num_patches)
    flags = torch.zeros(len(context), num_patches + 1, dtype=torch.bool, device=context.device)
    return flags.scatter_(1, listed, True)[:, :num_patches]


class ContextEncoder(nn.Module):
    """A ViT that sees the context tokens of an image and returns them after the blocks that levels tap.

    Attributes:
        network_name: the attribute that holds the network; its state dict is what an evaluation loads.
        widths: width of every level.
        image_shape: height and width of the images in pixels.
    """

    network_name: ClassVar[str] = "vit"

    def __init__(self, vit: VisionTransformer, *, taps: Sequence[int], mask_mode: MaskMode = "drop") -> None:
        """Wrap a `vit`.

        Args:
            vit: the network; its state dict is what an evaluation loads.
            taps: one block number (from 1) per level.
            mask_mode: `drop` removes hidden tokens before block 1; `zero` sets their patch embeddings to zero and
                carries them along, as document 000 has it.

        Raises:
            UnknownNameError: there is no such `mask_mode`.
        """
        super().__init__()
        if mask_mode not in MASK_MODES:
            raise unknown("mask_mode", mask_mode, MASK_MODES)
        self.vit = vit
        self.taps = tuple(taps)
        self.mask_mode = mask_mode
        self.checkpoint_activations = False
        self.grid: tuple[int, int] = vit.patch_embed.grid_size
        self.image_shape: tuple[int, int] = tuple(vit.patch_embed.img_size)
        self.prefix: int = vit.num_prefix_tokens
        self.widths: tuple[int, ...] = (vit.embed_dim,) * len(self.taps)
        self.rotation = rotation_of(vit)

    def moving_average(self) -> TargetEncoder:
        """Return the target encoder that begins as a copy of this one."""
        return TargetEncoder(self)

    def level_shapes(self) -> list[tuple[int, int]]:
        """Return rows and columns of every level."""
        return [cells(self.grid, level) for level in range(len(self.taps))]

    def pool(self, tokens: Tensor, level: int) -> Tensor:
        """Return the cells `[B, T_l, D]` of a level for the tokens `[B, N, D]` at its tap, without prefix tokens."""
        return pool_cells(tokens, self.grid, level)

    def mean_token(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return fp32 `[B, D]`: the mean of an image's tokens `[B, prefix + K, D]`, prefix tokens and padding left out.

        Args:
            tokens: what `forward` returns.
            valid: bool `[B, K]` as in `forward`; at least one per image.
        """
        patches = tokens[:, self.prefix :].float()
        if valid is None:
            return patches.mean(dim=1)
        shown = valid.unsqueeze(-1)
        return patches.masked_fill(~shown, 0.0).sum(dim=1) / shown.sum(dim=1)

    def forward(
        self,
        images: Tensor,
        context: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        hide_zeroed: bool = False,
    ) -> list[Tensor]:
        """Return the visible tokens at the tap of every level, then at the last block: each `[B, prefix + K, D]`.

        Every output went through the ViT's final norm, as in DINOv2's `get_intermediate_layers`.

        Args:
            images: normalised `[B, 3, H, W]`.
            context: int64 `[B, K]`, the visible tokens in the order they are returned; None shows all of them.
            valid: bool `[B, K]`; False marks padding, which no token attends to.
            hide_zeroed: in `zero` mode, keep attention from the zeroed tokens: then it equals `drop`.
        """
        if context is not None and self.mask_mode == "drop":
            tokens = self._visible(images, context)
            return self._blocks(tokens, None if valid is None else key_mask(valid, self.prefix), context)
        embedded = self.vit.patch_embed(images)
        if context is None:
            return self._blocks(self._positioned(embedded), None)
        visible = token_flags(context, valid, embedded.shape[1])
        outputs = self._blocks(
            self._positioned(embedded * visible.unsqueeze(-1)), key_mask(visible, self.prefix) if hide_zeroed else None
        )
        return [
            torch.cat((output[:, : self.prefix], gather_tokens(output[:, self.prefix :], context)), dim=1)
            for output in outputs
        ]

    def _visible(self, images: Tensor, context: Tensor) -> Tensor:
        """Return prefix and visible tokens `[B, prefix + K, D]` with their positions; hidden patches are never read.

        The pixels are gathered, not the tokens: an image needs no gradient, so there is no scatter to go back through.
        """
        embed = self.vit.patch_embed
        height, width = embed.patch_size
        rows, columns = self.grid
        patches = images.reshape(len(images), -1, rows, height, columns, width)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        seen = embed.norm(F.linear(gather_tokens(patches, context), embed.proj.weight.flatten(1), bias=embed.proj.bias))
        prefixes = self._prefixes(len(images))
        if self.vit.pos_embed is not None:
            own = 0 if self.vit.no_embed_class else self.prefix
            seen = seen + F.embedding(context, self.vit.pos_embed[0, own:])
            prefixes = prefixes + self.vit.pos_embed[:, :own] if own else prefixes
        tokens: Tensor = self.vit.norm_pre(self.vit.pos_drop(torch.cat((prefixes, seen), dim=1)))
        return tokens

    def _prefixes(self, batch: int) -> Tensor:
        """Return class and register tokens `[B, prefix, D]` without positions."""
        tokens = [token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None]
        if not tokens:
            none: Tensor = self.vit.patch_embed.proj.weight.new_empty(batch, 0, self.vit.embed_dim)
            return none
        return torch.cat([token.expand(batch, -1, -1) for token in tokens], dim=1)

    def _positioned(self, embedded: Tensor) -> Tensor:
        """Return prefix and patch tokens `[B, prefix + N, D]` with their positions."""
        tokens: Tensor = self.vit.norm_pre(self.vit._pos_embed(embedded))
        return tokens

    def _blocks(self, tokens: Tensor, attn_mask: Tensor | None, context: Tensor | None = None) -> list[Tensor]:
        """Return the normed output of every tap, then of the last block; equal blocks share one tensor."""
        places = self._places(context)
        read: dict[int, Tensor] = {}
        last = len(self.vit.blocks)
        for number, block in enumerate(self.vit.blocks, start=1):
            if self.checkpoint_activations and self.training:
                tokens = checkpoint(self._block, block, tokens, attn_mask, places, use_reentrant=False)
            else:
                tokens = self._block(block, tokens, attn_mask, places)
            if number in self.taps or number == last:
                read[number] = self.vit.norm(tokens)
        return [read[tap] for tap in self.taps] + [read[last]]

    def _block(self, block: nn.Module, tokens: Tensor, attn_mask: Tensor | None, places: Tensor | None) -> Tensor:
        """Return the tokens after a block; when it is computed again for a gradient, places are those of then."""
        if self.rotation is not None:
            self.rotation.places = places
        output: Tensor = block(tokens, attn_mask=attn_mask) if attn_mask is not None else block(tokens)
        if self.rotation is not None:
            self.rotation.places = None
        return output

    def _places(self, context: Tensor | None) -> Tensor | None:
        """Return int64 `[B, prefix + K]`, where visible tokens lie, for rotary positions; None for all in order."""
        if self.rotation is None or context is None:
            return None
        prefix = torch.arange(self.prefix, device=context.device).expand(len(context), -1)
        return torch.cat((prefix, context + self.prefix), dim=1)

    @torch.no_grad()
    def saliency(self, images: Tensor) -> Tensor:
        """Return fp32 `[B, N]`: how much attention each token of whole images gets in the last block.

        The mean over heads and over all tokens that look; the values of an image sum to 1 without prefix tokens.
        """
        tokens = self._positioned(self.vit.patch_embed(images))
        *before, last = self.vit.blocks
        for block in before:
            tokens = block(tokens)
        attention = last.attn
        batch, count, _ = tokens.shape
        qkv = attention.qkv(last.norm1(tokens)).reshape(batch, count, 3, attention.num_heads, -1)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4).float().unbind(0)
        scores = attention.q_norm(query) @ attention.k_norm(key).transpose(-2, -1) * attention.scale
        paid: Tensor = scores.softmax(dim=-1).mean(dim=(1, 2))
        return paid[:, self.prefix :]


class TargetEncoder(ContextEncoder):
    """The exponential moving average of a context encoder: no gradient, no dropped paths, the whole image."""

    def __init__(self, context_encoder: ContextEncoder) -> None:
        """Copy `context_encoder` as it is now, so that both are equal at step 0."""
        super().__init__(
            copy.deepcopy(context_encoder.vit), taps=context_encoder.taps, mask_mode=context_encoder.mask_mode
        )
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> TargetEncoder:
        """Stay in evaluation mode: a target must not depend on dropped paths."""
        super().train(False)
        return self

    @torch.no_grad()
    def update(self, context_encoder: ContextEncoder, momentum: float) -> None:
        """Set every parameter to `momentum` times itself plus `1 - momentum` times the context encoder's.

        Of parameters that are spread over ranks (`sharding`), each rank moves its own part. Buffers, such as the
        running statistics of BatchNorm, are copied: they are averages already.
        """
        ours, theirs = _own_parts(self), _own_parts(context_encoder)
        torch._foreach_lerp_(ours, theirs, 1.0 - momentum)
        for mine, other in zip(self.buffers(), context_encoder.buffers(), strict=True):
            mine.copy_(other)


def _own_parts(network: nn.Module) -> list[Tensor]:
    """Return what lies on this rank of every parameter."""
    return [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in network.parameters()]
