"""kNN classification: one exact search serves every k, and the votes cost next to nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import ProbeError
from hjepa_eval.metrics.accuracy import accuracy
from hjepa_eval.metrics.intervals import Interval, wilson
from hjepa_eval.probes.samples import Samples, StreamedSamples, check_samples, check_train
from hjepa_eval.probes.search.approximate import IndexKind
from hjepa_eval.probes.search.bank import Metric, as_bank
from hjepa_eval.probes.search.engines import Backend
from hjepa_eval.probes.search.search import nearest_in_pieces
from hjepa_eval.probes.voting import Weighting, count_votes

DEFAULT_KS = (10, 20, 100, 200)


@dataclass(frozen=True)
class KnnResult:
    """Accuracies of kNN for several k.

    Attributes:
        scores: top-1 accuracy for each k that was used.
        top5: top-5 accuracy for each k; with at most five classes voting it only asks whether the class was met.
        predictions: int64 [N_test] for each k.
        more: top-1 accuracy for each further temperature and k.
        ks_clipped: asked k -> used k, for those larger than the bank.
        backend: `faiss` or `torch`, with `-cuda` behind it if on GPUs; all give the same answer.
        seconds: wall-clock time of search and votes.
        notes: what a reader of the numbers must know; empty when all is well.
    """

    scores: dict[int, Interval]
    top5: dict[int, Interval]
    predictions: dict[int, NDArray[np.int64]]
    more: dict[float, dict[int, Interval]]
    ks_clipped: dict[int, int]
    backend: str
    seconds: float
    notes: tuple[str, ...]

    @property
    def best_k(self) -> int:
        """The k with the highest accuracy ON THE GIVEN TEST SET: to be shown, never to be reported as a choice."""
        return max(self.scores, key=lambda k: (self.scores[k].value, -k))


def knn(
    train: Samples | StreamedSamples,
    test: Samples | None = None,
    *,
    num_classes: int,
    ks: Sequence[int] = DEFAULT_KS,
    temperature: float = 0.07,
    more_temperatures: Sequence[float] = (),
    metric: Metric = "cosine",
    weighting: Weighting = "exponential",
    backend: Backend = "auto",
    index: IndexKind = "flat",
    device: str = "cpu",
    leave_one_out: bool | NDArray[np.int64] = False,
    class_names: Sequence[str] | None = None,
) -> KnnResult:
    """Classify `test` by the votes of its nearest neighbours in `train`, for all `ks` from one search.

    Neighbours are ranked by the nearer, then the lower index; classes with equal votes by their nearest neighbour.

    Args:
        train: the bank, features [N, D]; streamed if it is larger than memory.
        test: the queries, features [N_test, D]; None with `leave_one_out`.
        num_classes: C; labels lie in [0, C).
        ks: how many neighbours vote; those beyond the bank are clipped to its size, and a note says so.
        temperature: T of the exponential weights exp((cos - 1) / T).
        more_temperatures: further T, from the same search; `more` has their scores.
        metric: `cosine` (features are L2-normalised) or `euclidean` (as they are).
        weighting: `exponential`, `inverse` or `majority`; see `vote_weights`.
        backend: `auto`, `faiss` or `torch`.
        index: `flat` is exact; `ivf`, `hnsw` and `ivfpq` are approximate, and a note gives their recall.
        device: `cpu`, `cuda` (all GPUs that are visible) or `cuda:0`; the answer is the same.
        leave_one_out: classify every train sample by the others, or those at these indices [M]; no test set is touched.
        class_names: names for messages.

    Raises:
        ProbeError: NaN, labels outside the range, unlike widths, a single class, k or temperature not positive, a
            test set given together with `leave_one_out`, or a backend, index or device that cannot be used.
        UnknownNameError: an unknown metric, weighting, backend or index.
        StoreError: streamed features cannot be read any more.

    Source: DINO (arXiv:2104.14294) and `eval_knn.py`: k in 10, 20, 100, 200, T = 0.07, cosine. DINOv2 and DINOv3 divide
        the weights by their sum, which changes no prediction.

    Deviation: the papers' code leaves ties to the machine; here they have a rule.
    """
    started = time.perf_counter()
    if not ks or min(ks) < 1:
        raise ProbeError(f"k must be at least 1, found {list(ks)}")
    if not all(one > 0 for one in (temperature, *more_temperatures)):
        found_t = [temperature, *more_temperatures]
        raise ProbeError(f"every temperature must be above 0, found {found_t}; the usual one is 0.07")
    checks = _Checks(num_classes=num_classes, class_names=class_names, cosine=metric == "cosine")
    alone = leave_one_out if isinstance(leave_one_out, bool) else True
    train, queries, labels, notes = _checked(train, test, alone, checks)
    own = None
    if not isinstance(leave_one_out, bool):
        own = leave_one_out
        queries, labels = as_bank(train.features).rows(own), labels[own]
    largest = len(train) - alone
    used = sorted({min(k, largest) for k in ks})
    clipped = {k: largest for k in ks if k > largest}
    if clipped:
        named = ", ".join(str(k) for k in sorted(clipped))
        notes = (*notes, f"k = {named} clipped to the {largest} neighbours that the train set has")
    pieces = nearest_in_pieces(
        train.features, queries, k=used[-1], metric=metric, backend=backend, index=index, device=device, own=own
    )
    counted = []
    more: dict[float, dict[int, int]] = {one: dict.fromkeys(used, 0) for one in more_temperatures}
    start = 0
    for found in pieces:
        truth = labels[start : start + len(found.index)]
        votes = count_votes(
            found, train.labels, truth, num_classes=num_classes, ks=used, weighting=weighting, temperature=temperature
        )
        counted.append(votes)
        for one, right in more.items():
            again = count_votes(found, train.labels, truth, num_classes=num_classes, ks=used, temperature=one)
            for k in used:
                right[k] += int((again[k][0] == truth).sum())
        start += len(truth)
    predictions = {k: np.concatenate([votes[k][0] for votes in counted]) for k in used}
    return KnnResult(
        scores={k: accuracy(predictions[k], labels) for k in used},
        top5={k: wilson(sum(int(votes[k][1].sum()) for votes in counted), len(labels)) for k in used},
        predictions=predictions,
        more={one: {k: wilson(right[k], len(labels)) for k in used} for one, right in more.items()},
        ks_clipped=clipped,
        backend=found.backend,
        seconds=time.perf_counter() - started,
        notes=notes + found.notes,
    )


class _Checks(TypedDict):
    num_classes: int
    class_names: Sequence[str] | None
    cosine: bool


def _checked(
    train: Samples | StreamedSamples, test: Samples | None, leave_one_out: bool, checks: _Checks
) -> tuple[Samples | StreamedSamples, NDArray[np.float32] | None, NDArray[np.int64], tuple[str, ...]]:
    """Return the bank, the queries (None for leave-one-out), their labels, and the notes about them."""
    if leave_one_out:
        if test is not None and test is not train:
            raise ProbeError("leave-one-out classifies the train samples; give no test set with it")
        train, notes = check_train(train, **checks)
        return train, None, train.labels, notes
    if test is None:
        raise ProbeError("kNN needs a test set; give one, or ask for leave-one-out")
    train, test, notes = check_samples(train, test, **checks)
    return train, test.features, test.labels, notes
