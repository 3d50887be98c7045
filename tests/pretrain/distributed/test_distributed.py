"""Several ranks: they learn what one process learns, stop together, and a run that lost a rank goes on exactly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from folders import SUPPORT
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.data.batches import BatchOrder
from hjepa_pretrain.data.step_inputs import StepInputMaker
from hjepa_pretrain.distributed.endings import _ending
from hjepa_pretrain.distributed.processes import meeting_place, started_ranks
from hjepa_pretrain.models.projector import BatchNormOverRanks
from hjepa_pretrain.runs.checkpoint import list_checkpoints
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training import sharding
from safetensors.torch import load_file
from small_runs import trace

from hjepa_eval.config import merge
from hjepa_eval.errors import ConfigError, DataError, TrainingError

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
DIGITS: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch2_8",
        "encoder_depth": 2,
        "num_hierarchies": 2,
        "class_token": True,
        "predictor": {"embed_dim": 32, "depth": 1, "num_heads": 2},
        "ema": {"momentum": 0.9, "momentum_end": 0.99},
    },
    "data": {"dataset": "digits", "augmentation": "asym+global", "flip": False, "max_samples": 160},
    "train": {
        "epochs": 3,
        "batch_size": 32,
        "precision": "fp32",
        "compile": "off",
        "log_interval": 3,
        "checkpoint_interval": 4,
        "whole_image": {
            "contrast": 1.0,
            "sigreg": 0.1,
            "variance": 1.0,
            "covariance": 0.1,
            "predict": 1.0,
            "hidden_dim": 32,
            "out_dim": 16,
        },
    },
    "diagnostics": {"bank": 64, "interval": 5, "held_out": 0.1},
}


def start(words: Sequence[object], **environment: object) -> subprocess.Popen[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    settings |= {name: str(value) for name, value in environment.items()}
    command = [sys.executable, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=settings, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], code: int | None = 0, *, patience: float = 120) -> str:
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.terminate()  # A launcher that is told so ends its ranks; one that is killed leaves them.
        process.communicate(timeout=60)
        raise
    finally:
        process.kill()
    assert code is None or process.returncode == code, out + err
    return out + err


def lines_of(said: str) -> list[str]:
    """Return what the program itself said on stderr when it could not go on."""
    return [line for line in said.splitlines() if line.startswith("hjepa: ")]


def steps(
    folder: Path, name: str, *, ranks: int = 2, parts: int = 1, backend: str = "", sections: Any = None, **train: Any
) -> list[dict[str, Any]]:
    """Return tensors and losses of every rank after five steps."""
    launcher = TORCHRUN if ranks == 2 else []
    accumulated = merge(DIGITS, {"train": {"accumulate": 2, **train}, "diagnostics": {"bank": 0}})
    settings = json.dumps(merge(accumulated, sections or {}))
    compiles = bool(backend) or train.get("compile") == "on"
    run = start([*launcher, SUPPORT / "rank_steps.py", settings, folder / name, 5, parts, backend])
    finish(run, patience=600 if compiles else 120)
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole_weights", "sharded"])
def test_checkpoint__holds_whole_tensors_and_the_leader_alone_has_it(kind: str, request: pytest.FixtureRequest) -> None:
    first, second = request.getfixturevalue(kind)
    assert second["saved"] == {}
    parts = {"context.": "context_encoder.vit.", "target.": "target_encoder.vit.", "model.": "", "optimizer.": ""}
    assert len(first["saved"]) == len(first["tensors"])
    for name, tensor in first["saved"].items():
        saved = next(part for part in parts if name.startswith(part))
        assert torch.equal(tensor, first["tensors"][parts[saved] + name.removeprefix(saved)]), name


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_fsdp__blocks_that_are_computed_again_learn_the_same(sharded: list[dict[str, Any]], tmp_path: Path) -> None:
    again = steps(tmp_path, "again", parallel="fsdp", checkpoint_activations=True)
    assert_near(sharded[0], again[0], losses=1e-6, weights=1e-5)


def test_gather__one_whole_tensor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def whole(part: torch.Tensor) -> torch.Tensor:
        assert [each for each in made if each() is not None] == []
        tensor = torch.cat((part, part))
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(sharding, "whole", whole)
    assert sharding.gather({name: torch.ones(2) for name in "abc"}, keep=False) == {}
    assert len(made) == 3


def test_batches__a_part_has_the_same_images_for_any_number_of_ranks() -> None:
    positions = torch.arange(48)
    alone = BatchOrder(positions, 24, seed=0, parts=2).whole(1).view(2, 12)
    shared = [BatchOrder(positions, 24, seed=0, rank=rank, ranks=3, parts=2).indices(1) for rank in range(3)]
    for part in range(2):
        assert torch.equal(torch.cat([indices.view(2, 4)[part] for indices in shared]), alone[part])


def test_step_inputs__ranks_draw_different_views_and_masks_but_the_same_directions() -> None:
    settings = build_settings(DIGITS, "test")
    geometry = resolve_geometry(settings)
    maker = StepInputMaker(settings, geometry, run_transform(settings, geometry))
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    one, two = (maker(images, None, number=10 + rank, progress=0.5, shared=5) for rank in range(2))
    assert torch.equal(one.directions, two.directions)
    assert not torch.equal(one.views.context, two.views.context)
    assert not torch.equal(one.masks.context, two.masks.context)


def test_batch_norm__on_one_rank_it_is_torchs() -> None:
    rows = torch.randn(6, 5)
    ours, theirs = BatchNormOverRanks(5), torch.nn.BatchNorm1d(5)
    assert torch.equal(ours(rows), theirs(rows))
    assert torch.equal(ours.eval()(rows), theirs.eval()(rows))
    for (name, mine), (other, its) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(mine, its)


def test_settings__a_batch_that_ranks_cannot_share_is_one_problem_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    broken = merge(DIGITS, {"train": {"accumulate": 2, "minutes": 1}})
    with pytest.raises(
        ConfigError, match=r"found both.*accumulate 2 times 3 ranks does not divide train.batch_size 32"
    ):
        build_settings(broken, "test")
    sharded = merge(DIGITS, {"train": {"parallel": "fsdp", "batch_size": 33}, "masking": {"saliency": 1.0}})
    with pytest.raises(ConfigError, match=r"masking.saliency needs the target encoder on every rank"):
        build_settings(sharded, "test")


def test_started_ranks__a_slurm_batch_script_is_alone_until_it_calls_srun() -> None:
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert started_ranks(script) == (0, 1, 0)
    step = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
    assert started_ranks(step) == (3, 4, 1)
    assert started_ranks({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == (1, 2, 1)
    assert started_ranks({}) == (0, 1, 0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("gpu[007-010,12],x3", "gpu007"), ("a,b", "a"), ("r[1,3]-ib", "r1-ib"), ("n-2[4]", "n-24")],
)
def test_meeting_place__is_the_first_node_of_a_job(nodes: str, first: str) -> None:
    slurm = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "123456"}
    assert meeting_place(slurm) == {"MASTER_ADDR": first, "MASTER_PORT": "23456"}
    said = {**slurm, "MASTER_ADDR": "here", "MASTER_PORT": "5"}
    assert meeting_place(said) == {"MASTER_ADDR": "here", "MASTER_PORT": "5"}


def test_meeting_place__without_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR and MASTER_PORT are not set"):
        meeting_place({"RANK": "0", "WORLD_SIZE": "2"})


def test_ending__one_rank_speaks() -> None:
    same = TrainingError("step 5: not finite")
    assert _ending(same, {0: str(same), 1: str(same)}, 0, 2) is same
    assert isinstance(_ending(same, {0: str(same), 1: str(same)}, 1, 2), SystemExit)
    assert str(_ending(DataError("torn"), {1: "torn", 0: ""}, 1, 2)) == "rank 1 of 2: torn"
    lost = RuntimeError("Connection closed by peer")
    assert isinstance(_ending(lost, {1: "torn", 0: ""}, 0, 2), SystemExit)
    assert "rank 1 of 3 ended without a word" in str(_ending(lost, {0: "", 2: ""}, 0, 3))
    assert isinstance(_ending(lost, {0: "", 2: ""}, 2, 3), SystemExit)


def test_ending__what_broke_a_connection_is_told() -> None:
    nccl = "NCCL error in: x.cpp:1, unhandled system error\nncclSystemError: one of many\nLast error:\nout of memory\n"
    said = str(_ending(RuntimeError(nccl), {0: "", 1: ""}, 0, 2))
    broke = "a connection broke (NCCL error in: x.cpp:1, unhandled system error out of memory); start again"
    assert said.startswith(broke)
    assert "(RuntimeError); start again" in str(_ending(RuntimeError(), {0: "", 1: ""}, 0, 2))


def program(folder: Path, *words: object, ranks: int = 2, fault: str = "", at: int = 0, on: int = 1) -> Any:
    """Start the program on digits under torchrun, with a fault on one rank."""
    launcher = TORCHRUN if ranks == 2 else []
    fault_at = {"FAULT": fault, "FAULT_RANK": on, "FAULT_STEP": at, "STEPS": folder / "steps"}
    return start([*launcher, SUPPORT / "rank_faults.py", "pretrain", "--quiet", *words], **fault_at)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(DIGITS))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.yaml").write_text(yaml.safe_dump(DIGITS))
    finish(program(folder, "--config", folder / "small.yaml", "--out", folder / "run"))
    return folder / "run"


def assert_same_run(one: Path, other: Path) -> None:
    assert trace(one) == trace(other)
    assert len(trace(one)) >= 5
    for path in ("encoder.safetensors", f"checkpoints/{list_checkpoints(one)[-1].name}/trainer.safetensors"):
        mine, its = load_file(one / path), load_file(other / path)
        assert mine.keys() == its.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, its[name]), name


@pytest.mark.slow
def test_pretrain__a_killed_rank_ends_all_and_resume_gives_the_undisturbed_run(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    finish(program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="killed", at=6), code=1)
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000005"  # The first measurement is the best.
    finish(program(tmp_path, "--resume", tmp_path / "run"))
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_pretrain__ctrl_c_on_one_rank_stops_all_after_a_checkpoint(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    said = finish(program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="interrupted", at=6), None)
    [line] = lines_of(said)
    assert line == f"hjepa: interrupted; the last checkpoint stays; go on with: hjepa pretrain --resume {tmp_path}/run"
    assert list_checkpoints(tmp_path / "run")[-1].name == "step-00000007"
    finish(program(tmp_path, "--resume", tmp_path / "run"))
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_pretrain__goes_on_with_other_numbers_of_ranks_and_other_ways_to_hold_weights(
    undisturbed: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finish(program(tmp_path, "--config", config, "--out", run, fault="killed", at=5), code=1)
    finish(program(tmp_path, "--resume", run, "--set", "train.parallel=fsdp", fault="killed", at=11), code=1)
    lines, expected = trace(run), trace(undisturbed)
    assert [line["step"] for line in lines] == [3, 5, 6, 9, 10]
    for line, against in zip(lines, expected, strict=False):
        assert line["losses"]["loss"] == pytest.approx(against["losses"]["loss"], rel=1e-5)
    assert lines[4]["rankme"] == pytest.approx(expected[4]["rankme"], rel=1e-3), "measured with gathered weights"
    finish(program(tmp_path, "--resume", run, ranks=1))
    assert json.loads((run / "summary.json").read_text())["steps"] == 12


@pytest.mark.slow
def test_pretrain__a_loss_that_is_not_finite_on_one_rank_stops_all_with_one_line(config: Path, tmp_path: Path) -> None:
    said = finish(program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="not finite", at=4), None)
    [line] = lines_of(said)
    assert re.match(r"hjepa: step 5: not finite: loss \(images .*last good checkpoint: step-00000004", line)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_pretrain__an_error_on_one_rank_ends_all_with_one_line_that_names_it(
    config: Path, tmp_path: Path, rank: int
) -> None:
    began = time.monotonic()
    fault = program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="unreadable", at=3, on=rank)
    assert lines_of(finish(fault, 1)) == [f"hjepa: rank {rank} of 2: cannot decode image 17"]
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_pretrain__a_time_boxed_run_ends_on_all_ranks_by_the_leaders_clock(config: Path, tmp_path: Path) -> None:
    config.write_text(yaml.safe_dump(merge(DIGITS, {"train": {"epochs": None, "minutes": 0.05}})))
    finish(program(tmp_path, "--config", config, "--out", tmp_path / "run", fault="other clock"))
    assert (tmp_path / "steps.1.clock").read_text() == "was asked"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["seconds"] >= 3
    assert {(tmp_path / f"steps.{rank}").read_text() for rank in range(2)} == {str(summary["steps"])}


@pytest.mark.slow
def test_pretrain__under_slurm_the_survivor_names_the_killed_rank(config: Path, tmp_path: Path) -> None:
    # What srun sets; the ranks find each other by the node list and the job's number.
    shared = {
        "SLURM_NTASKS": 2,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": os.getpid(),
        "STEPS": tmp_path / "steps",
    }
    words = [SUPPORT / "rank_faults.py", "pretrain", "--quiet", "--config", config, "--out", tmp_path / "run"]
    faults = {"FAULT": "killed", "FAULT_RANK": 1, "FAULT_STEP": 5}
    ranks = [start(words, SLURM_PROCID=rank, SLURM_LOCALID=rank, **shared, **faults) for rank in range(2)]
    said = [finish(process, None) for process in ranks]
    assert [process.returncode for process in ranks] == [2, -9]
    assert (tmp_path / "steps.1").read_text() == "6"
    [line] = lines_of(said[0])
    assert re.fullmatch(
        r"hjepa: rank 1 of 2 ended without a word, as when killed \(.+\); "
        r"start again with --resume to go on from the last checkpoint",
        line,
    )


@pytest.mark.slow
def test_pretrain__under_torchrun_a_batch_that_does_not_divide_is_one_line(config: Path, tmp_path: Path) -> None:
    said = finish(program(tmp_path, "--config", config, "--set", "train.batch_size=33"), 1)
    [line] = lines_of(said)
    assert "train.accumulate 1 times 2 ranks does not divide train.batch_size 33" in line
