"""Fixtures: real images, a cache of its own for every test, and few threads."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from folders import SHARED_DATA
from small_runs import TINY_RUN

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads OpenMP, as the program does

import torch
from quick_measures import quicken

PER_CLASS = {"train": 40, "test": 20}
TESTS = Path(__file__).parent
# Files with dear tests or fixtures. They begin first, in this order, so that none is left for one worker at the end.
DEAR = (
    "docs/test_readme.py",
    "pretrain/distributed/test_ranks_end.py",
    "pretrain/distributed/test_ranks_learn.py",
    "pretrain/distributed/test_two_nodes.py",
    "docs/test_docs.py",
    "report/page/test_page_browser.py",
    "pretrain/training/test_trainer.py",
    "cli/commands/test_evaluation_report.py",
    "cli/commands/test_gallery_command.py",
    "cli/commands/test_probes.py",
    "pretrain/runs/test_killed_runs.py",
    "extraction/test_extract_processes.py",
    "docs/test_docs_extending.py",
    "report/page/test_page_cifar10.py",
    "pretrain/diagnostics/test_levels.py",
    "pretrain/runs/test_resume.py",
    "pretrain/models/test_stages.py",
    "encoders/export/test_run_export.py",
    "test_packaging.py",
)


def pytest_configure() -> None:
    # Two xdist workers share two cores.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))
    hypothesis.settings.register_profile("dev", deadline=None, database=None)
    hypothesis.settings.register_profile("ci", deadline=None, database=None, derandomize=True, print_blob=True)
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {TESTS / name: number for number, name in enumerate(DEAR)}
    items.sort(key=lambda item: order.get(item.path, len(DEAR)))


def pytest_collection_finish() -> None:
    quicken()  # Before any fixture; tests of what measures have taken the real functions by now.


@pytest.fixture(scope="session")
def cifar10_images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, int]], Path]:
    """A function that unpacks so many real CIFAR-10 photographs of each class and split, the first, into folders."""
    archive = SHARED_DATA / "cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no real images at {archive}; name their folder with HJEPA_SHARED_DATA")

    def unpack(per_class: Mapping[str, int]) -> Path:
        folder = tmp_path_factory.mktemp("cifar10")
        taken: Counter[tuple[str, str]] = Counter()
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts
                if member.isfile() and len(parts) == 4 and taken[parts[1:3]] < per_class[parts[1]]:
                    taken[parts[1:3]] += 1
                    target = folder.joinpath(*parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
                if len(taken) == 20 and all(taken[key] == per_class[key[0]] for key in taken):
                    break
        return folder / "cifar10"

    return unpack


@pytest.fixture(scope="session")
def cifar10_sample(cifar10_images: Callable[[Mapping[str, int]], Path]) -> Path:
    """Real CIFAR-10 photographs in class folders: the first 40 train and 20 test images of each class."""
    return cifar10_images(PER_CLASS)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining run on digits, of a few steps; tests copy it before they change it."""
    from hjepa_pretrain.checks import build_settings
    from hjepa_pretrain.loop import pretrain

    from hjepa_eval.datasets import load_dataset

    quicken()
    folder = tmp_path_factory.mktemp("runs") / "digits_run"
    pretrain(build_settings(TINY_RUN, "test"), load_dataset("digits", "train"), run_dir=folder)
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty folder with an empty cache, and without the user's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HJEPA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HJEPA_DATA", raising=False)
    monkeypatch.setenv("HJEPA_MAP", "pca")  # UMAP compiles for half a minute; its own tests ask for it.
    quicken(monkeypatch.setattr)


@dataclass
class Output:
    code: int
    out: str
    err: str


@pytest.fixture
def hjepa(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run the program in this process: `hjepa("knn", "--model", "pixels")`."""
    from hjepa_eval.cli import main

    def run(*arguments: object) -> Output:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Output(stop.value.code, captured.out, captured.err)

    return run
