"""Attention rollout: how much of each input token reaches each token after a block, if attention alone carried it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def attention_rollout(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 `[layers, T, T]`: row i of layer l is the mix of input tokens in token i after block l.

    The mean over heads and the identity, which stands for the residual connection, each count one half; the rows are
    normalised, and the layers multiplied from the first on. Rows sum to 1.

    Args:
        attention: `[layers, heads, T, T]`, all blocks from the first on; rows are queries.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", equation 1, with the residual
        connection as in its section 3 (A = 0.5 W + 0.5 I).
    """
    layers, _, tokens, _ = attention.shape
    identity = np.eye(tokens)
    reached = identity
    result = np.empty((layers, tokens, tokens), np.float32)
    for layer in range(layers):
        step = 0.5 * attention[layer].mean(axis=0, dtype=np.float64) + 0.5 * identity
        step /= step.sum(axis=1, keepdims=True)
        reached = step @ reached
        result[layer] = reached
    return result
