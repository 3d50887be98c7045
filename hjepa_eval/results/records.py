"""Result records: one JSON per model, dataset and probe, with everything needed to trust and repeat the numbers."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hjepa_eval import __version__
from hjepa_eval.config import Settings, describe_problems
from hjepa_eval.errors import ResultError, first_few
from hjepa_eval.features.fingerprint import hash_json, write_atomically

# 2 added comparisons, choices, deviations, several seeds, per-class counts; 3 the cost of a level. Records of before
# lack them and stay readable.
SCHEMA_VERSION = 3
# As `Record.file_name` makes them.
_FILES = "*__*__*.json"
_FEW = 3
_PACKAGES = ("torch", "torchvision", "timm", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "safetensors")


class Score(Settings):
    """One number with its interval.

    `parameters` are the probe's, such as `{"k": 20}`; `headline` marks the one that tables show. Where several seeds
    were run, `value` is their mean, `values` are all of them and `std` their sample standard deviation.
    """

    metric: str
    parameters: dict[str, int | float | str] = Field(default_factory=dict)
    value: float
    low: float
    high: float
    num_samples: int
    interval: str
    headline: bool = False
    values: tuple[float, ...] = ()
    std: float | None = None

    @property
    def key(self) -> str:
        """What was measured, such as `top1 k=20`: the same at every level."""
        return " ".join([self.metric, *(f"{name}={value}" for name, value in self.parameters.items())])


class LevelCost(Settings):
    """What an image costs from its pixels up to a level, and nothing that only other levels need.

    `gflop` counts 2 for a multiply-add, `parameters` the weights that are read; `milliseconds` is the time per
    image, of the fastest pass, in batches of `batch` on `device` at `precision`, None where it could not be measured.
    """

    gflop: float
    parameters: int
    milliseconds: float | None = None
    batch: int | None = None
    device: str = ""
    precision: str = ""


class LevelResult(Settings):
    """What a probe found at one level, or at all of them joined (`fused` names them; `level` is then one more).

    `per_class` has for each class (right, all) test samples of the first headline score, over all seeds; `calibration`
    the expected calibration error on test before (`ece`) and after (`ece_scaled`) dividing logits by `temperature`;
    `cost` what an image takes up to here, of levels joined that of all of them together.
    """

    level: int
    name: str
    width: int
    tokens: int
    scores: tuple[Score, ...]
    chosen: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fused: tuple[int, ...] = ()
    per_class: dict[str, tuple[int, int]] = Field(default_factory=dict)
    calibration: dict[str, float] = Field(default_factory=dict)
    cost: LevelCost | None = None


class LevelComparison(Settings):
    """A paired test of two levels on the same samples: `difference` is first minus second.

    `p_holm` is the p-value adjusted for all comparisons of the same score in this record.
    """

    score: str
    first: int
    second: int
    difference: float
    low: float
    high: float
    interval: str
    test: str
    p_value: float
    p_holm: float


class LevelChoice(Settings):
    """The level chosen without the test set, with its test score, beside the best on test (the oracle)."""

    score: str
    rule: str
    held_out: dict[int, float]
    level: int
    value: float
    oracle: int
    oracle_value: float


class Predictions(Settings):
    """The file with the per-sample outcomes, beside the record."""

    file: str
    sha256: str


class ModelInfo(Settings):
    """Which encoder: as the user named it, and by its weights."""

    name: str
    weights: str
    identity: dict[str, Any]


class DatasetInfo(Settings):
    """Which images: by name and by content, and how many were used."""

    name: str
    train_fingerprint: str
    test_fingerprint: str
    num_classes: int
    train_images: int
    test_images: int
    skipped_images: int = 0
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str | int, ...]:
        """What records in one table share: the same images, as many of them."""
        return self.train_fingerprint, self.test_fingerprint, self.train_images, self.test_images


class Extracted(Settings):
    """Where the features came from; `forward_images` is 0 when the cache had them all."""

    readout: str
    precision: str
    storage: str = "float32"
    train_store: str
    test_store: str
    forward_images: int

    @property
    def from_cache(self) -> bool:
        """True when no image went through the encoder."""
        return self.forward_images == 0


class Provenance(Settings):
    """Who made the record, with what, when and how fast."""

    created: str
    command: str
    seed: int
    device: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    versions: dict[str, str]
    git: str | None = None
    platform: str = ""


class Record(Settings):
    """One probe on one model and one dataset, level by level."""

    schema_version: int = SCHEMA_VERSION
    probe: str
    protocol: str
    protocol_version: int = 1
    parameters: dict[str, Any] = Field(default_factory=dict)
    model: ModelInfo
    dataset: DatasetInfo
    extraction: Extracted
    levels: tuple[LevelResult, ...]
    comparisons: tuple[LevelComparison, ...] = ()
    choices: tuple[LevelChoice, ...] = ()
    deviations: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    predictions: Predictions | None = None
    provenance: Provenance

    @property
    def key(self) -> str:
        """The sha256 of what was measured and how; records of other seeds, levels or images have other keys."""
        extraction = self.extraction.model_dump(mode="json", exclude={"forward_images"})
        parts = [self.model.model_dump(mode="json"), self.dataset.model_dump(mode="json"), extraction]
        how = [self.probe, self.protocol, self.protocol_version, self.parameters, self.provenance.seed, *self.seeds]
        return hash_json([*parts, *how, [level.level for level in self.levels]])

    @property
    def file_name(self) -> str:
        """Name of the record's file: model, dataset and probe for people, the key's beginning to tell them apart."""
        parts = (self.model.name, self.dataset.name, self.probe)
        words = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-")[-60:] for part in parts]
        return "__".join([*words, self.key[:8]]) + ".json"


def make_provenance(*, seed: int, device: str, settings: Mapping[str, Any], seconds: Mapping[str, float]) -> Provenance:
    """Return the provenance of a record that is made now, by this process."""
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(["hjepa", *sys.argv[1:]]),
        seed=seed,
        device=device,
        settings=dict(settings),
        seconds={phase: round(value, 3) for phase, value in seconds.items()},
        versions=package_versions(),
        git=git_state(),
        platform=platform.platform(),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of this program, Python and the packages that numbers depend on."""
    found = {"hjepa": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> str | None:
    """Return the commit of the checkout that this program runs from, `-dirty` when files changed; None outside one."""
    here = Path(__file__).resolve().parent.parent.parent
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def check_folder(folder: Path) -> None:
    """Check, before any work, that results can be written into a folder.

    Raises:
        ResultError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None


def write_record(record: Record, folder: Path) -> Path:
    """Write a record into a folder and return its path.

    Raises:
        ResultError: the folder cannot be written; no part of a file is left.
    """
    path = folder / record.file_name
    text = json.dumps(record.model_dump(mode="json"), indent=1) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ResultError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from None
    return path


def read_record(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        ResultError: the file cannot be read, is no record, or is newer than this program.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot read the result {path}: {error}") from None
    found = content.get("schema_version") if isinstance(content, dict) and "probe" in content else None
    if not isinstance(found, int):
        raise ResultError(f"{path} is not a result record of hjepa (no probe and schema_version)")
    if found > SCHEMA_VERSION:
        raise ResultError(f"{path} has schema version {found}, this program reads up to {SCHEMA_VERSION}; update hjepa")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        raise ResultError(describe_problems(Record, error, str(path))) from None


def record_files(paths: Sequence[Path]) -> list[Path]:
    """Return the record files that files and folders name, in the order given, those of a folder by name.

    Raises:
        ResultError: a path does not exist, or there are none at all.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ResultError(f"no result file or folder {path}; hjepa eval writes one")
        # A demo's folder keeps its records below, beside the run's own JSON files.
        folder = path / "results" if (path / "results").is_dir() else path
        files += sorted(folder.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ResultError(f"no result records in {', '.join(map(str, paths))}{_below(paths)}")
    return files


def _below(paths: Sequence[Path]) -> str:
    """Return the folders below that hold records, with the command that takes them; without any what writes some."""
    found = {file.parent for path in paths for depth in ("*", "*/*") for file in path.glob(f"{depth}/{_FILES}")}
    if not found:
        return "; hjepa eval writes some"
    folders = sorted(found)
    named = shlex.join(map(str, folders[:_FEW]))
    return f" itself, but in {first_few(folders, _FEW)}; name one or several, as in hjepa report {named}"


def find_records(paths: Sequence[Path]) -> list[Record]:
    """Return the records in files and folders, in the order given, those of a folder by name.

    Raises:
        ResultError: a path does not exist, a file is no record, or there are none at all.
    """
    return [read_record(file) for file in record_files(paths)]
