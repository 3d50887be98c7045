"""Settings of a pretraining run. Every default and every description is here and nowhere else.

A schema knows types and ranges. Whether settings fit together, and what would change nothing, is asked by `checks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from hjepa_eval.config import Settings

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Range = tuple[Positive, Positive]
# YAML reads the bare words on and off as true and false.
OnOff = BeforeValidator(lambda value: {True: "on", False: "off"}[value] if isinstance(value, bool) else value)


class PredictorSettings(Settings):
    """The predictor."""

    depth: int = Field(default=6, ge=1, description="transformer blocks")
    num_heads: int = Field(default=12, ge=1, description="attention heads; they divide embed_dim")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the MLP over embed_dim")
    embed_dim: int = Field(default=384, ge=4, description="width; narrower than the encoder")
    order: Literal["parallel", "coarse_to_fine"] = Field(
        default="parallel",
        description="whether queries of a level see those of coarser levels (coarse_to_fine), or none but themselves",
    )
    fpn: bool = Field(
        default=False, description="whether a cell's answer adds that of the coarser cell it lies in, as in FPN"
    )


class EmaSettings(Settings):
    """The target encoder's moving average."""

    momentum: Share = Field(default=0.996, description="at the first step")
    momentum_end: Share = Field(default=1.0, description="at the last step")
    momentum_warmup_epochs: float = Field(default=0.0, ge=0, description="epochs held at the first value")
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="shape of the rise over all steps")


class ModelSettings(Settings):
    """The networks."""

    encoder_type: str = Field(
        default="vit_base_patch16_224",
        description="a timm ViT (vit_..., deit_...), vit_SIZE_patchP_IMAGE, or energy_SIZE_patchP_IMAGE (an energy "
        "transformer); with train.predicted_share=0 any timm model with stages, or conv_64_256_256, a small network by "
        "its widths",
    )
    embed_dim: int | None = Field(
        default=None, description="width of the encoder; comes from timm, another value is an error"
    )
    encoder_depth: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="encoder blocks, or steps of an energy transformer; the ViT's own when not given",
    )
    positions: Literal["learned", "sincos", "rope"] = Field(
        default="sincos", description="positions of the encoder: added to tokens, or rotary (rope)"
    )
    class_token: bool = Field(default=False, description="whether the encoder has a class token")
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="drop path rate of the last block of context encoder and predictor"
    )
    layer_scale: float | None = Field(
        default=None, gt=0, description="first value of learned factors on every branch of the encoder; none at all"
    )
    energy_step: float = Field(
        default=0.1, gt=0, description="length of a step down the energy, of an encoder_type energy_SIZE_patchP_IMAGE"
    )
    num_hierarchies: int = Field(default=3, ge=1, le=4, description="levels; 1 is a flat I-JEPA")
    taps: Literal["depth", "final"] | tuple[int, ...] = Field(
        default="depth", description="block that each level reads: spread over the depth, all the final one, or a list"
    )
    mask_mode: Literal["drop", "zero"] = Field(default="drop", description="hidden tokens are left out, or set to zero")
    predictor: PredictorSettings = PredictorSettings()
    ema: EmaSettings = EmaSettings()


class MaskingSettings(Settings):
    """Context and targets."""

    type: Literal["multi_block", "hierarchical", "random"] = Field(
        default="multi_block",
        description="multi_block: blocks that all levels share; hierarchical: each image is masked for one level, with "
        "blocks of that level's size; random: single tokens",
    )
    num_masks: int = Field(default=4, ge=1, description="target blocks per image")
    mask_scale: Range = Field(default=(0.15, 0.2), description="share of the grid that a target block covers")
    aspect_ratio: Range = Field(default=(0.75, 1.5), description="rows / columns of a target block")
    num_context_masks: Literal[1] = Field(default=1, description="context blocks per image")
    context_scale: Range = Field(default=(0.85, 1.0), description="share of the grid that the context block covers")
    allow_target_overlap: bool = Field(
        default=True,
        description="whether target blocks may overlap each other, as in I-JEPA; false waits for the device each step",
    )
    max_attempts: int = Field(default=10, ge=1, description="layouts tried before blocks that must not overlap shrink")
    num_hierarchies: int | None = Field(
        default=None, ge=1, le=4, description="levels of the masks; those of the model, which it must equal"
    )
    num_masks_per_level: int = Field(default=4, ge=1, description="target blocks per image of hierarchical masks")
    scale_progression: Literal["geometric", "linear"] = Field(
        default="geometric", description="how block sizes of hierarchical masks grow with the level"
    )
    base_scale: Range = Field(
        default=(0.05, 0.15), description="share of the grid that a block of level 0 covers, for hierarchical masks"
    )
    aligned: Share = Field(default=0.0, description="share of images whose blocks lie on the lattice of 2x2 tokens")
    roll: Share = Field(
        default=0.0,
        description="share of images whose masks are rolled around the grid, so that the centre is not special",
    )
    saliency: float = Field(
        default=0.0,
        ge=0,
        description="how much target blocks prefer what the target encoder's last block attends to; 0: not at all",
    )
    mask_ratio: float | None = Field(
        default=None, gt=0, lt=1, description="share of the tokens that the context does not see; or context_tokens"
    )
    mask_ratio_end: float | None = Field(
        default=None, gt=0, lt=1, description="mask_ratio at the end, to which it moves in eighths of the way"
    )
    context_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens that the context encoder sees of each image; 3/8 of the grid when not given",
    )
    target_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens of level 0 to predict per image, a random part of the blocks; all when not given",
    )
    cell_coverage: float = Field(
        default=0.5, gt=0, le=1, description="share of a coarse cell hidden for it to be a target"
    )


