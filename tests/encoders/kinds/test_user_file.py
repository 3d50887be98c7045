"""Encoders from the user's own files: arguments, checkpoints, siblings, errors, and keys that see every change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hjepa_eval.encoders import load_encoder
from hjepa_eval.errors import CheckpointError, EncoderError, HjepaError, UnknownNameError, UserCodeError

MODEL = """
from __future__ import annotations

import torch
from torch import nn

import sibling


class Net(nn.Module):
    def __init__(self, dim: int = 4, scale: float | None = None, words: tuple[int, ...] = (), *, flag: bool = False):
        super().__init__()
        self.image_size = 16
        self.blocks = nn.Sequential(nn.Conv2d(3, dim, 4, 4), nn.Conv2d(dim, dim, 1))
        self.asked = (dim, scale, words, flag)

    def forward(self, images):
        return sibling.change(self.blocks(images))


def fails(text="x"):
    return {}[text]


def number():
    return 3


def own_checkpoint(checkpoint):
    net = Net()
    net.read = checkpoint
    return net


made = Net()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text(MODEL)
    (tmp_path / "code" / "sibling.py").write_text("def change(features):\n    return features\n")
    return tmp_path / "code"


def test_user_code__options_are_arguments_of_the_signatures_types(folder: Path) -> None:
    spec = f"{folder / 'net.py'}:Net?dim=6?scale=0.5?words=1,2?flag=true?layers=blocks.0,output"
    encoder = load_encoder(spec)
    assert encoder.model.asked == (6, 0.5, (1, 2), True)
    assert [level.dim for level in encoder.levels] == [6, 6]
    assert encoder.name == spec
    assert load_encoder(f"{folder / 'net.py'}:Net?scale=none?layers=output").model.asked[1] is None
    assert load_encoder(f"{folder / 'net.py'}:made?layers=output").levels[0].grid == (4, 4)
    assert load_encoder(f"{folder / 'net.py'}:own_checkpoint?checkpoint=a.pth?layers=output").model.read == "a.pth"
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("rest", "part"),
    [
        ("Net", "is a module without levels; say which layers they are"),
        ("Net?layers=block.0", "the nearest names are blocks.0"),
        ("Net?layers=output?dmi=3", "did you mean 'dim'"),
        ("Net?layers=output?dim=x", r"\?dim=x is not the int that dim is"),
        ("Net?layers=output?section=model", "name one with .checkpoint=FILE"),
        ("Net?layers=output?size=-3", "expected a number of pixels"),
        ("number", "returned int"),
        ("own_checkpoint?layers=output", "needs checkpoint; give it with .checkpoint=VALUE"),
        ("nett", "did you mean"),
    ],
)
def test_user_code__mistakes_get_one_line(folder: Path, rest: str, part: str) -> None:
    with pytest.raises(HjepaError, match=part) as caught:
        load_encoder(f"{folder / 'net.py'}:{rest}")
    assert "\n" not in str(caught.value)


def test_user_code__its_error_is_three_lines_with_the_users_frame(folder: Path) -> None:
    with pytest.raises(UserCodeError) as caught:
        load_encoder(f"{folder / 'net.py'}:fails?text=y")
    first, second, third = str(caught.value).splitlines()
    assert first.endswith("net.py:fails failed: KeyError: 'y'")
    assert second.endswith("net.py, line 22, in fails")
    assert third.strip() == "return {}[text]"
    (folder / "sibling.py").write_text("import no_such_module\n")
    with pytest.raises(UserCodeError, match=r"No module named 'no_such_module'\n.*sibling.py, line 1, in <module>"):
        load_encoder(f"{folder / 'net.py'}:Net?layers=output")


def test_user_code__error_of_the_forward_pass_is_the_users_too(folder: Path) -> None:
    (folder / "sibling.py").write_text("def change(features):\n    return features @ features.new_ones(7, 7)\n")
    with pytest.raises(UserCodeError, match=r"RuntimeError: .*\n.*sibling.py, line 2, in change"):
        load_encoder(f"{folder / 'net.py'}:Net?layers=output")


