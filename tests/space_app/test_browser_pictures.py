"""The running Space in a browser: a visitor's own pictures, and other people's models."""

import math
import re

import pytest
from PIL import Image

from tests.space_app.steps import ADAPTER, choose, open_tab, save, wait_for_link, wait_for_pictures

pytestmark = pytest.mark.xdist_group("app")


def test_visitor_repairs_and_recolours(page, tmp_path):
    open_tab(page, "Repair & recolour")
    page.get_by_role("button", name="A damaged one").click()
    page.get_by_text("Out of round").wait_for()
    page.locator("#facts svg polygon").wait_for()
    page.locator("#compare img").nth(1).wait_for()
    page.locator(".swatches:visible").get_by_role("radio", name="emerald").check(force=True)
    shown = page.locator("#compare img").last.get_attribute("src")
    page.wait_for_function("before => [...document.querySelectorAll('#compare img')].at(-1).src != before", arg=shown)
    with Image.open(save(page, "Download PNG", tmp_path)) as image:
        red, green, blue = image.resize((64, 64)).getpixel((32, 8))
    assert green > red + 30 and green > blue + 20


def test_visitor_finds_a_design_and_stops_a_search(page, served, client):
    open_tab(page, "From my drawing")
    page.locator("#try-sketch").click()
    page.get_by_text("Ready: press Find it.").wait_for()
    page.get_by_label("number input for Steps").fill("400")
    page.get_by_role("button", name="Find it").click()
    page.locator("#found-status", has_text=re.compile(r"\d%, difference 0\.\d+")).wait_for()
    page.locator("#cancel-invert").click()
    page.get_by_text("Stopped; this is the best so far").wait_for()
    previews = len(list(served.rglob("image.png")))
    client.predict(api_name="/generate")  # meanwhile it would have gone on
    assert len(list(served.rglob("image.png"))) == previews
    page.locator("#try-eye").click()
    page.get_by_text("Iris at 50% and 50%").wait_for()
    page.locator("#placed img").click(position={"x": 10, "y": 20})
    page.get_by_text(re.compile(r"Iris at \d% and \d% of")).wait_for()
    page.get_by_role("button", name="Vary, pin and save it").click()
    page.locator("#title h2", has_text="from a picture").wait_for()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator("#pinned .thumbnail-item img").wait_for()
    assert wait_for_link(page, "Found").startswith("Found from a picture, so too long for a link")
    page.reload()
    page.locator("#pinned .thumbnail-item").click()
    page.locator("#title h2", has_text="from a picture").wait_for()


def test_visitor_uploads_a_drawing(page, client, tmp_path):
    open_tab(page, "From my drawing")
    (tmp_path / "text.png").write_bytes(b"no picture at all")
    page.locator("#drawing input[type=file]").set_input_files(tmp_path / "text.png")
    page.get_by_text("The picture cannot be read: it is no whole PNG, JPEG or WebP.").wait_for()
    page.reload()
    open_tab(page, "From my drawing")
    drawn = client.predict({"seed": 3}, 256, api_name="/draw")
    page.locator("#drawing input[type=file]").set_input_files(drawn)
    page.locator("#yours img").wait_for()
    page.get_by_label("number input for Steps").fill("20")
    page.get_by_role("button", name="Find it").click()
    page.locator("#found-status b").wait_for(timeout=120_000)
    page.get_by_role("button", name="Vary, pin and save it").click()
    page.locator("#title h2", has_text="from a picture").wait_for()


def test_visitor_loads_a_community_model_and_comes_back(page, hub):
    open_tab(page, "Community")
    card = page.locator("#cards article", has_text=ADAPTER)
    card.wait_for()
    assert "Adapter" in card.inner_text() and "downloads" in card.inner_text()
    assert page.locator("#cards img[onerror]").count() == 0
    card.get_by_role("button").click()
    page.locator("#using", has_text=ADAPTER).wait_for()
    strength = page.locator(".strength input[type=range]")
    strength.wait_for()
    strength.focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#using", has_text="× 0.95").wait_for()
    open_tab(page, "Generate")
    choose(page, 1)
    page.get_by_role("button", name="Recipe, link, Python").click()
    page.locator("#recipe", has_text=f'"{ADAPTER}@{hub.repos[ADAPTER].head.sha}*0.95"').wait_for()
    open_tab(page, "About the model")
    page.locator("#card h1").first.wait_for()
    open_tab(page, "Community")
    page.get_by_role("button", name="Back to the Space's own model").click()
    page.locator("#using", has_text="this Space's own").wait_for()


def test_the_page_goes_on_without_the_hub(page, hub):
    hub.fail("500", times=math.inf)
    try:
        open_tab(page, "Community")
        page.get_by_text("The Hub did not answer.").wait_for()
        page.get_by_label("Or load by name").fill("maker/never-seen")
        page.get_by_role("button", name="Check and load").last.click()
        page.locator(".toast-body", has_text="Hub").wait_for()
        open_tab(page, "Generate")
        page.get_by_role("button", name="Generate", exact=True).click()
        wait_for_pictures(page, "#gallery", 8, 256)
    finally:
        hub.faults.clear()
