"""Segmentation of one level's tokens: neighbours or a linear classifier, and the ceilings of its grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.errors import first_few
from hjepa_eval.evaluation.findings import Finding, make_score
from hjepa_eval.evaluation.plans.token_level import TokenLevel, held_images, sight_note
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.metrics.intervals import Interval
from hjepa_eval.probes.dense.ceilings import Ceilings, Truth, find_ceilings
from hjepa_eval.probes.dense.knn_segmentation import TEMPERATURE, gather_bank, segment_by_neighbours
from hjepa_eval.probes.dense.linear_segmentation import segment_linearly
from hjepa_eval.probes.dense.regions import Regions
from hjepa_eval.probes.dense.token_rows import PickedImages, TokenRows
from hjepa_eval.results.records import Score

# More held-out images would tell levels apart no better, and each costs a search.
_CHOICE_IMAGES = 200


def segment_by_knn(row: LevelRow, seed: int, choosing: bool, *, k: int, bank: int) -> Finding:
    """Return how well neighbours segment the test images from one level's tokens."""
    level = TokenLevel(row)
    train, test, truths = level.rows("train"), level.rows("test"), (level.truth("train"), level.truth("test"))
    how: dict[str, Any] = {"k": k, "device": row.features.device}
    everyone = np.arange(train.count)
    found = gather_bank(train, truths[0], images=everyone, limit=bank, seed=seed)
    regions = segment_by_neighbours(found, test, truths[1], **how)
    chosen = {"bank": len(found.tokens), "of": found.available, "k": min(k, len(found.tokens)), "T": TEMPERATURE}
    unseen = np.setdiff1d(np.flatnonzero(regions.true.any(axis=0)), np.flatnonzero(found.shares.any(axis=0)))
    del found  # The next one is as large.
    held_regions = None
    if choosing:
        held = held_images(level, seed, _CHOICE_IMAGES)
        rest = gather_bank(train, truths[0], images=np.setdiff1d(everyone, held), limit=bank, seed=seed)
        inside = truths[0].take(held)
        held_regions = segment_by_neighbours(rest, TokenRows(PickedImages(train, held), train.tokens), inside, **how)
    return _segmented(level, regions, held_regions, truths[1], seed, chosen, unseen)


def segment_linear(row: LevelRow, seed: int, choosing: bool, *, limit: int) -> Finding:
    """Return how well a linear classifier of one level's tokens segments the test images."""
    level = TokenLevel(row)
    truths = level.truth("train"), level.truth("test")
    held = held_images(level, seed, len(level.tokens.index("train")))
    found = segment_linearly(level.rows("train"), level.rows("test"), truths, held=held, limit=limit, seed=seed)
    tried = {f"{c:g}": value for c, value in found.tried.items()}
    unseen = np.flatnonzero(found.test.true.any(axis=0) & ~found.known)
    return _segmented(
        level, found.test, found.held_out, truths[1], seed, {"C": found.c, "held_out_miou": tried}, unseen
    )


def _segmented(
    level: TokenLevel,
    regions: Regions,
    held: Regions | None,
    truth: Truth,
    seed: int,
    chosen: dict[str, Any],
    unseen: Sequence[int] | NDArray[np.int64],
) -> Finding:
    names = level.images("test").map_classes
    ceilings = find_ceilings(truth)
    scores = [make_score("miou", regions.miou_interval(seed=seed), headline=True)]
    scores += _ceiling_scores(regions, ceilings, seed)
    per_class = zip(names, regions.iou(), ceilings.soft.iou(), strict=True)
    scores += [
        Score(
            metric="iou",
            parameters={"class": name},
            value=iou,
            low=iou,
            high=iou,
            num_samples=truth.images,
            interval="",
        )
        for name, iou, _ in per_class
        if not np.isnan(iou)
    ]
    note: tuple[str, ...] = ()
    if len(unseen):
        absent = first_few(names[label] for label in unseen)
        note = (
            f"{len(unseen)} classes of the test masks are absent from those of train and never predicted: {absent}",
        )
    return Finding(
        scores=tuple(scores),
        outcomes={"miou": regions.miou_parts()},
        held_out={} if held is None else {"miou": held.miou()},
        held_out_outcomes={} if held is None else {"miou": held.miou_parts()},
        chosen={**chosen, "masks": masks_hash(truth)},
        notes=(*note, *sight_note(level)),
    )


def _ceiling_scores(regions: Regions, ceilings: Ceilings, seed: int) -> list[Score]:
    soft, majority = ceilings.soft.miou_interval(seed=seed), ceilings.majority.miou_interval(seed=seed)
    share = regions.miou() / max(soft.value, 1e-12)
    return [
        make_score("accuracy", regions.accuracy_interval(seed=seed)),
        make_score("chance", regions.single_class().miou_interval(seed=seed), of="miou"),
        make_score("ceiling", soft, of="miou", cells="soft"),
        make_score("ceiling", majority, of="miou", cells="majority"),
        make_score("share", Interval(share, share, share, soft.num_samples, "of the soft ceiling"), of="miou"),
    ]


def masks_hash(truth: Truth) -> str:
    """Return the beginning of the sha256 of all masks: the images' fingerprint does not know them."""
    digest = hashlib.sha256()
    for image in range(truth.images):
        classes = truth.classes(image)
        digest.update(f"{classes.shape}".encode() + np.ascontiguousarray(classes).tobytes())
    return digest.hexdigest()[:16]
