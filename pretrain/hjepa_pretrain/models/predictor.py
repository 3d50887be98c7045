"""The predictor: a narrow transformer that answers what the target encoder says at places the context does not show."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hjepa_eval.encoders.vit import cells, pool_cells
from hjepa_eval.errors import unknown
from hjepa_pretrain.masks.indices import pick
from hjepa_pretrain.models.encoders import additive, gather_tokens

Order = Literal["parallel", "coarse_to_fine"]
ORDERS: tuple[Order, ...] = get_args(Order)


class PredictorBlock(Block):
    """A timm transformer block: multi-head attention and GELU MLP, each with LayerNorm, residual and DropPath."""


class Predictor(nn.Module):
    """Predicts tokens of every level in one pass.

    A query is a mask token plus its position plus its level. Context tokens attend to the context; a query attends to
    the context and to itself, so an answer never depends on which other questions were asked with it, and padding
    cannot matter. In the order `coarse_to_fine` it also attends to the queries of coarser levels.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        grid: tuple[int, int],
        num_levels: int = 1,
        embed_dim: int = 384,
        depth: int = 6,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        prefix: int = 0,
        order: Order = "parallel",
        fpn: bool = False,
        global_query: bool = False,
    ) -> None:
        """Build a predictor of width `embed_dim` between tokens of width `encoder_dim` on `grid`.

        Args:
            encoder_dim: width `D` of context tokens and answers.
            grid: rows and columns of level 0.
            num_levels: levels that queries may ask for.
            embed_dim: width of the predictor.
            depth: blocks.
            num_heads: attention heads; they divide `embed_dim`.
            mlp_ratio: hidden width of the MLP over `embed_dim`.
            drop_path: rate of the last block; earlier ones rise to it linearly.
            prefix: context tokens without a position, such as a class token.
            order: whether queries of a level see those of coarser levels.
            fpn: whether a cell's answer adds that of the coarser cell it lies in.
                Source: feature pyramid networks (Lin et al. 2017), the top-down path. Deviation: one width, no
                convolutions after the sum.
            global_query: whether one more query, at the middle of the grid, asks for the whole image.

        Raises:
            UnknownNameError: there is no such `order`.
        """
        super().__init__()
        if order not in ORDERS:
            raise unknown("order of the predictor", order, ORDERS)
        self.grid, self.prefix, self.num_levels = grid, prefix, num_levels
        self.order, self.fpn, self.global_query = order, fpn, global_query
        self.checkpoint_activations = False
        self.context_in = nn.Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.level_embed = nn.Parameter(torch.empty(num_levels + global_query, embed_dim))
        rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
        self.blocks = nn.ModuleList(
            PredictorBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.out = nn.Linear(embed_dim, encoder_dim)
        self.apply(_initialise)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.level_embed, std=0.02)
        table = build_sincos2d_pos_embed(list(grid), dim=embed_dim).unsqueeze(0)
        for level in range(num_levels):
            self.register_buffer(f"positions_{level}", pool_cells(table, grid, level).contiguous(), persistent=False)
            self.register_buffer(f"parents_{level}", _parents(grid, level), persistent=False)
        if global_query:
            self.register_buffer(f"positions_{num_levels}", table.mean(dim=1, keepdim=True), persistent=False)

    def forward(
        self,
        context_tokens: Tensor,
        context: Tensor,
        queries: list[Tensor | None],
        *,
        context_valid: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the answers `[B, Q_l, encoder_dim]`, one tensor per level, and last the global one `[B, 1, ...]`.

        Args:
            context_tokens: `[B, prefix + K, encoder_dim]`.
            context: int64 `[B, K]`, their token numbers.
            queries: per level the cell numbers asked for, int64 `[B, Q_l]`; None asks for every cell.
            context_valid: bool `[B, K]`; False is padding.
        """
        batch = len(context_tokens)
        seen = self.context_in(context_tokens)
        places = gather_tokens(self.positions(0).expand(batch, -1, -1), context)
        if self.prefix:
            places = torch.cat((places.new_zeros(batch, self.prefix, places.shape[-1]), places), dim=1)
        asked = [self._query(cells_asked, level, batch) for level, cells_asked in enumerate(queries)]
        if self.global_query:
            asked.append(self._query(None, self.num_levels, batch))
        tokens = torch.cat([seen + places, *asked], dim=1)
        sizes = [query.shape[1] for query in asked]
        allowed = self._allowed(seen.shape[1], sizes, context_valid, tokens.device)
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                tokens = checkpoint(block, tokens, attn_mask=allowed, use_reentrant=False)
            else:
                tokens = block(tokens, attn_mask=allowed)
        answers = list(torch.split(self.out(self.norm(tokens[:, seen.shape[1] :])), sizes, dim=1))
        return self._top_down(answers, queries) if self.fpn else answers

    def predict_masked(self, context_tokens: Tensor, mask: Tensor) -> Tensor:
        """Return `[B, N, encoder_dim]` for a binary mask over all tokens: answers where it is 1, zeros elsewhere.

        Args:
            context_tokens: `[B, prefix + N, encoder_dim]`, of which the masked ones are not looked at.
            mask: `[B, N]`, 1 = masked.
        """
        visible, masked = mask == 0, mask == 1
        context, context_valid = pick(visible, int(visible.sum(dim=1).max()))
        targets, targets_valid = pick(masked, int(masked.sum(dim=1).max()))
        seen = gather_tokens(context_tokens[:, self.prefix :], context)
        seen = torch.cat((context_tokens[:, : self.prefix], seen), dim=1)
        # Answers may build on those of coarser levels: all of them are asked.
        coarser: list[Tensor | None] = [None] * (self.num_levels - 1)
        answers = self(seen, context, [targets, *coarser], context_valid=context_valid)[0]
        whole: Tensor = answers.new_zeros(*mask.shape, answers.shape[-1])
        image, slot = targets_valid.nonzero(as_tuple=True)
        whole[image, targets[image, slot]] = answers[image, slot]
        return whole

    def positions(self, level: int) -> Tensor:
        """Return the positions `[1, cells, embed_dim]` of a level: the mean position of the tokens of each cell."""
        table: Tensor = self.get_buffer(f"positions_{level}")
        return table

    def _query(self, asked: Tensor | None, level: int, batch: int) -> Tensor:
        places = self.positions(level).expand(batch, -1, -1)
        if asked is not None:
            places = gather_tokens(places, asked)
        query: Tensor = places + self.mask_token + self.level_embed[level]
        return query

    def _top_down(self, answers: list[Tensor], queries: list[Tensor | None]) -> list[Tensor]:
        """Return answers to which those of the cells around them were added, from the coarsest level down."""
        for level in range(len(queries) - 2, -1, -1):
            asked, coarser = queries[level], queries[level + 1]
            if coarser is not None:
                continue  # Only some cells of the coarser level were asked for: there is nothing to look up.
            parents = self.get_buffer(f"parents_{level}").expand(len(answers[level]), -1)
            parents = parents if asked is None else parents.gather(1, asked)
            answers[level] = answers[level] + gather_tokens(answers[level + 1], parents)
        return answers

    def _allowed(self, seen: int, sizes: list[int], context_valid: Tensor | None, device: torch.device) -> Tensor:
        """Return float `[1 or B, 1, T, T]`, added to scores: what each of the T tokens may attend to."""
        total = seen + sum(sizes)
        allowed = torch.eye(total, dtype=torch.bool, device=device)
        allowed[:, :seen] = True
        if self.order == "coarse_to_fine":
            start = seen
            for size in sizes:
                allowed[start : start + size, start + size :] = True
                start += size
        if context_valid is None:
            return additive(allowed[None, None])
        columns = torch.ones(len(context_valid), total, dtype=torch.bool, device=device)
        columns[:, self.prefix : seen] = context_valid
        # A padded context token still attends to itself: a row of False would be NaN.
        itself = torch.eye(total, dtype=torch.bool, device=device)
        return additive(((allowed & columns.unsqueeze(1)) | itself).unsqueeze(1))


def _parents(grid: tuple[int, int], level: int) -> Tensor:
    """Return int64 `[1, cells]`: the cell of the next coarser level in which each cell of a level lies."""
    rows, columns = cells(grid, level)
    row, column = torch.arange(rows).view(-1, 1) // 2, torch.arange(columns) // 2
    return (row * cells(grid, level + 1)[1] + column).flatten().unsqueeze(0)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
