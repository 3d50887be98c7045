"""The tab Profile in a real browser: by pointer, by keyboard, on a phone, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_page import NAME
from made_profiles import profile_of
from needed_tools import BROWSERS, need_module, need_program
from test_page_browser import CHECKS, CONTRAST, DESKTOP, LEAST_CONTRAST, PHONE

from hjepa_eval.report.page.page import write_page

pytestmark = pytest.mark.browser
sync_api = need_module("playwright.sync_api")


def test_profile__says_what_a_cell_is_made_of_and_fits_a_phone(tmp_path: Path) -> None:
    file = write_page([], [], tmp_path / "page.html", profiles=[profile_of(NAME)])
    problems: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_program(*BROWSERS), args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP, reduced_motion="reduce")
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
        page.goto(file.as_uri())
        cells = page.locator(".heat").first.locator("td[data-about]")
        tip = page.locator("#tip")
        cells.nth(2).hover()
        assert "selectivity +70.0" in tip.inner_text()
        page.mouse.move(2, 2)
        assert not tip.is_visible()
        assert page.locator(".heat").first.locator("td[tabindex='0']").count() == 1, "one stop for the tab key"
        cells.first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert tip.inner_text().strip().startswith("colour, level 1: accuracy 70.0")
        assert page.locator("#said").inner_text() == tip.inner_text().strip()
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        assert page.locator("#profile").get_by_role("heading", name=NAME).is_visible()
        assert page.evaluate(CHECKS) == []
        page.locator("#levels input[value='1']").check(force=True)
        assert set(page.locator(".heat .marked").evaluate_all("all => all.map((e) => e.dataset.mark)")) == {"1"}
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert [each for each in page.evaluate(CONTRAST) if each[0] < LEAST_CONTRAST] == []
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        browser.close()
    assert problems == []
