"""Do encoder, levels, masks and predictor fit together? Asked before any data is read; all problems at once.

Of encoders with stages (ResNet, ConvNeXt, Swin, ...) the last `model.num_hierarchies` stages are the levels. Nothing of
timm's networks is rewritten for small images: a ResNet's stem divides 32 pixels by 4, so its last stage is one cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import PatchEmbed

from hjepa_eval.encoders.stages import create_stages, stage_maps
from hjepa_eval.encoders.vit import check_levels, create_vit, resolve_taps, use_rotary_positions
from hjepa_eval.errors import ConfigError, EncoderError, HjepaError
from hjepa_pretrain.distributed.processes import started_ranks
from hjepa_pretrain.masks.generator import context_count, create_mask_generator, masking_problems

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings, PretrainSettings

# An image is hidden in patches of an eighth of its side, whatever the strides of the stages: the last stage alone
# would leave one patch of a small image.
PATCHES = 8


def has_stages(settings: PretrainSettings) -> bool:
    """Tell whether the encoder is asked for as a model with stages; every other name begins with `vit_`."""
    return not settings.model.encoder_type.startswith("vit_")


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


def stage_problems(settings: PretrainSettings) -> list[str]:
    """Return what is set that an encoder with stages has not, in one message; none when all is well."""
    model, train = settings.model, settings.train
    needed = {
        "train.predicted_share to 0": train.predicted_share != 0,
        "model.mask_mode to zero": model.mask_mode != "zero",
    }
    meaningless = {
        "model.taps": model.taps != "depth",
        "model.encoder_depth": model.encoder_depth is not None,
        "model.layer_scale": model.layer_scale is not None,
        "model.positions": model.positions != "sincos",
        "model.class_token": model.class_token,
        "masking.saliency": settings.masking.saliency != 0,
        "train.whole_image.predict": train.whole_image.predict != 0,
        "train.checkpoint_activations": train.checkpoint_activations,
    }
    advice = []
    if any(needed.values()):
        advice.append(f"set {' and '.join(name for name, wrong in needed.items() if wrong)}")
    if any(meaningless.values()):
        advice.append(f"leave out {', '.join(name for name, given in meaningless.items() if given)}")
    if not advice:
        return []
    return [f"model.encoder_type {model.encoder_type} has stages instead of tokens: {', and '.join(advice)}"]


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
    shape = _encoder_shape(settings)
    if shape.maps:
        return replace(shape, taps=tuple(range(1, shape.depth + 1))[-model.num_hierarchies :])
    return replace(shape, taps=resolve_taps(model.taps, shape.depth, model.num_hierarchies))


def _encoder_shape(settings: PretrainSettings) -> Geometry:
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
    elif not all(hasattr(block, "attn") for block in vit.blocks):
        odd = f"its blocks are {type(vit.blocks[0]).__name__}"
    if odd is not None:
        raise EncoderError(
            f"model.encoder_type {name} is no plain ViT, {odd}; choose one such as vit_small_patch16_224"
        )


def geometry_problems(settings: PretrainSettings) -> list[str]:
    """Return everything that does not fit together, in words; an empty list when all is well."""
    problems = _problems_of_choices(settings)
    try:
        geometry = _encoder_shape(settings)
    except HjepaError as error:
        return [*problems, str(error)]
    except AssertionError as error:  # timm checks head counts with assert
        return [*problems, f"model.encoder_type {settings.model.encoder_type!r} cannot be built: {error}"]
    model, data = settings.model, settings.data
    if geometry.maps:
        problems += stage_problems(settings)
    if model.embed_dim is not None and model.embed_dim != geometry.dim:
        problems.append(f"model.embed_dim {model.embed_dim} disagrees with the {geometry.dim} of {model.encoder_type}")
    if geometry.image_size % geometry.patch_size:
        problems.append(f"the patch of {geometry.patch_size} does not divide the image of {geometry.image_size} pixels")
    for check in (
        lambda: resolve_taps("depth" if geometry.maps else model.taps, geometry.depth, model.num_hierarchies),
        lambda: check_levels(geometry.grid, model.num_hierarchies),
    ):
        try:
            check()
        except HjepaError as error:
            problems.append(f"model: {error}")
    problems += _problems_of_masks(settings, geometry)
    if data.stored_size is not None and data.stored_size < geometry.image_size:
        problems.append(
            f"data.stored_size {data.stored_size} is smaller than the image of {geometry.image_size} pixels; "
            "leave it out"
        )
    return problems + _problems_of_blocks(settings, geometry, said=bool(problems))


def _problems_of_blocks(settings: PretrainSettings, geometry: Geometry, *, said: bool) -> list[str]:
    """Return why the target blocks leave no such context; where other problems are `said`, these may be the reason."""
    most, tokens = geometry.most_context_tokens(settings.masking), geometry.num_patches
    try:
        with torch.device("cpu"):  # Whoever builds a model on `meta` validates its settings there.
            generator = create_mask_generator(
                settings.masking,
                image_size=geometry.image_size,
                patch_size=geometry.patch_size,
                num_levels=settings.model.num_hierarchies,
                context_tokens=1,
                seed=settings.train.seed,
            )
    except ConfigError as error:
        return [] if said else [f"masking: {error}"]
    left = tokens - generator.fewest_targets
    if most <= left or not settings.train.predicted_share:
        return []
    return [
        f"masking.context_tokens {most} is more than the target blocks leave: at most {left} of {tokens} tokens; "
        "see fewer of them, or make the blocks smaller"
    ]


def _problems_of_masks(settings: PretrainSettings, geometry: Geometry) -> list[str]:
    """Return why masks cannot be drawn on a grid."""
    model, masking, tokens = settings.model, settings.masking, geometry.num_patches
    rows, columns = geometry.grid
    most = geometry.most_context_tokens(masking)
    problems = masking_problems(masking, num_levels=model.num_hierarchies)
    if most >= tokens:
        return [
            *problems,
            f"masking.context_tokens {most} leaves nothing to predict on a grid of {rows}x{columns}; "
            f"at most {tokens - 1}",
        ]
    block = int(masking.context_scale[1] * tokens)
    if masking.type == "multi_block" and most > block:
        problems.append(
            f"masking.context_tokens {most} is more than a context block holds: {block} of {tokens} tokens with "
            f"masking.context_scale up to {masking.context_scale[1]}"
        )
    hidden = tokens - most
    for level in range(1, model.num_hierarchies):
        cell = min(2**level, rows) * min(2**level, columns)
        if hidden < masking.cell_coverage * cell and settings.train.predicted_share:
            problems.append(
                f"level {level} would never be predicted: {hidden} hidden tokens are less than masking.cell_coverage "
                f"{masking.cell_coverage} of a cell's {cell}; lower it, or masking.context_tokens"
            )
    return problems


def _problems_of_choices(settings: PretrainSettings) -> list[str]:
    """Return what does not fit together without looking at a network."""
    model, masking, train, data = settings.model, settings.masking, settings.train, settings.data
    predictor = model.predictor
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
        "masking.base_scale": masking.base_scale,
        "data.crop_scale": data.crop_scale,
        "data.local_scale": data.local_scale,
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
    if train.level_weights is not None and not any(train.level_weights):
        problems.append("train.level_weights are all 0; give a level a weight, or set train.predicted_share to 0")
    problems += _problems_of_ranks(settings, started_ranks()[1])
    return problems + _problems_of_views(settings)


def _problems_of_ranks(settings: PretrainSettings, ranks: int) -> list[str]:
    """Return why batches cannot be shared by so many `ranks`."""
    train, problems = settings.train, []
    if train.batch_size % (train.accumulate * ranks):
        times = f" times {ranks} ranks" if ranks > 1 else ""
        problems.append(
            f"train.accumulate {train.accumulate}{times} does not divide train.batch_size {train.batch_size}"
        )
    part = train.batch_size // (train.accumulate * ranks)
    if train.predicted_share and not round(part * train.predicted_share):
        problems.append(
            f"train.predicted_share {train.predicted_share} of {part} images at once is none; set it to "
            f"{math.ceil(100 / max(part, 1)) / 100} or more, or to 0"
        )
    if part * ranks == 1 and train.whole_image.projected:
        problems.append(
            f"train.accumulate {train.accumulate} leaves one image at once, and the projector needs statistics of "
            "several; lower it"
        )
    if ranks > 1 and train.parallel == "fsdp" and settings.masking.saliency:
        problems.append("masking.saliency needs the target encoder on every rank; set train.parallel to ddp")
    return problems


def _problems_of_views(settings: PretrainSettings) -> list[str]:
    """Return which objectives lack the views or predictions that they compare."""
    data, train, whole = settings.data, settings.train, settings.train.whole_image
    problems = []
    if data.augmentation != "asym+global":
        problems += [
            f"{name} compares views of an image; set data.augmentation to asym+global"
            for name, wanted in {
                "train.whole_image.invariance": whole.invariance,
                "train.whole_image.contrast": whole.contrast,
                "train.whole_image.predict": whole.predict,
                "data.local_views": data.local_views,
            }.items()
            if wanted
        ]
    if data.augmentation == "asym+global" and data.local_views and not whole.projected:
        problems.append(
            "data.local_views are looked at by projections alone; leave them out, or give a weight under "
            "train.whole_image to another term than predict"
        )
    if data.augmentation == "none" and data.stored_size is not None:
        problems.append("data.stored_size is for crops; with data.augmentation none leave it out")
    if train.predicted_share == 0 and not whole.projected:
        problems.append("train.predicted_share 0 needs an objective under train.whole_image; give one a weight")
    if train.predicted_share == 0 and whole.predict:
        problems.append("train.whole_image.predict needs the predictor; train.predicted_share is 0")
    return problems
