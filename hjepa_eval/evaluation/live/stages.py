"""Which stages a command will go through, known before the first of them starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hjepa_eval.evaluation.job import Stage
from hjepa_eval.evaluation.settings import ImageSettings, ProbeSettings

if TYPE_CHECKING:
    from hjepa_eval.encoders.handle import EncoderHandle

COSTS = "costs"
REPORT = "report"


def feature_seeds(settings: ProbeSettings, *, views: int) -> tuple[int, ...]:
    """Return the seeds that need features of their own: only untrained weights and augmented views differ by seed."""
    seeds = settings.all_seeds
    differing = str(settings.model).startswith("random:") or views > 0
    return seeds if differing else seeds[:1]


def extraction_stages(settings: ImageSettings, *, views: int) -> list[Stage]:
    """Return the stages of one call of `collect_features`."""
    model = str(settings.model)
    passes = ["train", "test", *(f"view {number}" for number in range(1, views + 1))]
    return [Stage(f"extract {which}", model, kind=f"extract {_architecture(model)}") for which in passes]


def probe_stages(
    settings: ProbeSettings, steps: Sequence[str], encoder: EncoderHandle | None = None, *, views: int = 0
) -> list[Stage]:
    """Return the stages of one encoder: extraction for every seed that needs it, its costs once, then `steps`.

    Args:
        settings: with the encoder as `model`.
        steps: names of what is done with the features.
        encoder: the encoder itself where it is open; its widths tell how long a step takes beside other encoders.
        views: augmented passes over the train images.
    """
    once = extraction_stages(settings, views=views)
    costs = Stage(COSTS, str(settings.model), brief=True)
    stages = [
        *once,
        costs,
        *(
            stage
            for _ in feature_seeds(settings, views=views)[1:]
            for stage in extraction_stages(settings, views=views)
        ),
    ]
    size = None if encoder is None else _numbers_per_image(settings, encoder)
    return [*stages, *(Stage(step, str(settings.model), size=size) for step in steps)]


def evaluation_stages(
    settings: Mapping[str, ProbeSettings],
    steps: Sequence[str],
    encoders: Mapping[str, EncoderHandle | None],
    *,
    views: int = 0,
    closing: Sequence[str] = (),
) -> list[Stage]:
    """Return the stages of an evaluation: of every encoder, by its spec, those of `probe_stages`; then the report.

    Args:
        settings: of every encoder, by its spec.
        steps: as in `probe_stages`.
        encoders: by spec; an encoder is None where it is not open.
        views: augmented passes over the train images.
        closing: names of what is done once, after all encoders and before the report.
    """
    stages = []
    for spec, own in settings.items():
        stages += probe_stages(own, steps, encoders.get(spec), views=views)
    return [*stages, *(Stage(name, brief=name == REPORT) for name in closing)]


def _architecture(model: str) -> str:
    """Return what encoders that run equally fast share: a model and its untrained twin do, no others are known to."""
    name, *options = model.removeprefix("random:").removeprefix("timm:").split("?")
    return "?".join([name, *(each for each in options if not each.startswith("checkpoint="))])


def _numbers_per_image(settings: ProbeSettings, encoder: EncoderHandle) -> int:
    """Return the sum of the widths that a probe reads, over levels and seeds: what the size of its stage counts."""
    from hjepa_eval.encoders.readouts import level_widths

    widths = zip(encoder.levels, level_widths(settings.readout, encoder.levels), strict=True)
    levels = [width for level, width in widths if not settings.level or level.index in settings.level]
    width = sum(levels)
    joined = settings.fuse == "concat" and len(levels) > 1
    return width * (2 if joined else 1) * len(settings.all_seeds)
