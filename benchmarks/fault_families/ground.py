"""What every family stands on: images, a run, a cache and records, all undisturbed, and how a try is judged."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fault_families.program import Ended, Run, run

SETTINGS = """\
model: {encoder_type: vit_tiny_patch2_8, encoder_depth: 2, num_hierarchies: 2,
        predictor: {embed_dim: 32, depth: 1, num_heads: 2}, ema: {momentum: 0.9, momentum_end: 0.99}}
data: {dataset: digits, flip: false, max_samples: 160}
train: {epochs: 2, batch_size: 32, log_interval: 4, checkpoint_interval: 4}
diagnostics: {bank: 64, interval: 4}
"""
CLASSES = ("c0", "c1", "c2", "c3")
PER_CLASS = {"train": 40, "test": 20}
# A message that a small file can make longer is a fault of its own.
LONGEST = 20_000


class Fault(Exception):
    """Raised where a try fails: a traceback, a hang, a number that differs without a word, a thing lost."""


class SilentNumber(Fault):
    """Raised where a number differs and nothing was said: the worst fault."""


class Try(NamedTuple):
    """One try: of what kind, which, and what does it; `act` gets an empty folder, returns a word or raises Fault."""

    what: str
    name: str
    act: Callable[[Path], str]


def counted(number: int, share: float) -> range:
    """Return the numbers of the tries of one kind, at least one."""
    return range(max(1, round(number * share)))


class Ground:
    """Undisturbed things, made when they are first asked for, in `folder`.

    Runs have the name `run` in the working folder and records name them so, wherever they were copied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = f"folder:{folder / 'images'}"
        draw_digits(folder / "images")
        (folder / "settings.yaml").write_text(SETTINGS)

    def do(self, *words: object, folder: Path | None = None, cache: Path | None = None, **options: Any) -> Ended:
        """Run the program with a cache of its own."""
        return run(*words, **self._where(folder, cache, options))

    def begin(self, *words: object, folder: Path | None = None, cache: Path | None = None, **options: Any) -> Run:
        """Start the program with a cache of its own."""
        return Run(words, **self._where(folder, cache, options))

    def _where(self, folder: Path | None, cache: Path | None, options: dict[str, Any]) -> dict[str, Any]:
        folder = folder or self.folder
        environment = {"HJEPA_CACHE": str(cache or folder / "cache"), "HJEPA_MAP": "pca", "COLUMNS": "100"}
        return {"folder": folder, **options, "environment": {**environment, **options.get("environment", {})}}

    def made(self, *words: object) -> float:
        """Run the program undisturbed; return its seconds."""
        started = time.monotonic()
        ended = self.do(*words, patience=600)
        if ended.code != 0:
            raise RuntimeError(f"undisturbed {words}: exit {ended.code}\n{ended.said[-3000:]}")
        return time.monotonic() - started

    @cached_property
    def run(self) -> Path:
        """A finished run of 8 steps, checkpoints at 4 and 8."""
        self.seconds_of_run = self.made("pretrain", "--config", "settings.yaml", "--out", "run")
        return self.folder / "run"

    @cached_property
    def stopped_run(self) -> Path:
        """The same run, killed as soon as its first checkpoint was there; it is called `run` too."""
        folder = self.folder / "stopped"
        folder.mkdir()
        shutil.copy(self.folder / "settings.yaml", folder)
        process = self.begin("pretrain", "--config", "settings.yaml", "--out", "run", folder=folder)
        while process.running() and not (folder / "run/checkpoints/step-00000004").is_dir():
            time.sleep(0.002)
        process.send(9)
        process.wait()
        shutil.rmtree(folder / "run/checkpoints/step-00000008", ignore_errors=True)
        for name in ("summary.json", "encoder.safetensors"):
            (folder / "run" / name).unlink(missing_ok=True)
        return folder / "run"

    @cached_property
    def cache(self) -> Path:
        """A cache with the stores of the run, of k-means and of pixels, filled by what fills `results` too."""
        assert self.run.is_dir()
        self.seconds_of_extract = self.made("extract", "--model", "run", "--dataset", self.dataset)
        for model in ("run", "kmeans", "pixels:8"):
            self.made("knn", "--model", model, "--dataset", self.dataset, "--out", "results", "--predictions")
        self.made("linear", "--model", "run", "--dataset", self.dataset, "--out", "results", "--predictions")
        return self.folder / "cache"

    @cached_property
    def results(self) -> Path:
        """Records of kNN of three models and of a linear probe, with predictions."""
        assert self.cache.is_dir()
        return self.folder / "results"

    @cached_property
    def evaluation(self) -> Path:
        """What `eval` wrote: records, predictions, galleries."""
        assert self.run.is_dir()
        self.seconds_of_eval = self.made(*self.eval_words)
        return self.folder / "evaluation"

    @property
    def eval_words(self) -> list[str]:
        """The evaluation's command."""
        words = ["eval", "--model", "run", "--dataset", self.dataset, "--probes", "knn", "--baselines", "pixels:8"]
        return [*words, "--out", "evaluation"]

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What the undisturbed records say, by file."""
        return {file.name: numbers(file) for file in sorted(self.results.glob("*.json"))}

    def numbers_of(self, model: str, probe: str = "knn") -> Any:
        """What the undisturbed record of a model says."""
        [name] = [name for name in self.numbers if name.startswith(f"{file_name(model)}__") and f"__{probe}__" in name]
        return self.numbers[name]

    def judge(self, ended: Ended, results: Path, model: str, probe: str = "knn") -> str:
        """Return how a probe that was disturbed held: refused, or the very same numbers, or a repair that says so."""
        if refused(ended):
            return "refused"
        files = list(results.glob(f"{file_name(model)}__*__{probe}__*.json"))
        if len(files) != 1:
            raise Fault(f"{len(files)} records were written")
        same(numbers(files[0]), self.numbers_of(model, probe))
        return "same numbers"


def file_name(model: str) -> str:
    """Return a model's name as files of records begin with it."""
    return re.sub(r"[^\w.]+", "-", model)


