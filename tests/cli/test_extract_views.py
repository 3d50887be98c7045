from __future__ import annotations

import json

import numpy as np

from hjepa_eval.evaluation.features import collect_features
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.models.given import resolve
from hjepa_eval.evaluation.rows import level_rows
from hjepa_eval.evaluation.settings import ExtractCommandSettings

COMMON = ("--model", "pixels:8", "--dataset", "digits", "--max-samples", 40)


def test_views__are_stored_beside_the_plain_pass_of_train(hjepa) -> None:
    stores = json.loads(hjepa("extract", *COMMON, "--views", 2, "--json").out)
    assert [(store["split"], store["view"]) for store in stores] == [
        ("train", None),
        ("test", None),
        ("train", 1),
        ("train", 2),
    ]
    assert all(store["forward_images"] == 40 for store in stores)
    again = hjepa("extract", *COMMON, "--views", 3)
    assert "train, view 2, mean: 40 images, from the cache" in again.out
    assert "digits train view 3: from the cache" not in again.err
    listed = json.loads(hjepa("cache", "ls", "--json").out)
    assert sorted((row["split"], row["view"] or 0) for row in listed) == [
        ("test", 0),
        *[("train", view) for view in (0, 1, 2, 3)],
    ]
    assert "view 3, mean" in hjepa("cache", "ls").out


def test_views__are_given_to_a_probe_row_by_row() -> None:
    settings = ExtractCommandSettings(model="pixels:8", dataset="digits", max_samples=40, views=2)
    features = collect_features(resolve(settings), Talk(), readouts=["mean"], views=settings.views)
    (row,) = level_rows(features, fuse=False)
    views = row.train_views()
    plain = row.samples("train")
    assert [view.shape for view in views] == [plain.features.shape] * 2
    assert not np.array_equal(*views)
    own = [np.corrcoef(a, b)[0, 1] for a, b in zip(views[0], plain.features, strict=True)]
    other = [np.corrcoef(a, b)[0, 1] for a, b in zip(views[0], plain.features[::-1], strict=True)]
    assert np.mean(own) > np.mean(other) + 0.05, "a row of a view is the same image as that row of the plain pass"
    assert features.extracted().forward_images == 160
