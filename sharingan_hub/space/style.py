"""How the Space looks: near-black ink on warm paper or the other way round, one red, and nothing that competes with the
pictures. The layout is in style.css."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .recipe import PALETTES

HERE = Path(__file__).parent
# Drawn by the embedded model: draw_svg of seed 39, without its ground.
LOGO = HERE / "logo.svg"

HEADER = f"""
{LOGO.read_text(encoding="utf-8")}
<div class="name">
  <h1>SharinGAN Hub</h1>
  <p>Eyes that nobody has drawn before, at the press of a button.</p>
</div>
<button class="theme" type="button" aria-label="Light or dark"
  onclick="document.body.classList.toggle('dark')">&#9680;</button>
"""

RED = gr.themes.Color(
    name="red",
    c50="#fff1f0",
    c100="#ffdcd9",
    c200="#ffb8b3",
    c300="#ff8a83",
    c400="#f7524c",
    c500="#df1f24",
    c600="#c4121a",
    c700="#a00d14",
    c800="#7c0b11",
    c900="#5a0a0e",
    c950="#330507",
)
INK = gr.themes.Color(
    name="ink",
    c50="#fbf8f6",
    c100="#f2ebe8",
    c200="#e0d5d2",
    c300="#c5b6b3",
    c400="#a39391",
    c500="#766766",
    c600="#574a4a",
    c700="#3b3031",
    c800="#251c1d",
    c900="#171112",
    c950="#0c0809",
)

THEME = gr.themes.Base(
    primary_hue=RED,
    secondary_hue=RED,
    neutral_hue=INK,
    radius_size=gr.themes.sizes.radius_lg,
    font=["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    body_background_fill="radial-gradient(70rem 30rem at 50% -14rem, #ffd9d2 0%, #faf1ec 50%, #f7f2ee 80%) no-repeat #f7f2ee",
    body_background_fill_dark="radial-gradient(70rem 34rem at 50% -14rem, #4a0a0f 0%, #1d0a0c 45%, #0c0809 75%) no-repeat #0c0809",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_background_fill="#fffdfb",
    block_background_fill_dark="*neutral_900",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_border_width="1px",
    block_label_background_fill="#fffdfb",
    block_label_background_fill_dark="*neutral_900",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_800",
    block_title_text_color_dark="*neutral_100",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    input_background_fill="white",
    input_background_fill_dark="*neutral_950",
    button_primary_background_fill="linear-gradient(180deg, *primary_500, *primary_700)",
    button_primary_background_fill_hover="linear-gradient(180deg, *primary_400, *primary_600)",
    button_primary_background_fill_dark="linear-gradient(180deg, *primary_500, *primary_700)",
    button_primary_background_fill_hover_dark="linear-gradient(180deg, *primary_400, *primary_600)",
    button_primary_text_color="white",
    button_primary_text_color_dark="white",
    button_secondary_background_fill="*neutral_100",
    button_secondary_background_fill_dark="*neutral_800",
    slider_color="*primary_500",
    slider_color_dark="*primary_500",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
)


def swatches() -> str:
    """CSS that shows each palette's name as a small emblem in its colours."""
    rules = []
    for number, (iris, pattern) in enumerate(PALETTES.values(), 2):  # the first one is the model's own
        image = f"radial-gradient(circle, {pattern} 0 24%, {iris} 27% 62%, {pattern} 66% 100%)"
        rules.append(f".swatches label:nth-of-type({number}) {{ --dot: {image}; }}")
    return "\n".join(rules)


# What Gradio leaves out for those who listen or use the keyboard: the name of the button around a picture, the role of an
# empty gallery, and code that can be scrolled.
ACCESS = """<script>
new MutationObserver(() => {
  const missing = (what, name, value) =>
    document.querySelectorAll(what).forEach((element) => element.setAttribute(name, value));
  missing("button:has(> .image-frame):not([aria-label])", "aria-label", "The picture");
  missing(".empty[aria-label]:not([role])", "role", "img");
  missing(".cm-scroller[tabindex='-1'], :is(.prose pre, #card table):not([tabindex])", "tabindex", "0");
}).observe(document, {childList: true, subtree: true});
</script>"""

LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": swatches(),
    "css_paths": HERE / "style.css",
    "head": ACCESS,
    "favicon_path": LOGO,
    "footer_links": ["api"],
    "ssr_mode": False,
    "max_file_size": "20mb",
}
