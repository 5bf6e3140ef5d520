"""The Community tab: models that others have published, checked before they are opened, for this visitor alone."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import gradio as gr

from .checks import check_number, friendly
from .models import EMBEDDED, MOST_ADAPTERS, TRAINED, Part, parse_model
from .page import GRID_SIZE, Page, endpoint
from .recipe import Recipe

if TYPE_CHECKING:
    from ..hub import ModelEntry

LIMIT = 24
SHOWN = ("kid", "coverage", "copying")
PICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-repo]");
  if (button) trigger("pick", {repo: button.dataset.repo, adapter: button.dataset.adapter === "true"}); })"""

HELP = """
Models are found by the tag `sharingan-hub`. Only configuration and safetensors are fetched, each file is checked before it
is opened, no code of a repository is ever run, and what you load is pinned to its commit and yours alone: other visitors keep
theirs. **Adapters** are small fine-tunes that are laid over the model in use, as strongly as you like.
"""


def tab(page: Page) -> Callable[..., Any]:
    """Build the tab into the page that is open."""
    models = page.models

    def discover(query: Any = "") -> list[dict[str, Any]]:
        from .. import hub

        words = query.strip()[:100] if isinstance(query, str) else ""
        with friendly():
            return [entry_facts(entry) for entry in hub.discover(words or None, limit=LIMIT)]

    def load(repo: Any) -> str:
        with friendly():
            return models.load(repo)

    # What only the page needs

    def use(name: str) -> list[Any]:
        """The page draws with a model: its name, eight pictures, the first of them chosen, and its adapters' strengths."""
        with friendly():
            grid = models.pictures([Recipe(seed=seed, output_size=GRID_SIZE, model=name) for seed in range(8)])
        return [name, using(page, name), grid, *page.present(Recipe(model=name)), *strengths(name)]

    def look(query: Any) -> str:
        """The cards, or why there are none; as the tab opens nobody has asked for anything, so nothing is raised."""
        try:
            return entries(discover(query))
        except gr.Error:
            return UNREACHABLE

    def picked(model: str, event: gr.EventData) -> str:
        """The name to load for a card that was clicked: an adapter is laid over the model in use where it fits."""
        repo = str(event.repo)[:200]
        if not event.adapter:
            return repo
        with friendly():
            try:
                return models.load(f"{model or models.title}+{repo}")
            except Exception:  # it is for another base, which it names itself
                return repo

    def weigh(model: str, *weights: Any) -> str:
        parts = parse_model(model or models.title)
        first = [] if is_adapter(page, parts[0]) else [parts[0]]
        laid = parts[len(first) :]
        changed = [replace(part, weight=check_number("Strength", weight, -2, 2)) for part, weight in zip(laid, weights)]
        with friendly():
            return models.load("+".join(map(str, [*first, *changed])))

    def strengths(name: str) -> list[Any]:
        parts = parse_model(name) if name else (Part(EMBEDDED),)
        laid = parts if is_adapter(page, parts[0]) else parts[1:]
        shown = [gr.Slider(value=part.weight, label=part.name, visible=True) for part in laid[: MOST_ADAPTERS + 1]]
        return shown + [gr.Slider(visible=False)] * (MOST_ADAPTERS + 1 - len(shown))

    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            query = gr.Textbox(label="Find models", placeholder="words of a name, or nothing for all", elem_id="query")
            find = gr.Button("Look on the Hub", size="md", variant="primary")
            repo = gr.Textbox(
                label="Or load by name", placeholder="user/their-sharingan", elem_id="repo", max_length=300
            )
            load_button = gr.Button("Check and load", size="md")
            own = gr.Button("Back to the Space's own model", size="md")
            sliders = [
                gr.Slider(-1, 2, 1, step=0.05, label="Adapter", visible=False, elem_classes="strength")
                for _ in range(MOST_ADAPTERS + 1)
            ]
            gr.Markdown(HELP, elem_classes=["hint", "late"])
        with gr.Column(elem_classes="result", min_width=0):
            cards = gr.HTML(EMPTY, js_on_load=PICK, elem_id="cards")
    found = gr.JSON(visible=False)
    wanted = gr.Textbox(visible=False)
    loaded = gr.Textbox(visible=False)

    private: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "hub", "show_progress": "hidden"}
    looked = endpoint(
        [find.click, query.submit], discover, query, found, "hub",
        "Models and adapters on the Hub with the tag sharingan-hub, most downloaded first.", show_progress_on=cards,
    )  # fmt: skip
    looked.success(entries, found, cards, **private)
    looked.failure(lambda: UNREACHABLE, None, cards, **private)
    # The model with what tells of it, in one answer: a slider that is moved at once is moved for this model.
    in_use = [page.model, page.using, page.gallery, *page.detail, *sliders]
    opened = [
        endpoint(
            [load_button.click, repo.submit],
            load,
            repo,
            loaded,
            "hub",
            "Fetch and check a model of the Hub, and give its pinned name, which other actions take as their recipe's model.",
            show_progress_on=cards,
        ),  # fmt: skip
        cards.pick(
            picked, page.model, wanted, **private | {"show_progress": "minimal", "show_progress_on": cards}
        ).success(load, wanted, loaded, **private | {"show_progress": "minimal", "show_progress_on": cards}),
        own.click(lambda: "", None, loaded, **private),
        gr.on(
            [slider.input for slider in sliders],
            weigh,
            [page.model, *sliders],
            loaded,
            trigger_mode="always_last",
            **private,
        ),
    ]

    def on_loaded(event: Any) -> None:
        """After an event that fills `loaded`: the page draws with that model."""
        page.on_present(
            event.success(use, loaded, in_use, **private | {"show_progress": "minimal", "show_progress_on": page.using})
        )

    for event in opened:
        on_loaded(event)
    page.loaded, page.on_loaded = loaded, on_loaded
    return lambda tab_opened: tab_opened.select(look, query, cards, **private | {"show_progress": "minimal"})


