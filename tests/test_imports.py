"""Rooms: imports point one way and in no circle, rooms are small, and nothing heavy is loaded before a command runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

from hjepa_eval.cli import all_commands

COMMANDS = all_commands()
HEAVY = ("torch", "torchvision", "faiss", "timm", "sklearn", "matplotlib", "hjepa_pretrain.loop", "rich.live")
SOURCES = {"hjepa_eval": ROOT, "hjepa_pretrain": ROOT / "pretrain"}
MOST_ENTRIES = 16

# A part may import those of the steps before its own, and itself.
ORDER = {
    "hjepa_eval": (
        ("errors",),
        ("config", "features", "machine", "metrics"),
        ("datasets", "probes", "results"),
        ("analysis", "encoders", "report"),
        ("extraction", "finetune"),
        ("evaluation",),
        ("cli",),
        ("__main__",),
    ),
    "hjepa_pretrain": (
        ("config", "distributed"),
        ("masks", "objectives", "runs"),
        ("checks",),
        ("models", "jepa"),
        ("data",),
        ("training",),
        ("diagnostics",),
        ("tasks",),
        ("loop",),
        ("fitting",),
        ("cli",),
    ),
}
DOOR = "hjepa_eval.cli.pretraining"
# Imports against the order that wait to be mended; one that is gone must leave the list.
WAITING: set[tuple[str, str]] = set()
# Circles that wait to be mended, likewise.
CIRCLES_WAITING: set[tuple[str, ...]] = set()


def source_files() -> dict[str, Path]:
    """Every module of the product by its name; a package by its own."""
    files = {}
    for package, root in SOURCES.items():
        for file in sorted((root / package).rglob("*.py")):
            name = ".".join(file.relative_to(root).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = file
    return files


FILES = source_files()
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def imports_of(tree: ast.Module) -> set[str]:
    """Every module that is imported, at the top, for types or in a function, and names taken from a module."""
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative import"
            assert node.level == 0, "relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= {name if name in FILES else node.module for name in names}
    return targets


IMPORTS = {name: imports_of(tree) for name, tree in TREES.items()}


def part(module: str) -> str:
    """The part of its package that a module belongs to: `evaluation` of `hjepa_eval.evaluation.plans.knn`."""
    return module.split(".")[1] if "." in module else ""


def is_face(name: str) -> bool:
    """Whether a module is the `__init__` of a room that at most hands names on."""
    inside = (ast.FunctionDef, ast.ClassDef)
    return FILES[name].name == "__init__.py" and not any(isinstance(node, inside) for node in TREES[name].body)


def step(module: str) -> int:
    """The place of a module's part in the order of its package."""
    steps = ORDER[module.split(".")[0]]
    places = [number for number, names in enumerate(steps) if part(module) in names]
    assert places, f"{module} has no place in the order of rooms"
    return places[0]


def test_imports__point_one_way() -> None:
    against = set()
    for name, targets in IMPORTS.items():
        package = name.split(".")[0]
        if name in SOURCES:
            continue
        for target in targets & FILES.keys() - SOURCES.keys():
            inside = target.split(".")[0] == package
            if inside and part(target) != part(name) and step(target) >= step(name):
                against.add((name, target))
    assert against == WAITING


def test_imports__one_lazy_door_leads_to_pretraining() -> None:
    knowing = {
        name
        for name, targets in IMPORTS.items()
        if name.startswith("hjepa_eval") and any(target.split(".")[0] == "hjepa_pretrain" for target in targets)
    }
    assert knowing == {DOOR}
    at_the_top = ast.Module([node for node in TREES[DOOR].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not any(target.startswith("hjepa_pretrain") for target in imports_of(at_the_top))


def circles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The strongly connected components of more than one module, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components = set()

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for target in imports[name]:
            if target not in number:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], number[target])
        if low[name] == number[name]:
            start = stack.index(name)
            component = tuple(sorted(stack[start:]))
            del stack[start:]
            if len(component) > 1:
                components.add(component)

    for name in imports:
        if name not in number:
            visit(name)
    return components


def test_circles__are_seen_where_there_are_some() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert circles(imports) == {("b", "c"), ("e", "f")}


def test_imports__go_in_no_circle() -> None:
    solid = {name for name in FILES if not is_face(name)}
    assert circles({name: (targets & solid) - {name} for name, targets in IMPORTS.items()}) == CIRCLES_WAITING


def test_rooms__have_at_most_sixteen_entries() -> None:
    rooms: dict[Path, set[Path]] = {}
    for file in FILES.values():
        rooms.setdefault(file.parent, set()).add(file)
    for room in list(rooms):
        rooms.setdefault(room.parent, set()).add(room)
    sizes = {
        str(room.relative_to(ROOT)): len([entry for entry in entries if entry.name != "__init__.py"])
        for room, entries in rooms.items()
        if room.is_relative_to(ROOT) and room not in (ROOT, ROOT / "pretrain")
    }
    assert {room: size for room, size in sizes.items() if size > MOST_ENTRIES} == {}


def test_typer__is_imported_by_cli_rooms_alone() -> None:
    users = {part(name) for name, targets in IMPORTS.items() if any(t.split(".")[0] == "typer" for t in targets)}
    assert users == {"cli"}


def test_help__loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hjepa_eval.cli import main\n"
        f"for arguments in [[], *([name] for name in {list(COMMANDS)!r}), ['cache', 'ls']]:\n"
        "    try:\n        main([*arguments, '--help'])\n"
        "    except SystemExit as stop:\n        assert stop.code == 0, (arguments, stop.code)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(COMMANDS) + 2


def test_help__of_the_program_loads_no_command() -> None:
    code = (
        "import sys\nfrom hjepa_eval.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(name for name in sys.modules if name.startswith(('hjepa', 'pydantic.', 'rich.'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    light = ["hjepa_eval", *(f"hjepa_eval.{name}" for name in ("cli", "cli.console", "cli.interrupts", "errors"))]
    assert loaded == [*light, "hjepa_eval.evaluation", "hjepa_eval.evaluation.plans"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands__are_in_the_help_as_their_own_help_begins(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hjepa_eval.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert f" {command} " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([command, "--help"])
    described = " ".join(capsys.readouterr().out.partition("\n\n")[2].split())
    assert described.startswith(COMMANDS[command].summary)
