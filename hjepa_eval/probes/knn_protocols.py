"""Named ways to run kNN, as published, each with what it cannot reproduce from a cache of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypedDict

from hjepa_eval.errors import look_up
from hjepa_eval.probes.search.bank import Metric
from hjepa_eval.probes.voting import Weighting


class KnnArguments(TypedDict):
    """The arguments of `knn` that a protocol fixes."""

    ks: tuple[int, ...]
    temperature: float
    metric: Metric
    weighting: Weighting


@dataclass(frozen=True)
class KnnProtocol:
    """One published way to run kNN.

    Attributes:
        name: as on the command line.
        source: whose it is, and where it is written.
        ks: how many neighbours vote.
        temperature: of the exponential weights; unused by the others.
        metric: `cosine` or `euclidean`.
        weighting: how neighbours are weighted.
        deviations: what differs from the source.
    """

    name: str
    source: str
    ks: tuple[int, ...]
    temperature: float
    metric: Metric
    weighting: Weighting
    deviations: tuple[str, ...]

    def arguments(self) -> KnnArguments:
        """Return what to pass to `knn`."""
        return {"ks": self.ks, "temperature": self.temperature, "metric": self.metric, "weighting": self.weighting}


_TIES = "ties are broken by the nearer neighbour, then the lower index; the source leaves them to the machine"
_TOP5 = "of the five best classes those without a vote do not count; the source fills up with them in class order"
_IMAGES = "the images' resize and crop are the feature store's, not the source's"

_ALL = (
    KnnProtocol(
        "dino",
        "DINO eval_knn.py (arXiv:2104.14294); DINOv2 and DINOv3 rank alike: their softmax divides each query's votes",
        (10, 20, 100, 200),
        0.07,
        "cosine",
        "exponential",
        (_TIES, _TOP5, _IMAGES),
    ),
    KnnProtocol(
        "lightly",
        "lightly utils/benchmarking/knn.py: k = 200, T = 0.1 (its ResNets; 0.07 for ViTs is `dino`)",
        (200,),
        0.1,
        "cosine",
        "exponential",
        (_TIES, _TOP5, _IMAGES, "no maximum over epochs is taken"),
    ),
    KnnProtocol(
        "solo",
        "solo-learn utils/knn.py, offline: k = 20, T = 0.07, cosine",
        (20,),
        0.07,
        "cosine",
        "exponential",
        (_TIES, _TOP5, _IMAGES, "every train sample is in the bank; the source's loader drops the last, partial batch"),
    ),
    KnnProtocol("majority", "plain majority vote, cosine", (1, 5, 20), 1.0, "cosine", "majority", (_TIES,)),
)
KNN_PROTOCOLS: Mapping[str, KnnProtocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})


def knn_protocol(name: str) -> KnnProtocol:
    """Return the protocol called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    return look_up("kNN protocol", name, KNN_PROTOCOLS)
