from __future__ import annotations

import json
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hjepa_eval.errors import ResultError
from hjepa_eval.results.files import find_galleries
from hjepa_eval.results.gallery import (
    GALLERY_VERSION,
    Gallery,
    LevelMap,
    MaskExamples,
    Neighbourhoods,
    read_gallery,
    write_gallery,
)

NAME = "<script>alert(1)</script>"


@pytest.fixture
def gallery() -> Gallery:
    draw = np.random.default_rng(0)
    shown = Neighbourhoods(
        index=np.array([5]),
        labels=np.array([1]),
        chosen=("drawn at random",),
        train_index=np.array([[[3, 0]], [[9, 3]]]),
        train_labels=np.array([[[1, 0]], [[1, 1]]]),
        similarity=draw.random((2, 1, 2), np.float32),
    )
    places = LevelMap(
        np.array([0, 5, 6]), np.array([0, 1, 1]), draw.random((2, 3, 2), np.float32), "PCA", np.ones((2, 2), np.float32)
    )
    return Gallery(
        model="runs/a b?encoder=context",
        dataset="folder:/data/pets",
        train_store="f" * 64,
        test_store="0123456789" + "e" * 54,
        class_names=("cat", NAME + "\udcff"),
        levels=((0, "fine"), (2, "coarse")),
        images={**{("test", place): b"t%d" % place for place in (0, 5, 6)}, **{("train", p): b"" for p in (0, 3, 9)}},
        map=places,
        neighbourhoods=shown,
        training=({"step": 1, "losses": {"loss": None}},),
        masks=MaskExamples(
            "hierarchical", (1, 2), np.array([3]), draw.random((2, 1, 2)) < 0.5, np.ones((2, 1, 3, 2), bool)
        ),
        notes=("of 8 test images the first 3 are shown",),
        names={("test", 0): "test/cat/1.png", ("train", 9): NAME + "\udcff"},
    )


def same(one, other) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other


@pytest.mark.parametrize("plain", [False, True], ids=["run", "no run"])
def test_gallery__is_read_as_it_was_written(gallery: Gallery, tmp_path: Path, plain: bool) -> None:
    if plain:
        gallery = replace(gallery, masks=None, no_masks="they could not be drawn", training=(), notes=())
    path = write_gallery(gallery, tmp_path / "results")
    assert path.name == "runs-a-b-encoder-context__folder-data-pets__01234567.gallery.safetensors"
    assert same(read_gallery(path), gallery)
    assert list(read_gallery(path).images) == list(gallery.images)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_gallery__of_before_says_no_reason_for_having_no_masks(gallery: Gallery, tmp_path: Path) -> None:
    path = write_gallery(replace(gallery, masks=None), tmp_path)
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["about"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del about["no_masks"], about["names"], about["sha256"]
    about["gallery_version"] = 1
    save_file(arrays, path, {"about": json.dumps(about)})
    assert read_gallery(path).no_masks == ""
    assert read_gallery(path).names == {}


def test_galleries__are_found_in_folders_beside_records_and_below_a_demo(gallery: Gallery, tmp_path: Path) -> None:
    write_gallery(gallery, tmp_path / "results")
    write_gallery(replace(gallery, model="pixels"), tmp_path / "results")
    record = tmp_path / "results" / "record.json"
    for paths in ([tmp_path], [tmp_path / "results"], [record], [record, tmp_path]):
        assert [each.model for each in find_galleries(paths)] == ["pixels", gallery.model]
    (tmp_path / "empty").mkdir()
    assert find_galleries([tmp_path / "empty"]) == []


def test_gallery__numbers_that_json_lacks_are_our_own_bug(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_gallery(replace(gallery, training=({"step": 1, "loss": float("nan")},)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_gallery__folder_that_cannot_be_written_keeps_the_old_one(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="choose another folder with --out"):
        write_gallery(gallery, tmp_path / "file")


def rewrite(path: Path, arrays: dict | None = None, *, without: str = "", **about) -> None:
    """Change what a gallery holds, as one of version 1, which had no checksum."""
    with safe_open(path, framework="numpy") as file:
        old = json.loads(file.metadata()["about"])
        del old["sha256"]
        kept = {name: file.get_tensor(name) for name in file.keys() if name != without}  # noqa: SIM118
    save_file({**kept, **(arrays or {})}, path, {"about": json.dumps({**old, "gallery_version": 1, **about})})


@pytest.mark.parametrize("size", [0, 7, 300, -1])
def test_gallery__truncated_file_is_one_line(gallery: Gallery, tmp_path: Path, size: int) -> None:
    path = write_gallery(gallery, tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ResultError, match=r"cannot read the gallery .*hjepa eval writes it anew"):
        read_gallery(path)


def test_gallery__one_flipped_bit_anywhere_is_one_line(gallery: Gallery, tmp_path: Path) -> None:
    path = write_gallery(gallery, tmp_path)
    content = path.read_bytes()
    for place in range(8, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ResultError, match=path.name):
            read_gallery(path)


def test_gallery__foreign_file_is_no_gallery(tmp_path: Path) -> None:
    path = tmp_path / "weights.gallery.safetensors"
    for about in (None, {"about": "{}"}, {"about": "[1]"}, {"format": "pt"}):
        save_file({"level0": np.zeros(3)}, path, about)
        with pytest.raises(ResultError, match="is no gallery of hjepa"):
            read_gallery(path)
    path.write_text("no safetensors at all, but longer than a header")
    with pytest.raises(ResultError, match="cannot read the gallery"):
        read_gallery(path)
    with pytest.raises(ResultError, match="cannot read the gallery"):
        read_gallery(tmp_path / "absent.gallery.safetensors")


def test_gallery__newer_file_asks_for_a_newer_program(gallery: Gallery, tmp_path: Path) -> None:
    path = write_gallery(gallery, tmp_path)
    rewrite(path, gallery_version=GALLERY_VERSION + 1, levels="of another kind")
    with pytest.raises(ResultError, match=r"has gallery version 3, this program reads up to 2; update hjepa"):
        read_gallery(path)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"without": "map/points"}, "points"),
        ({"arrays": {"map/points": np.zeros((2, 4, 2), np.float32)}}, "its map do"),
        ({"arrays": {"map/index": np.array([[0, 5, 6]])}}, "damaged"),
        ({"arrays": {"neighbours/similarity": np.zeros((2, 1, 3), np.float32)}}, "its neighbours do"),
        ({"arrays": {"neighbours/labels": np.array([2])}}, "its labels do"),
        ({"arrays": {"neighbours/train_index": np.array([[[3, 0]], [[8, 3]]])}}, "its images do"),
        ({"arrays": {"images/ends": np.array([2, 4])}}, "damaged"),
        ({"arrays": {"masks/context": np.ones((2, 1, 3), bool)}}, "its masks do"),
        ({"splits": ["test"]}, "damaged"),
        ({"levels": [[0, "fine"]]}, "its map do"),
        ({"levels": 3}, "damaged"),
        ({"training": None}, "damaged"),
    ],
    ids=str,
)
def test_gallery__parts_that_do_not_fit_each_other_are_named(
    gallery: Gallery, tmp_path: Path, change: dict, part: str
) -> None:
    path = write_gallery(gallery, tmp_path)
    rewrite(path, **change)
    with pytest.raises(ResultError, match=part) as raised:
        read_gallery(path)
    assert "hjepa eval writes it anew" in str(raised.value)


def test_gallery__file_mode_follows_the_umask(gallery: Gallery, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(write_gallery(gallery, tmp_path).stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
