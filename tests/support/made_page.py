"""A page's parts made for tests: records with outcomes, and galleries of scikit-learn's real digits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from made_records import compared, costed, record_of
from sklearn.datasets import load_digits
from torchvision.io import encode_png

from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.results.gallery import Gallery, LevelMap, MaskExamples, Neighbourhoods
from hjepa_eval.results.outcomes import SampleOutcomes, write_outcomes
from hjepa_eval.results.records import LevelChoice, Predictions, Record

NAME = "<script>alert(1)</script>"
CLASSES = (NAME, "$x_2$", "a & b", *(str(number) for number in range(3, 10)))
KEY = "top1 k=20"
TRAIN = 200


def gallery_of(model: str = "runs/demo", *, levels: int = 2, on_map: int = 60, queries: int = 4) -> Gallery:
    """Return a gallery of digits: raw pixels at every level, in the plane of their two halves' brightness."""
    digits = load_digits()
    pixels, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    train, test = pixels[:TRAIN], pixels[TRAIN:]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test)]
    cosines = unit[1][:queries] @ unit[0].T
    near = np.stack([np.argsort(-cosines, axis=1)[:, :5]] * levels)
    places = np.arange(on_map)
    points = np.stack([test[places, :32].sum(1), test[places, 32:].sum(1)], axis=1)
    shown = Neighbourhoods(
        index=np.arange(queries),
        labels=labels[TRAIN:][:queries],
        chosen=("drawn at random",) * queries,
        train_index=near,
        train_labels=labels[:TRAIN][near],
        similarity=np.take_along_axis(np.stack([cosines] * levels), near, axis=2),
    )
    wanted = {("test", int(place)) for place in (*places, *range(queries))} | {("train", int(n)) for n in near.ravel()}
    return Gallery(
        model=model,
        dataset="digits",
        train_store="a",
        test_store="b",
        class_names=CLASSES,
        levels=tuple((level, f"block {level + 1}") for level in range(levels)),
        images={key: picture(digits.images[key[1] + TRAIN * (key[0] == "test")]) for key in sorted(wanted)},
        map=LevelMap(
            places,
            labels[TRAIN:][places],
            np.stack([points] * levels).astype(np.float32),
            "PCA",
            np.full((levels, 2), 0.25, np.float32),
        ),
        neighbourhoods=shown,
    )


def picture(image: np.ndarray) -> bytes:
    """Return a digit [8, 8] of 0 to 16 as PNG."""
    return encode_png(torch.from_numpy((image * 15).astype(np.uint8))[None]).numpy().tobytes()


def with_run(gallery: Gallery) -> Gallery:
    """Return the gallery as one of a pretraining run, with curves and masks."""
    rows = tuple(
        {"step": step, "losses": {"loss": 1.0 / (step + 1), "loss_level_0": 0.5 / (step + 1)}} for step in range(5)
    )
    seen = np.eye(4, dtype=bool)[None, :1]
    place = gallery.neighbourhoods.train_index[0, 0, :1]
    masks = MaskExamples("multiblock", (2, 2), place, seen, ~seen[:, :, None])
    return replace(gallery, training=rows, masks=masks)


def located_of(folder: Path, model: str = "runs/demo", *, right: tuple[int, ...] = (10, 30), **more: object) -> Located:
    """Return a kNN record of 40 test images in a folder with its outcomes: the first `right` are right, per level."""
    labels = np.arange(40, dtype=np.int64) % 10
    guesses = [np.where(np.arange(40) < count, labels, (labels + 1) % 10) for count in right]
    record = record_of("knn", model=model, values=tuple(count / 40 for count in right), **more)
    levels = tuple(
        level.model_copy(
            update={
                "per_class": {name: (int(sum(g[labels == n] == n)), 4) for n, name in enumerate(CLASSES)},
                "scores": tuple(score.model_copy(update={"num_samples": 40}) for score in level.scores),
            }
        )
        for level, g in zip(record.levels, guesses, strict=True)
    )
    choice = LevelChoice(
        score=KEY,
        rule="a tenth of train",
        held_out={level: count / 40 for level, count in enumerate(right)},
        level=len(right) - 1,
        value=right[-1] / 40,
        oracle=len(right) - 1,
        oracle_value=right[-1] / 40,
    )
    record = record.model_copy(update={"levels": levels, "choices": (choice,)})
    if len(right) == 2:
        record = compared(costed(record, 0.01, 0.04), (1, 0, (right[1] - right[0]) / 40, 0.001))
    samples = SampleOutcomes(
        np.arange(40, dtype=np.int64),
        labels,
        {(level, KEY): guess == labels for level, guess in enumerate(guesses)},
        {(level, KEY): guess for level, guess in enumerate(guesses)},
    )
    return Located(with_outcomes(record, samples, folder), folder)


def with_outcomes(record: Record, samples: SampleOutcomes, folder: Path) -> Record:
    """Write outcomes beside where the record will be, and return the record that names them."""
    path = folder / f"{record.key[:12]}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    write_outcomes(samples, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return record.model_copy(update={"predictions": Predictions(file=path.name, sha256=digest)})
