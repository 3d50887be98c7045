"""The attention explorer in a real browser, made by the program from real images."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needed_tools import BROWSERS, need_module, need_program
from torchvision.io import decode_png, encode_png, write_png

from hjepa_eval.datasets import load_dataset
from hjepa_eval.datasets.images import stack_images
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.attention import attention_maps, attention_rollout
from hjepa_eval.report.page.attention import Explorer, attention_page, show_image

pytestmark = pytest.mark.browser
sync_api = need_module("playwright.sync_api")
MODEL = "random:vit_tiny_patch2_8?taps=1,3"
HOSTILE = "<script>alert(1)<"  # a name of a folder holds no slash


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = need_program(*BROWSERS)
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def make_page(folder: Path, *options: object) -> Path:
    from hjepa_eval.cli import main

    given = ["--model", MODEL, "--out", folder / "explorer.html", "--cache-dir", folder / "cache", "--quiet", *options]
    with pytest.raises(SystemExit) as stop:
        main(["attention", *(str(option) for option in given)])
    assert stop.value.code == 0
    return folder / "explorer.html"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("explorer"), "--dataset", "digits", "--images", 3)


@pytest.fixture(scope="module")
def attention() -> np.ndarray:
    """Attention of the first three test digits, `[3, blocks, heads, T, T]`, from the model itself."""
    encoder = load_encoder(MODEL)
    images = stack_images(load_dataset("digits", "test"), encoder.transform, indices=[0, 1, 2])
    return attention_maps(encoder, encoder.transform.normalise(images)).numpy().swapaxes(0, 1)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; at the end there must have been no error, and no request for anything outside it."""
    problems: list[str] = []
    asked: list[str] = []
    contexts = []

    def go(file: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def table(page: Any) -> np.ndarray:
    """The shares of the map that is shown, prefix tokens first, as the page itself computed them."""
    page.evaluate("document.getElementById('numbers').open = true")
    page.wait_for_selector("#numbers td")
    shares = page.eval_on_selector_all("#numbers td", "cells => cells.map(cell => Number(cell.dataset.share))")
    return np.array(shares)


def patch(page: Any, row: int, column: int) -> Any:
    return page.locator("#patches [role=row]").nth(row).locator("button").nth(column)


def choose_block(page: Any, number: int) -> None:
    page.locator("#layer").fill(str(number))


@pytest.mark.rows("E5")
def test_explorer__numbers_are_the_models_own_attention(visit: Callable, file: Path, attention: np.ndarray) -> None:
    page = visit(file)
    for image, block, head, (row, column) in ((0, 2, 0, (1, 3)), (1, 0, 2, (3, 0)), (2, 1, 1, (0, 0))):
        page.locator("#strip button").nth(image).click()
        choose_block(page, block)
        page.locator("#heads button").nth(head).click()
        patch(page, row, column).click()
        wanted = attention[image, block, head, 1 + row * 4 + column]
        np.testing.assert_allclose(table(page), wanted, rtol=0, atol=1e-4)
        assert f"row {row + 1}, column {column + 1}" in page.locator("#said").inner_text()
    page.locator("#heads button").nth(3).click()
    np.testing.assert_allclose(table(page), attention[2, 1, :, 1].mean(0), rtol=0, atol=1e-4)
    page.locator("#heads button").nth(4).click()
    np.testing.assert_allclose(table(page), attention_rollout(attention[2])[1, 1], rtol=0, atol=1e-4)
    page.locator("#tokens button").first.click()
    np.testing.assert_allclose(table(page), attention_rollout(attention[2])[1, 0], rtol=0, atol=1e-4)


def test_explorer__words_say_what_the_row_says(visit: Callable, file: Path, attention: np.ndarray) -> None:
    page = visit(file)
    page.locator("#heads button").nth(1).click()
    patch(page, 2, 1).click()
    row, own = attention[0, 2, 1, 10].astype(np.float64), 10
    most = int(row.argmax())
    target = ["the class token", *(f"row {i // 4 + 1}, column {i % 4 + 1}" for i in range(16))][most]
    said = page.locator("#said").inner_text()
    assert said.startswith("Block 3, head 2. In image 0 (0), the patch at row 3, column 2 attends most to ")
    assert ("itself" if most == own else target) in said
    assert f"entropy {-(row * np.log2(row)).sum():.2f} of 4.09 bits" in said
    found = [float(number) / 100 for number in re.findall(r"([\d.]+) %", said)]
    np.testing.assert_allclose(found, [row[most], 1 / 17, row[own], row[0]], rtol=0, atol=6e-4)


def test_explorer__a_whole_cell_asks_with_the_mean_of_its_patches(
    visit: Callable, file: Path, attention: np.ndarray
) -> None:
    page = visit(file)
    page.locator("#heads button").nth(0).click()
    assert page.locator("#whole").is_disabled()
    page.get_by_label("level 1").check()
    assert page.locator("#lines path").count() == 2
    page.locator("#whole").check()
    patch(page, 3, 1).click()
    wanted = attention[0, 2, 0, [1 + 8, 1 + 9, 1 + 12, 1 + 13]].mean(0)
    np.testing.assert_allclose(table(page), wanted, rtol=0, atol=1e-4)
    assert "the cell at row 2, column 1 of level 1 (mean of its 4 patches)" in page.locator("#said").inner_text()
    page.keyboard.press("ArrowUp")
    assert "the cell at row 1, column 1" in page.locator("#said").inner_text()
    page.get_by_label("no cells").check()
    assert "the patch at row 1, column 1" in page.locator("#said").inner_text()


def test_explorer__one_scale_for_all_heads(visit: Callable, file: Path, attention: np.ndarray) -> None:
    page = visit(file)
    patch(page, 0, 0).click()
    page.locator("#heads button").nth(0).click()
    rows = attention[0, 2, :, 1, 1:]

    def brightest() -> float:
        return float(page.locator("#brightest").inner_text().split(" %")[0]) / 100

    assert brightest() == pytest.approx(rows[0].max(), abs=6e-4)
    page.locator("#same").check()
    assert brightest() == pytest.approx(rows.max(), abs=6e-4)


def test_explorer__works_by_keyboard_alone(visit: Callable, file: Path) -> None:
    page = visit(file)
    cell = "document.activeElement.getAttribute('aria-label')"
    page.locator("#patches button[tabindex='0']").focus()
    assert page.locator("#patches button[tabindex='0']").count() == 1
    assert page.evaluate(cell).startswith("row 3, column 3, attends most to ")
    for key, where in (
        ("ArrowRight", (3, 4)),
        ("ArrowRight", (3, 4)),  # the border holds
        ("ArrowUp", (2, 4)),
        ("Home", (2, 1)),
        ("ArrowDown", (3, 1)),
        ("End", (3, 4)),
        ("Control+Home", (1, 1)),
    ):
        page.keyboard.press(key)
        assert page.evaluate(cell).startswith(f"row {where[0]}, column {where[1]}, attends most to "), key
        assert f"the patch at row {where[0]}, column {where[1]} " in page.locator("#said").inner_text()
    page.locator("#layer").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#said").inner_text().startswith("Block 2,")
    page.locator("#heads button").nth(4).focus()
    page.keyboard.press("Enter")
    assert "rollout up to here" in page.locator("#said").inner_text()
    assert page.locator("#heads [aria-pressed=true]").count() == 1


def test_explorer__everything_has_a_name_for_a_screen_reader(visit: Callable, file: Path) -> None:
    page = visit(file)
    nameless = page.eval_on_selector_all(
        "button, input, img, [role=grid], canvas:not([aria-hidden])",
        """all => all.filter(one => !(one.getAttribute('aria-label') || one.alt || one.labels?.length
             || one.textContent.trim() || one.closest('button[aria-label]'))).map(one => one.outerHTML)""",
    )
    assert nameless == []
    assert page.locator("#photo").get_attribute("alt") == "Image 0, class 0, test/516, as the encoder sees it"
    assert page.locator("#said").get_attribute("role") == "status"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
    ],
    ids=["light", "dark", "phone"],
)
def test_explorer__is_drawn_and_fits_the_screen(visit: Callable, file: Path, options: dict[str, Any]) -> None:
    page = visit(file, **options)
    picture = decode_png(torch.frombuffer(bytearray(page.screenshot()), dtype=torch.uint8))[:3].float()
    assert picture.std() > 20
    corner = picture[:, 2, 2].mean()
    assert corner < 40 if options.get("color_scheme") == "dark" else corner > 240
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    stage = decode_png(torch.frombuffer(bytearray(page.locator("#stage").screenshot()), dtype=torch.uint8))
    assert len(torch.unique(stage[:3].flatten(1), dim=1).T) > 16
    page.get_by_role("button", name=f"Switch to {'light' if options.get('color_scheme') == 'dark' else 'dark'}").click()
    turned = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert turned == ("rgb(255, 255, 255)" if options.get("color_scheme") == "dark" else "rgb(15, 20, 25)")


