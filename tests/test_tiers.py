"""How the tests are run: what comes first, and which of them CI runs."""

from __future__ import annotations

import re

import pytest
from folders import ROOT


def test_dear_files__exist(request: pytest.FixtureRequest) -> None:
    [conftest] = [plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "DEAR")]
    assert [name for name in conftest.DEAR if not (ROOT / "tests" / name).is_file()] == []


def test_makefile__test_leaves_out_the_slow_and_ci_runs_all() -> None:
    recipes = dict(re.findall(r"^([\w-]+):[^\n]*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert recipes["test"] == '\t$(PYTEST) -m "not slow"\n'
    assert recipes["test-all"] == "\tHYPOTHESIS_PROFILE=ci $(PYTEST)\n"
    assert re.findall(r"^make .*", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE) == [
        'make VENV="$venv" check',
        'make VENV="$venv" test-all',
    ]
