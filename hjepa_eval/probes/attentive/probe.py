"""The attentive probe: heads with many learning rates and weight decays, one chosen on held-out train, test once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import accuracy
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.attentive.heads import HeadKind, HeadShape
from hjepa_eval.probes.attentive.training import ReadTokens, Schedule, predict, train_heads
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.samples import check_labels

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
DECAYS = (0.0, 0.1, 1.0)


@dataclass(frozen=True)
class Recipe:
    """How an attentive probe is trained.

    Attributes:
        kind: of the heads.
        queries: of each.
        rates: learning rates.
        decays: weight decays; a head is trained for every pair.
        schedule: how long.
    """

    kind: HeadKind = "ep"
    queries: int = 32
    rates: tuple[float, ...] = RATES
    decays: tuple[float, ...] = DECAYS
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Every pair of rate and decay."""
        return [(rate, decay) for rate in self.rates for decay in self.decays]


@dataclass(frozen=True)
class TokenSet:
    """Images of one split, as tokens of one level or several.

    Attributes:
        levels: tokens of each level, of the same N images.
        labels: int64 [N].
    """

    levels: tuple[TokenRows, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class AttentiveResult:
    """What the chosen head makes of test.

    Attributes:
        score: top-1 accuracy.
        predictions: int64 [N_test].
        rate: chosen.
        decay: chosen.
        tried: `lr=..., wd=...` -> accuracy on held-out train.
        held_right: bool [M], whether the chosen head was right on each held-out image, before the refit.
        attention: float32 [N_test, L], the share of its attention that falls on each level.
        loss: of the refit, at its end: the mean of the last epoch.
        notes: what a reader must know.
    """

    score: Interval
    predictions: NDArray[np.int64]
    rate: float
    decay: float
    tried: dict[str, float]
    held_right: NDArray[np.bool_]
    attention: NDArray[np.float32]
    loss: float
    notes: tuple[str, ...] = ()


def attentive_probe(
    train: TokenSet, test: TokenSet, *, num_classes: int, recipe: Recipe, seed: int = 0, device: str = "cpu"
) -> AttentiveResult:
    """Train heads on nine tenths of train, choose by the last one, train the chosen one on all, and test it once.

    Tokens of each level are moved to mean 0 and scaled by one factor to variance 1, both of train; they are read batch
    by batch and never held.

    Args:
        train: tokens with labels.
        test: the same of test.
        num_classes: labels lie in [0, C).
        recipe: what heads, and how they are trained.
        seed: of the held-out part, the start of the heads and the order of images.
        device: where the heads are.

    Raises:
        ProbeError: labels or tokens do not allow a probe, or every head diverged.

    Source: Psomas et al., ICLR 2026; the many heads as CAPI's (Darcet et al., 2025).

    Deviation: AdamW instead of LARS; tokens are centred and scaled; no augmentation; no epoch is chosen, and nothing
        on the images that are reported.
    """
    check_labels(train.labels, "train", num_samples=train.levels[0].count, num_classes=num_classes)
    check_labels(test.labels, "test", num_samples=test.levels[0].count, num_classes=num_classes)
    if len(np.unique(train.labels)) < 2:
        raise ProbeError("all train images are of one class; a probe needs at least two classes in train")
    moments = [_moments(rows) for rows in train.levels]
    read, read_test = (_reader(each.levels, moments, device) for each in (train, test))
    shape = HeadShape(recipe.kind, recipe.queries, tuple(rows.width for rows in train.levels), num_classes)
    kept, held = stratified_holdout(train.labels, fraction=0.1, seed=seed)
    rates, decays = zip(*recipe.grid, strict=True)
    common: dict[str, Any] = {"schedule": recipe.schedule, "seed": seed, "device": device}
    stack, _ = train_heads(read, train.labels, shape, images=kept, rates=rates, decays=decays, **common)
    right = predict(stack, read, held)[0] == train.labels[held]
    best = int(right.mean(axis=1).argmax())
    rate, decay = recipe.grid[best]
    everyone = np.arange(len(train.labels))
    final, losses = train_heads(read, train.labels, shape, images=everyone, rates=[rate], decays=[decay], **common)
    guesses, attention = predict(final, read_test, np.arange(len(test.labels)))
    last = recipe.schedule.steps(len(everyone))
    return AttentiveResult(
        score=accuracy(guesses[0], test.labels),
        predictions=guesses[0],
        rate=rate,
        decay=decay,
        tried={
            f"lr={lr:g}, wd={wd:g}": float(share)
            for (lr, wd), share in zip(recipe.grid, right.mean(axis=1), strict=True)
        },
        held_right=right[best],
        attention=attention[0],
        loss=float(losses[-last:, 0].mean()),
        notes=_notes(recipe, best, right.mean(axis=1)),
    )


def _notes(recipe: Recipe, best: int, held: NDArray[np.float64]) -> tuple[str, ...]:
    rate = recipe.grid[best][0]
    edge = len(recipe.rates) > 1 and rate in (min(recipe.rates), max(recipe.rates)) and len(set(held.tolist())) > 1
    side = "smallest" if rate == min(recipe.rates) else "largest"
    return (f"the chosen learning rate {rate:g} is the {side} of those tried; others may do better",) if edge else ()


def _moments(rows: TokenRows) -> tuple[NDArray[np.float32], float]:
    """Return the mean [D] of all tokens, and the root of their mean variance."""
    count, total, square = 0, np.zeros(rows.width), np.zeros(rows.width)
    origin: NDArray[np.float64] | None = None
    for block in rows.images():
        flat = block.reshape(-1, rows.width).astype(np.float64)
        origin = flat.mean(axis=0) if origin is None else origin  # Differences before squares.
        flat -= origin
        count += len(flat)
        total += flat.sum(axis=0)
        square += (flat**2).sum(axis=0)
    assert origin is not None
    variance = (square / count - (total / count) ** 2).mean()
    return (origin + total / count).astype(np.float32), float(np.sqrt(max(variance, 0.0))) or 1.0


def _reader(
    levels: Sequence[TokenRows], moments: Sequence[tuple[NDArray[np.float32], float]], device: str
) -> ReadTokens:
    def read(images: NDArray[np.int64]) -> list[Tensor]:
        return [
            torch.from_numpy((rows.of(images) - mean) / np.float32(scale)).to(device)
            for rows, (mean, scale) in zip(levels, moments, strict=True)
        ]

    return read
