"""Passes: how images go through an encoder, and which stores that fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.features.claims import Say
from hjepa_eval.features.manifest import Manifest

if TYPE_CHECKING:
    from hjepa_eval.datasets.transform import View

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Compute:
    """How to extract; all of it that changes a feature beyond rounding is part of a store's key.

    Attributes:
        device: where the encoder runs, such as `cpu` or `cuda:1`.
        precision: `bf16` or `fp32`, of the forward pass.
        batch_size: images per forward pass.
        workers: decoding threads.
        max_samples: only the first so many images of the dataset's balanced order; None for all.
        on_bad_image: `error` or `skip`.
        storage: `float32` or `float16`, of the features on disk.
        token_storage: the same of all tokens, which are as many times larger.
        compile: `on`, `off`, or `auto`: as the store was begun, else on when the images repay the compilation.
        rank: number of this process among those that were started together, from 0.
        world_size: how many they are.
    """

    device: str
    precision: str
    batch_size: int = 256
    workers: int = 2
    max_samples: int | None = None
    on_bad_image: str = "error"
    storage: Literal["float32", "float16"] = "float32"
    token_storage: Literal["float32", "float16"] = "float16"
    compile: Literal["on", "off", "auto"] = "off"
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Pass:
    """One forward pass: what it reads, and the store of each readout that it fills."""

    encoder: EncoderHandle
    dataset: ImageDataset
    settings: Compute
    view: View | None
    compiled: bool
    manifests: Mapping[str, Manifest]
    folders: Mapping[str, Path]
    say: Say
    progress: Progress
