"""Models against each other: which records are paired, what a page says about baselines, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_page import located_of
from made_records import record_of

from hjepa_eval.report.page.models import page_models
from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.page.pairs import MOST_MODEL_PAIRS, compare_all, headlines
from hjepa_eval.report.tables.model_pairs import Located, compare_models
from hjepa_eval.report.tables.selection import select
from hjepa_eval.report.tables.standing import called, is_twin_of_another

WARM, COLD = {"temperature": 0.1}, {"temperature": 0.07}


def leads_of(located: list[Located]) -> dict[tuple[str, str], dict[str, float]]:
    """Return (model, probe) -> what it is ahead of -> by how many of the 40 images; only those that were tested."""
    models = page_models(select(located), [])
    found = headlines(models, compare_all(models)[0], select(located).heading)
    return {
        (each.model.name, each.probe): {
            lead.over: round(40 * lead.difference) for lead in each.leads if lead.test is not None
        }
        for each in found
    }


def test_lead__of_two_records_of_a_protocol_each_is_its_own(tmp_path: Path) -> None:
    located = [
        located_of(tmp_path, right=(10, 30), parameters=COLD),
        located_of(tmp_path, right=(10, 20), parameters=WARM),
        located_of(tmp_path, "pixels", right=(5,), parameters=COLD),
        located_of(tmp_path, "pixels", right=(15,), parameters=WARM),
    ]
    assert leads_of(located) == {
        ("runs/demo", "kNN k=20 (temperature 0.07)"): {"raw pixels": 25},
        ("runs/demo", "kNN k=20 (temperature 0.1)"): {"raw pixels": 5},
    }


def test_compare__records_of_a_protocol_are_told_apart_by_heading_and_key(tmp_path: Path) -> None:
    first = [located_of(tmp_path, right=(30,), parameters=each) for each in (COLD, WARM)]
    second = [located_of(tmp_path, "pixels", right=(5,), parameters=each) for each in (COLD, WARM)]
    pairs = compare_models(first, second)
    assert [pair.probe for pair in pairs] == ["kNN k=20 (temperature 0.07)", "kNN k=20 (temperature 0.1)"]
    expected = [(a.record.key, b.record.key) for a, b in zip(first, second, strict=True)]
    assert [(pair.records, pair.score) for pair in pairs] == [(keys, "top1 k=20") for keys in expected]


def test_compare__the_chosen_level_of_both_keeps_its_row_and_counts_once(tmp_path: Path) -> None:
    first, second = located_of(tmp_path, right=(10, 30)), located_of(tmp_path, "other", right=(8, 24))
    chosen, finest, coarsest = compare_models([first], [second])
    assert [(pair.why, pair.levels) for pair in (chosen, finest, coarsest)] == [
        ("chosen levels", (1, 1)),
        ("level 0", (0, 0)),
        ("level 1", (1, 1)),
    ]
    # Of 2 and of 6 images one model alone is right: 2 (1/2)^2 and 2 (1/2)^6; the smaller is taken twice, not thrice.
    assert (finest.test.p_value, chosen.test.p_value) == (pytest.approx(0.5), pytest.approx(1 / 32))
    assert chosen.test.p_holm == coarsest.test.p_holm == pytest.approx(2 / 32)
    assert chosen.test == coarsest.test


def test_compare__models_of_one_level_have_one_row(tmp_path: Path) -> None:
    located = [located_of(tmp_path, name, right=(count,)) for name, count in (("pixels", 10), ("kmeans", 20))]
    assert [pair.why for pair in compare_models(located[:1], located[1:])] == ["chosen levels"]


def test_lead__is_over_the_untrained_twin_of_the_model_itself(tmp_path: Path) -> None:
    names = ("runs/a", "runs/b", "random:runs/a", "random:runs/b", "random:vit")
    located = [located_of(tmp_path, name, right=(10, 30 - place)) for place, name in enumerate(names)]
    probe = "kNN k=20"
    assert leads_of(located) == {
        ("runs/a", probe): {"the untrained encoder": 2, "the untrained vit": 4},
        ("runs/b", probe): {"the untrained encoder": 2, "the untrained vit": 3},
    }


def test_lead__two_baselines_of_a_kind_are_called_by_their_names(tmp_path: Path) -> None:
    located = [located_of(tmp_path), *(located_of(tmp_path, name, right=(5,)) for name in ("pixels:8", "pixels:16"))]
    assert leads_of(located) == {("runs/demo", "kNN k=20"): {"pixels:8": 25, "pixels:16": 25}}


@pytest.mark.parametrize(
    ("baseline", "model", "another", "name"),
    [
        ("random:runs/a", "runs/a", False, "the untrained encoder"),
        ("random:runs/a", "runs/b", True, "the untrained runs/a"),
        ("random:vit?seed=1", "timm:vit?checkpoint=x", False, "the untrained encoder"),
        ("random:resnet", "runs/a", False, "the untrained resnet"),
        ("pixels:8", "runs/a", False, "raw pixels"),
        ("kmeans", "runs/a", False, "k-means"),
    ],
)
def test_baselines__belong_to_their_model_or_to_all(baseline: str, model: str, another: bool, name: str) -> None:
    views = ("runs/a", "runs/b", "timm:vit?checkpoint=x")
    assert (is_twin_of_another(baseline, model, views), called(baseline, model)) == (another, name)


def test_compare_all__every_model_keeps_its_baselines_whatever_the_limit(tmp_path: Path) -> None:
    names = [f"runs/{place}" for place in range(6)]
    located = [Located(record_of(model=name), tmp_path) for name in (*names, "random:runs/5", "pixels")]
    models = page_models(select(located), [])
    compared, more = compare_all(models)
    pairs = [(each.first.name, each.second.name) for each in compared]
    beaten, rivals = pairs[: len(names) + 1], pairs[len(names) + 1 :]
    assert sorted(beaten) == sorted([("runs/5", "random:runs/5"), *((name, "pixels") for name in names)])
    assert len(rivals) == MOST_MODEL_PAIRS
    # Fifteen pairs of six models, and five models beside the twin of the sixth.
    assert more == 15 - MOST_MODEL_PAIRS + 5
    assert f"{more} more pairs of models are not compared here" in build_page(located, [])
