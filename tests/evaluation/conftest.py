from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def hjepa_program(capsys: pytest.CaptureFixture[str]) -> Callable:
    """Run the program in this process and return what `capsys` read."""
    from hjepa_eval.cli import main

    def run(*arguments: object):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 0
        return capsys.readouterr()

    return run
