"""Galleries made by hand for the tests of figures; the numbers and images are invented."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from hjepa_eval.results.gallery import Gallery, LevelMap, MaskExamples, Neighbourhoods


def plane(points: list[list[list[float]]], labels: list[int], *, method: str = "PCA; made by hand") -> LevelMap:
    """Return a map of levels; image n of it is the test image 10 n; the axes carry 50 and 25 percent in PCA."""
    shares = np.tile([0.5, 0.25] if method.startswith("PCA") else [0.0, 0.0], (len(points), 1))
    return LevelMap(
        10 * np.arange(len(labels)), np.array(labels), np.array(points, np.float32), method, shares.astype(np.float32)
    )


def gallery(on_map: LevelMap, class_names: tuple[str, ...]) -> Gallery:
    empty = np.zeros((len(on_map.points), 0, 0), np.int64)
    return Gallery(
        model="runs/demo",
        dataset="digits",
        train_store="a",
        test_store="b",
        class_names=class_names,
        levels=tuple((level, f"block {level}") for level in range(len(on_map.points))),
        images={},
        map=on_map,
        neighbourhoods=Neighbourhoods(
            np.zeros(0, np.int64), np.zeros(0, np.int64), (), empty, empty, empty.astype(np.float32)
        ),
    )


def masks(levels: int = 1) -> MaskExamples:
    """Return masks of two images on 2 x 3 tokens: the upper left token is seen, a block covers the right column."""
    context, targets = np.zeros((levels, 2, 6), bool), np.zeros((levels, 2, 1, 6), bool)
    context[:, :, 0] = True
    targets[:, :, 0, [2, 5]] = True
    return MaskExamples("multi_block", (2, 3), np.array([7, 3]), context, targets)


def png(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(content, "PNG")
    return content.getvalue()
