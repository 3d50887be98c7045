from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import ROOT
from needed_tools import need_module, need_program


@pytest.mark.parametrize("need", [need_program, need_module])
def test_missing_tools__are_a_skip_or_where_they_are_asked_for_a_failure(
    need: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HJEPA_REQUIRE_TOOLS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no_such_tool"):
        need("no_such_tool")
    monkeypatch.setenv("HJEPA_REQUIRE_TOOLS", "1")
    with pytest.raises(pytest.fail.Exception, match="no_such_tool"):
        need("no_such_tool")


def test_tools__that_are_there_are_returned() -> None:
    assert Path(need_program("no_such_tool", "python3")).name.startswith("python3")
    assert need_module("json").dumps([]) == "[]"


def test_ci__asks_for_the_tools() -> None:
    assert "export HJEPA_REQUIRE_TOOLS=1\n" in (ROOT / ".ci/run").read_text()
