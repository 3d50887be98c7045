"""Settings of runs that `fit` trains: a saccade model on images, and token models on series, text, tables or captions.

A YAML file of such a run says which by its key `task`; everything else is as in the settings of image runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hjepa_eval.config import Settings, build
from hjepa_eval.errors import unknown
from hjepa_pretrain.config.settings import DiagnosticsSettings, Positive, Share, TrainSettings, Weight

FOLDER = "learners"


class SaccadeSettings(Settings):
    """A network that predicts what the eye sees after a movement."""

    network: str = Field(default="resnet18", description="any timm model with stages")
    image_size: int = Field(default=32, ge=8, description="side of the images in pixels")
    levels: int = Field(default=3, ge=1, description="last stages that an evaluation reads")
    shift: Share = Field(default=0.25, description="largest shift of a view, as a share of half of the image's side")
    rotation: float = Field(default=20.0, ge=0, le=180, description="largest angle of a view in degrees")
    cycle: Weight = Field(default=1.0, description="weight: the way there and back returns to where it began")
    invariance_weight: Weight = Field(default=1.0, description="weight: VICReg's invariance, prediction and target")
    variance_weight: Weight = Field(default=1.0, description="weight: VICReg's variance hinge")
    covariance_weight: Weight = Field(default=0.04, description="weight: VICReg's covariance penalty")
    mean: tuple[float, float, float] = Field(default=(0.5, 0.5, 0.5), description="subtracted per channel, of [0, 1]")
    std: tuple[Positive, Positive, Positive] = Field(default=(0.5, 0.5, 0.5), description="divides each channel")
    momentum: Share = Field(default=0.99, description="of the moving average at the first step")
    momentum_end: Share = Field(default=1.0, description="of the moving average at the last step")


class ImageData(Settings):
    """Which images."""

    dataset: str = Field(default="cifar10", description="dataset, as in 'hjepa datasets'; its train split is used")
    root: Path | None = Field(
        default=None,
        description="folder that holds the dataset (HJEPA_DATA; else ./data)",
        json_schema_extra={"env": "HJEPA_DATA"},
    )
    max_samples: int | None = Field(default=None, ge=2, description="at most so many images, balanced over classes")
    workers: int = Field(default=4, ge=0, description="threads that decode images")


class SaccadeRun(Settings):
    """A run of a saccade model on images."""

    task: Literal["saccade"]
    model: SaccadeSettings = SaccadeSettings()
    data: ImageData = ImageData()
    train: TrainSettings = TrainSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()


class TokenSettings(Settings):
    """H-JEPA on tokens of any kind."""

    width: int = Field(default=96, ge=4, description="of tokens")
    depth: int = Field(default=4, ge=1, description="encoder blocks")
    num_heads: int = Field(default=4, ge=1, description="attention heads; they divide width")
    levels: int = Field(default=3, ge=1, le=3, description="levels, each of a deeper block and larger cells")
    predictor_depth: int = Field(default=1, ge=1, description="predictor blocks")
    mask_ratio: float = Field(default=0.5, gt=0, lt=1, description="share of the tokens that are hidden")
    mask_level: int = Field(default=1, ge=0, le=2, description="level whose cells are hidden whole, such as words")
    prediction: Weight = Field(default=1.0, description="weight: hidden cells of every level are predicted")
    contrast: Weight = Field(default=1.0, description="weight: InfoNCE between two masked views of an example")
    momentum: Share = Field(default=0.99, description="of the moving average at the first step")
    momentum_end: Share = Field(default=1.0, description="of the moving average at the last step")


class KindData(Settings):
    """Which data of a kind."""

    sets: tuple[str, ...] | None = Field(
        default=None, description="names of the sets that are trained on and judged; all of the kind when not given"
    )
    length: int = Field(default=128, ge=8, description="steps that series are resampled to, or characters of a text")


class TokensRun(Settings):
    """A run of a token model on a kind of data."""

    task: Literal["series", "text", "tabular", "image_text"]
    model: TokenSettings = TokenSettings()
    data: KindData = KindData()
    train: TrainSettings = TrainSettings()
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()

    @model_validator(mode="after")
    def _length_is_read(self) -> TokensRun:
        if self.task in ("tabular", "image_text") and self.data.length != KindData().length:
            raise ValueError(f"data.length is of series and texts; nothing of task {self.task} reads it, leave it out")
        return self


LearnerRun = SaccadeRun | TokensRun
SCHEMAS: Mapping[str, type[SaccadeRun] | type[TokensRun]] = {
    "saccade": SaccadeRun,
    "series": TokensRun,
    "text": TokensRun,
    "tabular": TokensRun,
    "image_text": TokensRun,
}


def learner_settings(values: Mapping[str, Any], source: str) -> LearnerRun:
    """Return the settings of a run whose `task` says which model it trains.

    Raises:
        UnknownNameError: there is no such task.
        ConfigError: values do not fit; all of them are listed.
    """
    task = str(values.get("task"))
    if task not in SCHEMAS:
        raise unknown("task", task, SCHEMAS)
    return build(SCHEMAS[task], values, source)
