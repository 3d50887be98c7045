"""The part geometry: how many directions a level fills, of what dimension it is, and how it lies on the sphere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.analysis.agreement import cosine_neighbours
from hjepa_eval.analysis.collapse import neural_collapse
from hjepa_eval.analysis.dimension import Dimension, correlation_dimension, maximum_likelihood, two_nn
from hjepa_eval.analysis.spectrum import (
    alpha_req,
    covariance_eigenvalues,
    effective_rank,
    nesum,
    participation_ratio,
    rankme,
)
from hjepa_eval.analysis.sphere import hubness, uniformity
from hjepa_eval.errors import ProbeError
from hjepa_eval.evaluation.rows import LevelRow
from hjepa_eval.results.profiles import Measure

SPECTRUM_IMAGES = 10_000
# Of what compares all pairs of images.
PAIR_IMAGES = 4_000
NEIGHBOURS = 10
# Below so many images per dimension, ranks are biased low.
_PER_DIMENSION = 10
# TwoNN and MLE of a Gaussian of 10 dimensions come out a tenth too low or more; see `dimension`.
_RELIABLE = 6.0


def measure_geometry(row: LevelRow) -> tuple[Measure, ...]:
    """Return what the first test images say of a level's shape; of all levels they are the same images, as many."""
    samples = row.samples("test")
    return (
        *_spectrum(samples.features[:SPECTRUM_IMAGES]),
        *_dimensions(samples.features[:PAIR_IMAGES]),
        *_sphere(samples.features[:PAIR_IMAGES]),
        *_collapse(samples.features[:SPECTRUM_IMAGES], samples.labels[:SPECTRUM_IMAGES]),
    )


def _spectrum(features: NDArray[np.float32]) -> Iterator[Measure]:
    count, width = features.shape
    eigenvalues = covariance_eigenvalues(features)
    note = ""
    if count < _PER_DIMENSION * width:
        note = f"{count} images for {width} dimensions: fewer than {_PER_DIMENSION} each, so it is biased low"
    ranks = {
        "RankMe": rankme,
        "effective rank": effective_rank,
        "participation ratio": participation_ratio,
        "stable rank": nesum,
    }
    for name, rank in ranks.items():
        yield Measure(name=name, value=rank(eigenvalues), num_samples=count, note=note)
    slope = alpha_req(eigenvalues)
    if slope is None:
        yield Measure(name="alpha-ReQ", value=None, num_samples=count, note="too few directions for a power law")
    else:
        fitted: dict[str, int | float | str] = {"first": slope.first, "last": slope.last, "r2": slope.r2}
        yield Measure(name="alpha-ReQ", value=slope.value, num_samples=count, parameters=fitted, note=note)


def _dimensions(features: NDArray[np.float32]) -> Iterator[Measure]:
    estimates = {"TwoNN": two_nn, "MLE": maximum_likelihood, "correlation": correlation_dimension}
    for name, estimate in estimates.items():
        yield _dimension(f"{name} dimension", estimate(features))


def _dimension(name: str, found: Dimension) -> Measure:
    notes = []
    if found.duplicates:
        notes.append(f"{found.duplicates} equal images count once")
    if not math.isfinite(found.value):
        notes.append("it cannot be told: too few images that differ")
    elif found.value > _RELIABLE:
        notes.append("of higher dimensions estimates are biased low")
    value = found.value if math.isfinite(found.value) else None
    return Measure(name=name, value=value, num_samples=max(1, found.num_samples), note="; ".join(notes))


def _sphere(features: NDArray[np.float32]) -> Iterator[Measure]:
    count = len(features)
    try:
        yield Measure(name="uniformity", value=uniformity(features), num_samples=count)
        near = cosine_neighbours(features, count=min(NEIGHBOURS, count - 1))
    except ProbeError as error:
        yield Measure(name="uniformity", value=None, num_samples=count, note=str(error))
        return
    yield Measure(name="hubness", value=hubness(near), num_samples=count, parameters={"k": near.shape[1]})


def _collapse(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[Measure]:
    titles = {
        "nc1": "NC1 within / between",
        "nc2_norms": "NC2 norms",
        "nc2_angles": "NC2 angles",
        "nc3": "NC3 duality",
        "nc4": "NC4 nearest mean",
    }
    try:
        found = asdict(neural_collapse(features, labels))
    except ProbeError as error:
        yield Measure(name="NC1 within / between", value=None, num_samples=len(labels), note=str(error))
        return
    per_class: dict[str, int | float | str] = {"per_class": found["per_class"]}
    for key, title in titles.items():
        value = found[key] if math.isfinite(found[key]) else None
        note = "" if value is not None else "all class means are one"
        yield Measure(name=title, value=value, num_samples=len(labels), parameters=per_class, note=note)
