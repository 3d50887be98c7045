from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import ENCODERS, Encoder, EncoderKind, Level, load_encoder
from hjepa_eval.encoders.kinds.pixels import load_pixels
from hjepa_eval.encoders.kinds.run import newest_run
from hjepa_eval.encoders.kinds.timm_network import wrap_timm
from hjepa_eval.encoders.protocol import check_outputs, hash_tensors
from hjepa_eval.encoders.readouts import READOUTS, level_widths, read_levels, single_readout
from hjepa_eval.encoders.vit import check_levels, create_vit, pool_cells, resolve_taps, spread_taps
from hjepa_eval.errors import CheckpointError, EncoderError, HjepaError

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "seed": 3, "positions": "sincos"}


def make_run(folder: Path, *, seed: int = 7, finished: bool = True) -> Path:
    """A run as hjepa_pretrain writes it, with weights of another seed than its step 0."""
    encoder = {"vit": "vit_tiny_patch4_16", "arguments": TINY, "taps": [2, 4]}
    config = {
        "format_version": 1,
        "encoder": encoder,
        "transform": asdict(Transform(16, 16)),
        "settings": {"data": {"dataset": "digits"}},
        "dataset": {"name": "digits", "fingerprint": "f", "num_images": 1},
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for branch, number in (("context", seed), ("target", seed + 1)):
        model = create_vit("vit_tiny_patch4_16", **{**TINY, "seed": number})
        tensors |= {f"{branch}.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "encoder.safetensors")
    if finished:
        (folder / "summary.json").write_text(json.dumps({"steps": 1}))  # As before summaries had sums.
    return folder


@pytest.mark.parametrize(
    ("spec", "grids", "dims"),
    [
        ("random:vit_tiny_patch4_32", [(8, 8), (4, 4), (2, 2)], [192] * 3),
        ("random:vit_tiny_patch4_32?taps=final&levels=2".replace("&", "?"), [(8, 8), (4, 4)], [192] * 2),
        ("random:resnet10t", [(44, 44), (22, 22), (11, 11), (6, 6)], [64, 128, 256, 512]),
        ("pixels:8", [(1, 1)], [192]),
    ],
)
def test_load_encoder__outputs_are_what_the_levels_declare(spec: str, grids: list, dims: list) -> None:
    encoder = load_encoder(spec)
    assert [level.grid for level in encoder.levels] == grids
    assert [level.dim for level in encoder.levels] == dims
    with torch.inference_mode():
        outputs = encoder(torch.randn(2, 3, encoder.transform.size, encoder.transform.size))
    check_outputs(encoder, outputs, 2)


def test_vit_encoder__levels_read_their_taps_through_the_final_norm() -> None:
    encoder = load_encoder("random:vit_tiny_patch4_32")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = encoder.model._pos_embed(encoder.model.patch_embed(images))
        wanted = []
        for number, block in enumerate(encoder.model.blocks, start=1):
            tokens = block(tokens)
            if number in (4, 8, 12):
                wanted.append(encoder.model.norm(tokens)[:, 1:])
        outputs = encoder(images)
    for level, (output, patches) in enumerate(zip(outputs, wanted, strict=True)):
        torch.testing.assert_close(output[:, 1:], pool_cells(patches, (8, 8), level), rtol=1e-4, atol=1e-5)


def test_random__same_seed_same_weights_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_encoder("random:vit_tiny_patch4_32", seed=1).weights_hash()
    assert torch.equal(torch.get_rng_state(), before)
    assert load_encoder("random:vit_tiny_patch4_32", seed=1).weights_hash() == first
    assert load_encoder("random:vit_tiny_patch4_32", seed=2).weights_hash() != first


def test_hash_tensors__sees_names_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    assert hash_tensors(base) == hash_tensors(dict(reversed(base.items())))
    for other in (
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3) + 1e-7},
        {"c": base["a"], "b": base["b"]},
    ):
        assert hash_tensors(other) != hash_tensors(base)


def test_pool_cells__borders_do_not_count_padding() -> None:
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    tokens = torch.stack([rows, columns], dim=-1).reshape(1, 196, 2)
    level2 = pool_cells(tokens, (14, 14), 2).reshape(4, 4, 2)
    assert level2[0, 0].tolist() == [1.5, 1.5]
    assert level2[3, 3].tolist() == [12.5, 12.5]  # the last cell holds rows 12 and 13 only


def test_levels__geometry() -> None:
    assert spread_taps(12, 3) == (4, 8, 12)
    assert spread_taps(6, 4) == (2, 3, 4, 6)
    assert resolve_taps("final", 6, 2) == (6, 6)
    check_levels((14, 14), 5)
    for wrong in (
        lambda: check_levels((8, 8), 5),
        lambda: resolve_taps((3, 2), 6, 2),
        lambda: resolve_taps((1, 9), 6, 2),
    ):
        with pytest.raises(EncoderError):
            wrong()


