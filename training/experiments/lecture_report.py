"""Figures and tables of the lecture's experiments, drawn from their JSON files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.experiments.results import table, write_section
from training.experiments.toy import MODES
from training.plots import INK, PALE, WARNING, new_figure, save_figure

VANISHING = """## Vanishing gradients

A DCGAN of 32 channels is trained on 800 sharingan at 32 px for 1, 10 and 25 epochs. Then its generator is held, a fresh
discriminator learns to tell its pictures from real ones, and the norm of the gradient that the generator would get is taken, as in
figure 2 of Arjovsky and Bottou 2017. Minimax and non-saturating have the same discriminator; Wasserstein's has clipped weights.

{table}

![Norm of the generator's gradient against steps of the discriminator, for three objectives](pictures/lecture_vanishing.png)

Under minimax the gradient falls in a straight line on both logarithms, by four to five orders of magnitude, whether the generator is
good or bad; under the two others it does not fall.
"""
CLIPPING = """## Clipping against penalty

Critics of the Wasserstein distance between points and the same points with N(0, 1) noise, as in figures 1 and 2 of Gulrajani et
al. 2017. Above: a critic of 12 layers on a Swiss roll. Below: what critics of four layers make of the plane; lines join places that
they value alike.

{table}

![Gradients through depth, weights, and contours of critics, clipped and with a penalty](pictures/lecture_clipping.png)

Clipped, nearly all weights sit at the limit, and which limit decides whether gradients vanish or explode on their way through the
layers; critics see a square where there are eight Gaussians. With the penalty neither happens.
"""
MODE_COVERAGE = """## Modes of 25 Gaussians

The same two perceptrons, the same number of steps and the same optimiser under every objective, alone and with R1 (with R2 too for
the relativistic one, which makes it R3GAN's). A sample is good within three deviations of a Gaussian's middle; a mode counts
where a tenth of its share of samples is good. Points scattered anywhere would be 7 % good.

{table}

![Samples of every game over the 25 modes](pictures/lecture_modes.png)

R1 lets every objective reach more modes than it does alone. Wasserstein's critic learns five times for each step of the generator;
BEGAN's judge has a code of one number, too narrow for a grid.
"""

BLUES = ("#9ecae1", "#4292c6", "#084594")  # the longer a generator has been trained, the darker
TITLES = {
    "minimax": "minimax",
    "non_saturating": "non-saturating",
    "wasserstein": "Wasserstein, clipped",
    "least_squares": "least squares",
    "least_squares_signed": "least squares, ±1",
    "mse": "squared probabilities",
    "hinge": "hinge",
    "relativistic": "relativistic",
    "weight_clipping": "Wasserstein, clipped",
    "gradient_penalty": "Wasserstein, penalty",
    "began": "BEGAN",
}
PLAIN = ("minimax", "non_saturating", "least_squares", "least_squares_signed", "mse", "hinge", "relativistic")
BOUNDED = ("weight_clipping", "gradient_penalty", "began")  # have a bound of their own
CRITICS = {
    "clipped to 0.001": "#c6dbef",
    "clipped to 0.01": "#6baed6",
    "clipped to 0.1": "#08519c",
    "gradient penalty": WARNING,
}


def write(results: Path, docs: Path) -> None:
    """Draw the three figures into docs/pictures, and write the tables into docs/gan_family.md."""
    stages = list(read_all(results / "vanishing").values())
    clipping = json.loads((results / "clipping.json").read_text())
    games = read_all(results / "modes")
    pictures = docs / "pictures"
    draw_vanishing(stages, pictures / "lecture_vanishing.png")
    draw_clipping(clipping, pictures / "lecture_clipping.png")
    draw_modes(games, pictures / "lecture_modes.png")
    page = docs / "gan_family.md"
    write_section(page, "lecture", "vanishing", VANISHING.format(table=vanishing_table(stages)))
    write_section(page, "lecture", "clipping", CLIPPING.format(table=clipping_table(clipping)))
    write_section(page, "lecture", "modes", MODE_COVERAGE.format(table=modes_table(games)))


def read_all(folder: Path) -> dict[str, Any]:
    """The JSON files of a folder, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def power(value: float) -> str:
    """A number as a power of ten: 3.2e-05 is 3.2 · 10⁻⁵."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def orders(first: float, last: float) -> str:
    """By how many powers of ten a norm has moved; ∞ where it is 0."""
    if last == 0:
        return "−∞"
    return f"{math.log10(last / first):+.1f}".replace("-", "−")


def bare(axes: Any) -> None:
    """A plot without its box."""
    axes.spines[["top", "right"]].set_visible(False)


# Vanishing gradients


def vanishing_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """A row for each objective and epoch: the gradient at the first step of D and at the last."""
    rows = {}
    for name in stages[0]["norms"]:
        for stage in stages:
            norms, epochs = stage["norms"][name], stage["epochs"]
            cells = [power(norms[0]), power(norms[-1]), orders(norms[0], norms[-1])]
            rows[f"{TITLES[name]}, {epochs} epoch{'s' if epochs > 1 else ''}"] = cells
    return table(["after 1 step of D", f"after {stages[0]['steps'][-1]:,} steps", "orders of magnitude"], rows)


def draw_vanishing(stages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The norm of G's gradient against D's steps: a plot for each objective, a line for each number of epochs."""
    names = list(stages[0]["norms"])
    figure = new_figure(11, 3.6)
    plots = figure.subplots(1, len(names), sharex=True, sharey=True)
    for axes, name in zip(plots, names):
        for color, stage in zip(BLUES, stages):
            label = f"{stage['epochs']} epoch{'s' if stage['epochs'] > 1 else ''}"
            norms = stage["norms"][name]
            axes.plot(stage["steps"], norms, color=color, marker="o", markersize=3, linewidth=1.4, label=label)
        axes.set_title(TITLES[name], fontsize=10, loc="left", color=INK)
        axes.set_xlabel("steps of the discriminator")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(axis="y", color=PALE, alpha=0.25, linewidth=0.6)
        bare(axes)
    plots[0].set_ylabel("norm of the generator's gradient")
    plots[0].legend(title="generator trained for", frameon=False, fontsize=8, title_fontsize=8, loc="lower left")
    save_figure(figure, path)


# Clipping against penalty


def clipping_table(found: Mapping[str, Any]) -> str:
    """A row for each critic: its gradients at both ends, and how many weights sit at the limit."""
    rows = {}
    for name, critic in found["deep"].items():
        first, last = critic["gradients"][0], critic["gradients"][-1]
        rows[name] = [power(first), power(last), orders(last, first), f"{100 * critic['at_limit']:.0f} %"]
    columns = ["gradient at layer 1", f"at layer {len(critic['gradients'])}", "orders of magnitude through depth"]
    return table([*columns, "weights within 1 % of the largest"], rows)


def draw_clipping(found: Mapping[str, Any], path: Path) -> None:
    """Above: gradients through depth, and two histograms of weights. Below: what critics think of the plane."""
    figure = new_figure(11, 6.4)
    deep, surfaces = found["deep"], found["surfaces"]
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1])
    plots = above.subplots(1, 3, width_ratios=[1.6, 1, 1])
    for name, critic in deep.items():
        layers = range(1, len(critic["gradients"]) + 1)
        norms = [norm or math.nan for norm in critic["gradients"]]  # of 0 there is no logarithm
        plots[0].plot(layers, norms, color=CRITICS[name], marker="o", markersize=3, label=name)
    plots[0].set_yscale("log")
    plots[0].set_xlabel("layer of the critic, 1 is next to the points")
    plots[0].set_title("Norm of the loss' gradient in what a layer gives", fontsize=10, loc="left", color=INK)
    plots[0].legend(frameon=False, fontsize=8)
    for axes, name in zip(plots[1:], ("clipped to 0.01", "gradient penalty")):
        shares, reach = deep[name]["weights"], deep[name]["reach"]
        width = 2 * reach / len(shares)
        middles = [-reach + (i + 0.5) * width for i in range(len(shares))]
        axes.bar(middles, [100 * share for share in shares], width, color=CRITICS[name])
        axes.set_title(f"Weights, {name}", fontsize=10, loc="left", color=INK)
        axes.set_ylabel("% of them")
    for axes in plots:
        bare(axes)
    shown = [(title, name, some) for title, pair in surfaces.items() for name, some in pair.items()]
    for axes, (title, name, some) in zip(below.subplots(1, len(shown)), shown):
        axes.contour(found["axis"], found["axis"], transposed(some["values"]), levels=14, cmap="Blues_r", linewidths=1)
        axes.scatter(*zip(*some["points"]), s=5, color=WARNING, linewidth=0)
        axes.set_title(f"{title},\n{name}", fontsize=10, loc="left", color=INK)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
    save_figure(figure, path)


