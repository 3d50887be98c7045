"""Classes on a page: of several seeds means per image, and what of many levels is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_page import CLASSES, KEY, located_of, with_outcomes
from made_records import record_of

from hjepa_eval.report.page.classes import classes_of
from hjepa_eval.report.page.models import page_models
from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import select
from hjepa_eval.results.outcomes import SampleOutcomes

LABELS = np.arange(40, dtype=np.int64) % 10


def of_two_seeds(folder: Path) -> Located:
    """Return a record of 40 images, four of a class: the next class is guessed from the n-th image on.

    At level 0 n is 10 and 20 with the two seeds, at level 1 it is 30 and 40.
    """
    right = {0: (10, 20), 1: (30, 40)}
    guesses = {
        (level, f"{KEY} seed={seed}"): np.where(np.arange(40) < count, LABELS, (LABELS + 1) % 10)
        for level, counts in right.items()
        for seed, count in enumerate(counts)
    }
    shares = {
        (level, KEY): np.mean([guesses[level, f"{KEY} seed={seed}"] == LABELS for seed in (0, 1)], axis=0)
        for level in right
    }
    record = record_of(values=(0.375, 0.875), seeds=(0, 1))
    samples = SampleOutcomes(np.arange(40, dtype=np.int64), LABELS, shares, guesses)
    return Located(with_outcomes(record, samples, folder), folder)


def test_classes__of_several_seeds_are_means_over_images(tmp_path: Path) -> None:
    located = of_two_seeds(tmp_path)
    (model,) = page_models(select([located]), [])
    (view,) = classes_of(model, CLASSES, select([located]).heading)
    assert [each.label for each in view.confusions] == ["level 0, mean of 2 runs", "level 1, mean of 2 runs"]
    # Three of four images with one seed and two with the other; none and one at level 1.
    assert [each.confused[0] for each in view.confusions] == [
        (CLASSES[0], CLASSES[1], "2.5", 0.625),
        (CLASSES[0], CLASSES[1], "0.5", 0.125),
    ]
    assert "30 of 2 x 40 right" in view.confusions[0].picture.text
    (difference,) = view.differences
    assert difference.picture.title == "kNN k=20, level 1 - level 0, mean of 2 runs"
    # Every class gains two images of four, which is not beyond its interval.
    assert "Of 10 classes 0 gain and 0 lose" in difference.picture.text
    page = build_page([located], [])
    assert "Most often confused, level 0, mean of 2 runs" in page
    assert "no two to compare class by class" not in page


def test_classes__of_one_seed_are_whole_images(tmp_path: Path) -> None:
    located = located_of(tmp_path)
    (model,) = page_models(select([located]), [])
    (view,) = classes_of(model, CLASSES, select([located]).heading)
    assert view.confusions[0].label == "level 0"
    assert view.confusions[0].confused[0][2] == "3"


def test_classes__says_how_many_pairs_of_levels_are_left_out(tmp_path: Path) -> None:
    located = located_of(tmp_path, right=(5, 10, 15, 20, 30))
    (model,) = page_models(select([located]), [])
    (view,) = classes_of(model, CLASSES, select([located]).heading)
    assert [each.pair for each in view.differences] == ["4-0", "4-1", "4-2", "4-3"][::-1]
    assert view.more_pairs == 6
    assert "6 more pairs of levels are not shown" in build_page([located], [])
