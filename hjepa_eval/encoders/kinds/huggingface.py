"""Vision transformers in Hugging Face's format: ViT, DINOv2, DINOv3 and I-JEPA, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.kinds.folder_files import find_folder, load_pretrained, read_json, read_transform
from hjepa_eval.encoders.kinds.ijepa import IMAGENET_MEAN, IMAGENET_STD, ijepa_transform
from hjepa_eval.encoders.kinds.timm_network import choose_taps, parse_level_options
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.vit import name_tokens, pool_cells, vit_levels
from hjepa_eval.errors import CheckpointError, EncoderError, unknown

# What config.json says besides the architecture.
NOT_ARCHITECTURE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
    "transformers_version",
)


def _imagenet(size: int) -> Transform:
    # DINOv2's config.json names the 518 pixels of its last training phase; its evaluations are at 224.
    side = min(size, 224)
    return Transform(side, round(side * 256 / 224), "bicubic", IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class Family:
    """What the models of one `model_type` have in common.

    Attributes:
        model: name of the class in transformers.
        transform: from the image size in `config.json`, where there is no preprocessor file.
        norm: attribute of the final layer norm.
        class_token: whether a class token comes first; register tokens, if any, follow it.
        fixed_size: positions belong to one image size, and others must be asked for.
        arguments: of the model class; a pooler would only be a head with random weights.
    """

    model: str
    transform: Callable[[int], Transform]
    norm: str = "layernorm"
    class_token: bool = True
    fixed_size: bool = False
    arguments: tuple[tuple[str, Any], ...] = ()


_NO_POOLER = (("add_pooling_layer", False),)
FAMILIES: dict[str, Family] = {
    "vit": Family("ViTModel", lambda size: Transform(size, size, "bilinear"), fixed_size=True, arguments=_NO_POOLER),
    "dinov2": Family("Dinov2Model", _imagenet),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _imagenet),
    "dinov3_vit": Family("DINOv3ViTModel", _imagenet, norm="norm"),
    "ijepa": Family("IJepaModel", ijepa_transform, class_token=False, fixed_size=True, arguments=_NO_POOLER),
}


class HuggingFaceViT(Encoder):
    """A transformers ViT whose level l reads block `taps[l]` through the final norm and pools 2^l x 2^l cells.

    The blocks are called one by one, since what `output_hidden_states` returns for the last block, before or after the
    norm, differs between versions and models.
    """

    model: Any

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        family: Family,
        taps: tuple[int, ...],
        transform: Transform,
        architecture: dict[str, Any],
    ) -> None:
        """Wrap `model`.

        Args:
            model: of the class that `family` names.
            name: how reports call it.
            family: what is common to its `model_type`.
            taps: block numbers from 1, one per level.
            transform: how images become its input.
            architecture: the model's configuration; weights alone do not tell heads or activations apart.
        """
        super().__init__()
        self.model = model.eval()
        self.name = name
        self.family = family
        self.taps = taps
        self.transform = transform
        config = model.config
        patch = _square(config.patch_size, "patch_size", name)
        self.grid = (transform.size // patch, transform.size // patch)
        self.resized = family.fixed_size and transform.size != _square(config.image_size, "image_size", name)
        registers = int(getattr(config, "num_register_tokens", 0))
        prefix = int(family.class_token) + registers
        self.levels = vit_levels(config.hidden_size, self.grid, taps, prefix)
        self.prefix_names = name_tokens(classes=["class token"] * family.class_token, prefix=prefix)
        self.settings = {"architecture": architecture, "taps": list(taps), "norm": "final norm at every tap"}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one `[B, prefix + cells, D]` per level for images `[B, 3, H, W]`."""
        tokens = self.model.embeddings(images, **({"interpolate_pos_encoding": True} if self.resized else {}))
        rotary = getattr(self.model, "rope_embeddings", None)
        arguments = {} if rotary is None else {"position_embeddings": rotary(images)}
        norm = getattr(self.model, self.family.norm)
        at_block = {}
        for number, block in enumerate(blocks_of(self.model)[: max(self.taps)], start=1):
            output = block(tokens, **arguments)
            tokens = output[0] if isinstance(output, tuple) else output  # a tuple before transformers 5
            if number in self.taps:
                at_block[number] = norm(tokens)
        outputs = []
        for level, tap in zip(self.levels, self.taps, strict=True):
            prefix, patches = at_block[tap][:, : level.prefix], at_block[tap][:, level.prefix :]
            outputs.append(torch.cat([prefix, pool_cells(patches, self.grid, level.index)], dim=1))
        return outputs


def blocks_of(model: Any) -> nn.ModuleList:
    """Return the blocks of a transformers ViT, whose place has been `encoder.layer`, `layer`, `layers`, `model.layer`.

    Raises:
        EncoderError: there is no list of as many modules as the configuration has hidden layers.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise EncoderError(f"this version of transformers hides the blocks of {type(model).__name__}; use another version")


def _square(value: Any, what: str, name: str) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise EncoderError(f"{name}: {what} is {value}; only square images and patches are offered")
    return int(sides.pop())


def load_huggingface(name: str, options: Mapping[str, str], *, download: bool) -> Encoder:
    """Return the encoder `hf:NAME`, from a folder, this machine's Hugging Face cache, or a download.

    Args:
        name: a folder with `config.json` and `model.safetensors`, or a name on the hub such as `facebook/dinov2-base`.
        options: `levels` and `taps`.
        download: fetch a model that is not on this machine.

    Raises:
        EncoderError: transformers is not installed or too old, the model is not on this machine, or does not fit.
        CheckpointError: a file is absent or damaged, or the weights do not fit.
        UnknownNameError: the model is of no known family.
    """
    folder = find_folder(name, download=download)
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{folder / 'config.json'} has no model_type, so it is no model of transformers")
    if model_type not in FAMILIES:
        raise unknown(f"model_type of hf:{name}", model_type, FAMILIES)
    family = FAMILIES[model_type]
    model = load_pretrained(folder, family.model, arguments=dict(family.arguments))
    size = _square(model.config.image_size, "image_size", f"hf:{name}")
    encoder = HuggingFaceViT(
        model,
        f"hf:{name}",
        family=family,
        taps=choose_taps(model.config.num_hidden_layers, **parse_level_options(options)),
        transform=read_transform(folder, default=family.transform(size)),
        architecture={key: value for key, value in config.items() if key not in NOT_ARCHITECTURE},
    )
    # The folder itself too: a file that comes or goes changes its time. The hub's cache may turn to another folder.
    encoder.files = (folder, *sorted(folder.iterdir())) if Path(name).is_dir() else None
    return encoder
