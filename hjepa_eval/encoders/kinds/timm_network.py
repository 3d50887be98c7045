"""A timm network as an encoder: ViTs read at depth taps, convolutional and Swin models at their stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.networks.trial import FAILURES, failure, note_unused, try_encoder
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.stages import StageEncoder
from hjepa_eval.encoders.vit import Taps, name_tokens, pool_cells, resolve_taps, vit_levels
from hjepa_eval.errors import EncoderError

DEFAULT_LEVELS = 3


class ViTEncoder(Encoder):
    """A timm ViT whose level l reads block `taps[l]` through the final norm and pools 2^l x 2^l cells.

    Source: the norm at every tap follows DINOv2's `get_intermediate_layers`.
    Deviation: EVA02, BEiT, ViTamin and others have their last norm, `fc_norm`, after the mean of the tokens; here each
        token goes through it, as through any other ViT's, so that cells, readouts and levels are alike.
    """

    model: Any

    def __init__(
        self, model: Any, name: str, *, taps: tuple[int, ...], transform: Transform, architecture: dict[str, Any]
    ) -> None:
        """Wrap `model`.

        Args:
            model: built without a classifier.
            name: how reports call it.
            taps: block numbers from 1, one per level.
            transform: how images become its input.
            architecture: what built the model; weights alone do not tell heads or activations apart.
        """
        super().__init__()
        self.model = model.eval()
        self.name = name
        self.taps = taps
        self.grid: tuple[int, int] = tuple(model.patch_embed.grid_size)
        self.levels = vit_levels(model.embed_dim, self.grid, taps, model.num_prefix_tokens)
        known = {"cls_token": "class token", "dist_token": "distillation token"}
        classes = [word for attribute, word in known.items() if getattr(model, attribute, None) is not None]
        self.prefix_names = name_tokens(classes=classes, prefix=model.num_prefix_tokens)
        self.transform = transform
        # The last norm of some is fc_norm, behind timm's pooling, and forward_intermediates leaves it out.
        final = getattr(model, "fc_norm", None)
        behind = final is not None and not isinstance(final, nn.Identity)
        self._norm_behind = behind and isinstance(getattr(model, "norm", None), nn.Identity)
        norm = "fc_norm of each token at every tap" if self._norm_behind else "final norm at every tap"
        self.settings = {"architecture": architecture, "taps": list(taps), "norm": norm}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one `[B, prefix + cells, D]` per level for images `[B, 3, H, W]`."""
        blocks = sorted({tap - 1 for tap in self.taps})
        outputs = self.model.forward_intermediates(
            images,
            indices=blocks,
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
            stop_early=True,
        )
        at_block = dict(zip(blocks, outputs, strict=True))
        tokens = []
        for level, tap in zip(self.levels, self.taps, strict=True):
            output = at_block[tap - 1]
            patches, prefix = output if isinstance(output, tuple) else (output, output[:, :0])
            if self._norm_behind:
                patches, prefix = self.model.fc_norm(patches), self.model.fc_norm(prefix)
            tokens.append(torch.cat([prefix, pool_cells(patches, self.grid, level.index)], dim=1))
        return tokens


def wrap_timm(model: Any, name: str, *, levels: int | None, taps: Taps, size: int | None = None) -> Encoder:
    """Return a timm model as an encoder, with the preprocessing of its own `pretrained_cfg`.

    Args:
        model: built without a classifier.
        name: how reports call it.
        levels: number of levels of a ViT; 3 when not given.
        taps: of a ViT.
        size: input size in pixels when it is not the `pretrained_cfg`'s.

    Raises:
        EncoderError: timm cannot return this model's intermediate features, or the levels do not fit it.
    """
    stages = getattr(model, "feature_info", None)
    reductions = {stage["reduction"] for stage in stages} if stages else set()
    is_vit = len(reductions) == 1 and hasattr(getattr(model, "patch_embed", None), "grid_size")
    if not hasattr(model, "forward_intermediates") or not (is_vit or len(reductions) > 1):
        raise EncoderError(f"{name}: timm offers no intermediate features for {type(model).__name__}; choose another")
    transform = timm_transform(model, size=size, name=name)
    architecture = {"timm": name.partition(":")[2]}
    encoder: Encoder
    if not is_vit and (levels is not None or taps != "depth"):
        raise EncoderError(f"{name} has stages; its levels are those, so leave out ?levels and ?taps")
    blocks = choose_taps(len(model.feature_info), levels=levels, taps=taps) if is_vit else ()
    advice = f"timm's {type(model).__name__} has not the interface of a ViT or of stages, so choose another"
    try:
        if is_vit:
            encoder = ViTEncoder(model, name, taps=blocks, transform=transform, architecture=architecture)
        else:
            encoder = StageEncoder(model, name, transform=transform, architecture=architecture)
    except FAILURES as error:
        raise failure(name, error, advice=advice) from None
    encoder.notes = note_unused(try_encoder(encoder, advice=advice), model)
    return encoder


def timm_transform(model: Any, *, name: str, size: int | None = None) -> Transform:
    """Return the preparation of images that a timm model's `pretrained_cfg` asks for.

    Args:
        model: of timm.
        name: how messages call it.
        size: input size in pixels when it is not the `pretrained_cfg`'s; such images are not cropped.

    Raises:
        EncoderError: it asks for something else than RGB, or an interpolation that is not offered.

    Source: timm, data/transforms_factory.py, `transforms_imagenet_eval`.
    """
    config = timm.data.resolve_data_config(model=model)
    channels, rows, columns = config["input_size"]
    if channels != 3 or config["interpolation"] not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"{name} wants images of {channels} channels, resized {config['interpolation']}; only RGB, bilinear and "
            "bicubic are offered"
        )
    if size:
        rows = columns = size
    # At its own size alone a ratio has a meaning.
    ratio = 1.0 if size else config["crop_pct"]
    square = rows == columns
    return Transform(
        size=rows,
        resize=int(rows / ratio),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop="center" if size else config["crop_mode"],
        width=None if square else columns,
        resize_width=None if square else int(columns / ratio),
    )


def choose_taps(depth: int, *, levels: int | None, taps: Taps) -> tuple[int, ...]:
    """Return one block number (from 1) per level for a ViT of `depth` blocks; 3 levels when nothing says how many."""
    return resolve_taps(taps, depth, levels or (DEFAULT_LEVELS if isinstance(taps, str) else len(taps)))


def parse_level_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return `?levels=` and `?taps=` as the arguments `levels` and `taps` of `choose_taps` and `wrap_timm`.

    Raises:
        EncoderError: `levels` is no number, or `taps` neither `depth`, `final` nor a list of numbers.
    """
    taps: Taps = "depth"
    spelled = options.get("taps", "depth")
    if spelled in ("depth", "final"):
        taps = "final" if spelled == "final" else "depth"
    else:
        try:
            taps = tuple(int(block) for block in spelled.split(","))
        except ValueError:
            raise EncoderError(f"?taps={spelled}: expected depth, final, or blocks such as 4,8,12") from None
    levels = options.get("levels")
    if levels is not None and not levels.isdigit():
        raise EncoderError(f"?levels={levels}: expected a number")
    return {"taps": taps, "levels": int(levels) if levels else None}
