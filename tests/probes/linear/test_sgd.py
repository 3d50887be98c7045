"""Heads trained together against torch's own modules and optimisers, one head at a time, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.optim.lars import Lars

from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.holdout import stratified_holdout
from hjepa_eval.probes.linear.protocols import LinearProtocol, linear_protocol
from hjepa_eval.probes.linear.sgd import Head, Recipe, train_heads
from hjepa_eval.probes.linear.sgd_probe import sgd_probe
from hjepa_eval.probes.samples import Samples

SEED = 5
HEADS = (Head(0.01), Head(0.002, 0.1), Head(0.05, 0.01, batch_norm=True), Head(0.3, batch_norm=True))
SHORT = Recipe("sgd", batch=100, steps=60)
# The decay overshoots 0 and multiplies the weights by about -50 in every step; a learning rate alone only scales them.
DIVERGING = (Head(50.0, 1.0), Head(60.0, 1.0, batch_norm=True))


class PlainLars(torch.optim.Optimizer):
    """LARS as You et al. and MAE describe it, one parameter after the other."""

    def __init__(self, parameters, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad.clone()
                if parameter.ndim > 1:
                    update += group["weight_decay"] * parameter
                    if parameter.norm() > 0 and update.norm() > 0:
                        update *= 0.001 * parameter.norm() / update.norm()
                kept = self.state[parameter].get("kept", torch.zeros_like(update))
                self.state[parameter]["kept"] = 0.9 * kept + update
                parameter -= group["lr"] * self.state[parameter]["kept"]


def minibatches(count: int, batch: int, steps: int) -> list[tuple[int, np.ndarray]]:
    """The order that `train_heads` promises: seeded permutations, the rest of a pass left out."""
    found: list[tuple[int, np.ndarray]] = []
    while len(found) < steps:
        number = len(found) // (count // batch)
        order = np.random.default_rng((SEED, number)).permutation(count)
        found += [(number, order[i * batch : (i + 1) * batch]) for i in range(count // batch)]
    return found[:steps]


def torch_loop(views, labels: np.ndarray, head: Head, recipe: Recipe, make_optimiser) -> torch.nn.Sequential:
    """Train one head by autograd with torch's modules; return it in evaluation mode."""
    dims = views[0].shape[1]
    linear = torch.nn.Linear(dims, 10)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.random.default_rng(SEED).normal(0, 0.01, (10, dims))))
        linear.bias.zero_()
    norm = torch.nn.BatchNorm1d(dims, affine=False, eps=1e-6) if head.batch_norm else torch.nn.Identity()
    model = torch.nn.Sequential(norm, linear).train()
    optimiser = make_optimiser(linear, head)
    for step, (number, rows) in enumerate(minibatches(len(labels), recipe.batch, recipe.steps)):
        for group in optimiser.param_groups:
            group["lr"] = head.lr * recipe.factor(step)
        logits = model(torch.from_numpy(views[number % len(views)][rows]))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows])).backward()
        optimiser.step()
    return model.eval()


def sgd(linear: torch.nn.Linear, head: Head) -> torch.optim.Optimizer:
    return torch.optim.SGD(linear.parameters(), lr=head.lr, momentum=0.9, weight_decay=head.weight_decay)


def plain_lars(linear: torch.nn.Linear, head: Head) -> torch.optim.Optimizer:
    return PlainLars(linear.parameters(), lr=head.lr, weight_decay=head.weight_decay)


def timm_lars(linear: torch.nn.Linear, head: Head) -> torch.optim.Optimizer:
    """timm's, which adapts every parameter it is given: the bias goes to a group of its own, and only at decay 0."""
    groups = [
        {"params": [linear.weight], "always_adapt": True},
        {"params": [linear.bias], "always_adapt": False},
    ]
    return Lars(groups, lr=head.lr, momentum=0.9, weight_decay=0, trust_coeff=0.001)


