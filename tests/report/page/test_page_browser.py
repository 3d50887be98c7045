"""The report in a real browser, made by the program from real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_page import CLASSES, NAME, gallery_of, located_of, with_run
from made_records import record_of
from needed_tools import BROWSERS, need_module, need_program
from torchvision.io import ImageReadMode, decode_png

from hjepa_eval.report.page.page import write_page
from hjepa_eval.report.page.parts import PARTS
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.results.files import find_galleries

pytestmark = pytest.mark.browser
sync_api = need_module("playwright.sync_api")
# The records of these tests are not of tokens, whose part is shown where some are.
SHOWN = [name for name, part in PARTS.items() if not part.shown_by]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LEAST_CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = need_program(*BROWSERS)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def results(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records, outcomes and galleries of a run of a few steps and its baselines."""
    from hjepa_eval.cli import main

    folder = tmp_path_factory.mktemp("page")
    named = ["--model", digits_run, "--baselines", "random", "--baselines", "pixels", "--dataset", "digits"]
    small = ["--max-samples", 300, "--episodes", 50, "--predictions", "--map", "pca"]
    where = ["--out", folder / "results", "--cache-dir", folder / "cache", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main(["eval", *map(str, (*named, *small, *where))])
    assert stop.value.code == 0
    return folder / "results"


@pytest.fixture(scope="module")
def report(results: Path) -> Path:
    """The page that the evaluation itself has written."""
    return results / "report.html"


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; in the end there must have been no error, no dialog, and no request but for the file itself."""
    problems: list[str] = []
    asked: list[str] = []
    contexts = []

    def go(file: Path, at: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.route("**/*", lambda route: route.continue_() if _local(route.request.url) else route.abort())
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri() + at)
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in asked if not _local(url)] == []


def _local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def shown_part(page: Any) -> list[str]:
    return [name for name in SHOWN if page.locator(f"#{name}").is_visible()]


def pixels(page: Any) -> np.ndarray:
    """Return a screenshot of what is in view, uint8 [H, W, 3]."""
    png = torch.frombuffer(bytearray(page.screenshot()), dtype=torch.uint8)
    return decode_png(png, ImageReadMode.RGB).permute(1, 2, 0).numpy()


def test_tabs__show_one_part_by_mouse_by_keyboard_and_by_address(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report)
    assert shown_part(page) == ["overview"]
    for name, part in PARTS.items():
        if part.shown_by:
            continue  # These records are not of tokens.
        page.get_by_role("tab", name=part.heading, exact=True).click()
        assert shown_part(page) == [name]
        assert page.evaluate("location.hash") == f"#{name}"
        assert page.locator(f"#{name}").inner_text().strip() != part.heading
    page.keyboard.press("Home")
    assert shown_part(page) == ["overview"]
    page.keyboard.press("ArrowLeft")
    assert shown_part(page) == ["provenance"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown_part(page) == ["profile"]
    assert page.evaluate("document.activeElement.id") == "tab-profile"
    assert page.locator("[role=tab][aria-selected=true]").count() == 1
    assert page.locator("[role=tab][tabindex='0']").count() == 1
    assert shown_part(visit(report, "#map")) == ["map"]


def test_back__returns_to_the_tab_before(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report)
    for heading in ("Classes", "Map"):
        page.get_by_role("tab", name=heading).click()
    page.locator("#levels input").nth(1).check(force=True)
    page.get_by_role("tab", name="Map").press("ArrowRight")
    before = []
    for _ in range(3):
        page.go_back()
        before.append((*shown_part(page), page.evaluate("location.hash")))
    assert before == [("map", "#map/0"), ("classes", "#classes"), ("overview", "")]
    page.go_forward()
    assert shown_part(page) == ["classes"]


def test_tabs__begin_at_the_top_of_what_they_show(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.get_by_role("tab", name="Provenance").click()
    top = page.locator("#provenance-heading").bounding_box()["y"]
    bar = page.locator(".bar").bounding_box()
    assert bar["y"] + bar["height"] <= top < DESKTOP["height"] / 2


def test_skip_link__goes_to_the_part_and_leaves_the_address(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, "#map/1")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "map"
    assert page.evaluate("location.hash") == "#map/1"
    assert page.locator("#levels input:checked").get_attribute("value") == "1"
    assert shown_part(page) == ["map"]


@pytest.mark.parametrize("address", ["#%", "#main", "#nothing/1", "#/1"])
def test_addresses__of_nothing_show_the_first_part(report: Path, visit: Callable[..., Any], address: str) -> None:
    page = visit(report, address)
    assert shown_part(page) == ["overview"]
    page.evaluate("location.hash = '#map/1'")
    page.wait_for_function("!document.getElementById('map').classList.contains('away')")
    page.evaluate("address => (location.hash = address)", address)
    assert shown_part(page) == (["overview"] if address == "#/1" else ["map"])


def test_levels__are_one_choice_for_all_parts_and_stand_in_the_address(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, "#neighbours")
    count = page.locator("#levels input").count() - 1
    assert count == 2
    levels = page.locator("#neighbours [data-level='0']:visible, #neighbours [data-level='1']:visible")
    both = levels.count()
    page.get_by_text("1: ").locator("xpath=ancestor::label").click()
    assert levels.count() == both // 2 > 0
    assert page.evaluate("location.hash") == "#neighbours/1"
    page.get_by_role("tab", name="Classes").click()
    assert page.locator("#classes [data-level='0']:visible").count() == 0
    assert page.locator("#classes [data-level='1']:visible").count() > 0
    page.get_by_role("tab", name="Overview").click()
    assert page.locator("tr.marked").count() == page.locator("tr[data-mark='1']").count() > 0
    page.locator("#levels input:checked").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("location.hash") == "#overview/0"
    assert visit(report, "#classes/0").locator("#levels input:checked").get_attribute("value") == "0"


def test_models_and_probes__narrow_what_is_shown(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, "#classes")
    blocks = page.locator("#classes .block:visible")
    assert blocks.count() == 1
    before = blocks.inner_text()
    page.get_by_label("Probe", exact=True).select_option(index=1)
    assert blocks.count() == 1
    assert blocks.inner_text() != before
    page.get_by_label("Model", exact=True).select_option(index=2)
    assert blocks.count() == 1
    assert "one level" in blocks.inner_text()


def test_choices__that_are_not_there_are_said_in_a_sentence(visit: Callable[..., Any], tmp_path: Path) -> None:
    located = [located_of(tmp_path), Located(record_of("linear"), tmp_path), located_of(tmp_path, "pixels", right=(5,))]
    stores = located[2].record.extraction.model_copy(update={"test_store": "c"})
    located[2] = replace(located[2], record=located[2].record.model_copy(update={"extraction": stores}))
    galleries = [gallery_of(), replace(gallery_of("pixels", levels=1), test_store="c")]
    page = visit(write_page(located, galleries, tmp_path / "page.html"), "#classes")
    nothing = page.get_by_text("no record of the chosen probe")
    assert not nothing.is_visible()
    page.get_by_label("Model", exact=True).select_option(label="pixels")
    assert not nothing.is_visible()
    page.get_by_label("Probe", exact=True).select_option(index=1)
    assert nothing.is_visible()
    page.get_by_label("Probe", exact=True).select_option(index=0)
    assert not nothing.is_visible()
    page.locator("#levels input[value='1']").check(force=True)
    for part in ("Classes", "Neighbours", "Map"):
        page.get_by_role("tab", name=part).click()
        said = page.get_by_text("pixels has no such level here as is chosen above. It has level 0;").locator(
            "visible=true"
        )
        assert said.count() == 1, part
        page.get_by_label("Model", exact=True).select_option(index=0)
        assert said.count() == 0, part
        assert page.get_by_text("no such level here").locator("visible=true").count() == 0
        page.get_by_label("Model", exact=True).select_option(label="pixels")


def test_pairs_of_levels__are_chosen(report: Path, visit: Callable[..., Any], tmp_path: Path) -> None:
    file = write_page([located_of(tmp_path, right=(10, 20, 30))], [], tmp_path / "page.html")
    page = visit(file, "#classes")
    pairs = page.locator("#classes [data-pair]:visible")
    assert [pairs.count(), pairs.get_attribute("data-pair")] == [1, "2-1"]
    page.get_by_label("Levels", exact=True).select_option("1-0")
    assert [pairs.count(), pairs.get_attribute("data-pair")] == [1, "1-0"]


def test_map__shows_the_image_under_the_pointer_and_under_the_focus(
    report: Path, results: Path, visit: Callable[..., Any]
) -> None:
    page = visit(report, "#map")
    tip = page.locator("#tip")
    assert not tip.is_visible()
    box = page.locator("#map .map:visible").first
    box.scroll_into_view_if_needed()
    points = page.evaluate(
        "id => [...document.querySelectorAll(`#${id} [data-point]`)].map(e => e.getBoundingClientRect())"
        ".map(r => [r.left + r.width / 2, r.top + r.height / 2])",
        box.get_attribute("data-points"),
    )
    gallery = next(g for g in find_galleries([results]) if not g.model.startswith(("random", "pixels")))
    assert len(points) == len(gallery.map.index)
    # The point farthest from all others is surely the nearest to the pointer.
    apart = np.linalg.norm(np.array(points)[:, None] - np.array(points)[None], axis=2) + 1e6 * np.eye(len(points))
    place = int(apart.min(axis=1).argmax())
    page.mouse.move(*points[place])
    name, index = gallery.class_names[gallery.map.labels[place]], gallery.map.index[place]
    assert tip.inner_text().strip() == f"{name}, test image {index}"
    image = tip.locator(".thumb").evaluate("e => getComputedStyle(e).backgroundImage")
    assert image.startswith('url("data:image/')
    # The same image is marked on the map of every level.
    assert page.locator("#map .lit").count() == len(gallery.levels)
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    box.focus()
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    assert page.locator("#said").inner_text() == tip.inner_text().strip()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_map__legend_keeps_only_the_classes_that_are_pressed(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, "#map")
    button = page.locator("#map .legend.classes:visible button").first
    count = int(button.locator(".count").inner_text())
    box = page.locator("#map .map:visible").first
    total = page.evaluate("JSON.parse(document.getElementById('data').textContent).points[0].label.length")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert box.locator(".dim").count() == total - count
    button.click()
    assert box.locator(".dim").count() == 0


def test_copy__gives_the_command(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, "#provenance", permissions=["clipboard-read", "clipboard-write"])
    command = page.locator("#command-1").inner_text()
    assert command.split()[0] == "hjepa"
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_role("button", name="Copied").wait_for()  # The clipboard answers when it likes.
    assert page.evaluate("navigator.clipboard.readText()") == command


def test_hostile_names__are_shown_as_text(visit: Callable[..., Any], tmp_path: Path) -> None:
    file = write_page([located_of(tmp_path)], [with_run(gallery_of())], tmp_path / "page.html")
    page = visit(file, "#classes")
    assert page.evaluate("document.scripts.length") == 2
    assert page.locator("#classes").get_by_text(NAME, exact=True).first.is_visible()
    page.get_by_role("tab", name="Neighbours").click()
    assert page.get_by_role("heading", name=NAME, exact=True).first.is_visible()
    page.get_by_role("tab", name="Map").click()
    legend = page.locator(".legend.classes:visible")
    assert legend.get_by_text(NAME).is_visible()
    assert legend.get_by_text(CLASSES[1]).is_visible()
    box = page.locator("#map .map:visible").first
    box.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
    assert "test image" in page.locator("#tip").inner_text()


def parts_in_turn(page: Any) -> Iterator[str]:
    """Show one part after the other on a page that is open."""
    for part in SHOWN:
        page.evaluate("part => { location.hash = part }", part)
        page.locator(f"#{part}").wait_for(state="visible")
        yield part


@pytest.mark.parametrize(
    ("scheme", "viewport", "darkest", "lightest"),
    [("light", DESKTOP, 200, 255), ("dark", DESKTOP, 0, 60), ("light", PHONE, 200, 255)],
    ids=["light", "dark", "phone"],
)
def test_screenshots__of_every_part_are_not_blank(
    report: Path, visit: Callable[..., Any], scheme: str, viewport: dict[str, int], darkest: int, lightest: int
) -> None:
    page = visit(report, color_scheme=scheme, viewport=viewport)
    for part in parts_in_turn(page):
        shown = pixels(page).astype(np.int32)
        colours = np.unique(shown @ (1 << 16, 1 << 8, 1))
        assert len(colours) > 50, f"{part} is nearly blank"
        assert shown.std() > 10, part
        assert darkest <= np.median(shown) <= lightest, part
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], part


def test_theme__is_the_systems_until_the_button_is_pressed(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, color_scheme="dark")
    assert np.median(pixels(page)) < 60
    page.get_by_role("button", name="Switch to light").click()
    assert np.median(pixels(page)) > 200
    page.reload()
    assert np.median(pixels(page)) > 200, "the choice is kept"
    page.get_by_role("button", name="Switch to dark").click()
    assert np.median(pixels(page)) < 60
    assert page.get_by_role("button", name="Switch to light").is_visible()


def test_page__without_scripts_shows_every_part_in_a_row(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, java_script_enabled=False)
    assert shown_part(page) == SHOWN
    assert not page.locator("#controls").is_visible()
    assert page.locator("#map svg").first.is_visible()
    assert page.locator("#tabs a").count() == len(SHOWN)


def test_page__of_digits_is_a_small_file(report: Path) -> None:
    assert report.stat().st_size < 8_000_000


CHECKS = """() => {
  const problems = [];
  const each = (selector, wrong, why) => {
    for (const e of document.querySelectorAll(selector)) {
      if (wrong(e)) problems.push(why + ': ' + e.outerHTML.slice(0, 120));
    }
  };
  const name = (e) => (e.getAttribute('aria-label') || '').trim();
  const label = (e) => e.labels && e.labels.length && e.labels[0].textContent.trim();
  const named = (e) => name(e) || e.textContent.trim() || label(e);
  const lost = (e, by) => (e.getAttribute(by) || '').split(/\\s+/).some((id) => id && !document.getElementById(id));
  each('img', (e) => e.getAttribute('alt') === null, 'no alt');
  each('[role=img]:not(svg)', (e) => !name(e), 'no name');
  each('svg[role=img]', (e) => !e.querySelector('title') || !e.querySelector('title').textContent.trim(), 'no title');
  each('svg', (e) => e.getAttribute('role') !== 'img' && e.getAttribute('aria-hidden') !== 'true', 'no role');
  each('th', (e) => !['col', 'row', 'rowgroup', 'colgroup'].includes(e.getAttribute('scope')), 'no scope');
  each('table', (e) => !e.caption || !e.caption.textContent.trim(), 'no caption');
  each('button, select, input, a', (e) => !named(e), 'no name');
  for (const by of ['aria-labelledby', 'aria-controls', 'aria-describedby']) {
    each(`[${by}]`, (e) => lost(e, by), 'points nowhere');
  }
  let before = 0;
  for (const h of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const level = Number(h.tagName[1]);
    if (level > before + 1) problems.push('heading skips a level: ' + h.outerHTML.slice(0, 120));
    before = level;
  }
  if (document.querySelectorAll('h1').length !== 1) problems.push('not one h1');
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  const twice = ids.filter((id, place) => ids.indexOf(id) !== place);
  if (twice.length) problems.push('ids twice: ' + twice.slice(0, 5));
  if (!document.documentElement.lang) problems.push('no lang');
  return problems;
}"""

CONTRAST = """() => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0.99) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *:not(svg, svg *, .unseen, script, style, option)')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('.unseen')) continue;
    const [one, other] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
    const what = `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`;
    found.push([(one + 0.05) / (other + 0.05), what]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text__stands_out_from_what_is_behind_it(report: Path, visit: Callable[..., Any], scheme: str) -> None:
    page = visit(report, "#overview/1", color_scheme=scheme)
    for part in parts_in_turn(page):
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 20
        assert [text for text in texts if text[0] < LEAST_CONTRAST] == [], part


def test_contrast__of_hard_text_is_found(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report)
    page.evaluate("document.querySelector('#overview .lede').style.color = '#999999'")
    [(contrast, what)] = [each for each in page.evaluate(CONTRAST) if each[0] < LEAST_CONTRAST]
    assert contrast == pytest.approx(2.85, abs=0.01)
    assert what.startswith("P.lede")


def test_phone__tabs_are_near_the_top(report: Path, visit: Callable[..., Any]) -> None:
    page = visit(report, viewport=PHONE)
    assert page.locator(".cards li").count() > 2, "one below the other they would fill the screen"
    assert page.locator("#tabs").bounding_box()["y"] < 0.65 * PHONE["height"]


@pytest.mark.parametrize("width", [390, 1280])
def test_tables__of_long_names_are_whole_and_columns_do_not_touch(
    visit: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    long = tuple(f"class_{number}_" + "of_a_very_long_name" * 3 for number in range(10))
    located = [located_of(tmp_path), located_of(tmp_path, "pixels", right=(5,))]
    file = write_page(located, [replace(gallery_of(), class_names=long)], tmp_path / "page.html")
    page = visit(file, "#classes", viewport={"width": width, "height": 900})
    tables = page.locator("table.confused:visible")
    assert tables.count() == 2
    for table, cell in zip(tables.all(), page.locator(".matrices > div:visible").all(), strict=True):
        inside, outside = table.bounding_box(), cell.bounding_box()
        assert inside["x"] + inside["width"] <= outside["x"] + outside["width"] + 1
        assert table.evaluate("e => [...e.querySelectorAll('th, td')].every((c) => c.scrollWidth <= c.clientWidth)")
    page.get_by_role("tab", name="Models").click()
    gaps = page.locator("#models tbody tr").first.evaluate(
        """row => {
          const range = document.createRange();
          const box = (cell) => (range.selectNodeContents(cell), range.getBoundingClientRect());
          const boxes = [...row.cells].map(box);
          return boxes.slice(1).map((box, place) => box.left - boxes[place].right);
        }"""
    )
    assert min(gaps) >= 12


def test_page__can_be_read_by_a_screen_reader(report: Path, visit: Callable[..., Any]) -> None:
    assert visit(report).evaluate(CHECKS) == []
