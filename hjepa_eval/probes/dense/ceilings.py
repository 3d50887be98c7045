"""The ceiling of a grid: how good a segmentation could be if every cell of a level knew its part of the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.probes.dense.cells import Cells
from hjepa_eval.probes.dense.regions import Regions


@dataclass(frozen=True)
class Truth:
    """What is known of the images of one split at one level.

    Attributes:
        classes: returns for an image uint8 [H, W], class numbers or 255.
        cells: returns for an image how the level's cells lie over it.
        images: N.
        num_classes: C.
    """

    classes: Callable[[int], NDArray[np.uint8]]
    cells: Callable[[int], Cells]
    images: int
    num_classes: int

    def histograms(self, image: int) -> NDArray[np.float32]:
        """Return the share of each class in each cell of an image, float32 [T, C]."""
        return self.cells(image).histograms(self.classes(image), num_classes=self.num_classes)

    def take(self, images: NDArray[np.int64]) -> Truth:
        """Return what is known of some of the images, numbered anew."""
        return Truth(
            lambda image: self.classes(int(images[image])),
            lambda image: self.cells(int(images[image])),
            len(images),
            self.num_classes,
        )

    def score(self, guesses: Iterator[NDArray[np.int64]]) -> Regions:
        """Return the counts of predictions [P, Q], one of each image in order."""
        regions = Regions.empty(self.images, self.num_classes)
        for image, guess in enumerate(guesses):
            regions.count(image, guess, self.classes(image)[self.cells(image).seen])
        return regions


@dataclass(frozen=True)
class Ceilings:
    """What cells that know the truth would reach.

    Attributes:
        soft: each cell knows the shares of its classes, which are interpolated as a probe's scores are.
        majority: each cell knows its most frequent class, which all its pixels get.
    """

    soft: Regions
    majority: Regions


def find_ceilings(truth: Truth) -> Ceilings:
    """Return the ceilings of a level over all images.

    `soft` is what a perfect probe of these protocols reads; it is no bound, for interpolation may round a corner
    wrongly and a lucky error may not.
    """
    soft = Regions.empty(truth.images, truth.num_classes)
    majority = Regions.empty(truth.images, truth.num_classes)
    for image in range(truth.images):
        cells, classes = truth.cells(image), truth.classes(image)
        shares = cells.histograms(classes, num_classes=truth.num_classes)
        shown = classes[cells.seen]
        soft.count(image, cells.label_pixels(shares), shown)
        majority.count(image, cells.repeat_pixels(shares.argmax(axis=1)), shown)
    return Ceilings(soft, majority)
