"""Build an H-JEPA from a few arguments or from settings; what does not fit is an error before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hjepa_eval.config import merge
from hjepa_eval.datasets.randomness import derive_seed
from hjepa_eval.encoders.stages import create_stages
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import ConfigError
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.flat_keys import from_flat
from hjepa_pretrain.config.geometry import Geometry, encoder_arguments, resolve_geometry
from hjepa_pretrain.config.schedules import EmaSchedule
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.models.crops import CropHeads
from hjepa_pretrain.models.encoders import ContextEncoder
from hjepa_pretrain.models.hjepa import HJEPA
from hjepa_pretrain.models.predictor import Predictor
from hjepa_pretrain.models.projector import Projector
from hjepa_pretrain.models.stages import MaskedStages


def create_hjepa(
    encoder_type: str = "vit_base_patch16_224",
    img_size: int | None = None,
    *,
    embed_dim: int | None = None,
    predictor_depth: int = 6,
    num_hierarchies: int = 3,
    total_steps: int | None = None,
    steps_per_epoch: int = 0,
    **model: Any,
) -> HJEPA:
    """Return an H-JEPA with fresh weights.

    Args:
        encoder_type: a timm ViT, `vit_SIZE_patchP_IMAGE`, or a timm model with stages.
        img_size: side of the images in pixels; the ViT's own when not given.
        embed_dim: width of the ViT, if you want it checked.
        predictor_depth: blocks of the predictor.
        num_hierarchies: levels.
        total_steps: steps of the training, over which the target encoder's momentum rises.
        steps_per_epoch: for `ema={"momentum_warmup_epochs": ...}`.
        **model: further keys of the settings' `model` section, such as `taps` or `predictor={"embed_dim": 512}`.

    Raises:
        ConfigError: a key is unknown or the parts do not fit together; the message lists everything.
    """
    given = {"encoder_type": encoder_type, "embed_dim": embed_dim, "num_hierarchies": num_hierarchies}
    model = merge({"predictor": {"depth": predictor_depth}}, model)
    config = {"model": {**given, **model}, "data": {"image_size": img_size}}
    return create_hjepa_from_config(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)


def create_hjepa_from_config(
    config: Mapping[str, Any] | PretrainSettings, *, total_steps: int | None = None, steps_per_epoch: int = 0
) -> HJEPA:
    """Return an H-JEPA with fresh weights; the same settings give the same weights.

    Args:
        config: settings, or a mapping with their keys, nested or flat, of which `model` may be all there is.
        total_steps: steps of the training, for the momentum's schedule.
        steps_per_epoch: for `model.ema.momentum_warmup_epochs`.

    Raises:
        ConfigError: a key is unknown or the parts do not fit together; the message lists everything.
    """
    settings = config if isinstance(config, PretrainSettings) else _settings(config)
    model, whole = settings.model, settings.train.whole_image
    if total_steps is not None and model.ema.momentum_warmup_epochs and not steps_per_epoch:
        raise ConfigError("model.ema.momentum_warmup_epochs is counted in epochs; pass steps_per_epoch as well")
    geometry = resolve_geometry(settings)
    context_encoder = _context_encoder(settings, geometry)
    context_encoder.checkpoint_activations = settings.train.checkpoint_activations
    ema = EmaSchedule(
        base=model.ema.momentum,
        end=model.ema.momentum_end,
        total_steps=total_steps,
        warmup_steps=round(model.ema.momentum_warmup_epochs * steps_per_epoch),
        shape=model.ema.schedule,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.train.seed, 0, "predictor"))
        predictor = _predictor(settings, geometry, context_encoder) if settings.train.predicted_share else None
        if predictor is None:
            # What predicts nothing must not move the draws of what learns.
            torch.manual_seed(derive_seed(settings.train.seed, 0, "projector"))
        projector, crop_heads = None, None
        if settings.data.augmentation == "crops":
            crop_heads = _crop_heads(settings, geometry)
        elif whole.projected:
            projector = Projector(encoder_dim=geometry.dim, hidden_dim=whole.hidden_dim, out_dim=whole.out_dim)
        return HJEPA(
            context_encoder,
            predictor,
            ema=ema,
            cell_coverage=settings.masking.cell_coverage,
            projector=projector,
            crop_heads=crop_heads,
        )


def _predictor(settings: PretrainSettings, geometry: Geometry, context_encoder: ContextEncoder) -> Predictor:
    """Return the predictor with fresh weights."""
    model, sizes = settings.model, settings.model.predictor
    predictor = Predictor(
        encoder_dim=geometry.dim,
        grid=geometry.grid,
        num_levels=model.num_hierarchies,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        drop_path=model.drop_path,
        prefix=context_encoder.prefix,
        order=sizes.order,
        fpn=sizes.fpn,
        global_query=settings.train.whole_image.predict > 0,
    )
    predictor.checkpoint_activations = settings.train.checkpoint_activations
    return predictor


def _context_encoder(settings: PretrainSettings, geometry: Geometry) -> ContextEncoder:
    """Return the context encoder with fresh weights."""
    model, arguments = settings.model, encoder_arguments(settings)
    if geometry.maps:
        network = create_stages(model.encoder_type, drop_path=model.drop_path, **arguments)
        return MaskedStages(
            network, taps=geometry.taps, grid=geometry.grid, maps=geometry.maps, image_size=geometry.image_size
        )
    vit = create_vit(model.encoder_type, drop_path_rate=model.drop_path, **arguments)
    return ContextEncoder(vit, taps=geometry.taps, mask_mode=model.mask_mode)


def _crop_heads(settings: PretrainSettings, geometry: Geometry) -> CropHeads:
    """Return the heads of the levels that objectives look at."""
    whole, levels = settings.train.whole_image, list(enumerate(geometry.widths))
    return CropHeads(
        widths=dict(levels[-whole.levels :]),
        hidden_dim=whole.hidden_dim,
        out_dim=whole.out_dim,
        predictor_dim=whole.hidden_dim // 2 if whole.predict_crops else None,
    )


def _settings(config: Mapping[str, Any]) -> PretrainSettings:
    """Return settings for a mapping that may not say how long to train."""
    config = from_flat(config, source="model configuration")
    train = config.get("train") or {}
    length = {} if "epochs" in train or "minutes" in train else {"train": {"epochs": 1}}
    return build_settings(merge(config, length), "model configuration")
