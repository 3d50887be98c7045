from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from folders import SUPPORT
from made_page import CLASSES, KEY, NAME, TRAIN, gallery_of, located_of, picture, with_outcomes, with_run
from made_records import HOSTILE, record_of
from sklearn.datasets import load_digits

from hjepa_eval.errors import ResultError
from hjepa_eval.report.page import budget as page_budget
from hjepa_eval.report.page.budget import fit
from hjepa_eval.report.page.classes import classes_of, pairs_of_levels
from hjepa_eval.report.page.models import page_models
from hjepa_eval.report.page.neighbours import collect_thumbnails
from hjepa_eval.report.page.page import build_page, write_page
from hjepa_eval.report.page.pairs import compare_all, headlines
from hjepa_eval.report.page.parts import PARTS
from hjepa_eval.report.page.provenance import sources
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import select
from hjepa_eval.results.files import read_record
from hjepa_eval.results.outcomes import SampleOutcomes
from hjepa_eval.results.provenance import make_provenance
from hjepa_eval.results.records import Predictions

VOID = {"meta", "br", "input", "link", "img", "hr"}


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each part, read as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.part = ""
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.part = str(dict(attributes)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"
        self.part = "" if tag == "section" else self.part

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text.setdefault(self.part, []).append(data)

    def of(self, part: str) -> str:
        return " ".join("".join(self.text[part]).split())


def test_page__has_every_part_well_formed(tmp_path: Path) -> None:
    located = [located_of(tmp_path), located_of(tmp_path, "pixels", right=(5,))]
    read = Reader(build_page(located, [with_run(gallery_of())]))
    assert read.open == []
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    assert [attributes["id"] for tag, attributes in read.tags if tag == "section"] == [
        name for name, part in PARTS.items() if not part.shown_by
    ]
    for part, expected in {
        "": "level 1, chosen on train",
        "overview": "level 1 - level 0 +50.0",
        "classes": "Most often confused, level 0",
        "neighbours": "drawn at random",
        "map": "PCA",
        "pretraining": "multiblock masks",
        "models": "Paired tests, runs/demo minus pixels",
        "provenance": "scikit-learn",
    }.items():
        assert expected in read.of(part), part


def test_page__names_of_data_are_text_and_nothing_else(tmp_path: Path) -> None:
    located = [
        located_of(tmp_path, HOSTILE, dataset=HOSTILE, note=HOSTILE),
        located_of(tmp_path, NAME, dataset=HOSTILE),
    ]
    levels = tuple(level.model_copy(update={"name": HOSTILE}) for level in located[0].record.levels)
    hostile = located[0].record.model_copy(update={"levels": levels, "deviations": (HOSTILE,)})
    gallery = replace(gallery_of(HOSTILE), dataset=HOSTILE, notes=(HOSTILE,), levels=((0, HOSTILE), (1, NAME)))
    gallery = replace(gallery, neighbourhoods=replace(gallery.neighbourhoods, chosen=(HOSTILE,) * 4))
    page = build_page([Located(hostile, tmp_path), located[1]], [gallery])
    read = Reader(page)
    assert read.open == []
    assert [tag for tag, _ in read.tags].count("script") == 2
    assert [tag for tag, attributes in read.tags for name in attributes if name.startswith("on")] == []
    for part in ("", "overview", "classes", "neighbours", "map", "models", "provenance"):
        assert NAME in read.of(part), part
    assert page.count("<script") == 2
    assert json.loads(re.search('id="data">(.*?)</script>', page)[1])["classes"] == list(CLASSES)


def test_page__policy_allows_its_own_script_and_no_network(tmp_path: Path) -> None:
    page = build_page([located_of(tmp_path)], [gallery_of()])
    script = re.findall("<script>(.*?)</script>", page, re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = re.search('Content-Security-Policy" content="(.*?)"', page)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    sources = [value for _, each in Reader(page).tags for name, value in each.items() if name in ("src", "href")]
    assert [value for value in sources if not str(value).startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!data:|#)", page) == []


def test_page__says_what_old_records_lack_and_how_to_add_it() -> None:
    folder = SUPPORT / "records"
    read = Reader(build_page([Located(read_record(folder / "schema_1_knn.json"), folder)], []))
    for part, expected in {
        "overview": "running the same command again",
        "profile": "hjepa profile",
        "classes": "--predictions",
        "neighbours": "hjepa eval",
        "map": "hjepa eval",
        "pretraining": "hjepa eval --model runs/NAME",
        "models": "hjepa eval --baselines random",
        "provenance": "hjepa",
    }.items():
        assert expected in read.of(part), part
    assert read.open == []


def test_page__refuses_nothing_at_all_and_mixed_datasets(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="hjepa eval writes some"):
        build_page([], [])
    with pytest.raises(ResultError, match="cannot mix datasets"):
        build_page([Located(record_of(), tmp_path), Located(record_of(dataset="cifar10"), tmp_path)], [])


def test_write_page__leaves_nothing_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="--out") as failed:
        write_page([Located(record_of(), tmp_path)], [], tmp_path / "file" / "page.html")
    assert "\n" not in str(failed.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    written = write_page([Located(record_of(model="a\udcff"), tmp_path)], [], tmp_path / "new" / "page.html")
    assert written.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in written.parent.iterdir()] == ["page.html"]


def test_provenance__settings_stand_once_with_all_probes_that_have_them(tmp_path: Path) -> None:
    records = [record_of("knn"), record_of("linear"), record_of("knn", model="pixels", values=(0.5,))]
    other = make_provenance(seed=0, device="cpu", settings={"k": [7]}, seconds={})
    records.append(record_of("fewshot").model_copy(update={"provenance": other}))
    found = sources(page_models(select([Located(record, tmp_path) for record in records]), []))
    assert [whose for whose, _ in found.settings] == ["runs/demo: knn, linear; pixels: knn", "runs/demo: fewshot"]
    assert [json.loads(text) for _, text in found.settings] == [{"k": [20]}, {"k": [7]}]


def test_page__is_the_same_for_the_same_records(tmp_path: Path) -> None:
    located, galleries = [located_of(tmp_path)], [with_run(gallery_of())]
    assert build_page(located, galleries) == build_page(located, galleries)


def test_headlines__are_the_chosen_level_and_its_lead_over_baselines(tmp_path: Path) -> None:
    located = [located_of(tmp_path, right=(10, 30)), located_of(tmp_path, "random:runs/demo", right=(12, 8))]
    selection = select([*located, Located(record_of(model="pixels", values=(0.2,)), tmp_path)])
    models = page_models(selection, [])
    compared, more = compare_all(models)
    assert (len(compared), more) == (2, 0)
    [headline] = headlines(models, compared, selection.heading)
    assert (headline.probe, headline.level, headline.how, headline.score.value) == (
        "kNN k=20",
        1,
        "chosen on train",
        0.75,
    )
    untrained, pixels = headline.leads
    assert (untrained.over, pixels.over) == ("the untrained encoder", "raw pixels")
    # 30 of 40 against 8 of 40 on the same images; pixels keep no outcomes, so there is no interval.
    assert untrained.difference == pytest.approx(22 / 40)
    assert untrained.test.low < 22 / 40 < untrained.test.high
    assert pixels.difference == pytest.approx(0.55)
    assert pixels.test is None
    assert "--predictions" in compared[1].why_not


def test_headlines__fewer_points_are_not_called_over(tmp_path: Path) -> None:
    located = [located_of(tmp_path, right=(10, 12)), Located(record_of(model="pixels", values=(0.9,)), tmp_path)]
    page = build_page(located, [])
    assert "<b>-60.0</b> points against raw pixels" in page
    assert "points over" not in page


def test_neighbours__are_marked_right_and_wrong_as_in_the_gallery(tmp_path: Path) -> None:
    gallery = gallery_of()
    read = Reader(build_page([located_of(tmp_path)], [gallery]))
    near = gallery.neighbourhoods
    right = int((near.train_labels == near.labels[None, :, None]).sum())
    marks = Counter(attributes.get("class") for tag, attributes in read.tags if tag == "li")
    assert 0 < right < near.train_labels.size
    assert (marks["right"], marks["wrong"]) == (right, near.train_labels.size - right)
    spoken = [str(each["aria-label"]) for _, each in read.tags if "aria-label" in each]
    assert sum(label.endswith(", right") for label in spoken) == right


def test_galleries__belong_to_the_records_of_the_same_features(tmp_path: Path) -> None:
    record = record_of(model="pixels")
    other = record.model_copy(update={"extraction": record.extraction.model_copy(update={"test_store": "c"})})
    models = page_models(
        select([located_of(tmp_path), Located(other, tmp_path)]), [gallery_of(), gallery_of("elsewhere")]
    )
    assert [model.gallery and model.gallery.model for model in models] == ["runs/demo", None]


def test_pretraining__says_why_there_are_no_masks(tmp_path: Path) -> None:
    run = with_run(gallery_of())
    for gallery, said in (
        (replace(run, masks=None, no_masks="The masks could not be drawn: masking.colour is unknown."), "colour is"),
        (replace(run, masks=None), "holds no masks and does not say why"),
        (replace(run, masks=None, training=(), no_masks="This run predicts no tokens."), "predicts no tokens"),
        (replace(run, images={k: v for k, v in run.images.items() if k != ("train", int(run.masks.index[0]))}), "copy"),
    ):
        shown = Reader(build_page([located_of(tmp_path)], [gallery])).of("pretraining")
        assert said in shown
        assert ("predicts no tokens" in shown) == ("predicts no tokens" in gallery.no_masks)


def test_thumbnails__stand_once_and_stop_where_the_file_grows_too_large() -> None:
    one, other = gallery_of(), gallery_of("random:runs/demo")
    found = collect_thumbnails([one, other])
    assert len(found.names) == len({*one.images.values()})
    assert found.rules.count("background-image") == len(found.names)
    digit = picture(load_digits().images[TRAIN])
    assert found.rules.count(base64.b64encode(digit).decode()) == 1
    assert found.name(one, ("test", 0)) == found.name(other, ("test", 0)) is not None
    assert found.name(one, ("test", 999)) is None
    few = collect_thumbnails([one], most_bytes=2_000)
    assert few.left_out == len(found.names) - len(few.names) > 0
    # What is shown without being asked for comes first.
    assert few.name(one, ("test", 0)) is not None


def test_thumbnails__refuse_what_is_no_image() -> None:
    gallery = gallery_of()
    with pytest.raises(ResultError, match="neither JPEG nor PNG"):
        collect_thumbnails([replace(gallery, images={**gallery.images, ("test", 0): b"<svg onload=alert(1)>"})])


def test_page__stays_small_with_many_points_models_and_levels(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    whole = gallery_of("runs/demo", levels=6, on_map=1500)
    # As large as photographs of 32 pixels are; the same test images are in every gallery.
    photos = {key: b"\xff\xd8" + draw.bytes(1_200) for key in whole.images}
    names = ("runs/demo", "random:runs/demo", "kmeans")
    galleries = [replace(whole, model=name, images=photos, test_store=f"b{n}") for n, name in enumerate(names)]
    located = []
    for number, name in enumerate(names):
        record = record_of(model=name, values=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
        stores = record.extraction.model_copy(update={"test_store": f"b{number}"})
        located.append(Located(record.model_copy(update={"extraction": stores}), tmp_path))
    page = build_page(located, galleries)
    assert len(page.encode()) < 8_000_000
    assert "666 of 1,500 images" in Reader(page).of("provenance")


def located_for(folder: Path, number: int, probe: str, *, levels: int) -> Located:
    """Return a record of a model of its own features that names outcomes; the file itself is not there."""
    record = record_of(probe, model=f"runs/{number}", values=(0.5,) * levels)
    stores = record.extraction.model_copy(update={"test_store": f"b{number}"})
    outcomes = Predictions(file=f"{number}.npz", sha256="0" * 64)
    return Located(record.model_copy(update={"extraction": stores, "predictions": outcomes}), folder)


def test_fit__many_models_probes_and_levels_stay_within_the_limits(tmp_path: Path) -> None:
    whole = gallery_of(levels=6, queries=12)
    located = [located_for(tmp_path, n, probe, levels=6) for n in range(40) for probe in ("knn", "linear")]
    galleries = [replace(whole, model=f"runs/{n}", test_store=f"b{n}") for n in range(40)]
    fitting = fit(page_models(select(located), galleries), 100)
    shown = [model for model in fitting.models if model.gallery is not None]
    assert [model.number for model in shown] == list(range(len(shown)))
    assert 1 < len(shown) < 40
    assert sum(page_budget._gallery_size(model.gallery) for model in shown) <= page_budget.MOST_OF_GALLERIES
    assert sorted(fitting.galleries_left) == list(range(len(shown), 40))
    assert "--model runs/39 " in fitting.galleries_left[39]
    kept = [each for model in fitting.with_classes for each in model.located]
    assert sum(page_budget._classes_size(each, 100) for each in kept) <= page_budget.MOST_OF_CLASSES
    assert 1 < len(kept) < 80
    assert [each.record.model.name for each in kept[:2]] == ["runs/0", "runs/0"]
    assert "runs/2 (linear)" in fitting.classes_left
    assert f"and {80 - len(kept) - 20} more" in fitting.classes_left
    assert "--model NAME" in fitting.classes_left


def test_fit__the_first_in_line_is_shown_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_budget, "MOST_OF_CLASSES", 1)
    monkeypatch.setattr(page_budget, "MOST_OF_GALLERIES", 1)
    located = [located_for(tmp_path, n, "knn", levels=2) for n in range(2)]
    fitting = fit(page_models(select(located), [replace(gallery_of(), model="runs/0", test_store="b0")]), 10)
    assert [len(model.located) for model in fitting.with_classes] == [1, 0]
    assert fitting.models[0].gallery is not None
    assert fitting.galleries_left == {}, "the other has none to leave out"


@pytest.mark.parametrize("classes", [10, 40])
def test_fit__sizes_are_no_smaller_than_the_pictures(tmp_path: Path, classes: int) -> None:
    draw = np.random.default_rng(0)
    names = [f"class number {number}" for number in range(classes)]
    labels = np.arange(2000) % classes
    guesses = [np.where(draw.random(2000) < 0.3, labels, draw.integers(0, classes, 2000)) for _ in range(3)]
    samples = SampleOutcomes(
        np.arange(2000),
        labels,
        {(level, KEY): guess == labels for level, guess in enumerate(guesses)},
        {(level, KEY): guess for level, guess in enumerate(guesses)},
    )
    located = Located(with_outcomes(record_of(values=(0.3, 0.3, 0.3)), samples, tmp_path), tmp_path)
    [model] = page_models(select([located]), [])
    [view] = classes_of(model, names, select([located]).heading)
    pictures = [each.picture for each in (*view.confusions, *view.differences)]
    assert len(pictures) == 6
    drawn = sum(len(picture.svg) for picture in pictures)
    assert drawn <= page_budget._classes_size(located, classes) <= 2.5 * drawn


def test_page__pictures_beyond_the_budget_are_named_with_how_to_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_budget, "MOST_OF_CLASSES", 150_000)
    monkeypatch.setattr(page_budget, "MOST_OF_GALLERIES", 60_000)
    located, galleries = [], []
    for number in range(4):
        made = located_of(tmp_path, f"runs/{number}")
        stores = made.record.extraction.model_copy(update={"test_store": f"b{number}"})
        located.append(replace(made, record=made.record.model_copy(update={"extraction": stores})))
        galleries.append(with_run(replace(gallery_of(f"runs/{number}"), test_store=f"b{number}")))
    read = Reader(build_page(located, galleries))
    matrices = [each for tag, each in read.tags if tag == "figure" and each["class"] == "picture matrix"]
    assert len(matrices) == 2
    assert "left out: runs/1 (knn), runs/2 (knn), runs/3 (knn). hjepa report --format html" in read.of("classes")
    for part in ("neighbours", "map", "pretraining"):
        assert "hjepa report --format html --model runs/3 shows those of runs/3." in read.of(part), part
        assert "--model runs/0" not in read.of(part), part
    assert [each["data-of"] for _, each in read.tags if "data-of" in each] == ["0", "0"]


def test_map__says_that_only_some_classes_have_colours(tmp_path: Path) -> None:
    ten_of_30 = replace(gallery_of(), class_names=tuple(f"n{number}" for number in range(30)))
    many = replace(ten_of_30, map=replace(ten_of_30.map, labels=np.arange(60) % 30))
    said = "The 19 most frequent classes have colours, the other 11 are grey."
    for gallery, count in ((many, 3), (ten_of_30, 0), (gallery_of(), 0)):  # In the text of both pictures too.
        assert Reader(build_page([Located(record_of(), tmp_path)], [gallery])).of("map").count(said) == count


def test_page__of_a_thousand_classes_is_small(tmp_path: Path) -> None:
    names = tuple(f"{NAME} {number}" for number in range(1000))
    record = located_of(tmp_path).record
    levels = tuple(level.model_copy(update={"per_class": {}}) for level in record.levels)
    data = record.dataset.model_copy(update={"num_classes": 1000})
    many = Located(record.model_copy(update={"levels": levels, "dataset": data}), tmp_path)
    page = build_page([many], [replace(gallery_of(), class_names=names)])
    assert len(page.encode()) < 2_000_000


def test_confusions__of_many_classes_show_the_same_classes_at_all_levels(tmp_path: Path) -> None:
    labels = np.arange(400) % 40
    guesses = [(labels + (labels < 30)) % 40, (labels + (labels >= 10)) % 40]  # Other classes are wrong at each level.
    samples = SampleOutcomes(
        np.arange(400),
        labels,
        {(level, KEY): guess == labels for level, guess in enumerate(guesses)},
        {(level, KEY): guess for level, guess in enumerate(guesses)},
    )
    located = Located(with_outcomes(record_of(values=(0.3, 0.3)), samples, tmp_path), tmp_path)
    [model] = page_models(select([located]), [])
    names = [f"n{number}" for number in range(40)]
    [view] = classes_of(model, names, select([located]).heading)
    shown = [[name for name in names if f" {name}<" in each.picture.svg] for each in view.confusions]
    assert len(shown[0]) == 30
    assert shown[0] == shown[1]
    assert "most errors at all levels" in view.confusions[0].picture.title


def test_pairs_of_levels__of_many_levels_are_those_with_the_chosen_one(tmp_path: Path) -> None:
    record = located_of(tmp_path).record
    assert pairs_of_levels(record, [0, 1, 2], "top1 k=20") == [(2, 1), (2, 0), (1, 0)]
    assert pairs_of_levels(record, [0, 1, 2, 3, 4], "top1 k=20") == [(4, 1), (3, 1), (2, 1), (1, 0)]


def test_build_page__names_from_data_move_no_cursor_and_turn_no_line(tmp_path: Path) -> None:
    located = located_of(tmp_path, model="\x1b]0;pwn\x07x\u202eb")
    gallery = replace(gallery_of(model=located.record.model.name), class_names=("\x9b2J\u2066", *CLASSES[1:]))
    page = build_page([located], [gallery])
    assert all(character.isprintable() or character in "\t\n" for character in page)
    assert r"\x1b]0;pwn\x07x\u202eb" in page
