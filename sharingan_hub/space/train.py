"""The Train your own tab: a visitor's pictures adapt the source model, seen as it learns, for that visitor alone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Timer, get_native_id
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from .checks import check_flag, check_number, friendly, problem
from .page import DOWNLOAD, WAIT, Page, endpoint, progress_bar
from .repair import read_picture

if TYPE_CHECKING:
    from PIL import Image

FEWEST, MOST = 10, 30  # pictures
KEPT_SIDE = 256  # pixels at which they are kept; training sees 128
MINUTES = (0.05, 10.0)
SAMPLES, PAIRS = 64, 8  # pictures that the report is measured on, and those of them that are shown
TELL_EVERY, SHOW_EVERY = 0.5, 3.0  # seconds
STRIP = 8  # designs in the live preview
KEPT_SECONDS = 3600  # at most, for a model whose visitor stays
MOST_KEPT = 6  # visitors' models on this machine; the oldest goes first
CURVES = {"statistics": "colours and rings", "loss_d": "critic", "loss_g": "generator"}
RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "adapt_default.yaml"

HELP = """
Round emblems in one style, each about square and filled by its emblem. The model first takes over their colours and rings, then
learns against a critic. One training runs at a time, on the processor (or on a GPU that the Space owns; not on ZeroGPU).

**The model is deleted as you leave or reload this page, or after an hour**, and what you uploaded within about an hour: download or
publish what you like. Use pictures that are yours to use.
"""
LOGIN = "Sign in first if you want to publish: it opens this page anew."
EMPTY = "Choose pictures, then press Train."
CANCELLED = "Stopped. Nothing of it is kept."


def is_available() -> bool:
    """Whether the training can be imported: it lies beside the package in a checkout."""
    needed = ("training", "accelerate")
    return RECIPE.is_file() and all(importlib.util.find_spec(name) for name in needed)


@dataclass(eq=False)
class Training:
    """One visitor's training, and what came of it."""

    folder: TemporaryDirectory[str] = field(default_factory=lambda: TemporaryDirectory(prefix="sharingan-train-"))
    stop: Event = field(default_factory=Event)
    left: bool = False
    model: str = ""  # its name once it is complete


