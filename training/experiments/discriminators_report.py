"""Section of Chang's comparison in docs/gan_family.md, with figure and table, from the JSON files and strips."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub.cards import figure as shown
from training.experiments.results import table, write_section
from training.plots import INK, PALE, few_decades, new_figure, save_figure

TITLES = {
    "residual": "residual",
    "domain": "residual, domain augmentation",
    "vit": "vision transformer",
    "hybrid": "hybrid",
    "attention": "residual; attention beside convolutions",
    "attention_replaces": "residual; attention in place of one",
}
COLORS = ("#222222", "#888888", "#c1121f", "#e9a23b", "#084594", "#6baed6")

SECTION = """## Other discriminators, attention, and augmentation

What Y. Chang planned for StyleGAN2-ADA and did not finish. Against one generator stand StyleGAN2's residual discriminator, a vision
transformer, and a hybrid with three convolutions before the transformer. The generator gets self-attention at 16 px, beside its
convolutions and in place of one. The usual augmentations of ADA (turn, scale, shift, a hole) stand beside those that suit emblems, any
turn and colour. Each run sees {pictures:,} pictures at 64 px, of 1,000 sharingan; all have one seed, so the figure shows the same
latents in every row. FID and KID are of 2,000 samples against 4,000 unseen draws; images/s are of processor time, one core.

{table}

![The same seeds under six runs, their KID over training, and FID against speed](pictures/discriminators.png)

All of them teach the generator white ground, red disc and black ring, but the plain transformer no roundness: without convolutions
before it, it judges patches well and shapes badly. And nobody gets far beyond one emblem in 30,000 pictures; recall is 0 in every
row. From one checkpoint to the next KID moves by one or two, so the order of rows that are nearer to one another says nothing, and
attention does no more than change it. p stays low: a thousand pictures are enough not to be learnt by heart here. Augmentation by any
turn and colour has the most typical pictures, and the least different ones.

A transformer needs two things before it can judge at all. Its last layer norm has to go: with it, a picture twice as large is the same
to it, and nothing brings a generator back that has gone beyond the range of colours. And R1 has to be ten (hybrid) to a hundred times
as strong as for convolutions, for its logits hang on single pixels so little that an R1 of 1 does not hold it: it is then sure of
everything within a hundred steps, and the generator runs off to flat colours.

`python -m training.experiments.discriminators`
"""


def write(files: Mapping[str, Path], docs: Path) -> None:
    """Draw the figure into docs/pictures and write the section. files: of each run, with floor.json beside."""
    runs = {name: json.loads(file.read_text()) for name, file in files.items()}
    floor = json.loads((next(iter(files.values())).parent / "floor.json").read_text())
    draw(runs, files, docs / "pictures" / "discriminators.png")
    rows = {TITLES[name]: cells(run) for name, run in runs.items()}
    rows["*true draws*"] = [*figures(floor), "", "", ""]
    columns = ["FID", "KID", "precision", "recall", "p in the end", "images/s", "weights of G / D, thousands"]
    text = SECTION.format(pictures=next(iter(runs.values()))["pictures"], table=table(columns, rows))
    write_section(docs / "gan_family.md", "discriminators", "discriminators", text)


def speed(run: Mapping[str, Any]) -> float:
    """Images per second of processor time: the median over the ways from one checkpoint to the next."""
    return statistics.median(look["rate"] for look in run["looks"])


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """FID, KID, precision and recall as cells of the table."""
    return [shown(metrics[name]) for name in ("fid", "kid", "precision", "recall")]


def cells(run: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    weights = " / ".join(f"{run['weights'][name] / 1000:,.0f}" for name in ("generator", "discriminator"))
    return [*figures(run["metrics"]), f"{run['looks'][-1]['p']:.2f}", f"{speed(run):.0f}", weights]


def draw(runs: Mapping[str, Any], files: Mapping[str, Path], path: Path) -> None:
    """The same seeds of every run, one below the other; KID over training; FID against speed."""
    figure = new_figure(13, 6.6)
    left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
    for axes, (name, file) in zip(left.subplots(len(files), 1), files.items()):
        with Image.open(file.with_suffix(".png")) as strip:
            axes.imshow(strip.convert("RGB"), interpolation="nearest")
        axes.set_title(TITLES[name], fontsize=9, loc="left", color=INK)
        axes.axis("off")
    curves, speeds = right.subplots(2, 1)
    for (name, run), color in zip(runs.items(), COLORS):
        thousands = [run["pictures"] / 1000 * look["step"] / run["looks"][-1]["step"] for look in run["looks"]]
        values, errors = zip(*(look["kid"] for look in run["looks"]))
        curves.errorbar(thousands, values, yerr=errors, color=color, marker="o", markersize=3, linewidth=1.2)
        value, error = run["metrics"]["fid"]
        speeds.errorbar(speed(run), value, yerr=error, fmt="o", color=color, label=TITLES[name])
    few_decades(curves)
    curves.set_xlabel("thousand pictures shown")
    curves.set_ylabel("KID")
    speeds.set_xlabel("images per second of one core")
    speeds.set_ylabel("FID")
    for axes in (curves, speeds):
        axes.grid(color=PALE, alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(*speeds.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path)
