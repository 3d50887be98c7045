"""Linear probe by SGD: heads trained together, one chosen on a held-out part of train, the test set touched once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError, first_few
from hjepa_eval.metrics.accuracy import accuracy, topk_accuracy
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.linear.protocols import LinearProtocol
from hjepa_eval.probes.linear.sgd import Head, HeadWeights, train_heads
from hjepa_eval.probes.samples import Samples, check_samples


@dataclass(frozen=True)
class SgdResult:
    """Accuracy of a linear probe trained by SGD or LARS.

    Attributes:
        score: top-1 accuracy on test.
        top5: top-5 accuracy on test.
        chosen: lr, weight_decay and batch_norm of the head that was tested.
        val_scores: name of a head -> accuracy on the held-out part of train; heads that diverged are not in it.
        val_score: of the chosen head.
        val_logits: float32 [N_val, C], of the chosen head trained on the rest of train.
        val_labels: int64 [N_val].
        predictions: int64 [N_test].
        logits: float32 [N_test, C].
        weight: float32 [C, D], acting on the features as given.
        bias: float32 [C].
        seconds: wall-clock time of choice, training and test.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    score: Interval
    top5: Interval
    chosen: dict[str, float | bool]
    val_scores: dict[str, float]
    val_score: float
    val_logits: NDArray[np.float32]
    val_labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    logits: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    seconds: float
    notes: tuple[str, ...]


def sgd_probe(
    train: Samples,
    test: Samples,
    *,
    num_classes: int,
    protocol: LinearProtocol,
    train_views: Sequence[NDArray[np.float32]] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    class_names: Sequence[str] | None = None,
) -> SgdResult:
    """Train the heads of `protocol` on `train` and report the accuracy of one of them on `test`.

    The head is chosen by accuracy on a held-out stratified part of train (of equal accuracies the smallest learning
    rate), then trained again on all of train. The test set is used once, for the reported number. A single head is
    compared with nothing, but its held-out scores are there all the same: levels are chosen by them.

    Args:
        train: features [N, D], used as given.
        test: features [N_test, D].
        num_classes: C; labels lie in [0, C).
        protocol: one whose solver is `sgd`.
        train_views: float32 [N, D] each, the train images under augmentations, read in turn by the passes; default
            `train.features` alone. Held-out scores are always taken on `train.features`.
        val_fraction: share of each class held out for the choice.
        seed: of the held-out part, the first weights and the passes.
        device: where heads are trained.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, classes too small to hold anything
            out, views that do not fit train, another solver's protocol, or heads that all diverged.
    """
    started = time.perf_counter()
    recipe_for = protocol.recipe
    if recipe_for is None:
        raise ProbeError(f"protocol {protocol.name!r} has the solver {protocol.solver!r}, not 'sgd'; call that instead")
    train, test, notes = check_samples(train, test, num_classes=num_classes, class_names=class_names)
    views = [train.features] if train_views is None else train_views
    if any(view.shape != train.features.shape for view in views):
        shapes = [list(view.shape) for view in views]
        raise ProbeError(f"views have shapes {shapes}; expected {list(train.features.shape)}, as the train features")

    def fit(rows: NDArray[np.int64], heads: Sequence[Head]) -> HeadWeights:
        used = views if len(rows) == len(train) else [view[rows] for view in views]
        recipe = recipe_for(len(rows))
        own = train.labels[rows]
        return train_heads(used, own, num_classes=num_classes, heads=heads, recipe=recipe, seed=seed, device=device)

    kept, held = stratified_holdout(train.labels, fraction=val_fraction, seed=seed)
    best, val_scores, val_logits = _compare(fit(kept, protocol.heads), protocol.heads, train.take(held))
    final = fit(np.arange(len(train)), [best])
    if not final.finite[0]:
        raise ProbeError(f"the head {best.name} diverged on all of train; scale the features down, or use 'logreg'")
    logits = final.scores(test.features, 0)
    predictions = logits.argmax(axis=1).astype(np.int64)
    return SgdResult(
        score=accuracy(predictions, test.labels),
        top5=topk_accuracy(logits, test.labels, k=5),
        chosen={"lr": best.lr, "weight_decay": best.weight_decay, "batch_norm": best.batch_norm},
        val_scores=val_scores,
        val_score=val_scores[best.name],
        val_logits=val_logits,
        val_labels=train.labels[held],
        predictions=predictions,
        logits=logits,
        weight=final.weight[0],
        bias=final.bias[0],
        seconds=time.perf_counter() - started,
        notes=(*notes, *_choice_notes(protocol.heads, best, val_scores)),
    )


def _compare(
    fitted: HeadWeights, heads: Sequence[Head], held: Samples
) -> tuple[Head, dict[str, float], NDArray[np.float32]]:
    """Return the best head on `held`, the accuracy there of every head that did not diverge, and the best's logits."""
    scores: dict[int, float] = {}
    for i in range(len(heads)):
        logits = fitted.scores(held.features, i)
        if np.isfinite(logits).all():
            scores[i] = float((logits.argmax(axis=1) == held.labels).mean())
    if not scores:
        raise ProbeError(f"all {len(heads)} heads diverged; scale the features down, or use the protocol 'logreg'")
    best = max(scores, key=lambda i: (scores[i], -heads[i].lr, -heads[i].weight_decay, not heads[i].batch_norm))
    named = {heads[i].name: score for i, score in scores.items()}
    return heads[best], named, fitted.scores(held.features, best)


def _choice_notes(heads: Sequence[Head], best: Head, val_scores: dict[str, float]) -> tuple[str, ...]:
    """Return the notes about heads that diverged, and about a choice at the end of the learning rates."""
    notes = []
    lost = [head.name for head in heads if head.name not in val_scores]
    if lost:
        notes.append(f"{len(lost)} of {len(heads)} heads diverged and were not candidates: {first_few(lost)}")
    rates = sorted({head.lr for head in heads})
    if len(set(val_scores.values())) > 1 and best.lr in (rates[0], rates[-1]):
        side = "smallest" if best.lr == rates[0] else "largest"
        notes.append(f"the chosen learning rate {best.lr:g} is the {side} of the protocol; another may do better")
    return tuple(notes)
