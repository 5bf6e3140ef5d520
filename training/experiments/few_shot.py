"""Few-shot adaptation, method against method: 15 pictures, the same time for each, measured against the true distribution.

    python -m training.experiments.few_shot                     # all methods on sharingan, the best on the other targets
    python -m training.experiments.few_shot --quick             # a few methods, one seed, one minute: under 15 minutes
    python -m training.experiments.few_shot --targets my_pictures --methods default finetune

A cell is one method on one target with one seed. Cells run side by side, each on one core for as many times the minutes as
there are cores (computing time, so that nothing else on the machine counts; further seeds repeat the steps of seed 0, so that
they may run on another machine), and each writes a JSON file when it is done: what
is there is not run again, so the table goes on where it stopped, and grows. On an accelerator, which all cells share, it is
wall-clock time, so there `--cores 1` is what measures; `--resolution 128 --results docs/results/few_shot_128` makes a table of its
own. The 15 pictures of a target are its seeds 0 to 14
(of sharingan: training/data/sharingan15); the reference is 10,000 others that nobody trains on.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sharingan_hub import SharinganPipeline, circularize, hub
from sharingan_hub.features import features_of
from training import adapt, evaluate, metrics, train, trainer
from training.checkpoints import list_checkpoints, picture_grid, save_picture, write_json
from training.config import TrainConfig
from training.data import load_pictures
from training.emblems import BENCHMARK, DEVELOPMENT, sample_emblems, write_folder
from training.evaluate import Reference
from training.experiments import few_shot_report
from training.experiments.results import ROOT
from training.low_rank import add_low_rank, merged

logger = logging.getLogger("training.few_shot")

RECIPES = ROOT / "training" / "recipes"
SHARINGAN = ROOT / "training" / "data" / "sharingan15"
TARGETS = (*BENCHMARK, *DEVELOPMENT)
SHOTS = 15
POINTS = 6  # of a curve, the end included
CURVE_SAMPLES = 1000
CURVE = ("kid", "recall", "copying")  # what is followed during training
SHEET_SEEDS = range(12)


@dataclass(frozen=True)
class Method:
    """One row: a recipe on a base model, and settings laid over it."""

    recipe: str
    base: str = "radial"  # stylegan2, diffusion, or scratch: none
    settings: dict[str, Any] = field(default_factory=dict)


def narrow(family: str, **arguments: Any) -> dict[str, Any]:
    """Settings of a pair from scratch that gets somewhere in minutes: few channels, learning fast, a short average."""
    pair = {key: {"class_name": f"{family}{key.title()}", **arguments} for key in ("generator", "discriminator")}
    return pair | {"learning_rate": 1e-3, "ema_decay": 0.99}


METHODS = {
    "default": Method("adapt_default"),
    "keep_motifs": Method("adapt_keep_motifs"),
    "designs": Method("adapt_designs"),
    "default_without_statistics": Method("adapt_default", settings={"statistics_weight": 0.0, "statistics_steps": 0}),
    "default_all_trained": Method("adapt_default", settings={"freeze_generator": []}),
    "finetune": Method("adapt_finetune"),
    "freezed": Method("adapt_freezed"),
    "freezeg": Method("adapt_freezeg"),
    "scale_shift": Method("adapt_scale_shift"),
    "ada": Method("adapt_ada"),
    "diffaugment": Method("adapt_diffaugment"),
    "ewc": Method("adapt_ewc"),
    "cdc": Method("adapt_cdc"),
    "cdc_patches": Method("adapt_cdc_patches"),
    "patches": Method("adapt_patches"),
    "rick": Method("adapt_rick"),
    "adapter": Method("adapt_adapter"),
    "stylegan2_finetune": Method("adapt_finetune", "stylegan2"),
    "stylegan2_freezed": Method("adapt_freezed", "stylegan2"),
    "stylegan2_ada": Method("adapt_ada", "stylegan2"),
    "stylegan2_cdc": Method("adapt_cdc", "stylegan2"),
    "stylegan2_patches": Method("adapt_patches", "stylegan2"),
    "stylegan2_whole": Method("adapt_patches", "stylegan2", {"patch_level": None}),
    "stylegan2_cdc_patches": Method("adapt_cdc_patches", "stylegan2"),
    "stylegan2_default": Method("adapt_default", "stylegan2"),
    "stylegan2_symmetry": Method("adapt_symmetry", "stylegan2"),
    "diffusion": Method("diffusion", "diffusion"),
    "dcgan_scratch": Method("train_dcgan", "scratch", narrow("DCGAN", channels=16, norm_first=False)),
    "r3gan_scratch": Method("train_r3gan", "scratch", narrow("R3GAN", channels=16, channel_max=64, blocks=1)),
}
# What says how a base model is made that no package brings.
BASES = {"stylegan2": "docs/stylegan2_source.md", "diffusion": "training/recipes/diffusion_source.yaml"}
PIXELS = ("stylegan2", "scratch")  # pictures of these may be out of round, and the repair is part of the product
QUICK = ["default", "finetune", "ada", "cdc", "stylegan2_patches"]


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark, and where its results lie."""

    method: str
    target: str
    seed: int
    results: Path

    @property
    def file(self) -> Path:
        return self.results / Path(self.target).name / f"{self.method}-{self.seed}.json"


