"""Exported encoders: other programs load them, and give what the run gives."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from needed_tools import need_module
from safetensors.torch import load_file, save_file
from torch import Tensor

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import load_batches
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.export import graphs as graphs_module
from hjepa_eval.encoders.export.export import export_run
from hjepa_eval.encoders.export.model_card import FOLDER, NOT_MEASURED
from hjepa_eval.encoders.kinds.run import load_run
from hjepa_eval.encoders.run_facts import read_facts
from hjepa_eval.encoders.vit import create_vit, pool_cells
from hjepa_eval.errors import CheckpointError, EncoderError, UnknownNameError
from hjepa_eval.results.text import markdown_text


@pytest.fixture(scope="module")
def images(digits_run: Path) -> Tensor:
    """Seven real digits as the run's encoder wants them."""
    transform = load_run(digits_run, {}).transform
    batches = load_batches(load_dataset("digits", "test"), transform, [range(7)], workers=1)
    (batch, *_) = next(iter(batches))
    return transform.normalise(batch)


@torch.no_grad()
def tokens_of(run: Path, images: Tensor, branch: str = "target") -> list[Tensor]:
    return load_run(run, {"encoder": branch}).eval()(images)


def rewrite(path: Path, change: dict) -> None:
    """Change parts of a JSON file; a run's summary loses the sums of what it summarises."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    summary = path.with_name("summary.json")
    if path != summary and summary.is_file():
        content = json.loads(summary.read_text())
        content.pop("sha256", None)
        summary.write_text(json.dumps(content))


@pytest.mark.parametrize("branch", ["target", "context"])
@torch.no_grad()
def test_timm__create_model_opens_the_folder_and_gives_the_last_blocks_tokens(
    digits_run: Path, tmp_path: Path, images: Tensor, branch: str
) -> None:
    folder = tmp_path / "out"
    files = export_run(digits_run, folder, branch=branch)
    assert [file.name for file in files] == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    encoder = load_run(digits_run, {"encoder": branch})
    tokens = model.forward_features(images)
    assert tokens.shape == (7, 16, 192)
    # The last level reads the last block; pooled to its cells it is what the run's encoder gives.
    pooled = pool_cells(tokens, encoder.grid, 1)
    torch.testing.assert_close(pooled, encoder(images)[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(model(images), tokens.mean(dim=1), rtol=0, atol=1e-5)
    other = tokens_of(digits_run, images, "context" if branch == "target" else "target")[1]
    assert not torch.allclose(pooled, other, atol=1e-3)


def test_timm__preprocessing_and_architecture_are_in_the_configuration(digits_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["transform"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "summary.json").unlink()  # It has the sum of the settings as they were.
    export_run(run, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architecture"] == "vit_tiny_patch16_224"
    assert written["model_args"] == {
        "patch_size": 2,
        "img_size": 8,
        "depth": 2,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    found = timm.data.resolve_data_config(model=model)
    assert (list(found["mean"]), list(found["std"])) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert (list(found["input_size"]), found["interpolation"], found["crop_pct"]) == ([3, 8, 8], "bilinear", 1.0)


def test_timm__tensors_are_the_runs_under_timms_names(digits_run: Path, tmp_path: Path) -> None:
    export_run(digits_run, tmp_path / "out")
    ours = load_file(digits_run / "encoder.safetensors")
    theirs = load_file(tmp_path / "out" / "model.safetensors")
    assert set(theirs) == set(timm.create_model(f"local-dir:{tmp_path / 'out'}").state_dict())
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[f"target.{name}"]), name


@torch.no_grad()
def test_timm__fp16_halves_the_file_and_stays_close(digits_run: Path, tmp_path: Path, images: Tensor) -> None:
    export_run(digits_run, tmp_path / "whole")
    export_run(digits_run, tmp_path / "half", dtype="fp16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert 0.49 < sizes[0] / sizes[1] < 0.52
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    found = load_encoder(f"timm:local-dir:{tmp_path / 'half'}")(images)
    for level, expected in zip(found, tokens_of(digits_run, images), strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=0.02)


@torch.no_grad()
def test_local_dir__has_the_runs_levels_and_another_place_is_the_same_encoder(
    digits_run: Path, tmp_path: Path, images: Tensor
) -> None:
    export_run(digits_run, tmp_path / "out")
    encoder = load_encoder(f"timm:local-dir:{tmp_path / 'out'}")
    run = load_run(digits_run, {})
    assert encoder.levels == run.levels
    assert encoder.transform == run.transform
    for level, expected in zip(encoder(images), run(images), strict=True):
        assert torch.equal(level, expected)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert load_encoder(f"timm:local-dir:{tmp_path / 'moved'}").identity() == encoder.identity()
    one = load_encoder(f"timm:local-dir:{tmp_path / 'moved'}?taps=2")
    assert [level.name for level in one.levels] == ["block 2, 1x1 cells"]


def test_local_dir__what_is_missing_or_does_not_fit_is_one_error(digits_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_encoder(f"timm:local-dir:{folder}")
    export_run(digits_run, folder)
    with pytest.raises(EncoderError, match="weights of its own"):
        load_encoder(f"timm:local-dir:{folder}?checkpoint=x")
    rewrite(folder / "config.json", {"architecture": "vit_small_patch16_224"})
    with pytest.raises(CheckpointError, match=r"config\.json is not what was written .*remove SHA256SUMS if"):
        load_encoder(f"timm:local-dir:{folder}")
    (folder / "SHA256SUMS").unlink()
    rewrite(folder / "config.json", {"architecture": "vit_nowhere"})
    with pytest.raises(CheckpointError, match="does not describe a timm model"):
        load_encoder(f"timm:local-dir:{folder}")
    rewrite(folder / "config.json", {"architecture": "vit_small_patch16_224"})
    with pytest.raises(CheckpointError, match="of another shape"):
        load_encoder(f"timm:local-dir:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint file .*model\.safetensors"):
        load_encoder(f"timm:local-dir:{folder}")


def make_run(run: Path, name: str, *, taps: list[int], size: int, **arguments: Any) -> Path:
    """A run folder around a ViT whose every number is drawn, also those that begin as zeros and ones."""
    arguments = {"seed": 0, "positions": "learned", "class_token": True, "global_pool": "", **arguments}
    state = create_vit(name, **arguments).state_dict()
    generator = torch.Generator().manual_seed(1)
    drawn = {key: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for key, tensor in state.items()}
    run.mkdir()
    save_file({f"target.{key}": tensor for key, tensor in drawn.items()}, run / "encoder.safetensors")
    config = {
        "format_version": 1,
        "encoder": {"vit": name, "arguments": arguments, "taps": taps},
        "transform": {"size": size, "resize": size, "mean": [0.5] * 3, "std": [0.5] * 3},
        "dataset": {"name": "none"},
    }
    (run / "config.json").write_text(json.dumps(config))
    return run


@torch.no_grad()
def test_checkpoint_option__takes_an_exported_file_of_a_plain_timm_name(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    run = make_run(tmp_path / "run", name, taps=[4, 8, 12], size=224)
    export_run(run, tmp_path / "out")
    encoder = load_encoder(f"timm:{name}?checkpoint={tmp_path / 'out' / 'model.safetensors'}")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for level, other in zip(encoder(images), load_run(run, {})(images), strict=True):
        torch.testing.assert_close(level, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["timm", "torch"])
@torch.no_grad()
def test_export__layer_scale_class_token_registers_and_odd_grids_come_along(tmp_path: Path, kind: str) -> None:
    more = {"init_values": 0.1, "reg_tokens": 2, "depth": 3, "img_size": 20, "mlp_ratio": 2.0}
    run = make_run(tmp_path / "run", "vit_tiny_patch4_32", taps=[1, 3, 3], size=20, **more)
    export_run(run, tmp_path / "out", kind=kind)
    images = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = load_run(run, {})(images)
    assert [tuple(level.shape) for level in expected] == [(3, 28, 192), (3, 12, 192), (3, 7, 192)]
    if kind == "timm":
        found = load_encoder(f"timm:local-dir:{tmp_path / 'out'}")(images)
        tokens = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval().forward_features(images)
        torch.testing.assert_close(tokens[:, :3], expected[2][:, :3], rtol=0, atol=1e-5)
    else:
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(images)
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level, other, rtol=0, atol=1e-5)


def test_facts__of_a_finished_run_are_those_of_its_best_step(digits_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    rewrite(run / "summary.json", {"best": {"step": 4, "knn": 0.9, "level": 1}, "measures": {"knn": [0.1, 0.2]}})
    (run / "metrics.jsonl").write_text(json.dumps({"step": 4, "knn": [0.8, 0.9]}))
    facts = read_facts(run)
    assert (facts.steps, facts.knn) == (4, (0.8, 0.9))
    (run / "metrics.jsonl").unlink()
    assert read_facts(run).knn == ()


@pytest.mark.parametrize("change", ["a module without weights", "a weight of its own"])
def test_timm__what_timm_cannot_build_is_refused_and_goes_as_a_graph(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, vectors: Tensor) -> Tensor:
            return 2.0 * vectors

    def changed(run: Path, options: dict[str, str]) -> Any:
        encoder = load_run(run, options)
        own = Doubled() if change.startswith("a module") else torch.nn.LayerNorm(64)
        encoder.model.blocks[0].attn.q_norm = own
        return encoder

    monkeypatch.setattr("hjepa_eval.encoders.export.export.load_run", changed)
    with pytest.raises(EncoderError, match=r"timm alone cannot build .*take --format torch or onnx"):
        export_run(digits_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_run(digits_run, tmp_path / "out", kind="torch")


@pytest.mark.parametrize(
    "summary",
    [{"measures": None, "steps": "many", "seconds": None}, {"measures": {"knn": [0.5]}}, {"measures": []}, []],
)
def test_facts__what_no_file_says_stays_unsaid(tmp_path: Path, summary: Any) -> None:
    run = make_run(tmp_path / "run", "vit_tiny_patch4_32", taps=[1, 2], size=32, depth=2)
    (run / "summary.json").write_text(json.dumps(summary))
    facts = read_facts(run)
    assert (facts.steps, facts.seconds, facts.knn) == (None, None, ())
    if "steps" not in summary:
        with pytest.raises(CheckpointError, match="damaged"):
            export_run(run, tmp_path / "out")
        return
    export_run(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count(NOT_MEASURED) == 2
    assert "- steps: not stated" in card
    assert "- seconds of training: not stated" in card


@pytest.mark.rows("F")
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_torch__a_program_gives_all_levels_for_any_batch(
    digits_run: Path, tmp_path: Path, images: Tensor, batch: int
) -> None:
    files = export_run(digits_run, tmp_path / "out", kind="torch")
    assert [file.name for file in files] == ["README.md", "SHA256SUMS", "model.pt2", "preprocessing.json"]
    outputs = torch.export.load(tmp_path / "out" / "model.pt2").module()(images[:batch])
    expected = tokens_of(digits_run, images[:batch])
    assert [tuple(output.shape) for output in outputs] == [(batch, 16, 192), (batch, 4, 192)]
    for output, level in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, level, rtol=0, atol=1e-5)


@pytest.mark.rows("F")
@pytest.mark.parametrize("batch", [1, 3])
def test_onnx__onnxruntime_gives_all_levels_for_any_batch(
    digits_run: Path, tmp_path: Path, images: Tensor, batch: int
) -> None:
    need_module("onnxscript")
    onnxruntime = need_module("onnxruntime")
    files = export_run(digits_run, tmp_path / "out", kind="onnx", branch="context")
    assert [file.name for file in files] == ["README.md", "SHA256SUMS", "model.onnx", "preprocessing.json"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": images[:batch].numpy()})
    for output, level in zip(outputs, tokens_of(digits_run, images[:batch], "context"), strict=True):
        np.testing.assert_allclose(output, level.numpy(), rtol=0, atol=1e-5)
    said = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert [each.name for each in session.get_inputs()] == [said["input"]["name"]]
    assert [each.name for each in session.get_outputs()] == [output["name"] for output in said["outputs"]]
    assert [each.shape for each in session.get_outputs()] == [output["shape"] for output in said["outputs"]]


def test_onnx__fp16_stays_close(digits_run: Path, tmp_path: Path, images: Tensor) -> None:
    need_module("onnxscript")
    onnxruntime = need_module("onnxruntime")
    export_run(digits_run, tmp_path / "out", kind="onnx", dtype="fp16")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": images.half().numpy()})
    assert {output.dtype for output in outputs} == {np.dtype(np.float16)}
    for output, level in zip(outputs, tokens_of(digits_run, images), strict=True):
        np.testing.assert_allclose(output, level.numpy(), rtol=0, atol=0.03)


@torch.no_grad()
def test_torch__fp16_takes_and_gives_halves(digits_run: Path, tmp_path: Path, images: Tensor) -> None:
    export_run(digits_run, tmp_path / "out", kind="torch", dtype="fp16")
    outputs = torch.export.load(tmp_path / "out" / "model.pt2").module()(images.half())
    for output, level in zip(outputs, tokens_of(digits_run, images), strict=True):
        assert output.dtype == torch.float16
        torch.testing.assert_close(output.float(), level, rtol=0, atol=0.03)
    said = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert said["input"] == {"name": "images", "dtype": "float16", "shape": ["batch", 3, 8, 8]}


def test_onnx__without_its_packages_the_extra_is_named_before_any_work(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs_module, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"needs onnx and onnxscript.*pip install 'hjepa\[onnx\]'"):
        export_run(digits_run, tmp_path / "out", kind="onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["timm", "torch", "onnx"])
def test_card__its_code_runs(digits_run: Path, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        need_module("onnxscript")
        need_module("onnxruntime")
    export_run(digits_run, tmp_path / "out", kind=kind)
    card = (tmp_path / "out" / "README.md").read_text().replace(FOLDER, str(tmp_path / "out"))
    codes = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    assert len(codes) == (2 if kind == "timm" else 1)
    names: dict = {}
    for code in codes:
        exec(compile(code, "README.md", "exec"), names)
    assert [tuple(level.shape) for level in names["levels"]] == [(1, 16, 192), (1, 4, 192)]
    if kind == "timm":
        assert names["vectors"].shape == (1, 192)
        assert [tuple(block.shape) for block in names["blocks"]] == [(1, 16, 192), (1, 16, 192)]


def test_card__says_what_the_run_measured_and_nothing_else(digits_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    sums = {name: digest for name, digest in summary["sha256"].items() if name != "summary.json"}
    rewrite(run / "summary.json", {"measures": {**summary["measures"], "knn": [0.125, 0.5]}, "sha256": sums})
    export_run(run, tmp_path / "one")
    card = (tmp_path / "one" / "README.md").read_text()
    assert "| 0 | block 1, 1x1 cells | 4 x 4 | 192 | 12.5 % |" in card
    assert "| 1 | block 2, 2x2 cells | 2 x 2 | 192 | 50.0 % |" in card
    assert f"- steps: {summary['steps']}" in card
    assert "- data set: digits, 160 images of its train split" in card
    assert f"torch {torch.__version__.partition('+')[0]}" in card
    # The diagnostics looked at the target encoder.
    export_run(run, tmp_path / "two", branch="context")
    assert (tmp_path / "two" / "README.md").read_text().count(NOT_MEASURED) == 2
    rewrite(run / "summary.json", {"measures": {}})
    (run / "metrics.jsonl").unlink()
    export_run(run, tmp_path / "three")
    assert (tmp_path / "three" / "README.md").read_text().count(NOT_MEASURED) == 2


def test_facts__of_a_checkpoint_are_those_of_its_own_step(digits_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    checkpoint = sorted(run.glob("checkpoints/*"))[0]
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    lines = [{"step": step - 1, "knn": [0.1, 0.2]}, {"step": step, "knn": [0.3, 0.4]}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step"')
    facts = read_facts(checkpoint)
    assert (facts.steps, facts.knn) == (step, (0.3, 0.4))
    (run / "metrics.jsonl").write_text(json.dumps(lines[0]))
    assert read_facts(checkpoint).knn == ()


@pytest.mark.parametrize("kind", ["timm", "torch", "onnx"])
def test_export__says_nothing_of_this_machine(digits_run: Path, tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        need_module("onnxscript")
    run = shutil.copytree(digits_run, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())["settings"]
    rewrite(run / "config.json", {"settings": {**settings, "data": {**settings["data"], "root": "/home/me"}}})
    for file in export_run(run, tmp_path / "out", kind=kind):
        if file.suffix == ".pt2":
            archive = zipfile.ZipFile(file)
            content = b"".join(archive.read(name) for name in archive.namelist())
        else:
            content = file.read_bytes()
        for place in ("/home/me", str(tmp_path), "site-packages", str(Path(timm.__file__).parent), "timm_models.py"):
            assert place.encode() not in content, f"{file.name}: {place}"


@pytest.mark.parametrize("name", ["a|b\n# c", "[x](javascript:alert)", "<script>", "`**_~$!&\\", "plain", "\ud800"])
def test_card__names_from_data_stay_text(digits_run: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    dataset = {**json.loads((run / "config.json").read_text())["dataset"], "name": name}
    rewrite(run / "config.json", {"dataset": dataset})
    export_run(run, tmp_path / "out")
    (line,) = [
        line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("- data set:")
    ]
    assert line == f"- data set: {markdown_text(name)}, 160 images of its train split"
    assert not re.search(r"(?<!\\)[|<\[\]`*$]", line.replace("\\\\", ""))


def test_export__what_is_no_run_is_one_error(digits_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"is no pretraining run and no checkpoint.*'hjepa pretrain'"):
            export_run(nothing, out)
    run = shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "*.safetensors"))
    with pytest.raises(CheckpointError, match=r"has no encoder\.safetensors and no checkpoint"):
        export_run(run, out)
    with pytest.raises(UnknownNameError, match=r"unknown export format 'onx' \(did you mean 'onnx'"):
        export_run(digits_run, out, kind="onx")
    with pytest.raises(UnknownNameError, match="unknown encoder branch 'teacher'"):
        export_run(digits_run, out, branch="teacher")
    with pytest.raises(UnknownNameError, match="unknown dtype 'int8'"):
        export_run(digits_run, out, dtype="int8")
    assert not out.exists()


def test_export__a_folder_with_content_is_refused_and_an_empty_one_taken(digits_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_run(digits_run, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(EncoderError, match="is not empty, and nothing is overwritten"):
        export_run(digits_run, out, branch="context")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EncoderError, match=r"cannot write to .*file: Not a directory"):
        export_run(digits_run, tmp_path / "file")
    with pytest.raises(EncoderError, match=r"cannot write .*file/out"):
        export_run(digits_run, tmp_path / "file" / "out")


def test_export__an_error_on_the_way_leaves_nothing(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hjepa_eval.encoders.export.export.model_card", full)
    (tmp_path / "exports").mkdir()
    with pytest.raises(EncoderError, match="No space left on device; make room"):
        export_run(digits_run, tmp_path / "exports" / "out")
    assert list((tmp_path / "exports").iterdir()) == []


def test_export__a_checkpoint_has_its_own_weights(digits_run: Path, tmp_path: Path, images: Tensor) -> None:
    checkpoint = sorted(digits_run.glob("checkpoints/*"))[0]
    export_run(checkpoint, tmp_path / "out")
    theirs = load_file(tmp_path / "out" / "model.safetensors")["norm.bias"]
    assert torch.equal(theirs, load_file(checkpoint / "encoder.safetensors")["target.norm.bias"])
    assert not torch.equal(theirs, load_file(digits_run / "encoder.safetensors")["target.norm.bias"])


def test_timm__a_flipped_bit_of_exported_weights_is_refused_and_colleagues_can_read_them(
    digits_run: Path, tmp_path: Path
) -> None:
    export_run(digits_run, tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    assert weights.stat().st_mode & 0o777 == (tmp_path / "out" / "README.md").stat().st_mode & 0o777
    load_encoder(f"timm:local-dir:{tmp_path / 'out'}")
    content = bytearray(weights.read_bytes())
    content[-2] ^= 64
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        load_encoder(f"timm:local-dir:{tmp_path / 'out'}")


def test_timm__a_folder_that_asks_for_a_hundred_million_blocks_is_refused(digits_run: Path, tmp_path: Path) -> None:
    export_run(digits_run, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_bytes())
    config["model_args"]["depth"] = 10**8
    path.write_text(json.dumps(config))
    (tmp_path / "out" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"depth is 1e\+08, and no encoder has more than 1,000"):
        load_encoder(f"timm:local-dir:{tmp_path / 'out'}")
