from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.checks import build_settings
from hjepa_pretrain.config.geometry import resolve_geometry
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.diagnostics.levels import readouts
from hjepa_pretrain.loop import Progress, pretrain
from hjepa_pretrain.models import HJEPA, AveragedStages, MaskedStages, create_hjepa_from_config
from hjepa_pretrain.training.optimizer import trainable
from safetensors.torch import load_file
from small_runs import trace

from hjepa_eval.cli import main
from hjepa_eval.config import merge
from hjepa_eval.datasets import load_dataset
from hjepa_eval.encoders.kinds.run import load_run, load_untrained_run
from hjepa_eval.encoders.stages import create_stages
from hjepa_eval.errors import ConfigError, EncoderError, TrainingError, UnknownNameError

VIEWS: dict[str, Any] = {
    "model": {"encoder_type": "test_resnet", "mask_mode": "zero", "ema": {"momentum": 0.5, "momentum_end": 0.9}},
    "data": {"dataset": "digits", "image_size": 32, "augmentation": "asym+global", "flip": False, "max_samples": 80},
    "train": {
        "epochs": 2,
        "batch_size": 24,
        "predicted_share": 0,
        "log_interval": 1,
        "checkpoint_interval": 2,
        "whole_image": {"contrast": 1.0, "sigreg": 0.1, "hidden_dim": 32, "out_dim": 16},
    },
    "diagnostics": {"bank": 40, "interval": 3, "held_out": 0.1},
}


def settings(name: str = "test_resnet", *, image_size: int | None = 32, **model: Any) -> PretrainSettings:
    changes = {"model": {"encoder_type": name, **model}, "data": {"image_size": image_size}}
    return build_settings(merge(VIEWS, changes), "test")


def network(name: str = "test_resnet", *, image_size: int | None = 32, **model: Any) -> HJEPA:
    return create_hjepa_from_config(settings(name, image_size=image_size, **model))


def photographs(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def run(folder: Path, *, resume: bool = False, stop_at: int | None = None) -> None:
    def watch(state: Progress) -> None:
        if state.step == stop_at:
            raise KeyboardInterrupt

    dataset = load_dataset("digits", "train")
    pretrain(settings(), dataset, run_dir=folder, resume=resume, progress=watch, say=lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "image_size", "shapes"),
    [
        ("test_resnet", 32, [(16, 48), (4, 192), (1, 96)]),
        ("test_convnext", 64, [(64, 32), (16, 48), (4, 64)]),
        ("swin_tiny_patch4_window7_224", 64, [(64, 192), (16, 384), (4, 768)]),
    ],
)
def test_stage_encoder__returns_every_stage_with_its_own_width_and_grid(
    name: str, image_size: int, shapes: list[tuple[int, int]]
) -> None:
    model = network(name, image_size=image_size)
    with torch.no_grad():
        outputs = model.target_encoder(photographs(2, image_size), torch.tensor([[0, 5], [1, 63]]))
    assert [tuple(output.shape) for output in outputs] == [(2, *shape) for shape in [*shapes, shapes[-1]]]
    assert [rows * columns for rows, columns in model.level_shapes()] == [cells for cells, _ in shapes]
    assert model.context_encoder.widths == resolve_geometry(settings(name, image_size=image_size)).widths
    assert model.context_encoder.widths == tuple(width for _, width in shapes)


def test_stage_encoder__num_hierarchies_are_the_last_stages() -> None:
    assert network(num_hierarchies=1).context_encoder.taps == (5,)
    assert network(num_hierarchies=4).context_encoder.widths == (32, 48, 192, 96)


def test_stage_encoder__pixels_of_hidden_patches_do_not_leak_and_others_count() -> None:
    encoder = network().context_encoder.eval()
    top = torch.arange(32).expand(2, -1)  # The upper four of eight rows of patches.
    images = photographs()
    below, above = images.clone(), images.clone()
    below[:, :, 16:] = 7.0
    above[:, :, 15] = 7.0
    with torch.no_grad():
        kept, same, other = (encoder(each, top)[-1] for each in (images, below, above))
        literal = encoder(torch.cat((images[:, :, :16], torch.zeros(2, 3, 16, 32)), dim=2))[-1]
    assert torch.equal(kept, same)
    assert torch.equal(kept, literal)
    assert (kept - other).abs().max() > 1e-4


def test_stage_encoder__padded_context_does_not_matter() -> None:
    encoder = network().context_encoder.eval()
    short = torch.arange(10, 20).expand(2, -1)
    padded = torch.cat((short, torch.zeros(2, 6, dtype=torch.int64)), dim=1)
    with torch.no_grad():
        a, b = (
            encoder(photographs(), short)[-1],
            encoder(photographs(), padded, valid=torch.arange(16).expand(2, -1) < 10)[-1],
        )
    assert torch.equal(a, b)


