"""What an encoder and the settings come to: sizes, widths, the block of every level; nothing is allocated.

Of encoders with stages (ResNet, ConvNeXt, Swin, ...) the last `model.num_hierarchies` stages are the levels. Nothing of
timm's networks is rewritten for small images: a ResNet's stem divides 32 pixels by 4, so its last stage is one cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import PatchEmbed

from hjepa_eval.encoders.stages import create_stages, stage_maps
from hjepa_eval.encoders.vit import create_vit, is_energy, is_plain, resolve_taps, use_rotary_positions
from hjepa_eval.errors import EncoderError
from hjepa_pretrain.config.schedules import context_count

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings, PretrainSettings

# An image is hidden in patches of an eighth of its side, whatever the strides of the stages: the last stage alone
# would leave one patch of a small image.
PATCHES = 8


def has_stages(settings: PretrainSettings) -> bool:
    """Tell whether the encoder is asked for as a model with stages: no ViT and no energy transformer."""
    name = settings.model.encoder_type
    return not (is_plain(name) or is_energy(name))


def stage_arguments(settings: PretrainSettings) -> dict[str, Any]:
    """Return the arguments with which `create_stages` builds the encoder as it is before the first step."""
    arguments = {"seed": settings.train.seed}
    if settings.data.image_size is not None:
        arguments["image_size"] = settings.data.image_size
    return arguments


def stage_sizes(settings: PretrainSettings) -> tuple[int, int, tuple[tuple[int, int, int], ...]]:
    """Return the side of images and of hidden patches in pixels, and width, rows and columns of every stage's map.

    Raises:
        UnknownNameError: timm has no such model.
        EncoderError: it has no stages, cannot drop paths, or cannot take images of that size.
    """
    name = settings.model.encoder_type
    with torch.device("meta"), torch.no_grad():
        network = create_stages(name, drop_path=settings.model.drop_path, **stage_arguments(settings)).eval()
        image = settings.data.image_size or int(timm.data.resolve_data_config(model=network)["input_size"][-1])
        try:
            maps = stage_maps(network, torch.zeros(1, 3, image, image), range(len(network.feature_info)))
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise EncoderError(
                f"{name} cannot take images of {image} pixels ({reason}); set data.image_size to another side"
            ) from None
    sizes = tuple((map_.shape[1], map_.shape[2], map_.shape[3]) for map_ in maps)
    return image, max(1, image // PATCHES), sizes


@dataclass(frozen=True)
class Geometry:
    """What an encoder and the settings come to.

    Attributes:
        dim: width of the encoder's last block or stage.
        depth: encoder blocks, or stages.
        image_size: side of the input in pixels.
        patch_size: side of a patch in pixels.
        grid: rows and columns of patches.
        taps: block or stage of each level, from 1.
        maps: width, rows and columns of every stage; none for a ViT.
    """

    dim: int
    depth: int
    image_size: int
    patch_size: int
    grid: tuple[int, int]
    taps: tuple[int, ...]
    maps: tuple[tuple[int, int, int], ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every level."""
        return tuple(self.maps[tap - 1][0] if self.maps else self.dim for tap in self.taps)

    @property
    def num_patches(self) -> int:
        """Tokens of level 0."""
        return self.grid[0] * self.grid[1]

    def most_context_tokens(self, masking: MaskingSettings) -> int:
        """Return how many tokens of each image are seen at most, over the whole run."""
        return max(context_count(masking, self.num_patches, progress) for progress in (0.0, 1.0))

    def target_tokens(self, masking: MaskingSettings, context_tokens: int) -> int:
        """Return how many tokens of level 0 are predicted at most: what is not context."""
        most = self.num_patches - context_tokens
        return min(masking.target_tokens or most, most)


def encoder_arguments(settings: PretrainSettings) -> dict[str, Any]:
    """Return the arguments with which `create_vit`, or `create_stages`, builds the encoder before the first step."""
    model, data = settings.model, settings.data
    if has_stages(settings):
        return stage_arguments(settings)
    arguments: dict[str, Any] = {
        "seed": settings.train.seed,
        "positions": model.positions,
        "class_token": model.class_token,
        "global_pool": "",
    }
    if model.encoder_depth is not None:
        arguments["depth"] = model.encoder_depth
    if is_energy(model.encoder_type):
        arguments["energy_step"] = model.energy_step
    if model.layer_scale is not None:
        arguments["init_values"] = model.layer_scale
    if data.image_size is not None:
        arguments["img_size"] = data.image_size
    return arguments


def resolve_geometry(settings: PretrainSettings) -> Geometry:
    """Return the geometry of settings.

    Raises:
        HjepaError: there is no such encoder, or its taps do not fit.
    """
    model = settings.model
    shape = encoder_shape(settings)
    if shape.maps:
        return replace(shape, taps=tuple(range(1, shape.depth + 1))[-model.num_hierarchies :])
    return replace(shape, taps=resolve_taps(model.taps, shape.depth, model.num_hierarchies))


def encoder_shape(settings: PretrainSettings) -> Geometry:
    """Return the geometry without taps.

    Raises:
        HjepaError: there is no such encoder, or it is no plain ViT.
    """
    if has_stages(settings):
        image, patch, maps = stage_sizes(settings)
        return Geometry(maps[-1][0], len(maps), image, patch, (image // patch,) * 2, (), maps)
    arguments = encoder_arguments(settings)
    # Only shapes matter here; the table of sincos cannot be computed on `meta`, and rope looks for attention.
    positions = arguments.pop("positions")
    with torch.device("meta"):
        vit: Any = create_vit(settings.model.encoder_type, **arguments)
        _check_plain(settings.model.encoder_type, vit)
        if positions == "rope":
            use_rotary_positions(vit)
    patch, image = vit.patch_embed.patch_size[0], vit.patch_embed.img_size[0]
    return Geometry(vit.embed_dim, len(vit.blocks), image, patch, tuple(vit.patch_embed.grid_size), ())


def _check_plain(name: str, vit: Any) -> None:
    """Check that a ViT has the parts that the context encoder takes apart.

    Raises:
        EncoderError: its patches come from another network, or its blocks have several attentions or none.
    """
    odd = None
    if not isinstance(vit.patch_embed, PatchEmbed):
        odd = f"its patches come from {type(vit.patch_embed).__name__}"
    elif not (is_energy(name) or all(hasattr(block, "attn") for block in vit.blocks)):
        odd = f"its blocks are {type(vit.blocks[0]).__name__}"
    if odd is not None:
        raise EncoderError(
            f"model.encoder_type {name} is no plain ViT, {odd}; choose one such as vit_small_patch16_224"
        )
