from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.settings import DataSettings
from hjepa_pretrain.data import batches as sources
from hjepa_pretrain.data.batches import (
    MOST_HELD_OUT,
    BatchOrder,
    DecodedImages,
    ResidentImages,
    image_source,
    room,
    split_images,
)
from hjepa_pretrain.data.training_data import load_training_data

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import DataError

CPU = torch.device("cpu")
SQUARE = Transform(size=32, resize=32)


def read_epoch(source: sources.ImageSource) -> None:
    for step in range(12):
        source.batch(step)


def order_of(count: int, batch_size: int = 32, **ranks: int) -> BatchOrder:
    return BatchOrder(torch.arange(count), batch_size, seed=3, **ranks)


def test_split__held_out_images_are_a_part_that_no_seed_changes() -> None:
    split = split_images(1000, 0.1)
    assert len(split.held_out) == 100
    assert sorted([*split.trained.tolist(), *split.held_out.tolist()]) == list(range(1000))
    assert torch.equal(split.held_out, split_images(1000, 0.1).held_out)
    assert split.held_out.max() - split.held_out.min() > 800  # drawn from everywhere, not cut off at one end
    assert len(split_images(200_000, 0.1).held_out) == MOST_HELD_OUT
    assert len(split_images(1000, 0.0).held_out) == 0


def test_order__an_epoch_takes_every_image_once_and_the_next_in_another_order() -> None:
    order = order_of(96)
    first, second = (torch.cat([order.indices(step) for step in range(3 * e, 3 * e + 3)]) for e in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(96))
    assert first.tolist() != second.tolist()


def test_order__ranks_share_a_batch() -> None:
    whole = order_of(96).indices(4)
    parts = [order_of(96, rank=rank, ranks=2).indices(4) for rank in (0, 1)]
    assert torch.cat(parts).tolist() == whole.tolist()


def test_order__too_few_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r"20 images do not fill a batch of 32; lower train\.batch_size"):
        order_of(20)


def test_decoded__gives_the_batches_of_resident_images_from_any_step_on(cifar10_sample: Path) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)
    resident = ResidentImages(stack_images(dataset, SQUARE), order_of(400))
    decoded = DecodedImages(dataset, SQUARE, order_of(400), workers=2, device=CPU)
    for step in (0, 1, 2, 10, 11, 12, 13, 23, 24, 25, 5):  # over the end of an epoch at 12, and back, as after a resume
        assert torch.equal(decoded.batch(step), resident.batch(step)), step


def test_decoded__goes_on_ahead_over_the_end_of_an_epoch_and_not_further(cifar10_sample: Path) -> None:
    class Spied(BatchOrder):
        def indices(self, step: int) -> torch.Tensor:
            asked.append(step)
            return super().indices(step)

    asked: list[int] = []
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)
    decoded = DecodedImages(dataset, SQUARE, Spied(torch.arange(400), 32, seed=3), workers=2, device=CPU)
    decoded.batch(0)
    assert asked == [0, 1, 2]
    for step in range(1, 12):
        decoded.batch(step)
    assert asked == list(range(14))  # An epoch has 12 steps.


def test_source__is_resident_when_it_fits_and_decoded_when_not(
    cifar10_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)

    def made(**data: object) -> sources.ImageSource:
        settings = DataSettings(**data)
        return image_source(dataset, SQUARE, order_of(400), settings=settings, count=400, device=CPU)

    assert isinstance(made(), ResidentImages)
    assert isinstance(made(placement="loader"), DecodedImages)
    monkeypatch.setattr(sources, "available_memory", lambda: 1_500_000)
    assert isinstance(made(), DecodedImages)
    expected = (
        r"400 images of 32 pixels need 0\.00123 GB, but images on cpu may take 0\.00105 GB now \(70% of this machine's "
        r"free memory, shared by its ranks\); set data\.placement to loader, or lower data\.max_samples or data\."
    )
    with pytest.raises(DataError, match=expected + "image_size$"):
        made(placement="device")
    with pytest.raises(DataError, match=expected + "stored_size$"):
        made(placement="device", stored_size=32)
    monkeypatch.setattr(sources, "available_memory", lambda: 2_000_000)
    assert isinstance(made(), ResidentImages)


