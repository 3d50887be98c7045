"""Every key of every mode: another value is refused, or something that a step computes is another thing.

A new mode is a line in MODES; a new setting is a line in OTHER, or in LOOP with the reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from hjepa_pretrain import checks
from hjepa_pretrain.config import geometry
from hjepa_pretrain.config.geometry import encoder_shape
from hjepa_pretrain.config.schedules import learning_rate
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.step_inputs import StepInputMaker
from hjepa_pretrain.models import HJEPA, create_hjepa_from_config
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training.optimizer import make_optimizer
from hjepa_pretrain.training.step import step_loss
from pydantic import BaseModel, TypeAdapter

from hjepa_eval.config import merge, parse_assignments
from hjepa_eval.errors import HjepaError

VIT = [
    "train.epochs=4",
    "model.encoder_type=vit_tiny_patch4_32",
    "model.encoder_depth=2",
    "model.num_hierarchies=2",
    "masking.cell_coverage=0.25",
]
PREDICTOR = ["model.predictor={embed_dim: 32, depth: 1, num_heads: 2}"]
VIEWS = ["data.augmentation=asym+global"]
MODES: dict[str, list[str]] = {
    "flat": [*VIT, *PREDICTOR, "model.num_hierarchies=1", "masking.cell_coverage=0.5"],
    "levels, blocks apart": [
        *VIT,
        *PREDICTOR,
        "masking.context_tokens=12",
        "masking.allow_target_overlap=false",
        "model.predictor.fpn=true",
    ],
    "hierarchical masks": [
        *VIT,
        "masking.cell_coverage=0.5",
        *PREDICTOR,
        "masking.type=hierarchical",
        "train.loss=huber",
        "model.taps=[1, 2]",
    ],
    "hierarchical masks of three levels": [
        *(*VIT, *PREDICTOR, "masking.type=hierarchical", "model.num_hierarchies=3", "model.encoder_depth=3"),
        "masking.cell_coverage=0.5",
    ],
    "random masks, no augmentation": [*VIT, *PREDICTOR, "masking.type=random", "data.augmentation=none"],
    "ratio of masks, mse": [*VIT, *PREDICTOR, "masking.mask_ratio=0.6", "train.loss=mse", "train.schedule=constant"],
    "contrast and predict": [
        *(*VIT, *PREDICTOR, *VIEWS, "train.whole_image.contrast=1", "train.whole_image.predict=1"),
        *("train.predicted_share=0.5", "data.local_views=1"),
    ],
    "sigreg, minutes": [
        *(*VIT, *PREDICTOR, "train.epochs=null", "train.minutes=3", "train.schedule=cooldown"),
        *("data.augmentation=asym", "train.whole_image.sigreg=1", "diagnostics.bank=0"),
    ],
    "VICReg alone": [
        *(*VIT, *VIEWS, "train.predicted_share=0", "masking.cell_coverage=0.5"),
        *(f"train.whole_image.{name}=1" for name in ("invariance", "variance", "covariance")),
    ],
    "energy transformer": [
        *("train.epochs=4", "model.encoder_type=energy_tiny_patch4_32", "model.encoder_depth=2"),
        *("model.num_hierarchies=2", "masking.cell_coverage=0.25", *PREDICTOR, "model.predictor.depth=2"),
    ],
    "stages": [
        *("train.epochs=4", "model.encoder_type=test_resnet", "model.num_hierarchies=2", "model.mask_mode=zero"),
        *(*VIEWS, "train.predicted_share=0", "train.whole_image.contrast=1", "data.image_size=32"),
    ],
    "crops, Muon": [
        *("train.epochs=4", "model.encoder_type=conv_4_8", "model.num_hierarchies=2", "data.image_size=16"),
        *("data.augmentation=crops", "data.crops=3", "data.crop_size=12", "train.predicted_share=0"),
        *("train.optimizer=muon", "train.whole_image.levels=2"),
        *(f"train.whole_image.{name}=1" for name in ("centre", "coding_rate", "predict_crops")),
    ],
}
# Of each key some values; the first one that is not the mode's own is tried.
OTHER: dict[str, tuple[str, ...]] = {
    "model.encoder_type": ("vit_tiny_patch8_32",),
    "model.embed_dim": ("100",),
    "model.encoder_depth": ("3", "4"),
    "model.energy_step": ("0.3",),
    "model.positions": ("learned",),
    "model.class_token": ("true",),
    "model.drop_path": ("0.9",),
    "model.layer_scale": ("0.1",),
    "model.num_hierarchies": ("1", "2"),
    "model.taps": ("[1]", "[1, 2]", "final"),
    "model.mask_mode": ("zero", "drop"),
    "model.predictor.depth": ("2", "3"),
    "model.predictor.num_heads": ("4",),
    "model.predictor.mlp_ratio": ("2",),
    "model.predictor.embed_dim": ("48",),
    "model.predictor.order": ("coarse_to_fine",),
    "model.predictor.fpn": ("true", "false"),
    "model.ema.momentum": ("0.9",),
    "model.ema.momentum_end": ("0.998",),
    "model.ema.momentum_warmup_epochs": ("1",),
    "model.ema.schedule": ("linear",),
    "masking.type": ("random", "multi_block"),
    "masking.num_masks": ("2",),
    "masking.mask_scale": ("[0.1, 0.12]",),
    "masking.aspect_ratio": ("[0.4, 0.5]",),
    "masking.context_scale": ("[0.6, 0.7]",),
    "masking.allow_target_overlap": ("false", "true"),
    "masking.max_attempts": ("1",),
    "masking.num_hierarchies": ("4",),
    "masking.num_masks_per_level": ("2",),
    "masking.scale_progression": ("linear",),
    "masking.base_scale": ("[0.1, 0.2]",),
    "masking.aligned": ("0.9",),
    "masking.roll": ("0.9",),
    "masking.saliency": ("300",),
    "masking.mask_ratio": ("0.7",),
    "masking.mask_ratio_end": ("0.8",),
    "masking.context_tokens": ("10",),
    "masking.target_tokens": ("5",),
    "masking.cell_coverage": ("0.9",),
    "data.image_size": ("64", "96"),
    "data.stored_size": ("70",),
    "data.augmentation": ("none", "light"),
    "data.crop_scale": ("[0.5, 0.6]",),
    "data.flip": ("false",),
    "data.jitter": ("[0.1, 0.1, 0.1, 0.1]",),
    "data.gray": ("0.9",),
    "data.local_views": ("2",),
    "data.crops": ("4",),
    "data.crop_size": ("10",),
    "data.local_scale": ("[0.2, 0.25]",),
    "data.mean": ("[0.4, 0.4, 0.4]",),
    "data.std": ("[0.4, 0.4, 0.4]",),
    **{f"train.whole_image.{name}": ("2",) for name in ("invariance", "contrast", "predict", "variance", "covariance")},
    **{f"train.whole_image.{name}": ("2",) for name in ("centre", "coding_rate", "predict_crops")},
    "train.whole_image.levels": ("2", "1"),
    "train.whole_image.coding_precision": ("0.5",),
    "train.whole_image.temperature": ("0.1",),
    "train.whole_image.sigreg": ("2",),
    "train.whole_image.sigreg_slices": ("9",),
    "train.whole_image.hidden_dim": ("64",),
    "train.whole_image.out_dim": ("16",),
    "train.minutes": ("5",),
    "train.optimizer": ("muon", "adamw"),
    "train.muon_lr": ("0.7",),
    "train.muon_momentum": ("0.5",),
    "train.lr": ("0.5",),
    "train.final_lr": ("0.1",),
    "train.betas": ("[0.8, 0.9]",),
    "train.weight_decay": ("0.5",),
    "train.warmup": ("0.2",),
    "train.schedule": ("constant", "cosine"),
    "train.cooldown": ("0.5",),
    "train.seed": ("1",),
    "train.loss": ("mse", "smooth_l1"),
    "train.loss_beta": ("0.2",),
    "train.predicted_share": ("0.75",),
    "train.level_weights": ("[1, 3]", "[2]"),
    "train.checkpoint_activations": ("true",),
    "diagnostics.interval": ("7",),
    "diagnostics.held_out": ("0.3",),
    "diagnostics.smallest_std": ("9",),
    "diagnostics.smallest_rank": ("0.9",),
    "diagnostics.largest_mean_energy": ("0.1",),
    "diagnostics.rank_drop": ("0.1",),
    "diagnostics.milestones": ("[[0.5, 0.3]]",),
    "diagnostics.patience": ("3",),
}
# What the loop reads whatever is trained: which images, how long, how they are fed, what is written and when.
LOOP = {
    *(f"data.{name}" for name in ("dataset", "root", "max_samples", "placement", "workers")),
    *(f"train.{name}" for name in ("epochs", "batch_size", "accumulate", "clip", "precision", "device", "compile")),
    *(f"train.{name}" for name in ("parallel", "log_interval", "checkpoint_interval", "keep_checkpoints")),
    *(f"diagnostics.{name}" for name in ("bank", "tensorboard", "wandb")),
}


def keys(schema: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted key of every setting with more than one possible value."""
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{path}{name}.")
        elif get_origin(field.annotation) is not Literal or len(get_args(field.annotation)) > 1:
            yield f"{path}{name}"


