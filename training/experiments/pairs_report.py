"""Section of CoGAN's pairs in docs/gan_family.md, with figure and table, from the JSON files and strips."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sharingan_hub.cards import figure as shown
from training.experiments.few_shot_report import combined
from training.experiments.results import table, write_section
from training.plots import INK, PALE, WARNING, new_figure, save_figure

COLORS = ("#9ecae1", "#4292c6", "#2171b5", "#08306b")  # the more layers are shared

SECTION = """## Pairs that nobody paired

CoGAN (Liu and Tuzel 2016): a generator for sharingan and one for plain emblems share their first layers, and the discriminators
their last. No pair is ever shown. Do the two pictures of one latent have the same design? A ridge regression for each domain, on
features of the [domain network](metrics.md), reads an emblem's attributes off its picture. The table has the correlation of what
is read off both pictures, over {count} pairs (standard error {error:.2f} or less); that of where both have ink, pixel by pixel; and
the share of pairs in which `estimate_order` finds one order of symmetry, beside what it is in pairs of strangers. Each is the mean
of {seeds} seeds; ± is its standard error by their scatter, that of a KID by its own error where that is larger. Above that, what
the ruler can do: the share R² of an attribute's variance that it explains in unseen emblems of each domain; and all figures for true
pairs, one design drawn in both ways.

{table}

![Pairs of CoGANs with ever more shared layers, and the correlation of attributes within a pair](pictures/pairs.png)

`python -m training.experiments.pairs`: `train_cogan.yaml` at 32 px with {channels} channels and R1, {steps:,} steps of 32 pictures
of each domain. The pairs that are shown are the first of the first seed; each dot is a seed.

With no shared layer pairs are strangers. With three of four they correspond in every run, at some cost in KID. Between, it is no
matter of course: with one they do, less closely; with two, one seed found the pairs and two did not. In one of these ink goes where the
other picture has none: layers that a domain keeps to itself may read what the shared ones say the other way round.
"""


def title(shared: int) -> str:
    """What a number of shared layers is called."""
    return {0: "no shared layer", 1: "1 shared layer"}.get(shared, f"{shared} shared layers")


def write(files: Mapping[tuple[int, int], Path], docs: Path, channels: int) -> None:
    """Draw the figure into docs/pictures and write the section. files: of each number of shared layers and seed, ruler.json beside."""
    runs: dict[int, list[Any]] = {}
    strips: dict[int, Path] = {}
    for (shared, _), file in files.items():
        runs.setdefault(shared, []).append(json.loads(file.read_text()))
        strips.setdefault(shared, file.with_suffix(".png"))
    ruler = json.loads((next(iter(files.values())).parent / "ruler.json").read_text())
    draw(runs, ruler, strips, docs / "pictures" / "pairs.png")
    (some, *others), *_ = runs.values()
    text = SECTION.format(
        count=f"{some['count']:,}",
        error=1 / math.sqrt(some["count"] - 1),
        seeds=1 + len(others),
        table=pairs_table(runs, ruler),
        channels=channels,
        steps=some["steps"],
    )
    write_section(docs / "gan_family.md", "pairs", "pairs", text)


def pairs_table(runs: Mapping[int, Sequence[Any]], ruler: Mapping[str, Any]) -> str:
    """Rows for the rulers' R², for one design drawn in both ways, and for each number of shared layers."""
    rows = {
        f"*R², {domain}*": [*(f"{value:.2f}" for value in values), "", "", "", ""]
        for domain, values in ruler["r2"].items()
    }
    rows |= {"*one design*": cells([ruler])} | {title(shared): cells(seeds) for shared, seeds in runs.items()}
    return table([*ruler["attributes"], "same order (strangers)", "KID, sharingan", "KID, plain"], rows)


def cells(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row of the table: correlations, agreement of orders, KID of both domains; means over seeds."""
    correlations = combined(
        [{str(i): [value, None] for i, value in enumerate(found["pairs"]["correlation"])} for found in seeds]
    )
    values = [f"{found.value:z.2f}" + f" ± {found.error:.2f}" * (len(seeds) > 1) for found in correlations.values()]
    same = [100 * statistics.mean(found[name]["same_order"] for found in seeds) for name in ("pairs", "strangers")]
    kids = [shown([found.value, found.error]) for found in combined([found["kid"] for found in seeds]).values()]
    return [*values, f"{same[0]:.0f} % ({same[1]:.0f} %)", *kids]


def draw(runs: Mapping[int, Sequence[Any]], ruler: Mapping[str, Any], strips: Mapping[int, Path], path: Path) -> None:
    """Pairs of a run of each kind, sharingan above plain, and of every attribute the correlation within a pair."""
    figure = new_figure(13, 2.05 * len(runs))
    left, right = figure.subfigures(1, 2, width_ratios=[1.35, 1])
    for axes, (shared, file) in zip(left.subplots(len(strips), 1), strips.items()):
        with Image.open(file) as strip:
            axes.imshow(strip.convert("RGB"), interpolation="nearest")
        axes.set_title(title(shared), fontsize=10, loc="left", color=INK)
        axes.axis("off")
    plot, names = right.subplots(), ruler["attributes"]
    places = range(len(names))
    plot.axvspan(*strangers(runs), color=PALE, alpha=0.2, linewidth=0, label="strangers")
    plot.scatter(
        ruler["pairs"]["correlation"], places, marker="|", s=220, color=WARNING, label="one design, drawn both ways"
    )
    for i, ((shared, seeds), color) in enumerate(zip(runs.items(), COLORS)):
        lowered = [place + 0.15 * (i - (len(runs) - 1) / 2) for place in places]  # so that none hides another
        for found in seeds:
            name = title(shared) if found is seeds[0] else None
            plot.scatter(found["pairs"]["correlation"], lowered, s=30, color=color, label=name, zorder=3)
    plot.set_yticks(places, names)
    plot.invert_yaxis()
    plot.grid(axis="y", color=PALE, alpha=0.2)
    plot.set_xlabel("correlation of what is read off both pictures of a pair")
    plot.spines[["top", "right"]].set_visible(False)
    right.legend(*plot.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path)


def strangers(runs: Mapping[int, Sequence[Any]]) -> tuple[float, float]:
    """The least and the largest correlation that any attribute has in any run's pairs of strangers."""
    values = [value for seeds in runs.values() for found in seeds for value in found["strangers"]["correlation"]]
    return min(values), max(values)