def test_readouts__widths_and_hand_computed_values() -> None:
    level = Level(0, "x", 2, (2, 3), prefix=1)
    tokens = torch.arange(14.0).reshape(1, 7, 2)
    assert READOUTS["cls"].read(tokens, level).tolist() == [[0, 1]]
    assert READOUTS["mean"].read(tokens, level).tolist() == [[7, 8]]
    assert READOUTS["max"].read(tokens, level).tolist() == [[12, 13]]
    assert READOUTS["tokens"].read(tokens, level).tolist() == [list(range(2, 14))]
    assert READOUTS["cls_mean"].read(tokens, level).tolist() == [[0, 1, 7, 8]]
    registered = Level(0, "x", 2, (2, 2), prefix=3)
    assert READOUTS["registers"].read(tokens, registered).tolist() == [[3, 4]]
    for readout in READOUTS.values():
        assert readout.read(tokens, registered).shape == (1, readout.width(registered))
    with pytest.raises(EncoderError, match="no token between its class token and its cells"):
        READOUTS["registers"].read(tokens, level)
    with pytest.raises(EncoderError, match="no class token"):
        READOUTS["cls"].read(tokens, Level(0, "x", 2, (2, 3)))


@pytest.mark.parametrize(
    ("name", "changes", "names"),
    [
        ("vit_tiny_patch16_224", {}, ("class token",)),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, ("class token", "register 1", "register 2")),
        (
            "vit_tiny_patch16_224",
            {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
            ("register 1", "register 2"),
        ),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, ()),
        ("deit_tiny_distilled_patch16_224", {}, ("class token", "distillation token")),
    ],
)
def test_name_prefix__a_register_is_no_class_token(name: str, changes: dict, names: tuple[str, ...]) -> None:
    model = timm.create_model(name, img_size=32, depth=1, embed_dim=24, num_heads=2, num_classes=0, **changes)
    assert wrap_timm(model, f"timm:{name}", levels=1, taps="depth", size=32).name_prefix() == names


def test_name_prefix__an_own_encoder_may_name_its_tokens() -> None:
    encoder = Encoder()
    encoder.levels = (Level(0, "x", 2, (2, 3), prefix=3),)
    assert encoder.name_prefix() == ("class token", "prefix token 2", "prefix token 3")
    encoder.prefix_names = ("day", "night", "noon", "dusk")
    assert encoder.name_prefix() == ("day", "night", "noon")


