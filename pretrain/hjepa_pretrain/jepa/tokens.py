"""`TokenJEPA`: H-JEPA on any grid of tokens; hidden parts are predicted at every level from those that are shown."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hjepa_eval.encoders.vit import spread_taps
from hjepa_eval.errors import ConfigError, unknown
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.jepa.grids import Grid, cell_means, hide_cells
from hjepa_pretrain.jepa.learner import Learner, move, moving_average
from hjepa_pretrain.jepa.tokenisers import TOKENISERS
from hjepa_pretrain.objectives.contrast import contrast as info_nce
from hjepa_pretrain.objectives.losses import explained_variance, level_loss

# Share of a coarse cell's tokens that must be hidden for it to be a target.
_COVERAGE = 0.5


def _keys(shown: Tensor) -> Tensor:
    """Return float `[B, 1, N, N]`: each token attends to those that are shown, and to itself."""
    itself = torch.eye(shown.shape[1], dtype=torch.bool, device=shown.device)
    allowed = shown.unsqueeze(1) | itself
    return torch.zeros(allowed.shape, device=shown.device).masked_fill_(~allowed, float("-inf")).unsqueeze(1)


class TokenEncoder(nn.Module):
    """A tokeniser and transformer blocks, whose outputs at some blocks are the levels.

    Hidden tokens are seen by none: what is said of the others does not depend on them.
    """

    def __init__(self, kind: str, *, width: int, depth: int, num_heads: int, levels: int, **of_kind: Any) -> None:
        """Build the tokeniser of a `kind` with its own arguments, and `depth` blocks."""
        super().__init__()
        self.tokens = TOKENISERS[kind](width, levels=levels, **of_kind)
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.taps = spread_taps(depth, levels)

    def forward(self, state: Any, hidden: Tensor | None = None) -> tuple[list[Tensor], Grid]:
        """Return the tokens `[B, N, D]` at the tap of each level, the last of them at the last block, and their grid.

        Args:
            state: as the tokeniser takes it.
            hidden: bool `[B, N]`.
        """
        tokens, grid = self.tokens(state)
        shown = grid.valid if hidden is None else grid.valid & ~hidden
        mask, outputs = _keys(shown).to(tokens.dtype), {}
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, attn_mask=mask)
            outputs[number] = self.norm(tokens)
        return [outputs[tap] for tap in self.taps], grid


class TokenJEPA(Learner):
    """Encoder, moving average, predictor and a head per level, on series, text, tables or pictures with captions."""

    def __init__(
        self,
        kind: str,
        *,
        width: int = 96,
        depth: int = 4,
        num_heads: int = 4,
        levels: int = 3,
        predictor_depth: int = 1,
        mask_ratio: float = 0.5,
        mask_level: int = 1,
        prediction: float = 1.0,
        contrast: float = 1.0,
        momentum: float = 0.99,
        momentum_end: float = 1.0,
        seed: int = 0,
        **of_kind: Any,
    ) -> None:
        """Build fresh weights.

        Args:
            kind: of `TOKENISERS`: `series`, `text`, `tabular` or `image_text`.
            width: of tokens.
            depth: encoder blocks.
            num_heads: attention heads; they divide the width.
            levels: how many; each reads a deeper block and pools larger cells.
            predictor_depth: predictor blocks.
            mask_ratio: share of the tokens that are hidden.
            mask_level: level whose cells are hidden whole.
            prediction: weight of the prediction of levels.
            contrast: weight of InfoNCE between two masked views of an example.
            momentum: of the moving average at the first step.
            momentum_end: at the last.
            seed: of the weights.
            **of_kind: arguments of the tokeniser, such as `patch`.

        Raises:
            UnknownNameError: there is no such kind.
            ConfigError: the numbers do not fit together.
        """
        own = {
            "width": width, "depth": depth, "num_heads": num_heads, "levels": levels,
            "predictor_depth": predictor_depth, "mask_ratio": mask_ratio, "mask_level": mask_level,
            "prediction": prediction, "contrast": contrast, "momentum": momentum, "momentum_end": momentum_end,
            "seed": seed,
        }  # fmt: skip
        super().__init__(kind=kind, **own, **of_kind)
        if kind not in TOKENISERS:
            raise unknown("kind of data", kind, TOKENISERS)
        if width % num_heads or width % 2:
            raise ConfigError(f"num_heads {num_heads} and 2 must divide width {width}")
        if not 0 < mask_ratio < 1 or not 0 <= mask_level < levels:
            raise ConfigError(
                f"mask_ratio {mask_ratio} must lie between 0 and 1, and mask_level {mask_level} below levels {levels}"
            )
        if not prediction and not contrast:
            raise ConfigError("prediction and contrast are both 0; give one of them a weight")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = TokenEncoder(kind, width=width, depth=depth, num_heads=num_heads, levels=levels, **of_kind)
            self.predictor = _TokenPredictor(width, depth=predictor_depth, num_heads=num_heads, levels=levels)
            self.projector = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused_attn = False  # The fused kernel's backward pass is slow on CPUs, and tokens are few.
        self.target_encoder = moving_average(self.encoder)
        self.ema = EmaSchedule(base=momentum, end=momentum_end)
        self.ratio, self.mask_level, self.weights = mask_ratio, mask_level, (prediction, contrast)

    def train(self, mode: bool = True) -> TokenJEPA:
        """Set the mode; the moving average stays in evaluation mode."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    def training_loss(self, batch: Any, *, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch as the tokeniser takes it, and its terms without their weights."""
        with torch.no_grad():
            targets, grid = self.target_encoder(batch)
        hidden = hide_cells(grid, self.mask_level, self.ratio, generator=generator)
        seen, _ = self.encoder(self.encoder.tokens.changed(batch, generator), hidden)
        parts: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        prediction, contrast = self.weights
        if prediction:
            losses, terms = self._predict(seen[-1], targets, grid, hidden)
            parts.append(prediction * losses)
        if contrast:
            again = hide_cells(grid, self.mask_level, self.ratio, generator=generator)
            other, _ = self.encoder(self.encoder.tokens.changed(batch, generator), again)
            views = [_mean(seen[-1], grid.valid & ~hidden), _mean(other[-1], grid.valid & ~again)]
            terms["contrast"] = info_nce(*(self.projector(view) for view in views))
            parts.append(contrast * terms["contrast"])
        loss = torch.stack(parts).sum()
        return loss, {name: term.detach() for name, term in {"loss": loss, **terms}.items()}

    def _predict(
        self, seen: Tensor, targets: list[Tensor], grid: Grid, hidden: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum over levels of the error at hidden cells, and each level's error and R2."""
        answers = self.predictor(seen, grid, hidden)
        total, terms = seen.new_zeros((), dtype=torch.float32), dict[str, Tensor]()
        for level, (answer, target) in enumerate(zip(answers, targets, strict=True)):
            aim, _ = cell_means(target, grid.cells[level])
            aim = F.layer_norm(aim, aim.shape[-1:])
            _, share = cell_means(target[..., :1], grid.cells[level], hidden)
            valid = share >= _COVERAGE
            terms[f"level_{level}"] = level_loss(answer, aim, valid)
            terms[f"r2_{level}"] = explained_variance(answer, aim, valid)
            total = total + terms[f"level_{level}"]
        return total, terms

    def levels(self, batch: Any) -> list[Tensor]:
        """Return the mean over each level's cells, `[B, 1, D]`, by the moving average; padding does not count."""
        outputs, grid = self.target_encoder(batch)
        read = []
        for output, cells in zip(outputs, grid.cells, strict=True):
            means, share = cell_means(output, cells)
            read.append(_mean(means, share > 0).unsqueeze(1))
        return read

    def watched(self) -> dict[str, nn.Module]:
        """Return encoder and predictor."""
        return {"encoder": self.encoder, "predictor": self.predictor}

    def update_target(self, momentum: float) -> None:
        """Move the moving average."""
        move(self.target_encoder, self.encoder, momentum)


class _TokenPredictor(nn.Module):
    """Blocks over what is seen and mask tokens; an answer never depends on which others were asked with it."""

    def __init__(self, width: int, *, depth: int, num_heads: int, levels: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.place = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=True) for _ in range(depth))
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(levels))

    def forward(self, seen: Tensor, grid: Grid, hidden: Tensor) -> list[Tensor]:
        """Return the answers `[B, M_l, D]` at every level, means over the hidden tokens of a cell."""
        places = torch.where(grid.valid, grid.cells[0], 0).float()
        angles = places.unsqueeze(-1) * 10_000.0 ** (
            -torch.arange(0, seen.shape[-1], 2, device=seen.device) / seen.shape[-1]
        )
        position = self.place(torch.cat((angles.sin(), angles.cos()), dim=-1))
        tokens = torch.where(hidden.unsqueeze(-1), self.mask_token.to(seen.dtype), seen) + position
        mask = _keys(grid.valid & ~hidden).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, attn_mask=mask)
        pooled = (cell_means(tokens, cells, hidden)[0] for cells in grid.cells)
        return [head(cells) for head, cells in zip(self.heads, pooled, strict=True)]


def _mean(tokens: Tensor, shown: Tensor) -> Tensor:
    """Return fp32 `[B, D]`, the mean of the tokens `[B, N, D]` that are `shown`."""
    kept = shown.unsqueeze(-1)
    return (tokens.float() * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
