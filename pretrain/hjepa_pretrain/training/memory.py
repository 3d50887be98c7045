"""What a pretraining configuration takes: parameters of each part, and the memory of a step, each kind apart.

Nothing of its size is allocated: networks and images are fake tensors, which have shapes and no content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from hjepa_eval.machine.devices import resolve_device, resolve_precision
from hjepa_pretrain.config.geometry import Geometry, resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.step_inputs import CropInputs, StepInputs
from hjepa_pretrain.data.views import Views
from hjepa_pretrain.masks import Masks
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.models.encoders import use_plain_attention
from hjepa_pretrain.models.hjepa import HJEPA
from hjepa_pretrain.training.optimizer import numbers_kept
from hjepa_pretrain.training.step import step_loss

_FLOAT_BYTES = 4
# Images whose activations are subtracted, to see what each further image adds.
_FEW = 2


@dataclass(frozen=True)
class PartSize:
    """A part of the networks.

    Attributes:
        name: as `HJEPA.parameter_counts` has it.
        parameters: numbers in it.
        trainable: those that get a gradient.
    """

    name: str
    parameters: int
    trainable: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step needs on the device, by what for.

    Weights, gradients and AdamW's two moments are fp32. `activations` is what one backward pass needs of the forward
    pass before it: every tensor that autograd keeps, a shared storage once, in bf16 also the cast copies of weights;
    parameters and buffers not. Work space of single operations, the images of a data set and what the allocator wastes
    are not counted.

    Attributes:
        weights: of what is trained, and of fixed positions.
        target_weights: of the target encoder, the moving average.
        gradients: of trainable parameters.
        optimizer: two moments for each of them, one where Muon moves it.
        activations: of one pass over `images`.
        activations_per_image: what one more image adds.
        images: of a pass: the batch over the parts that it is accumulated in.
        precision: `bf16` (autocast) or `fp32`, of the activations.
        device: for which it holds; on `cpu` attention keeps its matrices, elsewhere it is fused.
        recomputed: whether the settings compute activations again, which is not subtracted here.
    """

    weights: int
    target_weights: int
    gradients: int
    optimizer: int
    activations: int
    activations_per_image: int
    images: int
    precision: str
    device: str
    recomputed: bool

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.weights + self.target_weights + self.gradients + self.optimizer + self.activations


def describe_memory(settings: PretrainSettings) -> tuple[tuple[PartSize, ...], StepMemory]:
    """Return the parts of a configuration's networks and the memory of a step.

    Raises:
        ConfigError: the device that the settings name is neither `cuda`, which need not be here, nor one that is.
    """
    device, precision = _where(settings)
    images = -(-settings.train.batch_size // settings.train.accumulate)
    few, geometry = min(_FEW, images), resolve_geometry(settings)
    # Blocks that are computed again hide what they keep from whoever counts it.
    plain = settings.model_copy(update={"train": settings.train.model_copy(update={"checkpoint_activations": False})})
    with torch.device("meta"):
        model = create_hjepa_from_config(plain)
    model.train()
    if device == "cpu":
        use_plain_attention(model.context_encoder)
        if model.predictor is not None:
            use_plain_attention(model.predictor)
    parts = _parts(model)
    # Tensors on `meta` would not be cast as those of a device are.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        small, whole = (_activations(model, settings, geometry, count, precision) for count in (few, images))
    sizes = {part.name: part for part in parts}
    target = sizes["target_encoder"].parameters
    trainable = sum(part.trainable for part in parts)
    memory = StepMemory(
        weights=_FLOAT_BYTES * (sum(part.parameters for part in parts) - target),
        target_weights=_FLOAT_BYTES * target,
        gradients=_FLOAT_BYTES * trainable,
        optimizer=_FLOAT_BYTES * numbers_kept(model, settings.train),
        activations=whole,
        activations_per_image=round((whole - small) / (images - few)) if images > few else round(whole / images),
        images=images,
        precision=precision,
        device=device,
        recomputed=settings.train.checkpoint_activations,
    )
    return parts, memory


def _where(settings: PretrainSettings) -> tuple[str, str]:
    """Return kind of device and precision of a run; a run on CUDA can be planned on a machine without it."""
    name, precision = settings.train.device, settings.train.precision
    if name.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        return "cuda", "bf16" if precision == "auto" else precision
    device = resolve_device(name)
    return device.type, resolve_precision(precision, device)


def _parts(model: HJEPA) -> tuple[PartSize, ...]:
    counts = model.parameter_counts()
    names = [name for name in counts if name not in ("total", "trainable")]
    fixed = {
        name: 0 if part is None else sum(p.numel() for p in part.parameters() if not p.requires_grad)
        for name, part in ((name, getattr(model, name)) for name in names)
    }
    return tuple(PartSize(name, counts[name], counts[name] - fixed[name]) for name in names)


def _activations(model: HJEPA, settings: PretrainSettings, geometry: Geometry, images: int, precision: str) -> int:
    """Return the bytes that autograd keeps between the forward and the backward pass of a step on so many images."""
    kept: dict[int, tuple[Any, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        reference = _reference(tensor)
        kept[reference.cdata] = reference, tensor.untyped_storage().nbytes()
        return tensor

    own = {_reference(each).cdata for each in (*model.parameters(), *model.buffers())}  # The model holds them.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = step_loss(model, _inputs(settings, geometry, images), settings.train, precision=precision)
    # What no gradient needs was let go of meanwhile; the loss holds the rest.
    held = [size for name, (reference, size) in kept.items() if name not in own and not reference.expired()]
    del loss
    return sum(held)


def _reference(tensor: Tensor) -> Any:
    """Return a weak reference to a tensor's storage; while it is there, no other storage gets the same number."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _inputs(settings: PretrainSettings, geometry: Geometry, images: int) -> StepInputs | CropInputs:
    """Return inputs of a step that have the shapes of real ones, and no content."""
    size, data, masking = geometry.image_size, settings.data, settings.masking
    whole = settings.train.whole_image
    directions = torch.zeros(whole.out_dim, whole.sigreg_slices) if whole.sigreg else None
    if data.augmentation == "crops":
        crops = torch.zeros(data.crops, images, 3, data.crop_size, data.crop_size)
        return CropInputs(crops, torch.zeros(data.crops, images, 3), directions)
    seen = geometry.most_context_tokens(masking)
    asked = geometry.target_tokens(masking, seen)
    context = torch.zeros(images, seen, dtype=torch.int64)
    masks = Masks(
        context,
        torch.zeros(images, asked, dtype=torch.int64),
        torch.ones(images, asked, dtype=torch.bool),
        torch.ones(images, geometry.num_patches, dtype=torch.bool),
    )
    view = torch.zeros(images, 3, size, size)
    others = 1 + data.local_views if data.augmentation == "asym+global" else 0
    return StepInputs(
        Views(view, view, view.expand(others, -1, -1, -1, -1).contiguous() if others else None),
        masks,
        other_context=context.expand(others, -1, -1).contiguous() if others else None,
        directions=directions,
    )
