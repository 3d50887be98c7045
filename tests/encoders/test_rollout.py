from __future__ import annotations

import numpy as np
import pytest

from hjepa_eval.encoders.attention import attention_rollout


def test_rollout__two_tokens_by_hand() -> None:
    first = [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]  # two heads; their mean: [[.5, .5], [1, 0]]
    second = [[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]
    found = attention_rollout(np.array([first, second], np.float32))
    # 0.5 A + 0.5 I: [[.75, .25], [.5, .5]], then [[.5, .5], [0, 1]] times that.
    np.testing.assert_allclose(found[0], [[0.75, 0.25], [0.5, 0.5]], atol=1e-7)
    np.testing.assert_allclose(found[1], [[0.625, 0.375], [0.5, 0.5]], atol=1e-7)


@pytest.mark.rows("E5", "F")
def test_rollout__rows_sum_to_one_and_each_layer_needs_only_those_before() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3, 7, 7)) * 3
    attention = (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).astype(np.float32)
    found = attention_rollout(attention)
    assert found.shape == (5, 7, 7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(attention_rollout(attention[:3]), found[:3])


def test_rollout__who_attends_to_itself_alone_stays_itself() -> None:
    attention = np.broadcast_to(np.eye(4, dtype=np.float32), (3, 2, 4, 4))
    np.testing.assert_array_equal(attention_rollout(attention), np.broadcast_to(np.eye(4), (3, 4, 4)))


def test_rollout__rows_that_do_not_sum_to_one_are_normalised() -> None:
    found = attention_rollout(np.array([[[[1.0, 1.0], [0.0, 0.0]]]], np.float32))
    np.testing.assert_allclose(found[0], [[2 / 3, 1 / 3], [0, 1]], atol=1e-7)
