"""Handles: an encoder's identity is remembered for as long as everything it was made from stays the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import save_file

from hjepa_eval.encoders import handle as handle_module
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.handle import EncoderHandle, open_encoder
from hjepa_eval.errors import EncoderError, HjepaError
from hjepa_eval.features.fingerprint import canonical_json

SPEC = "random:vit_tiny_patch8_32?levels=2"


@pytest.fixture
def no_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: str, **settings: object) -> None:
        raise AssertionError(f"{spec} was built")

    monkeypatch.setattr(handle_module, "load_encoder", refuse)


def test_open_encoder__second_time_it_is_known_without_being_built(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = open_encoder(SPEC, cache_dir=tmp_path)
    request.getfixturevalue("no_builds")
    again = open_encoder(SPEC, cache_dir=tmp_path)
    assert (again.name, again.levels, again.transform) == (first.name, first.levels, first.transform)
    assert canonical_json(again.identity) == canonical_json(load_encoder(SPEC).identity())


def test_open_encoder__builds_the_encoder_that_it_names(tmp_path: Path) -> None:
    open_encoder(SPEC, cache_dir=tmp_path)
    encoder = open_encoder(SPEC, cache_dir=tmp_path).build()
    assert canonical_json(EncoderHandle.of(encoder).identity) == canonical_json(load_encoder(SPEC).identity())


@pytest.mark.parametrize("change", ["seed", "spec", "folder", "code", "version"])
def test_open_encoder__is_built_again_when_what_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, change: str
) -> None:
    open_encoder("pixels:8", cache_dir=tmp_path)
    spec, seed = "pixels:8", 0
    if change == "seed":
        seed = 1
    elif change == "spec":
        spec = "pixels:9"
    elif change == "folder":
        (tmp_path / "other").mkdir()
        os.chdir(tmp_path / "other")
    elif change == "code":
        files = [*handle_module.code_files(), tmp_path / "new.py"]
        files[-1].write_text("changed")
        monkeypatch.setattr(handle_module, "code_files", lambda: files)
    else:
        monkeypatch.setattr(handle_module, "version", lambda package: "9.9")
    request.getfixturevalue("no_builds")
    with pytest.raises(AssertionError, match="was built"):
        open_encoder(spec, seed=seed, cache_dir=tmp_path)


def test_open_encoder__other_weights_in_the_same_file_are_another_encoder(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        weights = load_encoder("random:vit_tiny_patch8_32", seed=seed).model.state_dict()
        save_file(weights, tmp_path / "w.safetensors")
        spec = f"timm:vit_tiny_patch8_32?checkpoint={tmp_path / 'w.safetensors'}"
        found.append(open_encoder(spec, cache_dir=tmp_path).identity["weights"])
        assert open_encoder(spec, cache_dir=tmp_path).identity["weights"] == found[-1]
    assert found[0] != found[1]
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(HjepaError, match=r"w\.safetensors"):
        open_encoder(spec, cache_dir=tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"signature": 1}'])
def test_open_encoder__damaged_memory_costs_a_build_nothing_else(tmp_path: Path, damage: str) -> None:
    first = open_encoder("pixels:8", cache_dir=tmp_path)
    (memory,) = (tmp_path / "encoders").iterdir()
    assert json.loads(memory.read_text())["answer"]["name"] == "pixels:8"
    memory.write_text(damage)
    assert open_encoder("pixels:8", cache_dir=tmp_path).identity == first.identity


def test_handle__weights_that_change_before_the_encoder_is_built_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(load_encoder("random:vit_tiny_patch8_32").model.state_dict(), file)
    spec = f"timm:vit_tiny_patch8_32?checkpoint={file}"
    open_encoder(spec, cache_dir=tmp_path)
    handle = open_encoder(spec, cache_dir=tmp_path)
    save_file(load_encoder("random:vit_tiny_patch8_32", seed=1).model.state_dict(), file)
    with pytest.raises(EncoderError, match="has changed since"):
        handle.build()


def test_open_encoder__user_code_is_never_remembered(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from hjepa_eval.encoders.kinds.pixels import Pixels\n\n\ndef build():\n    return Pixels(8)\n"
    )
    open_encoder(f"{tmp_path / 'mine.py'}:build", cache_dir=tmp_path)
    assert not list(tmp_path.glob("encoders/*"))