def same_logits(features: np.ndarray, weights, index: int, model: torch.nn.Sequential) -> bool:
    ours = weights.scores(features, index)
    with torch.no_grad():
        theirs = model(torch.from_numpy(features)).numpy()
    return bool(np.abs(ours - theirs).max() < 1e-3 * max(1.0, np.abs(theirs).max()))


def test_train_heads__sgd_equals_torch_one_head_at_a_time(digits) -> None:
    """Five passes of 12 steps; each leaves out 97 samples."""
    train, test = digits
    ours = train_heads([train.features], train.labels, num_classes=10, heads=HEADS, recipe=SHORT, seed=SEED)
    for i, head in enumerate(HEADS):
        model = torch_loop([train.features], train.labels, head, SHORT, sgd)
        assert same_logits(test.features, ours, i, model)
        if not head.batch_norm:
            assert np.allclose(ours.weight[i], model[1].weight.detach().numpy(), atol=2e-5)
            assert np.allclose(ours.bias[i], model[1].bias.detach().numpy(), atol=2e-5)


def test_train_heads__lars_equals_a_plain_one_and_timms(digits) -> None:
    train, test = digits
    heads = (Head(6.4, batch_norm=True), Head(3.2, 5e-4), Head(0.64, 0.1, batch_norm=True), Head(1.0))
    recipe = Recipe("lars", batch=128, steps=50, warmup=5)
    ours = train_heads([train.features], train.labels, num_classes=10, heads=heads, recipe=recipe, seed=SEED)
    for i, head in enumerate(heads):
        assert same_logits(test.features, ours, i, torch_loop([train.features], train.labels, head, recipe, plain_lars))
        if head.weight_decay == 0:
            model = torch_loop([train.features], train.labels, head, recipe, timm_lars)
            assert same_logits(test.features, ours, i, model)


def test_train_heads__lars_leaves_zero_weights_unscaled() -> None:
    """Features of 0 give a gradient of 0: the weights stay, the bias learns."""
    labels = np.repeat([0, 1], [30, 10]).astype(np.int64)
    ours = train_heads(
        [np.zeros((40, 3), np.float32)],
        labels,
        num_classes=2,
        heads=[Head(0.5)],
        recipe=Recipe("lars", batch=40, steps=300),
        seed=SEED,
    )
    assert np.allclose(ours.weight[0], np.random.default_rng(SEED).normal(0, 0.01, (2, 3)), atol=1e-7)
    assert ours.bias[0, 0] - ours.bias[0, 1] == pytest.approx(math.log(3), abs=0.01)


def test_train_heads__views_are_read_in_turn_by_the_passes(digits) -> None:
    train, test = digits
    views = [train.features, train.features[:, ::-1].copy(), train.features * 0.5]
    ours = train_heads(views, train.labels, num_classes=10, heads=HEADS, recipe=SHORT, seed=SEED)
    for i, head in enumerate(HEADS):
        assert same_logits(test.features, ours, i, torch_loop(views, train.labels, head, SHORT, sgd))
    assert not np.allclose(
        ours.weight, train_heads(views[:1], train.labels, num_classes=10, heads=HEADS, recipe=SHORT, seed=SEED).weight
    )


def test_train_heads__company_does_not_change_a_head(digits) -> None:
    train = digits[0]
    for recipe in (SHORT, replace(SHORT, optimiser="lars")):
        together = train_heads([train.features], train.labels, num_classes=10, heads=HEADS, recipe=recipe)
        for i, head in enumerate(HEADS):
            alone = train_heads([train.features], train.labels, num_classes=10, heads=[head], recipe=recipe)
            assert np.allclose(alone.weight[0], together.weight[i], atol=1e-5)
            assert np.allclose(alone.bias[0], together.bias[i], atol=1e-4)


def test_train_heads__a_diverged_head_leaves_the_others_alone(digits) -> None:
    train = digits[0]
    bad = (DIVERGING[0], HEADS[0], DIVERGING[1], HEADS[2])
    ours = train_heads([train.features], train.labels, num_classes=10, heads=bad, recipe=SHORT)
    assert ours.finite.tolist() == [False, True, False, True]
    good = train_heads([train.features], train.labels, num_classes=10, heads=[HEADS[0], HEADS[2]], recipe=SHORT)
    assert np.allclose(ours.weight[[1, 3]], good.weight, atol=1e-5)