def test_identity__changes_when_an_imported_sibling_changes(folder: Path) -> None:
    spec = f"{folder / 'net.py'}:Net?layers=blocks.0,output"
    before, again = (load_encoder(spec).identity() for _ in range(2))
    assert before == again
    (folder / "sibling.py").write_text("def change(features):\n    return features * 3\n")
    edited = load_encoder(spec).identity()
    assert edited["weights"] == before["weights"]
    assert edited["settings"]["source"] != before["settings"]["source"]
    assert edited["settings"]["outputs"] != before["settings"]["outputs"]
    # A comment computes nothing else, and yet nobody can tell without reading it.
    (folder / "sibling.py").write_text("def change(features):\n    return features * 3  # three\n")
    commented = load_encoder(spec).identity()["settings"]
    assert commented["source"] != edited["settings"]["source"]
    assert commented["outputs"] == edited["settings"]["outputs"]


def test_identity__of_a_copied_folder_is_the_same_and_siblings_of_one_name_are_kept_apart(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    for file in folder.glob("*.py"):
        (other / file.name).write_text(file.read_text())
    first = load_encoder(f"{folder / 'net.py'}:Net?layers=output").identity()
    assert load_encoder(f"{other / 'net.py'}:Net?layers=output").identity() == first
    (other / "sibling.py").write_text("def change(features):\n    return features - 5\n")
    assert load_encoder(f"{other / 'net.py'}:Net?layers=output").identity() != first
    assert load_encoder(f"{folder / 'net.py'}:Net?layers=output").identity() == first


def test_identity__sees_what_neither_code_nor_weights_show(folder: Path) -> None:
    (folder / "sibling.py").write_text(
        "from pathlib import Path\n\n\ndef change(features):\n"
        "    return features * float(Path(__file__).with_name('factor.txt').read_text())\n"
    )
    found = []
    for factor in ("1", "2"):
        (folder / "factor.txt").write_text(factor)
        found.append(load_encoder(f"{folder / 'net.py'}:Net?layers=output").identity()["settings"])
    assert found[0]["source"] == found[1]["source"]
    assert found[0]["outputs"] != found[1]["outputs"]


@pytest.mark.parametrize("wrapped", ["plain", "model", "state_dict", "module.", "backbone.", "model.encoder."])
def test_checkpoint__is_unwrapped_and_what_was_is_said(folder: Path, tmp_path: Path, wrapped: str) -> None:
    file = tmp_path / "weights.pth"
    weights = load_encoder(f"{folder / 'net.py'}:Net?layers=output", seed=7).model.state_dict()
    prefix = wrapped if wrapped.endswith(".") else ""
    content: dict = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    if prefix == "backbone.":
        content["head.weight"] = torch.zeros(2, 4)
    torch.save({wrapped: content} if wrapped in ("model", "state_dict") else content, file)
    encoder = load_encoder(f"{folder / 'net.py'}:Net?checkpoint={file}?layers=output")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.model.state_dict().items())
    said = " ".join(encoder.notes)
    assert (wrapped in said) == (wrapped not in ("plain", "module."))
    assert ("head.weight" in said) == (prefix == "backbone.")


def test_checkpoint__that_does_not_fit_lists_the_first_names(folder: Path, tmp_path: Path) -> None:
    torch.save({f"tail.{number}": torch.zeros(1) for number in range(9)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"4 missing: blocks.0.weight.*9 unexpected: .* and 4 more"):
        load_encoder(f"{folder / 'net.py'}:Net?checkpoint={tmp_path / 'w.pth'}?layers=output")
    with pytest.raises(CheckpointError, match=r"no tensor whose name begins with 'heads.'; they begin with tail."):
        load_encoder(f"{folder / 'net.py'}:Net?checkpoint={tmp_path / 'w.pth'}?prefix=heads.?layers=output")


def test_import_path__torchvision_is_read_without_a_file_of_ones_own() -> None:
    encoder = load_encoder("torchvision.models:resnet18?num_classes=5?layers=layer1,fc?size=32")
    assert [level.dim for level in encoder.levels] == [64, 5]
    with pytest.raises(EncoderError, match="did you mean 'resnet18'"):
        load_encoder("torchvision.models:resnet19?layers=fc")
    with pytest.raises(UnknownNameError, match=r"unknown model 'torchvisionn.models:resnet18'"):
        load_encoder("torchvisionn.models:resnet18")
