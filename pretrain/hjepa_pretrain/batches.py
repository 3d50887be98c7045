"""Which images are trained on, which are held out, and in what order a run goes through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.errors import DataError

MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Split:
    """Positions of a data set's train images, int64 and sorted: `trained` on, and `held_out` for measurements."""

    trained: Tensor
    held_out: Tensor


def split_images(count: int, share: float) -> Split:
    """Hold out a `share` of `count` images, at most 5,000, drawn once and the same for every seed of a run."""
    held_out = min(MOST_HELD_OUT, int(count * share))
    order = torch.randperm(count, generator=seeded_generator(0, count, "held out"))
    return Split(order[held_out:].sort().values, order[:held_out].sort().values)


class BatchOrder:
    """Which images a step works on: a new permutation every epoch, a function of (seed, step) alone."""

    def __init__(
        self, positions: Tensor, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1, parts: int = 1
    ) -> None:
        """Prepare batches of `batch_size` images at `positions` `[N]`, of which this of all `ranks` takes its part.

        A batch is computed in `parts`, one after another; each is shared by all ranks, so a part has the same images
        for any number of ranks.
        The rest of an epoch that fills no batch is left out of that epoch.

        Raises:
            DataError: there are fewer images than a batch holds.
        """
        if len(positions) < batch_size:
            raise DataError(f"{len(positions)} images do not fill a batch of {batch_size}; lower train.batch_size")
        self.positions, self.batch_size, self.seed = positions, batch_size, seed
        self.rank, self.ranks, self.parts = rank, ranks, parts
        self.steps_per_epoch = len(positions) // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def whole(self, step: int) -> Tensor:
        """Return int64 `[batch_size]`, the images of a `step` over all ranks."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = seeded_generator(self.seed, epoch, "order")
            self._order = self.positions[torch.randperm(len(self.positions), generator=generator)]
            self._epoch = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def indices(self, step: int) -> Tensor:
        """Return int64 `[batch_size / ranks]`, the images of a `step` for this rank, one part after another."""
        return self.whole(step).view(self.parts, self.ranks, -1)[:, self.rank].flatten()