def test_explorer__tokens_without_a_place_have_their_own_names(visit: Callable, tmp_path: Path) -> None:
    names, shares = ("register 1", "register 2"), np.full((1, 1, 6, 6), 1 / 6, np.float32)
    shares[..., 1] = 0.5  # Everything attends most to the second register.
    picture = encode_png(torch.zeros((3, 8, 8), dtype=torch.uint8)).numpy().tobytes()
    image = show_image(0, "cat", picture=picture, attention=shares, rollout=shares[:, 0])
    about = {"model": "m", "dataset": "d", "split": "test", "image_size": 8, "grid": (2, 2), "prefix_names": names}
    more = {"blocks": (1,), "heads": 1, "levels": (), "images": (image,), "command": "c", "made_with": "w"}
    (tmp_path / "page.html").write_text(attention_page(Explorer(**about, **more)))
    page = visit(tmp_path / "page.html")
    found = [text.strip() for text in page.locator("#tokens button").all_inner_texts()]
    assert found == ["register 1 16.7 %", "register 2 50.0 %"]
    said = page.locator("#said").inner_text()
    assert "attends most to register 2: 50.0 %" in said
    assert "% on register 1;" in said
    page.locator("#tokens button").nth(1).click()
    assert "register 2 attends most to itself" in page.locator("#said").inner_text()
    assert "class token" not in page.locator("body").inner_text()


