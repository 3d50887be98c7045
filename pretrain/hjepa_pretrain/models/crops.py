"""Small crops of an image: what a crop's levels say of whole images, and of other crops, given where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa_pretrain.models.projector import Projector

if TYPE_CHECKING:
    from hjepa_pretrain.models.encoders import ContextEncoder


class CropPredictor(nn.Module):
    """From what a crop shows and where it lies, what another crop of the image shows, given where that one lies.

    Before the first step it answers what it was given: that all crops are alike.
    """

    def __init__(self, *, width: int, hidden_dim: int) -> None:
        """Build a predictor of vectors of `width`."""
        super().__init__()
        self.shown = nn.Linear(width, hidden_dim)
        self.places = nn.Linear(6, hidden_dim, bias=False)
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, vectors: Tensor, places: Tensor) -> Tensor:
        """Return `[V, B, P]`: what each crop says of the next one of its image, and the last one of the first.

        Crops lie at random, so the next one is as good as any other.

        Args:
            vectors: `[V, B, P]` of V crops of each of B images.
            places: `[V, B, 3]`: row and column of a crop in [-1, 1], and 1 where it is mirrored, -1 where not.
        """
        where = self.places(torch.cat((places, places.roll(-1, dims=0)), dim=-1))
        hidden = F.gelu(self.hidden(F.gelu(self.shown(vectors) + where)))
        answer: Tensor = vectors + self.out(hidden)
        return answer


class CropHeads(nn.Module):
    """A projector per level, and a predictor where one is asked for; dropped at evaluation.

    BatchNorm of a projector sees all crops of a level together.
    """

    def __init__(
        self, *, widths: dict[int, int], hidden_dim: int, out_dim: int, predictor_dim: int | None = None
    ) -> None:
        """Build the heads.

        Args:
            widths: of the levels that have objectives, by number.
            hidden_dim: of every projector.
            out_dim: of the projections.
            predictor_dim: hidden width of the predictors; None builds none.
        """
        super().__init__()
        self.levels = tuple(widths)
        self.projectors = nn.ModuleList(
            Projector(encoder_dim=width, hidden_dim=hidden_dim, out_dim=out_dim) for width in widths.values()
        )
        self.predictors = nn.ModuleList(
            CropPredictor(width=out_dim, hidden_dim=predictor_dim) for _ in widths if predictor_dim is not None
        )

    def forward(self, encoder: ContextEncoder, crops: Tensor, places: Tensor) -> dict[str, Any]:
        """Return `projections`, fp32 `[V, B, P]` for each level of the heads, and `answers`, likewise.

        Args:
            encoder: with stages, which take images of any size.
            crops: `[V, B, 3, S, S]`, normalised.
            places: `[V, B, 3]`, see `CropPredictor`.
        """
        shape = crops.shape[:2]
        outputs = encoder(crops.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        projections = [
            projector([encoder.mean_token(outputs[level])])[0].unflatten(0, shape)
            for level, projector in zip(self.levels, self.projectors, strict=True)
        ]
        answers = [
            predictor(projection, places).float()
            for predictor, projection in zip(self.predictors, projections, strict=False)
        ]
        return {"projections": projections, "answers": answers}