def test_train_heads__a_batch_is_never_larger_than_train(digits) -> None:
    train = digits[0].take(np.arange(50))
    large, exact = (
        train_heads([train.features], train.labels, num_classes=10, heads=HEADS, recipe=replace(SHORT, batch=size))
        for size in (4096, 50)
    )
    assert (large.weight == exact.weight).all()


def test_recipe__schedules_by_hand() -> None:
    cosine = Recipe("sgd", batch=1, steps=8)
    assert [cosine.factor(step) for step in (0, 2, 4, 6)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    warm = Recipe("lars", batch=1, steps=12, warmup=4)
    assert [warm.factor(step) for step in (0, 1, 3, 4, 8)] == pytest.approx([0, 0.25, 0.75, 1, 0.5])
    tenths = Recipe("lars", batch=1, steps=50, decay_every=15)
    assert [tenths.factor(step) for step in (0, 14, 15, 30, 49)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": []}, "heads need a learning rate above 0"),
        ({"heads": [Head(0.0)]}, "heads need a learning rate above 0"),
        ({"heads": [Head(math.nan)]}, "heads need a learning rate above 0"),
        ({"heads": [Head(0.1, -1.0)]}, "weight decay of 0 or more"),
        ({"recipe": Recipe("sgd", batch=1, steps=5)}, "a minibatch of 1 samples is too small"),
        ({"recipe": Recipe("sgd", batch=0, steps=5)}, "a minibatch of 0 samples is too small"),
        ({"recipe": Recipe("sgd", batch=9, steps=0)}, "at least one step"),
        ({"recipe": Recipe("sgd", batch=9, steps=5, warmup=5)}, "fewer of warm-up"),
        ({"num_classes": 9}, "train labels lie outside 0 to 8"),
        ({"views": []}, "views must be features of the same images"),
        ({"views": [np.ones((1297, 3), np.float32), np.ones((1297, 4), np.float32)]}, "views must be features"),
        ({"views": [np.full((1297, 3), np.nan, np.float32)]}, "hold NaN or infinity"),
    ],
)
def test_train_heads__refuses_what_cannot_train(digits, change, message: str) -> None:
    train = digits[0]
    asked = {"views": [train.features], "labels": train.labels, "num_classes": 10, "heads": HEADS, "recipe": SHORT}
    asked.update(change)
    with pytest.raises(ProbeError, match=message):
        train_heads(asked.pop("views"), asked.pop("labels"), **asked)


def protocol(heads=HEADS, recipe: Recipe = SHORT) -> LinearProtocol:
    return LinearProtocol("test", "this test", "sgd", (), heads=tuple(heads), recipe=lambda _: recipe)


def test_sgd_probe__chooses_without_the_test_set(digits) -> None:
    train, test = digits
    ours = sgd_probe(train, test, num_classes=10, protocol=protocol())
    other = Samples(test.features[::-1].copy(), (test.labels + 1) % 10)
    theirs = sgd_probe(train, other, num_classes=10, protocol=protocol())
    assert (ours.chosen, ours.val_scores) == (theirs.chosen, theirs.val_scores)
    assert (ours.val_logits == theirs.val_logits).all()
    assert (ours.weight == theirs.weight).all()
    assert ours.val_score == max(ours.val_scores.values())
    assert ours.score.value > 0.88
    assert ours.top5.value >= ours.score.value
    assert ours.score.num_samples == 500


