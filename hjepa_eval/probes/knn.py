"""kNN classification: one exact search serves every k, and the votes cost next to nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import accuracy
from hjepa_eval.metrics.intervals import Interval, wilson
from hjepa_eval.probes.samples import Samples, check_samples, zero_rows_note
from hjepa_eval.probes.search import Backend, nearest
from hjepa_eval.probes.similarity import Metric
from hjepa_eval.probes.voting import Weighting, count_votes

DEFAULT_KS = (10, 20, 100, 200)


@dataclass(frozen=True)
class KnnResult:
    """Accuracies of kNN for several k.

    Attributes:
        scores: top-1 accuracy for each k that was used.
        top5: top-5 accuracy for each k; with at most five classes voting it only asks whether the class was met.
        predictions: int64 [N_test] for each k.
        ks_clipped: asked k -> used k, for those larger than the bank.
        backend: `faiss` or `torch`; both give the same answer.
        seconds: wall-clock time of search and votes.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    scores: dict[int, Interval]
    top5: dict[int, Interval]
    predictions: dict[int, NDArray[np.int64]]
    ks_clipped: dict[int, int]
    backend: str
    seconds: float
    notes: tuple[str, ...]

    @property
    def best_k(self) -> int:
        """The k with the highest accuracy ON THE GIVEN TEST SET: to be shown, never to be reported as a choice."""
        return max(self.scores, key=lambda k: (self.scores[k].value, -k))


def knn(
    train: Samples,
    test: Samples | None = None,
    *,
    num_classes: int,
    ks: Sequence[int] = DEFAULT_KS,
    temperature: float = 0.07,
    metric: Metric = "cosine",
    weighting: Weighting = "exponential",
    backend: Backend = "auto",
    leave_one_out: bool = False,
    class_names: Sequence[str] | None = None,
) -> KnnResult:
    """Classify `test` by the votes of its nearest neighbours in `train`, for all `ks` from one search.

    Neighbours are ranked by the nearer, then the lower index; classes with equal votes by their nearest neighbour.

    Args:
        train: the bank, features [N, D].
        test: the queries, features [N_test, D]; None with `leave_one_out`.
        num_classes: C; labels lie in [0, C).
        ks: how many neighbours vote; those beyond the bank are clipped to its size, and a note says so.
        temperature: T of the exponential weights exp((cos - 1) / T).
        metric: `cosine` (features are L2-normalised) or `euclidean` (as they are).
        weighting: `exponential`, `inverse` or `majority`; see `vote_weights`.
        backend: `auto`, `faiss` or `torch`.
        leave_one_out: classify every train sample by the others; no test set is touched.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, k or temperature not positive, or a
            test set given together with `leave_one_out`.
        UnknownNameError: an unknown metric, weighting or backend.

    Source: DINO (arXiv:2104.14294) and `eval_knn.py`: k in 10, 20, 100, 200, T = 0.07, cosine. DINOv2 and DINOv3 divide
        the weights by their sum, which changes no prediction.

    Deviation: the papers' code leaves ties to the machine; here they have a rule.
    """
    started = time.perf_counter()
    train, queries, notes = _checked(train, test, num_classes, leave_one_out, class_names)
    if not ks or min(ks) < 1:
        raise ProbeError(f"k must be at least 1, found {list(ks)}")
    if not temperature > 0:
        raise ProbeError(f"the temperature must be above 0, found {temperature}; the usual one is 0.07")
    largest = len(train) - leave_one_out
    used = sorted({min(k, largest) for k in ks})
    clipped = {k: largest for k in ks if k > largest}
    if clipped:
        named = ", ".join(str(k) for k in sorted(clipped))
        notes = (*notes, f"k = {named} clipped to the {largest} neighbours that the train set has")
    if metric == "cosine":
        notes += zero_rows_note(train.features, "train")
        notes += () if leave_one_out else zero_rows_note(queries.features, "test")
    asked = None if leave_one_out else queries.features
    found = nearest(train.features, asked, k=used[-1], metric=metric, backend=backend)
    counted = count_votes(
        found,
        train.labels,
        queries.labels,
        num_classes=num_classes,
        ks=used,
        weighting=weighting,
        temperature=temperature,
    )
    return KnnResult(
        scores={k: accuracy(counted[k][0], queries.labels) for k in used},
        top5={k: wilson(int(counted[k][1].sum()), len(queries)) for k in used},
        predictions={k: counted[k][0] for k in used},
        ks_clipped=clipped,
        backend=found.backend,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _checked(
    train: Samples, test: Samples | None, num_classes: int, leave_one_out: bool, class_names: Sequence[str] | None
) -> tuple[Samples, Samples, tuple[str, ...]]:
    """Return the bank, the queries and the notes about them."""
    if leave_one_out:
        if test is not None and test is not train:
            raise ProbeError("leave-one-out classifies the train samples; give no test set with it")
        train, _, notes = check_samples(train, train, num_classes=num_classes, class_names=class_names)
        return train, train, tuple(dict.fromkeys(note for note in notes if " test " not in note))
    if test is None:
        raise ProbeError("kNN needs a test set; give one, or ask for leave-one-out")
    return check_samples(train, test, num_classes=num_classes, class_names=class_names)
