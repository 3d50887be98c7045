"""Timing: each level's operations run alone, and give what the encoder gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from quick_measures import USUAL
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level, load_encoder
from hjepa_eval.errors import EncoderError
from hjepa_eval.extraction import timing as timing_module
from hjepa_eval.extraction.inference import Inference
from hjepa_eval.extraction.timing import encoder_timing, record

CPU = torch.device("cpu")
SPECS = ["random:vit_tiny_patch8_32?taps=1,3", "random:resnet10t", "random:convnext_atto"]


@pytest.fixture(autouse=True)
def usual_passes(own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as the program does; other tests have it do so quickly."""
    for name, number in USUAL.items():
        monkeypatch.setattr(timing_module, name, number)


class Toy(Encoder):
    """Two levels of one token with 4 numbers each, made by `make`."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.settings, self.transform = "toy", {}, Transform(8, 8)
        self.levels = tuple(Level(index, "toy", 4, (1, 1)) for index in range(2))
        self.first, self.second = nn.Linear(192, 4), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [tokens.unsqueeze(1) for tokens in self.make(images)]

    def make(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.first(images.flatten(1))
        return fine, self.second(fine)


class InPlace(Toy):
    def make(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.first(images.flatten(1))
        fine[:, :2].relu_()  # through a view, and without a name
        coarse = self.second(fine)
        coarse.mul_(2.0)
        return fine, coarse


class ThroughNumpy(Toy):
    def make(self, images: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.first(images.flatten(1))
        return fine, torch.from_numpy(fine.float().numpy() * 2)


class Refusing(Toy):
    """An operation behind which no tape can look."""

    def make(self, images: Tensor) -> tuple[Tensor, Tensor]:
        from torch.utils._python_dispatch import _get_current_dispatch_mode

        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("not under a mode")
        return super().make(images)


def operations(module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in module.graph.nodes)


def batch(encoder: Encoder, count: int = 3) -> Tensor:
    return torch.randn(count, 3, encoder.transform.size, encoder.transform.size)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", SPECS)
def test_tape__a_level_run_alone_gives_the_encoders_tokens_with_fewer_operations(spec: str, precision: str) -> None:
    encoder = load_encoder(spec)
    inference = Inference(encoder, (), device=CPU, precision=precision, batch_size=3)
    with torch.inference_mode():
        tape = record(inference.tokens, batch(encoder))
        alone = [tape.alone(output) for output in tape.outputs]
        images = batch(encoder)
        for module, expected in zip(alone, inference.tokens(images), strict=True):
            torch.testing.assert_close(module(images), expected)
    counts = [operations(module) for module in alone]
    assert counts == sorted(set(counts)), "a finer level needs fewer operations than a coarser one"


def test_tape__what_writes_in_place_is_kept_where_it_is_read_and_nowhere_else() -> None:
    encoder = InPlace()
    with torch.inference_mode():
        tape = record(encoder, batch(encoder))
        fine, coarse = (tape.alone(output) for output in tape.outputs)
        images = batch(encoder)
        for module, expected in zip((fine, coarse), encoder(images), strict=True):
            assert torch.equal(module(images), expected)
    names = [str(node.target) for node in fine.graph.nodes]
    assert "aten.relu_.default" in names
    assert "aten.mul_.Tensor" not in names


def test_tape__an_weights_are_shared_and_values_are_not_kept() -> None:
    encoder = Toy()
    with torch.inference_mode():
        tape = record(encoder, batch(encoder))
    alone = tape.alone(tape.outputs[1])
    assert {id(each) for each in alone.parameters()} == {id(each) for each in encoder.parameters()}
    assert list(alone.buffers()) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encoder_timing__every_level_has_a_time(precision: str) -> None:
    timing = encoder_timing(load_encoder(SPECS[0]), device=CPU, precision=precision, batch=4)
    assert timing.levels is not None
    assert len(timing.levels) == 2
    assert min(spent.median for spent in (*timing.levels, timing.together)) > 0
    assert timing.batch == 4
    assert timing.passes >= 5


def test_encoder_timing__one_level_costs_what_all_cost() -> None:
    timing = encoder_timing(load_encoder("pixels:8"), device=CPU, precision="fp32", batch=8)
    assert timing.levels == (timing.together,)


@pytest.mark.parametrize("encoder", [ThroughNumpy(), Refusing()])
def test_encoder_timing__what_cannot_be_taken_apart_is_timed_as_a_whole(encoder: Encoder) -> None:
    timing = encoder_timing(encoder, device=CPU, precision="fp32", batch=8)
    assert timing.levels is None
    assert timing.together.median > 0


def test_encoder_timing__leaves_encoder_and_random_numbers_as_they_were() -> None:
    encoder = Toy().train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    encoder_timing(encoder, device=CPU, precision="bf16", batch=8)
    assert torch.equal(torch.rand(3), expected)
    assert encoder.training
    assert {each.dtype for each in encoder.parameters()} == {torch.float32}


def test_encoder_timing__an_encoder_that_breaks_its_promise_is_refused() -> None:
    encoder = Toy()
    encoder.levels = encoder.levels[:1]
    with pytest.raises(EncoderError, match="declares 1 levels and returned 2"):
        encoder_timing(encoder, device=CPU, precision="fp32", batch=8)


def test_encoder_timing__is_the_median_with_its_spread_and_unlike_passes_are_not_steady(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timing_of(passes: list[float]) -> timing_module.EncoderTiming:
        turns = itertools.cycle(passes)
        monkeypatch.setattr(timing_module, "_seconds", lambda call, device: next(turns))
        return encoder_timing(load_encoder("pixels:8"), device=CPU, precision="fp32", batch=8)

    quiet = timing_of([0.008, 0.0081, 0.0079, 0.008, 0.05])
    assert quiet.steady
    assert quiet.together.median == pytest.approx(1.0, rel=0.02)
    busy = timing_of([0.008, 0.016, 0.03, 0.01, 0.05])
    assert not busy.steady
    # Passes that are quicker than the clock's jitter are never called unsteady.
    assert timing_of([1e-6, 9e-6, 3e-6, 8e-6, 1e-5]).steady


def test_encoder_timing__a_long_measurement_that_is_not_steady_is_not_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def passes(*slow: float) -> int:
        turns = itertools.cycle(slow)
        asked.clear()
        monkeypatch.setattr(timing_module, "_seconds", lambda call, device: asked.append(next(turns)) or asked[-1])
        assert not encoder_timing(load_encoder("pixels:8"), device=CPU, precision="fp32", batch=8).steady
        return len(asked)

    assert passes(1.0, 2.0, 4.0, 1.0, 3.0) * 3 == passes(0.1, 0.2, 0.4, 0.1, 0.3)
