from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hjepa_eval.errors import ConfigError
from hjepa_eval.finetune.recipe import Recipe


def test_rate__rises_in_a_tenth_of_the_epochs_and_ends_at_zero() -> None:
    recipe = Recipe(epochs=10, batch_size=128, lr=1e-3)
    rates = [recipe.rate(step, steps_per_epoch=4) for step in range(40)]
    assert recipe.peak == 5e-4
    assert rates[:5] == pytest.approx([1.25e-4, 2.5e-4, 3.75e-4, 5e-4, 5e-4])
    assert rates[22] == pytest.approx(5e-4 / 2)
    assert rates[39] == pytest.approx(2.5e-4 * (1 + math.cos(math.pi * 35 / 36)))
    assert recipe.rate(40, steps_per_epoch=4) == pytest.approx(0)


def test_mixup__is_off_by_default_and_its_targets_are_as_mixed_as_its_images() -> None:
    labels = torch.arange(8)
    targets = F.one_hot(labels, 8).float()
    images = labels.float().view(8, 1, 1, 1).expand(8, 3, 2, 2)
    plain = Recipe().mix(images, targets, step=0)
    assert plain[0] is images
    assert plain[1] is targets
    shares = []
    for step in range(5):
        mixed, soft = Recipe(mixup=1.0).mix(images, targets, step=step)
        torch.testing.assert_close(soft.sum(1), torch.ones(8))
        torch.testing.assert_close(mixed[:, 0, 0, 0], soft @ labels.float(), msg="pixels are mixed as the targets are")
        shares.append(float(soft[0, 0]))
        torch.testing.assert_close(mixed, Recipe(mixup=1.0).mix(images, targets, step=step)[0])
    assert len(set(shares)) == 5


def test_loss__label_smoothing_by_hand() -> None:
    logits, targets = torch.log(torch.tensor([[0.7, 0.2, 0.1]])), torch.tensor([[1.0, 0.0, 0.0]])
    expected = -(0.9 * math.log(0.7) + 0.1 / 3 * (math.log(0.7) + math.log(0.2) + math.log(0.1)))
    assert Recipe().loss(logits, targets).item() == pytest.approx(expected)
    assert Recipe(label_smoothing=0.0).loss(logits, targets).item() == pytest.approx(-math.log(0.7))


def test_order__is_a_new_permutation_every_epoch() -> None:
    orders = [Recipe().order(20, epoch).tolist() for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(20))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 2, "warmup_epochs": 2}, "warm-up of 2 epochs"),
        ({"crop_scale": (0.5, 0.2)}, "must rise"),
        ({"crop_scale": (0.0, 1.0)}, "must rise"),
    ],
)
def test_recipe__refuses_what_cannot_train(wrong: dict, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Recipe(**wrong)