def transposed(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Contours take y first."""
    return [list(column) for column in zip(*rows)]


# Modes


def modes_table(games: Mapping[str, Any]) -> str:
    """A row for each objective: modes and good samples, alone and with R1."""

    def cells(name: str) -> list[str]:
        modes, good = (sum(games[name][key]) / len(games[name][key]) for key in ("modes", "good"))
        return [f"{modes:g}", f"{100 * good:.0f} %"]

    rows = {TITLES[name]: [*cells(name), *cells(f"{name}-r1")] for name in PLAIN}
    rows |= {TITLES[name]: [*cells(name), "", ""] for name in BOUNDED}
    return table(["modes of 25", "good samples", "modes with R1", "good samples with R1"], rows)


def draw_modes(games: Mapping[str, Any], path: Path) -> None:
    """Samples of every game: alone above, with R1 below; at the right those that have a bound of their own."""
    figure = new_figure(13, 3.9)
    plots = figure.subplots(2, len(PLAIN) + 2)
    cells = {name: (axes, TITLES[name]) for axes, name in zip(plots[0], PLAIN)}
    cells |= {f"{name}-r1": (axes, "with R1") for axes, name in zip(plots[1], PLAIN)}
    cells |= {name: (axes, TITLES[name]) for axes, name in zip(plots[:, -2:].T.flat, BOUNDED)}
    for name, (axes, title) in cells.items():
        modes, good = games[name]["modes"][0], games[name]["good"][0]
        axes.scatter(*zip(*games[name]["points"]), s=2, color=BLUES[2], linewidth=0)
        axes.set_title(f"{title}\n{modes} modes, {100 * good:.0f} % good", fontsize=7, color=INK)
    plots[1, -1].set_title("the modes", fontsize=7, color=WARNING)
    for axes in plots.flat:
        axes.scatter(*MODES.T, s=14, facecolors="none", edgecolors=WARNING, linewidth=0.4)
        axes.set_xlim(-2.6, 2.6)
        axes.set_ylim(-2.6, 2.6)
        axes.set_aspect("equal")
        axes.axis("off")
    save_figure(figure, path, dpi=150)
