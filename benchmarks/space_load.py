"""Many visitors at once: app.py in its own process, called by gradio_client. `python -m benchmarks.space_load --visitors 50`.

Each visitor has a session of his own and does one thing after the other: mostly generates and looks at one design, now and then varies,
mixes, moves, repairs, recolours, draws an SVG or makes a short film. Printed are failed calls, how long a call took, how evenly
the calls were shared out, and the server's memory before, at its peak and after.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client, handle_file

from tests.app_process import app

# How often each is chosen, beside the others.
WEIGHTS = {
    "generate": 8,
    "draw": 6,
    "vary": 3,
    "mix": 3,
    "explore": 4,
    "recolor": 2,
    "repair": 1,
    "svg": 1,
    "interpolate": 1,
}


class Visitor(threading.Thread):
    """One visitor, who stops after `seconds`."""

    def __init__(self, number: int, url: str, seconds: float, picture: str) -> None:
        super().__init__(daemon=True)
        self.url, self.seconds, self.picture = url, seconds, picture
        self.random = random.Random(number)
        self.took: list[tuple[str, float]] = []
        self.failed: list[str] = []

    def run(self) -> None:
        try:
            with tempfile.TemporaryDirectory() as downloads:
                client = Client(self.url, verbose=False, download_files=downloads)
                end = time.monotonic() + self.seconds
                while time.monotonic() < end:
                    (name,) = self.random.choices([*WEIGHTS], [*WEIGHTS.values()])
                    self.call(name, client)
                client.close()
        except Exception as error:
            self.failed.append(f"connecting: {type(error).__name__}: {error}")

    def try_all(self, client: Client) -> None:
        for name in WEIGHTS:
            self.call(name, client)
        if self.failed:
            raise RuntimeError(f"calls fail before there is any load: {self.failed}")

    def call(self, name: str, client: Client) -> None:
        seed = self.random.randrange(10**6)
        recipe = {"seed": seed}
        inputs: dict[str, Callable[[], tuple[Any, ...]]] = {
            "generate": lambda: (seed,),
            "draw": lambda: (recipe, 512),
            "vary": lambda: (recipe, 0.3),
            "mix": lambda: (recipe, seed + 1, ["palette", "fine"]),
            "explore": lambda: (recipe, self.random.uniform(-2, 2)),
            "recolor": lambda: (handle_file(self.picture), "violet"),
            "repair": lambda: (handle_file(self.picture),),
            "svg": lambda: (recipe,),
            "interpolate": lambda: ([seed, seed + 1], "w", "smooth", "loop", 1, 24),
        }
        start = time.monotonic()
        try:
            client.predict(*inputs[name](), api_name=f"/{name}")
            self.took.append((name, time.monotonic() - start))
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")


class Memory(threading.Thread):
    """Looks at a process's memory five times a second -> `peak`, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.server, self.peak, self.ended = psutil.Process(pid), 0.0, threading.Event()

    @property
    def now(self) -> float:
        return self.server.memory_info().rss / 1e6

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.peak = max(self.peak, self.now)


def spread(values: list[float], unit: str = "s") -> str:
    """Least, median, 95th of a hundred, and most."""
    values = sorted(values)
    at = values[min(len(values) - 1, int(len(values) * 0.95))]
    return f"min {values[0]:.1f}, median {statistics.median(values):.1f}, 95 % {at:.1f}, max {values[-1]:.1f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=2, help="the same again: memory must not go on growing")
    arguments = parser.parse_args()
    load = psutil.getloadavg()[0]
    print(
        f"{arguments.visitors} visitors for {arguments.seconds:g} s, load before {load:.1f} on {psutil.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as temporary, app(GRADIO_TEMP_DIR=temporary) as (url, process):
        first = Client(url, verbose=False, download_files=temporary)
        picture = str(first.predict({"seed": 51, "order": 6}, 512, api_name="/draw"))
        Visitor(0, url, 0, picture).try_all(first)  # what is imported late is there
        for number in range(arguments.rounds):
            memory = Memory(process.pid)
            before = memory.now
            memory.start()
            visitors = [
                Visitor(number * arguments.visitors + visitor, url, arguments.seconds, picture)
                for visitor in range(arguments.visitors)
            ]
            start = time.monotonic()
            for visitor in visitors:
                visitor.start()
            for visitor in visitors:
                visitor.join()
            lasted = time.monotonic() - start
            memory.ended.set()
            generated = len(first.predict(seed=7 + number, api_name="/generate"))
            report(visitors, lasted)
            print(f"memory: {before:.0f} MB before, {memory.peak:.0f} at its peak, {memory.now:.0f} after")
            print(f"afterwards {generated} designs in one more call\n")
        files = sum(path.stat().st_size for path in Path(temporary).rglob("*") if path.is_file()) / 1e6
    print(f"{files:.0f} MB of files")


def report(visitors: list[Visitor], lasted: float) -> None:
    """Print what the visitors saw."""
    took = [call for visitor in visitors for call in visitor.took]
    failed = [call for visitor in visitors for call in visitor.failed]
    print(f"{len(took)} calls in {lasted:.0f} s, {len(failed)} failed")
    for sentence in sorted(set(failed))[:10]:
        print(f"  {failed.count(sentence)} x {sentence}")
    if not took:
        return
    print(f"a visitor's calls: {spread([float(len(visitor.took)) for visitor in visitors], 'calls')}")
    means = [statistics.mean(seconds for _, seconds in visitor.took) for visitor in visitors if visitor.took]
    print(f"a visitor's mean wait: {spread(means)}")
    by_name = defaultdict(list)
    for name, seconds in took:
        by_name[name].append(seconds)
    for name in WEIGHTS:
        if by_name[name]:
            print(f"  /{name}, {len(by_name[name])} calls: {spread(by_name[name])}")


if __name__ == "__main__":
    main()
