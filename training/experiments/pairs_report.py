"""Section of CoGAN's pairs in docs/gan_family.md, with figure and table, from the JSON files and strips."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub.cards import figure as shown
from training.experiments.results import table, write_section
from training.plots import INK, PALE, WARNING, new_figure, save_figure

COLORS = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")  # the more layers are shared

SECTION = """## Pairs that nobody paired

CoGAN (Liu and Tuzel 2016): a generator for sharingan and one for plain emblems share their first layers, and the discriminators
their last. No pair is ever shown. Do the two pictures of one latent have the same design? A ridge regression for each domain, on
features of the [domain network](metrics.md), reads an emblem's attributes off its picture. The table has the correlation of what
is read off both pictures, over {count} pairs (standard error {error:.2f} or less); that of where both have ink, pixel by pixel; and
the share of pairs in which `estimate_order` finds one order of symmetry, beside what it is in pairs of strangers. Above that, what
the ruler can do: the share R² of an attribute's variance that it explains in unseen emblems of each domain; and all figures for true
pairs, one design drawn in both ways.

{table}

![Pairs of CoGANs with ever more shared layers, and the correlation of attributes within a pair](pictures/pairs.png)

`python -m training.experiments.pairs`: `train_cogan.yaml` at 32 px with {channels} channels and R1, {steps:,} steps of 32 pictures
of each domain.
"""


def title(shared: int) -> str:
    """What a number of shared layers is called."""
    return {0: "no shared layer", 1: "1 shared layer"}.get(shared, f"{shared} shared layers")


def write(files: Mapping[int, Path], docs: Path, channels: int) -> None:
    """Draw the figure into docs/pictures and write the section. files: of each number of shared layers, ruler.json beside."""
    runs = {shared: json.loads(file.read_text()) for shared, file in files.items()}
    ruler = json.loads((next(iter(files.values())).parent / "ruler.json").read_text())
    draw(runs, ruler, files, docs / "pictures" / "pairs.png")
    some = next(iter(runs.values()))
    error = 1 / math.sqrt(some["count"] - 1)
    text = SECTION.format(
        count=f"{some['count']:,}", error=error, table=pairs_table(runs, ruler), channels=channels, steps=some["steps"]
    )
    write_section(docs / "gan_family.md", "pairs", "pairs", text)


def pairs_table(runs: Mapping[int, Any], ruler: Mapping[str, Any]) -> str:
    """Rows for the rulers' R², for one design drawn in both ways, and for each number of shared layers."""
    rows = {
        f"*R², {domain}*": [*(f"{value:.2f}" for value in values), "", "", "", ""]
        for domain, values in ruler["r2"].items()
    }
    rows |= {"*one design*": cells(ruler)} | {title(shared): cells(run) for shared, run in runs.items()}
    return table([*ruler["attributes"], "same order (strangers)", "KID, sharingan", "KID, plain"], rows)


def cells(found: Mapping[str, Any]) -> list[str]:
    """A row of the table: correlations, agreement of orders, KID of both domains."""
    same = [f"{100 * found[name]['same_order']:.0f}" for name in ("pairs", "strangers")]
    values = [f"{value:.2f}" for value in found["pairs"]["correlation"]]
    return [*values, f"{same[0]} % ({same[1]} %)", *(shown(value) for value in found["kid"].values())]


def draw(runs: Mapping[int, Any], ruler: Mapping[str, Any], files: Mapping[int, Path], path: Path) -> None:
    """Pairs of every run, sharingan above plain, and of every attribute the correlation within a pair."""
    figure = new_figure(13, 2.05 * len(runs))
    left, right = figure.subfigures(1, 2, width_ratios=[1.35, 1])
    for axes, shared in zip(left.subplots(len(runs), 1), runs):
        with Image.open(files[shared].with_suffix(".png")) as strip:
            axes.imshow(strip.convert("RGB"), interpolation="nearest")
        axes.set_title(title(shared), fontsize=10, loc="left", color=INK)
        axes.axis("off")
    plot, names = right.subplots(), ruler["attributes"]
    places = range(len(names))
    plot.axvspan(*strangers(runs), color=PALE, alpha=0.2, linewidth=0, label="strangers")
    plot.scatter(
        ruler["pairs"]["correlation"], places, marker="|", s=220, color=WARNING, label="one design, drawn both ways"
    )
    for (shared, run), color in zip(runs.items(), COLORS):
        plot.scatter(run["pairs"]["correlation"], places, s=42, color=color, label=title(shared), zorder=3)
    plot.set_yticks(places, names)
    plot.invert_yaxis()
    plot.grid(axis="y", color=PALE, alpha=0.2)
    plot.set_xlabel("correlation of what is read off both pictures of a pair")
    plot.spines[["top", "right"]].set_visible(False)
    right.legend(*plot.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path)


def strangers(runs: Mapping[int, Any]) -> tuple[float, float]:
    """The least and the largest correlation that any attribute has in any run's pairs of strangers."""
    values = [value for run in runs.values() for value in run["strangers"]["correlation"]]
    return min(values), max(values)
