"""How long foreign checkpoints take to read and to convert, and how much memory: each in a process of its own, beyond its imports.

Run `python -m benchmarks.convert` in the checkout, on a quiet machine; OMP_NUM_THREADS says how many threads.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from tests.sharingan_hub.convert import layouts, writers

PARAMETERS = 30_000_000
NETWORKS = 3
# Generator, averaged generator and discriminator of configuration f: 30 M parameters each.
REAL = layouts.Sizes(resolution=256, z_dim=512, w_dim=512, layers=8, hidden=512, base=32768, most=512)
# In a fresh process: what the imports took is not counted, and Linux forgets the peak so far.
WORK = """
import sys, time
from pathlib import Path
from sharingan_hub.convert.folder import convert, read
status = lambda name: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name))
Path("/proc/self/clear_refs").write_text("5")
before, start = status("VmRSS"), time.process_time()
value = read(sys.argv[1]) if len(sys.argv) < 3 else convert(sys.argv[1], sys.argv[2], with_discriminator=True)
print(time.process_time() - start, 1024 * (status("VmHWM") - before))
"""


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of weights that make PARAMETERS together, as convolutions of 512 channels and smaller things."""
    left = PARAMETERS
    for index in range(1000):
        for name, shape in (("weight", (512, 512, 3, 3)), ("affine", (512, 512)), ("bias", (512,))):
            count = int(np.prod(shape))
            if count > left:
                yield f"{index}.last", (left,)
                return
            yield f"{index}.{name}", shape
            left -= count


def write_nvidia(path: Path) -> None:
    """NVIDIA's PyTorch programs."""
    tensors = {name.replace(".", "_"): torch.randn(shape) for name, shape in shapes()}
    modules = [
        writers.nvidia_module(kind, {name: tensor.clone() for name, tensor in tensors.items()}, module_src="#" * 30_000)
        for kind in ("Generator", "Discriminator", "Generator")
    ]
    writers.pickle_nvidia(path, 3, G=modules[0], D=modules[1], G_ema=modules[2])


def write_tensorflow(path: Path) -> None:
    """The TensorFlow programs."""
    arrays = {name: np.random.randn(*shape).astype(np.float32) for name, shape in shapes()}
    networks = [
        writers.tensorflow_network(kind, {name: array.copy() for name, array in arrays.items()})
        for kind in ("G", "D", "Gs")
    ]
    writers.pickle_tensorflow(path, *networks, protocol=3)


def write_rosinality(path: Path, legacy: bool = False) -> None:
    """rosinality's program."""
    networks = {
        kind: writers.state_dict({name: torch.randn(shape) for name, shape in shapes()}) for kind in ("g", "d", "g_ema")
    }
    writers.save_torch(path, {**networks, "args": argparse.Namespace(size=256)}, legacy)


def write_real_nvidia(path: Path) -> None:
    """NVIDIA's PyTorch programs, converted"""
    layouts.write_nvidia(path, REAL)


def write_real_tensorflow(path: Path) -> None:
    """The TensorFlow programs, converted"""
    layouts.write_tensorflow(path, REAL)


def write_real_rosinality(path: Path) -> None:
    """rosinality's program, converted"""
    layouts.write_rosinality(path, REAL)


def measure(write: Callable[[Path], None], converted: bool, repeats: int = 3) -> None:
    """Print a row: the median over fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        size = path.stat().st_size
        runs = []
        for repeat in range(repeats):
            command = [sys.executable, "-c", WORK, path, *([Path(folder) / f"{repeat}"] if converted else [])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append([float(number) for number in re.findall(r"[\d.]+", done.stdout)])
    seconds, memory = (statistics.median(column) for column in zip(*runs))
    print(
        f"| {write.__doc__} | {size / 2**20:.0f} MiB | {seconds:.2f} s | {memory / size:.2f} x its size |", flush=True
    )


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {NETWORKS} networks of {PARAMETERS / 1e6:.0f} M parameters in each file\n")
    print("| written as by | file | processor time | memory beyond imports |\n|---|---|---|---|")

    def write_before_zip(path: Path) -> None:
        write_rosinality(path, legacy=True)

    write_before_zip.__doc__ = "rosinality's program with a torch before 1.6."
    for write in (write_nvidia, write_tensorflow, write_rosinality, write_before_zip):
        measure(write, converted=False)
    for write in (write_real_nvidia, write_real_tensorflow, write_real_rosinality):
        measure(write, converted=True)


if __name__ == "__main__":
    main()
