"""What the commands take: one schema per command, its fields are the command's options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hjepa_eval.config import Settings


def _split(value: Any) -> Any:
    """Turn `["0,2", "3"]`, `"0,2"` or `2` into a flat list."""
    items = value if isinstance(value, list | tuple) else [value]
    return [part.strip() if isinstance(part, str) else part for item in items for part in _parts(item)]


def _parts(item: Any) -> list[Any]:
    return item.split(",") if isinstance(item, str) else [item]


def _levels(value: Any) -> Any:
    parts = _split(value)
    return () if "all" in parts else parts


Levels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_levels)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split), Field(min_length=1)]
Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split), Field(min_length=1)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]

# The order in which a command's help lists its options: what, which probe, how, where to.
DATA, PROBE, RUNNING, OUTPUT = range(4)


def option(default: Any, description: str, *, group: int, env: str = "", **checks: Any) -> Any:
    """Return a schema field that is also a command-line option, named by the field or its alias."""
    extra: dict[str, Any] = {"group": group}
    if env:
        extra["env"] = env
    return Field(default, description=description, json_schema_extra=extra, **checks)


class OutputSettings(Settings):
    """Where results go and how much is said on the way."""

    out: Folder = option(Path("results"), "folder for result records (JSON)", group=OUTPUT)
    as_json: bool = option(False, "print JSON on stdout instead of a table", group=OUTPUT, alias="json")
    quiet: bool = option(False, "no progress, no notes; errors and the result only", group=OUTPUT)


class ExtractionSettings(OutputSettings):
    """Which features, of which images, and how they are computed."""

    model: str | None = option(
        None, "encoder, as in 'hjepa models'; the newest finished run under runs/ when not given", group=DATA
    )
    dataset: str | None = option(
        None,
        "dataset, as in 'hjepa datasets'; the one the run was pretrained on, else digits, when not given",
        group=DATA,
    )
    root: Folder | None = option(
        None, "folder that holds the dataset (HJEPA_DATA; else ./data)", group=DATA, env="HJEPA_DATA"
    )
    level: Levels = option((), "levels, repeatable: 2, or 0,2, or all", group=DATA)
    readout: Literal["mean", "max", "cls", "grid", "tokens"] = option("mean", "tokens to one vector", group=DATA)
    max_samples: int | None = option(None, "at most so many images per split, balanced over classes", group=DATA, ge=1)
    on_bad_image: Literal["error", "skip"] = option("error", "what to do with an unreadable image", group=DATA)
    download: bool = option(False, "fetch official dataset files or pretrained weights that are missing", group=DATA)
    batch_size: int = option(256, "images per forward pass", group=RUNNING, ge=1)
    num_workers: int = option(2, "image decoding threads", group=RUNNING, ge=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", group=RUNNING)
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "of the forward pass; auto takes bf16 where the machine is fast at it", group=RUNNING
    )
    seed: int = option(0, "of untrained weights, held-out splits and episodes", group=RUNNING, ge=0, lt=2**32)
    cache_dir: Folder | None = option(
        None, "folder of feature stores (HJEPA_CACHE; else ~/.cache/hjepa)", group=RUNNING, env="HJEPA_CACHE"
    )


class KnnSettings(ExtractionSettings):
    """k-nearest-neighbour classification."""

    k: Counts = option((10, 20, 100, 200), "numbers of neighbours, repeatable; all come from one search", group=PROBE)
    temperature: float = option(0.07, "of the neighbours' weights exp(cosine / T)", group=PROBE, gt=0)


class LinearSettings(ExtractionSettings):
    """Logistic regression on frozen features."""

    c: Strengths | None = option(
        None,
        "inverse regularisation strengths to choose from, repeatable; a logarithmic grid when not given",
        group=PROBE,
    )


class FewShotSettings(ExtractionSettings):
    """Few-shot episodes."""

    ways: int = option(5, "classes per episode", group=PROBE, ge=2)
    shots: Counts = option((1, 5), "labelled images per class, repeatable", group=PROBE)
    queries: int = option(15, "test images per class and episode", group=PROBE, ge=1)
    episodes: int = option(1000, "number of episodes", group=PROBE, ge=2)


class EvalSettings(KnnSettings, LinearSettings, FewShotSettings):
    """All probes, and the report."""

    baselines: tuple[str, ...] = option(
        (), "an encoder to show beside the model, repeatable, such as pixels", group=DATA
    )