def value_of(settings: PretrainSettings, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), settings)


def built(*assignments: str) -> PretrainSettings:
    # Later assignments win, as on the command line.
    return checks.build_settings(functools.reduce(merge, [parse_assignments([one]) for one in assignments]), "test")


@pytest.fixture(autouse=True, scope="module")
def _shapes_once() -> Iterator[None]:
    """Ask timm for the shape of an encoder once for all settings that give the same; it takes most of a check."""
    shapes: dict[str, Any] = {}

    def shape(settings: PretrainSettings) -> Any:
        model = settings.model.model_dump_json(exclude={"predictor", "ema", "mask_mode", "taps", "num_hierarchies"})
        key = f"{model} {settings.data.image_size}"
        if key not in shapes:
            shapes[key] = encoder_shape(settings)
        return shapes[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (checks, geometry):
            patch.setattr(module, "encoder_shape", shape)
        yield


@functools.lru_cache(maxsize=4)
def _network(settings: str) -> HJEPA:
    return create_hjepa_from_config(PretrainSettings.model_validate_json(settings), steps_per_epoch=10, total_steps=40)


def network(settings: PretrainSettings) -> HJEPA:
    """Build the model once for all settings that give the same: those of masks, data and rates do not count."""
    same = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.05, "warmup": 0.05, "optimizer": "adamw"}
    train = settings.train.model_copy(update=same)
    return _network(settings.model_copy(update={"train": train}).model_dump_json())


