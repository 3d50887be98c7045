"""Pictures with captions, digits and scenes; captions are for training, and a judged picture has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import unknown
from hjepa_pretrain.data.kinds.corpus import Corpus, LabelledSet

SETS = ("digits", "scenes")
SIDE = 16
_SAID = ("size", "colour", "texture", "background")  # What a caption of a scene tells; the class is left out.
_MOST = 3000


def load_captioned(sets: Sequence[str]) -> Corpus:
    """Return the captioned train pictures of all `sets` as examples, and the pictures alone to judge with.

    A digit's caption says whether it is even and whether it is below five, which is a part of its class; a scene's says
    size, colour, texture and background, and nothing of its class.

    Raises:
        UnknownNameError: there is no such set.
    """
    for name in sets:
        if name not in SETS:
            raise unknown("set of captioned pictures", name, SETS)
    data = {(name, split): load_dataset(name, split) for name in sets for split in ("train", "test")}
    texts = {key: captions(dataset)[:_MOST] for key, dataset in data.items()}
    vocabulary = sorted({word for text in texts.values() for caption in text for word in caption})
    number = {word: place for place, word in enumerate(vocabulary)}
    longest = max(len(caption) for text in texts.values() for caption in text)
    states: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, dataset in data.items():
        words = torch.full((len(texts[key]), longest), -1, dtype=torch.int64)
        for row, caption in enumerate(texts[key]):
            words[row, : len(caption)] = torch.tensor([number[word] for word in caption])
        states[key] = {"pixels": pixels(dataset, len(words)), "words": words}
    examples = {part: torch.cat([states[name, "train"][part] for name in sets]) for part in ("pixels", "words")}
    labelled = tuple(
        LabelledSet(
            name,
            _alone(states[name, "train"]),
            _alone(states[name, "test"]),
            np.asarray(data[name, "train"].labels[:_MOST]),
            np.asarray(data[name, "test"].labels[:_MOST]),
            tuple(data[name, "train"].class_names),
        )
        for name in sets
    )
    arguments = {"channels": 3, "side": SIDE, "patch": 4, "vocabulary": len(vocabulary)}
    return Corpus("image_text", examples, labelled, arguments, f"{len(examples['words']):,} captioned pictures")


def captions(dataset: ImageDataset) -> list[list[str]]:
    """Return the words of each picture's caption."""
    factors: Any = getattr(dataset, "factors", None) or {}
    if not set(_SAID) <= set(factors):
        return [["even" if label % 2 == 0 else "odd", "low" if label < 5 else "high"] for label in dataset.labels]
    columns = [[factors[name].categories[int(value)] for value in factors[name].values] for name in _SAID]
    return [list(words) for words in zip(*columns, strict=True)]


def pixels(dataset: ImageDataset, count: int) -> Tensor:
    """Return float pictures `[count, 3, SIDE, SIDE]` in [-1, 1]."""
    half = (0.5, 0.5, 0.5)
    transform = Transform(size=SIDE, resize=SIDE, interpolation="bilinear", mean=half, std=half)
    return transform.normalise(stack_images(dataset, transform, indices=range(count), workers=1))


def _alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return pictures without their captions."""
    return {**state, "words": torch.full_like(state["words"], -1)}
