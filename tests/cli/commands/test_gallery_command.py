"""Galleries that `hjepa eval` writes: the stores' keys, the dataset's images and labels, a run's curves and masks."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import quick_page
from hjepa_pretrain.cli import mask_examples
from hjepa_pretrain.cli.mask_examples import draw_mask_examples
from PIL import Image

from hjepa_eval.config import load
from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.errors import ResultError
from hjepa_eval.evaluation.gallery import projection
from hjepa_eval.evaluation.gallery.gallery import write_galleries
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.settings import EvalSettings
from hjepa_eval.results.files import find_galleries
from hjepa_eval.results.gallery import Gallery

QUICK = ("--quiet", "--episodes", 20, "--shots", 1, "--c", 1)
ALONE = (*QUICK, "--baselines", "none")


def galleries(folder: str = "results") -> dict[str, Gallery]:
    return {each.model: each for each in find_galleries([Path(folder)])}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def check_images(gallery: Gallery, images: Mapping[str, ImageDataset]) -> None:
    """Check that every image and label of a gallery is the dataset's own; its images are small enough for PNG."""
    for (split, place), content in gallery.images.items():
        assert (pixels(content) == images[split].image(place).permute(1, 2, 0).numpy()).all(), (split, place)
    shown = gallery.neighbourhoods
    assert (gallery.map.labels == images["test"].labels[gallery.map.index]).all()
    assert (shown.labels == images["test"].labels[shown.index]).all()
    assert (shown.train_labels == images["train"].labels[shown.train_index]).all()


def test_eval__writes_a_gallery_of_the_model_and_of_each_baseline(hjepa, digits_run: Path) -> None:
    data = ("--dataset", "digits", "--max-samples", 300)
    baselines = ("--baselines", "random", "--baselines", "pixels:8")
    done = hjepa("eval", "--model", digits_run, *data, *baselines, *QUICK, "--json")
    assert done.code == 0, done.err
    found = galleries()
    stores = {}
    for record in json.loads(done.out)["records"]:
        keys = (record["extraction"]["train_store"], record["extraction"]["test_store"])
        stores[record["model"]["name"]] = (record["dataset"]["name"], *keys)
    assert {name: (each.dataset, each.train_store, each.test_store) for name, each in found.items()} == stores
    assert len(found) == 3
    images = {split: load_dataset("digits", split) for split in ("train", "test")}
    for gallery in found.values():
        check_images(gallery, images)
        assert gallery.map.index.tolist() == list(range(300))
        assert gallery.neighbourhoods.train_index.max() < 300
    own, twin = found[str(digits_run)], found[f"random:{digits_run}"]
    assert own.training[-1]["knn"]
    assert (own.masks.index < 300).all()
    assert {("train", place) for place in own.masks.index.tolist()} <= own.images.keys()
    assert (twin.training, twin.masks) == ((), None)
    assert own.levels == twin.levels
    assert own.map.method.startswith("PCA"), "HJEPA_MAP says so"
    # Records beside galleries are found as before.
    assert hjepa("report", "results", "--format", "json").code == 0


def test_eval__gallery_neighbours_are_those_of_the_pixels(hjepa) -> None:
    done = hjepa("eval", "--model", "pixels:8", "--dataset", "digits", *QUICK)
    assert done.code == 0, done.err
    (gallery,) = galleries().values()
    images = {split: load_dataset("digits", split) for split in ("train", "test")}
    check_images(gallery, images)
    flat = {
        split: np.stack([each.image(place)[0].numpy().ravel() for place in range(len(each))]).astype(float)
        for split, each in images.items()
    }
    unit = {split: each / np.linalg.norm(each, axis=1, keepdims=True) for split, each in flat.items()}
    shown = gallery.neighbourhoods
    cosines = unit["test"][shown.index] @ unit["train"].T
    assert shown.train_index.shape == (1, 12, 8)
    assert shown.similarity[0] == pytest.approx(-np.sort(-cosines, axis=1)[:, :8], abs=1e-5)
    assert np.take_along_axis(cosines, shown.train_index[0], axis=1) == pytest.approx(shown.similarity[0], abs=1e-5)
    assert shown.chosen == ("drawn at random",) * 12, "one level cannot disagree with itself"
    assert max(Counter(shown.labels.tolist()).values()) == 2


def test_eval__no_gallery_writes_none_and_the_same_seed_the_same(hjepa) -> None:
    data = ("--model", "random:vit_tiny_patch2_8?taps=1,2", "--dataset", "digits", "--max-samples", 200, *ALONE)
    assert hjepa("eval", *data, "--no-gallery", "--out", "none").code == 0
    assert [file.suffix for file in sorted(Path("none").iterdir())].count(".json") == 3
    assert list(Path("none").glob("*.safetensors")) == []
    for out in ("a", "b"):
        assert hjepa("eval", *data, "--seeds", "3,4", "--out", out).code == 0
    files = [next(Path(out).glob("*.gallery.safetensors")).read_bytes() for out in ("a", "b")]
    assert files[0] == files[1]
    (gallery,) = galleries("a").values()
    record = json.loads(next(Path("a").glob("*knn*.json")).read_text())
    assert record["seeds"] == [3, 4]
    assert gallery.test_store == record["extraction"]["test_store"], "both are of the first seed"
    assert any(why.startswith("levels disagree") for why in gallery.neighbourhoods.chosen)


