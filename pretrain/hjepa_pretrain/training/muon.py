"""Muon: the momentum of a matrix is moved along with all its singular values made nearly equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the quintic polynomial that takes singular values of [0, 1] to about 1, and how often it is applied.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 3


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `muon: True` are moved by Muon; convolutions are matrices `[out, in * rows * columns]`.

    A Muon group has `momentum`, and `scale`, by which its learning rate is larger than `lr`, so that one schedule does
    for all. Where a matrix has more rows than columns the step is larger by the root of their ratio.

    Source: Muon (Jordan et al. 2024), with Nesterov momentum; three iterations as in airbench. Deviation: momentum is
    an average, as in torch's `lerp`, and the products are fp32: no machine computes another sign.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; gradients of matrices are used up."""
        for group in self.param_groups:
            if group.get("muon"):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)
        loss: float | None = super().step(closure)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, rate = parameter.grad, group["lr"] * group["scale"]
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalised(gradient.lerp(average, group["momentum"]).flatten(1))
        parameter.mul_(1 - rate * group["weight_decay"])
        taller = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.sub_(update.view_as(parameter), alpha=rate * taller)
        parameter.grad = None  # AdamW leaves alone what has no gradient.


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return fp32 `[N, M]` with the singular vectors of `matrix` and singular values of about 1, between .3 and 1.6.

    Those that are tiny beside the largest one stay below; a zero matrix stays zero.

    Source: the Newton-Schulz iteration of Muon (Jordan et al. 2024).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    root = (matrix.T if tall else matrix).float()
    root = root / root.norm().clamp_min(1e-7)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = root @ root.T
        root = first * root + (third * gram + fifth * gram @ gram) @ root
    result: Tensor = root.T if tall else root
    return result
