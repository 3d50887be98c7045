"""Small movements of the eye: shift and rotation, their inverse, and images seen before and after."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_poses(count: int, *, shift: float, rotation: float, generator: torch.Generator) -> Tensor:
    """Return fp32 `[count, 3]`: an angle in radians, and a shift right and down in halves of the image's side.

    Args:
        count: how many.
        shift: largest shift in each direction, as a share of half of the side.
        rotation: largest angle in degrees, both ways.
        generator: on the CPU.
    """
    draws = 2 * torch.rand(count, 3, generator=generator) - 1
    return draws * torch.tensor([math.radians(rotation), shift, shift])


def look(images: Tensor, poses: Tensor) -> Tensor:
    """Return float images `[B, C, H, H]` as they are seen from `poses` `[B, 3]`; what lies outside is mirrored."""
    angle, right, down = poses.to(images.device).unbind(dim=1)
    cosine, sine = angle.cos(), angle.sin()
    maps = torch.stack((cosine, -sine, right, sine, cosine, down), dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def movement_between(before: Tensor, after: Tensor) -> Tensor:
    """Return `[B, 3]`, the movement that carries the pose `before` into `after`, in the frame of `before`."""
    turned = _turn(after[:, 1:] - before[:, 1:], -before[:, 0])
    return torch.cat((after[:, :1] - before[:, :1], turned), dim=1)


def inverse(movement: Tensor) -> Tensor:
    """Return `[B, 3]`, the movement that undoes `movement`: the shift back is one of the frame that it led to."""
    return torch.cat((-movement[:, :1], -_turn(movement[:, 1:], -movement[:, 0])), dim=1)


def told(movement: Tensor) -> Tensor:
    """Return `[B, 4]`, what a predictor is told of a movement: sine and cosine of the angle, and the shift."""
    angle = movement[:, :1]
    return torch.cat((angle.sin(), angle.cos(), movement[:, 1:]), dim=1)


def _turn(shift: Tensor, angle: Tensor) -> Tensor:
    """Return shifts `[B, 2]` turned by angles `[B]`."""
    cosine, sine = angle.cos(), angle.sin()
    right, down = shift.unbind(dim=1)
    return torch.stack((cosine * right - sine * down, sine * right + cosine * down), dim=1)
