from __future__ import annotations

import importlib.util
import itertools
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from folders import ROOT
from hjepa_pretrain.checks import build_settings, load_settings
from hjepa_pretrain.config.settings import GlobalSettings, PretrainSettings
from hjepa_pretrain.loop import pretrain
from pydantic import BaseModel

from hjepa_eval.config import find_preset, parse_assignments
from hjepa_eval.datasets import load_dataset
from hjepa_eval.errors import ConfigError

PRESETS = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))


def settings(*assignments: str) -> PretrainSettings:
    """Return settings of a run of one epoch, checked."""
    return build_settings(parse_assignments(["train.epochs=1", *assignments]), "options")


def problems(*assignments: str) -> str:
    with pytest.raises(ConfigError) as error:
        settings(*assignments)
    return str(error.value)


def test_settings__every_field_has_a_description() -> None:
    def check(schema: type[BaseModel], path: str) -> None:
        for name, field in schema.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation, f"{path}{name}.")
            else:
                assert field.description, f"{path}{name}"

    check(PretrainSettings, "")


def test_settings__impossible_geometry_lists_all_problems_in_one_message() -> None:
    message = problems(
        "model.encoder_type=vit_tiny_patch4_32",
        "model.embed_dim=100",
        "model.num_hierarchies=4",
        "model.taps=[1, 2, 3, 40]",
        "model.predictor.num_heads=7",
        "model.ema.momentum_end=0.5",
        "masking.context_tokens=64",
        "masking.mask_scale=[0.4, 0.2]",
        "train.minutes=5",
        "train.level_weights=[1, 1]",
        "train.accumulate=256",
        "masking.num_hierarchies=3",
        "train.whole_image.contrast=1",
    )
    for part in (
        "embed_dim 100 disagrees with the 192",
        "taps [1, 2, 3, 40] must rise and lie between 1 and the encoder's 12 blocks",
        "num_heads 7 does not divide its embed_dim 384",
        "momentum 0.996 lies above momentum_end 0.5",
        "context_tokens 64 leaves nothing to predict on a grid of 8x8; at most 63",
        "masking.mask_scale [0.4, 0.2] is no range",
        "give train.epochs or train.minutes, found both",
        "level_weights has 2 weights for 4 levels",
        "accumulate 256 leaves one image at once, and the projector needs statistics of several",
        "masking.num_hierarchies 3 disagrees with the model's 4",
        "set data.augmentation to asym+global",
    ):
        assert part in message, part


def test_settings__levels_coarser_than_the_grid_and_patches_that_do_not_divide_are_named() -> None:
    assert "4 levels do not fit a grid of 4x4 tokens" in problems(
        "model.encoder_type=vit_tiny_patch8_32", "model.num_hierarchies=4"
    )
    assert "the patch size 5 does not divide the image size 32" in problems("model.encoder_type=vit_tiny_patch5_32")
    assert "does not divide the image of 30 pixels" in problems(
        "model.encoder_type=vit_tiny_patch4_32", "data.image_size=30"
    )


@pytest.mark.parametrize(
    ("assignments", "left"),
    [
        # On 8x8 tokens the smallest block of 15 to 20 % has 10 (5x2 is too narrow, so 3x4 = 12), M of them when apart.
        (["masking.context_tokens=53"], 52),
        (["masking.context_tokens=17", "masking.allow_target_overlap=false"], 16),
        (["masking.context_tokens=49", "masking.aligned=1"], 48),
        (["masking.context_tokens=49", "masking.type=hierarchical"], 48),
    ],
)
def test_settings__more_context_than_the_target_blocks_leave_is_named(assignments: list[str], left: int) -> None:
    small = ["model.encoder_type=vit_tiny_patch4_32", *assignments]
    assert f"more than the target blocks leave: at most {left} of 64 tokens" in problems(*small)
    settings(*small, f"masking.context_tokens={left}")
    # Objectives on whole images have no targets.
    whole = ("data.augmentation=asym+global", "train.whole_image.contrast=1", "train.predicted_share=0")
    settings(*small, *whole)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.betas=[0.9, 1.0]", "train.betas.1"),
        ("train.level_weights=[1, -1, 1]", "train.level_weights.1"),
        ("train.level_weights=[0, 0, 0]", "train.level_weights are all 0"),
        ("masking.aligned=1", "aligned blocks need more than 2 rows"),
    ],
)
def test_settings__what_would_break_later_is_refused(assignment: str, message: str) -> None:
    tiny = ("model.encoder_type=vit_tiny_patch16_32",) if "aligned" in assignment else ()
    levels = ("model.num_hierarchies=1", "masking.context_tokens=1") if tiny else ()
    assert message in problems(*tiny, *levels, assignment)


