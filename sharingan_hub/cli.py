"""The `sharingan` command. Nothing heavy is imported until a command needs it, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from sharingan_hub.commands import convert, interpolate, repair, share, space

MAX_SEED = 2**32 - 1
SETTINGS_FILE = "generate.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 and one sentence on stderr when something is wrong; 130 after Ctrl-C.
        With `python -X dev` errors come as tracebacks.
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()  # a closed pipe shows here, and not when Python ends
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # as in `sharingan info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return _fail(_sentence(error), 2)
    return 0


def _fail(sentence: str, code: int) -> int:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes one speaks
        print(f"sharingan: {sentence}", file=sys.stderr)
    return code


def _sentence(error: Exception) -> str:
    """The first line of a message; where the message alone says little, with the kind of error before it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, (ValueError, TypeError, OSError)) or type(error).__module__.startswith("sharingan_hub"):
        return _first_line(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sharingan", description="Generate new sharingan, repair pictures of them, and look at the models that do."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, example: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ". " + more,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        assert isinstance(added, argparse.ArgumentParser)
        return added

    generate = command(
        "generate",
        "write one PNG for each seed",
        "sharingan generate --seeds 0-15 --order 3 --truncation-psi 0.7 --output-size 512 --output-dir out\n"
        "  accelerate launch -m sharingan_hub generate --seeds 0-99999 --output-dir big",
        "Started again, it goes on where\nit stopped; under `accelerate launch` the processes share the seeds out.",
    )
    generate.set_defaults(run=_generate)
    generate.add_argument("--model", help="local folder or Hub id (default: the model that came with the package)")
    generate.add_argument(
        "--adapter",
        type=_parse_adapter,
        action="append",
        default=[],
        metavar="FOLDER[:WEIGHT]",
        help="a small fine-tune of the model, as in mine:0.5; may be given several times",
    )
    generate.add_argument(
        "--seeds", type=parse_seeds, default="0-15", help="such as 7 or 0-15 or 1,5,9-12 (default: %(default)s)"
    )
    generate.add_argument(
        "--order", type=_parse_order, default="any", help="how often the pattern repeats: 1 to 8, or any (default)"
    )
    generate.add_argument(
        "--class",
        dest="class_label",
        type=_parse_class,
        metavar="N",
        help="of a model with classes: 0 (default), 1 ...",
    )
    generate.add_argument(
        "--truncation-psi",
        type=_parse_number,
        default=0.7,
        metavar="PSI",
        help="0 is the average emblem, 1 the full variety (default: %(default)s)",
    )
    generate.add_argument(
        "--output-size", type=_parse_count, metavar="PIXELS", help="width and height (default: the model's own)"
    )
    generate.add_argument(
        "--output-dir", type=Path, default="out", metavar="FOLDER", help="made if missing (default: %(default)s)"
    )
    generate.add_argument(
        "--batch-size", type=_parse_count, default=16, metavar="N", help="pictures made at once (default: %(default)s)"
    )
    generate.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: %(default)s)")
    generate.add_argument("--overwrite", action="store_true", help="replace pictures made with other settings")

    interpolate.add_commands(command)
    repair.add_commands(command)
    share.add_commands(command)
    convert.add_commands(command)
    space.add_commands(command)
    return parser


def parse_seeds(text: str) -> list[range]:
    """Seeds such as "7", "0-15" or "1,5,9-12" as ranges: ascending, disjoint, and never written out in memory.

    Raises:
        argparse.ArgumentTypeError: not such a list, or a seed above 2**32 - 1.
    """
    spans = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise argparse.ArgumentTypeError(f"must be seeds such as 7, 0-15 or 1,5,9-12, got {text[:80]!r}")
        if any(len(number) > 20 or int(number) > MAX_SEED for number in numbers):
            raise argparse.ArgumentTypeError(f"must be seeds from 0 to {MAX_SEED}, got {part.strip()[:80]!r}")
        if int(numbers[0]) > int(numbers[-1]):
            raise argparse.ArgumentTypeError(f"must be ranges that ascend, got {part.strip()!r}")
        spans.append((int(numbers[0]), int(numbers[-1]) + 1))
    seeds: list[range] = []
    for start, stop in sorted(spans):
        if seeds and start <= seeds[-1].stop:
            seeds[-1] = range(seeds[-1].start, max(stop, seeds[-1].stop))
        else:
            seeds.append(range(start, stop))
    return seeds


def share_of_seeds(seeds: Sequence[range], process: int, processes: int) -> list[range]:
    """Every `processes`-th seed, from the `process`-th on: the shares of all processes differ by one seed at most."""
    shares, before = [], 0
    for span in seeds:
        shares.append(span[(process - before) % processes :: processes])
        before += len(span)
    return shares


def _parse_order(text: str) -> int | None:
    return None if text == "any" else _parse_count(text, 'a whole number from 1 on, or "any"')


def _parse_count(text: str, expected: str = "a whole number from 1 on", least: int = 1) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text[:80]!r}")
    return int(text)


def _parse_class(text: str) -> int:
    return _parse_count(text, "a whole number from 0 on", least=0)


def _parse_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number, got {text[:80]!r}")
    return number