def test_run__target_is_the_default_and_context_on_request(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    target, context = load_encoder(str(run)), load_encoder(f"{run}?encoder=context")
    assert target.weights_hash() == hash_tensors(
        {f"model.{k}": v for k, v in create_vit("vit_tiny_patch4_16", **{**TINY, "seed": 8}).state_dict().items()}
    )
    assert context.weights_hash() != target.weights_hash()
    assert load_encoder(f"random:{run}").weights_hash() not in (target.weights_hash(), context.weights_hash())


def test_newest_run__takes_finished_runs_only(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"hjepa pretrain --config .*hjepa demo"):
        newest_run(tmp_path)
    done = make_run(tmp_path / "old")
    make_run(tmp_path / "unfinished", finished=False)
    assert newest_run(tmp_path) == done


def test_checkpoint__missing_unexpected_and_wrong_shaped_tensors_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    tensors = create_vit("vit_tiny_patch4_16", **TINY).state_dict()
    wrong = {f"target.{name}": tensor for name, tensor in tensors.items() if not name.startswith("blocks.3")}
    wrong["target.norm.weight"] = torch.zeros(5)
    wrong["target.extra"] = torch.zeros(1)
    save_file(wrong, run / "encoder.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(str(run))
    message = str(caught.value)
    assert "12 missing: blocks.3.norm1.weight" in message
    assert "and 7 more" in message
    assert "1 unexpected: extra" in message
    assert "norm.weight [5] instead of [32]" in message


def test_checkpoint__truncated_file_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    file = run / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors is not a whole safetensors file"):
        load_encoder(str(run))


def test_timm__local_checkpoint_ignores_the_classifier_only(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    encoder = load_encoder(f"timm:resnet10t?checkpoint={tmp_path / 'weights.pth'}")
    torch.testing.assert_close(encoder.model.conv1[0].weight, model.conv1[0].weight)
    with pytest.raises(CheckpointError, match="missing"):
        load_encoder(f"timm:vit_tiny_patch16_224?checkpoint={tmp_path / 'weights.pth'}")


class Malicious:
    def __reduce__(self) -> tuple:
        return print, ("code from a checkpoint ran",)


def test_timm__checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        load_encoder(f"timm:resnet10t?checkpoint={tmp_path / 'evil.pth'}")
    assert "code from a checkpoint ran" not in capsys.readouterr().out


def test_timm__weights_that_are_not_here_say_what_to_do() -> None:
    with pytest.raises(EncoderError, match=r"--download.*\?checkpoint=FILE.*random:resnet10t"):
        load_encoder("timm:resnet10t")


def test_user_file__builds_and_its_shapes_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "from hjepa_eval.encoders import Encoder, Level\n"
        "from hjepa_eval.datasets.transform import Transform\n"
        "class Mine(Encoder):\n"
        "    name, settings = 'mine', {}\n"
        "    levels = (Level(0, 'channels', 3, (8, 8)),)\n"
        "    transform = Transform(8, 8)\n"
        "    def forward(self, images):\n"
        "        return [images.flatten(2).transpose(1, 2)[:, :self.cells]]\n"
        "def build():\n    mine = Mine()\n    mine.cells = 64\n    return mine\n"
        "def broken():\n    mine = Mine()\n    mine.cells = 63\n    return mine\n"
        "def number():\n    return 3\n"
    )
    encoder = load_encoder(f"{file}:build")
    assert isinstance(encoder, Encoder)
    check_outputs(encoder, encoder(torch.zeros(2, 3, 8, 8)), 2)
    broken = load_encoder(f"{file}:broken")
    with pytest.raises(EncoderError, match=r"declares \[2, 64, 3\] and returned \[2, 63, 3\]"):
        check_outputs(broken, broken(torch.zeros(2, 3, 8, 8)), 2)
    with pytest.raises(EncoderError, match="returned int"):
        load_encoder(f"{file}:number")
    with pytest.raises(EncoderError, match="did you mean 'build'"):
        load_encoder(f"{file}:biuld")


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nothing", "unknown model 'nothing'"),
        ("pixel", "did you mean 'pixels:8'"),
        ("random:vit_tinny_patch4_32", "did you mean 'vit_tiny'"),
        ("random:resnet19", "did you mean 'resnet18'"),
        ("random:vit_tiny_patch5_32", "5 does not divide the image size 32"),
        ("random:vit_tiny_patch4_32?level=2", "did you mean 'levels'"),
        ("random:vit_tiny_patch4_32?levels=9", "at most 4"),
        ("random:vit_tiny_patch4_32?levels=x", "expected a number"),
        ("random:resnet10t?levels=2", "has stages"),
        ("random:", "expected a name after the colon"),
        ("pixels:0", "expected a size"),
        ("vit_tiny_patch4_32", "did you mean 'random:vit_tiny_patch4_32'"),
        ("missing.py:build", "no file missing.py"),
        (".", "no pretraining run"),
    ],
)
def test_load_encoder__mistakes_get_one_clear_line(spec: str, part: str) -> None:
    with pytest.raises(HjepaError) as caught:
        load_encoder(spec)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_encoder__a_kind_needs_one_line_and_its_usage_says_whether_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for usage, name in (("own", "own"), ("own:SIZE", "own:8"), ("own[:SIZE]", "own:8"), ("own[:SIZE]", "own")):
        monkeypatch.setitem(ENCODERS, "own", EncoderKind(lambda request: load_pixels(request.argument), usage, ""))
        assert load_encoder(name).name == name
        assert load_encoder(name).transform.size == (8 if ":" in name else 32)
    monkeypatch.setitem(ENCODERS, "own", EncoderKind(lambda request: load_pixels(""), "own", ""))
    with pytest.raises(EncoderError, match="own takes no argument; write own"):
        load_encoder("own:8")
    monkeypatch.setitem(ENCODERS, "own", EncoderKind(lambda request: load_pixels(""), "own:SIZE", ""))
    with pytest.raises(EncoderError, match="expected a name after the colon: own:SIZE"):
        load_encoder("own")


def test_identity__sees_what_weights_cannot_show(tmp_path: Path) -> None:
    few, many = make_run(tmp_path / "few"), make_run(tmp_path / "many")
    config = json.loads((many / "config.json").read_text())
    config["encoder"]["arguments"]["num_heads"] = 4
    (many / "config.json").write_text(json.dumps(config))
    first, second = load_encoder(str(few)), load_encoder(str(many))
    assert first.weights_hash() == second.weights_hash()
    assert first.identity() != second.identity()


def test_readouts__last4_joins_the_means_of_a_level_and_the_three_before_it() -> None:
    levels = [Level(number, "x", 1 + number, (1, 2)) for number in range(5)]
    outputs = [torch.full((1, 2, 1 + number), float(number)) for number in range(5)]
    features = read_levels("last4", outputs, levels)
    assert [each.shape[1] for each in features] == level_widths("last4", levels) == [1, 3, 6, 10, 14]
    assert features[4].tolist() == [[1.0] * 2 + [2.0] * 3 + [3.0] * 4 + [4.0] * 5]
    with pytest.raises(EncoderError, match="reads several levels"):
        single_readout("last4")
