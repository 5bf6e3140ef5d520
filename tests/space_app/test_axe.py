"""Every tab against axe's rules (WCAG and good practice, and the size of what is pressed), in light, in dark and on a phone."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.space_app.steps import open_tab

pytestmark = pytest.mark.xdist_group("app")

TABS = (
    "Generate",
    "Interpolate",
    "Mix and explore",
    "Repair & recolour",
    "From my drawing",
    "Community",
    "Train your own",
    "About the model",
)
# On a gradient, or beneath what a pseudo-element draws, axe cannot tell a contrast and says nothing. So the ground takes that
# colour of its gradient which is worst to read on, and so do the buttons.
PLAIN = """body, .gradio-container {{ background: {} !important; }}
button.primary {{ background: #df1f24 !important; }}
button[role=tab]::before, button[role=tab]::after {{ display: none !important; }}"""
GROUND = {"light": "#ffd9d2", "dark": "#4a0a0f"}
AT_REST = """() => !document.querySelector(".pending") &&
    !document.getAnimations().some(animation => animation instanceof CSSTransition)"""
# Minor, and not ours: Gradio's gallery gives a picture its caption as name too; a card's tables are its author's.
LEFT_OUT = {"image-redundant-alt", "empty-table-header"}


def problems(page: Any) -> list[str]:
    """What axe finds wrong: rule, weight, and the elements. Looked at when nothing fades: Gradio dims what it is about to renew."""
    page.wait_for_function(AT_REST)
    found = Axe().run(page, options={"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}})
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {[one['message'] for one in node['any']]}"
        for rule in found.response["violations"]
        if rule["id"] not in LEFT_OUT
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390)])
def test_every_tab_passes_axe(page, scheme, width):
    page.set_viewport_size({"width": width, "height": 844})
    if scheme == "light":
        page.get_by_role("button", name="Light or dark").click()
    page.add_style_tag(content=PLAIN.format(GROUND[scheme]))
    for tab in TABS:
        open_tab(page, tab)
        folded = page.locator("button.label-wrap:visible:not(.open)")
        while folded.count():
            folded.first.click()
        fill(page, tab)
        assert problems(page) == [], tab


def fill(page: Any, tab: str) -> None:
    """Have a tab show what it has to show."""
    if tab == "Repair & recolour":
        page.get_by_role("button", name="A damaged one").click()
        page.locator("#facts svg polygon").wait_for()
    elif tab == "From my drawing":
        page.locator("#try-sketch").click()
        page.get_by_text("Ready: press Find it.").wait_for()
        page.locator("#try-eye").click()
        page.get_by_text("Iris at").wait_for()
    elif tab == "Community":
        page.locator("#cards article").first.wait_for()
    elif tab == "About the model":
        page.locator("#card h1").first.wait_for()


def test_axe_would_tell(page):
    """The check itself: pale words, a picture without a name and a button too small to press are found."""
    page.set_content(
        "<main><h1 style='color: #ccc'>Pale</h1><img src='data:,'><button style='width: 9px'></button></main>"
    )
    told = " ".join(problems(page))
    assert all(rule in told for rule in ("color-contrast", "image-alt", "button-name"))
