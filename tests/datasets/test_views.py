from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hjepa_pretrain.data import views as pretraining

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.randomness import uniform_rows
from hjepa_eval.datasets.transform import DRAWS, Crops, View, crop_and_flip
from hjepa_eval.encoders import load_encoder
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import manifest as ranges

CPU = torch.device("cpu")
QUARTER = Crops(scale=(0.25, 0.25), ratio=(1.0, 1.0))


def columns(size: int = 8) -> torch.Tensor:
    """One image whose pixels are the number of their column."""
    return torch.arange(float(size)).expand(1, 1, size, size)


def test_uniform_rows__are_splitmix64_read_row_by_row() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    found = uniform_rows(0, np.array([0, 1]), columns=2)
    np.testing.assert_array_equal(found.ravel(), [(number >> 40) / 2**24 for number in published])


def test_crop__the_draws_say_where() -> None:
    left = crop_and_flip(columns(), QUARTER, draws=torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.9]]).T)
    # Columns 0 to 3 stretched to 8 pixels: pixel p looks at (p + 0.5) / 2 - 0.5; what lies outside is the border's.
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25])
    torch.testing.assert_close(left[0, 0, 0], expected)
    mirrored = crop_and_flip(columns(), QUARTER, draws=torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.1]]).T)
    torch.testing.assert_close(mirrored[0, 0, 0], expected.flip(0))


def test_crop__pretraining_draws_the_numbers_it_always_drew() -> None:
    images = torch.rand(6, 3, 8, 8)
    settings = pretraining.Augmentation()
    theirs = pretraining.crop_and_flip(images, settings, generator=torch.Generator().manual_seed(3))
    draws = torch.rand(5, 6, generator=torch.Generator().manual_seed(3))
    crops = Crops(settings.crop_scale, settings.crop_ratio, settings.flip)
    assert DRAWS == 5
    assert torch.equal(theirs, crop_and_flip(images, crops, draws=draws))


def test_view__depends_on_seed_number_and_index_alone() -> None:
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    whole = View(1).apply(images, range(12))
    parts = [View(1).apply(images[at : at + 5], range(at, min(at + 5, 12))) for at in (0, 5, 10)]
    assert torch.equal(torch.cat(parts), whole)
    backwards = View(1).apply(images.flip(0), range(11, -1, -1))
    assert torch.equal(backwards.flip(0), whole)
    assert whole.dtype == torch.uint8
    for other in (View(2), View(1, seed=1), View(1, crops=QUARTER)):
        assert not torch.equal(other.apply(images, range(12)), whole)
        assert other.identity() != View(1).identity()


def test_extract__plain_stores_keep_their_key_and_views_have_their_own(tmp_path: Path) -> None:
    settings = Compute(CPU, "fp32", max_samples=20)
    encoder, dataset = load_encoder("pixels:8"), load_dataset("digits", "train")
    keys = []
    for view in (None, View(1), View(2), View(1, seed=1)):
        found = extract(encoder, dataset, readouts=["mean"], cache_dir=tmp_path, settings=settings, view=view)["mean"]
        assert found.images == 20
        assert found.store.manifest.identity.get("view") == (view.identity() if view else None)
        keys.append(found.store.manifest.key)
    # Pinned: stores of other sessions are found by it. It moved once, when the crop became part of the transform.
    assert keys[0] == "b93bb469fc24af993a5f79bfae7da30dc142f2cf4c43a5e5aa47b28a17a0d73b"
    assert len(set(keys)) == 4


def test_extract__views_do_not_depend_on_batches_shards_resumption_or_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, dataset = load_encoder("pixels:8"), load_dataset("digits", "train")

    def features(cache: str, *, batch: int, shard: int, count: int = 150, stop: int | None = None) -> np.ndarray:
        def progress(done: int, total: int) -> None:
            if stop is not None and done >= stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(ranges, "SHARD_SIZE", shard)
        settings = Compute(CPU, "fp32", batch_size=batch, max_samples=count)
        found = extract(
            encoder,
            dataset,
            readouts=["mean"],
            cache_dir=tmp_path / cache,
            settings=settings,
            view=View(3),
            progress=progress,
        )
        return found["mean"].store.features(0)

    whole = features("a", batch=150, shard=150)
    with pytest.raises(KeyboardInterrupt):
        features("b", batch=7, shard=64, stop=100)
    np.testing.assert_array_equal(features("b", batch=7, shard=64), whole)
    np.testing.assert_array_equal(features("c", batch=64, shard=64, count=90), whole[:90])
    plain = np.stack([dataset.image(index).numpy().ravel() / 255 for index in range(150)])
    assert np.abs(whole - plain).mean() > 0.05
