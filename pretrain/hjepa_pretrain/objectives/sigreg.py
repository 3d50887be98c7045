"""SIGReg: vectors of whole images should look like draws from N(0, I), seen along random directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa_pretrain.distributed.across_ranks import mean_over_ranks


def sigreg_directions(dim: int, slices: int, *, generator: torch.Generator) -> Tensor:
    """Return fp32 unit vectors `[dim, slices]`, uniform on the sphere, on the generator's device.

    Draw new ones every step, the same on all ranks: seed the generator with the run's seed and the step.
    """
    directions = torch.randn(dim, slices, generator=generator, device=generator.device)
    return F.normalize(directions, dim=0)


def sigreg(vectors: Tensor, directions: Tensor, *, knots: int = 17) -> Tensor:
    """Return how far one-dimensional shadows of `[B, P]` are from a standard normal; about 0 for N(0, I).

    With shadows x_ns = vectors_n . directions_s, phi(t) = exp(-t^2 / 2) the characteristic function of N(0, 1), and
    the empirical one taken over the vectors of all ranks:

        loss = mean_s integral over t in [-3, 3] of |mean_n exp(i t x_ns) - phi(t)|^2 phi(t)

    The integrand is even, so it is twice the trapezoid rule on `knots` points of [0, 3]. N draws from N(0, I)
    cost about 1.05 / N on average, the noise of the empirical function.

    Args:
        vectors: `[B, P]`, any floating dtype; computed in fp32.
        directions: `[P, S]`, columns of length 1 as `sigreg_directions` makes them, the same on all ranks. They are an
            argument so that nothing random stands in a compiled step.
        knots: points of the trapezoid rule.

    Source: LeJEPA (Balestriero and LeCun 2025), the Epps-Pulley statistic. Deviation: without the factor N, so that
    the value does not depend on the batch size. Where all vectors are one, the gradient moves them together and cannot
    part them; it is zero when that one is the origin: keep a `variance_hinge` beside it.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        shadows = vectors.float() @ directions
        points = torch.linspace(0.0, 3.0, knots, device=vectors.device)
        normal = torch.exp(-points.square() / 2)
        angles = shadows.unsqueeze(-1) * points
        real, imaginary = mean_over_ranks(torch.stack((angles.cos().mean(dim=0), angles.sin().mean(dim=0))))
        error = (real - normal).square() + imaginary.square()
        return 2.0 * torch.trapezoid(error * normal, points, dim=-1).mean()
