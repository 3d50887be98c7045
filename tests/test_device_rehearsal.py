"""The real code on a pretended CUDA device: the CPU's numbers, no operand elsewhere, no wait that nobody wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import typer
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.training_data import load_training_data
from hjepa_pretrain.distributed.processes import ProcessGroup, check_devices
from hjepa_pretrain.loop import pretrain
from hjepa_pretrain.runs.files import run_transform
from hjepa_pretrain.training.trainer import Trainer
from pretend_device import Pretend, pretended
from small_runs import AVERAGED, EVERY_OBJECTIVE, small_run, trace

from hjepa_eval.cli.console import told_errors
from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.transform import View
from hjepa_eval.encoders import load_encoder
from hjepa_eval.errors import ConfigError
from hjepa_eval.extraction.inference import Inference
from hjepa_eval.finetune.loop import Running, _Run
from hjepa_eval.finetune.recipe import Recipe
from hjepa_eval.machine import devices
from hjepa_eval.machine.devices import resolve_device
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.protocols import linear_protocol
from hjepa_eval.probes.linear.ridge import ridge_regression
from hjepa_eval.probes.linear.sgd_probe import sgd_probe
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.probes.search.bank import ArrayBank
from hjepa_eval.probes.search.search import nearest

# Operations of the device in a part of a step of two levels; a graph of small kernels is bound by the host.
_MOST_LAUNCHES = 2200


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A function that gives this machine a CUDA device for the body of its context."""
    devices.device_problem.cache_clear()
    return lambda: pretended(monkeypatch)


@pytest.fixture(autouse=True)
def _forget_devices() -> Iterator[None]:
    yield
    devices.device_problem.cache_clear()


def settings_of(**changes: Any) -> PretrainSettings:
    train = {"batch_size": 16, "epochs": 3, "precision": "fp32", "compile": "off", **changes.pop("train", {})}
    data = {"max_samples": 64, **changes.pop("data", {})}
    return build_settings(small_run(AVERAGED, changes, data=data, train=train), "test")


def trainer_of(settings: PretrainSettings, device: str, ranks: ProcessGroup | None = None) -> Trainer:
    dataset = load_dataset("digits", "train")
    transform = run_transform(settings, resolve_geometry(settings))
    place = torch.device(device)
    data = load_training_data(settings, dataset, transform, device=place, rank=0, ranks=1)
    return Trainer(settings, data, transform, device=place, ranks=ranks)


def losses_of(settings: PretrainSettings, device: str, seen: Pretend | None = None) -> dict[str, float]:
    trainer = trainer_of(settings, device)
    for step in range(3):
        if seen is not None and step == 1:
            seen.record.clear()
        trainer.train_step(step / 3)
        if seen is not None and step == 1:
            assert seen.record.kinds() == ["H2D-async"], seen.record.events
            assert seen.record.launches <= _MOST_LAUNCHES * settings.train.accumulate
    return trainer.take_losses(last_good="none")


CASES: dict[str, dict[str, Any]] = {
    "every objective": {**EVERY_OBJECTIVE, "train": {**EVERY_OBJECTIVE["train"], "accumulate": 2}},
    "hierarchical masks": {"masking": {"type": "hierarchical"}},
    "random masks": {"masking": {"type": "random"}},
    "loader": {"data": {"placement": "loader"}},
}


@pytest.mark.parametrize("name", CASES)
def test_rehearsal__a_step_has_the_cpus_losses_and_waits_for_nothing(name: str, pretend: Callable[[], Any]) -> None:
    settings = settings_of(**{key: dict(value) for key, value in CASES[name].items()})
    expected = losses_of(settings, "cpu")
    with pretend() as seen:
        measured = losses_of(settings, "cuda", seen)
    assert measured == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_rehearsal__a_run_that_goes_on_has_the_same_bits(tmp_path: Path, pretend: Callable[[], Any]) -> None:
    changes = {"train": {"checkpoint_interval": 2, "log_interval": 2, "device": "cuda"}, "diagnostics": {"bank": 0}}
    settings, dataset = settings_of(**changes), load_dataset("digits", "train")

    def leave(progress: Any) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    with pretend():
        pretrain(settings, dataset, run_dir=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, dataset, run_dir=tmp_path / "left", progress=leave)
        pretrain(settings, dataset, run_dir=tmp_path / "left", resume=True, say=lambda text: None)
    assert trace(tmp_path / "left") == trace(tmp_path / "whole")
    weights = [(tmp_path / run / "encoder.safetensors").read_bytes() for run in ("left", "whole")]
    assert weights[0] == weights[1]


def test_rehearsal__all_that_ranks_send_is_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def refuse_like_nccl(tensor: torch.Tensor, *_: Any, **__: Any) -> Any:
        assert tensor.is_contiguous(), f"{list(tensor.shape)}, strides {tensor.stride()}"
        sent.append(tensor.numel())
        return SimpleNamespace(wait=lambda: None)

    for name in ("broadcast", "all_reduce"):
        monkeypatch.setattr(dist, name, refuse_like_nccl)
    for name, value in {"is_initialized": True, "get_rank": 0, "get_world_size": 2}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    settings = settings_of(**{key: dict(value) for key, value in EVERY_OBJECTIVE.items()})
    trainer = trainer_of(settings, "cpu", ProcessGroup(0, 2))
    messages = len(sent)
    trainer.train_step(0.0)
    trainer.all_finite()
    assert messages <= 8  # Flat buckets, not one for each of some hundred tensors.
    assert len(sent) > messages