def test_explorer__opacity_uncovers_the_image(visit: Callable, file: Path) -> None:
    page = visit(file)
    page.locator("#opacity").fill("0")
    assert page.evaluate("getComputedStyle(document.getElementById('heat')).opacity") == "0"
    assert page.locator("#opaque").inner_text() == "0 %"


def test_explorer__border_cells_of_an_odd_grid_are_smaller(visit: Callable, tmp_path: Path) -> None:
    options = ["--model", "random:vit_tiny_patch2_10?taps=1,2", "--dataset", "digits", "--images", 1]
    page = visit(make_page(tmp_path, *options))
    page.get_by_label("level 1").check()
    page.locator("#whole").check()
    for place, words in (
        ((4, 0), "row 3, column 1 of level 1 (mean of its 2"),
        ((4, 4), "row 3, column 3 of level 1 (one"),
    ):
        patch(page, *place).click()
        assert f"the cell at {words} patch" in page.locator("#said").inner_text()


def test_explorer__a_class_named_as_a_script_shows_as_text(
    visit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "<script>alert(1)</script>"  # no folder can be called so
    digits = load_dataset("digits", "test")
    digits.class_names = (name,) * 10
    monkeypatch.setattr("hjepa_eval.datasets.Digits", lambda split: digits)
    page = visit(make_page(tmp_path, "--dataset", "digits", "--images", 1))
    assert page.locator("#strip span").inner_text() == name
    assert f"({name})" in page.locator("#said").inner_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no such folder names there")
def test_explorer__a_class_named_as_markup_shows_as_text(visit: Callable, tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "photos" / split / HOSTILE
        folder.mkdir(parents=True)
        write_png(torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8), str(folder / "a.png"))
    page = visit(make_page(tmp_path, "--dataset", f"folder:{tmp_path / 'photos'}"))
    assert page.locator("#strip span").inner_text() == HOSTILE
    assert f"({HOSTILE})" in page.locator("#said").inner_text()
    assert page.locator("#photo").get_attribute("alt").startswith(f"Image 0, class {HOSTILE}")
