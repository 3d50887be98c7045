"""Do the settings of a run fit together, and is each of them read? Asked before any data is; all problems at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hjepa_eval.config import build, environment_values, find_preset, merge, parse_assignments, read_yaml
from hjepa_eval.encoders.vit import check_levels, resolve_taps
from hjepa_eval.errors import ConfigError, HjepaError
from hjepa_pretrain.config.flat_keys import from_flat, without_rivals
from hjepa_pretrain.config.geometry import Geometry, encoder_shape
from hjepa_pretrain.config.settings import MaskingSettings, PretrainSettings
from hjepa_pretrain.config.unread import unread_settings, without_unread
from hjepa_pretrain.distributed.processes import started_ranks
from hjepa_pretrain.masks.blocks import level_lattice, level_scales
from hjepa_pretrain.masks.kinds import create_mask_generator, masking_contradictions
from hjepa_pretrain.objectives.objective import active_objectives


def load_settings(
    config: str, assignments: Sequence[str] = (), *, flags: Mapping[str, Any] | None = None
) -> PretrainSettings:
    """Return the settings of a preset or YAML file with assignments and flags on top; both may use flat keys.

    Raises:
        ConfigError: anything does not fit; no data has been read.
    """
    path = find_preset(config, "pretrain")
    assigned = from_flat(parse_assignments(assignments), source="--set")
    written = without_rivals(from_flat(read_yaml(path), source=str(path)), assigned)
    more = merge(environment_values(PretrainSettings), assigned, flags or {})
    written = without_unread(written, merge(written, more), more)
    if "cell_coverage" not in more.get("masking", {}):
        written = _without_idle_coverage(written, more)
    return build_settings(merge(written, more), f"{path} and options")


def _without_idle_coverage(written: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Leave a file's `masking.cell_coverage` out where the masks that are asked for hide whole cells or none."""
    left = dict(written)
    masking = left.get("masking")
    if isinstance(masking, Mapping) and "cell_coverage" in masking and "type" in more.get("masking", {}):
        settings = build(PretrainSettings, merge(written, more), "settings")
        if _hides_whole_cells(settings.masking, encoder_shape(settings).grid, settings.model.num_hierarchies):
            left["masking"] = {name: value for name, value in masking.items() if name != "cell_coverage"}
    return left


def build_settings(values: Mapping[str, Any], source: str) -> PretrainSettings:
    """Return the settings that nested `values` spell, and that fit together.

    Raises:
        ConfigError: they do not; the message names `source` and lists everything.
    """
    settings = build(PretrainSettings, values, source)
    check_settings(settings, source=source)
    return settings


def check_settings(settings: PretrainSettings, *, source: str = "settings") -> None:
    """Check that settings fit together.

    Raises:
        ConfigError: they do not; the message names `source` and lists everything.
    """
    if wrong := problems(settings):
        raise ConfigError(f"{source}: {'; '.join(wrong)}")


