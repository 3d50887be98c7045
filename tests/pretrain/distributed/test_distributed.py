"""What ranks share and how they end, without starting any."""

from __future__ import annotations

import weakref

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.data.batches import BatchOrder
from hjepa_pretrain.data.step_inputs import StepInputMaker
from hjepa_pretrain.distributed.endings import _ending
from hjepa_pretrain.distributed.processes import meeting_place, started_ranks
from hjepa_pretrain.models.projector import BatchNormOverRanks
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training import sharding
from small_runs import ON_RANKS

from hjepa_eval.config import merge
from hjepa_eval.errors import ConfigError, DataError, TrainingError

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


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
    settings = build_settings(ON_RANKS, "test")
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
    broken = merge(ON_RANKS, {"train": {"accumulate": 2, "minutes": 1}})
    with pytest.raises(
        ConfigError, match=r"found both.*accumulate 2 times 3 ranks does not divide train.batch_size 32"
    ):
        build_settings(broken, "test")
    sharded = merge(ON_RANKS, {"train": {"parallel": "fsdp", "batch_size": 33}, "masking": {"saliency": 1.0}})
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
