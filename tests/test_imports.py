"""Imports point one way, and nothing heavy is loaded before a command runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

HEAVY = ("torch", "torchvision", "faiss", "timm", "sklearn", "matplotlib", "hjepa_pretrain")
COMMANDS = [
    "demo",
    "pretrain",
    "export",
    "masks",
    "extract",
    "finetune",
    "knn",
    "linear",
    "fewshot",
    "lowshot",
    "eval",
    "report",
    "attention",
    "compare",
    "datasets",
    "protocols",
    "models",
    "doctor",
    "cache",
]

CORE = ["errors", "config", "ranks", "features", "metrics"]
LEFT = ["datasets", "encoders", "extract", "finetune"]
RIGHT = ["probes", "analysis", "results", "report"]
MAY_IMPORT = {part: set(CORE[: place + 1]) for place, part in enumerate(CORE)}
MAY_IMPORT |= {part: {*CORE, *LEFT[: place + 1]} for place, part in enumerate(LEFT)}
MAY_IMPORT |= {part: {*CORE, *RIGHT[: place + 1]} for place, part in enumerate(RIGHT)}
MAY_IMPORT |= {"cli": {*CORE, *LEFT, *RIGHT, "cli"}, "__main__": {"cli"}}


def imported_modules(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found += [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_imports__point_one_way() -> None:
    wrong = []
    for file in sorted((ROOT / "hjepa_eval").rglob("*.py")):
        part = file.relative_to(ROOT / "hjepa_eval").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for module in imported_modules(file):
            pieces = module.split(".")
            if pieces[0] == "hjepa_eval" and len(pieces) > 1 and pieces[1] not in (*MAY_IMPORT[part], "__version__"):
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_imports__only_one_place_of_the_toolkit_knows_pretraining() -> None:
    knowing = [
        f"{file.name}: {module}"
        for file in (ROOT / "hjepa_eval").rglob("*.py")
        for module in imported_modules(file)
        if module.startswith("hjepa_pretrain")
    ]
    assert knowing == ["pretrain.py: hjepa_pretrain.loop", "pretrain.py: hjepa_pretrain.training.memory"]


def test_help__loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hjepa_eval.cli import main\n"
        f"for arguments in [[], *([name] for name in {COMMANDS!r}), ['cache', 'ls']]:\n"
        "    try:\n        main([*arguments, '--help'])\n"
        "    except SystemExit as stop:\n        assert stop.code == 0, (arguments, stop.code)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(COMMANDS) + 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands__are_all_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hjepa_eval.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert f" {command} " in capsys.readouterr().out
