"""The system's Chromium, for tests that look at what a browser shows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none, and fails where SHARINGAN_REQUIRE_BROWSER is set."""
    if CHROMIUM is None:
        reason = "chromium is not installed; `apt install chromium`, or name another in CHROMIUM"
        if os.environ.get("SHARINGAN_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --force-color-profile=srgb"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        yield browser
        browser.close()
