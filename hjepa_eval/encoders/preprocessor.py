"""Hugging Face's `preprocessor_config.json` as our transform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import CheckpointError

FILE = "preprocessor_config.json"
# Pillow's numbers for its filters.
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


def read_transform(folder: Path, *, default: Transform) -> Transform:
    """Return how a Hugging Face model wants its images; what its preprocessor does not say is as in `default`.

    Args:
        folder: of the model.
        default: returned when there is no preprocessor file.

    Raises:
        CheckpointError: the file is damaged, or asks for something that our transforms do not do.

    Deviation: a preprocessor without a centre crop squashes the image to a square; here its short side is resized and
    the middle cropped, as every other encoder has it, so that all see the same part of an image undistorted.
    """
    path = folder / FILE
    if not path.is_file():
        return default
    content = read_json(path)
    if not content.get("do_rescale", True) or abs(content.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise CheckpointError(f"{path} does not scale pixels to [0, 1]; expected do_rescale with 1/255")
    resample = content.get("resample", content.get("interpolation"))
    if resample is not None and resample not in INTERPOLATIONS:
        raise CheckpointError(f"{path}: resample {resample!r} is not offered; expected 2 (bilinear) or 3 (bicubic)")
    # Without resizing every image would have its own size: such a preprocessor leaves the size to the default.
    resize = _side(content, "size", path=path) if content.get("do_resize", True) else None
    crop = _side(content, "crop_size", path=path) if content.get("do_center_crop") else None
    size = crop or resize or default.size
    if not content.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean = _channels(content, "image_mean", default.mean, path=path)
        std = _channels(content, "image_std", default.std, path=path)
    return Transform(
        size=size,
        resize=max(resize or size, size),
        interpolation=default.interpolation if resample is None else INTERPOLATIONS[resample],
        mean=mean,
        std=std,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; expected an object of settings")
    return content


def _side(content: Mapping[str, Any], key: str, *, path: Path) -> int | None:
    """Return a side in pixels, which is spelled 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    value = content.get(key)
    if value is None:
        return None
    sides = list(value.values()) if isinstance(value, dict) else [value]
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise CheckpointError(f"{path}: {key} is {value}; expected one number of pixels, since images become squares")
    return sides[0]


def _channels(
    content: Mapping[str, Any], key: str, default: tuple[float, float, float], *, path: Path
) -> tuple[float, float, float]:
    value = content.get(key, default)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise CheckpointError(f"{path}: {key} is {value}; expected three numbers")
    red, green, blue = (float(number) for number in value)
    return red, green, blue
