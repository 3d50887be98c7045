"""The network that is fine-tuned: an encoder up to one level, a readout, a linear head; and its file for `--model`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.encoders.kinds.run import is_run, weights_folder, write_sums
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.protocol import Encoder, check_outputs
from hjepa_eval.encoders.readouts import single_readout
from hjepa_eval.errors import CheckpointError, EncoderError, unknown
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.finetune.checkpoint import write_tensors

_HEAD_STD = 0.01


class Classifier(nn.Module):
    """An encoder read at one level, with a linear head on its readout; blocks beyond the level's tap take no part."""

    def __init__(self, encoder: Encoder, *, level: int, readout: str, num_classes: int, seed: int, bf16: bool) -> None:
        """Share the weights of `encoder`, so that training this trains it.

        Args:
            encoder: on the CPU or the device that images will be on.
            level: the level's index.
            readout: name from `READOUTS`.
            num_classes: outputs of the head.
            seed: of the head's weights; its biases begin at 0.
            bf16: run the encoder in bfloat16 where autocast does; head and loss stay float32.

        Raises:
            UnknownNameError: there is no such level or readout.
            EncoderError: no parameter of the encoder gets a gradient from this level.
        """
        super().__init__()
        known = [item.index for item in encoder.levels]
        if level not in known:
            raise unknown(f"level of {encoder.name}", str(level), [str(index) for index in known])
        self.place = known.index(level)
        self.level, self.readout, self.bf16 = encoder.levels[self.place], single_readout(readout), bf16
        self.encoder = _without_later_blocks(encoder, self.place)
        self.head = nn.Linear(self.readout.width(self.level), num_classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD, generator=seeded_generator(seed, 0, "head"))
        nn.init.zeros_(self.head.bias)
        self._freeze_what_is_not_reached()

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 logits `[B, C]` for normalised float images `[B, 3, S, S]`."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = self.encoder(images)
        return cast(Tensor, self.head(self.readout.read(outputs[self.place].float(), self.level)))

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training, but for modules of which nothing is trained: their running statistics stay."""
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def layered(self) -> Any:
        """The timm model inside the encoder, which knows the order of its layers, or None."""
        inner = getattr(self.encoder, "model", None)
        return inner if hasattr(inner, "group_matcher") else None

    def groups(self, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups with an `lr_scale` each: 1 for the head, `layer_decay` less per layer below.

        Where timm does not know the layers, the whole encoder is one layer below the head.

        Source: BEiT and MAE's layer-wise decay, as `timm.optim.param_groups_layer_decay` has it.
        """
        undecayed = self.layered.no_weight_decay() if hasattr(self.layered, "no_weight_decay") else ()
        groups: list[dict[str, Any]] = param_groups_layer_decay(
            cast(nn.Module, _Layers(self)),
            weight_decay=weight_decay,
            no_weight_decay_list=undecayed,
            layer_decay=layer_decay,
        )
        return groups

    def _freeze_what_is_not_reached(self) -> None:
        """Leave only those parameters to training that a gradient reaches."""
        self.eval()
        device, size = next(iter(self.encoder.parameters()), self.head.weight).device, self.encoder.transform.size
        self.head.to(device)
        blank = torch.zeros(2, 3, size, size, device=device)
        check_outputs(self.encoder, self.encoder(blank), len(blank))
        parameters = self.trained()
        gradients = torch.autograd.grad(self(blank).sum(), list(parameters.values()), allow_unused=True)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        if not any(name.startswith("encoder.") for name in self.trained()):
            raise EncoderError(
                f"{self.encoder.name} has no parameter that level {self.level.index} could train; "
                "fine-tune an encoder with weights, or probe it with hjepa linear"
            )


def _without_later_blocks(encoder: Encoder, place: int) -> Encoder:
    """Return the encoder, with the same weights, that stops at the tap of the level at `place` where it can."""
    if not isinstance(encoder, ViTEncoder):
        return encoder
    shorter = copy.copy(encoder)
    # Every level reads the same block; only the level at `place` is used, and no later block is computed.
    shorter.taps = (encoder.taps[place],) * len(encoder.taps)
    return shorter


class _Layers:
    """A classifier's trained parameters as timm's layer decay looks at a model: decay counts from the level's tap."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.layered = model.layered
        self.prefix = "" if model.layered is None else "encoder.model."

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names that the matcher knows."""
        for name, parameter in self.model.trained().items():
            yield name.removeprefix(self.prefix), parameter

    def group_matcher(self, coarse: bool = False) -> Any:
        """Return timm's patterns; whatever they do not match, as the head, is the last layer."""
        return {"encoder": r"^encoder\."} if self.layered is None else self.layered.group_matcher(coarse=coarse)


FILE = "encoder.safetensors"


def write_encoder(run_dir: Path, encoder: Encoder) -> str | None:
    """Write the weights of `encoder`, which `load_encoder` made, and return the name that loads them again.

    Weights of a timm model keep timm's names; those of a run lie beside the run's own `config.json`, so that the folder
    can be read as a run. A user's own encoder gets its names as they are, and None: only its author can load it.

    Raises:
        CheckpointError: the folder cannot be written, or the run that the encoder came from is gone.
    """
    path = run_dir / FILE
    name, *options = encoder.name.split("?")
    origin = Path(name.removeprefix("random:"))
    if is_run(origin):
        _copy(weights_folder(origin) / "config.json", run_dir / "config.json")
        write_tensors(path, {key.replace("model.", "target.", 1): t for key, t in encoder.state_dict().items()})
        _write_sums(run_dir)
        return str(run_dir)
    kind, _, argument = name.partition(":")
    if kind not in ("timm", "random"):
        write_tensors(path, encoder.state_dict())
        return None
    write_tensors(path, {key.removeprefix("model."): tensor for key, tensor in encoder.state_dict().items()})
    kept = [option for option in options if not option.startswith("checkpoint=")]
    return "?".join([f"timm:{argument}", f"checkpoint={path}", *kept])


def _copy(source: Path, target: Path) -> None:
    try:
        write_atomically(target, source.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror}; make room, or name another --run") from None


def _write_sums(run_dir: Path) -> None:
    """Write the sums of what an evaluation reads; other files of the folder go on changing."""
    try:
        write_sums(run_dir, names=("config.json", FILE))
    except OSError as error:
        raise CheckpointError(f"cannot write into {run_dir}: {error.strerror}; make room, or name another") from None