def tab(page: Page) -> None:
    """Build the tab into the page that is open."""
    models = page.models
    visits: dict[str, Training] = {}  # by session, oldest first

    def train(pictures: Any, minutes: Any, request: gr.Request) -> Iterator[list[Any]]:
        images = read_pictures(pictures)
        limit = check_number("Minutes", minutes, *MINUTES)
        session = str(request.session_hash)
        forget(session)
        training = visits[session] = Training()
        try:
            yield shown(progress_bar("Getting ready", 0, 1))
            folder = Path(training.folder.name) / "model"
            with friendly():
                last, report, pairs = yield from trained(images, limit, training)
                archive = zipped(folder)
            if training.left:
                return
            for oldest in [one for one, other in visits.items() if other.model][: -MOST_KEPT + 1]:
                forget(oldest)
            training.model = models.add(folder)
            late = Timer(KEPT_SECONDS, forget, [session, training])  # a lost connection may never be told
            late.daemon = True
            late.start()
            yield [
                last,
                "<b>Done.</b> It draws in all tabs now, for you alone.",
                training.model,
                str(archive),
                report,
                pairs,
            ]
        finally:
            if not training.model:
                forget(session)
                training.folder.cleanup()  # again: where the visitor left meanwhile, something may have been written since

    def stop_training(request: gr.Request) -> str:
        training = visits.get(str(request.session_hash))
        if training is None or training.model:
            return "Nothing of yours is being trained."
        training.stop.set()
        return "Stopping after this step; what was learnt is kept."

    def publish(
        model: Any, repo: Any, private: Any, token: Any, request: gr.Request, signed_in: gr.OAuthToken | None
    ) -> str:
        from .. import hub

        training = visits.get(str(request.session_hash))
        if training is None or not training.model or training.model != model:
            raise problem("There is no model of yours to publish: train one first. It is kept while this page is open.")
        if not isinstance(repo, str) or not re.fullmatch(r"(?:[\w.\-]{1,96}/)?[\w.\-]{1,96}", repo.strip(), re.ASCII):
            raise problem("Repository must be a name such as my-sharingan or you/my-sharingan.")
        # Without a token the Hub client would take the one of whoever runs this Space.
        own = signed_in.token if signed_in else token.strip() if isinstance(token, str) else ""
        if not re.fullmatch(r"[!-~]{3,4000}", own):
            raise problem("Sign in, or give a Hub token of your own that may write: huggingface.co/settings/tokens.")
        with friendly():
            done = hub.publish(
                Path(training.folder.name) / "model", repo.strip(), check_flag("Private", private), token=own
            )
        return done.url

    # What only the page needs

    def leave(request: gr.Request) -> None:
        forget(str(request.session_hash))

    def forget(session: str, only: Training | None = None) -> None:
        """Stop a visitor's training, and delete what is there of it."""
        training = visits.get(session)
        if training is None or only not in (None, training):
            return
        training.left = True
        training.stop.set()
        if training.model:
            models.remove(training.model)
        visits.pop(session, None)
        training.folder.cleanup()

    def ready(yes: bool = True) -> list[Any]:
        """Either a training can begin, or the one that is under way be ended."""
        return [gr.Button(interactive=yes), gr.Button(interactive=not yes), gr.Button(interactive=not yes)]

    def start() -> list[Any]:
        return [*ready(False), "Waiting for its turn.", gr.Column(visible=False)]

    def count(pictures: Any) -> str:
        number = len(pictures or [])
        return EMPTY if not number else f"{number} pictures." + ("" if FEWEST <= number <= MOST else f" {SENTENCE}")

    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            if os.environ.get("SPACE_ID") and os.environ.get("OAUTH_CLIENT_ID"):
                gr.Markdown(LOGIN, elem_classes="hint")
                gr.LoginButton(size="md")
            pictures = gr.File(
                label=f"{FEWEST} to {MOST} pictures", file_count="multiple", file_types=["image"], height=190,
                elem_id="pictures-upload", elem_classes="early",
            )  # fmt: skip
            minutes = gr.Slider(1, MINUTES[1], 5, step=1, label="Minutes at most", elem_id="minutes")
            gr.Markdown(HELP, elem_classes=["hint", "late"])
        with gr.Column(elem_classes="result", min_width=0):
            with gr.Row(elem_classes=["actions", "early"]):
                go = gr.Button("Train", variant="primary", size="md", elem_id="train")
                stop = gr.Button("Stop and keep", size="md", interactive=False, elem_id="stop")
                cancel = gr.Button("Cancel", size="md", interactive=False, elem_id="cancel-training")
            status = gr.HTML(EMPTY, elem_id="training", padding=False, elem_classes="early")
            strip = gr.Image(
                format="png", show_label=False, label="What it draws now", interactive=False, buttons=[],
                elem_id="learning", elem_classes="early",
            )  # fmt: skip
            with gr.Column(visible=False, elem_id="trained", elem_classes="early") as result:
                report = gr.Markdown("", elem_id="report")
                nearest = gr.Image(
                    format="png", label="Its designs that are nearest to yours, above yours", show_label=False, interactive=False,
                    buttons=["fullscreen"], elem_id="nearest",
                )  # fmt: skip
                save = gr.Button("Download the model (zip)", size="md", elem_id="save-model")
                with gr.Group():
                    repo = gr.Textbox(label="Publish on the Hub as", placeholder="my-sharingan", max_length=200)
                    private = gr.Checkbox(False, label="Private")
                    token = gr.Textbox(
                        label="Your own Hub token", info="not needed where you are signed in; it is not kept", type="password", max_length=4000,
                    )  # fmt: skip
                publish_button = gr.Button("Publish under my name", size="md", elem_id="publish")
                published = gr.HTML("", padding=False, elem_id="published")
    model = gr.Textbox(visible=False)
    archive = gr.File(visible=False)
    url = gr.Textbox(visible=False)

    private_event: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    buttons = [go, stop, cancel]
    go.click(start, None, [*buttons, status, result], queue=False, **private_event)
    made = endpoint(
        [go.click], train, [pictures, minutes], [strip, status, model, archive, report, nearest], "train",
        "Adapt the source model to 10 to 30 pictures for some minutes (0.05 to 10): previews come first, last the model's name, "
        "which other actions take while this session lasts, a zip of its checkpoint folder, and a report.",
        show_progress="hidden",
    )  # fmt: skip
    for event in (made.success, made.failure):
        event(ready, None, buttons, queue=False, **private_event)
    made.success(lambda: gr.Column(visible=True), None, result, queue=False, **private_event)
    made.failure(lambda: EMPTY, None, status, queue=False, **private_event)
    page.on_loaded(made.success(lambda name: name, model, page.loaded, queue=False, **private_event))
    endpoint(
        [stop.click], stop_training, None, status, "stop",
        "End this session's training after the step that it is at; /train then gives what was learnt.",
        show_progress="hidden",
    )  # fmt: skip
    cancelled = cancel.click(None, cancels=[made], api_visibility="private").then(
        None, js=WAIT, api_visibility="private"
    )
    cancelled.then(lambda: [*ready(), CANCELLED], None, [*buttons, status], queue=False, **private_event)
    pictures.change(count, pictures, status, preprocess=False, queue=False, **private_event)
    save.click(None, archive, None, js=DOWNLOAD, api_visibility="private")
    endpoint(
        [publish_button.click], publish, [model, repo, private, token], url, "hub",
        "Publish a model that this session has trained, with its card, under the name of whose token it is: the commit's address.",
        show_progress_on=published,
    ).success(linked, url, published, **private_event)  # fmt: skip
    page.demo.unload(leave)