@dataclass
class Options:
    """What all cells of a run share."""

    minutes: float
    cores: int
    resolution: int
    samples: int
    reference: int
    work_dir: Path
    stylegan2_base: str
    diffusion_base: str


def pictures_of(target: str, work_dir: Path) -> str:
    """The few-shot set of a target, drawn where it is not in the repository; any other target is a path already."""
    if target == "sharingan":
        return str(SHARINGAN)
    if target not in TARGETS:
        return target
    place = work_dir / f"{target}{SHOTS}"
    if not (place / "metadata.jsonl").is_file():
        write_folder(sample_emblems(target, range(SHOTS)), 256, place)
    return str(place)


def reference_of(target: str, options: Options) -> Reference:
    """What models adapted to a target are measured against; features of true draws come from the file that main writes."""
    pictures = evaluate.training_pictures(pictures_of(target, options.work_dir))
    file = features_file(target, options)
    if target not in TARGETS:
        return evaluate.build_reference(pictures, None)
    if not file.is_file():
        return evaluate.build_reference(pictures, evaluate.true_draws(f"emblems:{target}", options.reference))
    reference = evaluate.build_reference(pictures, None)
    reference.real = load_file(file)["real"]
    reference.real_kernel = metrics.mean_kernel(reference.real)
    return reference


def features_file(target: str, options: Options) -> Path:
    """Where the features of a target's true draws lie while the cells of one run are measured."""
    return options.work_dir / "features" / f"{Path(target).name}.safetensors"


def keep_features(target: str, options: Options) -> None:
    """Draw and measure the true distribution once for all cells, anew in each run: the renderer may have changed."""
    file = features_file(target, options)
    file.unlink(missing_ok=True)
    reference = reference_of(target, options)
    if reference.real is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"real": reference.real}, file)


def run_cell(cell: Cell, options: Options) -> None:
    """Train one cell in this process, measure it, and write its JSON file and a strip of its pictures."""
    import yaml

    torch.set_num_threads(1)
    if not torch.accelerator.is_available():
        trainer.now = time.process_time  # minutes of its core: what else the machine does changes no result
    method, first = METHODS[cell.method], repeated(cell)
    work = Path(tempfile.mkdtemp(prefix=f"{Path(cell.target).name}-{cell.method}-{cell.seed}-", dir=options.work_dir))
    settings = yaml.safe_load((RECIPES / f"{method.recipe}.yaml").read_text()) | method.settings
    settings |= {
        "train_data": pictures_of(cell.target, options.work_dir),
        "output_dir": str(work),
        "resolution": options.resolution,
        "seed": cell.seed,
        "report_to": "none",
        "threads": 1,
    } | budget(cell, options)
    if method.base == "diffusion":
        from training import diffusion

        settings["base_model"] = options.diffusion_base
        diffusion.train(diffusion.DiffusionConfig(**settings))
    else:
        if method.base == "stylegan2":
            settings["base_model"] = options.stylegan2_base
        settings |= {"sample_every": 10**9, "checkpointing_steps": 100, "checkpoints_total_limit": 10**6}
        if method.base == "scratch":
            train.train(TrainConfig(**settings))
        else:
            adapt.adapt(adapt.AdaptConfig(**settings))
    report = finished(work, settings)
    reference = reference_of(cell.target, options)
    images = evaluate.draw(evaluate.opened(work), range(options.samples), 1.0)
    curve = [] if method.base == "diffusion" else follow(work, reference)  # it is slow to draw
    result = {
        "method": cell.method,
        "target": Path(cell.target).name,
        "seed": cell.seed,
        "base": method.base,
        "resolution": options.resolution,
        "minutes": first["minutes"] if first else settings["max_minutes"],  # of its core, or on an accelerator
        "hardware": report["hardware"],
        "steps": report["steps"],
        "samples": options.samples,
        "reference": 0 if reference.real is None else options.reference,
        "metrics": evaluate.as_numbers(evaluate.measure(images, reference)),
        "curve": curve,
    }
    if method.base in PIXELS:
        round_images = torch.cat([circularize(some).images for some in images.split(64)])
        result["circularized"] = evaluate.as_numbers(evaluate.measure(round_images, reference))
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    if cell.seed == 0:
        save_picture(strip(images[: len(SHEET_SEEDS)]), cell.file.with_suffix(".png"))
    write_json(result, cell.file)
    shutil.rmtree(work)