def draw_digits(folder: Path) -> None:
    """Write scanned digits as PNG files in class folders."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label, name in enumerate(CLASSES):
        pictures = iter(digits.images[digits.target == label])
        for split, count in PER_CLASS.items():
            target = folder / split / name
            target.mkdir(parents=True)
            for number in range(count):
                grey = (next(pictures) * 15).astype(np.uint8).repeat(4, 0).repeat(4, 1)
                Image.fromarray(grey).convert("RGB").save(target / f"{number:03}.png")


def numbers(file: Path) -> dict[str, Any]:
    """Return what a record says but for times, costs and where it was made."""
    record: dict[str, Any] = json.loads(file.read_text())
    for name in ("provenance", "sha256", "predictions"):
        record.pop(name, None)
    record.get("extraction", {}).pop("forward_images", None)
    for level in record["levels"]:
        level.pop("cost", None)
    return record


def same(value: Any, expected: Any, where: str = "") -> None:
    """Raise SilentNumber where two JSON values differ, and say where first."""
    if isinstance(value, dict) and isinstance(expected, dict) and value.keys() == expected.keys():
        for name in value:
            same(value[name], expected[name], f"{where}.{name}")
    elif isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        for number, pair in enumerate(zip(value, expected, strict=True)):
            same(*pair, f"{where}[{number}]")
    elif value != expected and not (value != value and expected != expected):
        raise SilentNumber(f"{where} is {str(value)[:80]}, undisturbed {str(expected)[:80]}")


def refused(ended: Ended, *, codes: Iterable[int] = (0, 2)) -> bool:
    """Tell whether a run ended with one line and exit 2; raise Fault where it ended as no run may."""
    text = ended.err.decode(errors="replace")
    if "Traceback (most recent call last)" in text:
        raise Fault(f"traceback: {text.strip().splitlines()[-1][:200]}")
    if ended.code is None:
        raise Fault(f"no end; it said {text[-200:]!r}")
    if ended.code not in codes:
        raise Fault(f"exit {ended.code}: {text[-300:]!r}")
    if len(text) > LONGEST:
        raise Fault(f"{len(text)} characters on stderr")
    if raw := raw_controls(ended.out + ended.err):
        raise Fault(f"raw control characters in what is printed: {raw}")
    if ended.code == 2 and not re.search(r"^hjepa: \S", text, flags=re.MULTILINE):
        raise Fault(f"exit 2 without a line that begins with hjepa: {text[-300:]!r}")
    return ended.code == 2


def raw_controls(content: bytes) -> str:
    """Return the control and bidirectional characters in `content` that would act on a terminal or turn text."""
    text = content.decode(errors="replace")
    return ascii(
        "".join(sorted(set(re.findall("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text))))
    )[1:-1]


def tree(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder, but for locks, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name not in (".lock", ".owner")
    }


def same_tree(folder: Path, expected: Path) -> None:
    """Raise where two folders do not hold the same files byte for byte."""
    ours, theirs = tree(folder), tree(expected)
    if missing := sorted(theirs.keys() - ours.keys()):
        raise Fault(f"files are missing: {missing[:3]}")
    if left := sorted(ours.keys() - theirs.keys()):
        raise Fault(f"files are left: {left[:3]}")
    if other := [name for name in ours if ours[name] != theirs[name]]:
        raise SilentNumber(f"other bytes in {other[:3]}")


def flip(file: Path, draw: random.Random, *, high: bool = False) -> str:
    """Flip one bit of a file; return which. With `high` a bit of an exponent in the second half of float32 values."""
    content = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    if high:
        place, bit = draw.randrange(len(content) // 2, len(content)) // 4 * 4 + 3, 5
        place = min(place, len(content) - 1)
    content[place] ^= 1 << bit
    state = file.stat()
    file.write_bytes(content)
    assert state.st_size == len(content)
    return f"{file.name} byte {place} bit {bit}"


def copied(source: Path, target: Path) -> Path:
    """Copy a file or folder to a new path and return it."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    return target


Family = Callable[[Ground, random.Random, float], Iterator[Try]]
