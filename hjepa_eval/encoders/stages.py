"""Models with stages (timm's ResNet, ConvNeXt, Swin, ...; our small convolutions): each of the last is a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import Tensor

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.networks.convolutions import Convolutions, is_convolutions, read_widths
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import EncoderError, unknown

MAX_STAGES = 4


class StageEncoder(Encoder):
    """A timm model with stages (ResNet, ConvNeXt, Swin, ...): each of the last four stages is a level."""

    model: Any
    channels_last = True  # ResNet-50 and ConvNeXt-T are a fifth faster so, on two AVX2 cores.

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        transform: Transform,
        architecture: dict[str, Any],
        indices: Sequence[int] | None = None,
    ) -> None:
        """Wrap `model`, built by `architecture`; the stages' sizes are read off one blank image.

        Args:
            model: built without a classifier.
            name: how reports call it.
            transform: how images become its input.
            architecture: what built the model.
            indices: stages that are levels, counted from 0; the last four when not given.
        """
        super().__init__()
        self.model = model.eval()
        self.name = name
        self.transform = transform
        stages = list(model.feature_info)
        self.indices = list(range(len(stages)))[-MAX_STAGES:] if indices is None else list(indices)
        with torch.no_grad():
            maps = stage_maps(model, torch.zeros(1, 3, *transform.shape), self.indices)
        self.levels = tuple(
            Level(index, str(stages[stage]["module"]), image.shape[1], (image.shape[2], image.shape[3]))
            for index, (stage, image) in enumerate(zip(self.indices, maps, strict=True))
        )
        self.settings = {"architecture": architecture, "stages": self.indices}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one `[B, cells, D]` per stage for images `[B, 3, H, W]`."""
        return [image.flatten(2).transpose(1, 2) for image in stage_maps(self.model, images, self.indices)]


def stage_maps(model: Any, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    """Return what comes out of the stages `indices` (from 0) of a timm model, each `[B, D_l, rows_l, columns_l]`."""
    maps: list[Tensor] = model.forward_intermediates(
        images, indices=list(indices), output_fmt="NCHW", intermediates_only=True
    )
    return maps


def create_stages(name: str, *, seed: int = 0, image_size: int | None = None, drop_path: float = 0.0) -> Any:
    """Return an untrained model with stages, without a classifier; the same seed gives the same weights.

    Args:
        name: as timm lists it, such as `resnet18`; or `conv_64_256_256`, a small network of ours, by its widths.
        seed: of the initial weights; the global generator is left as it was.
        image_size: side of the images in pixels; the model's own when not given.
        drop_path: rate of the last block.

    Raises:
        UnknownNameError: timm has no such model.
        EncoderError: it has no stages, or it cannot drop paths.
    """
    if is_convolutions(name):
        if drop_path:
            raise EncoderError(f"{name} has no paths to drop; leave that out")
        widths = read_widths(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Convolutions(widths)
    known = timm.list_models()
    if name not in known:
        raise unknown("encoder", name, known)
    arguments: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    config = timm.get_pretrained_cfg(name)
    if image_size is not None and config is not None and config.fixed_input_size:
        arguments["img_size"] = image_size  # Its windows depend on it; a plain convolution takes any size.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        except TypeError as error:
            raise EncoderError(f"{name} cannot be built: {error}; leave that out") from None
    stages = getattr(model, "feature_info", None) or []
    if len({stage["reduction"] for stage in stages}) < 2 or not hasattr(model, "forward_intermediates"):
        raise EncoderError(f"{name} has no stages; choose one that has, such as resnet18, or a ViT by its name vit_...")
    for module in model.modules():
        if isinstance(module, DropPath) and not drop_path:
            module.drop_prob = 0.0  # timm's Swin drops paths unless it is told not to.
    return model
