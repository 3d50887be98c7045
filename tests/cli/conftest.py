from __future__ import annotations

import sys
import types

import pytest
import quick_page


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that writes the page of an evaluation, replaced by a quick one."""
    monkeypatch.setitem(sys.modules, quick_page.NAME, quick_page)
    return quick_page
