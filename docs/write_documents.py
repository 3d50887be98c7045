"""Write docs/documents.md: what the documents behind this project promise, row by row, and the tests that prove it.

    python docs/write_documents.py

A test names its rows with `@pytest.mark.rows("A3", "F")`; tests/docs/test_documents_page.py holds the page to them.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "documents.md"
PARTS = {
    "A": "The H-JEPA model",
    "B": "Masks",
    "C": "Training a JEPA",
    "D": "JEPA for any data",
    "E": "I-JEPA, energy, saccades, measures",
    "F": "What else was on offer",
}
ROWS = {
    "A1": "context encoder, target encoder, predictor",
    "A2": "timm ViTs of any size; the width comes from timm",
    "A3": "hidden tokens are dropped or zeroed, and do not leak",
    "A4": "the target encoder begins as a copy and gets no gradient",
    "A5": "its momentum rises over all steps",
    "A6": "`update_target_encoder` moves it and returns the momentum",
    "A7": "the predictor takes indices or a full mask",
    "A8": "its blocks",
    "A9": "levels are pooled in two dimensions",
    "A10": "a head per level, targets normalised without parameters",
    "A11": "`forward`, and padding that counts nowhere",
    "A12": "`extract_features` of either encoder",
    "A13": "factories refuse what they do not know",
    "A14": "parameter counts of ViT-B",
    "A15": "two conventions of masks, never confused",
    "B1": "blocks drawn for a whole batch at once",
    "B2": "target blocks may overlap, or lie apart",
    "B3": "context and targets never meet",
    "B4": "pictures and statistics of masks",
    "B5": "hierarchical masks train every level",
    "B6": "context and length of blocks grow with the level",
    "B7": "a seed and a step decide",
    "B8": "every key of the YAML",
    "B9": "demonstrations",
    "B10": "masks that change, follow attention, or lie on other data",
    "C1": "hidden parts are predicted in latent space",
    "C2": "backbones: ViT, networks with stages, energy transformers",
    "C3": "losses, in which collapse costs more than spread",
    "C4": "the flat YAML",
    "C5": "evaluation of the frozen context encoder",
    "C6": "AdamW and cosine",
    "D1": "`JEPA(encoder, predictor)` for any two modules",
    "D2": "six parts to begin with",
    "D3": "models that save and load themselves",
    "D4": "two scales, coarse to fine, two kinds of data",
    "D5": "pictures, text, series, tables, captions",
    "D6": "losses, accumulation, mixed precision, parts watched apart",
    "E1": "I-JEPA and its published checkpoints",
    "E2": "the energy transformer",
    "E3": "saccades",
    "E4": "probes of frozen models",
    "E5": "attention maps",
    "E6": "correlation dimension",
    "E7": "a map of classes by UMAP",
    "E8": "masks of their own for every image",
    "F": "rotary positions, LayerScale, FPN, C-JEPA, SIGReg, multi-crop, logs, alarms, exports, fine-tuning",
}
# What of a row is not built, in words.
NOT_YET = {
    "C1": "clips of frames",
    "C2": "networks with stages predict no levels; deit, eva02 and beit are no ViTs here",
    "E1": "queries that see the others of their block, and a schedule of weight decay",
    "E3": "the movement is barely told by the mean of a level (see the saccade preset)",
}


def collect(folder: Path) -> dict[str, list[str]]:
    """Return the tests of every row, `file::test`, in sorted order."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rows":
                    for row in mark.args:
                        found.setdefault(str(ast.literal_eval(row)), []).append(f"{file.stem}::{node.name}")
    return found


def page() -> str:
    """Return the page."""
    tests = collect(ROOT / "tests")
    lines = [
        "# What the documents promise",
        "",
        "Five documents say what H-JEPA is. Each row is a promise of theirs; beside it stand the tests that prove it,",
        "and what of it is not built. Made by `docs/write_documents.py` from the marks of the tests.",
    ]
    for part, title in PARTS.items():
        lines += ["", f"## {part}. {title}", "", "| row | promise | not built | tests |", "|---|---|---|---|"]
        for row, promise in ROWS.items():
            if row.rstrip("0123456789") == part:
                proofs = "<br>".join(f"`{test}`" for test in tests.get(row, []))
                lines.append(f"| {row} | {promise} | {NOT_YET.get(row, '')} | {proofs} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
