"""H-JEPA: predict, at every level, what the target encoder says about the parts of an image that are not shown."""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa_eval.encoders.vit import check_levels, pool_cells
from hjepa_eval.errors import TrainingError, UnknownNameError, unknown
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.masks.indices import Masks, masks_from_masked
from hjepa_pretrain.models.crops import CropHeads
from hjepa_pretrain.models.encoders import ContextEncoder, gather_tokens
from hjepa_pretrain.models.predictor import Predictor
from hjepa_pretrain.models.projector import Projector


class HJEPA(nn.Module):
    """Context encoder, its moving average as target encoder, one predictor, and a head per level."""

    def __init__(
        self,
        context_encoder: ContextEncoder,
        predictor: Predictor | None,
        *,
        ema: EmaSchedule,
        cell_coverage: float = 0.5,
        projector: Projector | None = None,
        crop_heads: CropHeads | None = None,
    ) -> None:
        """Assemble the parts; the target encoder is copied from `context_encoder` as it is now.

        Args:
            context_encoder: one tap per level.
            predictor: for the same grid and width; when it has a global query, that one gets a head too. None, and
                no heads, where objectives on whole images alone are learned from.
            ema: momentum of the target encoder over the training.
            cell_coverage: share of a cell's tokens that must be targets for the cell to count in the loss.
            projector: of the mean context token, for objectives on whole images; dropped at evaluation.
            crop_heads: of small crops, likewise.
        """
        super().__init__()
        self.grid, self.taps = context_encoder.grid, context_encoder.taps
        check_levels(self.grid, len(self.taps))
        self.context_encoder = context_encoder
        self.target_encoder = context_encoder.moving_average()
        self.predictor = predictor
        self.heads = nn.ModuleList(_head(width) for width in context_encoder.widths if predictor is not None)
        self.global_head = _head(context_encoder.widths[-1]) if predictor and predictor.global_query else None
        self.projector = projector
        self.crop_heads = crop_heads
        self.ema = ema
        self.cell_coverage = cell_coverage
        self._told_constant = False

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.taps)

    def forward(
        self,
        images: Tensor,
        mask: Tensor | Masks,
        return_all_levels: bool = True,
        *,
        target_images: Tensor | None = None,
        other_images: Tensor | None = None,
        other_context: Tensor | None = None,
        num_predicted: int | None = None,
    ) -> dict[str, Any]:
        """Return predictions and targets of every level.

        Args:
            images: normalised `[B, 3, H, W]`, what the context encoder sees parts of.
            mask: numbers `[B, N]` with 1 = masked, or `Masks`.
            return_all_levels: False returns level 0 alone.
            target_images: `[B, 3, H, W]`, what the target encoder sees; `images` when absent. Same geometry.
            other_images: `[V - 1, B, 3, H, W]`, further views of the same images for objectives on whole images.
            other_context: int64 `[V - 1, B, K]`, the tokens of those views that are seen.
            num_predicted: predict for the first so many images alone, `P` of `B`; all of them when absent (none of them
                without a predictor). The rest
                costs no target encoding and takes part in objectives on whole images.

        Returns:
            `predictions`, `targets` (lists of `[P, T_l, D]`), `valid` (list of bool `[P, T_l]`), all empty when P is
            0; `global_prediction` and `global_target` `[P, D]` when there are other views and the predictor has a
            global query; and, when there is a projector, `projections` `[V, B, P]` of the mean context token.

        Raises:
            TrainingError: the mask is ambiguous or leaves an image without context or targets, or images and mask do
                not fit each other or the encoder.
        """
        masks = mask if isinstance(mask, Masks) else masks_from_masked(mask)
        self._check_shapes(images, masks)
        levels = range(self.num_levels if return_all_levels else 1)
        # Without a projector nothing looks at what the context encoder says of other views.
        shown = (None, None) if self.projector is None else (other_images, other_context)
        seen, others = self._encode_context(images, masks, *shown)
        count = (0 if self.predictor is None else len(images)) if num_predicted is None else num_predicted
        outputs: dict[str, Any] = {"predictions": [], "targets": [], "valid": []}
        if count:
            if self.predictor is None:
                raise TrainingError("there is no predictor, as train.predicted_share is 0; pass num_predicted=0")
            asked = masks.first(count)
            # Also of levels that are not returned: finer answers may build on theirs.
            queries: list[Tensor | None] = [asked.targets, *[None] * (self.num_levels - 1)]
            answers = self.predictor(seen[:count], asked.context, queries, context_valid=asked.context_valid)
            whole = images if target_images is None else target_images
            outputs["predictions"] = [self.heads[level](answers[level]) for level in levels]
            outputs["targets"] = self._targets(whole[:count], asked, len(levels))
            outputs["valid"] = [asked.valid(self.grid, level, coverage=self.cell_coverage) for level in levels]
            if self.global_head is not None and other_images is not None and other_context is not None:
                outputs["global_prediction"] = self.global_head(answers[-1][:, 0])
                outputs["global_target"] = self._global_target(other_images[0, :count], other_context[0, :count])
        if self.projector is not None:
            mean = self.context_encoder.mean_token
            means = [mean(seen, masks.context_valid), *(mean(tokens) for tokens in others)]
            outputs["projections"] = self.projector(means)
        return outputs

    def see_crops(self, crops: Tensor, places: Tensor) -> dict[str, Any]:
        """Return what the heads say of small crops `[V, B, 3, S, S]` at `places` `[V, B, 3]`, see `CropHeads`.

        Raises:
            TrainingError: the model was built without such heads.
        """
        if self.crop_heads is None:
            raise TrainingError("this model has no heads for crops; build it with data.augmentation crops")
        outputs: dict[str, Any] = self.crop_heads(self.context_encoder, crops, places)
        return outputs

    def _check_shapes(self, images: Tensor, masks: Masks) -> None:
        """Check that images have the encoder's size, and that there is a mask of its grid for each of them.

        Raises:
            TrainingError: they do not.
        """
        rows, columns = self.grid
        height, width = self.context_encoder.image_shape
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, height, width):
            raise TrainingError(
                f"the encoder takes images [B, 3, {height}, {width}], found {list(images.shape)}; resize them, "
                "or build the model with another img_size"
            )
        if masks.target_flags.shape != (len(images), rows * columns):
            raise TrainingError(
                f"expected a mask [{len(images)}, {rows * columns}], one number per image and token of the grid of "
                f"{rows}x{columns}, found {list(masks.target_flags.shape)}"
            )

    def _encode_context(
        self, images: Tensor, masks: Masks, other_images: Tensor | None, other_context: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the last block's tokens `[B, prefix + K, D]` of every view, in one pass where possible."""
        if other_images is None or other_context is None:
            return self.context_encoder(images, masks.context, valid=masks.context_valid)[-1], ()
        batch = len(images)
        others, indices = other_images.flatten(0, 1), other_context.flatten(0, 1)
        if masks.context_valid is not None or masks.context.shape[1] != indices.shape[1]:
            first = self.context_encoder(images, masks.context, valid=masks.context_valid)[-1]
            return first, self.context_encoder(others, indices)[-1].split(batch)
        tokens = self.context_encoder(torch.cat((images, others)), torch.cat((masks.context, indices)))[-1]
        first, *rest = tokens.split(batch)
        return first, tuple(rest)

    @torch.no_grad()
    def _targets(self, images: Tensor, masks: Masks, num_levels: int) -> list[Tensor]:
        """Return the targets `[B, T_l, D]`: pooled target tokens, normalised without parameters, in fp32."""
        prefix = self.target_encoder.prefix
        taps = self.target_encoder(images)[:num_levels]
        targets = []
        for level, tokens in enumerate(taps):
            pooled = pool_cells(tokens[:, prefix:].float(), self.grid, level)
            if level == 0:
                pooled = gather_tokens(pooled, masks.targets)
            targets.append(F.layer_norm(pooled, pooled.shape[-1:]))
        return targets

    @torch.no_grad()
    def _global_target(self, images: Tensor, context: Tensor) -> Tensor:
        """Return `[B, D]`, fp32: the normalised mean of the tokens `context` `[B, K]` of another view."""
        mean = self.target_encoder.mean_token(self.target_encoder(images, context)[-1])
        return F.layer_norm(mean, mean.shape[-1:])

    def extract_features(
        self,
        images: Tensor,
        level: int,
        *,
        encoder: Literal["target", "context"] = "target",
        head: bool = False,
    ) -> Tensor:
        """Return the features `[B, T_l, D]` of one level for whole images `[B, 3, H, W]`, without prefix tokens.

        Args:
            images: normalised.
            level: 0 is the finest.
            encoder: the moving average, or the context encoder itself.
            head: whether the level's prediction head is applied.

        Raises:
            UnknownNameError: there is no such level, or no such branch.
            TrainingError: a head is asked for, and there is none.
        """
        if head and not self.heads:
            raise TrainingError("there are no prediction heads, as train.predicted_share is 0; leave out head=True")
        if not 0 <= level < self.num_levels:
            names = ", ".join(str(number) for number in range(self.num_levels))
            raise UnknownNameError(f"unknown level {level}; known: {names}")
        networks = {"target": self.target_encoder, "context": self.context_encoder}
        if encoder not in networks:
            raise unknown("encoder branch", encoder, networks)
        network = networks[encoder]
        tokens = network(images)[level][:, network.prefix :]
        pooled = network.pool(tokens, level)
        return self.heads[level](pooled) if head else pooled

    def update_target_encoder(self, current_step: int, *, progress: float | None = None) -> float:
        """Move the target encoder towards the context encoder and return the momentum used.

        Args:
            current_step: steps done before this one.
            progress: share of the training that is done, for runs whose number of steps is not known. Without it and
                without the `total_steps` of `create_hjepa` the momentum cannot rise, which is said once on stderr.
        """
        if progress is None and self.ema.needs_length and not self._told_constant:
            self._told_constant = True
            print(
                f"the target encoder's momentum stays at {self.ema.base}, since nobody says how long the training is; "
                "pass total_steps (and steps_per_epoch for a warm-up) to create_hjepa, or progress here",
                file=sys.stderr,
            )
        momentum = self.ema.momentum(current_step, progress=progress)
        self.target_encoder.update(self.context_encoder, momentum)
        return momentum

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters of each part, of all of them, and of the trainable ones."""
        parts = {
            "context_encoder": self.context_encoder,
            "target_encoder": self.target_encoder,
            "predictor": self.predictor or nn.Module(),
            "heads": nn.ModuleList([*self.heads, self.global_head or nn.Module()]),
            "projector": self.projector or nn.Module(),
            "crop_heads": self.crop_heads or nn.Module(),
        }
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {**counts, "total": sum(counts.values()), "trainable": trainable}

    def level_shapes(self) -> list[tuple[int, int]]:
        """Return rows and columns of every level."""
        return self.context_encoder.level_shapes()


def _head(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