class DataSettings(Settings):
    """Images and what happens to them."""

    dataset: str = Field(default="digits", description="dataset, as in 'hjepa datasets'; its train split is used")
    root: Path | None = Field(
        default=None,
        description="folder that holds the dataset (HJEPA_DATA; else ./data)",
        json_schema_extra={"env": "HJEPA_DATA"},
    )
    image_size: int | None = Field(
        default=None, ge=1, le=65_536, description="side in pixels; the encoder's own when not given"
    )
    stored_size: int | None = Field(
        default=None, ge=1, description="side at which images are kept before crops; image_size when not given"
    )
    max_samples: int | None = Field(default=None, ge=2, description="at most so many images, balanced over classes")
    augmentation: Literal["none", "light", "asym", "asym+global", "crops"] = Field(
        default="light",
        description="none; light: crop and flip; asym: colours of the context view change too; "
        "asym+global: and a second augmented view joins the objectives on whole images; crops: small crops at their "
        "own size, and nothing else, for an encoder with stages",
    )
    crop_scale: Range = Field(default=(0.3, 1.0), description="share of the image that a random crop keeps")
    flip: bool = Field(default=True, description="whether half of the images are mirrored")
    jitter: tuple[Share, Share, Share, Share] = Field(
        default=(0.4, 0.4, 0.2, 0.1), description="brightness, contrast, saturation and hue changes of colour views"
    )
    gray: Share = Field(default=0.2, description="share of colour views that lose their colour")
    local_views: int = Field(
        default=0,
        ge=0,
        description="further small crops per image that join the objectives on whole images (multi-crop)",
    )
    local_scale: Range = Field(default=(0.1, 0.3), description="share of the image that such a small crop keeps")
    crops: int = Field(default=8, ge=2, description="crops per image, for augmentation crops")
    crop_size: int = Field(default=16, ge=1, description="side of such a crop in pixels; it is not enlarged")
    placement: Literal["auto", "device", "loader"] = Field(
        default="auto",
        description="device: the whole data set as uint8 in the device's memory; loader: decoded when needed; auto: "
        "device when it fits",
    )
    workers: int = Field(default=4, ge=0, description="threads that decode images")
    mean: tuple[float, float, float] = Field(
        default=(0.5, 0.5, 0.5), description="subtracted per channel, pixels in [0, 1]"
    )
    std: tuple[Positive, Positive, Positive] = Field(default=(0.5, 0.5, 0.5), description="divides each channel")


# Marks the weights of terms on projections, which are `objectives.objective.OBJECTIVES`.
_TERM: dict[str, JsonValue] = {"term": "projections"}


class GlobalSettings(Settings):
    """Objectives on the projected mean context token; a weight of 0 leaves a term out."""

    invariance: float = Field(
        default=0.0,
        ge=0,
        json_schema_extra=_TERM,
        description="weight: two views of one image agree (needs asym+global)",
    )
    contrast: float = Field(
        default=0.0, ge=0, json_schema_extra=_TERM, description="weight: InfoNCE between two views (needs asym+global)"
    )
    temperature: float = Field(default=0.2, gt=0, description="of the contrast term")
    predict: float = Field(
        default=0.0,
        ge=0,
        description="weight: a query of its own predicts the other view's mean token (needs asym+global)",
    )
    variance: float = Field(default=0.0, ge=0, json_schema_extra=_TERM, description="weight: VICReg variance hinge")
    covariance: float = Field(
        default=0.0, ge=0, json_schema_extra=_TERM, description="weight: VICReg covariance penalty"
    )
    sigreg: float = Field(
        default=0.0, ge=0, json_schema_extra=_TERM, description="weight: projections look like N(0, I)"
    )
    sigreg_slices: int = Field(default=256, ge=1, description="random directions of sigreg per step")
    centre: float = Field(
        default=0.0,
        ge=0,
        json_schema_extra=_TERM,
        description="weight: views of an image agree with their mean (needs asym+global or crops)",
    )
    coding_rate: float = Field(
        default=0.0, ge=0, json_schema_extra=_TERM, description="weight: projections of images take many directions"
    )
    coding_precision: float = Field(
        default=0.2, gt=0, description="of the coding rate: the smaller, the more a rare direction is worth"
    )
    predict_crops: float = Field(
        default=0.0, ge=0, description="weight: of a crop and its place, another crop at its place is predicted"
    )
    levels: int = Field(
        default=1, ge=1, le=4, description="the last so many levels have objectives, for augmentation crops"
    )
    hidden_dim: int = Field(default=1024, ge=1, description="hidden width of the projector")
    out_dim: int = Field(default=128, ge=2, description="width of the projections")

    @property
    def projected(self) -> bool:
        """Whether a term looks at projections, so that a projector is needed."""
        return any(getattr(self, name) for name in PROJECTED)


