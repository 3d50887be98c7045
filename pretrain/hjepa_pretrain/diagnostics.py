"""What the levels look like during training: spread, ranks, constant part, and kNN of images held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples
from hjepa_pretrain.readouts import LevelFeatures
from hjepa_pretrain.spectrum import gram_eigenvalues, participation_ratio_of, rankme_of
from hjepa_pretrain.spread import agreement, deviations, mean_energy, token_ratio

NEIGHBOURS = 20
TEMPERATURE = 0.07


def diagnose(
    bank: Sequence[LevelFeatures],
    labels: Tensor,
    *,
    context: Sequence[LevelFeatures] | None = None,
    held_out: Sequence[LevelFeatures] | None = None,
    held_out_labels: Tensor | None = None,
) -> dict[str, Any]:
    """Return JSON values, one list entry per level; NaN where features are not finite, None where there is no value.

    - `images`: N of the bank, the largest rank that can be seen.
    - `std`, `smallest_std`: mean and minimum over dimensions of the deviation over images, before the final norm.
    - `rankme`: of the centred features; `effective_rank`: participation ratio of their covariance.
    - `mean_energy`: share of the mean vector in the energy, which a centred rank cannot see.
    - `token_ratio`: variance of tokens within an image over that of images.
    - `cosine`: between context and target encoder; without `context` the key is missing.
    - `knn`: accuracy of the held-out images with the bank as voters, or of the bank itself, leaving one out.

    Deviation: RankMe of the centred features instead of the features as they are, so that a large constant part does
        not pass for collapse.

    Args:
        bank: the target encoder's levels of N trained images; N >= 4,096 for ranks that do not depend on N.
        labels: int64 `[N]`; with fewer than two classes kNN is None.
        context: the context encoder's levels of the same images.
        held_out: the target encoder's levels of M images that are never trained on.
        held_out_labels: int64 `[M]`.
    """
    if held_out is not None and not len(held_out[0]):
        held_out = None
    columns: dict[str, list[Any]] = {}
    for number, level in enumerate(bank):
        spread = _spread(level)
        if context is not None:
            spread["cosine"] = agreement(context[number].features, level.features)
        queries = None if held_out is None else held_out[number].features
        spread["knn"] = nearest_neighbour_score(level.features, labels, queries, held_out_labels)
        for name, value in spread.items():
            columns.setdefault(name, []).append(None if value is None else round(value, 6))
    return {"images": len(labels), **columns}


def _spread(level: LevelFeatures) -> dict[str, float | None]:
    """Return the measures of one level that need no other features."""
    raw = deviations(level.before_norm)
    values = gram_eigenvalues(level.features, centred=True)
    return {
        "std": float(raw.mean()),
        "smallest_std": float(raw.min()),
        "rankme": rankme_of(values),
        "effective_rank": participation_ratio_of(values),
        "mean_energy": mean_energy(level.features),
        "token_ratio": token_ratio(level.within, level.features),
    }


def nearest_neighbour_score(
    bank: Tensor, labels: Tensor, queries: Tensor | None = None, query_labels: Tensor | None = None
) -> float | None:
    """Return the kNN accuracy of `queries` `[M, D]`, or of the bank `[N, D]` itself, leaving one out.

    20 neighbours by cosine, votes exp(cos / 0.07): the toolkit's own kNN, with its rule for ties. On 2 cores 5,000
    queries with 5,000 voters of width 192 take about half a second.

    Returns:
        None when fewer than two classes vote, NaN when features are not finite.

    Source: DINO's `eval_knn.py`; Wu et al., arXiv:1805.01978.
    """
    if len(labels) < 2 or int(labels.min()) == int(labels.max()):
        return None
    if not all(bool(part.isfinite().all()) for part in (bank, queries) if part is not None):
        return float("nan")
    test = None
    if queries is not None and query_labels is not None:
        test = Samples(queries.float().cpu().numpy(), query_labels.cpu().numpy())
    train = Samples(bank.float().cpu().numpy(), labels.cpu().numpy())
    classes = 1 + max(
        int(part.max()) for part in (labels, query_labels if test is not None else None) if part is not None
    )
    # FAISS would be loaded for this alone, and is no faster at this size.
    result = knn(
        train,
        test,
        num_classes=classes,
        ks=(NEIGHBOURS,),
        temperature=TEMPERATURE,
        backend="torch",
        leave_one_out=test is None,
    )
    return next(iter(result.scores.values())).value
