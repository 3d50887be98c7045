"""Made profiles: three levels, of which the first knows position and the last knows classes."""

from __future__ import annotations

from hjepa_eval.results.profiles import (
    Agreement,
    ChangeScore,
    ChangeVerdict,
    Drop,
    FactorScore,
    FactorTest,
    Joining,
    LeftOut,
    LevelPair,
    LevelProfile,
    Measure,
    Profile,
)
from hjepa_eval.results.records import DatasetInfo, Extracted, ModelInfo, Provenance

# factor -> kind, origin, chance, value at each level
FACTORS = {
    "class": ("categorical", "class", 0.1, (0.4, 0.6, 0.8)),
    "colour": ("categorical", "dataset", 0.15, (0.9, 0.7, 0.5)),
    "x": ("numeric", "dataset", 0.0, (0.8, 0.5, 0.2)),
    "contrast": ("numeric", "fact", 0.0, (0.95, 0.9, -0.1)),
}
CHANGES = (("gaussian-noise", 1), ("gaussian-noise", 5), ("shift", None))


def factor_of(name: str, level: int) -> FactorScore:
    """Return the score of a factor at a level."""
    kind, origin, chance, values = FACTORS[name]
    value = values[level]
    return FactorScore(
        factor=name,
        kind=kind,  # type: ignore[arg-type]
        origin=origin,  # type: ignore[arg-type]
        value=value,
        low=value - 0.02,
        high=value + 0.02,
        chance=chance,
        control=chance,
        strength=1.0,
        train_images=400,
        test_images=100,
    )


def change_of(change: str, severity: int | None, level: int) -> ChangeScore:
    """Return what a change does to a level."""
    drop = Drop(value=0.5, drop=0.1 * level, low=0.1 * level - 0.05, high=0.1 * level + 0.05, p_value=0.01, p_holm=0.03)
    return ChangeScore(
        change=change,
        severity=severity,
        knn=drop,
        linear=drop,
        invariance=0.5,
        invariance_low=0.4,
        invariance_high=0.6,
        between=0.2,
        invariance_share=0.625,
        equivariance=0.3 if severity is None else None,
        equivariance_low=0.2 if severity is None else None,
        equivariance_high=0.4 if severity is None else None,
        num_samples=100,
    )


def level_of(level: int, *, changes: bool = True) -> LevelProfile:
    """Return the profile of a level."""
    return LevelProfile(
        level=level,
        name=f"block {4 * (level + 1)}, {8 >> level}x{8 >> level}",
        width=192,
        tokens=64 >> (2 * level),
        factors=tuple(factor_of(name, level) for name in FACTORS),
        geometry=(
            Measure(name="RankMe", value=100.0 - 30 * level, num_samples=500, note="500 images for 192 dimensions"),
            Measure(name="TwoNN dimension", value=8.5, num_samples=500),
            Measure(name="alpha-ReQ", value=None, num_samples=500, note="too few directions to fit"),
        ),
        neighbours=(
            Measure(name="recall", value=0.8, low=0.75, high=0.85, num_samples=100, parameters={"k": 1}),
            Measure(name="clustering accuracy", value=0.5, values=(0.4, 0.6), num_samples=100),
        ),
        changes=tuple(change_of(*change, level) for change in CHANGES) if changes else (),
        corruption_error=0.9 if changes else None,
    )


def agreement(value: float) -> Agreement:
    """Return a similarity beside chance."""
    return Agreement(value=value, null_mean=0.01, threshold=0.02, calibrated=value, p_value=0.005, p_holm=0.015)


def pair_of_levels(first: int, second: int, *, other_model: str = "") -> LevelPair:
    """Return how alike two levels are."""
    return LevelPair(
        first=first,
        second=second,
        other_model=other_model,
        neighbours=10,
        mutual_knn=agreement(0.4),
        low=0.35,
        high=0.45,
        within_classes=agreement(0.3),
        cka=0.7,
        forward=0.6,
        backward=0.5,
        num_samples=500,
    )


def profile_of(model: str = "runs/demo", *, baseline: bool = False, changes: bool = True) -> Profile:
    """Return a profile of three levels."""
    tested = {"difference": -0.2, "low": -0.25, "high": -0.15, "p_value": 0.001, "p_holm": 0.01}
    joined = LevelProfile(
        level=3,
        name="levels 0+1+2 joined",
        width=576,
        tokens=84,
        fused=(0, 1, 2),
        factors=tuple(factor_of(name, 2) for name in FACTORS),
    )
    return Profile(
        baseline=baseline,
        parts=("factors", "geometry", "neighbours", "map", *(("changes",) if changes else ())),
        parameters={"images": 10000},
        model=ModelInfo(name=model, weights="w" * 64, identity={"weights": "w" * 64}),
        dataset=DatasetInfo(
            name="scenes",
            train_fingerprint="a" * 64,
            test_fingerprint="b" * 64,
            num_classes=6,
            train_images=400,
            test_images=100,
        ),
        extraction=Extracted(readout="mean", precision="fp32", train_store="c", test_store="d", forward_images=0),
        levels=(*(level_of(level, changes=changes) for level in range(3)), joined),
        factor_tests=(
            FactorTest(factor="class", first=1, second=0, interval="bootstrap 95%", test="McNemar exact", **tested),  # type: ignore[arg-type]
        ),
        level_map=(
            pair_of_levels(0, 1),
            pair_of_levels(0, 2),
            pair_of_levels(1, 2),
            pair_of_levels(0, 0, other_model="pixels:8"),
        ),
        joining=tuple(
            Joining(
                level=level,
                alone=0.5,
                others=0.7,
                together=0.75,
                difference=0.05,
                low=0.01,
                high=0.09,
                p_value=0.01,
                p_holm=0.03,
            )
            for level in range(3)
        ),
        verdict=ChangeVerdict(chosen=2, wrong=("gaussian-noise 5",), better=(0,), asked=3) if changes else None,
        left_out=(LeftOut(name="photographer", reason="it is the same for all images"),),
        provenance=Provenance(
            created="2026-01-31T12:00:00+00:00",
            command="hjepa profile",
            seed=0,
            device="cpu",
            settings={},
            seconds={"factors": 1.0},
            versions={},
        ),
    )