SENTENCE = f"There must be {FEWEST} to {MOST}."


def read_pictures(files: Any) -> list[Image.Image]:
    """The visitor's pictures, at most 256 pixels wide and high.

    Raises:
        gr.Error: there are too few or too many, or one cannot be read.
    """
    if not isinstance(files, list) or not FEWEST <= len(files) <= MOST:
        number = len(files) if isinstance(files, list) else 0
        raise problem(f"Training needs {FEWEST} to {MOST} pictures, got {number}.")
    images = []
    for number, file in enumerate(files, 1):
        image = read_picture(file, f"Picture {number}")
        image.thumbnail((KEPT_SIDE, KEPT_SIDE))
        images.append(image)
    return images


def trained(
    images: list[Image.Image], minutes: float, training: Training
) -> Generator[list[Any], None, tuple[Image.Image, str, Image.Image]]:
    """Train and measure in the folder of `training` -> what the page shows meanwhile; returns the last
    preview, and what `measure` does.

    The work is done step by step in a thread of its own, which is given less of the processor than those that draw; no step is
    taken unless this generator is asked to go on.
    """
    folder = Path(training.folder.name)
    (folder / "pictures").mkdir()
    for number, image in enumerate(images):
        image.save(folder / "pictures" / f"{number:02}.png")
    with ThreadPoolExecutor(1, "train", initializer=step_back) as pool:
        trainer = pool.submit(prepare, folder, minutes).result()
        yield shown(progress_bar("Step 0", 0, 1), pool.submit(preview, trainer).result())
        history: list[Mapping[str, float]] = []
        told = pictured = time.monotonic()
        with closing(trainer.steps()) as steps:
            while (losses := pool.submit(next, steps, None).result()) is not None:
                history.append(losses)
                trainer.interrupted = training.stop.is_set()
                now = time.monotonic()
                if now - pictured > SHOW_EVERY:
                    picture = pool.submit(preview, trainer).result()
                    told = pictured = time.monotonic()
                    yield shown(progress(trainer, history), picture)
                elif now - told > TELL_EVERY:
                    told = now
                    yield shown(progress(trainer, history))
                if training.left:
                    raise problem("Stopped, as the page was left.")
        last = pool.submit(preview, trainer).result()
        yield shown(progress_bar("Measuring what it learnt", 1, 1), last)
        measured = pool.submit(measure, folder).result()
        shutil.rmtree(folder / "model" / "checkpoints")  # for going on from, which nobody can here
    return last, *measured


