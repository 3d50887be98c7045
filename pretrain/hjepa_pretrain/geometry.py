"""Do encoder, levels, masks and predictor fit together? Asked before any data is read; all problems at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from hjepa_eval.encoders.vit import check_levels, create_vit, resolve_taps
from hjepa_eval.errors import HjepaError

if TYPE_CHECKING:
    from hjepa_pretrain.config import MaskingSettings, PretrainSettings


@dataclass(frozen=True)
class Geometry:
    """What a ViT and the settings come to.

    Attributes:
        dim: width of the encoder.
        depth: encoder blocks.
        image_size: side of the input in pixels.
        patch_size: side of a patch in pixels.
        grid: rows and columns of patches.
        taps: block of each level.
    """

    dim: int
    depth: int
    image_size: int
    patch_size: int
    grid: tuple[int, int]
    taps: tuple[int, ...]

    @property
    def num_patches(self) -> int:
        """Tokens of level 0."""
        return self.grid[0] * self.grid[1]

    def context_tokens(self, masking: MaskingSettings) -> int:
        """Return how many tokens of each image are seen."""
        return masking.context_tokens or max(1, self.num_patches * 3 // 8)

    def target_tokens(self, masking: MaskingSettings) -> int:
        """Return how many tokens of level 0 are predicted at most: what is not context."""
        most = self.num_patches - self.context_tokens(masking)
        return min(masking.target_tokens or most, most)


def encoder_arguments(settings: PretrainSettings) -> dict[str, Any]:
    """Return the arguments with which `create_vit` builds the encoder as it is before the first step."""
    model, data = settings.model, settings.data
    arguments: dict[str, Any] = {
        "seed": settings.train.seed,
        "positions": model.positions,
        "class_token": model.class_token,
        "global_pool": "",
    }
    if model.encoder_depth is not None:
        arguments["depth"] = model.encoder_depth
    if data.image_size is not None:
        arguments["img_size"] = data.image_size
    return arguments


def resolve_geometry(settings: PretrainSettings) -> Geometry:
    """Return the geometry of settings.

    Raises:
        HjepaError: there is no such ViT, or its taps do not fit.
    """
    model = settings.model
    shape = _encoder_shape(settings)
    return replace(shape, taps=resolve_taps(model.taps, shape.depth, model.num_hierarchies))


def _encoder_shape(settings: PretrainSettings) -> Geometry:
    """Return the geometry without taps."""
    arguments = encoder_arguments(settings)
    if arguments["positions"] == "sincos":
        arguments["positions"] = "learned"  # Only shapes matter here; the table cannot be computed on `meta`.
    with torch.device("meta"):
        vit: Any = create_vit(settings.model.encoder_type, **arguments)
    patch, image = vit.patch_embed.patch_size[0], vit.patch_embed.img_size[0]
    return Geometry(vit.embed_dim, len(vit.blocks), image, patch, tuple(vit.patch_embed.grid_size), ())


def geometry_problems(settings: PretrainSettings) -> list[str]:
    """Return everything that does not fit together, in words; an empty list when all is well."""
    problems = _problems_of_choices(settings)
    try:
        geometry = _encoder_shape(settings)
    except HjepaError as error:
        return [*problems, str(error)]
    except AssertionError as error:  # timm checks head counts with assert
        return [*problems, f"model.encoder_type {settings.model.encoder_type!r} cannot be built: {error}"]
    model, masking = settings.model, settings.masking
    if model.embed_dim is not None and model.embed_dim != geometry.dim:
        problems.append(f"model.embed_dim {model.embed_dim} disagrees with the {geometry.dim} of {model.encoder_type}")
    if geometry.image_size % geometry.patch_size:
        problems.append(f"the patch of {geometry.patch_size} does not divide the image of {geometry.image_size} pixels")
    for check in (
        lambda: resolve_taps(model.taps, geometry.depth, model.num_hierarchies),
        lambda: check_levels(geometry.grid, model.num_hierarchies),
    ):
        try:
            check()
        except HjepaError as error:
            problems.append(f"model: {error}")
    if masking.context_tokens is not None and masking.context_tokens >= geometry.num_patches:
        rows, columns = geometry.grid
        problems.append(
            f"masking.context_tokens {masking.context_tokens} leaves nothing to predict on a grid of {rows}x{columns}; "
            f"at most {geometry.num_patches - 1}"
        )
        return problems
    hidden = geometry.num_patches - geometry.context_tokens(masking)
    for level in range(1, model.num_hierarchies):
        cell = min(2**level, geometry.grid[0]) * min(2**level, geometry.grid[1])
        if hidden < masking.cell_coverage * cell:
            problems.append(
                f"level {level} would never be predicted: {hidden} hidden tokens are less than masking.cell_coverage "
                f"{masking.cell_coverage} of a cell's {cell}; lower it, or masking.context_tokens"
            )
    return problems


def _problems_of_choices(settings: PretrainSettings) -> list[str]:
    """Return what does not fit together without looking at a network."""
    model, masking, train, data = settings.model, settings.masking, settings.train, settings.data
    predictor, whole = model.predictor, train.whole_image
    problems = []
    if predictor.embed_dim % predictor.num_heads:
        problems.append(
            f"model.predictor.num_heads {predictor.num_heads} does not divide its embed_dim {predictor.embed_dim}"
        )
    if predictor.embed_dim % 4:
        problems.append(f"model.predictor.embed_dim {predictor.embed_dim} is no multiple of 4, as its positions need")
    if model.ema.momentum > model.ema.momentum_end:
        problems.append(f"model.ema.momentum {model.ema.momentum} lies above momentum_end {model.ema.momentum_end}")
    ranges = {
        "masking.mask_scale": masking.mask_scale,
        "masking.aspect_ratio": masking.aspect_ratio,
        "masking.context_scale": masking.context_scale,
        "data.crop_scale": data.crop_scale,
    }
    for name, (low, high) in ranges.items():
        if low > high or (high > 1 and "scale" in name):
            bound = " within (0, 1]" if "scale" in name else ""
            problems.append(f"{name} [{low}, {high}] is no range{bound} from small to large")
    if (train.epochs is None) == (train.minutes is None):
        found = "neither" if train.epochs is None else "both"
        problems.append(f"give train.epochs or train.minutes, found {found}")
    if train.level_weights is not None and len(train.level_weights) != model.num_hierarchies:
        problems.append(
            f"train.level_weights has {len(train.level_weights)} weights for {model.num_hierarchies} levels"
        )
    if (whole.invariance or whole.contrast) and data.augmentation != "asym+global":
        problems.append(
            "train.whole_image.invariance and contrast compare two views; set data.augmentation to asym+global"
        )
    return problems