def photos(root: Path) -> Path:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(12):
                noise = draw.integers(0, 60, (8, 8, 3), np.uint8)
                Image.fromarray(noise + np.uint8(150 * number)).save(folder / f"{image:02}.png")
    return root


def test_eval__images_that_cannot_be_read_move_no_other(hjepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, quick_page.NAME)  # The page is looked at here.
    root = photos(tmp_path / "photos")
    broken = {"train": "cat/00.png", "test": "dog/03.png"}
    for split, name in broken.items():
        (root / split / name).write_bytes(b"\x89PNG\r\n\x1a\nno image")
    options = ("--dataset", f"folder:{root}", "--on-bad-image", "skip", "--ways", 2, "--queries", 4)
    done = hjepa("eval", "--model", "pixels:8", *options, *QUICK)
    assert done.code == 0, done.err
    (gallery,) = galleries().values()
    images = {split: load_dataset(f"folder:{root}", split) for split in broken}
    lost = {
        split: next(place for place in range(24) if str(images[split].image_name(place)) == name)
        for split, name in broken.items()
    }
    assert lost["train"] < 23, "others come after it"
    assert gallery.map.index.tolist() == [place for place in range(24) if place != lost["test"]]
    assert not {("train", lost["train"]), ("test", lost["test"])} & gallery.images.keys()
    assert gallery.names.keys() == gallery.images.keys()
    for (split, place), name in gallery.names.items():
        assert name == f"{split}/{images[split].image_name(place)}"
    page = Path("results/report.html").read_text()
    for place in gallery.neighbourhoods.index.tolist():
        assert f'<span class="source">{gallery.names["test", place]}</span>' in page
    with np.load(next(Path("results").glob("*knn*.npz"))) as outcomes:
        assert outcomes["names"].tolist() == [f"test/{images['test'].image_name(int(i))}" for i in outcomes["index"]]
        assert outcomes["class_names"].tolist() == ["cat", "dog"]
    check_images(gallery, images)
    shown = gallery.neighbourhoods
    flat = {place: pixels(content).ravel().astype(float) for place, content in gallery.images.items()}
    for query, places, cosines in zip(shown.index, shown.train_index[0], shown.similarity[0], strict=True):
        one = flat["test", int(query)]
        others = [flat["train", int(place)] for place in places]
        found = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in others]
        assert cosines == pytest.approx(found, abs=1e-5)


