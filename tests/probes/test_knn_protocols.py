"""Every named kNN protocol runs and says what it is."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.errors import UnknownNameError
from hjepa_eval.probes.knn import DEFAULT_KS, knn
from hjepa_eval.probes.knn_protocols import KNN_PROTOCOLS, knn_protocol


@pytest.mark.parametrize("name", list(KNN_PROTOCOLS))
def test_knn_protocol__runs_on_real_digits(digits, name: str) -> None:
    protocol = knn_protocol(name)
    result = knn(*digits, num_classes=10, **protocol.arguments())
    assert tuple(result.scores) == protocol.ks
    assert min(score.value for score in result.scores.values()) > 0.85
    assert protocol.source
    assert protocol.deviations


def test_knn_protocol__dino_is_the_default(digits) -> None:
    protocol, default = knn(*digits, num_classes=10, **knn_protocol("dino").arguments()), knn(*digits, num_classes=10)
    assert protocol.scores == default.scores
    assert knn_protocol("dino").ks == DEFAULT_KS


def test_knn_protocol__softmax_weights_of_dinov2_rank_alike(digits) -> None:
    """DINOv2 divides by the sum over the largest k; no prediction of any k changes."""
    train, test = digits
    ours = knn(train, test, num_classes=10)
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (train, test)]
    cosine = (unit[1] @ unit[0].T).astype(np.float64)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :200]
    weights = np.exp(np.take_along_axis(cosine, order, axis=1) / 0.07)
    weights /= weights.sum(axis=1, keepdims=True)
    one_hot = np.eye(10)[train.labels[order]]
    for k in (10, 20, 100, 200):
        theirs = (weights[:, :k, None] * one_hot[:, :k]).sum(axis=1).argmax(axis=1)
        assert (ours.predictions[k] == theirs).all()


def test_knn_protocol__a_misspelt_name_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'dino'"):
        knn_protocol("dinov")
