from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import quick_page


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that writes the page of an evaluation, replaced by a quick one."""
    monkeypatch.setitem(sys.modules, quick_page.NAME, quick_page)
    return quick_page


@pytest.fixture(scope="session")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one cache of all tests that do not ask what is in it: what one has extracted the next one reads."""
    return tmp_path_factory.mktemp("commands") / "cache"


@pytest.fixture
def warm_cache(own_folders: None, filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find what others have extracted."""
    monkeypatch.setenv("HJEPA_CACHE", str(filled_cache))