def test_room__is_shared_by_the_ranks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "available_memory", lambda: 80 * 10**9)
    for name, value in {"RANK": 3, "WORLD_SIZE": 8, "LOCAL_RANK": 3, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert room(CPU, ranks=8) == 14 * 10**9
    assert room(CPU) == 56 * 10**9  # a process that runs alone, whatever started it
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 80 * 10**9))
    assert room(torch.device("cuda"), ranks=8) == 8 * 10**9
    assert room(torch.device("cuda"), ranks=8) < room(CPU, ranks=8)
    monkeypatch.setattr(sources, "available_memory", lambda: 10**9)
    assert room(torch.device("cuda")) == 7 * 10**8  # images pass through the host's memory


def test_decoded__an_unreadable_image_is_named(cifar10_sample: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "cifar10"
    shutil.copytree(cifar10_sample, copy)
    victim = sorted((copy / "train" / "cat").glob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    dataset = load_dataset(f"folder:{copy}", "train")
    with pytest.raises(DataError, match=victim.name):
        stack_images(dataset, SQUARE)
    decoded = DecodedImages(dataset, SQUARE, order_of(len(dataset)), workers=2, device=CPU)
    with pytest.raises(DataError, match=victim.name):
        read_epoch(decoded)


@pytest.mark.parametrize("placement", ["device", "loader"])
def test_training_data__held_out_images_are_never_trained_on(cifar10_sample: Path, placement: str) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)
    values = {
        "model": {"encoder_type": "vit_tiny_patch4_32"},
        "data": {"placement": placement},
        "train": {"epochs": 1, "batch_size": 32},
        "diagnostics": {"bank": 50, "held_out": 0.2},
    }
    data = load_training_data(build_settings(values, "test"), dataset, SQUARE, device=CPU)
    trained = Counter(data.order.positions.tolist())
    assert len(trained) == 320
    assert len(data.bank.labels) == 50
    assert len(data.held_out.labels) == 80
    held_out = sorted(set(range(400)) - set(trained))
    assert torch.equal(data.held_out.images, stack_images(dataset, SQUARE, indices=held_out))
    assert data.held_out.labels.tolist() == dataset.labels[held_out].tolist()
    stepped = {index for step in range(data.order.steps_per_epoch) for index in data.order.indices(step).tolist()}
    assert stepped <= set(trained)


def test_training_data__images_may_be_kept_larger_than_the_network_sees_them(cifar10_sample: Path) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)
    values = {
        "model": {"encoder_type": "vit_tiny_patch4_16"},
        "data": {"stored_size": 32},
        "train": {"epochs": 1, "batch_size": 32},
    }
    small = replace(SQUARE, size=16, resize=16)
    data = load_training_data(build_settings(values, "test"), dataset, small, device=CPU)
    assert data.source.batch(0).shape == (32, 3, 32, 32)
    assert data.bank.images.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("stored", [None, 40])
def test_training_data__the_leader_alone_reads_what_it_measures_with(
    cifar10_sample: Path, monkeypatch: pytest.MonkeyPatch, stored: int | None
) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)
    values = {
        "model": {"encoder_type": "vit_tiny_patch4_32"},
        "data": {"placement": "loader", "stored_size": stored},
        "train": {"epochs": 1, "batch_size": 32},
        "diagnostics": {"bank": 50, "held_out": 0.2},
    }
    settings, decode, decoded = build_settings(values, "test"), dataset.image, []
    monkeypatch.setattr(dataset, "image", lambda index: decoded.append(index) or decode(index))
    other = load_training_data(settings, dataset, SQUARE, device=CPU, rank=1, ranks=2)
    assert decoded == []
    for images in (other.bank, other.held_out):
        assert images.images.shape == (0, 3, 32, 32)
        assert len(images.labels) == 0
    leader = load_training_data(settings, dataset, SQUARE, device=CPU, rank=0, ranks=2)
    assert len(decoded) == len(leader.bank.images) + len(leader.held_out.images) == 130
    assert torch.equal(other.order.whole(3), leader.order.whole(3))
