"""Many linear heads trained at once by SGD or LARS: they share their minibatches and their matrix products.

With the inputs of a minibatch X [B, D + 1], a column of ones for the bias included, and heads W [H, C, D + 1]:

    shares P      softmax over C of W X^T                   [H, C, B]
    gradient G    (P - one-hot of the labels) X / B         [H, C, D + 1], of each head's mean cross-entropy

So a step is two products of H C x (D + 1) x B for all heads, and no head sees another: one that diverges fills its own
rows with NaN and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.machine.devices import float32_products, send
from hjepa_eval.probes.samples import check_features, check_labels
from hjepa_eval.probes.side_by_side import one_thread

MOMENTUM = 0.9
TRUST = 1e-3
_NORM_EPS = 1e-6
_NORM_MOMENTUM = 0.1
_INITIAL_STD = 0.01
# Products of fewer multiplications than this do not gain from a second thread (measured on two shared cores).
_SMALL = 1 << 26


@dataclass(frozen=True)
class Head:
    """One linear head.

    Attributes:
        lr: the learning rate at its peak, above 0; not scaled any further.
        weight_decay: L2 penalty added to the gradient.
        batch_norm: whether batch normalisation without scale and shift comes first.
    """

    lr: float
    weight_decay: float = 0.0
    batch_norm: bool = False

    @property
    def name(self) -> str:
        """Return the settings in one line, as in results."""
        return f"lr={self.lr:g} wd={self.weight_decay:g}{' bn' if self.batch_norm else ''}"


@dataclass(frozen=True)
class Recipe:
    """How all heads of a training are trained.

    Attributes:
        optimiser: `sgd` or `lars`, both with momentum 0.9.
        batch: samples of a minibatch; all of train if there are fewer.
        steps: minibatches in all.
        warmup: steps over which the learning rate rises from 0; a cosine to 0 follows, changing with every step.
        decay_every: instead of warm-up and cosine, divide the learning rate by 10 whenever so many steps have passed.
    """

    optimiser: Literal["sgd", "lars"]
    batch: int
    steps: int
    warmup: int = 0
    decay_every: int | None = None

    def factor(self, step: int) -> float:
        """Return what the learning rates are multiplied by at `step`, in [0, 1]."""
        if self.decay_every is not None:
            return float(0.1 ** (step // self.decay_every))
        if step < self.warmup:
            return step / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))


@dataclass(frozen=True)
class HeadWeights:
    """Trained heads, acting on the features as they were given: batch normalisation is folded in.

    Attributes:
        weight: float32 [H, C, D].
        bias: float32 [H, C].
        finite: bool [H], False where training diverged.
        centre: float64 [H, D], what batch normalisation subtracts; else 0.
        offset: float32 [H, C], the bias of features less `centre`.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    finite: NDArray[np.bool_]
    centre: NDArray[np.float64]
    offset: NDArray[np.float32]

    def scores(self, features: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """Return the logits [N, C] of `features` [N, D] by the head at `index`.

        What all features share is subtracted before the product, which would drown their differences.
        """
        centre = self.centre[index]
        shown = (features - centre).astype(np.float32) if centre.any() else features
        logits = torch.from_numpy(shown) @ torch.from_numpy(self.weight[index]).T
        return np.asarray((logits + torch.from_numpy(self.offset[index])).numpy())


def train_heads(
    views: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    heads: Sequence[Head],
    recipe: Recipe,
    seed: int = 0,
    device: str = "cpu",
) -> HeadWeights:
    """Train every head on the same minibatches, from the same small random weights.

    A pass takes the samples in a random order and leaves out the last, partial minibatch; pass e reads
    `views[e % len(views)]`.

    Args:
        views: float32 [N, D] each: features of the same images, once or under several augmentations.
        labels: int64 [N], in [0, C).
        num_classes: C.
        heads: in the order of the result.
        recipe: of all heads.
        seed: of the first weights and of the passes.
        device: where the heads are trained.

    Raises:
        ProbeError: NaN, views of unlike shape, labels outside the range, or a head or recipe that cannot train.

    Source: SGD as `torch.optim.SGD`; LARS as MAE `util/lars.py`; batch normalisation as `torch.nn.BatchNorm1d`.
    """
    rows = [torch.from_numpy(check_features(view, "train")) for view in views]
    if not rows or any(view.shape != rows[0].shape for view in rows):
        raise ProbeError(f"views must be features of the same images, found shapes {[list(v.shape) for v in rows]}")
    place = torch.device(device)
    targets = torch.from_numpy(check_labels(labels, "train", num_samples=len(rows[0]), num_classes=num_classes))
    rows, targets = [view.to(place) for view in rows], targets.to(place)
    batch = min(recipe.batch, len(targets))
    _check_recipe(heads, recipe, batch)
    count, dims = rows[0].shape
    first = np.random.default_rng(seed).normal(0, _INITIAL_STD, (num_classes, dims))
    groups = []
    for norm in sorted({head.batch_norm for head in heads}):
        places = [i for i, head in enumerate(heads) if head.batch_norm == norm]
        chosen_heads = [heads[i] for i in places]
        groups.append(_Group(chosen_heads, places, first, batch, lars=recipe.optimiser == "lars", device=place))
    with one_thread(len(heads) * num_classes * dims * batch < _SMALL), float32_products():
        for step, (number, chosen) in enumerate(_minibatches(count, batch, recipe.steps, seed)):
            chosen = send(chosen, place)
            inputs, own = rows[number % len(rows)].index_select(0, chosen), targets[chosen]
            for group in groups:
                group.step(inputs, own, recipe.factor(step))
    weight, bias = torch.empty(len(heads), num_classes, dims), torch.empty(len(heads), num_classes)
    centre, offset = torch.zeros(len(heads), dims, dtype=torch.float64), torch.empty(len(heads), num_classes)
    for group in groups:
        weight[group.places], bias[group.places] = group.folded()
        offset[group.places] = group.weight[:, :, -1].cpu()
        if group.norm:
            centre[group.places] = group.norm.mean.cpu()
    finite = weight.isfinite().all(dim=2).all(dim=1) & bias.isfinite().all(dim=1)
    return HeadWeights(weight.numpy(), bias.numpy(), finite.numpy(), centre.numpy(), offset.numpy())


def _check_recipe(heads: Sequence[Head], recipe: Recipe, batch: int) -> None:
    """Refuse heads and recipes that cannot train."""
    if not heads or not all(0 < head.lr < math.inf and 0 <= head.weight_decay < math.inf for head in heads):
        raise ProbeError(f"heads need a learning rate above 0 and a weight decay of 0 or more, found {list(heads)}")
    if batch < (2 if any(head.batch_norm for head in heads) else 1):
        raise ProbeError(f"a minibatch of {batch} samples is too small; 1 are needed, with batch normalisation 2")
    if recipe.steps < 1 or not 0 <= recipe.warmup < recipe.steps or (recipe.decay_every or 1) < 1:
        raise ProbeError(f"a recipe needs at least one step and fewer of warm-up, found {recipe}")


def _minibatches(count: int, batch: int, steps: int, seed: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of the pass and the rows int64 [batch] of every step."""
    per_pass = count // batch
    for number in range(-(-steps // per_pass)):
        order = torch.from_numpy(np.random.default_rng((seed, number)).permutation(count))
        for place in range(min(per_pass, steps - number * per_pass)):
            yield number, order[place * batch : (place + 1) * batch]


class _Group:
    """Heads with the same inputs: batch-normalised or not. The last column of weights and inputs is the bias."""

    def __init__(
        self,
        heads: Sequence[Head],
        places: list[int],
        first: NDArray[np.float64],
        batch: int,
        *,
        lars: bool,
        device: torch.device,
    ) -> None:
        self.places = places
        self.lars = lars
        self.lr = torch.tensor([head.lr for head in heads], device=device)[:, None, None]
        self.decay = torch.tensor([head.weight_decay for head in heads], device=device)[:, None, None]
        classes, dims = first.shape
        self.weight = torch.zeros(len(heads), classes, dims + 1, device=device)
        self.weight[:, :, :-1] = torch.from_numpy(first).to(device)
        self.momentum = torch.zeros_like(self.weight)
        self.inputs = torch.ones(batch, dims + 1, device=device)
        self.norm = _BatchNorm(dims, device) if heads[0].batch_norm else None

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, factor: float) -> None:
        """Train on `inputs` [B, D] with `labels` [B], at `factor` times the learning rates."""
        self.inputs[:, :-1] = self.norm.normalise(inputs) if self.norm else inputs
        # Classes before samples in memory: a softmax over the last axis of few numbers is many times slower.
        logits = (self.weight.flatten(0, 1) @ self.inputs.T).view(*self.weight.shape[:2], len(labels))
        error = torch.softmax(logits, dim=1)
        own = labels.expand(len(self.weight), 1, -1)
        error.scatter_add_(1, own, error.new_full((1, 1, 1), -1.0).expand(own.shape))
        gradient = (error.flatten(0, 1) @ self.inputs).view_as(self.weight).div_(len(labels))
        if self.lars:
            _adapt(gradient[:, :, :-1], self.weight[:, :, :-1], self.decay)
        else:
            gradient.addcmul_(self.weight, self.decay)
        self.momentum.mul_(MOMENTUM).add_(gradient)
        self.weight.addcmul_(self.momentum, self.lr, value=-factor)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight float32 [h, C, D] and bias float32 [h, C] that act on the features as given."""
        weight, bias = self.weight[:, :, :-1].double(), self.weight[:, :, -1].double()
        if self.norm:
            weight = weight * (self.norm.variance.double() + _NORM_EPS).rsqrt()
            bias = bias - weight @ self.norm.mean
        return weight.float().cpu(), bias.float().cpu()


def _adapt(gradient: torch.Tensor, weight: torch.Tensor, decay: torch.Tensor) -> None:
    """Add the decay to `gradient` [h, C, D] and scale each head's to a thousandth of its weights' norm, in place.

    Source: MAE `util/lars.py` (You et al., arXiv:1708.03888); the bias is neither decayed nor scaled.
    """
    gradient.addcmul_(weight, decay)
    own, change = (torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True) for each in (weight, gradient))
    gradient.mul_(torch.where((own > 0) & (change > 0), TRUST * own / change, 1.0))


class _BatchNorm:
    """Batch normalisation without scale and shift: the batch's moments in training, running ones [D] at test."""

    def __init__(self, dims: int, device: torch.device) -> None:
        # A large common part would drown what is left of it in float32.
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.variance = torch.ones(dims, device=device)

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` [B, D] normalised by their own moments, which the running ones then take in."""
        mean = inputs.mean(dim=0, dtype=torch.float64)
        centred = (inputs - mean).float()
        variance = centred.square().mean(dim=0)  # torch.var over the first axis takes ten times as long
        self.mean.lerp_(mean, _NORM_MOMENTUM)
        # torch normalises by the biased variance and keeps the unbiased one.
        self.variance.lerp_(variance * (len(inputs) / (len(inputs) - 1)), _NORM_MOMENTUM)
        return centred.mul_((variance + _NORM_EPS).rsqrt())
