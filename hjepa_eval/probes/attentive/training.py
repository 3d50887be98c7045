"""Training of many heads at once: the same batches for all, a learning rate and a weight decay of its own for each.

No head's gradient depends on another head, so the losses are those of training one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.attentive.heads import HeadShape, HeadStack, attend, classify, make_heads

# Numbers in the attention of the heads that are computed together: 128 MiB.
_TOGETHER = 1 << 25
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
ReadTokens = Callable[[NDArray[np.int64]], list[Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How long and with what heads are trained.

    Attributes:
        epochs: passes over the train images.
        batch_size: images in a step; the rest of an epoch is a batch too, unless it is a single image.
        least_steps: epochs are added until there are so many steps.
        warmup: share of the steps in which the rate rises; then it falls by half a cosine to 0.
    """

    epochs: int = 20
    batch_size: int = 256
    least_steps: int = 400
    warmup: float = 0.1

    def passes(self, images: int) -> int:
        """Return how many epochs so many images are trained for."""
        return max(self.epochs, -(-self.least_steps // self.steps(images)))

    def steps(self, images: int) -> int:
        """Return the steps of an epoch."""
        whole, rest = divmod(images, min(self.batch_size, images))
        return whole + (rest > 1)

    def factor(self, step: int, total: int) -> float:
        """Return the rate at a step as a share of the highest."""
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


@dataclass
class _AdamW:
    """AdamW of H heads, each with a rate and a decay of its own; biases have no decay."""

    rates: Tensor
    decays: Tensor
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    step: int = 0

    def update(self, weights: dict[str, Tensor], gradients: dict[str, Tensor], factor: float) -> None:
        """Move the weights [H, ...] by one step."""
        self.step += 1
        low, high = (1 - beta**self.step for beta in _BETAS)
        for name, weight in weights.items():
            gradient = gradients[name]
            shape = (-1, *(1,) * (weight.ndim - 1))
            rate = (self.rates * factor).reshape(shape)
            if name != "bias":
                weight.mul_(1 - rate * self.decays.reshape(shape))
            self.first[name].lerp_(gradient, 1 - _BETAS[0])
            self.second[name].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            scale = (self.second[name] / high).sqrt_().add_(_EPSILON)
            weight.sub_(rate * (self.first[name] / low) / scale)


def train_heads(
    read: ReadTokens,
    labels: NDArray[np.int64],
    shape: HeadShape,
    *,
    images: NDArray[np.int64],
    rates: Sequence[float],
    decays: Sequence[float],
    schedule: Schedule,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[HeadStack, NDArray[np.float32]]:
    """Train heads on some images; return them and their losses at each step, float32 [steps, H].

    Args:
        read: returns the tokens of each level, [B, T, D], for image numbers [B].
        labels: int64 [N], of all images.
        shape: of each head.
        images: those to train on, int64.
        rates: highest learning rate of each of H heads.
        decays: weight decay of each.
        schedule: how long.
        seed: of the start and the order of images.
        device: where the heads are.

    Raises:
        ProbeError: a loss is not finite in every head.
    """
    stack = make_heads(shape, len(rates), seed=seed, device=device)
    generator = np.random.default_rng(seed)
    first, second = ({name: torch.zeros_like(each) for name, each in stack.weights.items()} for _ in range(2))
    high, decay = (torch.tensor(list(values), dtype=torch.float32, device=device) for values in (rates, decays))
    optimiser = _AdamW(high, decay, first, second)
    size, passes = min(schedule.batch_size, len(images)), schedule.passes(len(images))
    total = passes * schedule.steps(len(images))
    losses = []
    for _ in range(passes):
        order = generator.permutation(images)
        for start in range(0, len(order), size):
            batch = np.sort(order[start : start + size])
            if len(batch) < 2 <= len(images):
                continue  # A single image has no variance to normalise by.
            target = torch.from_numpy(labels[batch]).to(device)
            loss, gradients = _gradients(stack, read(batch), target)
            optimiser.update(stack.weights, gradients, schedule.factor(optimiser.step, total))
            losses.append(loss)
    curve = torch.stack(losses).cpu().numpy()
    if not np.isfinite(curve[-1]).any():
        raise ProbeError("every head diverged; give smaller learning rates with --lr")
    return stack, curve


def _gradients(stack: HeadStack, tokens: Sequence[Tensor], target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of each head [H] and its gradient; as many heads at once as memory allows."""
    count = sum(x.shape[0] * x.shape[1] for x in tokens) * stack.shape.queries
    group = max(1, min(stack.count, _TOGETHER // max(1, count)))
    losses, parts = [], []
    for start in range(0, stack.count, group):
        heads = slice(start, start + group)
        weights = {name: each[heads].detach().requires_grad_() for name, each in stack.weights.items()}
        # Views: what batch normalisation counts is counted in the stack's own.
        part = HeadStack(stack.shape, weights, {name: each[heads] for name, each in stack.running.items()})
        logits = classify(part, attend(part, tokens)[0], training=True)
        number = logits.shape[0]
        loss = F.cross_entropy(logits.flatten(0, 1), target.repeat(number), reduction="none").reshape(number, -1)
        mean = loss.mean(dim=1)
        parts.append(torch.autograd.grad(mean.sum(), list(weights.values())))
        losses.append(mean.detach())
    gradients = [torch.cat(each) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True)]
    return torch.cat(losses), dict(zip(stack.weights, gradients, strict=True))


@torch.no_grad()
def predict(
    stack: HeadStack, read: ReadTokens, images: NDArray[np.int64], *, batch_size: int = 256
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the class that each head gives each image, int64 [H, B], and how the heads' attention falls on levels.

    The latter is the share of each level's tokens, float32 [H, B, L], the mean over queries.
    """
    guesses, shares = [], []
    for start in range(0, len(images), batch_size):
        tokens = read(images[start : start + batch_size])
        count = max(x.shape[0] * x.shape[1] for x in tokens) * stack.shape.queries
        group = max(1, min(stack.count, _TOGETHER // max(1, count)))
        found = [_predict(_slice(stack, slice(first, first + group)), tokens) for first in range(0, stack.count, group)]
        guesses.append(torch.cat([guess for guess, _ in found]))
        shares.append(torch.cat([share for _, share in found]))
    return torch.cat(guesses, dim=1).cpu().numpy(), torch.cat(shares, dim=1).cpu().numpy()


def _slice(stack: HeadStack, heads: slice) -> HeadStack:
    weights = {name: each[heads] for name, each in stack.weights.items()}
    return HeadStack(stack.shape, weights, {name: each[heads] for name, each in stack.running.items()})


def _predict(stack: HeadStack, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    read, attention = attend(stack, tokens)
    levels = torch.split(attention, [x.shape[1] for x in tokens], dim=2)
    share = torch.stack([each.sum(dim=2) for each in levels], dim=2)
    share = share.reshape(len(share), stack.count, stack.shape.queries, -1).mean(dim=2).transpose(0, 1)
    return classify(stack, read, training=False).argmax(dim=2), share