def problems(settings: PretrainSettings) -> list[str]:
    """Return everything that does not fit together, in words; an empty list when all is well."""
    wrong = [*_problems_of_choices(settings), *unread_settings(settings)]
    try:
        geometry = encoder_shape(settings)
    except HjepaError as error:
        return [*wrong, str(error)]
    except AssertionError as error:  # timm checks head counts with assert
        return [*wrong, f"model.encoder_type {settings.model.encoder_type!r} cannot be built: {error}"]
    model, data = settings.model, settings.data
    if geometry.maps:
        wrong += _problems_of_stages(settings)
    if data.augmentation == "crops":
        wrong += _problems_of_crops(settings, geometry)
    if model.embed_dim is not None and model.embed_dim != geometry.dim:
        wrong.append(f"model.embed_dim {model.embed_dim} disagrees with the {geometry.dim} of {model.encoder_type}")
    if geometry.image_size % geometry.patch_size:
        wrong.append(f"the patch of {geometry.patch_size} does not divide the image of {geometry.image_size} pixels")
    for check in (
        lambda: resolve_taps("depth" if geometry.maps else model.taps, geometry.depth, model.num_hierarchies),
        lambda: check_levels(geometry.grid, model.num_hierarchies),
    ):
        try:
            check()
        except HjepaError as error:
            wrong.append(f"model: {error}")
    wrong += _problems_of_masks(settings, geometry)
    if data.stored_size is not None and data.stored_size < geometry.image_size:
        wrong.append(
            f"data.stored_size {data.stored_size} is smaller than the image of {geometry.image_size} pixels; "
            "leave it out"
        )
    return wrong + _problems_of_blocks(settings, geometry, said=bool(wrong))


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
    if masking.cell_coverage != type(masking).model_fields["cell_coverage"].default and _hides_whole_cells(
        masking, geometry.grid, model.num_hierarchies
    ):
        problems.append(
            f"masking.cell_coverage {masking.cell_coverage} changes nothing: these hierarchical masks hide whole cells "
            "or none of a cell; leave it out"
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


def _hides_whole_cells(masking: MaskingSettings, grid: tuple[int, int], levels: int) -> bool:
    """Tell whether the blocks of every level cover its cells wholly, wherever they lie."""
    if masking.type != "hierarchical" or (masking.roll and any(side % 2 ** (levels - 1) for side in grid)):
        return False
    try:
        scales = level_scales(masking.base_scale, masking.scale_progression, levels)
    except ConfigError:  # Said with the masks.
        return False
    return all(level_lattice(grid, level, scale) == 2**level for level, scale in enumerate(scales))


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
    if ranks > 1 and train.parallel == "fsdp" and train.optimizer == "muon":
        problems.append("train.optimizer muon needs whole matrices on every rank; set train.parallel to ddp")
    if ranks > 1 and train.parallel == "fsdp" and settings.masking.saliency:
        problems.append("masking.saliency needs the target encoder on every rank; set train.parallel to ddp")
    return problems


def _problems_of_views(settings: PretrainSettings) -> list[str]:
    """Return which objectives lack the views or predictions that they compare."""
    data, train, whole = settings.data, settings.train, settings.train.whole_image
    problems = []
    if data.augmentation == "crops":
        return []  # They are views too; `_problems_of_crops` looks at them.
    if whole.predict_crops:
        problems.append("train.whole_image.predict_crops needs crops; set data.augmentation to crops")
    if data.augmentation != "asym+global":
        pairs = [objective.name for objective in active_objectives(whole) if "pairs" in objective.needs]
        compared = [f"train.whole_image.{name}" for name in (*pairs, *["predict"] * bool(whole.predict))]
        problems += [
            f"{name} compares views of an image; set data.augmentation to asym+global"
            for name in (*compared, *["data.local_views"] * bool(data.local_views))
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


def _problems_of_crops(settings: PretrainSettings, geometry: Geometry) -> list[str]:
    """Return what does not fit small crops."""
    data, train, whole = settings.data, settings.train, settings.train.whole_image
    stored = data.stored_size or geometry.image_size
    problems = []
    if not geometry.maps:
        problems.append(
            f"data.augmentation crops needs an encoder that takes images of any size, such as conv_64_256_256; "
            f"model.encoder_type is {settings.model.encoder_type}"
        )
    elif data.crop_size < 2 ** len(geometry.maps) * 2:
        problems.append(
            f"data.crop_size {data.crop_size} leaves the last of {len(geometry.maps)} stages no cell; "
            f"at least {2 ** len(geometry.maps) * 2}"
        )
    if data.crop_size > stored:
        problems.append(f"data.crop_size {data.crop_size} is larger than the image of {stored} pixels")
    if train.predicted_share:
        problems.append("data.augmentation crops hides no tokens to predict; set train.predicted_share to 0")
    if whole.predict:
        problems.append("train.whole_image.predict needs masks; with data.augmentation crops it is predict_crops")
    if whole.levels > settings.model.num_hierarchies:
        problems.append(
            f"train.whole_image.levels {whole.levels} is more than model.num_hierarchies, "
            f"{settings.model.num_hierarchies}"
        )
    if not whole.projected:
        problems.append("data.augmentation crops needs an objective under train.whole_image; give one a weight")
    if data.local_views:
        problems.append("data.local_views are for asym+global; data.crops is their number here")
    if train.parallel == "fsdp":
        problems.append("data.augmentation crops is not sharded; set train.parallel to ddp")
    return problems


def _problems_of_stages(settings: PretrainSettings) -> list[str]:
    """Return what is set that an encoder with stages has not, in one message; none when all is well."""
    model, train, data = settings.model, settings.train, settings.data
    needed = {
        "train.predicted_share to 0": train.predicted_share != 0,
        "model.mask_mode to zero": model.mask_mode != "zero" and data.augmentation != "crops",
        # What learns then; all that is missing is told at once.
        "train.whole_image.contrast to 1": not train.whole_image.projected and data.augmentation != "crops",
        "data.augmentation to asym+global": not train.whole_image.projected
        and data.augmentation not in ("asym+global", "crops"),
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
        wanted = [name for name, wrong in needed.items() if wrong]
        advice.append(f"set {' and '.join(filter(None, (', '.join(wanted[:-1]), wanted[-1])))}")
    if any(meaningless.values()):
        advice.append(f"leave out {', '.join(name for name, given in meaningless.items() if given)}")
    if not advice:
        return []
    return [f"model.encoder_type {model.encoder_type} has stages instead of tokens: {', and '.join(advice)}"]


# What some kinds of masks read and others do not; every kind reads what is not listed.
_READ_BY = {
    "num_masks": {"multi_block"},
    "mask_scale": {"multi_block"},
    "aspect_ratio": {"multi_block", "hierarchical"},
    "context_scale": {"multi_block"},
    "aligned": {"multi_block"},
    "roll": {"multi_block", "hierarchical"},
    "num_masks_per_level": {"hierarchical"},
    "scale_progression": {"hierarchical"},
    "base_scale": {"hierarchical"},
}


def masking_problems(masking: MaskingSettings, *, num_levels: int) -> list[str]:
    """Return what in the settings does not fit together, or would change nothing; an empty list when all is well."""
    problems = masking_contradictions(masking, num_levels=num_levels)
    kind, fields = masking.type, type(masking).model_fields
    unread = [
        f"masking.{name}"
        for name, kinds in _READ_BY.items()
        if kind not in kinds and getattr(masking, name) != fields[name].default
    ]
    if unread:
        problems.append(f"masking.type {kind} does not read {', '.join(unread)}; leave out what it does not read")
    if kind == "hierarchical" and num_levels < 3 and masking.scale_progression != fields["scale_progression"].default:
        problems.append(
            f"masking.scale_progression {masking.scale_progression} is geometric too with {num_levels} levels; "
            "leave it out, or take more of them"
        )
    retried = kind == "multi_block" and not masking.allow_target_overlap
    if not retried and masking.max_attempts != fields["max_attempts"].default:
        problems.append(
            f"masking.max_attempts {masking.max_attempts} is for multi_block with allow_target_overlap=false; "
            "nothing else is tried again, leave it out"
        )
    if kind == "random" and not masking.allow_target_overlap:
        problems.append("masking.allow_target_overlap=false is for blocks; random masks have none, leave it out")
    return problems
