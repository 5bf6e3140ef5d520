"""The running Space in a browser: designs are made, chosen, varied, mixed, filmed and saved."""

import re
import xml.etree.ElementTree as ET

import av
import pytest
from PIL import Image

from sharingan_hub import read_recipe
from tests.space_app.steps import choose, open_section, open_tab, save, wait_for_link, wait_for_pictures

pytestmark = pytest.mark.xdist_group("app")


def test_visitor_generates_chooses_and_saves(page, tmp_path):
    before = page.locator("#gallery .caption-label").all_inner_texts()  # before any button is pressed
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        "before => document.querySelector('#gallery .caption-label')?.innerText != before", arg=before[0]
    )
    after = wait_for_pictures(page, "#gallery", 8, 256)
    assert len(set(after)) == 8 and not set(after) & set(before)
    caption = choose(page, 5)
    page.get_by_role("radio", name="1024").check(force=True)
    png = save(page, "PNG", tmp_path)
    seed = int(caption.removeprefix("seed "))
    with Image.open(png) as image:
        assert (image.format, image.size, png.name) == ("PNG", (1024, 1024), f"sharingan-{seed}.png")
    assert (read_recipe(png) or {})["seed"] == seed
    svg = save(page, "SVG", tmp_path)
    assert ET.parse(svg).getroot().tag.endswith("svg") and (read_recipe(svg) or {})["seed"] == seed
    with Image.open(save(page, "Spin", tmp_path)) as image:
        assert (image.format, image.n_frames) == ("WEBP", 48)


def test_settings_redraw_the_same_seeds_and_a_dropped_file_brings_them_back(page, tmp_path, client):
    page.locator(".swatches").get_by_role("radio", name="sapphire").first.check(force=True)
    page.locator("#title h2", has_text="sapphire").wait_for()
    assert page.locator("#gallery .caption-label").all_inner_texts() == [f"seed {i}" for i in range(8)]
    png = client.predict({"seed": 77, "order": 5, "truncation_psi": 1.1, "palette": "gold"}, 256, api_name="/draw")
    page.locator("#restore input[type=file]").set_input_files(png)
    page.locator("#title h2", has_text="seed 77 · order 5 · gold").wait_for()
    page.wait_for_function("document.querySelector('#settings input[type=number]').value == '1.1'")
    page.locator("#settings input[type=radio]:checked").and_(page.get_by_role("radio", name="5", exact=True)).wait_for()


def test_variations_pins_and_links_stay_with_the_visitor(page, url):
    choose(page, 3)
    page.get_by_role("button", name="Vary the chosen one").click()
    page.locator("#gallery .caption-label", has_text="variation").nth(6).wait_for()
    page.locator("#gallery .thumbnail-item").nth(2).click()
    page.locator("#title h2", has_text="variation").wait_for()
    title = page.locator("#title h2").inner_text()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator("#pinned .thumbnail-item img").wait_for()
    link = wait_for_link(page, "variation=")
    assert link.startswith(url)
    page.goto(link)
    page.locator("#title h2", has_text=title).wait_for()
    page.wait_for_function("document.querySelector('#settings input[type=number]').value == '0.7'")
    page.locator("#pinned .thumbnail-item img").wait_for()  # kept in the browser
    page.get_by_role("button", name="Recipe, link, Python").click()
    page.locator("#python", has_text="vary(pipe, 3").wait_for()


def test_visitor_is_told_what_is_wrong_and_goes_on(page):
    seed = open_section(page, "Seed, number, repairs", "Seed")
    seed.fill("-7")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Seed must be a whole number from -1 to 4294967295, got -7.").wait_for()
    seed.fill("41")
    seed.press("Enter")
    page.get_by_text("seed 42", exact=True).wait_for()


def test_visitor_makes_a_film_and_two_others_are_stopped(page, tmp_path, served, client):
    open_tab(page, "Interpolate")
    page.get_by_role("button", name="Pin three examples").click()
    page.locator("#keyframes .thumbnail-item img").nth(2).wait_for()
    page.get_by_label("number input for Seconds").fill("1")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text("30 frames, 1 s").wait_for()
    with av.open(save(page, "Download", tmp_path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30
    page.get_by_label("number input for Seconds").fill("20")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text(re.compile(r"Frame \d+ of 600")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_label("number input for Seconds").fill("19.5")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text(re.compile(r"Frame \d+ of 585")).wait_for()
    page.close()  # the visitor leaves
    # One film is drawn at a time: were the others not stopped, they would be there by now.
    client.predict([7, 9], seconds=0.2, api_name="/interpolate")
    assert sum(1 for path in served.rglob("*.mp4") if (read_recipe(path) or {})["film"]["seconds"] > 19) == 0
    assert not list(served.rglob("*.tmp"))


def test_visitor_mixes_and_moves(page):
    choose(page, 2)
    open_tab(page, "Mix and explore")
    source = page.locator("#mixed img")
    source.wait_for()
    page.locator("#sources .thumbnail-item img").nth(7).wait_for()
    before = source.get_attribute("src")
    page.locator("#sources .thumbnail-item").nth(5).click()
    page.wait_for_function("before => document.querySelector('#mixed img').src != before", arg=before)
    before = source.get_attribute("src")
    page.get_by_label("range slider for Direction 1").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('#mixed img').src != before", arg=before)
    page.get_by_role("button", name="Take to Generate").click()
    page.locator("#title h2", has_text="seed 2 · mixed").wait_for()
