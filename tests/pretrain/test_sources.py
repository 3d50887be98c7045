from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hjepa_pretrain import sources
from hjepa_pretrain.batches import MOST_HELD_OUT, BatchOrder, split_images
from hjepa_pretrain.config import DataSettings, PretrainSettings
from hjepa_pretrain.sources import DecodedImages, ResidentImages, image_source, read_images
from hjepa_pretrain.training_data import load_training_data

from hjepa_eval.config import build
from hjepa_eval.datasets import load_dataset
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
    resident = ResidentImages(read_images(dataset, SQUARE, torch.arange(400), workers=2), order_of(400))
    decoded = DecodedImages(dataset, SQUARE, order_of(400), workers=2, device=CPU)
    for step in (0, 1, 2, 10, 11, 12, 13, 5):  # over the end of an epoch at 12, and back, as after a resume
        assert torch.equal(decoded.batch(step), resident.batch(step)), step


def test_source__is_resident_when_it_fits_and_decoded_when_not(
    cifar10_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset("cifar10", "train", root=cifar10_sample)

    def made(**data: object) -> sources.ImageSource:
        settings = DataSettings(**data)
        return image_source(dataset, SQUARE, order_of(400), settings=settings, count=400, device=CPU)

    assert isinstance(made(), ResidentImages)
    assert isinstance(made(placement="loader"), DecodedImages)
    monkeypatch.setattr(sources, "fits", lambda *_: False)
    assert isinstance(made(), DecodedImages)
    with pytest.raises(DataError, match=r"400 images of 32 pixels need .* set data.placement to loader"):
        made(placement="device")


def test_fits__asks_the_memory_of_this_machine() -> None:
    assert sources.fits(60_000, 32, CPU)
    assert not sources.fits(10**9, 224, CPU)


def test_decoded__an_unreadable_image_is_named(cifar10_sample: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "cifar10"
    shutil.copytree(cifar10_sample, copy)
    victim = sorted((copy / "train" / "cat").glob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    dataset = load_dataset(f"folder:{copy}", "train")
    with pytest.raises(DataError, match=victim.name):
        read_images(dataset, SQUARE, torch.arange(len(dataset)), workers=2)
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
    data = load_training_data(build(PretrainSettings, values, "test"), dataset, SQUARE, device=CPU)
    trained = Counter(data.order.positions.tolist())
    assert len(trained) == 320
    assert len(data.bank.labels) == 50
    assert len(data.held_out.labels) == 80
    held_out = sorted(set(range(400)) - set(trained))
    assert torch.equal(data.held_out.images, read_images(dataset, SQUARE, torch.tensor(held_out), workers=1))
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
    data = load_training_data(build(PretrainSettings, values, "test"), dataset, small, device=CPU)
    assert data.source.batch(0).shape == (32, 3, 32, 32)
    assert data.bank.images.shape[1:] == (3, 16, 16)
