"""Every function, class, method and constant of the product is used somewhere: by the product, a test or a page."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import ROOT

PRODUCT = [*(ROOT / "hjepa_eval").rglob("*.py"), *(ROOT / "pretrain").rglob("*.py")]
TEMPLATES = (ROOT / "hjepa_eval").rglob("*.html")
USERS = [
    *PRODUCT,
    *TEMPLATES,
    *(path for folder in ("tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.[pm][yd]")),
]
# What another package calls by its name.
CALLED_FROM_OUTSIDE = {
    "format_commands",
    "get_command",
    "list_commands",
    "model_config",
    "supports_higher_order_operators",
}


def defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module or class defines, but for those that a decorator hands to somebody."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not any("validator" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body)


def unused(files: list[Path], users: list[Path]) -> list[str]:
    words = Counter(word for file in users for word in re.findall(r"\w+", file.read_text(errors="replace")))
    return [
        f"{file.name}: {name}"
        for file in files
        for name in defined(ast.parse(file.read_text()).body)
        if words[name] == 1 and name not in CALLED_FROM_OUTSIDE and not name.startswith("__")
    ]


def test_product__every_name_is_used() -> None:
    assert unused(PRODUCT, USERS) == []


@pytest.mark.parametrize(
    "code", ["def dead(): ...", "DEAD = 1", "class A:\n    def dead(self): ...\nA", "dead: int = 1"]
)
def test_unused__names_what_nobody_uses(tmp_path: Path, code: str) -> None:
    (tmp_path / "module.py").write_text(code)
    (tmp_path / "user.py").write_text("import module")
    files = [tmp_path / "module.py"]
    assert [line.lower() for line in unused(files, [*files, tmp_path / "user.py"])] == ["module.py: dead"]
    (tmp_path / "user.py").write_text("module.dead or module.DEAD")
    assert unused(files, [*files, tmp_path / "user.py"]) == []
