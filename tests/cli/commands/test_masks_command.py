from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_masks__writes_every_kind_and_prints_what_they_cover(
    hjepa: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    folder = tmp_path / "new" / "pictures"
    out = folder / "masks.png"
    done = hjepa("masks", "--config", "digits", "--out", out, "--count", 2)
    assert done.code == 0, done.err
    names = {"masks.png", "masks-hierarchical.png", "masks-random.png", "masks-combined.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    assert all(str(folder / name) in done.out for name in names)
    assert "4x4 tokens; training sees 12 random ones" in done.out
    rows = [line for line in done.out.splitlines() if "level" in line and "/" in line]
    assert len(rows) == 6
    assert len({len(row) for row in rows}) == 1


def test_masks__tables_are_no_wider_than_the_terminal(
    hjepa: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = hjepa("masks", "--config", "digits", "--out", tmp_path / "masks.png", "--count", 1)
    table = [
        line for line in done.out.splitlines() if not line.startswith(("multi_block:", "hierarchical:", "random:"))
    ]
    assert done.code == 0, done.err
    assert max(map(len, table)) <= 80
    assert all(word in done.out for word in ("overlap", "long/short", "whole cells per level"))


def test_masks__the_configured_kind_takes_the_given_name(hjepa: Callable, tmp_path: Path) -> None:
    options = ["--set", "masking.type=hierarchical", "--set", "model.num_hierarchies=2", "--json", "--seed", 3]
    done = hjepa("masks", "--config", "digits", "--out", tmp_path / "here.svg", *options)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["type"] == "hierarchical"
    assert found["grid"] == [4, 4]
    files = [Path(path).name for path in found["kinds"]["hierarchical"]["files"]]
    assert files == ["here.svg", "here-combined.svg"]
    assert (tmp_path / "here-multi_block.svg").is_file()
    statistics = found["kinds"]["hierarchical"]["statistics"]
    assert list(statistics) == ["level_0", "level_1"]
    assert statistics["level_1"]["context_target_overlap"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--dataset", "folder:photos"],
            "drawn without images, the same for any dataset; leave --dataset folder:photos",
        ),
        (["--out", "/dev/null/masks.png"], "/dev/null is no folder"),
        (["--out", "masks.bmp"], "pictures end in .png, .pdf, .svg"),
        (["--set", "masking.type=diagonal"], "masking.type"),
        (["--set", "masking.type=hierarchical", "--set", "masking.num_hierarchies=2"], "the model's 3"),
        (["--set", "masking.base_scale=[0.3,0.4]"], "base_scale"),
    ],
)
def test_masks__what_cannot_be_is_one_line_and_nothing_is_drawn(
    hjepa: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = hjepa("masks", "--config", "digits", *options)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
