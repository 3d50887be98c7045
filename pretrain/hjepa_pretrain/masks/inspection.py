"""Statistics and figures of generators whose levels share their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from hjepa_pretrain.masks.statistics import mask_statistics

if TYPE_CHECKING:
    from pathlib import Path


class InspectableMasks:
    """What a mask generator says of context `[B, N]` and targets `[B, M, N]` on its `grid` of (rows, columns)."""

    grid: tuple[int, int]
    title: str

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