def test_stage_encoder__hide_zeroed_is_refused() -> None:
    with pytest.raises(TrainingError, match="pass hide_zeroed=False"):
        network().context_encoder(photographs(), hide_zeroed=True)


def test_stage_target__starts_equal_averages_weights_and_copies_statistics_of_batch_norm() -> None:
    model = network().train()
    context, target = model.context_encoder, model.target_encoder
    assert isinstance(context, MaskedStages)
    assert isinstance(target, AveragedStages)
    assert not target.network.training
    for mine, other in zip(target.state_dict().values(), context.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    before = target.network.conv1[0].weight.clone()
    context(photographs(8))  # In training mode: running statistics move.
    with torch.no_grad():
        context.network.conv1[0].weight += 1
    model.update_target_encoder(0)
    torch.testing.assert_close(target.network.conv1[0].weight, before + 0.5)
    assert target.network.bn1.num_batches_tracked == 1
    assert torch.equal(target.network.bn1.running_mean, context.network.bn1.running_mean)
    assert (target.network.bn1.running_mean != 0).any()
    assert not any(parameter.requires_grad for parameter in target.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_stage_model__every_trainable_parameter_gets_a_gradient(name: str) -> None:
    model = network(name).train()
    masked = torch.zeros(4, 64)
    masked[:, 24:] = 1
    outputs = model(photographs(4), masked, num_predicted=0)
    assert outputs["predictions"] == []
    outputs["projections"].square().sum().backward()
    assert [name for name, parameter in trainable(model).items() if parameter.grad is None] == []
    assert {name.partition(".")[0] for name in trainable(model)} == {"context_encoder", "projector"}


def test_create_stages__drops_paths_only_when_told_to() -> None:
    def rates(model: Any) -> set[float]:
        return {module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"}

    name = "swin_tiny_patch4_window7_224"
    with torch.device("meta"):
        assert rates(create_stages(name)) == {0.0}
        assert max(rates(create_stages(name, drop_path=0.3))) == pytest.approx(0.3)
        with pytest.raises(EncoderError, match=r"vgg11 cannot be built: .*drop_path_rate.*; leave that out"):
            create_stages("vgg11", drop_path=0.3)


def test_create_stages__same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (create_stages("test_resnet", seed=seed).conv1[0].weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_create_stages__a_name_without_stages_or_unknown_says_what_to_take() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown encoder 'resnt18' \(did you mean 'resnet18'\?\)"):
        create_stages("resnt18")
    with torch.device("meta"), pytest.raises(EncoderError, match="deit_tiny_patch16_224 has no stages; choose one"):
        create_stages("deit_tiny_patch16_224")


def test_settings__unknown_name_and_images_too_small_are_errors_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'convnext_tiny'\?"):
        settings("convnxt_tiny")
    with pytest.raises(ConfigError, match=r"vgg11 cannot take images of 16 pixels .*; set data.image_size"):
        settings("vgg11", image_size=16)
    with pytest.raises(ConfigError, match="the patch of 12 does not divide the image of 100 pixels"):
        settings(image_size=100)


def test_settings__what_only_tokens_have_is_named_in_one_message() -> None:
    model = {
        "encoder_type": "test_resnet",
        "mask_mode": "drop",
        "taps": "final",
        "encoder_depth": 2,
        "layer_scale": 0.1,
        "positions": "rope",
        "class_token": True,
    }
    train = {"epochs": 1, "checkpoint_activations": True, "whole_image": {"predict": 1.0}}
    wrong = {
        "model": model,
        "masking": {"saliency": 1.0},
        "train": train,
        "data": {"augmentation": "asym+global"},
    }
    with pytest.raises(ConfigError) as caught:
        build_settings(wrong, "test")
    assert str(caught.value).endswith(
        "model.encoder_type test_resnet has stages instead of tokens: set train.predicted_share to 0, "
        "model.mask_mode to zero and train.whole_image.contrast to 1, "
        "and leave out model.taps, model.encoder_depth, model.layer_scale, model.positions, "
        "model.class_token, masking.saliency, train.whole_image.predict, train.checkpoint_activations"
    )
    with pytest.raises(ConfigError, match=r"set model\.mask_mode to zero$"):
        settings(mask_mode="drop")


@pytest.mark.rows("C2")
def test_pretrain__a_run_with_stages_moves_its_weights_and_measures_every_level(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 6
    assert {"loss", "contrast", "sigreg"} <= set(summary["losses"])
    assert [len(values) for values in summary["measures"].values() if isinstance(values, list)] == [3] * 8
    encoder = json.loads((whole / "config.json").read_text())["encoder"]
    assert encoder == {"stages": "test_resnet", "arguments": {"seed": 0, "image_size": 32}, "taps": [3, 4, 5]}
    tensors = load_file(whole / "encoder.safetensors")
    fresh = create_stages(encoder["stages"], **encoder["arguments"]).state_dict()
    assert {f"{branch}.{name}" for branch in ("context", "target") for name in fresh} == set(tensors)
    for branch in ("context", "target"):
        assert not torch.equal(tensors[f"{branch}.layer1.0.conv1.weight"], fresh["layer1.0.conv1.weight"])


def test_pretrain__step_zero_of_a_run_with_stages_is_rebuilt_from_its_config(whole: Path) -> None:
    fresh = network().context_encoder.network.state_dict()
    untrained = load_untrained_run(whole).model.state_dict()
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in fresh.items())


@pytest.mark.parametrize("stop_at", [1, 4])
def test_resume__a_run_with_stages_goes_on_bit_exactly(whole: Path, tmp_path: Path, stop_at: int) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at=stop_at)
    run(folder, resume=True)

    assert trace(folder) == trace(whole)
    ours, theirs = load_file(folder / "encoder.safetensors"), load_file(whole / "encoder.safetensors")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("branch", ["target", "context"])
def test_load_run__features_of_stages_are_those_of_training(whole: Path, branch: str) -> None:
    model = network().eval()
    encoder = model.target_encoder if branch == "target" else model.context_encoder
    tensors = load_file(whole / "encoder.safetensors")
    encoder.network.load_state_dict(
        {name.removeprefix(f"{branch}."): tensor for name, tensor in tensors.items() if name.startswith(f"{branch}.")}
    )
    loaded = load_run(whole, {"encoder": branch})
    images = photographs(6)
    with torch.inference_mode():
        evaluated = [tokens.mean(dim=1) for tokens in loaded(images)]
    trained = readouts(encoder, images.split(4))
    assert [level.grid for level in loaded.levels] == model.level_shapes()
    assert [level.dim for level in loaded.levels] == list(encoder.widths)
    for mine, level in zip(evaluated, trained, strict=True):
        torch.testing.assert_close(mine, level.features, atol=1e-5, rtol=1e-5)
    assert (evaluated[0] - load_untrained_run(whole)(images)[0].mean(dim=1)).abs().max() > 1e-3


def test_extract_features__are_the_cells_of_a_stage() -> None:
    model = network()
    with torch.no_grad():
        cells = [model.extract_features(photographs(), level) for level in range(3)]
        outputs = model.target_encoder(photographs())
    assert all(torch.equal(mine, output) for mine, output in zip(cells, outputs, strict=False))


def test_knn__scores_every_stage_of_a_run(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--dataset", "digits", "--max-samples", "400", "--quiet", "--json")
    with pytest.raises(SystemExit) as stop:
        main(["knn", "--model", str(whole), *data])
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    (record,) = json.loads(captured.out)
    assert [level["width"] for level in record["levels"]] == [48, 192, 96]
    assert all(level["scores"][0]["value"] > 0.3 for level in record["levels"])  # A tenth is chance.


def test_settings__all_that_a_network_with_stages_needs_is_told_at_once() -> None:
    flat = {"model": {"encoder_type": "test_resnet"}, "train": {"epochs": 1}}
    with pytest.raises(ConfigError) as caught:
        build_settings(flat, "test")
    said = str(caught.value).partition("instead of tokens: ")[2]
    assert said == (
        "set train.predicted_share to 0, model.mask_mode to zero, train.whole_image.contrast to 1 and "
        "data.augmentation to asym+global"
    )
    whole = {
        "model": {"encoder_type": "test_resnet", "mask_mode": "zero"},
        "train": {"epochs": 1, "predicted_share": 0, "whole_image": {"contrast": 1}},
        "data": {"augmentation": "asym+global"},
    }
    assert build_settings(whole, "test").train.whole_image.contrast == 1


def test_settings__plain_vits_of_other_names_are_vits() -> None:
    for name, dim in (("deit_tiny_patch16_224", 192), ("deit3_small_patch16_224", 384)):
        settings = build_settings({"model": {"encoder_type": name}, "train": {"epochs": 1}}, "test")
        assert (resolve_geometry(settings).dim, resolve_geometry(settings).maps) == (dim, ())
    with pytest.raises(ConfigError, match="has no stages"):
        build_settings({"model": {"encoder_type": "deit_tiny_distilled_patch16_224"}, "train": {"epochs": 1}}, "test")
