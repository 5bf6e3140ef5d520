"""The running Space in a browser: a visitor trains, keeps, cancels and leaves."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.app_process import ROOT
from tests.space_app.steps import choose, open_tab, wait_for_pictures

pytestmark = pytest.mark.xdist_group("app")

PICTURES = sorted((ROOT / "training" / "data" / "sharingan15").glob("*.png"))[:10]


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for what the Space does; a test that waits in vain is ended by its runner."""
    while not condition():
        threading.Event().wait(0.05)


def folders(scratch: Path) -> list[Path]:
    return list(scratch.glob("sharingan-train-*"))


def begin(page: Any) -> None:
    """Upload pictures and train on them until the first steps and designs are seen."""
    open_tab(page, "Train your own")
    page.locator("#pictures-upload input[type=file]").set_input_files(PICTURES)
    page.get_by_text("10 pictures.").wait_for()
    page.locator("#train").click()
    page.locator("#training svg polyline").first.wait_for(state="attached")  # of the first step it has no length
    page.locator("#learning img").wait_for()


def trains(client: Client) -> None:
    """One training runs at a time: were the one before still under way, this one would get no turn."""
    job = client.submit([handle_file(path) for path in PICTURES], 10, api_name="/train")
    wait_until(lambda: any("Step" in output[1] for output in job.outputs()))
    job.cancel()


def test_visitor_trains_keeps_uses_and_leaves(page, scratch, client):
    begin(page)
    assert page.locator("#train").is_disabled() and not page.locator("#trained").is_visible()
    page.locator("#stop").click()
    page.locator("#report h2", has_text="steps in").wait_for()
    page.locator("#nearest img").wait_for()
    page.locator("#report", has_text="Copying").wait_for()
    page.locator("#using", has_text="your own").wait_for()
    open_tab(page, "Generate")
    before = page.locator("#gallery .thumbnail-item img").first.get_attribute("src")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("before => document.querySelector('#gallery img').src != before", arg=before)
    wait_for_pictures(page, "#gallery", 8, 256)
    choose(page, 2)
    page.get_by_role("button", name="Recipe, link, Python").click()
    page.locator("#recipe", has_text='"trained-').wait_for()
    model = page.locator("#recipe").inner_text().partition('"trained-')[2].partition('"')[0]
    assert len(model) == 16
    assert len(client.predict(seed=98765, count=1, model=f"trained-{model}", api_name="/generate")) == 1
    assert len(folders(scratch)) == 1
    page.close()
    wait_until(lambda: not folders(scratch))
    with pytest.raises(AppError, match="is gone"):
        client.predict(seed=987654, count=1, model=f"trained-{model}", api_name="/generate")


def test_cancel_stops_the_work_and_keeps_nothing(page, scratch, client):
    begin(page)
    page.locator("#cancel-training").click()
    page.get_by_text("Stopped. Nothing of it is kept.").wait_for()
    wait_until(lambda: not folders(scratch))
    page.locator("#train:enabled").wait_for()
    page.locator("#cancel-training:disabled").wait_for()
    trains(client)


def test_leaving_stops_the_work_and_leaves_nothing(page, scratch, client):
    begin(page)
    page.close()
    wait_until(lambda: not folders(scratch))
    trains(client)
    wait_until(lambda: not folders(scratch))
