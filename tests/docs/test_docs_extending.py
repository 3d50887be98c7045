"""The examples of docs/extending.md run as they stand, in a program of one's own and inside a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ROOT
from forked import Forked, finish

PAGE = (ROOT / "docs/extending.md").read_text()
# Runs several commands in one process, for importing torch takes longer than they do.
DRIVER = """
import json, sys
import {program}
print({program}.__file__)
for arguments in json.loads(sys.argv.pop()):
    print("$", *arguments, flush=True)
    try:
        sys.argv[1:] = arguments
        {program}.main()
    except SystemExit as stop:
        assert stop.code == 0, (arguments, stop.code)
"""


def page_files() -> dict[str, str]:
    """The blocks of code by the file that their first line names."""
    found = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == PAGE.count("```python")
    return dict(found)


def page_commands(beginning: str) -> list[list[str]]:
    found = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line.removeprefix(beginning)) for line in found if line.startswith(beginning)]


def write_digits(file: Path) -> None:
    from hjepa_eval.datasets import load_dataset

    arrays = {}
    for split in ("train", "test"):
        digits = load_dataset("digits", split)
        arrays[f"{split}_images"] = np.stack([digits.image(place).numpy()[0] for place in range(len(digits))])
        arrays[f"{split}_labels"] = digits.labels[:, None]  # MedMNIST's are [N, 1].
    np.savez(file, **arrays)


def run(folder: Path, program: str, commands: list[list[str]], *, packages: Path | None = None) -> str:
    """Run commands in a folder, of a program there; with `packages`, by these copies and not by the checkout's."""
    words = ["-c", DRIVER.format(program=program), json.dumps(commands)]
    environment = {**os.environ, "HJEPA_CACHE": str(folder / "cache")}
    if packages is None:
        said, [code] = finish(Forked(words, cwd=folder, env=environment))
        assert code == 0, said
        return said
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (packages, packages / "pretrain")))
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(folder: Path, probe: str) -> dict[tuple[Any, ...], float]:
    found = {}
    for file in (folder / "results").glob("*.json"):
        record = json.loads(file.read_text())
        for level in record["levels"] if record["probe"] == probe else []:
            names = (record["model"]["name"], record["dataset"]["name"], record["parameters"].get("normalise"))
            found[(*names, level["level"])] = level["scores"][0]["value"]
    return found


@pytest.fixture(scope="module")
def own_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, in which all of the page's commands have run."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in page_files().items():
        (folder / name).write_text(text)
    write_digits(folder / "digits.npz")
    own = page_commands("python my_hjepa.py ")
    plain = [
        [*each, *(["--episodes", "100"] if each[0] == "eval" and "--probes" not in each else [])]
        for each in page_commands("hjepa ")
    ]
    assert len(own) == 5
    assert len(plain) == 4
    euclidean = ["centroid", "--model", "small", "--dataset", "arrays:digits.npz"]
    said = run(folder, "my_hjepa", [*own, euclidean, *plain])
    (folder / "said.txt").write_text(said)
    return folder


@pytest.mark.slow
def test_own_program__dataset_encoder_and_probe_stand_in_lists_and_tables(own_program: Path) -> None:
    said = (own_program / "said.txt").read_text()
    parts = dict(re.findall(r"^\$ (\w+)[^\n]*\n(.*?)(?=^\$|\Z)", said, flags=re.MULTILINE | re.DOTALL))
    assert "arrays:FILE.npz" in parts["datasets"]
    assert "arrays:digits.npz: 1,442 train and 355 test images" in parts["report"]
    assert "nearest mean" in parts["report"]
    assert "kNN k=20" in parts["report"]
    assert "second convolution" in parts["models"]


@pytest.mark.slow
def test_own_program__the_dataset_holds_the_same_images_as_digits(own_program: Path) -> None:
    from hjepa_eval.features import read_features, read_labels
    from hjepa_eval.features.cache import list_stores

    stores = [store for store in list_stores(own_program / "cache") if store.manifest is not None]
    ours, digits = (
        next(
            store.folder
            for store in stores
            if store.manifest.dataset == name and store.manifest.encoder == encoder and store.manifest.split == "test"
        )
        for name, encoder in (("arrays:digits.npz", "small"), ("digits", "small_net.py:build"))
    )
    np.testing.assert_array_equal(read_labels(ours), read_labels(digits))
    np.testing.assert_allclose(read_features(ours, level=1), read_features(digits, level=1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [False, True])
def test_own_program__the_probe_agrees_with_scikit_learn(own_program: Path, normalise: bool) -> None:
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    from hjepa_eval.features import read_features, read_labels
    from hjepa_eval.features.cache import list_stores

    folders = {
        store.manifest.split: store.folder
        for store in list_stores(own_program / "cache")
        if store.manifest is not None and store.manifest.encoder == "small"
    }
    found = scores(own_program, "centroid")
    for level in (0, 1):
        points = {split: read_features(folder, level=level).astype(np.float64) for split, folder in folders.items()}
        if normalise:
            points = {split: normalize(each) for split, each in points.items()}
        theirs = NearestCentroid().fit(points["train"], read_labels(folders["train"]))
        accuracy = theirs.score(points["test"], read_labels(folders["test"]))
        assert found["small", "arrays:digits.npz", normalise, level] == pytest.approx(accuracy, abs=1e-12)


def test_example_dataset__says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    from hjepa_eval.errors import DataError

    module: dict[str, Any] = {"__name__": "array_file"}
    exec(compile(page_files()["array_file.py"], "array_file.py", "exec"), module)
    np.savez(tmp_path / "wide.npz", train_images=np.zeros((2, 4, 4, 5), np.uint8), train_labels=np.arange(2))
    np.savez(tmp_path / "short.npz", train_images=np.zeros((2, 4, 4), np.uint8), train_labels=np.arange(3))
    for name, words in (("wide", "expected uint8"), ("short", "3 labels for 2 images"), ("none", "cannot read train")):
        with pytest.raises(DataError, match=words):
            module["ArrayFile"](tmp_path / f"{name}.npz", "train")


def put_in(folder: Path) -> None:
    """Do in a copy of the package what the page's last section says."""
    for package in ("hjepa_eval", "pretrain"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    files = page_files()
    places = re.findall(r"^\| `(\w+\.py)` \| `([\w/]+)/` \|$", PAGE, flags=re.MULTILINE)
    assert {name for name, _ in places} == files.keys() - {"my_hjepa.py"}
    for name, place in places:
        text = files[name].replace("from centroid import", "from hjepa_eval.probes.centroid import")
        (folder / place / name).write_text(text)
    [diff] = re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        text = (folder / name).read_text()
        assert text.count(before) == 1, part
        (folder / name).write_text(text.replace(before, "".join(f"{line[1:]}\n" for line in lines)))


@pytest.mark.slow
def test_in_the_package__the_same_files_give_the_same_numbers(own_program: Path, tmp_path: Path) -> None:
    put_in(tmp_path)
    shutil.copy(own_program / "digits.npz", tmp_path)
    said = run(tmp_path, "hjepa_eval.cli", page_commands("python my_hjepa.py "), packages=tmp_path)
    assert said.splitlines()[0] == str(tmp_path / "hjepa_eval/cli/__init__.py")
    found = scores(tmp_path, "centroid")
    outside = scores(own_program, "centroid")
    assert len(found) == 4
    assert found == {key: outside[key] for key in found}
    assert scores(tmp_path, "knn").items() <= scores(own_program, "knn").items()
