"""How the Space looks: near-black, one red, and nothing that competes with the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ICON = Path(__file__).with_name("icon.svg")

HEADER = f"""
{ICON.read_text()}
<div>
  <h1>SharinGAN Hub</h1>
  <p>Eyes that nobody has drawn before, at the press of a button.</p>
</div>
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
    c50="#faf6f5",
    c100="#efe7e6",
    c200="#dacfce",
    c300="#bfb1b0",
    c400="#a09190",
    c500="#7d6e6e",
    c600="#5c4e4f",
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
    body_background_fill_dark="radial-gradient(70rem 34rem at 50% -14rem, #4a0a0f 0%, #1d0a0c 45%, #0c0809 75%) no-repeat #0c0809",
    block_background_fill_dark="*neutral_900",
    block_border_color_dark="*neutral_800",
    block_label_background_fill_dark="*neutral_900",
    input_background_fill_dark="*neutral_950",
    button_primary_background_fill_dark="linear-gradient(180deg, *primary_500, *primary_700)",
    button_primary_background_fill_hover_dark="linear-gradient(180deg, *primary_400, *primary_600)",
    button_primary_text_color_dark="white",
    slider_color_dark="*primary_500",
    checkbox_label_background_fill_dark="*neutral_950",
    block_border_width="1px",
)
# Dark whatever the visitor's system prefers: the pictures are made for it.
for name, value in list(vars(THEME).items()):
    if name.endswith("_dark") and value is not None:
        setattr(THEME, name.removesuffix("_dark"), value)

CSS = """
:root { color-scheme: dark; }
.gradio-container > main { max-width: 1240px; margin-inline: auto; }

#header { padding: .5rem 0 0; }
#header .prose { display: flex; align-items: center; gap: 1.1rem; }
#header svg { flex: none; width: 4.25rem; height: 4.25rem; filter: drop-shadow(0 0 1.1rem #e0202680); }
#header svg > g { animation: turn 24s linear infinite; }
@keyframes turn { to { transform: rotate(-360deg); } }
@media (prefers-reduced-motion: reduce) { #header svg > g { animation: none; } }
#header h1 { margin: 0; font-size: 1.9rem; line-height: 1.15; letter-spacing: -.01em; }
@media (max-width: 800px) {
  #header .prose { gap: .8rem; }
  #header svg { width: 3.25rem; height: 3.25rem; }
  #header h1 { font-size: 1.45rem; }
  #header p { font-size: .9rem; line-height: 1.35; }
}
#header p { margin: .2rem 0 0; color: var(--neutral-300); font-size: 1rem; }

/* Button and settings beside the pictures; on a phone the button, then the pictures, then the settings. */
#generate { display: grid; gap: 1rem 1.25rem; align-items: start;
  grid: "go pictures" auto "settings pictures" 1fr / minmax(0, 20rem) minmax(0, 1fr); }
#go { grid-area: go; }
#settings { grid-area: settings; gap: 1rem; }
#pictures { grid-area: pictures; }
@media (max-width: 800px) {
  #generate { grid: "go" auto "pictures" auto "settings" auto / minmax(0, 1fr); }
}
#go button { min-height: 3.25rem; font-size: 1.15rem; box-shadow: 0 .4rem 1.6rem -.5rem #e02026a0; }

#gallery { background: none; border-width: 0 !important; }
/* While new pictures are drawn the old ones stay, dimmed. */
#gallery [data-testid="status-tracker"] { background: #0c0809c0; }
#gallery .grid-wrap { max-height: none; min-height: 0; padding: 0; overflow: visible; }
#gallery .grid-container { gap: .9rem; grid-template-columns: repeat(4, minmax(0, 1fr)); }
#gallery .gallery-item { height: auto; }
#gallery .grid-container .thumbnail-item { display: block; width: 100%; height: auto; aspect-ratio: auto; border: none;
  border-radius: 1rem; background: none; box-shadow: none; overflow: hidden; }
#gallery .grid-container .thumbnail-item img { display: block; width: 100%; height: auto; aspect-ratio: 1; border-radius: 1rem;
  transition: filter .15s, transform .15s; }
#gallery .grid-container .thumbnail-item:hover img { filter: brightness(1.12); transform: scale(1.02); }
#gallery .grid-container .thumbnail-item:focus-visible { outline: 2px solid var(--primary-400); outline-offset: 2px; }
#gallery .grid-container .caption-label { position: static; max-width: none; padding: .3rem 0 .1rem; border: none; border-radius: 0;
  background: none; color: var(--neutral-400); font-size: .8rem; text-align: center; font-variant-numeric: tabular-nums; }
#gallery .grid-container:has(> .gallery-item:only-child) { grid-template-columns: minmax(0, 36rem); }
/* An opened picture has the same room whatever the number of pictures. */
#gallery:has(.preview) .grid-wrap { display: none; }
#gallery .preview { position: relative; inset: auto; height: min(80vh, 42rem); border-radius: 1rem; background: var(--neutral-900); }
@media (max-width: 800px) {
  #gallery .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  #gallery .preview { height: 32rem; }
}

/* Choices as a row of keys instead of radio dots. */
#settings fieldset .wrap { display: flex; flex-wrap: nowrap; gap: .25rem; }
#settings fieldset label { flex: 1 1 0; justify-content: center; padding: .4rem 0; min-width: 0; cursor: pointer;
  background: var(--neutral-950); border: 1px solid var(--neutral-800); color: var(--neutral-300); font-size: .85rem; }
#settings fieldset label:first-child { flex-grow: 1.35; }
#settings fieldset label > span { margin: 0; padding: 0; }
#settings fieldset label:hover { border-color: var(--neutral-600); }
#settings fieldset label.selected { background: var(--primary-600); border-color: var(--primary-500); color: white; }
#settings fieldset input { position: absolute; opacity: 0; pointer-events: none; }
#settings fieldset label:has(:focus-visible) { outline: 2px solid var(--primary-300); outline-offset: 1px; }
#presets button { border-radius: 2rem; border-color: var(--neutral-700); background: none; }
#presets button:hover { border-color: var(--primary-500); background: #df1f2420; }
#presets .label svg { display: none; }
#settings input[type="range"] { --neutral-200: var(--neutral-700); }
#pictures { gap: 1.25rem; }
footer .divider { display: none; }
#help p { color: var(--neutral-400); font-size: .88rem; line-height: 1.55; }
#help strong { color: var(--neutral-200); font-weight: 600; }
"""

LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "favicon_path": ICON,
    "footer_links": ["api"],
    "ssr_mode": False,
}
