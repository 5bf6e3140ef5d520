"""Does a lottery ticket adapt as well as the dense model? Quality against sparsity, with error bars.

    python training/prune.py --config training/recipes/prune_radial.yaml
    python -m training.experiments.tickets --searches runs/prune_radial

Each round of a search (training/prune.py) is adapted to the few-shot set with its mask held, by one recipe and on one budget,
once for each seed; round 0 is the dense model, which was trained on as long as the tickets were. Minutes are of computing time,
so that what else the machine does changes no result. A result is a small JSON file, so that the figure resumes and grows.
Several searches, such as one with `--criterion random`, are drawn as several lines.
"""

import argparse
import functools
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharingan_hub import SharinganPipeline, hub
from training import evaluate, trainer
from training.checkpoints import write_json
from training.experiments.few_shot_report import COLUMNS, combined
from training.experiments.few_shot_report import table as markdown
from training.experiments.results import ROOT, write_section
from training.metrics import Estimate
from training.plots import curves, new_figure, save_figure
from training.prune import PruneConfig, prune

logger = logging.getLogger("training.tickets")

RESULTS = ROOT / "docs" / "results" / "tickets"
RECIPE = ROOT / "training" / "recipes" / "adapt_default.yaml"
TRAIN_DATA = ROOT / "training" / "data" / "sharingan15"
SHOWN = ("kid", "recall", "copying")

Figures = dict[str, list[float | None]]  # of each metric the value and its standard error


def rounds_of(search: Path) -> list[Path]:
    """The finished rounds of a search, in order.

    Raises:
        ValueError: there is none.
    """
    rounds = [path.parent for path in search.glob("round_*/report.json") if "sparsity" in hub.read_json(path)]
    if not rounds:
        raise ValueError(f"searches names {search}, where prune.py has finished no round.")
    return sorted(rounds, key=lambda folder: int(folder.name.removeprefix("round_")))


def run_cell(
    folder: Path, seed: int, file: Path, settings: Mapping[str, Any], work: Path, measure: Callable[[Path], Figures]
) -> dict[str, Any]:
    """Adapt one round with one seed and measure it, unless its file says how that came out.

    settings: of the adaptation, keys of PruneConfig.
    """
    if file.is_file():
        return json.loads(file.read_text())
    own = {"base_model": str(folder), "output_dir": str(work), "seed": seed, "rounds": 0, "resume_from": "latest"}
    prune(PruneConfig(**{**settings, **own}))
    report = hub.read_json(work / "report.json")
    result = {
        "criterion": hub.read_json(folder / "report.json")["recipe"]["criterion"],
        "round": folder.name,
        "seed": seed,
        "sparsity": report["sparsity"],
        "steps": report["steps"],
        "minutes": report["minutes"],
        "metrics": measure(work),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(result, file)
    shutil.rmtree(work)
    return result


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, dict[str, Estimate]]]:
    """For each criterion and sparsity the mean of each metric over the seeds."""
    table: dict[str, dict[float, dict[str, Estimate]]] = {}
    for criterion, name in dict.fromkeys((result["criterion"], result["round"]) for result in results):
        same = [result for result in results if (result["criterion"], result["round"]) == (criterion, name)]
        row = combined([result["metrics"] for result in same])
        table.setdefault(criterion, {})[round(same[0]["sparsity"], 3)] = row
    return table


def draw(table: Mapping[str, Mapping[float, Mapping[str, Estimate]]], path: Path) -> None:
    """The figure: each metric against sparsity, a line for each criterion, the dense model as a band across."""
    shown = [name for name in SHOWN if any(name in row for rows in table.values() for row in rows.values())]
    figure = new_figure(4.2 * len(shown), 3.4)
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        lines = {}
        for criterion, rows in table.items():
            points = [(100 * sparsity, row[metric]) for sparsity, row in sorted(rows.items())]
            points = [(sparsity, estimate) for sparsity, estimate in points if math.isfinite(estimate.value)]
            lines[criterion.replace("_", " ")] = (
                [sparsity for sparsity, _ in points],
                [estimate.value for _, estimate in points],
                [estimate.error for _, estimate in points],
            )
        curves(axes, lines, "sparsity in %", COLUMNS[metric])
        dense = next(iter(lines.values()))
        if dense[0] and dense[0][0] == 0:
            value, error = dense[1][0], dense[2][0]
            axes.axhspan(value - error, value + error, color="#888888", alpha=0.25, linewidth=0, label="dense")
        axes.legend(frameon=False)
    save_figure(figure, path)


def rows_of(table: Mapping[str, Mapping[float, Mapping[str, Estimate]]]) -> dict[str, dict[str, Estimate]]:
    """The same numbers as rows of a table, each with its title."""
    return {
        f"{criterion.replace('_', ' ')}, {100 * sparsity:.1f} % sparse": dict(row)
        for criterion, rows in table.items()
        for sparsity, row in sorted(rows.items())
    }


def measure_with(train_data: str, samples: int, reference_samples: int) -> Callable[[Path], Figures]:
    """How a folder is measured: by training/evaluate.py, against the true distribution where it is known."""
    where = evaluate.usual_reference(train_data)
    pictures = evaluate.training_pictures(train_data)

    @functools.cache
    def reference() -> evaluate.Reference:
        truth = None if where is None else evaluate.true_draws(where, reference_samples)
        return evaluate.build_reference(pictures, truth)

    def measure(folder: Path) -> Figures:
        images = evaluate.draw(SharinganPipeline.from_pretrained(folder), range(samples), 1.0)
        return evaluate.as_numbers(evaluate.measure(images, reference()))

    return measure


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.tickets`."""
    parser = argparse.ArgumentParser(prog="python -m training.experiments.tickets", description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=Path, nargs="+", required=True, help="output folders of prune.py")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="of the adaptation")
    parser.add_argument("--train_data", default=str(TRAIN_DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=6.0, help="of one core, for each adaptation")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reference_samples", type=int, default=10_000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="what is there is not run again")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where table and figure go")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "tickets")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)

    import yaml

    trainer.now = time.process_time
    settings = yaml.safe_load(options.recipe.read_text()) | {
        "train_data": options.train_data,
        "resolution": options.resolution,
        "max_steps": None,
        "max_minutes": options.minutes,
        "threads": 1,
        "sample_every": 10**9,
        "checkpointing_steps": 10**9,
        "report_to": "none",
    }
    try:
        rounds = [(search.name, folder) for search in options.searches for folder in rounds_of(search)]
        measure = measure_with(options.train_data, options.samples, options.reference_samples)
    except (ValueError, hub.HubError) as error:
        parser.error(" ".join(str(error).split()))
    results = []
    for seed in options.seeds:
        for search, folder in rounds:
            name = f"{search}-{folder.name}-{seed}"
            result = run_cell(
                folder, seed, options.results / f"{name}.json", settings, options.work_dir / name, measure
            )
            logger.info("%s: %.1f %% sparse, KID %s", name, 100 * result["sparsity"], result["metrics"].get("kid"))
            results.append(result)
    means = summary(results)
    draw(means, options.docs / "pictures" / "tickets.png")
    picture = "![KID, recall and copying against sparsity](pictures/tickets.png)"
    write_section(options.docs / "results.md", "tickets", "tickets", f"{markdown(rows_of(means))}\n\n{picture}")


if __name__ == "__main__":
    main()