def test_eval__gallery_that_cannot_be_written_loses_no_record(hjepa, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise ResultError("cannot write results/x: No space left on device")

    monkeypatch.setattr("hjepa_eval.evaluation.gallery.gallery.write_gallery", full)
    noisy = [word for word in QUICK if word != "--quiet"]
    done = hjepa("eval", "--model", "pixels:8", "--dataset", "digits", "--max-samples", 200, *noisy)
    assert done.code == 0, done.err
    assert "no gallery of pixels:8: cannot write results/x: No space left on device" in done.err
    assert len(list(Path("results").glob("*.json"))) == 3
    assert "pixels:8" in done.out


def test_eval__map_that_cannot_be_made_is_refused_before_any_work(hjepa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hjepa_eval.evaluation.gallery.projection.find_spec", lambda name: None)
    done = hjepa("eval", "--model", "pixels:8", "--dataset", "digits", "--map", "umap")
    assert done.code == 2
    assert "pip install 'hjepa[umap]'" in done.err
    assert not Path("results").exists() or not any(Path("results").iterdir())
    monkeypatch.setenv("HJEPA_MAP", "umap")
    data = ("--model", "pixels:8", "--dataset", "digits", "--max-samples", 100)
    assert hjepa("eval", *data, "--no-gallery", *QUICK).code == 0


MASKING = {
    "multi_block": {"context_tokens": 6, "target_tokens": 4},
    "hierarchical": {"type": "hierarchical", "context_tokens": 5},
    "random": {"type": "random", "context_tokens": 7},
    "rolled": {"context_tokens": 6, "roll": 0.5, "saliency": 1.0},
}


def run_with(digits_run: Path, folder: Path, masking: Mapping, **train: float) -> Path:
    """Return a copy of a run's settings with other masks."""
    config = json.loads((digits_run / "config.json").read_text())
    config["settings"]["masking"] = dict(masking)
    config["settings"]["train"] |= train
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", MASKING)
def test_masks__are_those_of_the_runs_own_settings(digits_run: Path, tmp_path: Path, kind: str) -> None:
    run = run_with(digits_run, tmp_path / "run", MASKING[kind])
    places = np.array([2, 3, 5, 8])
    masks, said = draw_mask_examples(run, places)
    sets = 2 if kind == "hierarchical" else 1
    blocks = 1 if kind == "random" else 4
    assert masks.kind == MASKING[kind].get("type", "multi_block")
    assert masks.grid == (4, 4)
    assert masks.index is places
    assert (masks.context.shape, masks.targets.shape) == ((sets, 4, 16), (sets, 4, blocks, 16))
    assert masks.context.dtype == masks.targets.dtype == np.bool_
    assert (masks.context.sum(axis=-1) == MASKING[kind]["context_tokens"]).all()
    assert masks.targets.any(axis=(-1, -2)).all()
    assert not (masks.targets.any(axis=2) & masks.context).any(), "what is seen is not predicted"
    assert said == (mask_examples.WITHOUT_SALIENCY if kind == "rolled" else "")
    again, _ = draw_mask_examples(run, places)
    assert (again.context == masks.context).all()
    assert (again.targets == masks.targets).all()


@pytest.mark.parametrize("kind", ["multi_block", "hierarchical", "random"])
def test_masks__blocks_together_are_what_a_step_hides(digits_run: Path, tmp_path: Path, kind: str) -> None:
    from hjepa_pretrain.checks import build_settings
    from hjepa_pretrain.config.geometry import resolve_geometry
    from hjepa_pretrain.masks import create_mask_generator

    run = run_with(digits_run, tmp_path / "run", MASKING[kind])
    masks, _ = draw_mask_examples(run, np.arange(4))
    settings = build_settings(json.loads((run / "config.json").read_text())["settings"], "test")
    geometry, count = resolve_geometry(settings), MASKING[kind]["context_tokens"]
    size = {"image_size": geometry.image_size, "patch_size": geometry.patch_size, "num_levels": 2}
    generator = create_mask_generator(settings.masking, **size, context_tokens=count, seed=settings.train.seed)
    sets = len(masks.context)
    drawn = generator.sample(4 * sets, step=0, context_tokens=count, target_tokens=16 - count)
    for number in range(sets):
        own = slice(number, None, sets)
        assert drawn.level is None or (drawn.level[own] == number).all()
        assert (masks.targets[number].any(axis=1) == drawn.target_flags[own].numpy()).all()
        for shown, tokens in zip(masks.context[number], drawn.context[own].numpy(), strict=True):
            assert np.flatnonzero(shown).tolist() == sorted(tokens.tolist())


def test_masks__run_that_predicts_no_tokens_has_none(digits_run: Path, tmp_path: Path) -> None:
    whole = {"whole_image": {"variance": 1.0}}
    run = run_with(digits_run, tmp_path / "run", {}, predicted_share=0.0, **whole)
    assert draw_mask_examples(run, np.arange(4)) == (None, mask_examples.NO_TOKENS)


@pytest.mark.parametrize(("masking", "word"), [({"colour": "blue"}, "colour"), ({"context_tokens": 99}, "99")])
def test_masks__that_cannot_be_drawn_are_left_out_with_the_reason(
    digits_run: Path, tmp_path: Path, masking: Mapping, word: str
) -> None:
    run = run_with(digits_run, tmp_path / "run", masking)
    masks, why = draw_mask_examples(run, np.arange(4))
    assert masks is None
    assert "could not be drawn" in why
    assert word in why
    assert "\n" not in why


def test_gallery__large_test_sets_are_sampled_and_it_is_said(
    digits_run: Path, hjepa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hjepa_eval.evaluation.gallery.gallery.MOST_ON_MAP", 40)
    assert hjepa("eval", "--model", digits_run, *ALONE).code == 0
    (gallery,) = galleries().values()
    assert gallery.notes == ("of 355 test images the map shows the first 40; queries are chosen among them",)
    assert gallery.map.index.tolist() == list(range(40))
    assert gallery.neighbourhoods.index.max() < 40
    assert set(Counter(gallery.map.labels.tolist()).values()) == {4}, "a prefix is balanced over classes"


def test_eval__gallery_of_a_context_encoder_has_the_runs_curves_and_masks(hjepa, digits_run: Path) -> None:
    run = Path(shutil.copytree(digits_run, "run"))
    done = hjepa("eval", "--model", f"{run}?encoder=context", "--max-samples", 100, *ALONE)
    assert done.code == 0, done.err
    (gallery,) = galleries().values()
    assert gallery.model == "run?encoder=context"
    assert gallery.training
    assert gallery.masks.index.shape == (4,)


@pytest.mark.parametrize(
    ("installed", "method", "said"),
    [(True, "umap", True), (True, "auto", False), (True, "pca", False), (False, "auto", False)],
)
def test_galleries__that_take_a_umap_say_what_takes_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: bool, method: str, said: bool
) -> None:
    monkeypatch.setattr(projection, "_has_umap", lambda: installed)
    settings = load(EvalSettings, flags={"model": "pixels", "map": method})
    assert write_galleries({}, settings, Stderr(quiet=False)) == []
    assert ("UMAP, which compiles first (--map pca is quick)" in capsys.readouterr().err) == said
