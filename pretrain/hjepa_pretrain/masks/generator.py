"""What all kinds of masks share: a grid, draws that depend on (seed, step) alone, and what training asks for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from hjepa_pretrain.masks.blocks import check_keep, check_share, grid_of
from hjepa_pretrain.masks.indices import Masks, fixed_masks
from hjepa_pretrain.masks.inspection import mask_statistics

if TYPE_CHECKING:
    from pathlib import Path

Device = torch.device | str
MasksT = TypeVar("MasksT")


class Regions(NamedTuple):
    """Where the context and the targets of a batch lie, before tokens are counted; both may share tokens.

    Attributes:
        context: bool `[B, N]`, tokens that may be seen.
        targets: bool `[B, N]`, tokens to predict.
        level: int64 `[B]`, the one level that each image is masked for, or None.
    """

    context: Tensor
    targets: Tensor
    level: Tensor | None = None


class MaskGenerator(ABC, Generic[MasksT]):
    """Draws masks; every image gets its own, and the same (seed, step) the same.

    A kind of masks says how it draws (`_drawn`, `_regions`) and how much it hides at least.

    Attributes:
        title: of pictures.
        grid: rows and columns of tokens.
        num_patches: tokens `N`.
        roll: share of images whose masks are rolled around the grid.
        saliency: how much targets prefer salient tokens.
        seed: of all draws.
        step: of the next call that names none.
    """

    title: str

    def __init__(
        self,
        input_size: int | tuple[int, int],
        patch_size: int,
        *,
        roll: float = 0.0,
        saliency: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Prepare the grid.

        Raises:
            ConfigError: the patch does not divide the image, or `roll` is no share.
        """
        self.grid = grid_of(input_size, patch_size)
        self.num_patches = math.prod(self.grid)
        check_share("roll", roll)
        self.roll, self.saliency, self.seed = roll, saliency, seed
        self.step = 0

    @property
    @abstractmethod
    def fewest_targets(self) -> int:
        """Tokens that the targets of every image hide at least; no more than the others can be seen."""

    @abstractmethod
    def _drawn(self, batch: int, device: Device, step: int, saliency: Tensor | None) -> MasksT:
        """Return what a call gives: masks of a `step` with counts of their own."""

    @abstractmethod
    def _regions(
        self, batch: int, device: Device, step: int, saliency: Tensor | None, *, context_tokens: int
    ) -> Regions:
        """Return where context and targets of a `step` lie, of which `context_tokens` shall be seen."""

    def __call__(
        self, batch_size: int, device: Device = "cpu", *, step: int | None = None, saliency: Tensor | None = None
    ) -> MasksT:
        """Return masks, boolean with True = use; context and targets never share a token.

        Args:
            batch_size: images `B`.
            device: where the masks are made.
            step: draws the masks of that step; without it, the generator counts its calls.
            saliency: `[B, N]`, not negative, or None.

        Returns:
            Context `[B, N]` and targets `[B, M, N]`; of hierarchical masks both for each level, by name.
        """
        step = self.step if step is None else step
        self.step = step + 1
        return self._drawn(batch_size, device, step, saliency)

    def sample(
        self,
        batch_size: int,
        device: Device = "cpu",
        *,
        step: int,
        context_tokens: int,
        target_tokens: int,
        saliency: Tensor | None = None,
    ) -> Masks:
        """Return masks of `batch_size` images with fixed counts, a function of the seed and `step` alone.

        Targets are the union of an image's blocks, or a random `target_tokens` of it, padded where it holds fewer.

        Args:
            batch_size: images `B`.
            device: where the masks are made; nothing waits for it while target blocks may overlap.
            step: of the training.
            context_tokens: seen of each image, random ones of its context; no context is padded.
            target_tokens: listed at level 0 at most; fewer are padded.
            saliency: `[B, N]`, not negative, or None.

        Raises:
            ConfigError: the counts leave nothing to see or to predict.
        """
        check_keep("context_tokens", context_tokens, self.num_patches)
        context, targets, level = self._regions(batch_size, device, step, saliency, context_tokens=context_tokens)
        return fixed_masks(
            context,
            targets,
            context_tokens=context_tokens,
            target_tokens=target_tokens,
            seed=self.seed,
            step=step,
            level=level,
        )


class FlatMaskGenerator(MaskGenerator[tuple[Tensor, Tensor]]):
    """A generator that gives one context `[B, N]` and targets `[B, M, N]`, which serve all levels."""

    def get_mask_statistics(self, context_mask: Tensor, target_masks: Tensor) -> dict[str, Any]:
        """Return shares, overlaps and the coverage map of masks; see `mask_statistics`."""
        return mask_statistics(context_mask, target_masks, self.grid)

    def visualize_masks(
        self,
        context_mask: Tensor,
        target_masks: Tensor,
        *,
        count: int = 4,
        title: str | None = None,
        save_path: Path | str | None = None,
    ) -> Any:
        """Return a matplotlib figure of the first `count` images and of the whole batch's coverage."""
        from hjepa_pretrain.masks.figures import draw_masks

        title = self.title if title is None else title
        return draw_masks(context_mask, target_masks, self.grid, count=count, title=title, save_path=save_path)