def step_back() -> None:
    """Give way to the threads that draw. Linux knows priorities of single threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), 10)


def prepare(folder: Path, minutes: float) -> Any:
    """The trainer of the recommended recipe, for the pictures in a folder."""
    import torch
    import yaml

    from training.adapt import AdaptConfig, build_adaptation

    settings = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    never = {"sample_every": 10**9, "checkpointing_steps": 10**9, "report_to": "none"}
    if not torch.accelerator.is_available():
        never["mixed_precision"] = "no"
    where = {"train_data": str(folder / "pictures"), "output_dir": str(folder / "model"), "max_minutes": minutes}
    return build_adaptation(AdaptConfig(**settings | never | where))


def measure(folder: Path) -> tuple[str, Image.Image]:
    """What a model is worth, in words and as its designs nearest to the training pictures, above these; both go into its card.

    `training.evaluate` measures more, on thousands of designs.
    """
    import torch

    from training.checkpoints import emblem_grid, picture_grid, save_picture
    from training.data import load_pictures
    from training.evaluate import STRIP_SIDE, build_reference, compare, draw, training_pictures

    from ..cards import write_card
    from ..features import features_of, nearest
    from ..hub import read_json
    from ..pipeline_sharingan import SharinganPipeline

    model, pictures = folder / "model", str(folder / "pictures")
    pipe = SharinganPipeline.from_pretrained(model)
    reference = build_reference(training_pictures(pictures), None)
    count, training = len(reference.training_pictures), reference.training
    fake = features_of(draw(pipe, range(SAMPLES), 1.0), reference.network)
    figures = compare(fake, reference)
    apart = torch.pdist(training[:count])
    distance, which = nearest(fake, training)
    copies = int((distance[:, 0] < apart.min()).sum())
    likest = distance[:, 0].argsort()[:PAIRS]
    designs = draw(pipe, likest.tolist(), 1.0, STRIP_SIDE) * 2 - 1
    yours, _ = load_pictures(pictures, STRIP_SIDE).batch((which[likest, 0] % count).tolist())
    save_picture(picture_grid(torch.cat([designs, yours]), PAIRS), model / "samples" / "nearest.png")
    save_picture(emblem_grid(pipe), model / "samples" / "grid.png")
    write_card(model)
    report = read_json(model / "report.json")
    half = PAIRS // 2
    text = (
        f"## {report['steps']} steps in {report['minutes']:.1f} minutes\n"
        f"- **Copying**: {copies} of {SAMPLES} designs are nearer to one of your pictures than the two most alike of yours are to "
        f"each other. In the median they are {figures['novelty'].value:.1f} times as far from yours as yours from one another.\n"
        f"- **Diversity**: designs around the same picture of yours differ {figures['diversity'].value / float(apart.mean()):.1f} "
        f"times as much as your pictures do (0 is one design again and again).\n\n"
        f"Its designs that are nearest to yours, above yours:"
    )
    return text, picture_grid(torch.cat([designs[:half], yours[:half]]), half)


def preview(trainer: Any) -> Image.Image:
    """Eight designs of the model as it is now, in two rows."""
    from training.checkpoints import picture_grid

    return picture_grid(trainer.sample(STRIP), STRIP // 2)


def zipped(folder: Path) -> Path:
    """A zip of what belongs to a checkpoint folder, in Gradio's own folder."""
    from ..cards import public_report
    from ..hub.publishing import published_files

    path = Path(get_upload_folder()) / secrets.token_hex(16) / "my-sharingan.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in published_files(folder).items():
            if name == "report.json":
                archive.writestr(name, json.dumps(public_report(json.loads(file.read_text())), indent=2))
            else:
                archive.write(file, name)
    return path


def shown(status: str, picture: Any = None) -> list[Any]:
    """Values of what /train shows while it runs."""
    return [gr.skip() if picture is None else picture, status, "", None, "", None]


def progress(trainer: Any, history: list[Mapping[str, float]]) -> str:
    """Step, time left, and losses as curves and words."""
    config, done = trainer.config, trainer.seconds
    by_steps = done / trainer.step * (config.max_steps - trainer.step)
    left = max(0.0, min(by_steps, 60 * config.max_minutes - done))
    curves = "".join(
        curve(label, [row[name] for row in history if name in row])
        for name, label in CURVES.items()
        if any(name in row for row in history)
    )
    text = f"Step {trainer.step} · {left // 60:.0f}:{left % 60:02.0f} left"
    return progress_bar(text, done, done + left) + f'<div class="curves">{curves}</div>'


def curve(label: str, values: list[float]) -> str:
    """A loss over the steps, in 40 points."""
    part = max(1, -(-len(values) // 40))
    means = [sum(values[i : i + part]) / len(values[i : i + part]) for i in range(0, len(values), part)]
    low, high = min(means), max(means)
    points = " ".join(
        f"{100 * i / max(1, len(means) - 1):.1f},{28 - 26 * (value - low) / (high - low or 1):.1f}"
        for i, value in enumerate(means)
    )
    return (
        f'<figure><svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true"><polyline points="{points}"/></svg>'
        f"<figcaption>{label} {means[-1]:.3f}</figcaption></figure>"
    )


def linked(url: str) -> str:
    """An address of the Hub to be followed."""
    import html

    safe = html.escape(url, quote=True)
    return f'Published: <a href="{safe}" target="_blank" rel="noopener">{safe}</a>'
