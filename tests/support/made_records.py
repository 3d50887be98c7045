"""Records made for the tests of reports; the numbers are invented and say so by being round."""

from __future__ import annotations

from hjepa_eval.metrics.paired import Paired
from hjepa_eval.report.tables.model_pairs import ModelPair
from hjepa_eval.results.provenance import make_provenance
from hjepa_eval.results.records import (
    CostEntry,
    DatasetInfo,
    Extracted,
    LevelComparison,
    LevelResult,
    ModelInfo,
    Record,
    Score,
)

HOSTILE = r"<script>alert(1)</script> a|b `c` _d_ *e* 5% & # $x$ {y} ~ ^ \\z -- café 日 [l](http://x)"

USUAL = {"knn": "dino-knn", "linear": "logreg", "fewshot": "few-shot-prototype"}


def record_of(
    probe: str = "knn",
    *,
    model: str = "runs/demo",
    values: tuple[float, ...] = (0.5, 0.75),
    dataset: str = "digits",
    version: int = 1,
    note: str = "",
    protocol: str = "",
    **more: object,
) -> Record:
    """Return a record of a level per value; the interval is 10 points below to 5 above."""
    parameters = {"k": 20} if probe == "knn" else {}
    levels = tuple(
        LevelResult(
            level=level,
            name=f"block {level + 1}",
            width=8,
            tokens=4,
            notes=(note,) if note else (),
            scores=(
                Score(
                    metric="top1",
                    parameters=parameters,
                    value=value,
                    low=value - 0.1,
                    high=value + 0.05,
                    num_samples=360,
                    interval="wilson 95%",
                    headline=True,
                ),
                Score(metric="top5", value=0.99, low=0.9, high=1.0, num_samples=360, interval="wilson 95%"),
            ),
        )
        for level, value in enumerate(values)
    )
    return Record(
        probe=probe,
        protocol=protocol or USUAL[probe],
        protocol_version=version,
        model=ModelInfo(name=model, weights="abcdef0123456789", identity={}),
        dataset=DatasetInfo(
            name=dataset,
            train_fingerprint=f"train {dataset}",
            test_fingerprint=f"test {dataset}",
            num_classes=10,
            train_images=1442,
            test_images=355,
        ),
        extraction=Extracted(readout="mean", precision="fp32", train_store="a", test_store="b", forward_images=0),
        levels=levels,
        **more,
        provenance=make_provenance(seed=0, device="cpu", settings={"k": [20]}, seconds={"knn": 1.23456}),
    )


def compared(record: Record, *pairs: tuple[int, int, float, float], score: str = "top1 k=20") -> Record:
    """Return the record with paired tests of (first, second, difference, p), from 2 points below to 3 above."""
    comparisons = tuple(
        LevelComparison(
            score=score,
            first=first,
            second=second,
            difference=gain,
            low=gain - 0.02,
            high=gain + 0.03,
            interval="bootstrap 95%",
            test="McNemar exact",
            p_value=p / 2,
            p_holm=p,
        )
        for first, second, gain, p in pairs
    )
    return record.model_copy(update={"comparisons": comparisons})


def costed(record: Record, *gflop: float) -> Record:
    """Return the record with a cost per level: a millisecond and a million weights for each GFLOP."""
    levels = tuple(
        level.model_copy(
            update={
                "cost": CostEntry(
                    gflop=each,
                    parameters=int(each * 1_000_000),
                    milliseconds=each,
                    batch=64,
                    device="cpu",
                    precision="bf16",
                )
            }
        )
        for level, each in zip(record.levels, gflop, strict=True)
    )
    return record.model_copy(update={"levels": levels})


def made_at(record: Record, created: str) -> Record:
    """Return the record as one made at another time."""
    return record.model_copy(update={"provenance": record.provenance.model_copy(update={"created": created})})


def pair_of(
    models: tuple[str, str] = ("a", "b"),
    probe: str = "kNN k=20",
    *,
    levels: tuple[int, int] = (1, 1),
    values: tuple[float, float] = (0.75, 0.5),
    ends: tuple[float, float] = (0.2, 0.3),
    p: float = 0.5,
    p_holm: float | None = None,
    why: str = "level 1",
    test: str = "McNemar exact",
    difference: float | None = None,
) -> ModelPair:
    """Return a comparison of two models; its difference is that of the values."""
    gain = values[0] - values[1] if difference is None else difference
    paired = Paired(gain, *ends, "bootstrap 95%", test, p, p if p_holm is None else p_holm)
    return ModelPair(models, probe, why, levels, values, gain, paired, ("c", "d"), "top1")
