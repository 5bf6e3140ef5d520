"""The real Space: app.py in its own process, called as an API and used in a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from sharingan_hub.media import read_recipe

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
# One server is enough for all of these tests: they go to one worker (--dist loadgroup).
pytestmark = pytest.mark.xdist_group("app")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of app.py, started on a free port of 127.0.0.1 with the embedded model and no network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if name != "SHARINGAN_MODEL"},
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio")),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    output = []
    for line in process.stdout:
        output.append(line)
        if str(port) in line:
            break
    else:
        pytest.fail("app.py ended before it listened:\n" + "".join(output))
    watchdog.cancel()
    threading.Thread(target=process.stdout.read, daemon=True).start()  # so that the pipe never fills
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def generate(url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    client = Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))

    def call(**inputs: Any) -> list[dict[str, Any]]:
        return client.predict(api_name="/generate", **inputs)

    return call


def seeds(pictures: list[dict[str, Any]]) -> list[int]:
    return [int(re.fullmatch(r"seed (\d+)", picture["caption"])[1]) for picture in pictures]  # type: ignore[index]


def pixels(picture: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(picture["image"]), dtype=int)


def test_no_arguments_give_eight_new_png_pictures(generate):
    first, second = generate(), generate()
    assert len(first) == len(second) == 8
    for picture in first:
        with Image.open(picture["image"]) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (512, 512), "RGB")
    assert len(set(seeds(first + second))) == 16
    assert len({pixels(picture).tobytes() for picture in first + second}) == 16


def test_seeds_count_up_and_decide_the_picture(generate):
    pictures = generate(seed=7, count=3, order=3, truncation_psi=0.5, output_size=256)
    assert seeds(pictures) == [7, 8, 9]
    (alone,) = generate(seed=8, count=1, order="3", truncation_psi=0.5, output_size="256")
    assert pixels(alone).shape == (256, 256, 3)
    assert np.abs(pixels(alone) - pixels(pictures[1])).max() <= 1
    assert np.abs(pixels(alone) - pixels(pictures[0])).max() > 50
    # the seed is in the file's name and its recipe in the file
    assert Path(alone["image"]).name == "sharingan-8.png"
    recipe = read_recipe(alone["image"])
    assert recipe == {"model": "embedded", "truncation_psi": 0.5, "order": 3, "output_size": 256, "seed": 8}


def test_order_is_what_was_asked_for(generate):
    """Order 4: a quarter turn changes nothing. Order 3: it does."""
    four = generate(seed=1, count=2, order=4, output_size=256)
    three = generate(seed=1, count=2, order=3, output_size=256)
    for picture in four:
        assert np.abs(pixels(picture) - np.rot90(pixels(picture))).max() <= 2
    for picture in three:
        assert np.abs(pixels(picture) - np.rot90(pixels(picture))).max() > 50


def test_last_seed_wraps_around(generate):
    assert seeds(generate(seed=2**32 - 1, count=2, output_size=256)) == [2**32 - 1, 0]


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"count": 0}, "Count"),
        ({"count": 10**9}, "Count"),
        ({"count": 2.5}, "Count"),
        ({"count": True}, "Count"),
        ({"count": None}, "Count"),
        ({"order": 99}, "Order"),
        ({"order": 0}, "Order"),
        ({"order": "many"}, "Order"),
        ({"order": [3]}, "Order"),
        ({"output_size": 7}, "Output size"),
        ({"output_size": 300}, "Output size"),
        ({"output_size": 10**9}, "Output size"),
        ({"truncation_psi": -0.1}, "Truncation"),
        ({"truncation_psi": None}, "Truncation"),
        ({"truncation_psi": "0.7"}, "Truncation"),
        ({"seed": -2}, "Seed"),
        ({"seed": 2**32}, "Seed"),
        ({"seed": "x" * 10_000}, "Seed"),
    ],
)
def test_bad_input_is_one_sentence(generate, inputs, name):
    with pytest.raises(AppError) as error:
        generate(**inputs)
    message = str(error.value)
    assert re.fullmatch(rf"{name} must be [^\n]{{10,150}}\.", message), message


def test_nan_is_refused(url):
    """As raw JSON, since gradio_client cannot send it."""
    body = b'{"data": [1, 1, 3, NaN, 256]}'
    request = urllib.request.Request(
        f"{url}/gradio_api/call/generate", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            event = json.load(response)["event_id"]
    except urllib.error.HTTPError as error:
        assert 400 <= error.code < 500
        return
    with urllib.request.urlopen(f"{url}/gradio_api/call/generate/{event}", timeout=60) as response:
        assert "event: error" in response.read().decode()


def test_only_generate_is_offered_to_api_clients(url):
    endpoints = Client(url, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]  # type: ignore[call-overload]
    assert list(endpoints) == ["/generate"]


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    if CHROMIUM is None:
        reason = "chromium is not installed; `apt install chromium`, or name another in CHROMIUM"
        if os.environ.get("SHARINGAN_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url, url) else None)
        page.goto(url)
        yield page
        browser.close()
        assert problems == []  # no error on the console, and nothing asked of any other host


def is_foreign(address: str, url: str) -> bool:
    return not address.startswith((url, "data:", "blob:"))


def wait_for_pictures(page: Any, count: int, size: int) -> list[str]:
    """Wait until the gallery shows `count` loaded pictures of `size` pixels -> their captions."""
    page.wait_for_function(
        """([count, size]) => {
            const images = [...document.querySelectorAll("#gallery .thumbnail-item img")];
            images.forEach(image => image.loading = "eager");
            return images.length == count && images.every(image => image.complete && image.naturalWidth == size);
        }""",
        arg=[count, size],
    )
    return page.locator("#gallery .caption-label").all_inner_texts()


def test_visitor_sees_pictures_and_generates_more(page):
    page.locator("#gallery .thumbnail-item img").nth(7).wait_for()  # before any button is pressed
    before = page.locator("#gallery .caption-label").all_inner_texts()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        "before => document.querySelector('#gallery .caption-label')?.innerText != before", arg=before[0]
    )
    after = wait_for_pictures(page, 8, 512)
    assert len(set(after)) == 8 and not set(after) & set(before)


def test_visitor_opens_and_saves_a_png(page, tmp_path):
    page.get_by_label("Seed").fill("41")
    page.get_by_label("Seed").press("Enter")
    page.get_by_text("seed 42", exact=True).wait_for()
    wait_for_pictures(page, 8, 512)
    page.locator("#gallery .thumbnail-item").nth(1).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "sharingan-42.png"
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        assert (image.format, image.size) == ("PNG", (512, 512))
    recipe = read_recipe(tmp_path / "saved.png")
    assert recipe and recipe["seed"] == 42


def test_preset_fills_the_settings_and_draws(page):
    page.get_by_role("button", name="One for a poster").click()
    wait_for_pictures(page, 1, 2048)
    assert page.get_by_role("radio", name="2048").is_checked()


def test_visitor_is_told_what_is_wrong(page):
    page.get_by_label("Seed").fill("-7")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Seed must be a whole number from -1 to 4294967295, got -7.").wait_for()


def test_phone_shows_pictures_first_and_nothing_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#gallery .thumbnail-item img").nth(7).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top = {name: page.locator(name).bounding_box()["y"] for name in ("#go", "#gallery", "#settings")}
    assert top["#go"] < top["#gallery"] < top["#settings"]
    assert top["#gallery"] < 400  # the first pictures are on the first screen