def test_rehearsal__features_are_copied_once_and_before_the_next_pass(pretend: Callable[[], Any]) -> None:
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    model = load_encoder("random:vit_tiny_patch4_16?levels=2")

    def features(device: str) -> tuple[Inference, Any]:
        inference = Inference(
            model, ("mean", "max"), device=torch.device(device), precision="fp32", batch_size=8, compiled=False
        )
        return inference, inference.to_host(inference(images))

    inference, copies = features("cpu")
    expected = [level.clone() for levels in copies.wait().values() for level in levels]
    inference.close()
    with pretend() as seen:
        inference, copies = features("cuda")
        seen.record.clear()
        copies = inference.to_host(inference(images.pin_memory()))
        assert seen.record.kinds() == ["H2D-async", "D2H-async"]
        measured = [level for levels in copies.wait().values() for level in levels]
        assert seen.record.kinds()[-1] == "event"
        inference.close()
        assert seen.record.kinds(without=("D2H-sync",))[-1] == "empty cache"
    for one, other in zip(measured, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_rehearsal__a_view_is_drawn_without_a_wait(pretend: Callable[[], Any]) -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = View(1).apply(images, range(4))
    with pretend() as seen:
        moved = images.to("cuda")
        seen.record.clear()
        view = View(1).apply(moved, range(4))
        assert seen.record.kinds() == ["H2D-async"]
        assert torch.equal(view.cpu(), expected)


def test_rehearsal__a_step_of_fine_tuning_waits_for_nothing(pretend: Callable[[], Any]) -> None:
    dataset = load_dataset("digits", "train")
    held_out = np.arange(8)

    def trained(device: str, seen: Pretend | None = None) -> dict[str, float]:
        encoder = load_encoder("random:vit_tiny_patch4_16?levels=2")
        running = Running(torch.device(device), "fp32")
        encoder.to(running.device)
        recipe = Recipe(epochs=1, batch_size=16, mixup=0.2)
        run = _Run(encoder, dataset, recipe, len(encoder.levels) - 1, "mean", held_out, 40, running)

        def look(step: int) -> None:
            if seen is not None and step == 1:
                assert set(seen.record.kinds()) == {"H2D-async"}, seen.record.events
            if seen is not None:
                seen.record.clear()

        return run.train_epoch(0, look)

    expected = trained("cpu")
    with pretend() as seen:
        measured = trained("cuda", seen)
    assert measured == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rehearsal__torchs_search_finds_the_cpus_neighbours(metric: Any, pretend: Callable[[], Any]) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    expected = nearest(rows, k=5, metric=metric, backend="torch")
    with pretend():
        measured = nearest(rows, k=5, metric=metric, backend="torch", device="cuda")
    assert measured.backend == "torch-cuda"
    assert np.array_equal(measured.index, expected.index)


def classes_of(count: int, seed: int) -> Samples:
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)
    return Samples(noise + 2 * np.eye(3, 6, dtype=np.float32)[labels], labels.astype(np.int64))


PROBES: dict[str, Callable[..., Any]] = {
    "ridge": ridge_regression,
    "logistic": partial(logistic_regression, cs=[0.1, 1.0]),
    "sgd": partial(sgd_probe, protocol=linear_protocol("ijepa-linear-cached")),
}


@pytest.mark.parametrize("name", PROBES)
def test_rehearsal__linear_probes_fit_where_they_are_told_to(name: str, pretend: Callable[[], Any]) -> None:
    train, test = classes_of(90, 0), classes_of(60, 1)
    expected = PROBES[name](train, test, num_classes=3)
    with pretend() as seen:
        measured = PROBES[name](train, test, num_classes=3, device="cuda")
        assert seen.record.launches > 20
    assert np.array_equal(measured.predictions, expected.predictions)
    assert measured.weight == pytest.approx(expected.weight, abs=1e-4)


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_streamed__rows_that_are_never_held_give_the_same_fit(name: str) -> None:
    train, test = classes_of(90, 0), classes_of(60, 1)
    streamed = StreamedSamples(ArrayBank(train.features), train.labels)
    held, read = (PROBES[name](samples, test, num_classes=3) for samples in (train, streamed))
    assert np.array_equal(held.weight, read.weight)
    assert held.val_scores == read.val_scores


def test_auto__a_gpu_that_fails_its_first_kernel_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_kernel(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    devices.device_problem.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    assert resolve_device("auto") == torch.device("cpu")
    assert "no kernel image" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no kernel image"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        RuntimeError("Error in virtual void* faiss::gpu::StandardGpuResourcesImpl: cudaMalloc error out of memory"),
    ],
)
def test_memory__what_is_used_up_is_one_sentence_in_every_command(
    error: RuntimeError, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, told_errors():
        raise error
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "GPU's memory is used up; take a smaller --batch-size" in said


def test_ranks__more_of_them_than_gpus_are_refused_before_they_meet() -> None:
    with pytest.raises(ConfigError, match="4 ranks on this machine, which has 2 GPUs"):
        check_devices("cuda", 4, 2)
    with pytest.raises(ConfigError, match=r"train\.device is cuda:1 for all 2 ranks"):
        check_devices("cuda:1", 2, 2)
    check_devices("auto", 2, 2)


def test_tf32__convolutions_use_it_by_choice_only() -> None:
    cudnn: Any = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.conv.fp32_precision)
    with devices.float32_products("fp32"):
        assert not cudnn.allow_tf32
        assert cudnn.conv.fp32_precision != "tf32"
    with devices.float32_products("tf32"):
        assert cudnn.allow_tf32
        assert cudnn.conv.fp32_precision == "tf32"
    assert (cudnn.allow_tf32, cudnn.conv.fp32_precision) == before
    with pytest.raises(ConfigError, match="tf32 needs an NVIDIA GPU"):
        devices.resolve_precision("tf32", "cpu")
