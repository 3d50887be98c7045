"""Newton's method for one smooth convex problem, its steps by conjugate gradients: the end of a fit that must be sure.

L-BFGS stops improving long before its gradient is small where one far row, or classes that separate, make the problem
ill-conditioned. A few Newton steps from there make the gradient small, and that is the certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

Gradient = Callable[[torch.Tensor], tuple[float, torch.Tensor]]
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SUFFICIENT = 1e-4
_MAX_HALVINGS = 30
_MAX_PRODUCTS = 300


def polish(
    evaluate: Gradient,
    product: Product,
    diagonal: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    *,
    done: Callable[[float, torch.Tensor], bool],
    max_iter: int = 30,
) -> tuple[torch.Tensor, int]:
    """Return the point [P] where `done` holds, or no step lowers the value any more, and the steps taken.

    Args:
        evaluate: point [P] -> value and gradient [P].
        product: (point, direction) -> Hessian times direction [P].
        diagonal: point -> approximate diagonal of the Hessian [P], positive.
        start: float64 [P].
        done: (value, gradient) -> whether that is near enough.
        max_iter: steps at most.

    Source: Nocedal and Wright, "Numerical Optimization", algorithm 7.1 (line search Newton-CG), preconditioned.
    """
    x = start
    value, gradient = evaluate(x)
    for step in range(max_iter):
        if done(value, gradient):
            return x, step
        direction = _solve(partial(product, x), -gradient, 1 / diagonal(x))
        slope = float(gradient @ direction)
        length = 1.0
        for _ in range(_MAX_HALVINGS):
            new = x + length * direction
            new_value, new_gradient = evaluate(new)
            # Near the minimum the value is flat to rounding, and the gradient alone says which point is better.
            flat = abs(new_value - value) <= 1e-9 * abs(value) and float(new_gradient.norm()) < float(gradient.norm())
            if new_value <= value + _SUFFICIENT * length * slope or flat:
                break
            length /= 2
        else:
            return x, step
        x, value, gradient = new, new_value, new_gradient
    return x, max_iter


def _solve(apply: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Return the solution [P] of `apply`(x) = `target`, nearly, by preconditioned conjugate gradients."""
    x, rest = torch.zeros_like(target), target.clone()
    scaled = inverse * rest
    direction, product = scaled, float(rest @ scaled)
    enough = 1e-6 * product
    for _ in range(_MAX_PRODUCTS):
        moved = apply(direction)
        curvature = float(direction @ moved)
        if not curvature > 0:
            break
        length = product / curvature
        x = x + length * direction
        rest = rest - length * moved
        scaled = inverse * rest
        new = float(rest @ scaled)
        if new <= enough:
            break
        direction, product = scaled + (new / product) * direction, new
    return x if bool(x.any()) else inverse * target
