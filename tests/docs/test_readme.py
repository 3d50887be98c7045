"""Every command in the README runs as it stands there, in one folder, one after another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from folders import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("hjepa ")]


def test_readme__make_commands_are_in_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    wanted = [line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")]
    assert wanted == ["demo", "test"]
    assert set(wanted) <= set(targets)


@pytest.mark.slow
def test_readme__every_hjepa_command_runs(
    cifar10_sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hjepa_eval.cli import main

    (Path.cwd() / "configs").symlink_to(ROOT / "configs")
    lines = commands()
    assert len(lines) > 12
    # Pretraining comes first, so that the commands without --model find a run; seconds are enough to see the road.
    lines.sort(key=lambda line: not line.startswith("hjepa pretrain"))
    for line in lines:
        arguments = [a.replace("path/to/cifar10", str(cifar10_sample)) for a in shlex.split(line)[1:]]
        if arguments[0] == "pretrain" and "--show-settings" not in arguments:
            arguments += ["--set", "train.minutes=0.02"]
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0, f"{line}: {capsys.readouterr().err}"
    for block in blocks("python"):
        code = compile(block.replace("default_cache_dir()", "Path('cache')"), "README.md", "exec")
        exec(code, {"Path": Path})
    assert re.search(r"\(\d+, 192\) \(\d+,\)", capsys.readouterr().out)
