from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.cli.pretrain import is_early
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.loop import Progress, pretrain
from hjepa_pretrain.runs.checkpoint import list_checkpoints
from hjepa_pretrain.runs.files import Summary
from safetensors.torch import load_file
from small_runs import DIGITS, trace

from hjepa_eval.config import merge
from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders.kinds.run import load_run, weights_folder
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import CheckpointError, ConfigError, DataError, TrainingError


def settings(*, diagnostics: dict[str, Any] | None = None, **train: Any) -> PretrainSettings:
    return build_settings(merge(DIGITS, {"train": train, "diagnostics": diagnostics or {}}), "test")


def run(folder: Path, *, resume: bool = False, stop_at: int | None = None, said: list[str] | None = None) -> Summary:
    def watch(state: Progress) -> None:
        if state.step == stop_at:
            raise KeyboardInterrupt

    say = (said if said is not None else []).append
    return pretrain(settings(), load_dataset("digits", "train"), run_dir=folder, resume=resume, progress=watch, say=say)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "encoder.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert trace(one) == trace(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


def test_pretrain__leaves_what_evaluation_reads(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 16
    assert summary["dataset"]["name"] == "digits"
    assert summary["dataset"]["num_images"] == 160
    terms = {"loss", "level_0", "level_1", "r2_0", "r2_1", "contrast", "sigreg"}
    terms |= {"gradient_encoder", "gradient_predictor", "gradient_norm"}
    assert set(summary["losses"]) == terms
    assert summary["best"]["step"] in (8, 16)
    assert summary["best"]["knn"] == max(summary["best"]["per_level"])
    config = json.loads((whole / "config.json").read_text())
    assert config["encoder"]["vit"] == "vit_tiny_patch2_8"
    assert config["encoder"]["taps"] == [1, 2]
    assert "drop_path_rate" not in config["encoder"]["arguments"]
    encoder = load_run(whole, {})
    assert [level.grid for level in encoder.levels] == [(4, 4), (2, 2)]
    best = {f"step-{summary['best']['step']:08d}"}
    assert {path.name for path in list_checkpoints(whole)} == {"step-00000012", "step-00000016"} | best


def test_pretrain__the_encoder_before_the_first_step_is_rebuilt_by_its_arguments(tmp_path: Path) -> None:
    from hjepa_pretrain.models import create_hjepa_from_config

    run(tmp_path / "run", stop_at=None)
    encoder = json.loads((tmp_path / "run" / "config.json").read_text())["encoder"]
    rebuilt = create_vit(encoder["vit"], **encoder["arguments"])
    for name, tensor in create_hjepa_from_config(settings()).context_encoder.vit.state_dict().items():
        assert torch.equal(tensor, rebuilt.state_dict()[name]), name
    trained = weights(tmp_path / "run")
    assert not torch.equal(trained["context.blocks.0.mlp.fc1.weight"], rebuilt.blocks[0].mlp.fc1.weight)
    assert not torch.equal(trained["target.blocks.0.mlp.fc1.weight"], trained["context.blocks.0.mlp.fc1.weight"])


def test_pretrain__same_seed_same_run(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert_same_run(whole, tmp_path / "again")


@pytest.mark.parametrize("stop_at", [1, 7, 12])
def test_resume__after_ctrl_c_is_bit_identical(whole: Path, tmp_path: Path, stop_at: int) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=stop_at)
    assert list_checkpoints(folder)[-1].name == f"step-{stop_at:08d}"
    assert not (folder / "summary.json").exists()
    run(folder, resume=True)
    assert_same_run(whole, folder)


def test_resume__after_an_exception_between_checkpoints_is_bit_identical(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def crash(state: Progress) -> None:
        if state.step == 11:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        pretrain(settings(), load_dataset("digits", "train"), run_dir=folder, progress=crash)
    assert list_checkpoints(folder)[-1].name == "step-00000008"
    run(folder, resume=True)
    assert_same_run(whole, folder)


def test_resume__keeps_the_best_measurement_and_its_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was best before the interruption is best after it, and its weights are what evaluation reads."""
    import hjepa_pretrain.tasks

    real = hjepa_pretrain.tasks.measure_levels

    def falling(trainer: Any, **options: Any) -> dict[str, Any]:
        return {**real(trainer, **options), "knn": [0.9 - 0.01 * trainer.step, 0.1]}

    monkeypatch.setattr(hjepa_pretrain.tasks, "measure_levels", falling)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=13)
    summary = run(folder, resume=True)
    assert summary.best["step"] == 8
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000008", "step-00000013", "step-00000016"]
    kept = load_file(folder / "checkpoints" / "step-00000008" / "encoder.safetensors")
    for name, tensor in weights(folder).items():
        assert torch.equal(tensor, kept[name]), name
    assert any(not torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())


def test_pretrain__ends_with_its_last_weights_and_says_so_when_the_best_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hjepa_pretrain.tasks

    real = hjepa_pretrain.tasks.measure_levels

    def falling(trainer: Any, **options: Any) -> dict[str, Any]:
        if trainer.step == 16:
            shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000008")
        return {**real(trainer, **options), "knn": [0.9 - 0.01 * trainer.step, 0.1]}

    monkeypatch.setattr(hjepa_pretrain.tasks, "measure_levels", falling)
    said: list[str] = []
    summary = run(tmp_path / "run", said=said)
    assert summary.best is None
    assert "ends with the weights of its last step, 16" in said[-1]
    last = load_file(tmp_path / "run" / "checkpoints" / "step-00000016" / "encoder.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights(tmp_path / "run").items())


@pytest.mark.rows("F")
def test_pretrain__patience_ends_a_run_early_and_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hjepa_pretrain.tasks

    real = hjepa_pretrain.tasks.measure_levels
    monkeypatch.setattr(
        hjepa_pretrain.tasks,
        "measure_levels",
        lambda trainer, **options: {**real(trainer, **options), "knn": [0.9 - 0.01 * trainer.step, 0.1]},
    )
    said: list[str] = []
    early = settings(diagnostics={"patience": 1, "interval": 2})
    digits = load_dataset("digits", "train")
    summary = pretrain(early, digits, run_dir=tmp_path / "run", say=said.append)
    assert (summary.steps, summary.best["step"]) == (4, 2)
    assert "stopped early: no better kNN" in said[-1]
    assert is_early(summary, early)
    steps = round(summary.steps * early.train.epochs / summary.epochs)
    assert not is_early(replace(summary, steps=steps, epochs=early.train.epochs), early)
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_resume__a_damaged_newest_checkpoint_falls_back_and_says_so(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=9)
    newest = list_checkpoints(folder)[-1]
    with (newest / "encoder.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged!")
    said: list[str] = []
    run(folder, resume=True, said=said)
    assert len(said) == 2
    assert newest.name in said[0]
    assert "not what was written" in said[0]
    assert said[1] == "going on after step 8 of 16"
    assert_same_run(whole, folder)


def test_weights__of_a_damaged_newest_checkpoint_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=9)
    older, newest = list_checkpoints(folder)[-2:]
    assert weights_folder(folder) == newest
    with (newest / "encoder.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged!")
    with pytest.raises(CheckpointError, match=rf"{newest} is damaged; name an older checkpoint"):
        load_run(folder, {})
    assert weights_folder(older) == older


def test_resume__all_checkpoints_damaged_or_absent_is_an_error(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(CheckpointError, match="no checkpoint to go on from; begin another run"):
        run(folder, resume=True)
    shutil.copytree(whole, folder)
    for path in list_checkpoints(folder):
        (path / "trainer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 2 are damaged"):
        run(folder, resume=True)


def test_resume__other_settings_or_data_are_refused_with_the_difference(whole: Path) -> None:
    with pytest.raises(TrainingError, match=r"settings\.train\.lr: 0\.001 -> 0\.5"):
        pretrain(settings(lr=0.5), load_dataset("digits", "train"), run_dir=whole, resume=True)
    with pytest.raises(TrainingError, match=r"dataset\.fingerprint"):
        pretrain(settings(), load_dataset("digits", "test"), run_dir=whole, resume=True)


def test_resume__other_thresholds_are_welcome_and_other_machines_refused_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hjepa_pretrain.runs.resuming

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=9)
    digits = load_dataset("digits", "train")
    state = list_checkpoints(folder)[-1] / "state.json"
    was = json.loads(state.read_text())
    del was["sha256"]["state.json"]  # Without it nobody sees that it is changed here.
    other = {"bf16": "fp32", "fp32": "bf16"}[was["precision"]]
    state.write_text(json.dumps({**was, "precision": other}))
    with pytest.raises(TrainingError, match=f"computes in {other}, which here would be"):
        run(folder, resume=True)
    state.write_text(json.dumps({**was, "compiled": True}))
    monkeypatch.setattr(hjepa_pretrain.runs.resuming, "can_compile", lambda _: False)
    with pytest.raises(TrainingError, match="there is no compiler for cpu here"):
        run(folder, resume=True)
    state.write_text(json.dumps({**was, "device": "cuda", "threads": 99}))
    said: list[str] = []
    patient = settings(diagnostics={"patience": 50, "milestones": [[1.0, 0.0]]})
    assert pretrain(patient, digits, run_dir=folder, resume=True, say=said.append).steps == 16
    assert "goes on on cpu instead of cuda" in said[0]
    assert "instead of 99: sums are rounded otherwise from here on" in said[1]


def test_milestone__at_the_end_is_due_at_the_end(tmp_path: Path) -> None:
    late = settings(diagnostics={"milestones": [[1.0, 0.99]]})
    with pytest.raises(TrainingError, match=r"step 16: .*0\.99 was due at 100%"):
        pretrain(late, load_dataset("digits", "train"), run_dir=tmp_path / "run")


def test_settings__alarms_on_what_is_never_measured_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"diagnostics\.bank 0 never measures"):
        settings(diagnostics={"bank": 0, "patience": 3})


def test_resume__a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = (whole / "encoder.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert run(whole, resume=True, said=said).steps == 16
    assert "finished already" in said[0]
    assert (whole / "encoder.safetensors").stat().st_mtime_ns == before


def test_pretrain__an_existing_run_is_not_overwritten(whole: Path) -> None:
    with pytest.raises(TrainingError, match="holds a run already"):
        run(whole)


def test_pretrain__minutes_end_the_run_in_time_with_the_momentum_at_its_end(tmp_path: Path) -> None:
    states: list[Progress] = []
    timed = settings(epochs=None, minutes=0.03)
    summary = pretrain(timed, load_dataset("digits", "train"), run_dir=tmp_path / "run", progress=states.append)
    assert summary.seconds >= 1.8
    assert states[-1].fraction == 1.0
    fractions = [state.fraction for state in states]
    assert fractions == sorted(fractions)
    assert fractions.count(1.0) == 1, "no step is begun when the time is over"
    momenta = [line["momentum"] for line in trace(tmp_path / "run")]
    assert momenta == sorted(momenta)
    assert 0.9 <= momenta[0] <= momenta[-1] <= 0.99


def test_pretrain__a_loss_that_is_not_finite_names_step_images_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hjepa_pretrain.training.step

    real = hjepa_pretrain.training.step.training_loss
    calls: list[Any] = []

    def broken(outputs: Any, train: Any, *, directions: Any) -> Any:
        loss, terms = real(outputs, train, directions=directions)
        calls.append(loss)
        return (loss * math.nan, {**terms, "loss": loss * math.nan}) if len(calls) == 6 else (loss, terms)

    monkeypatch.setattr(hjepa_pretrain.training.step, "training_loss", broken)
    with pytest.raises(
        TrainingError,
        match=r"step 6: not finite: loss, gradient_encoder, .*norm \(images \d+.*last good.*step-00000004.*all 32 im",
    ):
        run(tmp_path / "run")
    found = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert (found["step"], len(set(found["images"]))) == (6, 32)
    assert found["terms"] == ["loss", "gradient_encoder", "gradient_predictor", "gradient_norm"]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]


def test_pretrain__too_little_memory_says_what_to_change_and_the_run_goes_on_after_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hjepa_pretrain.training.step

    real = hjepa_pretrain.training.step.training_loss
    calls: list[None] = []

    def too_large(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(*arguments, **options)

    monkeypatch.setattr(hjepa_pretrain.training.step, "training_loss", too_large)
    with pytest.raises(
        TrainingError,
        match=r"^cpu has not enough memory for a step; raise train\.accumulate.*last good checkpoint: step-00000004$",
    ):
        run(tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]
    monkeypatch.undo()
    run(tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.rows("F")
def test_pretrain__collapse_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="level 0 has collapsed"):
        pretrain(
            settings(diagnostics={"smallest_std": 10.0}), load_dataset("digits", "train"), run_dir=tmp_path / "run"
        )


def test_pretrain__too_few_images_for_a_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="144 images do not fill a batch of 256"):
        pretrain(settings(batch_size=256), load_dataset("digits", "train"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_alarm__before_the_first_checkpoint_leaves_one_that_can_be_looked_at_and_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    loud = settings(diagnostics={"interval": 2, "smallest_rank": 0.99})
    with pytest.raises(TrainingError, match=rf"step 2: .*uses few directions.* hjepa eval --model {folder}, or go on"):
        pretrain(loud, load_dataset("digits", "train"), run_dir=folder)
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000002"]
    load_run(folder, {})
    quiet = settings(diagnostics={"interval": 2, "smallest_rank": 0.0})
    assert pretrain(quiet, load_dataset("digits", "train"), run_dir=folder, resume=True).steps == 16


def test_run__says_when_images_are_far_larger_than_what_it_reads(tmp_path: Path, cifar10_sample: Path) -> None:
    said: list[str] = []
    small = settings(epochs=1)
    pretrain(small, load_dataset(f"folder:{cifar10_sample}", "train"), run_dir=tmp_path / "far", say=said.append)
    assert "images of about 32x32 pixels are read at 8x8; to see more of them choose another preset" in said[0]
    said.clear()
    summary = pretrain(small, load_dataset("digits", "train"), run_dir=tmp_path / "fit", say=said.append)
    assert not any("pixels" in word for word in said)
    assert (summary.encoder, summary.image_size) == ("vit_tiny_patch2_8", 8)