def is_adapter(page: Page, part: Part) -> bool:
    """Whether a loaded part is an adapter."""
    from ..checkpoints.adapters import is_adapter as check

    return check(page.models.folder(str(replace(part, weight=1.0))))


def using(page: Page, name: str) -> str:
    """The line that says which model draws."""
    if page.models.is_own(name):
        return f"Model: **{page.models.title}**, this Space's own"
    if name.startswith(TRAINED):
        return "Model: **your own**, trained here"
    parts = [
        f"**{part.name}**"
        + (f" at `{part.sha[:7]}`" if part.sha else "")
        + (f" × {part.weight:g}" if part.weight != 1 else "")
        for part in parse_model(name)
    ]
    return "Model: " + " + ".join(parts) + ", checked: safetensors only, no code run"


def entry_facts(entry: ModelEntry) -> dict[str, Any]:
    """An entry as JSON's types."""
    updated = None if entry.updated is None else entry.updated.isoformat()
    return asdict(entry) | {"updated": updated, "author": entry.repo_id.partition("/")[0]}


EMPTY = '<p class="hint">Press <b>Look on the Hub</b> to see what others have made.</p>'
UNREACHABLE = (
    '<p class="hint">The Hub did not answer. The model in use goes on working, and so do models that were loaded before; '
    "please look again in a while.</p>"
)


def entries(found: Any) -> str:
    """Cards of models; every word of a stranger's is escaped once more."""
    if not found:
        return '<p class="hint">No model of that name has the tag sharingan-hub.</p>'
    return f'<div class="cards">{"".join(map(card, found))}</div>'


def card(entry: dict[str, Any]) -> str:
    """One model's card: picture, names, base, licence, and how trustworthy and fresh it is."""

    def text(value: Any) -> str:
        return html.escape(str(value), quote=True)

    picture = (
        f'<img src="{text(entry["thumbnail"])}" alt="" loading="lazy" referrerpolicy="no-referrer">'
        if entry["thumbnail"]
        else ""
    )
    kind = "Adapter" if entry["is_adapter"] else "Model"
    facts = [
        f"of {entry['base_model']}" if entry["base_model"] else None,
        f"{entry['resolution']} px" if entry["resolution"] else None,
        f"licence {entry['licence']}" if entry["licence"] else "no licence given",
        measured(entry["metrics"]),
    ]
    trust = f"{entry['downloads']} downloads · {entry['likes']} likes · {age(entry['updated'])}"
    return (
        f'<article><div class="thumb">{picture}</div><div class="words"><h2>{text(entry["title"])}</h2>'
        f'<p class="by">{text(entry["repo_id"])}</p>'
        f"<p>{text(' · '.join(fact for fact in (kind, *facts) if fact))}</p><p>{text(trust)}</p>"
        f'<button type="button" data-repo="{text(entry["repo_id"])}" data-adapter="{str(entry["is_adapter"]).lower()}">'
        f'Check and load<span class="sr"> {text(entry["title"])}</span></button></div></article>'
    )


def measured(metrics: dict[str, float]) -> str:
    """The figures that say most, as the card claims them."""
    told = [f"{name.upper() if name == 'kid' else name} {metrics[name]:.3g}" for name in SHOWN if name in metrics]
    return ", ".join(told) or "not measured"


def age(updated: str | None) -> str:
    """How long ago, in words."""
    if updated is None:
        return "date unknown"
    when = datetime.fromisoformat(updated)
    days = math.floor((datetime.now(UTC) - when.replace(tzinfo=when.tzinfo or UTC)).total_seconds() / 86400)
    if days < 1:
        return "updated today"
    return f"updated {days} days ago" if days < 60 else f"updated {days // 30} months ago"
