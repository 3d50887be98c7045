"""What the documents share: a folder with a run and photographs, and one cache of features."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import quick_page
from folders import ROOT


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all pages: what one has extracted the next one reads."""
    return tmp_path_factory.mktemp("documents") / "cache"


@pytest.fixture
def quick_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands write a quick page in place of the report's, which docs/reports.md and tests/report/page make."""
    monkeypatch.setitem(sys.modules, quick_page.NAME, quick_page)


@pytest.fixture
def reader(cifar10_sample: Path, digits_run: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as readers of a page have it, with presets, photographs and a finished run; return the photographs."""
    monkeypatch.setenv("HJEPA_CACHE", str(shared_cache))
    Path("configs").symlink_to(ROOT / "configs")
    Path("photos").symlink_to(cifar10_sample)
    shutil.copytree(digits_run, "runs/demo")
    return cifar10_sample
