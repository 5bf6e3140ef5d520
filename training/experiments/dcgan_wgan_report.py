"""Figure and table of DCGAN against WGAN, drawn from their JSON files and sheets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub.cards import figure as shown
from training.experiments.results import table, write_section
from training.plots import INK, PALE, new_figure, save_figure

SECTION = """## DCGAN against WGAN

After S. Menon and U. Dubey: the same networks under cross entropy, under squared errors and as a WGAN, each with five optimisers at
one rate each, the same under every objective, 28 px, 4,000 sharingan. All runs see as many pictures, so a WGAN's generator, whose
turn is every fifth step, has a fifth of the steps. They compared by eye; KID is of 2,000 samples against 4,000 unseen draws of the
same size.

{table}

![64 samples of a DCGAN and of a WGAN side by side, and the KID of five optimisers under three objectives](pictures/dcgan_wgan.png)

They saw hardly any difference between the two. Here there is one, to the eye and by KID: with a fifth of the steps the WGAN's discs
are still blotches where the DCGAN's have rings, pupils and motifs. Adam is best under each objective, RMSprop and AdaGrad are behind
it, and plain SGD learns under cross entropy alone. With momentum it fails under all three at this rate. Squared errors beat cross
entropy with Adam and AdaGrad, and equal it with RMSprop.
"""

TITLES = {"dcgan": "DCGAN", "mse": "DCGAN, squared errors", "wgan": "WGAN"}
OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "adagrad": "AdaGrad", "sgd": "SGD", "momentum": "SGD with momentum"}
COLORS = {"dcgan": "#084594", "mse": "#6baed6", "wgan": "#c1121f"}
SIDE_BY_SIDE = ("dcgan", "wgan")

Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]


def write(results: Path, docs: Path) -> None:
    """Draw the figure into docs/pictures and write the table into docs/gan_family.md."""
    cells = {o: {r: json.loads((results / f"{o}-{r}.json").read_text()) for r in OPTIMIZERS} for o in TITLES}
    floor = json.loads((results / "floor.json").read_text())["kid"]
    draw(cells, floor, results, docs / "pictures" / "dcgan_wgan.png")
    rows = {title: [shown(cells[o][r]["kid"]) for o in TITLES] for r, title in OPTIMIZERS.items()}
    rows["*true draws*"] = [shown(floor)] * len(TITLES)
    text = table([f"KID, {title}" for title in TITLES.values()], rows)
    write_section(docs / "gan_family.md", "dcgan_wgan", "dcgan_wgan", SECTION.format(table=text))


def best(cells: Cells, objective: str) -> str:
    """The optimiser with the lowest KID."""
    return min(cells[objective], key=lambda optimizer: cells[objective][optimizer]["kid"][0])


def draw(cells: Cells, floor: list[float], results: Path, path: Path) -> None:
    """Samples of both models side by side, each with its best optimiser; and the KID of every one."""
    figure = new_figure(13, 4.6)
    *sheets, plot = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    for axes, objective in zip(sheets, SIDE_BY_SIDE):
        optimizer = best(cells, objective)
        with Image.open(results / f"{objective}-{optimizer}.png") as sheet:
            axes.imshow(sheet.convert("RGB"), interpolation="nearest")
        axes.set_title(f"{TITLES[objective]}, {OPTIMIZERS[optimizer]}", fontsize=10, loc="left", color=INK)
        axes.axis("off")
    for i, (objective, row) in enumerate(cells.items()):
        values, errors = zip(*(row[optimizer]["kid"] for optimizer in OPTIMIZERS))
        places = [j + 0.16 * (i - 1) for j in range(len(OPTIMIZERS))]
        plot.errorbar(
            values, places, xerr=errors, fmt="o", markersize=5, color=COLORS[objective], label=TITLES[objective]
        )
    plot.set_yticks(range(len(OPTIMIZERS)), list(OPTIMIZERS.values()))
    plot.invert_yaxis()
    plot.axvline(floor[0], color=PALE, linewidth=1, linestyle=":", label="true draws")
    plot.set_xlabel("KID, lower is better")
    plot.grid(axis="y", color=PALE, alpha=0.2)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    save_figure(figure, path)