def test_settings__a_level_that_could_never_be_predicted_is_named() -> None:
    assignments = ("model.encoder_type=vit_tiny_patch2_8", "masking.context_tokens=12")
    assert "level 2 would never be predicted: 4 hidden tokens are less than" in problems(*assignments)
    large = problems("model.encoder_type=vit_tiny_patch4_32", "masking.context_tokens=60")
    assert "level 2 would never be predicted" in large
    assert "more than the target blocks leave: at most 52 of 64" in large, "all problems are in one message"
    settings(*assignments, "masking.cell_coverage=0.25")


def test_settings__a_predicted_share_that_comes_to_no_image_is_named() -> None:
    small = ("train.batch_size=64", "train.accumulate=2", "train.predicted_share=0.01")
    assert "predicted_share 0.01 of 32 images at once is none; set it to 0.04 or more, or to 0" in problems(*small)
    settings(*small, "train.predicted_share=0.04")
    settings(*small, "train.accumulate=1")


VIEWS = ("data.augmentation=asym+global", "train.whole_image.predict=1")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["data.stored_size=223"],
            "data.stored_size 223 is smaller than the image of 224 pixels; leave it out",
        ),
        (
            ["data.stored_size=256", "data.augmentation=none"],
            "data.stored_size is for crops; with data.augmentation none leave it out",
        ),
        (
            ["train.predicted_share=0"],
            "train.predicted_share 0 needs an objective under train.whole_image; give one a weight",
        ),
        (
            [*VIEWS, "train.predicted_share=0", "train.whole_image.contrast=1"],
            "train.whole_image.predict needs the predictor; train.predicted_share is 0",
        ),
        (
            ["masking.context_scale=[0.4, 0.5]", "masking.context_tokens=99"],
            "masking.context_tokens 99 is more than a context block holds: 98 of 196 tokens with "
            "masking.context_scale up to 0.5",
        ),
    ],
)
def test_settings__what_contradicts_itself_is_named(assignments: list[str], message: str) -> None:
    assert problems(*assignments).endswith(f": {message}")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["masking.type=hierarchical", "masking.aligned=0.5"], "type hierarchical does not read masking.aligned"),
        (["masking.type=random", "masking.aligned=1", "masking.roll=0.5"], "read masking.aligned, masking.roll; leave"),
        (
            ["masking.type=random", "masking.context_scale=[0.5, 0.9]"],
            "type random does not read masking.context_scale",
        ),
        (["masking.base_scale=[0.1, 0.2]"], "type multi_block does not read masking.base_scale"),
        (["masking.max_attempts=3"], "masking.max_attempts 3 is for multi_block with allow_target_overlap=false"),
        (["masking.type=hierarchical", "masking.max_attempts=3"], "masking.max_attempts 3 is for multi_block"),
        (["masking.type=random", "masking.allow_target_overlap=false"], "random masks have none, leave it out"),
        ([*VIEWS, "data.local_views=2"], "data.local_views are looked at by projections alone"),
    ],
)
def test_settings__what_would_change_nothing_is_refused(assignments: list[str], message: str) -> None:
    assert message in problems(*assignments)


