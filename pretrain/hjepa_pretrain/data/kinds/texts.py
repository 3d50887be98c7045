"""Docstrings of installed packages: the package is the class, and a file's texts are all train or all test."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hjepa_eval.errors import DataError
from hjepa_pretrain.data.kinds.corpus import Corpus, LabelledSet, number_classes

SETS: Mapping[str, tuple[str, ...]] = {
    "science": ("numpy", "scipy", "sklearn", "matplotlib", "torch", "timm"),
    "standard": ("asyncio", "email", "unittest", "idlelib", "multiprocessing", "logging", "http", "xml"),
}
_SHORTEST, _FILES, _PER_FILE = 40, 120, 8
_SENTENCE = re.compile(r"(?<=[.!?:])\s")


def load_texts(sets: Sequence[str], *, length: int) -> Corpus:
    """Return the train docstrings of all `sets` as examples, and the sets to judge with.

    Raises:
        DataError: there is no such set, a package is absent, or has no docstrings.
    """
    loaded = []
    for name in sets:
        if name not in SETS:
            raise DataError(f"no set of texts {name!r}; there are {', '.join(SETS)}")
        loaded.append(_labelled(name, SETS[name], length))
    examples = {key: torch.cat([part.train[key] for part in loaded]) for key in loaded[0].train}
    words = f"{len(examples['characters']):,} docstrings of {length} characters at most"
    return Corpus("text", examples, tuple(loaded), {}, words)


def _labelled(name: str, packages: Sequence[str], length: int) -> LabelledSet:
    texts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for package in packages:
        for file in _files(package):
            # By the name of the file, so that no file has texts on both sides.
            side = "test" if int(hashlib.sha256(file.name.encode()).hexdigest(), 16) % 4 == 0 else "train"
            texts[side] += [(text, package) for text in docstrings(file)]
    states = [as_characters([text for text, _ in texts[side]], length=length) for side in ("train", "test")]
    labels = [[package for _, package in texts[side]] for side in ("train", "test")]
    first, second, names = number_classes(*labels)
    return LabelledSet(name, states[0], states[1], first, second, names)


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {package} is not installed; install it, or leave its set of texts out")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))
    return files[:: max(1, len(files) // _FILES)][:_FILES]


def docstrings(file: Path) -> Iterator[str]:
    """Yield the first few docstrings of a file that are long enough, without their indentation."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    long = [" ".join(text.split()) for text in texts if text and len(text) >= _SHORTEST]
    yield from long[:_PER_FILE]


def as_characters(texts: Sequence[str], *, length: int) -> dict[str, Tensor]:
    """Return characters (ASCII; 0 for others), and the number of the word and the sentence of each, -1 for padding.

    A space belongs to the word before it.

    Args:
        texts: none of them empty.
        length: characters that are kept.

    Raises:
        DataError: a text is empty, or there are none.
    """
    if not texts:
        raise DataError("there are no texts; give at least one")
    shape = (len(texts), length)
    state = {key: torch.full(shape, -1, dtype=torch.int64) for key in ("characters", "words", "sentences")}
    for row, text in enumerate(texts):
        cut = text.strip()[:length]
        if len(cut) < 2:
            raise DataError(f"text {row} is empty, or one character; leave it out")
        codes = [ord(letter) if ord(letter) < 128 else 0 for letter in cut]
        words = _counted([letter.isspace() for letter in cut])
        ends = {match.start() for match in _SENTENCE.finditer(cut)}
        sentences = _counted([place in ends for place in range(len(cut))])
        for key, values in (("characters", codes), ("words", words), ("sentences", sentences)):
            state[key][row, : len(cut)] = torch.tensor(values)
    return state


def _counted(ends: Sequence[bool]) -> list[int]:
    """Return how many ends lie before each place."""
    counts, count = [], 0
    for end in ends:
        counts.append(count)
        count += end
    return counts