# A tuple of names, since the property is read in a compiled step.
PROJECTED = tuple(name for name, field in GlobalSettings.model_fields.items() if field.json_schema_extra == _TERM)


class TrainSettings(Settings):
    """Optimisation, budget, and what is written when."""

    epochs: float | None = Field(default=None, gt=0, description="length in passes over the data; or minutes, not both")
    minutes: float | None = Field(default=None, gt=0, description="length in minutes of training; or epochs, not both")
    batch_size: int = Field(default=256, ge=2, description="images per optimiser step, over all ranks and accumulation")
    accumulate: int = Field(
        default=1, ge=1, description="parts of a batch whose gradients are added up, to save memory"
    )
    checkpoint_activations: bool = Field(
        default=False, description="whether blocks are computed again in the backward pass, to save memory"
    )
    compile: Annotated[Literal["auto", "on", "off"], OnOff] = Field(
        default="auto", description="torch.compile of the step; auto: when there is a compiler and the run repays it"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="under torchrun: whole weights on every rank, or sharded by fully_shard"
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    final_lr: float = Field(default=0.0, ge=0, description="learning rate at the end")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="of AdamW")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="of matrices and convolutions; all else has AdamW"
    )
    muon_lr: float = Field(default=0.05, gt=0, description="peak learning rate of Muon; its shape is that of lr")
    muon_momentum: Decay = Field(default=0.9, description="of Muon")
    weight_decay: float = Field(
        default=0.05, ge=0, description="of matrices; none on biases, norms, positions and tokens"
    )
    warmup: Share = Field(default=0.05, description="share of the training during which the learning rate rises")
    schedule: Literal["cosine", "constant", "cooldown"] = Field(
        default="cosine", description="learning rate after the warm-up"
    )
    cooldown: float = Field(default=0.25, gt=0, le=1, description="last share of the training, for schedule cooldown")
    clip: float = Field(default=3.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "bf16", "tf32", "fp32"] = Field(
        default="auto", description="auto is bf16 where the machine is fast at it, else fp32"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    seed: int = Field(default=0, ge=0, description="of weights, order, masks, augmentation and dropped paths")
    loss: Literal["smooth_l1", "mse", "huber"] = Field(
        default="smooth_l1", description="error between prediction and target"
    )
    loss_beta: float = Field(default=1.0, gt=0, description="where smooth_l1 and huber turn from squared to absolute")
    predicted_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of each batch for which levels are predicted; the rest joins the whole-image terms alone, "
        "which saves the target encoder's pass over the whole image",
    )
    level_weights: tuple[Weight, ...] | None = Field(
        default=None, description="weight of each level's loss; all 1 when not given"
    )
    whole_image: GlobalSettings = GlobalSettings()
    log_interval: int = Field(default=50, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_interval: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints that stay, beside the best")


class DiagnosticsSettings(Settings):
    """What is measured on the way, and what stops a run."""

    interval: int = Field(default=500, ge=1, description="steps between measurements of features")
    held_out: Share = Field(
        default=0.1,
        description="share of train that is never trained on, at most 5,000 images: for kNN and the best checkpoint; "
        "none when nothing is measured",
    )
    bank: int = Field(
        default=5000, ge=0, description="trained images that vote in kNN and whose rank is measured; 0: no measurements"
    )
    smallest_std: float = Field(default=1e-3, ge=0, description="stop when a level's features deviate less; 0: never")
    smallest_rank: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="stop when a level's RankMe is a smaller share of its width; 0: never. Untrained ViTs have 0.04",
    )
    largest_mean_energy: Share = Field(
        default=0.999,
        description="stop when the mean over images holds a larger share of a level's energy, which a rank cannot see; "
        "1: never. Untrained ViTs have 0.75 on photographs and 0.992 on digits",
    )
    rank_drop: Share = Field(
        default=0.5,
        description="stop when the loss and a level's RankMe both lose this share between two measurements; 0: never",
    )
    milestones: tuple[tuple[Share, Share], ...] = Field(
        default=(), description="pairs of progress and kNN: stop when the best level's kNN is lower by then"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many measurements without a better kNN; never when not given"
    )
    tensorboard: bool = Field(default=False, description="whether a TensorBoard log is written into the run as well")
    wandb: str | None = Field(default=None, description="project of Weights & Biases to log to as well (extra wandb)")

    @model_validator(mode="after")
    def _judges_what_is_measured(self) -> DiagnosticsSettings:
        if not self.bank and (self.patience is not None or self.milestones):
            raise ValueError("patience and milestones judge kNN, which diagnostics.bank 0 never measures; give a bank")
        return self


class PretrainSettings(Settings):
    """Everything that decides what a pretraining run computes; `checks.problems` tells whether it fits together."""

    model: ModelSettings = ModelSettings()
    masking: MaskingSettings = MaskingSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
