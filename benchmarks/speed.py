"""How fast the everyday things are on this machine: one table, everything in one run.

Run `python -m benchmarks.speed` in the checkout, on a quiet machine; OMP_NUM_THREADS says how many threads.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from sharingan_hub import SharinganPipeline
from training.emblems import render, sample_emblems


def rate(count: int, work: Callable[[], object], repeats: int = 5) -> float:
    """Items per second: the median over repeats, after one round to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)


def command_seconds(*arguments: str, repeats: int = 5) -> float:
    """Wall time of a command: the median over repeats."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores\n")
    print("| what | figure |\n|---|---|")
    for distribution in ("source", "sharingan"):
        for size, count in ((64, 256), (256, 64)):
            figure = rate(count, lambda: render(sample_emblems(distribution, range(count)), size))  # type: ignore[arg-type] # noqa: B023
            print(f"| renderer, {distribution}, {size} px | {figure:.0f} emblems/s |")
    pipe = SharinganPipeline.from_pretrained()
    for size, count in ((256, 16), (1024, 4)):
        for output in ("pt", "pil"):
            figure = rate(count, lambda: pipe(seeds=range(count), output_size=size, output_type=output))  # noqa: B023
            print(f"| embedded model, {size} px, batches of {count}, output_type {output} | {figure:.1f} pictures/s |")
    print(f"| `sharingan --help` | {command_seconds(sys.executable, '-m', 'sharingan_hub', '--help'):.2f} s |")
    print(f"| peak memory of this script | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB |")


if __name__ == "__main__":
    main()