def budget(cell: Cell, options: Options) -> dict[str, Any]:
    """How long a cell trains: its minutes; other seeds than 0 as many steps as seed 0 had in them, where that is there.

    So methods share a time and seeds the work: they can run on other machines, and again, with the same result.
    """
    if first := repeated(cell):
        return {"max_steps": first["steps"], "max_minutes": None}
    return {"max_steps": None, "max_minutes": options.minutes * options.cores}


def repeated(cell: Cell) -> dict[str, Any] | None:
    """What seed 0 of a cell had, where that is there and is not the cell itself."""
    first = replace(cell, seed=0).file
    return json.loads(first.read_text()) if cell.seed != 0 and first.is_file() else None


def finished(work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that had all its time or steps. Raises SystemExit for one that a signal ended: it is no cell."""
    report: dict[str, Any] = json.loads((work / "report.json").read_text())
    for had, wanted in (("minutes", "max_minutes"), ("steps", "max_steps")):
        if settings[wanted] is not None and report[had] < round(settings[wanted], 2):
            raise SystemExit(
                f"Training was stopped after {report[had]:g} of {settings[wanted]:g} {had}: no result is kept."
            )
    return report


def follow(work: Path, reference: Reference) -> list[dict[str, Any]]:
    """Figures at POINTS checkpoints of a run, evenly over its time, from its averaged weights."""
    found = [
        (json.loads((p / "progress.json").read_text())["seconds"], p) for p in list_checkpoints(work / "checkpoints")
    ]
    last = found[-1][0]
    chosen = {min(found, key=lambda entry: abs(entry[0] - last * (i + 1) / POINTS)) for i in range(POINTS)}
    recipe = json.loads((work / "report.json").read_text())["recipe"]
    curve = []
    for seconds, checkpoint in sorted(chosen):
        average = hub.read_generator(work)
        if recipe.get("adapter_rank") is not None:
            add_low_rank(average, recipe["adapter_rank"], recipe["seed"])
        average.load_state_dict(torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)["average"])
        images = evaluate.draw(SharinganPipeline(merged(average)), range(CURVE_SAMPLES), 1.0)
        row = evaluate.as_numbers(evaluate.compare(features_of(images, reference.network), reference))
        curve.append({"minutes": round(seconds / 60, 3)} | {name: row[name] for name in CURVE if name in row})
    return curve


def strip(images: Tensor) -> Any:
    """Pictures (N, 3, S, S) in [0, 1] in one row."""
    return picture_grid(images * 2 - 1, len(images))


def run_floors(target: str, results: Path, options: Options) -> None:
    """The rows that say what a figure is worth, and some of the 15 pictures, once for each target."""
    file = results / Path(target).name / "floors.json"
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    save_pictures(target, file.with_name(few_shot_report.PICTURES), options)
    reference = reference_of(target, options)
    fresh = None
    if target in TARGETS:
        fresh = evaluate.true_draws(f"emblems:{target}", options.samples, evaluate.UNSEEN + options.reference)
    source = SharinganPipeline.from_pretrained(adapt.EMBEDDED_SOURCE)
    rows = evaluate.floors(reference, options.samples, source, fresh)
    if Path(options.stylegan2_base).is_dir():
        images = evaluate.draw(SharinganPipeline.from_pretrained(options.stylegan2_base), range(options.samples), 1.0)
        rows["StyleGAN2 source model"] = evaluate.measure(images, reference)
    write_json({name: evaluate.as_numbers(row) for name, row in rows.items()}, file)


def save_pictures(target: str, file: Path, options: Options) -> None:
    """A strip of what the methods are given, as long as theirs."""
    pictures = load_pictures(pictures_of(target, options.work_dir), options.resolution)
    shown = pictures.batch(range(min(len(SHEET_SEEDS), len(pictures))))[0]
    save_picture(picture_grid(shown, len(shown)), file)


def check(given: argparse.Namespace) -> None:
    """Raise SystemExit, with one sentence, where two sets would share a name or a base model is missing."""
    names = [Path(target).name for target in given.targets]
    for target, name in zip(given.targets, names):
        if names.count(name) > 1 or (name in TARGETS and target != name):
            raise SystemExit(
                f"--targets: results of {target} would lie where those of another {name} do; rename the folder."
            )
    for base, recipe in BASES.items():
        folder = Path(getattr(given, f"{base}_base"))
        wanted = [name for name in given.methods or METHODS if METHODS[name].base == base]
        if wanted and folder.is_absolute() and not folder.is_dir():  # else it may be a Hub id
            raise SystemExit(
                f"--{base}_base: {folder} is no folder, and {wanted[0]} begins from it; make it as {recipe} says, "
                "or name --methods that do without."
            )


def run_all(cells: Sequence[Cell], options: Options) -> list[Cell]:
    """Run those cells that have no result, each in a process of its own, one for each core; returns those that failed."""
    waiting = [cell for cell in cells if not cell.file.is_file()]
    logger.info("%d of %d cells are to be run.", len(waiting), len(cells))
    logs = options.work_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    def run(cell: Cell) -> bool:
        what = json.dumps({"cell": asdict(cell), "options": asdict(options)}, default=str)
        log = logs / f"{Path(cell.target).name}-{cell.method}-{cell.seed}.log"
        with log.open("w") as file:
            command = [sys.executable, "-m", "training.experiments.few_shot", "--cell", what]
            done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode == 0
        text = "done" if done else f"failed, see {log}"
        logger.info("%s on %s, seed %d: %s", cell.method, cell.target, cell.seed, text)
        return done

    with ThreadPoolExecutor(options.cores) as pool:
        return [cell for cell, done in zip(waiting, pool.map(run, waiting)) if not done]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.few_shot`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.experiments.few_shot", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--targets", nargs="+", default=list(BENCHMARK), help=f"among {', '.join(TARGETS)}, or folders")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all on the first target, then the best")
    parser.add_argument("--best", type=int, default=6, help="how many methods run on the other targets (default 6)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=3.0, help="wall-clock time of a cell on all cores (default 3)")
    parser.add_argument("--cores", type=int, default=2, help="how many cells run side by side (default 2)")
    parser.add_argument("--resolution", type=int, default=64, help="pixels; 128 or 256 where a GPU is at hand")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=10_000)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results" / "few_shot")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where results.md and its pictures go")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "few_shot")
    parser.add_argument("--stylegan2_base", default=str(ROOT / "model_cards" / "stylegan2-source"))
    parser.add_argument("--diffusion_base", default=str(ROOT / "runs" / "diffusion_source"))
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} on sharingan, one seed, one minute")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # one cell, as JSON: a process of run_all
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    if given.cell:
        what = json.loads(given.cell)
        cell, options = what["cell"], what["options"]
        cell["results"], options["work_dir"] = Path(cell["results"]), Path(options["work_dir"])
        run_cell(Cell(**cell), Options(**options))
        return
    if given.quick:
        given.targets, given.methods, given.seeds, given.minutes = ["sharingan"], QUICK, [0], 1.0
        given.results = given.docs = given.work_dir / "quick"
    check(given)
    names = [name for name in Options.__dataclass_fields__]
    options = Options(**{name: getattr(given, name) for name in names})
    options.work_dir.mkdir(parents=True, exist_ok=True)

    failed: list[Cell] = []
    for i, target in enumerate(given.targets):
        keep_features(target, options)
        run_floors(target, given.results, options)
        methods = given.methods or (
            list(METHODS) if i == 0 else few_shot_report.best(given.results, given.targets[0], given.best)
        )
        for seed in sorted(given.seeds):  # 0 first: the others take its steps
            failed += run_all([Cell(method, target, seed, given.results) for method in methods], options)
        few_shot_report.write(given.results, given.docs)
    if failed:
        raise SystemExit(f"{len(failed)} cells failed; their logs are in {options.work_dir / 'logs'}")


if __name__ == "__main__":
    main()