def _parse_adapter(text: str) -> tuple[str, float]:
    """Folder and weight; a colon that no number follows belongs to the folder's name."""
    folder, colon, weight = text.rpartition(":")
    try:
        number = float(weight)
    except ValueError:
        return text, 1.0
    return (folder, number) if colon else (text, 1.0)


def _load(model: str | None) -> Any:
    import diffusers

    from sharingan_hub.pipeline_sharingan import SharinganPipeline

    diffusers.utils.logging.disable_progress_bar()
    return SharinganPipeline.from_pretrained() if model is None else SharinganPipeline.from_pretrained(model)


def _generate(arguments: argparse.Namespace) -> None:
    from concurrent.futures import Future, ThreadPoolExecutor

    import torch
    from tqdm.auto import tqdm

    from sharingan_hub.media import write_png

    has_cuda = torch.cuda.is_available()
    process, processes, local_processes, device = 0, 1, 1, "cuda" if has_cuda else "cpu"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import PartialState

        # without `cpu` and a GPU, Accelerate takes each process for the only one
        state = PartialState(cpu=arguments.device == "cpu" or not has_cuda)
        process, processes, device = state.process_index, state.num_processes, state.device
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if arguments.device != "auto":
        device = arguments.device

    folder: Path = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    pipe = _load(arguments.model)
    for adapter, weight in arguments.adapter:
        pipe.load_adapter(adapter, weight)
    try:
        pipe.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {_first_line(error)}") from error

    settings = {
        "model": _model_name(arguments.model),
        "weights": _fingerprint(pipe.generator_model),
        "truncation_psi": arguments.truncation_psi,
        "order": arguments.order,
        "output_size": arguments.output_size or pipe.generator_model.resolution,
    }
    if arguments.adapter:
        settings["adapters"] = pipe.adapters
    if arguments.class_label is not None:
        pipe.check_class(arguments.class_label, 1)
        settings["class_label"] = arguments.class_label
    _agree_on_settings(folder, settings, arguments.overwrite)

    share = share_of_seeds(arguments.seeds, process, processes)
    progress = tqdm(
        total=sum(map(len, share)),
        desc="Generating" if processes == 1 else f"Generating (process 1 of {processes})",
        unit=" pictures",
        disable=process > 0,
    )

    def missing() -> Iterator[int]:
        for span in share:
            for seed in span:
                if _is_made(folder / png_name(seed), {**settings, "seed": seed}):
                    progress.update()
                else:
                    yield seed

    # While a batch is made the batch before is written: these two are all that is ever held.
    todo, made = missing(), 0
    writing: list[Future[None]] = []
    with progress, ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // local_processes)) as pool:
        while batch := list(islice(todo, arguments.batch_size)):
            conditions = {} if arguments.order is None else {"order": arguments.order}
            if arguments.output_size is not None:
                conditions["output_size"] = arguments.output_size
            if arguments.class_label is not None:
                conditions["class_label"] = arguments.class_label
            images = pipe(seeds=batch, truncation_psi=arguments.truncation_psi, **conditions).images
            for written in writing:
                written.result()
            writing = [
                pool.submit(write_png, image, folder / png_name(seed), {**settings, "seed": seed})
                for seed, image in zip(batch, images, strict=True)
            ]
            made += len(batch)
            progress.update(len(batch))
        for written in writing:
            written.result()
    if process == 0:
        there = progress.total - made
        of_all = "" if processes == 1 else f" (of process 1; all {processes}: {sum(map(len, arguments.seeds))})"
        print(f"{made} pictures written to {folder}{of_all}" + (f", {there} were there already" if there else ""))


def png_name(seed: int) -> str:
    """File name of a seed's picture."""
    return f"seed{seed:07d}.png"


def _model_name(model: str | None) -> str:
    if model is None:
        return "embedded"
    # of a local path the last part: the recipe travels with pictures that are shared
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def _fingerprint(module: Any) -> str:
    """Of the weights: a model trained further in the same folder, or updated on the Hub, is another model."""
    from sharingan_hub.checkpoints.adapters import fingerprint

    return fingerprint(module.state_dict())[:16]


def _same_picture(settings: dict[str, Any], others: dict[str, Any] | None) -> bool:
    """Whether both make the same pictures; the model's name does not matter, its weights do."""
    return others is not None and {**settings, "model": None} == {**others, "model": None}


def _is_made(path: Path, recipe: dict[str, Any]) -> bool:
    from sharingan_hub.media import read_recipe

    try:
        return _same_picture(recipe, read_recipe(path))
    except FileNotFoundError:
        return False


def _agree_on_settings(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Keep pictures of different settings apart: one folder, one generate.json.

    Several processes may come here at once. Each looks for pictures first and reads generate.json then, and writes it
    before it writes pictures, so none takes the start of another for an older run.
    """
    with os.scandir(folder) as entries:
        occupied = any(entry.name.startswith("seed") and entry.name.endswith(".png") for entry in entries)
    path = folder / SETTINGS_FILE
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        before = None
    before = before if isinstance(before, dict) else None
    if _same_picture(settings, before):
        return
    if occupied and not overwrite:
        if before is None:
            told = "of unknown settings"
        else:
            changed = [name for name in settings if name != "model" and before.get(name) != settings[name]]
            told = "made with " + ", ".join(f"{name} {before.get(name)!r}" for name in changed)
        raise ValueError(f"{folder} holds pictures {told}: choose another --output-dir, or add --overwrite")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
