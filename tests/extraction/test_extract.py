from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import Encoder, load_encoder
from hjepa_eval.errors import CompileError, DataError
from hjepa_eval.extraction import inference
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import manifest as ranges

CPU = torch.device("cpu")
FP32 = Compute(CPU, "fp32", batch_size=16)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SHARD_SIZE", 64)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:vit_tiny_patch8_32?taps=1,2,3")


def run(encoder: Encoder, root: Path, cache: Path, settings: Compute = FP32, **more: object) -> dict:
    dataset = load_dataset("cifar10", "test", root=root)
    return extract(
        encoder, dataset, readouts=more.pop("readouts", ["mean"]), cache_dir=cache, settings=settings, **more
    )


def test_extract__stored_features_are_the_encoders_in_the_datasets_order(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    found = run(encoder, cifar10_sample, tmp_path, readouts=["mean", "cls"])
    dataset = load_dataset("cifar10", "test", root=cifar10_sample)
    images = torch.stack([dataset.image(i) for i in range(len(dataset))])
    with torch.inference_mode():
        outputs = encoder(encoder.transform.normalise(images))
    for level, output in enumerate(outputs):
        np.testing.assert_allclose(found["mean"].store.features(level), output[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["cls"].store.features(level), output[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["mean"].store.labels(), dataset.labels)


def test_extract__second_call_runs_no_forward_pass(encoder: Encoder, cifar10_sample: Path, tmp_path: Path) -> None:
    assert run(encoder, cifar10_sample, tmp_path)["mean"].images == 200

    def refuse(images: torch.Tensor) -> None:
        raise AssertionError("the cache has these features")

    handle = encoder.register_forward_pre_hook(lambda module, inputs: refuse(*inputs))
    try:
        again = run(encoder, cifar10_sample, tmp_path)["mean"]
        shorter = run(encoder, cifar10_sample, tmp_path, Compute(CPU, "fp32", max_samples=70))["mean"]
    finally:
        handle.remove()
    assert (again.images, shorter.images, shorter.limit) == (0, 0, 70)
    np.testing.assert_array_equal(shorter.store.features(0, limit=70), again.store.features(0)[:70])


def test_extract__longer_run_computes_only_what_is_missing(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    run(encoder, cifar10_sample, tmp_path / "a", Compute(CPU, "fp32", batch_size=16, max_samples=128))
    more = run(encoder, cifar10_sample, tmp_path / "a")["mean"]
    whole = run(encoder, cifar10_sample, tmp_path / "b")["mean"]
    assert (more.images, whole.images) == (72, 200)
    for file in sorted(whole.store.folder.iterdir()):
        assert (more.store.folder / file.name).read_bytes() == file.read_bytes()


def test_extract__interrupted_run_goes_on_to_the_same_bytes(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > 130:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(encoder, cifar10_sample, tmp_path / "a", progress=stop)
    resumed = run(encoder, cifar10_sample, tmp_path / "a")["mean"]
    whole = run(encoder, cifar10_sample, tmp_path / "b")["mean"]
    assert resumed.images == 200 - 128
    for file in sorted(whole.store.folder.iterdir()):
        assert (resumed.store.folder / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", ["weights", "precision", "readout", "data", "taps"])
def test_extract__key_holds_everything_that_changes_a_number(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path, change: str
) -> None:
    settings = Compute(CPU, "fp32", max_samples=8)
    before = run(encoder, cifar10_sample, tmp_path, settings)["mean"].store.folder
    root, readout, other = cifar10_sample, "mean", encoder
    if change == "weights":
        other = load_encoder("random:vit_tiny_patch8_32?taps=1,2,3", seed=1)
    elif change == "taps":
        other = load_encoder("random:vit_tiny_patch8_32?taps=1,2,4")
    elif change == "precision":
        settings = Compute(CPU, "bf16", max_samples=8)
    elif change == "readout":
        readout = "max"
    else:
        root = Path(shutil.copytree(cifar10_sample, tmp_path / "copy"))
        image = next((root / "test" / "cat").iterdir())
        image.write_bytes(next((root / "test" / "dog").iterdir()).read_bytes())
    after = run(other, root, tmp_path, settings, readouts=[readout])[readout]
    assert after.images == 8
    assert after.store.folder != before


def test_extract__bad_images_stop_or_are_counted(encoder: Encoder, cifar10_sample: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(cifar10_sample, tmp_path / "copy"))
    victim = sorted((root / "test" / "cat").iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:50])
    with pytest.raises(DataError, match=victim.name):
        run(encoder, root, tmp_path / "cache")
    skip = Compute(CPU, "fp32", batch_size=16, on_bad_image="skip")
    found = run(encoder, root, tmp_path / "cache", skip)["mean"]
    assert len(found.store.labels()) == 199
    assert victim.name in found.store.manifest.skipped[0]
    assert found.images == 200 - 192, "the shards before the bad image stay"
    with pytest.raises(DataError, match="1 images were skipped"):
        run(encoder, root, tmp_path / "cache")


def test_extract__repair_with_fewer_images_keeps_the_longer_store(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    whole = run(encoder, cifar10_sample, tmp_path)["mean"].store
    before = {file.name: file.read_bytes() for file in whole.folder.iterdir()}
    damaged = whole.folder / whole.manifest.shards[2].file
    damaged.write_bytes(before[damaged.name][:-4] + b"0000")
    found = run(encoder, cifar10_sample, tmp_path, Compute("cpu", "fp32", batch_size=16, max_samples=70))
    assert (found["mean"].limit, found["mean"].images) == (70, 64)
    assert {file.name: file.read_bytes() for file in whole.folder.iterdir()} == before


def test_extract__shorter_run_leaves_the_shards_of_an_unfinished_longer_one(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    whole = run(encoder, cifar10_sample, tmp_path / "whole")["mean"].store
    store = run(encoder, cifar10_sample, tmp_path / "a")["mean"].store
    (store.folder / "manifest.json").unlink()  # As while the long run is at work.
    short = run(encoder, cifar10_sample, tmp_path / "a", Compute("cpu", "fp32", batch_size=16, max_samples=40))
    assert short["mean"].store.manifest.num_images == 40
    longer = run(encoder, cifar10_sample, tmp_path / "a")["mean"]
    assert longer.images == 0, "all shards of the long run were still there"
    assert {f.name for f in longer.store.folder.iterdir()} == {f.name for f in whole.folder.iterdir()}


def test_extract__images_skipped_behind_the_prefix_do_not_matter(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(cifar10_sample, tmp_path / "copy"))
    victim = sorted((root / "test" / "cat").iterdir())[-1]
    victim.write_bytes(b"")
    run(encoder, root, tmp_path / "cache", Compute("cpu", "fp32", batch_size=16, on_bad_image="skip"))
    found = run(encoder, root, tmp_path / "cache", Compute("cpu", "fp32", batch_size=16, max_samples=100))
    assert found["mean"].images == 0
    with pytest.raises(DataError, match="1 images were skipped"):
        run(encoder, root, tmp_path / "cache")


def compile_as(monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    """Replace the compiler: it changes nothing, or fails as torch does without one."""

    def fail(images: torch.Tensor) -> None:
        raise InductorError(RuntimeError("no compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda function, **options: function if outcome == "works" else fail)
    monkeypatch.setattr(inference, "can_compile", lambda device: True)


def test_extract__compile_auto_is_for_long_passes_and_goes_on_as_it_began(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_as(monkeypatch, "works")
    auto = Compute("cpu", "fp32", batch_size=16, compile="auto")
    short = run(encoder, cifar10_sample, tmp_path / "a", auto)["mean"].store
    assert "compiled" not in short.manifest.identity
    monkeypatch.setattr(inference, "compiling_pays", lambda **work: work["eager"] > 0)
    long = run(encoder, cifar10_sample, tmp_path / "b", auto)["mean"].store
    assert long.manifest.identity["compiled"] is True
    assert long.manifest.key != short.manifest.key
    monkeypatch.setattr(inference, "compiling_pays", lambda **work: False)
    (long.folder / long.manifest.shards[1].file).unlink()
    again = run(encoder, cifar10_sample, tmp_path / "b", auto)["mean"]
    assert (again.images, again.store.manifest.key) == (64, long.manifest.key)
    complete = run(encoder, cifar10_sample, tmp_path / "b", auto)["mean"]
    assert complete.images == 0


def test_extract__failed_compilation_is_said_once_and_ends_eager(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_as(monkeypatch, "fails")
    monkeypatch.setattr(inference, "compiling_pays", lambda **work: True)
    said: list[str] = []
    auto = Compute("cpu", "fp32", batch_size=16, compile="auto")
    found = run(encoder, cifar10_sample, tmp_path, auto, say=said.append)["mean"]
    assert "compiled" not in found.store.manifest.identity
    assert [line for line in said if "without torch.compile: torch.compile failed" in line] == said
    assert len(said) == 1
    assert len(list((tmp_path / "features").glob("*/*/*"))) == 1, "no empty store is left"
    with pytest.raises(CompileError, match="no compiler"):
        run(encoder, cifar10_sample, tmp_path, Compute("cpu", "fp32", compile="on"))


def test_extract__says_why_a_store_of_before_is_not_used(
    encoder: Encoder, cifar10_sample: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    few = Compute(CPU, "fp32", max_samples=20)
    store = run(encoder, cifar10_sample, tmp_path, few, say=said.append)["mean"].store
    assert said == []
    # As its manifest was when the long side of images was rounded and the key knew no crop.
    described = store.manifest.identity["encoder"]
    old = {name: value for name, value in described["transform"].items() if name in ("size", "resize", "mean", "std")}
    identity = {**store.manifest.identity, "encoder": {**described, "transform": old}}
    before = store.folder.with_name("0123456789abcdef")
    store.folder.rename(before)
    ranges.write_manifest(before, replace(store.manifest, identity=identity))
    run(encoder, cifar10_sample, tmp_path, few, say=said.append)
    assert len(said) == 1
    assert "features of before are not used, since images are now resized as torchvision does" in said[0]
    run(encoder, cifar10_sample, tmp_path, few, say=said.append)
    assert len(said) == 1
