"""What experiments have in common: their flags, results that are kept as JSON files, and tables on pages of docs/."""

import argparse
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.checkpoints import write_json

ROOT = Path(__file__).resolve().parents[2]


def read_flags(name: str, text: str, arguments: Sequence[str] | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The flags of `python -m training.experiments.NAME`, which runs on one core.

    text: its docstring. parts: what `only` may name, where an experiment can be run in parts.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.experiments.{name}", description=text.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a small run of everything, apart from the full one's results"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs" / "results" / name, help="what is there is not run again"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where page and pictures go")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / name)
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="run these alone")
    given = parser.parse_args(arguments)
    if given.quick:
        given.work_dir = given.results = given.docs = given.work_dir / "quick"
    given.work_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    torch.set_num_threads(1)
    return given


def kept(file: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file says; where it is missing, it is written with what `run` finds."""
    if not file.is_file():
        found = run()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, file)
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Markdown: a row of cells for each name."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())])


def write_section(page: Path, module: str, name: str, text: str) -> None:
    """Put what an experiment wrote in its place on a page, between two marks; all the rest is written by hand and stays.

    module: of training/experiments, without .py. name: of the section.
    """
    begin, end = f"<!-- {name}: written by training/experiments/{module}.py -->", f"<!-- /{name} -->"
    page.parent.mkdir(parents=True, exist_ok=True)
    before = page.read_text() if page.is_file() else ""
    if begin not in before:
        before += f"{begin}\n{end}\n"
    section = f"{begin}\n{text}\n{end}"
    page.write_text(re.sub(re.escape(begin) + ".*" + re.escape(end), lambda _: section, before, flags=re.DOTALL))