def digest(value: Any) -> str:
    """Return the sha256 of tensors and plain values, however nested."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(f"{value.dtype}{list(value.shape)}".encode() + value.numpy().tobytes()).hexdigest()
    if isinstance(value, list | tuple):
        return digest_of([digest(part) for part in value])
    if hasattr(value, "__dataclass_fields__"):
        return digest([getattr(value, name) for name in value.__dataclass_fields__])
    return repr(value)


def digest_of(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def made(settings: PretrainSettings) -> Iterator[tuple[str, str]]:
    """Yield what settings make, one thing after another, the cheap ones first: whoever compares may stop early."""
    train, diagnostics = settings.train, settings.diagnostics
    shape = {"peak": train.lr, "warmup": train.warmup, "shape": train.schedule}
    points = (0.01, 0.03, 0.1, 0.4, 0.7, 0.9, 1.0)
    rates = [learning_rate(at, **shape, cooldown=train.cooldown, final=train.final_lr) for at in points]
    yield "rates and length", digest([rates, train.minutes])
    # Alarms and the schedule of measurements are these values, where anything is measured.
    watched = [value for name, value in diagnostics if name not in ("bank", "tensorboard", "wandb")]
    yield "what is watched", digest(watched if diagnostics.bank else [])
    sizes = geometry.resolve_geometry(settings)
    transform = run_transform(settings, sizes)
    yield "pixels and levels", digest([transform, settings.data.stored_size, sizes])
    model = network(settings).train()
    length = None if train.minutes else 40
    yield "momentum", digest([model.ema.momentum(step, progress=None if length else step / 40) for step in range(40)])
    groups = [
        [group.get(name) for name in ("lr", "betas", "weight_decay", "scale", "momentum")]
        for group in make_optimizer(model, train).param_groups
    ]
    yield "optimiser", digest(groups)
    # A branch whose last norm begins at 0 says nothing of its dropped paths in the first step.
    yield "modules", digest([str(model)])
    yield "memory", digest([model.context_encoder.checkpoint_activations])
    size = max(sizes.image_size, settings.data.stored_size or 0)
    images = torch.randint(0, 256, (8, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maker = StepInputMaker(settings, sizes, transform)
    inputs = [maker(images, model, number=number, progress=at) for number, at in ((3, 0.1), (4, 0.9))]
    yield "inputs", digest(inputs)
    torch.manual_seed(0)
    yield "losses", digest(list(step_loss(model, inputs[0], train, precision="fp32")[1].values()))


def unchanged(base: PretrainSettings, before: list[tuple[str, str]], mode: list[str], key: str) -> str:
    """Return what is wrong with another value of a key in a mode: nothing where it is refused or changes something."""
    present = TypeAdapter(Any).dump_python(value_of(base, key), mode="json")
    value = next(text for text in OTHER[key] if yaml.safe_load(text) != present)
    try:
        other = built(*mode, f"{key}={value}")
    except HjepaError:
        return ""
    same = all(ours == theirs for ours, theirs in zip(before, made(other), strict=True))
    return f"{key}={value}" if same else ""


def test_every_key__is_tried_or_read_by_the_loop() -> None:
    assert set(keys(PretrainSettings)) == OTHER.keys() | LOOP
    assert not OTHER.keys() & LOOP


@pytest.mark.parametrize("mode", MODES)
def test_every_key__of_a_mode_is_refused_or_changes_what_a_step_computes(mode: str) -> None:
    base = built(*MODES[mode])
    before = list(made(base))
    wrong = [text for key in OTHER if (text := unchanged(base, before, MODES[mode], key))]
    assert not wrong, f"accepted without effect: {', '.join(wrong)}"
