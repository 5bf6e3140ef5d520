"""Figures of reports and of the benchmark, by matplotlib, always drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharingan_hub.cards import figure as shown

INK, PALE = "#222222", "#888888"


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


CURVES = {  # title, the statistics that it shows where they are there, and whether on a logarithmic scale
    "Losses": (("loss_d", "loss_g", "loss", "difference", "convergence"), False),
    "Gradient norms": (("gradient_d", "gradient_g"), True),
    "Share of real and fake pairs that D tells apart": (("accuracy",), False),
    "Diversity of fakes, as a share of the pictures' own": (("diversity",), False),
}


def training_curves(
    rows: Sequence[Mapping[str, float]],
    checks: Sequence[Mapping[str, float]],
    collapsed: int | None,
    best: int | None,
    path: Path,
) -> None:
    """The curves of a run over its steps, one below the other; marked are a collapse and, after one, the best checkpoint.

    rows, checks: as training/monitor.py keeps them.
    """
    plots = {
        title: {name: [row for row in (*rows, *checks) if name in row] for name in names}
        for title, (names, _) in CURVES.items()
    }
    plots = {title: lines for title, lines in plots.items() if any(lines.values())}
    figure = new_figure(9, 2.2 * len(plots) + 0.4)
    for axes, (title, lines) in zip(figure.subplots(len(plots), 1, sharex=True, squeeze=False)[:, 0], plots.items()):
        for name, points in lines.items():
            if points:
                marker = "o" if len(points) < 30 else None
                xs, ys = [point["step"] for point in points], [point[name] for point in points]
                axes.plot(xs, ys, marker=marker, markersize=3, linewidth=1.2, label=name)
        if CURVES[title][1]:
            axes.set_yscale("log")
        if title.startswith(("Share", "Diversity")):
            axes.set_ylim(0, None if title.startswith("Diversity") else 1.02)
        elif len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper right")
        if collapsed is not None:
            axes.axvline(collapsed, color="#c1121f", linestyle="--", linewidth=1)
            axes.text(
                collapsed,
                0.96,
                " collapse",
                color="#c1121f",
                fontsize=8,
                va="top",
                transform=axes.get_xaxis_transform(),
            )
            if best is not None:
                axes.axvline(best, color="#2a7f3f", linestyle=":", linewidth=1)
                axes.text(
                    best, 0.96, " best", color="#2a7f3f", fontsize=8, va="top", transform=axes.get_xaxis_transform()
                )
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("step")
    save_figure(figure, path)