@pytest.mark.parametrize(
    "assignments",
    [
        # A block of a tenth of the grid does not hold the context, but these kinds have no such block.
        ["masking.type=random", "masking.context_tokens=190", "masking.cell_coverage=0.1"],
        ["masking.type=hierarchical", "masking.aspect_ratio=[0.5, 2.0]", "masking.roll=1"],
        ["masking.max_attempts=3", "masking.allow_target_overlap=false"],
        [*VIEWS, "data.local_views=2", "train.whole_image.contrast=1"],
        ["data.stored_size=224"],
        ["masking.context_scale=[0.4, 0.5]", "masking.context_tokens=98"],
        ["data.augmentation=asym+global", "train.predicted_share=0", "train.whole_image.contrast=1"],
    ],
)
def test_settings__what_is_read_is_accepted(assignments: list[str]) -> None:
    assert settings(*assignments).train.epochs == 1


def test_ladder__every_rung_of_the_benchmark_is_a_setting_and_adds_to_the_one_before() -> None:
    spec = importlib.util.spec_from_file_location("pretrain_quality", ROOT / "benchmarks" / "pretrain_quality.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rungs = [
        load_settings("cifar10_cpu_masked", [f"{key}={json.dumps(value)}" for key, value in rung.items()])
        for rung in benchmark.ladder_settings().values()
    ]
    assert len(rungs) == 7
    assert [rung.model.num_hierarchies for rung in rungs[:2]] == [1, 3]
    assert rungs[3].train.whole_image.predict == 1.0
    assert rungs[5].masking.type == "hierarchical"
    assert rungs[5].model.predictor.order == "coarse_to_fine"
    assert all(one != other for one, other in itertools.pairwise(rungs))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("vit_base_mci_224", "HybridEmbed"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
    ],
)
@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_settings__vits_that_are_not_plain_are_refused(name: str, part: str, positions: str) -> None:
    message = problems(f"model.encoder_type={name}", f"model.positions={positions}")
    assert f"model.encoder_type {name} is no plain ViT" in message
    assert part in message
    assert "\n" not in message


def test_settings__misspelt_keys_and_models_get_a_suggestion() -> None:
    assert "unknown key 'train.epoch' (did you mean 'epochs'?)" in problems("train.epoch=3")
    assert "unknown key 'masking.num_mask' (did you mean 'num_masks'?)" in problems("masking.num_mask=3")
    assert "did you mean 'vit_base'" in problems("model.encoder_type=vit_bse_patch16_224")


def test_settings__a_length_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"give train\.epochs or train\.minutes, found neither"):
        build_settings({}, "options")


def unpack(archive: str, folder: Path, *, per_class: int, only: str = "train") -> Path:
    """Unpack the first images of each class of a split of a shared archive, and return the data set's folder."""
    packed = Path(os.environ.get("HJEPA_SHARED_DATA", ROOT.parent / "shared" / "data")) / archive
    if not packed.is_file():
        pytest.skip(f"no real images at {packed}; name their folder with HJEPA_SHARED_DATA")
    taken: Counter[str] = Counter()
    with tarfile.open(packed) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and len(parts) == 4 and parts[1] == only and taken[parts[2]] < per_class:
                taken[parts[2]] += 1
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                assert stream is not None
                target.write_bytes(stream.read())
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def cifar100_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("cifar100-sample.tar.gz", tmp_path_factory.mktemp("cifar100"), per_class=1)


@pytest.fixture(scope="module")
def imagenette_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("imagenette-160.tar.gz", tmp_path_factory.mktemp("imagenette"), per_class=4)


