"""Encoders with stages (ResNet, ConvNeXt, Swin, ...): which settings fit them, and what their maps come to.

A level is a stage: `model.num_hierarchies` of them, the last ones. Nothing of timm's networks is rewritten for small
images: a ResNet's stem divides 32 pixels by 4, so its last stage is one cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch

from hjepa_eval.encoders.stages import create_stages, stage_maps
from hjepa_eval.errors import EncoderError

if TYPE_CHECKING:
    from hjepa_pretrain.config import PretrainSettings

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
