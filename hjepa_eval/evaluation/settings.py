"""What commands take: schemas whose fields are options. A probe's own options are declared beside its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

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


def _encoder_names(value: Any) -> Any:
    """Turn `random,pixels:8` into a list and `none` into an empty one; in `vit?taps=2,4` the numbers are one name's."""
    names: list[Any] = []
    for part in _split(value):
        if names and isinstance(part, str) and part.isdecimal():
            names[-1] = f"{names[-1]},{part}"
        else:
            names.append(part)
    return () if names == ["none"] else names


Levels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_levels)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], BeforeValidator(_split)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split)]
Fractions = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_split)]
Strengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split), Field(min_length=1)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_split), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]

ReadoutName = Literal["mean", "max", "cls", "cls_mean", "registers", "last4", "grid", "tokens"]
Readouts = Annotated[tuple[ReadoutName, ...], BeforeValidator(_split)]
EncoderNames = Annotated[tuple[str, ...], BeforeValidator(_encoder_names)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_levels)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_split)]
Range = Annotated[tuple[float, float], BeforeValidator(_split)]

# The order in which a command's help lists its options: what, which probe, how, where to.
DATA, PROBE, RUNNING, OUTPUT = range(4)


def option(default: Any, description: str, *, group: int, env: str = "", **checks: Any) -> Any:
    """Return a schema field that is also a command-line option, named by the field or its alias."""
    extra: dict[str, Any] = {"group": group}
    if env:
        extra["env"] = env
    return Field(default, description=description, json_schema_extra=extra, **checks)


def readout_option() -> Any:
    """Return the option that says how tokens become the vector that is measured."""
    return option("mean", "tokens to one vector", group=DATA)


def storage_option() -> Any:
    """Return the option of the number format on disk."""
    return option("fp32", "of the features on disk; fp16 halves them and rounds to 3 digits", group=RUNNING)


def compile_option() -> Any:
    """Return the option of torch.compile."""
    return option(
        "auto", "torch.compile the encoder; auto does when the images repay the minute that it takes", group=RUNNING
    )


def views_option() -> Any:
    """Return the option of augmented passes."""
    return option(0, "augmented passes over the train images (random crops and flips)", group=DATA, ge=0)


def superclasses_option() -> Any:
    """Return the option of a coarse accuracy beside that over classes."""
    return option(
        None, "JSON file {superclass: [class, ...]} for a coarse accuracy; cifar100's 20 are built in", group=PROBE
    )


def token_images_option() -> Any:
    """Return the option of how many train images tokens are read of."""
    return option(None, "train images whose tokens are read, drawn by --seed; all when not given", group=DATA, ge=1)


def predictions_option(default: bool, more: str = "") -> Any:
    """Return the option of per-sample outcomes."""
    what = f"write the outcome of every test sample too (npz), as hjepa compare {more or 'needs it'}"
    return option(default, what, group=OUTPUT)


Storage = Literal["fp32", "fp16"]
Compile = Literal["auto", "on", "off"]


