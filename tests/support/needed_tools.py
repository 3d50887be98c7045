"""Tools that some tests need: where one is missing they are skipped, or fail where HJEPA_REQUIRE_TOOLS=1, as in CI."""

from __future__ import annotations

import importlib
import os
import shutil
import warnings
from types import ModuleType
from typing import NoReturn

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def need_program(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    return found or _missing(f"none of these programs is on this machine: {', '.join(names)}")


def need_module(name: str) -> ModuleType:
    """Return a module of an optional package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What a package says when it is imported is not ours to mend.
            return importlib.import_module(name)
    except ModuleNotFoundError:
        return _missing(f"the package of {name} is not installed")


def _missing(what: str) -> NoReturn:
    if os.environ.get("HJEPA_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what}; HJEPA_REQUIRE_TOOLS=1 asks for it", pytrace=False)
    pytest.skip(what, allow_module_level=True)
