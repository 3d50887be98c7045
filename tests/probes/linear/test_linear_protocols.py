"""Every named linear protocol runs, says what it is, and has the published numbers."""

from __future__ import annotations

import pytest

from hjepa_eval.errors import UnknownNameError
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.protocols import LINEAR_PROTOCOLS, LinearProtocol, linear_protocol
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.linear.sgd_probe import sgd_probe


def run(protocol: LinearProtocol, digits) -> float:
    if protocol.solver == "ridge":
        return ridge_regression(*digits, num_classes=10).score.value
    if protocol.solver == "sgd":
        return sgd_probe(*digits, num_classes=10, protocol=protocol).score.value
    return logistic_regression(*digits, num_classes=10, cs=protocol.cs, search=protocol.search).score.value


@pytest.mark.parametrize("name", list(LINEAR_PROTOCOLS))
def test_linear_protocol__runs_on_real_digits(digits, name: str) -> None:
    protocol = linear_protocol(name)
    assert run(protocol, digits) > 0.89
    assert protocol.name == name
    assert protocol.source
    assert protocol.deviations
    assert (protocol.solver == "sgd") == bool(protocol.heads) == (protocol.recipe is not None)


def test_linear_protocol__has_the_published_grids() -> None:
    assert linear_protocol("logreg").cs is None
    cs = linear_protocol("dinov2-logreg").cs
    assert (len(cs), cs[0], cs[-1]) == (45, pytest.approx(1e-6), pytest.approx(1e5))
    assert cs[1] / cs[0] == pytest.approx(10**0.25)
    dinov2 = linear_protocol("dinov2-linear-cached")
    assert [head.lr for head in dinov2.heads][:: len(dinov2.heads) - 1] == pytest.approx([5e-6, 0.05])
    assert len(dinov2.heads) == 13
    assert not any(head.weight_decay or head.batch_norm for head in dinov2.heads)
    (mae,) = linear_protocol("mae-linprobe-cached").heads
    assert (mae.lr, mae.weight_decay, mae.batch_norm) == (pytest.approx(6.4), 0.0, True)
    ijepa = linear_protocol("ijepa-linear-cached").heads
    assert {round(head.lr, 9) for head in ijepa} == {0.064, 0.64, 3.2}
    assert len({(head.lr, head.weight_decay, head.batch_norm) for head in ijepa}) == 12


@pytest.mark.parametrize(
    ("num_samples", "batch", "steps"), [(1_281_167, 16_384, 78), (50_000, 641, 78), (4_500, 64, 70), (40, 40, 1)]
)
def test_linear_protocol__an_epoch_of_lars_keeps_its_steps_on_smaller_sets(
    num_samples: int, batch: int, steps: int
) -> None:
    mae = linear_protocol("mae-linprobe-cached").recipe(num_samples)
    assert (mae.optimiser, mae.batch, mae.steps, mae.warmup) == ("lars", batch, 90 * steps, 10 * steps)
    ijepa = linear_protocol("ijepa-linear-cached").recipe(num_samples)
    assert (ijepa.optimiser, ijepa.batch, ijepa.steps) == ("lars", batch, 50 * steps)
    assert ijepa.decay_every == 15 * steps


def test_linear_protocol__dinov2_counts_steps_whatever_the_size() -> None:
    for num_samples in (500, 1_281_167):
        recipe = linear_protocol("dinov2-linear-cached").recipe(num_samples)
        assert (recipe.optimiser, recipe.batch, recipe.steps, recipe.warmup) == ("sgd", 128, 12_500, 0)


def test_linear_protocol__a_misspelt_name_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'clip-logreg'"):
        linear_protocol("clip-logeg")
