"""How fast a converted StyleGAN2 draws on the CPU, beside the program that it came from, and how near the pictures are.

    OMP_NUM_THREADS=1 python -m benchmarks.stylegan2 --program ../stylegan2-ada-pytorch

The other program is the reader's own copy, stylegan2-ada-pytorch or stylegan3: its Generator takes the weights that `export`
writes, and draws on its reference path, as it does wherever there is no GPU. Without --program its place is taken by a plain
path of our own that does the same steps (one kernel for each sample, grouped convolutions, zeros between pixels and a filter
in float32), and is called so in the table. Each contender draws in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

CONFIGURATIONS = {64: 16384, 256: 32768, 1024: 32768}  # channel_base: e, f and f
CONTENDERS = {
    "program": "the original program",
    "plain": "plain path of the same steps",
    "ours": "ours (channels last)",
    "latents": "ours, styles precomputed (latents given)",
    "contiguous": "ours, in contiguous memory",
    "bf16": "ours, bfloat16",
}


def plain(state: dict[str, Tensor], z: Tensor) -> Tensor:
    """The pictures of NVIDIA's layout, by the steps of a straightforward program."""
    w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    for i in range(sum(name.startswith("mapping.fc") for name in state) // 2):
        weight = state[f"mapping.fc{i}.weight"] * (0.01 / math.sqrt(w.shape[1]))
        w = F.leaky_relu(F.linear(w, weight, state[f"mapping.fc{i}.bias"] * 0.01), 0.2) * math.sqrt(2)

    def kernels(name: str, gain: float, demodulate: bool) -> Tensor:
        style = F.linear(w, state[f"{name}.affine.weight"] / math.sqrt(w.shape[1]), state[f"{name}.affine.bias"]) * gain
        modulated = state[f"{name}.weight"][None] * style[:, None, :, None, None]
        return (
            modulated * (modulated.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            if demodulate
            else modulated
        )

    def layer(name: str, x: Tensor, up: bool) -> Tensor:
        own = kernels(name, 1, demodulate=True)
        n, out, width, *_ = own.shape
        if up:
            turned = own.transpose(1, 2).reshape(n * width, out, 3, 3)
            x = F.conv_transpose2d(x.reshape(1, n * width, *x.shape[2:]), turned, stride=2, groups=n)
            x = filtered(F.pad(x.reshape(n, out, *x.shape[2:]), (1, 1, 1, 1)))
        else:
            x = F.conv2d(x.reshape(1, n * width, *x.shape[2:]), own.flatten(0, 1), padding=1, groups=n)
            x = x.reshape(n, out, *x.shape[2:])
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
        return F.leaky_relu(x + state[f"{name}.bias"][:, None, None], 0.2) * math.sqrt(2)

    def filtered(x: Tensor) -> Tensor:
        fir = (state["synthesis.b4.resample_filter"] * 4).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, fir, groups=x.shape[1])

    x = state["synthesis.b4.const"].repeat(len(w), 1, 1, 1)
    image: Tensor | None = None
    side = 4
    while f"synthesis.b{side}.conv1.weight" in state:
        block = f"synthesis.b{side}"
        if side > 4:
            x = layer(f"{block}.conv0", x, up=True)
        x = layer(f"{block}.conv1", x, up=False)
        own = kernels(f"{block}.torgb", 1 / math.sqrt(x.shape[1]), demodulate=False)
        rgb = F.conv2d(x.reshape(1, -1, *x.shape[2:]), own.flatten(0, 1), groups=len(w)).reshape(len(w), 3, side, side)
        rgb = rgb + state[f"{block}.torgb.bias"][:, None, None]
        if image is not None:
            n, c, h, _ = image.shape
            zeros = image.new_zeros(n, c, h, 2, h, 2)
            zeros[:, :, :, 0, :, 0] = image
            rgb = rgb + filtered(F.pad(zeros.reshape(n, c, 2 * h, 2 * h), (2, 1, 2, 1)))
        image = rgb
        side *= 2
    assert image is not None
    return image


def contender(name: str, weights: Path, folder: Path, program: Path | None, z: Tensor) -> Callable[[], Tensor]:
    """What draws the pictures of z."""
    if name == "plain":
        state = load_file(weights)
        return lambda: plain(state, z)
    if name == "program":
        sys.path.insert(0, str(program))
        sys.modules.pop("training", None)  # theirs is called so, too
        from importlib import import_module

        there = (Path(str(program)) / "training" / "networks_stylegan2.py").is_file()
        with safe_open(weights, "pt") as file:
            kwargs = json.loads(file.metadata()["init_kwargs"])
        networks: Any = import_module("training.networks_stylegan2" if there else "training.networks")
        theirs = networks.Generator(**kwargs).eval().requires_grad_(False)
        theirs.load_state_dict(load_file(weights))
        return lambda: theirs(z, None, truncation_psi=1, noise_mode="const", force_fp32=True)
    from sharingan_hub.checkpoints.folder import read_generator

    model: Any = read_generator(folder, torch.bfloat16 if name == "bf16" else torch.float32)
    if name == "latents":
        ws = model.broadcast(model.mapping(z))
        return lambda: model.synthesis(ws)
    if name == "contiguous":
        torch.channels_last = torch.contiguous_format
        return lambda: model(z)
    return lambda: model(z)


def draw(name: str, weights: Path, folder: Path, program: Path | None, batch: int, rounds: int) -> None:
    """Time one contender and print what came of it as JSON."""
    z = torch.from_numpy(np.random.RandomState(0).randn(batch, 512)).float()
    with torch.no_grad():
        work = contender(name, weights, folder, program, z)
        pictures = work()
        times = []
        for _ in range(rounds):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    np.save(weights.with_name(f"{name}.npy"), pictures.float().numpy())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": min(times) / batch, "memory": memory / 2**10}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, help="your copy of stylegan2-ada-pytorch or stylegan3")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], choices=list(CONFIGURATIONS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draw", nargs=3, metavar=("CONTENDER", "WEIGHTS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        name, weights, folder = options.draw
        draw(name, Path(weights), Path(folder), options.program, options.batch, options.rounds)
        return
    names = [name for name in CONTENDERS if name != ("program" if options.program is None else "plain")]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {options.batch}\n")
    print(
        "| size | what | pictures per second of processor time | times as fast | peak memory, MiB | largest difference |\n|---|---|---|---|---|---|"
    )
    for side in options.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder, weights = Path(temporary) / "model", Path(temporary) / "weights.safetensors"
            make_model(side, folder, weights)
            first: dict[str, Any] = {}
            for name in names:
                command = [sys.executable, "-m", "benchmarks.stylegan2", "--draw", name, str(weights), str(folder)]
                command += ["--batch", str(options.batch), "--rounds", str(options.rounds)]
                command += [] if options.program is None else ["--program", str(options.program.resolve())]
                environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
                told = json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout.splitlines()[-1]
                )
                pictures = np.load(weights.with_name(f"{name}.npy"))
                first = first or {**told, "pictures": pictures}
                difference = np.abs(pictures - first["pictures"]).max() / max(1, np.abs(first["pictures"]).max())
                print(
                    f"| {side} px | {CONTENDERS[name]} | {1 / told['seconds']:.2f} | {first['seconds'] / told['seconds']:.2f} "
                    f"| {told['memory']:.0f} | {difference:.1e} |",
                    flush=True,
                )


def make_model(side: int, folder: Path, weights: Path) -> None:
    """A checkpoint folder of random weights whose noise and biases matter, and the same in NVIDIA's layout."""
    from sharingan_hub import SharinganPipeline, StyleGAN2Generator
    from sharingan_hub.convert import export

    torch.manual_seed(0)
    model = StyleGAN2Generator(resolution=side, channel_base=CONFIGURATIONS[side])
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                value += 0.3 * torch.randn_like(value)
    SharinganPipeline(model).save_pretrained(folder)
    export(folder, weights, "nvidia")


if __name__ == "__main__":
    main()
