"""Ranks that share a run hold the same bits, and learn what one process learns from the same draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import SUPPORT
from forked import finish, rank_processes
from small_runs import ON_RANKS

from hjepa_eval.config import merge


def steps(
    folder: Path, name: str, *, ranks: int = 2, parts: int = 1, backend: str = "", sections: Any = None, **train: Any
) -> list[dict[str, Any]]:
    """Return tensors and losses of every rank after five steps."""
    made = merge({**ON_RANKS, "diagnostics": {"bank": 0}}, {"train": {"accumulate": 2, **train}}, sections or {})
    if made["train"].get("predicted_share") == 0:
        del made["model"]["predictor"]  # Nothing reads its sizes.
    settings = json.dumps(made)
    _, codes = finish(*rank_processes([SUPPORT / "rank_steps.py", settings, folder / name, 5, parts, backend], ranks))
    assert codes == [0] * ranks
    return [torch.load(folder / f"{name}.{rank}") for rank in range(ranks)]


def assert_near(one: dict[str, Any], other: dict[str, Any], *, losses: float, weights: float) -> None:
    for line, against in zip(one["losses"], other["losses"], strict=True):
        # R2 is logged as the mean over ranks of each one's own.
        same = {name for name in line if not name.startswith("r2")}
        assert {name: line[name] for name in same} == pytest.approx({name: against[name] for name in same}, rel=losses)
    assert one["tensors"].keys() == other["tensors"].keys()
    apart = {name: (tensor - other["tensors"][name]).abs().flatten() for name, tensor in one["tensors"].items()}
    # Where a gradient is nothing but rounding, such as that of a bias before batch norm, AdamW makes whole steps of it.
    everything = torch.cat(list(apart.values()))
    assert (everything <= weights).float().mean() > 0.999
    assert everything.max() < 10 * weights, max(apart, key=lambda name: apart[name].max())


@pytest.fixture(scope="module")
def whole_weights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return steps(tmp_path_factory.mktemp("ddp"), "ddp")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return steps(tmp_path_factory.mktemp("fsdp"), "fsdp", parallel="fsdp")


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Ranks with BatchNorm in the encoder."""
    model = {"encoder_type": "resnet10t", "mask_mode": "zero", "class_token": False, "encoder_depth": None}
    train = {"predicted_share": 0, "whole_image": {"predict": 0}}
    sections = {"model": model, "data": {"image_size": 32}, "train": train}
    return steps(tmp_path_factory.mktemp("stages"), "stages", sections=sections)


@pytest.mark.parametrize("kind", ["whole_weights", "sharded", "convolutions"])
def test_ranks__have_the_same_bits_in_weights_moments_and_moving_average(
    kind: str, request: pytest.FixtureRequest
) -> None:
    first, second = request.getfixturevalue(kind)
    assert first["losses"] == second["losses"]
    for name, tensor in first["tensors"].items():
        assert torch.equal(tensor, second["tensors"][name]), name
    matrix = "network.layer1.0.conv1.weight" if kind == "convolutions" else "vit.blocks.0.mlp.fc1.weight"
    assert not torch.equal(first["tensors"][f"context_encoder.{matrix}"], first["tensors"][f"target_encoder.{matrix}"])


@pytest.mark.parametrize("kind", ["whole_weights", "sharded"])
def test_checkpoint__holds_whole_tensors_and_the_leader_alone_has_it(kind: str, request: pytest.FixtureRequest) -> None:
    first, second = request.getfixturevalue(kind)
    assert second["saved"] == {}
    parts = {"context.": "context_encoder.vit.", "target.": "target_encoder.vit.", "model.": "", "optimizer.": ""}
    assert len(first["saved"]) == len(first["tensors"])
    for name, tensor in first["saved"].items():
        saved = next(part for part in parts if name.startswith(part))
        assert torch.equal(tensor, first["tensors"][parts[saved] + name.removeprefix(saved)]), name


def test_ranks__two_learn_what_one_process_learns_from_the_same_draws(
    whole_weights: list[dict[str, Any]], tmp_path: Path
) -> None:
    # Everything at once: two accumulated parts, every objective, batch norm. Only the order of sums differs, which
    # AdamW magnifies where a gradient is nearly zero: the learning rate is 1e-3, so 5 steps could part them by 5e-3.
    [alone] = steps(tmp_path, "alone", ranks=1, parts=2)
    assert_near(alone, whole_weights[0], losses=1e-5, weights=1e-4)


@pytest.mark.slow
def test_ranks__a_step_that_exchanges_statistics_is_one_compiled_graph(
    whole_weights: list[dict[str, Any]], tmp_path: Path
) -> None:
    compiled = steps(tmp_path, "compiled", backend="aot_eager")
    assert_near(whole_weights[0], compiled[0], losses=1e-5, weights=2e-4)


def test_fsdp__learns_what_whole_weights_do_and_holds_half_of_them(
    whole_weights: list[dict[str, Any]], sharded: list[dict[str, Any]]
) -> None:
    assert_near(whole_weights[0], sharded[0], losses=1e-5, weights=1e-4)
    everything = whole_weights[0]["held"]
    assert sharded[0]["held"] + sharded[1]["held"] == everything
    assert max(rank["held"] for rank in sharded) < 0.51 * everything


@pytest.mark.slow
def test_fsdp__compiled_blocks_learn_what_eager_ones_do(sharded: list[dict[str, Any]], tmp_path: Path) -> None:
    compiled = steps(tmp_path, "compiled", parallel="fsdp", compile="on")
    assert [rank["graphs"] > 0 for rank in (*sharded, *compiled)] == [False, False, True, True]
    assert_near(sharded[0], compiled[0], losses=1e-5, weights=2e-4)
    assert max(rank["held"] for rank in compiled) == max(rank["held"] for rank in sharded)


def test_fsdp__blocks_that_are_computed_again_learn_the_same(sharded: list[dict[str, Any]], tmp_path: Path) -> None:
    again = steps(tmp_path, "again", parallel="fsdp", checkpoint_activations=True)
    assert_near(sharded[0], again[0], losses=1e-6, weights=1e-5)
