"""Figures of reports and of the benchmark, by matplotlib, always drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharingan_hub.cards import figure as shown

INK, PALE, WARNING = "#222222", "#888888", "#c1121f"


def new_figure(width: float, height: float) -> Any:
    """An empty figure, width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a PNG whole or not at all, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    figure.savefig(draft, format="png", dpi=dpi)
    draft.replace(path)


def show_pictures(axes: Any, images: Tensor, columns: int, title: str) -> None:
    """Pictures (N, 3, S, S) in [0, 1] side by side in one plot, row by row."""
    side, gap = images.shape[2], max(2, images.shape[2] // 16)
    rows = -(-len(images) // columns)
    sheet = torch.ones(3, rows * (side + gap) - gap, columns * (side + gap) - gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + gap), (i % columns) * (side + gap)
        sheet[:, top : top + side, left : left + side] = image.clamp(0, 1)
    axes.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.axis("off")


def evaluation_picture(
    rows: dict[str, dict[str, list[float | None]]], samples: Tensor, likest: Tensor, owners: Tensor, path: Path
) -> None:
    """One page: samples; those most like a training picture (eight), above that picture; and a table of all figures."""
    figure = new_figure(11, 9.5)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[4.1, 2, 2])
    show_pictures(top, samples, 8, "Samples, as they come")
    pairs = torch.cat([likest, owners])
    show_pictures(middle, pairs, 8, "The eight samples nearest to a training picture, and below each that picture")
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[shown(rows[title].get(name)) for title in rows] for name in names]
    bottom.axis("off")
    table = bottom.table(cells, rowLabels=names, colLabels=list(rows), loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    save_figure(figure, path)


def nearest_picture(likest: Tensor, owners: Tensor, path: Path) -> None:
    """A strip: samples most like a training picture (eight, nearest first), and below each that picture."""
    figure = new_figure(11, 3.3)
    above, below = figure.subplots(2, 1)
    show_pictures(above, likest, 8, "Of all samples measured, the eight nearest to a training picture")
    show_pictures(below, owners, 8, "The training picture nearest to each")
    save_figure(figure, path)


def few_decades(axes: Any) -> None:
    """A logarithmic y axis with plain numbers, for values that differ by a factor of ten or so."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def curves(
    axes: Any, lines: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], x: str, y: str
) -> None:
    """Lines with error bands: each name has x, y and the standard error of y."""
    for name, (xs, ys, errors) in lines.items():
        (line,) = axes.plot(xs, ys, marker="o", markersize=3, label=name)
        low, high = [a - b for a, b in zip(ys, errors)], [a + b for a, b in zip(ys, errors)]
        axes.fill_between(xs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


# The statistics that each plot shows, where they are there.
CURVES = {
    "Losses": ("loss_d", "loss_g", "loss", "difference", "convergence"),
    "Gradient norms": ("gradient_d", "gradient_g"),
    "Share of pairs of a real and a fake that D tells apart": ("accuracy",),
    "Diversity of fakes, as a share of the training pictures'": ("diversity",),
}
SHARES = ("accuracy", "diversity")


def training_curves(
    rows: Sequence[Mapping[str, float]],
    checks: Sequence[Mapping[str, float]],
    marks: Mapping[str, int],
    path: Path,
) -> None:
    """The curves of a run over its steps, one below the other.

    rows, checks: as training/monitor.py keeps them. marks: steps to mark, by what to call them.
    """
    points = [*rows, *checks]
    plots = {title: names for title, names in CURVES.items() if any(n in point for n in names for point in points)}
    figure = new_figure(9, 2.2 * len(plots) + 0.4)
    every = figure.subplots(len(plots), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, names) in zip(every, plots.items()):
        for name in names:
            there = [point for point in points if name in point]
            if there:
                xs, ys = [point["step"] for point in there], [point[name] for point in there]
                marker = "o" if len(there) < 30 else None
                axes.plot(xs, ys, marker=marker, markersize=3, linewidth=1.2, label=name)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        if title == "Gradient norms":
            axes.set_yscale("log")
        if names[0] in SHARES:
            axes.set_ylim(0, max(1.02, axes.get_ylim()[1]))
        for step in marks.values():
            axes.axvline(step, color=WARNING, linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    for name, step in marks.items():
        axes = every[0]
        axes.text(step, 1.02, name, color=WARNING, fontsize=8, transform=axes.get_xaxis_transform())
    every[-1].set_xlabel("step")
    save_figure(figure, path)
