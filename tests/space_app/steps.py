"""What a visitor does on the page, and what a test looks at in what comes back."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODEL, ADAPTER = "maker/stylegan2-eyes", "maker/fifteen"


def seeds(pictures: list[dict[str, Any]]) -> list[int]:
    return [int(re.fullmatch(r"seed (\d+)", picture["caption"])[1]) for picture in pictures]  # type: ignore[index]


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(Image.open(picture["image"] if isinstance(picture, dict) else picture), dtype=int)


def open_tab(page: Any, name: str) -> None:
    """Where there is no room for a tab, it is in the menu beside the others."""
    tab, menu = page.get_by_role("tab", name=name, exact=True), page.locator(".overflow-menu > button")
    tab.or_(menu).filter(visible=True).first.wait_for()  # the page may still be on its way
    if not tab.is_visible():
        menu.click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def open_section(page: Any, name: str, field: str) -> Any:
    """Open a closed section -> a field in it. What is typed within 60 ms of its appearing, Gradio sets back: wait till it rests."""
    page.get_by_role("button", name=name).click()
    found = page.get_by_label(field, exact=True)
    found.wait_for()
    page.evaluate("() => new Promise(requestIdleCallback)")
    return found


def wait_for_link(page: Any, part: str) -> str:
    """Open the section with the recipe and wait until its link has a part in it -> the link, which the page renews last of all."""
    page.get_by_role("button", name="Recipe, link, Python").click()
    page.wait_for_function("part => document.querySelector('#link textarea')?.value.includes(part)", arg=part)
    return str(page.locator("#link textarea").input_value())


def wait_for_pictures(page: Any, where: str, count: int, size: int) -> list[str]:
    """Wait until a gallery shows `count` loaded pictures of `size` pixels -> their captions."""
    page.wait_for_function(
        """([where, count, size]) => {
            const images = [...document.querySelectorAll(where + " .thumbnail-item img")];
            images.forEach(image => image.loading = "eager");
            return images.length == count && images.every(image => image.complete && image.naturalWidth == size);
        }""",
        arg=[where, count, size],
    )
    return page.locator(f"{where} .caption-label").all_inner_texts()


def save(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def choose(page: Any, number: int) -> str:
    """Click a picture of the grid -> its caption, once it is the one that is looked at."""
    item = page.locator("#gallery .thumbnail-item").nth(number)
    caption = item.locator(".caption-label").inner_text()
    item.click()
    page.locator("#title h2", has_text=caption).wait_for()
    return caption
