"""Features of uint8 batches: precision, empty and short batches, and what must not change a number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InductorError

from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import CompileError
from hjepa_eval.extraction.inference import Inference, compiling_pays

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random:vit_tiny_patch8_32?taps=1,2,3")


@pytest.fixture
def images(cifar10_sample: Path) -> torch.Tensor:
    dataset = load_dataset("cifar10", "test", root=cifar10_sample)
    return torch.stack([dataset.image(i) for i in range(24)])


def infer(encoder: Encoder, **changes: object) -> Inference:
    settings = {"device": CPU, "precision": "fp32", "batch_size": 24, **changes}
    return Inference(encoder, ["mean", "cls"], **settings)


def test_inference__features_are_the_encoders(encoder: Encoder, images: torch.Tensor) -> None:
    found = infer(encoder)(images)
    with torch.inference_mode():
        outputs = encoder(encoder.transform.normalise(images))
    for level, output in enumerate(outputs):
        torch.testing.assert_close(found["mean"][level], output[:, 1:].mean(1))
        torch.testing.assert_close(found["cls"][level], output[:, 0])


def test_inference__bf16_stays_close_to_fp32(encoder: Encoder, images: torch.Tensor) -> None:
    exact = infer(encoder)(images)["mean"]
    rounded = infer(encoder, precision="bf16")(images)["mean"]
    for a, b in zip(exact, rounded, strict=True):
        assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)


def test_inference__a_batch_without_readable_images_has_no_rows(encoder: Encoder) -> None:
    found = infer(encoder)(torch.empty(0, 3, 32, 32, dtype=torch.uint8))
    assert [tuple(level.shape) for level in found["mean"]] == [(0, 192)] * 3


@pytest.mark.slow
def test_inference__compiled_features_are_the_eager_ones_for_short_batches_too(
    encoder: Encoder, images: torch.Tensor
) -> None:
    compiled = infer(encoder, compiled=True)
    for count in (24, 7):
        found, expected = compiled(images[:count]), infer(encoder)(images[:count])
        for name in ("mean", "cls"):
            for a, b in zip(found[name], expected[name], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_inference__compiled_features_that_differ_are_refused(
    encoder: Encoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miscompile(function: object, **options: object) -> object:
        return lambda batch: {name: [-level for level in levels] for name, levels in function(batch).items()}

    monkeypatch.setattr(torch, "compile", miscompile)
    with pytest.raises(CompileError, match="--compile off"):
        infer(encoder, compiled=True)(images)


def test_inference__black_images_and_short_batches_are_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    black = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    settings = {"device": CPU, "precision": "fp32", "batch_size": 8, "compiled": True}
    found = Inference(load_encoder("pixels:8"), ["mean"], **settings)(black)["mean"][0]
    assert torch.equal(found, torch.zeros(3, 192))


def test_inference__failed_compilation_is_one_line(
    encoder: Encoder, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batch: torch.Tensor) -> None:
        raise InductorError(RuntimeError("no g++\nmore"), None)

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    with pytest.raises(CompileError, match=r"no g\+\+") as caught:
        infer(encoder, compiled=True)(images)
    assert "\n" not in str(caught.value)


def test_compiling_pays__only_for_long_passes() -> None:
    # 1 GFLOP an image: a thousand images are seconds, ten million hours.
    here = {"device": CPU, "precision": "fp32"}
    assert not compiling_pays(eager=1e3, compiled=1e3, **here)
    assert compiling_pays(eager=1e7, compiled=1e7, **here)
    # Nine tenths are there already, from the eager encoder; the compiled one would begin again.
    assert not compiling_pays(eager=1e6, compiled=1e7, **here)


def test_inference__channels_last_changes_neither_features_nor_identity() -> None:
    encoder = load_encoder("random:resnet18")
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = encoder(encoder.transform.normalise(images))
    before = encoder.weights_hash()
    found = Inference(encoder, ["mean"], device=CPU, precision="fp32", batch_size=2)(images)["mean"]
    assert encoder.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert encoder.weights_hash() == before
    for level, output in zip(found, outputs, strict=True):
        torch.testing.assert_close(level, output.mean(1), rtol=1e-4, atol=1e-5)
