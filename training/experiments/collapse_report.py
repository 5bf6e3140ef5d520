"""Figure and table of Nazeri's runs, drawn from their JSON files and strips."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub.cards import figure as shown
from training.experiments.results import table, write_section
from training.monitor import COLLAPSED
from training.plots import INK, PALE, WARNING, new_figure, save_figure

SECTION = """## Collapse

M. Nazeri's DCGAN, activation before batch norm, on 100 sharingan at 64 px: plain; with β·‖fake − real‖² in the discriminator's loss;
with spectral norm and a clipped gradient; with all of it; then the same term in the generator's loss, where it has a gradient; and
the second run again with `--stop_on_collapse`. A quarter of his channels, so that one core does, and batches of 10. All runs have one
seed, so two whose gradients are the same have the same weights, to the bit: the last column compares digests of them. A spike is
an epoch whose loss is above twice the median of the 50 before. KID and recall are of 1,000 samples against 4,000 unseen draws.

{table}

![Loss of the discriminator, diversity and pictures of four runs](pictures/collapse.png)

The published term is constant in the discriminator's weights, for the fake is detached and the real picture is data. It lifts the
plotted loss and changes no gradient: his first and second run are one run, and so are his third and fourth.

As he saw, the plotted loss leaps and all pictures become one, at epoch 240. The leap is the collapse itself, seen through the term:
one noisy picture is far from every real one. Unlike his, the run with spectral norm and clipping collapses no later, at epoch 220,
once its discriminator's loss is 0. With a gradient the term holds the fakes to the pictures: no collapse in 1,000 epochs, but
diversity sinks to 19 %. Stopping early goes back to epoch 140, and that is the best model of the six.
"""

TITLES = {
    "plain": "plain",
    "beta": "β as published",
    "stable": "spectral norm, clipping",
    "stable_beta": "spectral norm, clipping, β as published",
    "beta_corrected": "β with a gradient",
    "early_stopping": "β as published, stopped early",
}
TWINS = {"beta": "plain", "stable_beta": "stable", "early_stopping": "beta"}  # differ in what has no gradient
DRAWN = ("beta", "stable", "beta_corrected", "early_stopping")
LOSS, DIVERSITY = "#084594", "#2a9d8f"
SPIKE, BEFORE, APART = 2.0, 50, 10  # times the median of so many epochs before; nearer ones are the same spike


def write(results: Path, docs: Path) -> None:
    """Draw the figure into docs/pictures and write the table into docs/gan_family.md."""
    runs = {name: json.loads((results / f"{name}.json").read_text()) for name in TITLES}
    draw(runs, results, docs / "pictures" / "collapse.png")
    write_section(docs / "gan_family.md", "collapse", "collapse", SECTION.format(table=runs_table(runs)))


def spikes(losses: Sequence[float]) -> list[int]:
    """The epochs, from 1, at which a loss stands above SPIKE times its median over the epochs before."""
    found: list[int] = []
    for i in range(BEFORE, len(losses)):
        if losses[i] > SPIKE * statistics.median(losses[i - BEFORE : i]) and (not found or i + 1 - found[-1] > APART):
            found.append(i + 1)
    return found


def same_weights(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[int, int]:
    """Of the checks that two runs share, at how many their weights are the same to the bit; and how many there are."""
    shared = one.keys() & other.keys()
    return sum(one[epoch] == other[epoch] for epoch in shared), len(shared)


def runs_table(runs: Mapping[str, Any]) -> str:
    """A row for each run: spikes, collapse, twins, and figures of what was kept."""
    rows = {}
    for name, title in TITLES.items():
        run = runs[name]
        twin = TWINS.get(name)
        same = (
            "{} of {}, with {}".format(*same_weights(run["digests"], runs[twin]["digests"]), TITLES[twin])
            if twin
            else ""
        )
        diversity = dict(run["checks"])
        rows[title] = [
            str(run["epochs"]),
            str(len(spikes(run["loss_d"]))),
            str(run["collapsed"] or "–"),
            f"{100 * max(diversity.values()):.0f} %",
            f"{100 * diversity[run['kept']]:.0f} %",
            shown(run["metrics"]["kid"]),
            shown(run["metrics"]["recall"]),
            same,
        ]
    columns = ["epochs", "spikes of D's loss", "collapse at", "best diversity", "in the end", "KID", "recall"]
    return table([*columns, "checks with the same weights"], rows)


def draw(runs: Mapping[str, Any], results: Path, path: Path) -> None:
    """A column for each run: D's loss, the diversity of its pictures, and pictures of the same latents at some epochs."""
    figure = new_figure(13, 6.4)
    rows = figure.subplots(3, len(DRAWN), height_ratios=[1, 1, 1.05])
    for (loss, diversity, pictures), name in zip(rows.T, DRAWN):
        run = runs[name]
        epochs = range(1, run["epochs"] + 1)
        loss.plot(epochs, run["loss_d"], color=LOSS, linewidth=0.8)
        for epoch in spikes(run["loss_d"]):
            loss.axvline(epoch, color=PALE, linewidth=0.6, linestyle=":")
        loss.set_title(TITLES[name], fontsize=10, loc="left", color=INK)
        xs, ys = zip(*run["checks"])
        diversity.plot(xs, [100 * y for y in ys], color=DIVERSITY, marker="o", markersize=2.5, linewidth=1.2)
        diversity.axhline(100 * COLLAPSED, color=WARNING, linewidth=0.8, linestyle=":")
        diversity.set_ylim(0, 110)
        diversity.set_xlabel("epoch")
        for axes in (loss, diversity):
            axes.set_xlim(0, runs["beta"]["epochs"])
            axes.spines[["top", "right"]].set_visible(False)
            if run["collapsed"]:
                axes.axvline(run["collapsed"], color=WARNING, linestyle="--", linewidth=1)
        with Image.open(results / f"{name}.png") as strip:
            pictures.imshow(strip.convert("RGB"), interpolation="nearest")
            side = strip.height / len(run["shown"])
        pictures.set_yticks([(i + 0.5) * side for i in range(len(run["shown"]))], run["shown"])
        pictures.set_xticks([])
        pictures.tick_params(length=0)
        pictures.spines[:].set_visible(False)
    rows[0, 0].set_ylabel("D's loss")
    rows[1, 0].set_ylabel("diversity, % of the data's")
    rows[2, 0].set_ylabel("pictures at epoch")
    save_figure(figure, path)
