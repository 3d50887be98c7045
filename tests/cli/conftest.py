from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import quick_page


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


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that writes the page of an evaluation, replaced by a quick one."""
    monkeypatch.setitem(sys.modules, quick_page.NAME, quick_page)
    return quick_page
