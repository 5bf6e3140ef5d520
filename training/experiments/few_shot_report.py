"""From the benchmark's cells: a table with error bars, a sheet of pictures, curves over time, and the text about them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sharingan_hub.cards import figure
from training.evaluate import as_numbers
from training.experiments.results import table as markdown
from training.experiments.results import write_section
from training.metrics import Estimate
from training.plots import INK, PALE, curves, few_decades, new_figure, save_figure

COLUMNS = {
    "kid": "KID",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "copying": "copying",
    "data_copying": "C_T",
    "diversity": "diversity",
    "novelty": "novelty",
    "symmetry": "symmetry",
    "deformation": "out of round, %",
}
NAMED = 8  # methods of a figure that can be told apart by colour
PICTURES = "pictures.png"  # of a target's training pictures, beside its cells


def cells_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The finished cells of one target, by method, in the order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-*.json")):
        cell = json.loads(path.read_text())
        found.setdefault(cell["method"], []).append(cell)
    return found


def combined(rows: list[dict[str, list[float | None]]]) -> dict[str, Estimate]:
    """Mean over seeds. Its error comes from the seeds' scatter, or from the error of each measurement where that is larger or
    there is one seed only."""
    result = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        pairs = [(row[name][0], row[name][1] or 0.0) for row in rows if row.get(name, [None])[0] is not None]
        if not pairs:
            result[name] = Estimate(math.nan, math.nan)
            continue
        values, errors = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        scatter = values.var() if len(values) > 1 else torch.tensor(0.0)
        error = (torch.maximum(scatter, errors.square().mean()) / len(values)).sqrt()
        result[name] = Estimate(float(values.mean()), float(error))
    return result


def rows_of(folder: Path) -> dict[str, dict[str, Estimate]]:
    """Rows of a target's table: methods by KID, best first, repaired pictures below their own; then floors and ceilings."""
    rows = {}
    for method, cells in cells_of(folder).items():
        rows[f"{method} ({len(cells)})"] = combined([cell["metrics"] for cell in cells])
        repaired = [cell["circularized"] for cell in cells if "circularized" in cell]
        if repaired:
            rows[f"{method}, circularised ({len(repaired)})"] = combined(repaired)
    rows = dict(sorted(rows.items(), key=lambda row: row[1].get("kid", Estimate(0.0, 0.0)).value))
    floors = folder / "floors.json"
    if floors.is_file():
        rows |= {f"*{name}*": combined([row]) for name, row in json.loads(floors.read_text()).items()}
    return rows


def best(results: Path, target: str, count: int) -> list[str]:
    """The methods with the lowest KID on a target (name or folder), and always those that the benchmark is about beating.

    Where the true distribution is not known, the others come in the order of their names.
    """
    means = {
        method: combined([cell["metrics"] for cell in cells]).get("kid", Estimate(math.inf, math.nan)).value
        for method, cells in cells_of(results / Path(target).name).items()
    }
    always = [name for name in ("default", "finetune", "freezed", "ada", "stylegan2_cdc") if name in means]
    others = sorted(means.keys() - set(always), key=lambda name: (means[name], name))
    return (always + others)[: max(count, len(always))]