class ImageSettings(Settings):
    """Which encoder, which images, where it runs, and where results go."""

    model: str | None = option(
        None, "encoder, as in 'hjepa models'; the newest finished run under runs/ when not given", group=DATA
    )
    encoder: Literal["target", "context"] | None = option(
        None,
        "of a run: its moving average (target), as when not given, or the trained encoder itself (context)",
        group=DATA,
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
    max_samples: int | None = option(None, "at most so many images per split, balanced over classes", group=DATA, ge=1)
    on_bad_image: Literal["error", "skip"] = option("error", "what to do with an unreadable image", group=DATA)
    download: bool = option(False, "fetch official dataset files or pretrained weights that are missing", group=DATA)
    batch_size: int = option(256, "images per forward pass", group=RUNNING, ge=1)
    num_workers: int | None = option(
        None, "image decoding threads; as many as there are CPU cores when not given", group=RUNNING, ge=1
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", group=RUNNING)
    precision: Literal["auto", "bf16", "tf32", "fp32"] = option(
        "auto", "of the forward pass; auto is bf16 where that is fast, else fp32", group=RUNNING
    )
    seed: int = option(0, "of untrained weights, held-out splits and episodes", group=RUNNING, ge=0, lt=2**32)
    cache_dir: Folder | None = option(
        None, "folder of feature stores (HJEPA_CACHE; else ~/.cache/hjepa)", group=RUNNING, env="HJEPA_CACHE"
    )
    out: Folder = option(Path("results"), "folder for result records (JSON)", group=OUTPUT)
    as_json: bool = option(False, "print JSON on stdout instead of a table", group=OUTPUT, alias="json")
    quiet: bool = option(False, "no progress, no notes; errors and the result only", group=OUTPUT)


class ExtractCommandSettings(ImageSettings):
    """The features themselves."""

    storage: Storage = storage_option()
    compile: Compile = compile_option()
    views: int = views_option()
    readouts: Annotated[Readouts, Field(min_length=1)] = option(
        ("mean",),
        "repeatable: mean or max of the cells, cls, cls_mean, registers, last4 (means of four levels), grid (means of "
        "2x2 quadrants), tokens (all cells, row by row)",
        group=DATA,
        alias="readout",
    )
    export: Literal["npy", "parquet"] | None = option(
        None, "write the features to --out as well, for other programs", group=OUTPUT, alias="format"
    )
    out: Folder = option(Path("features"), "folder for --format", group=OUTPUT)


class ProbeSettings(ImageSettings):
    """What every probe can do besides its own options."""

    storage: Storage = storage_option()
    compile: Compile = compile_option()
    readout: ReadoutName = readout_option()
    predictions: bool = predictions_option(False)
    verbose: bool = option(
        False, "on a terminal, too, print costs, tests and notes below the table, not the short form", group=OUTPUT
    )
    seeds: Seeds = option((), "several seeds, such as 0,1,2: means with all values; else --seed alone", group=PROBE)
    fuse: Literal["none", "concat"] = option("none", "concat adds a row with all levels joined", group=PROBE)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to run."""
        return tuple(dict.fromkeys(self.seeds)) or (self.seed,)


class FinetuneSettings(ImageSettings):
    """Training of encoder and head on labels."""

    readout: ReadoutName = readout_option()
    predictions: bool = predictions_option(False)
    level: Levels = option((), "the one level that the head reads; the last when not given", group=DATA)
    epochs: int = option(20, "passes over the train images", group=PROBE, ge=1)
    lr: float = option(5e-4, "highest learning rate, of the head, per 256 images of a batch", group=PROBE, gt=0)
    layer_decay: float = option(
        0.75, "factor on the rate from each layer to the one before it", group=PROBE, gt=0, le=1
    )
    weight_decay: float = option(0.05, "of matrices; biases, norms and positions have none", group=PROBE, ge=0)
    warmup_epochs: float | None = option(
        None, "epochs of rising rate; a tenth of all when not given", group=PROBE, ge=0
    )
    label_smoothing: float = option(0.1, "share of a target spread over all classes", group=PROBE, ge=0, lt=1)
    mixup: float = option(0.0, "alpha of mixup; 0 mixes no images", group=PROBE, ge=0)
    crop_scale: Range = option((0.35, 1.0), "smallest and largest share of an image in a random crop", group=PROBE)
    no_flip: bool = option(False, "mirror no images, as for digits or text", group=PROBE)
    batch_size: int = option(128, "images per step", group=RUNNING, ge=1)
    seed: int = option(
        0, "of untrained weights, head, held-out part, order, crops and mixing", group=RUNNING, ge=0, lt=2**32
    )
    run: Folder | None = option(
        None, "folder for checkpoint and final weights; runs/finetune-DATASET-DATE-TIME when not given", group=OUTPUT
    )
    resume: Folder | None = option(None, "go on with this run folder, with its own settings", group=OUTPUT)


class AttentionSettings(ImageSettings):
    """Images to explore, and what of their attention the page holds."""

    split: Literal["train", "test"] = option("test", "where the images come from", group=DATA)
    images: int = option(8, "how many, balanced over classes", group=DATA, ge=1)
    index: Indices = option(
        (), "numbers of images in the split's order, repeatable: 4, or 0,4; instead of --images", group=DATA
    )
    layers: Blocks = option((), "blocks to hold, repeatable: 12, or 4,12, or all, as when not given", group=DATA)
    level: Levels = option((), "levels whose cells can be laid over: 2, or 0,2, or all", group=DATA)
    batch_size: int = option(1, "images per forward pass", group=RUNNING, ge=1)
    precision: Literal["auto", "bf16", "tf32", "fp32"] = option("fp32", "of the forward pass", group=RUNNING)
    out: Folder = option(Path("explorer.html"), "HTML file to write", group=OUTPUT)
    max_mb: float = option(16.0, "largest file in MB; fewer images are taken where all do not fit", group=OUTPUT, gt=0)
    open_browser: bool = option(False, "open it in the browser", group=OUTPUT, alias="open")
    as_json: bool = option(False, "print what was written as JSON", group=OUTPUT, alias="json")


class SearchSettings(ImageSettings):
    """Images to search with, and where the answer is drawn."""

    storage: Storage = storage_option()
    compile: Compile = compile_option()
    readout: ReadoutName = readout_option()
    k: int = option(5, "train images per image and level", group=PROBE, ge=1)
    out: Folder = option(Path("search.html"), "file to draw the answer in, HTML or PNG by its ending", group=OUTPUT)


class EvalSettings(ProbeSettings):
    """Several probes, baselines beside the model, and the report; the probes' own options stand beside these."""

    probes: Names = option(
        ("knn", "linear", "fewshot"),
        "repeatable: knn, linear, fewshot, lowshot, attentive, dense, profile, or FILE.py:PROBE with one of your own",
        group=PROBE,
    )
    # 192 numbers per image, whatever the images: raw pixels at ImageNet's size would be 150,528.
    baselines: EncoderNames = option(
        ("random", "pixels:8"),
        "encoders to show beside the model, repeatable: random (the model untrained, where it has such a twin), "
        "pixels:8, kmeans, or any other; or none",
        group=DATA,
    )
    predictions: bool = predictions_option(True, "and confusion matrices need it; on by default")
    gallery: bool = option(
        True,
        "small copies of test images and of their nearest train images in --out, for the report; on by default",
        group=OUTPUT,
    )
    map_method: Literal["auto", "pca", "umap"] = option(
        "auto",
        "how the gallery lays features out in a plane (HJEPA_MAP); umap takes a minute or two, auto is PCA",
        group=OUTPUT,
        env="HJEPA_MAP",
        alias="map",
    )
    open: bool = option(False, "show the report in the browser when it is there", group=OUTPUT)


ProfilePart = Literal["factors", "geometry", "neighbours", "map", "changes"]
MapMeasures = Annotated[tuple[Literal["rbf-cka", "cknna", "procrustes", "rsa"], ...], BeforeValidator(_split)]
ProfileParts = Annotated[tuple[ProfilePart, ...], BeforeValidator(_split), Field(min_length=1)]


class ProfileSettings(ImageSettings):
    """What each level knows, part by part."""

    storage: Storage = storage_option()
    compile: Compile = compile_option()
    readout: ReadoutName = readout_option()
    baselines: EncoderNames = option(
        ("random", "pixels:8", "kmeans"),
        "encoders to profile beside the model, repeatable, as in 'hjepa eval'; or none",
        group=DATA,
    )
    parts: ProfileParts = option(
        ("factors", "geometry", "neighbours", "map"), "repeatable: what to measure", group=PROBE
    )
    changes: bool = option(False, "the part changes, too: it extracts changed test images, 76 times", group=PROBE)
    map_measures: MapMeasures = option(
        (), "repeatable: further likeness of levels: rbf-cka, cknna, procrustes, rsa", group=PROBE
    )
    images: int = option(
        10_000, "train images that linear probes and the search under changes read, at most", group=PROBE, ge=40
    )
    change_images: int = option(2000, "test images that are changed, at most", group=PROBE, ge=20)
    ood: str | None = option(
        None, "dataset of another kind, whose test images are to be told from the dataset's own", group=PROBE
    )
    group: str = option("background", "factor whose worst group is told, where the dataset has it", group=PROBE)
    superclasses: Folder | None = superclasses_option()

    @property
    def all_parts(self) -> tuple[str, ...]:
        """The parts to measure, in their order."""
        asked = {*self.parts, *(("changes",) if self.changes else ())}
        return tuple(part for part in get_args(ProfilePart) if part in asked)
