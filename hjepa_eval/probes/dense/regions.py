"""How well predicted classes of pixels cover the true ones: mIoU and accuracy, over the pixels of all images.

mIoU is no mean of images: its parts are summed over them first. So its interval resamples images and sums anew, and
what an image adds is linearised, for paired tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.dense.cells import IGNORED

RESAMPLES = 1000


@dataclass(frozen=True)
class Regions:
    """Numbers of pixels by image and class.

    Attributes:
        right: int64 [N, C], of the class and predicted so.
        true: int64 [N, C], of the class.
        guessed: int64 [N, C], predicted so.
    """

    right: NDArray[np.int64]
    true: NDArray[np.int64]
    guessed: NDArray[np.int64]

    @classmethod
    def empty(cls, images: int, num_classes: int) -> Regions:
        """Return counts of 0, to be filled image by image."""
        return cls(*(np.zeros((images, num_classes), np.int64) for _ in range(3)))

    def count(self, image: int, guess: NDArray[np.int64], truth: NDArray[np.uint8]) -> None:
        """Count the pixels of one image; those whose truth is 255 take no part.

        Args:
            image: its row.
            guess: classes [P, Q].
            truth: classes [P, Q].
        """
        kept = truth != IGNORED
        guessed, true = guess[kept], truth[kept].astype(np.int64)
        classes = self.right.shape[1]
        self.right[image] = np.bincount(true[guessed == true], minlength=classes)
        self.true[image] = np.bincount(true, minlength=classes)
        self.guessed[image] = np.bincount(guessed, minlength=classes)

    def single_class(self) -> Regions:
        """Return the counts of predicting the most frequent true class everywhere, which is what chance is here."""
        label = int(self.true.sum(axis=0).argmax())
        right, guessed = np.zeros_like(self.true), np.zeros_like(self.true)
        right[:, label], guessed[:, label] = self.true[:, label], self.true.sum(axis=1)
        return Regions(right, self.true, guessed)

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union of each class, float64 [C]; NaN for a class without a true pixel."""
        return _iou(self.right.sum(axis=0), self.true.sum(axis=0), self.guessed.sum(axis=0))

    def miou(self) -> float:
        """Return the mean of `iou` over the classes that have a true pixel.

        Raises:
            ProbeError: no class has any.
        """
        if not self.true.any():
            raise ProbeError("no pixel of these images has a class: all are ignored (255); look at the masks")
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of pixels that are predicted right."""
        return float(self.right.sum() / max(1, self.true.sum()))

    def miou_interval(self, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
        """Return mIoU with the percentile interval of bootstrap samples of images, whose counts are summed anew."""
        drawn = np.random.default_rng(seed).multinomial(len(self.true), _even(len(self.true)), size=resamples)
        sums = [drawn @ counts for counts in (self.right, self.true, self.guessed)]
        present = self.true.any(axis=0)
        values = np.nanmean(np.where(present, _iou(*sums), np.nan), axis=1)
        return _percentiles(self.miou(), values, len(self.true))

    def accuracy_interval(self, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
        """Return the share of right pixels with the interval of the same bootstrap."""
        drawn = np.random.default_rng(seed).multinomial(len(self.true), _even(len(self.true)), size=resamples)
        right, true = (drawn @ counts.sum(axis=1) for counts in (self.right, self.true))
        return _percentiles(self.accuracy(), right / np.maximum(true, 1), len(self.true))

    def miou_parts(self) -> NDArray[np.float64]:
        """Return what each image adds to mIoU, float64 [N], whose mean is mIoU: its value at all images, linearised.

        With I, U the sums of a class, IoU = I / U, an image's i and u: IoU + N (i - IoU u) / U, averaged over classes.
        """
        iou = self.iou()
        present = ~np.isnan(iou)
        union = self.true + self.guessed - self.right
        total = union.sum(axis=0)[present]
        moved = (self.right[:, present] - iou[present] * union[:, present]) / total
        return np.asarray(self.miou() + len(self.true) * moved.mean(axis=1))


def _iou(right: NDArray, true: NDArray, guessed: NDArray) -> NDArray[np.float64]:
    union = true + guessed - right
    return np.asarray(np.divide(right, union, out=np.full(np.shape(right), np.nan), where=true > 0))


def _even(count: int) -> NDArray[np.float64]:
    return np.full(count, 1 / count)


def _percentiles(value: float, values: NDArray[np.float64], images: int) -> Interval:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(value, float(low), float(high), images, "bootstrap over images 95%")
