"""Every command and block of code in docs/ runs, every link leads somewhere, and tables list what the program has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from documents import COMPLETE_FILES, PAGES, blocks, run_line, run_page
from folders import ROOT


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", plain)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links__lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if re.match(r"\w+://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_index__lists_every_page_once() -> None:
    listed = [link for link in links((ROOT / "docs/README.md").read_text()) if "/" not in link]
    assert sorted(listed) == [page.name for page in PAGES if page.name != "README.md"]


def test_blocks__are_run_or_marked_as_output() -> None:
    kinds = {page.name: {language for language, _ in blocks(page.read_text())} for page in PAGES}
    assert kinds.pop(COMPLETE_FILES) == {"python", "sh", "diff"}
    assert set().union(*kinds.values()) <= {"sh", "python", "text"}


def printed_protocols(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    from hjepa_eval.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["protocols", "--json"])
    assert stop.value.code == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_protocols__the_page_says_what_the_program_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = " ".join((ROOT / "docs/protocols.md").read_text().split())
    rows = printed_protocols(capsys)
    absent = [row["protocol"] for row in rows if f"| `{row['protocol']}` | {row['source']} |" not in page]
    absent += [each for row in rows for each in row["deviations"] if each not in page]  # type: ignore[attr-defined]
    assert absent == []


def test_protocols__the_page_has_none_that_the_program_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    tables = (ROOT / "docs/protocols.md").read_text().split("## Fine-tuning")[0]
    listed = re.findall(r"^\| `([\w-]+)` \|", tables, flags=re.MULTILINE)
    assert sorted(listed) == sorted(str(row["protocol"]) for row in printed_protocols(capsys))


def test_presets__the_page_has_them_all() -> None:
    page = (ROOT / "docs/pretraining.md").read_text()
    named = set(re.findall(r"\.\./configs/pretrain/(\w+)\.yaml", page))
    assert named == {file.stem for file in (ROOT / "configs/pretrain").glob("*.yaml")}


def test_readouts__the_page_has_them_all() -> None:
    from hjepa_eval.encoders.readouts import READOUTS

    table = (ROOT / "docs/levels.md").read_text().split("| readout |")[1].split("```")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(READOUTS)


def test_settings__names_in_the_text_exist() -> None:
    from hjepa_pretrain.config.settings import PretrainSettings

    wrong = []
    page = (ROOT / "docs/pretraining.md").read_text() + (ROOT / "docs/distributed.md").read_text()
    for name in set(re.findall(r"`((?:model|masking|data|train|diagnostics)\.[a-z_.]+)", page)):
        schema: type | None = PretrainSettings
        for part in name.split("."):
            field = getattr(schema, "model_fields", {}).get(part)
            schema = None if field is None else field.annotation
        if schema is None:
            wrong.append(name)
    assert wrong == []


def fill_in(line: str, photographs: Path) -> str:
    """Put real folders and keys for the words that stand for them."""
    from hjepa_eval.features.cache import list_stores

    line = line.replace("path/to/cifar10", str(photographs))
    if "FIRST SECOND" in line:
        keys = [store.folder.name[:12] for store in list_stores(Path("cache"))]
        line = line.replace("FIRST SECOND", " ".join(keys[:2]))
    return line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != COMPLETE_FILES], ids=lambda page: page.stem)
def test_page__every_block_runs_in_order(
    page: Path,
    reader: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if page.name != "reports.md":
        request.getfixturevalue("quick_pages")
    if page.name == "caches.md":
        monkeypatch.setenv("HJEPA_CACHE", str(Path("cache").absolute()))  # It lists and clears the cache.
    run_page(page, lambda line: run_line(fill_in(line, reader), capsys, monkeypatch))
