"""How long a visitor waits: app.py in its own process, used in Chromium. `python -m benchmarks.space`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.browser import chromium

SMALL = sorted((Path(__file__).parents[1] / "training" / "data" / "sharingan15").glob("*.png"))[0]  # of 256 px
PICTURES = """before => {
  const images = [...document.querySelectorAll("#gallery img")];
  images.forEach((image) => image.loading = "eager");
  return document.querySelector("#gallery .caption-label")?.innerText != before
    && images.length == 8 && images.every((image) => image.complete && image.naturalWidth);
}"""
MIXED = (
    "before => { const image = document.querySelector('#mixed img'); return image.src != before && image.complete; }"
)
REPAIRED = "before => [...document.querySelectorAll('#compare img')].at(-1).src != before"


def timed(name: str, act: Callable[[], Any], wait: Callable[[], Any]) -> None:
    """Print the seconds from an action to what it shows."""
    start = time.perf_counter()
    act()
    wait()
    print(f"{name}: {time.perf_counter() - start:.2f} s", flush=True)


def visit(page: Any) -> None:
    """One visitor, from the first picture to a film and a repair."""
    sizes = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.transferSize)")
    print(f"page before anything is drawn: {sum(sizes) / 1e6:.2f} MB")
    for _ in range(3):
        before = page.locator("#gallery .caption-label").first.inner_text()
        button = page.get_by_role("button", name="Generate", exact=True)
        timed("eight designs, 256 px", button.click, lambda: page.wait_for_function(PICTURES, arg=before))  # noqa: B023
    page.get_by_role("tab", name="Mix and explore").click()
    page.wait_for_timeout(3000)  # until the model's directions are there, once
    page.get_by_label("range slider for Direction 1").focus()
    for _ in range(4):
        shown = page.locator("#mixed img").get_attribute("src")
        step = lambda: page.keyboard.press("ArrowRight")  # noqa: E731
        timed("a slider's step, 256 px", step, lambda: page.wait_for_function(MIXED, arg=shown))  # noqa: B023
    page.get_by_role("tab", name="Interpolate").click()
    page.get_by_role("button", name="Pin three examples").click()
    page.locator("#keyframes .thumbnail-item img").nth(2).wait_for()
    film = page.get_by_role("button", name="Make the film")
    timed("film of 120 frames, 256 px", film.click, page.get_by_text("120 frames").wait_for)
    page.get_by_role("tab", name="Repair & recolour").click()
    page.locator("#upload input[type=file]").set_input_files(SMALL)
    page.locator("#compare img").nth(1).wait_for()
    page.wait_for_timeout(2000)
    recolour(page, "256 px", "violet", "silver", "rose")
    shown = page.locator("#compare img").last.get_attribute("src")
    damaged = page.get_by_role("button", name="A damaged one")
    timed("repair and recolour, 512 px", damaged.click, partial(page.wait_for_function, REPAIRED, arg=shown))
    page.wait_for_timeout(2000)  # until it is recoloured as chosen before
    recolour(page, "512 px", "gold", "cyan")


def recolour(page: Any, size: str, *palettes: str) -> None:
    """From the click on a palette to the picture in it."""
    for name in palettes:
        shown = page.locator("#compare img").last.get_attribute("src")
        choose = partial(page.locator(".swatches:visible").get_by_role("radio", name=name).check, force=True)
        timed(f"recolour, {size}", choose, partial(page.wait_for_function, REPAIRED, arg=shown))


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"load when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    start = time.perf_counter()
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen([sys.executable, "app.py"], env=environment, stdout=subprocess.DEVNULL)
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.1)
            page.goto(f"http://127.0.0.1:{port}")
            page.locator("#gallery .thumbnail-item img").nth(7).wait_for()
            print(f"cold start to a page with pictures: {time.perf_counter() - start:.1f} s")
            visit(page)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
