"""Many views of an image point one way, and images point many ways: the total coding rate, and the views' centre."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.distributed.across_ranks import gather_rows


def coding_rate(vectors: Tensor, *, precision: float = 0.2) -> Tensor:
    """Return minus the total coding rate of `[B, P]`: the more directions the vectors take, the less it is.

    With unit vectors z_n of B images, those of all ranks:

        R = 1/2 log det(I + P / (B precision) sum_n z_n z_n^T), and the term is -R

    The determinant is that of the smaller of two matrices, `[B, B]` or `[P, P]`. Where all vectors are one the term is
    -1/2 log(1 + P / precision), its worst; it is least where they are orthogonal.

    Args:
        vectors: any floating dtype; computed in fp32.
        precision: called epsilon in the source; the smaller it is, the more a direction is worth that few take.

    Source: EMP-SSL (Tong et al. 2023), equation 3, after Ma et al. 2007. Deviation: the published code adds up the
    gradient of a rank's own vectors; here all vectors of all ranks count together.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        # Vectors of almost no length are left almost alone, so that no gradient is divided by nothing.
        unit = F.normalize(gather_rows(vectors.float()), dim=1, eps=1e-6)
        count, width = unit.shape
        gram = unit @ unit.T if count <= width else unit.T @ unit
        lifted = torch.eye(len(gram), device=gram.device) + gram * (width / (count * precision))
        half_log_determinant: Tensor = torch.linalg.cholesky(lifted).diagonal().log().sum()
        return -half_log_determinant


def distance_to_centre(views: list[Tensor]) -> Tensor:
    """Return 1 minus the cosine between each view `[B, P]` of an image and the mean of its views, on average.

    All views are made unit vectors first. Gradient flows into the mean too.

    Source: EMP-SSL (Tong et al. 2023), equation 4, which has the cosine.
    """
    unit = F.normalize(torch.stack(views).float(), dim=-1, eps=1e-6)
    centre = unit.mean(dim=0, keepdim=True)
    return 1.0 - F.cosine_similarity(unit, centre, dim=-1, eps=1e-6).mean()