def table(rows: dict[str, dict[str, Estimate]]) -> str:
    """Markdown."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    cells = {title: [shown(row[name]) if name in row else "" for name in names] for title, row in rows.items()}
    return markdown([COLUMNS[name] for name in names], cells)


def shown(estimate: Estimate) -> str:
    """A figure of the table."""
    return figure(as_numbers({"": estimate})[""])


def write(results: Path, docs: Path) -> None:
    """Write figures and tables of all targets into docs/results.md, between two marks, and docs/pictures.

    results: what its folder is called is in the names of the section and of the pictures, so several tables have a place.
    """
    parts, pictures = [], docs / "pictures"
    for folder in sorted(
        (path for path in results.iterdir() if path.is_dir()), key=lambda path: (path.name != "sharingan", path.name)
    ):
        cells = cells_of(folder)
        if not cells:
            continue
        name = f"{results.name}_{folder.name}"
        rows = rows_of(folder)
        parts.append(f"### {folder.name}\n\n{table(rows)}\n")
        if sheet(folder, list(rows), pictures / f"{name}.png"):
            parts[-1] += f"\n![One row for each method, the same latents down every column](pictures/{name}.png)\n"
        if any(cell["curve"] for some in cells.values() for cell in some):
            truth = rows.get("*true draws*", {}).get("copying")
            over_time(cells, best(results, folder.name, NAMED), truth, pictures / f"{name}_curves.png")
            parts[-1] += f"\n![KID, recall and copying over the time of training](pictures/{name}_curves.png)\n"
    write_section(docs / "results.md", "few_shot", results.name.replace("_", "-"), "\n".join(parts).rstrip("\n"))


def sheet(folder: Path, titles: Sequence[str], path: Path) -> bool:
    """Some of the training pictures and the strips of all methods, one under the other, each with its name; False for none.

    titles: of the table's rows, in their order.
    """
    order = [title.split(" ")[0].rstrip(",") for title in titles if not title.startswith("*")]
    strips = [("training pictures", folder / PICTURES)]
    strips += [(name, folder / f"{name}-0.png") for name in dict.fromkeys(order)]
    strips = [(name, file) for name, file in strips if file.is_file()]
    if not strips:
        return False
    figure = new_figure(9, 0.95 * len(strips))
    for axes, (name, file) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips):
        with Image.open(file) as picture:
            axes.imshow(picture.convert("RGB"), interpolation="nearest")
        axes.set_title(name, loc="left", fontsize=8, color=INK, pad=2)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    save_figure(figure, path, dpi=130)
    return True


def timed(cell: dict[str, Any], name: str) -> tuple[list[float], list[float]] | None:
    """Minutes and values of one figure over a cell's training; None without any.

    They end at the minutes of the cell's budget: its steps may have been repeated on a slower or faster core.
    """
    points = [point for point in cell["curve"] if name in point]
    if not points:
        return None
    worth = cell["minutes"] / points[-1]["minutes"]
    return [worth * float(point["minutes"]) for point in points], [float(point[name][0]) for point in points]


def averaged(some: Sequence[tuple[list[float], list[float]]]) -> tuple[list[float], list[float], list[float]]:
    """Mean and standard error of seeds' curves at the times of the first, from where all have begun."""
    begin = max(xs[0] for xs, _ in some)
    minutes = [x for x in some[0][0] if x >= begin]
    values = np.array([np.interp(minutes, xs, ys) for xs, ys in some])
    error = values.std(0, ddof=1) / math.sqrt(len(some)) if len(some) > 1 else np.zeros(len(minutes))
    return minutes, values.mean(0).tolist(), error.tolist()


def over_time(
    cells: dict[str, list[dict[str, Any]]], named: Sequence[str], true_copying: Estimate | None, path: Path
) -> None:
    """KID, recall and copying against minutes, mean and standard error over seeds; methods that are not `named` are pale.

    true_copying: what true draws have of it, where that is known.
    """
    kinds = {cell.get("hardware", {}).get("kind", "cpu") for some in cells.values() for cell in some if cell["curve"]}
    label = "core minutes" if kinds == {"cpu"} else "minutes"
    figure = new_figure(12, 4.6)
    plots = figure.subplots(1, 3)
    for axes, name in zip(plots, ("kid", "recall", "copying")):
        lines = {}
        for method in [*named, *sorted(cells.keys() - set(named))]:
            some = [line for cell in cells[method] if (line := timed(cell, name))]
            if some:
                lines[method] = averaged(some)
        curves(axes, {method: line for method, line in lines.items() if method in named}, label, COLUMNS[name])
        others = [line for method, line in lines.items() if method not in named]
        for i, (xs, ys, _) in enumerate(others):
            title = None if i else f"{len(others)} other methods"
            axes.plot(xs, ys, color=PALE, linewidth=0.7, alpha=0.6, zorder=1, label=title)
    few_decades(plots[0])
    plots[1].set_ylim(0, 1)
    if true_copying is not None:
        value, beside = true_copying.value, plots[2].get_yaxis_transform()
        plots[2].axhline(value, color=INK, linewidth=1, linestyle=":")
        plots[2].text(1, value, "true draws", fontsize=8, color=INK, ha="right", va="bottom", transform=beside)
    highest = max((max(line.get_ydata()) for line in plots[2].lines), default=0.0)
    plots[2].set_ylim(0, max(0.001, 1.2 * highest))
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    save_figure(figure, path)
