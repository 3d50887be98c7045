"""Attentive heads: the same losses as heads trained one after another with torch's own modules."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.attentive.heads import HeadShape, attend, make_heads
from hjepa_eval.probes.attentive.probe import Recipe, TokenSet, attentive_probe
from hjepa_eval.probes.attentive.training import Schedule, train_heads
from hjepa_eval.probes.dense.token_rows import TokenRows
from hjepa_eval.probes.search.bank import ArrayBank

IMAGES, TOKENS, WIDTH, CLASSES = 80, 9, 8, 3


def _data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of which a single one tells the class, so that their mean says little."""
    generator = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % CLASSES
    tokens = generator.normal(size=(IMAGES, TOKENS, WIDTH)).astype(np.float32)
    tokens[np.arange(IMAGES), generator.integers(0, TOKENS, IMAGES), :CLASSES] += 6 * np.eye(CLASSES)[labels]
    return tokens, labels


class _Published(torch.nn.Module):
    """Efficient probing as it is published: values of all tokens, torch's own batch normalisation."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        start = make_heads(shape, 1, seed=0).weights
        self.query = torch.nn.Parameter(start["query0"][0].clone())
        self.value = torch.nn.Parameter(start["value0"][0].clone())
        self.norm = torch.nn.BatchNorm1d(shape.width, affine=False)
        self.weight = torch.nn.Parameter(start["weight"][0].clone())
        self.bias = torch.nn.Parameter(start["bias"][0].clone())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        attention = torch.softmax(tokens @ self.query.T * tokens.shape[-1] ** -0.5, dim=1)
        values = torch.einsum("btd,mdp->btmp", tokens, self.value)
        pooled = (attention[..., None] * values).sum(dim=1).flatten(1)
        result: torch.Tensor = self.norm(pooled) @ self.weight + self.bias
        return result


def test_heads__losses_are_those_of_training_one_after_another() -> None:
    tokens, labels = _data()
    shape, schedule = HeadShape("ep", 4, (WIDTH,), CLASSES), Schedule(epochs=3, batch_size=32, least_steps=1)
    grid = [(1e-3, 0.0), (1e-2, 0.1), (3e-2, 1.0)]
    rates, decays = zip(*grid, strict=True)
    images = np.arange(IMAGES)
    _, losses = train_heads(
        lambda part: [torch.from_numpy(tokens[part])],
        labels,
        shape,
        images=images,
        rates=rates,
        decays=decays,
        schedule=schedule,
    )
    for head, (rate, decay) in enumerate(grid):
        module = _Published(shape)
        groups = [
            {"params": [each for name, each in module.named_parameters() if name != "bias"], "weight_decay": decay},
            {"params": [module.bias], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate)
        generator, total, curve = np.random.default_rng(0), 9, []
        for _ in range(3):
            order = generator.permutation(images)
            for start in range(0, IMAGES, 32):
                batch = np.sort(order[start : start + 32])
                for group in optimiser.param_groups:
                    group["lr"] = rate * schedule.factor(len(curve), total)
                loss = F.cross_entropy(module(torch.from_numpy(tokens[batch])), torch.from_numpy(labels[batch]))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                curve.append(float(loss.detach()))
        np.testing.assert_allclose(losses[:, head], curve, atol=1e-4)


@pytest.mark.parametrize("kind", ["ep", "cross", "block"])
def test_heads__groups_and_stacks_give_the_same_losses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, labels = _data()
    common = {"images": np.arange(IMAGES), "schedule": Schedule(1, 32, 1)}

    def losses(rates: list[float]) -> np.ndarray:
        shape = HeadShape(kind, 2, (WIDTH,), CLASSES)  # type: ignore[arg-type]
        decays = [0.1] * len(rates)
        read = lambda part: [torch.from_numpy(tokens[part])]  # noqa: E731
        return train_heads(read, labels, shape, rates=rates, decays=decays, **common)[1]  # type: ignore[arg-type]

    together = losses([1e-3, 1e-2])
    np.testing.assert_allclose(together, np.concatenate([losses([1e-3]), losses([1e-2])], axis=1), atol=1e-5)
    monkeypatch.setattr("hjepa_eval.probes.attentive.training._TOGETHER", 1)
    np.testing.assert_allclose(together, losses([1e-3, 1e-2]), atol=1e-5)


def test_attend__levels_of_unlike_width_share_one_attention() -> None:
    stack = make_heads(HeadShape("ep", 2, (4, 6), CLASSES), 3, seed=0)
    read, attention = attend(stack, [torch.randn(5, 7, 4), torch.randn(5, 2, 6)])
    assert read.shape == (3, 5, 6)
    assert attention.shape == (5, 6, 9)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(5, 6))


def _set(tokens: np.ndarray, labels: np.ndarray, *, pooled: bool = False) -> TokenSet:
    shown = tokens.mean(axis=1, keepdims=True) if pooled else tokens
    return TokenSet((TokenRows(ArrayBank(shown.reshape(len(shown), -1)), shown.shape[1]),), labels)


def test_attentive_probe__finds_the_token_that_the_mean_hides() -> None:
    (train, labels), (test, truth) = _data(0), _data(1)
    recipe = Recipe(queries=2, rates=(1e-2, 3e-2), decays=(0.0,), schedule=Schedule(15, 16, 1))
    scores = [
        attentive_probe(
            _set(train, labels, pooled=pooled), _set(test, truth, pooled=pooled), num_classes=CLASSES, recipe=recipe
        )
        for pooled in (False, True)
    ]
    assert scores[0].score.value > scores[1].score.value + 0.05
    assert scores[0].attention.shape == (IMAGES, 1)
    assert np.allclose(scores[0].attention, 1, atol=1e-5)
    assert set(scores[0].tried) == {"lr=0.01, wd=0", "lr=0.03, wd=0"}


def test_attentive_probe__noise_is_at_chance_and_one_class_is_refused() -> None:
    generator = np.random.default_rng(5)
    tokens, labels = generator.normal(size=(60, 4, 5)).astype(np.float32), generator.integers(0, 2, 60)
    recipe = Recipe(queries=1, rates=(1e-3,), decays=(0.0,), schedule=Schedule(1, 16, 1))
    result = attentive_probe(_set(tokens, labels), _set(tokens[::-1].copy(), labels), num_classes=2, recipe=recipe)
    assert result.score.low < 0.5 < result.score.high
    with pytest.raises(ProbeError, match="one class"):
        attentive_probe(_set(tokens, labels * 0), _set(tokens, labels), num_classes=2, recipe=recipe)
