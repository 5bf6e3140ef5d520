"""The running Space in a browser: its looks, and those who use the keyboard or listen."""

import os
from pathlib import Path

import pytest

from sharingan_hub.space import TABS
from tests.space_app.steps import open_tab

pytestmark = pytest.mark.xdist_group("app")

# Buttons whose words are wider than they are.
CUT_OFF = """[...document.querySelectorAll(".actions button")].filter(button => button.checkVisibility() && button.innerText.trim()
    && button.scrollWidth > button.clientWidth).map(button => button.innerText)"""


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_runs_over_the_side(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    for name in TABS:
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CUT_OFF) == [], name
        if folder := os.environ.get("SHARINGAN_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{width}-{name}.png", full_page=True)
    open_tab(page, "Generate")
    top = {name: page.locator(name).bounding_box()["y"] for name in ("#go", "#gallery", "#detail", "#settings")}
    if width < 1100:
        assert top["#go"] < top["#gallery"] <= top["#detail"] < top["#settings"]
    assert top["#gallery"] < 400  # the first pictures are on the first screen


def test_the_page_is_used_by_keyboard_and_named_for_those_who_listen(page):
    page.get_by_role("tab", name="Generate").focus()
    for _ in range(10):  # the other tabs come first
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#go') != null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#gallery .caption-label').innerText != 'seed 0'")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [role=tab]")].filter(element =>
            element.checkVisibility() && element.type != "file" &&
            !(element.innerText || element.ariaLabel || element.title || element.labels?.length ||
              element.getAttribute("aria-labelledby") || element.querySelector("img[alt]:not([alt=''])"))
        ).map(element => element.outerHTML.slice(0, 150))"""
    )
    assert unnamed == []


def test_the_page_is_light_before_anything_is_drawn(page):
    sizes = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.transferSize)")
    assert sum(sizes) < 2_000_000