@pytest.fixture(scope="module")
def imagenet1k_sample(imagenette_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's layout: a thousand class folders, filled with photographs of Imagenette."""
    photographs = sorted((imagenette_sample / "train").glob("*/*"))
    folder = tmp_path_factory.mktemp("imagenet1k")
    for number in range(1000):
        target = folder / "train" / f"n{number:08d}" / "0.JPEG"
        target.parent.mkdir(parents=True)
        target.hardlink_to(photographs[number % len(photographs)])
    return folder


SMALL_VIT = ["model.encoder_depth=3", "model.taps=depth"]
# Smaller networks where two steps of the whole ones would take minutes; a preset's other settings stay.
CHEAP = {
    "as_documented": ["model.encoder_depth=1", "model.predictor.depth=1", "train.batch_size=4", "data.max_samples=10"],
    "cifar10_h100": SMALL_VIT,
    "cifar100_h100": SMALL_VIT,
    "flat_ijepa_cifar10_h100": ["model.encoder_depth=3"],
    "imagenette_h100": SMALL_VIT,
    "imagenet1k": [*SMALL_VIT, "model.encoder_type=vit_tiny_patch16_224", "model.predictor.depth=1"],
}


# Two steps of these are still a third of a minute and more each.
LARGE = ("as_documented", "cifar10_h100", "cifar100_h100", "flat_ijepa_cifar10_h100", "imagenet1k", "imagenette_h100")


@pytest.mark.parametrize(
    "preset",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in LARGE else (), id=path.stem) for path in PRESETS],
)
def test_presets__run_two_steps(preset: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    comment = "".join(line for line in preset.read_text().splitlines() if line.startswith("# "))
    assert comment.startswith(("# hjepa pretrain --config configs/pretrain/", "# torchrun"))
    assert preset.stem in comment
    assert "easured" in comment
    whole = load_settings(str(preset))
    assignments = ["train.minutes=null", "train.epochs=1", "train.batch_size=16", "data.max_samples=40"]
    assignments += ["diagnostics.bank=16", "train.log_interval=1", "train.compile='off'", "data.workers=2"]
    assignments += CHEAP.get(preset.stem, [])
    if whole.data.dataset != "digits":
        assignments += [f"data.root={request.getfixturevalue(f'{whole.data.dataset}_sample')}"]
    small = load_settings(str(preset), assignments)
    dataset = load_dataset(small.data.dataset, "train", root=small.data.root)
    assert pretrain(small, dataset, run_dir=tmp_path / "run").steps == 2


def test_presets__as_documented_says_what_the_documents_print() -> None:
    documented = load_settings("as_documented")
    model, masking = documented.model, documented.masking
    assert (model.encoder_type, model.embed_dim, model.num_hierarchies) == ("vit_base_patch16_224", 768, 3)
    assert (model.taps, model.mask_mode, model.class_token) == ("final", "zero", True)
    predictor = model.predictor
    assert (predictor.depth, predictor.num_heads, predictor.mlp_ratio, predictor.embed_dim) == (6, 12, 4.0, 768)
    ema = model.ema
    assert (ema.momentum, ema.momentum_end, ema.momentum_warmup_epochs, ema.schedule) == (0.996, 1.0, 30, "cosine")
    assert (masking.type, masking.num_masks, masking.mask_scale) == ("multi_block", 4, (0.15, 0.2))
    assert (masking.aspect_ratio, masking.context_scale) == ((0.75, 1.5), (0.85, 1.0))
    assert not masking.allow_target_overlap
    assert documented.train.level_weights == (1.0, 0.5, 0.25)


def test_presets__flat_baselines_predict_one_level_and_do_nothing_else() -> None:
    for name in ("flat_ijepa_cifar10_cpu", "flat_ijepa_cifar10_h100"):
        flat = load_settings(name)
        assert (flat.model.num_hierarchies, flat.model.taps) == (1, "final")
        assert (flat.train.loss, flat.data.augmentation) == ("smooth_l1", "light")
        assert flat.train.whole_image == GlobalSettings()
        assert flat.train.predicted_share == 1.0


def test_presets__are_found_by_name() -> None:
    assert find_preset("digits", "pretrain") == PRESETS[[path.stem for path in PRESETS].index("digits")]