def test_sgd_probe__compares_on_the_held_out_part_and_trains_again_on_all(digits) -> None:
    train, test = digits
    ours = sgd_probe(train, test, num_classes=10, protocol=protocol(), seed=SEED)
    kept, held = stratified_holdout(train.labels, seed=SEED)
    first = train_heads(
        [train.features[kept]], train.labels[kept], num_classes=10, heads=HEADS, recipe=SHORT, seed=SEED
    )
    right = [(first.scores(train.features[held], i).argmax(axis=1) == train.labels[held]).mean() for i in range(4)]
    assert list(ours.val_scores.values()) == pytest.approx(right)
    best = HEADS[int(np.argmax(right))]
    assert ours.chosen == {"lr": best.lr, "weight_decay": best.weight_decay, "batch_norm": best.batch_norm}
    assert np.array_equal(ours.val_logits, first.scores(train.features[held], int(np.argmax(right))))
    assert (ours.val_labels == train.labels[held]).all()
    again = train_heads([train.features], train.labels, num_classes=10, heads=[best], recipe=SHORT, seed=SEED)
    assert np.array_equal(ours.logits, again.scores(test.features, 0))
    assert (ours.predictions == ours.logits.argmax(axis=1)).all()
    assert np.array_equal(ours.weight, again.weight[0])
    assert np.array_equal(ours.bias, again.bias[0])


def test_sgd_probe__equal_accuracies_go_to_the_smallest_learning_rate(digits) -> None:
    train, test = digits
    constant = [Samples(np.ones_like(s.features), s.labels) for s in (train, test)]
    ours = sgd_probe(*constant, num_classes=10, protocol=protocol([Head(0.02), Head(0.01, 0.1), Head(0.01)]))
    assert ours.chosen == {"lr": 0.01, "weight_decay": 0.0, "batch_norm": False}
    assert "all train features are equal: this level carries no information" in ours.notes


def test_sgd_probe__a_diverged_head_is_noted_and_never_chosen(digits) -> None:
    ours = sgd_probe(*digits, num_classes=10, protocol=protocol([*HEADS, *DIVERGING]))
    assert ours.chosen["lr"] < 1
    assert set(ours.val_scores) == {head.name for head in HEADS}
    assert ours.notes[0] == ("2 of 6 heads diverged and were not candidates: lr=50 wd=1, lr=60 wd=1 bn")
    with pytest.raises(ProbeError, match="all 1 heads diverged"):
        sgd_probe(*digits, num_classes=10, protocol=protocol(DIVERGING[:1]))


def test_sgd_probe__says_when_the_learning_rates_end(digits) -> None:
    ours = sgd_probe(*digits, num_classes=10, protocol=protocol([Head(1e-7), Head(1e-2)]))
    assert ours.notes == ("the chosen learning rate 0.01 is the largest of the protocol; another may do better",)


def test_sgd_probe__a_single_head_still_has_held_out_scores(digits) -> None:
    ours = sgd_probe(*digits, num_classes=10, protocol=protocol(HEADS[:1]))
    assert ours.val_scores == {"lr=0.01 wd=0": ours.val_score}
    assert (ours.val_logits.argmax(axis=1) == ours.val_labels).mean() == pytest.approx(ours.val_score)
    assert ours.notes == ()


def test_sgd_probe__views_train_and_plain_features_compare(digits) -> None:
    """Views of noise teach nothing, though train's own features are what the held-out scores are taken on."""
    train, test = digits
    noise = [np.random.default_rng(i).normal(size=train.features.shape).astype(np.float32) for i in range(2)]
    assert sgd_probe(train, test, num_classes=10, protocol=protocol(), train_views=noise).score.value < 0.4
    plain, same = (
        sgd_probe(train, test, num_classes=10, protocol=protocol(), train_views=views)
        for views in (None, [train.features, train.features])
    )
    assert (plain.logits == same.logits).all()


def test_sgd_probe__refuses_what_does_not_fit(digits) -> None:
    train, test = digits
    with pytest.raises(ProbeError, match="'ridge' has the solver 'ridge', not 'sgd'"):
        sgd_probe(train, test, num_classes=10, protocol=linear_protocol("ridge"))
    with pytest.raises(ProbeError, match=r"views have shapes \[\[5, 64\]\]; expected \[1297, 64\]"):
        sgd_probe(train, test, num_classes=10, protocol=protocol(), train_views=[train.features[:5]])
    with pytest.raises(ProbeError, match="view"):
        sgd_probe(train, test, num_classes=10, protocol=protocol(), train_views=[])
