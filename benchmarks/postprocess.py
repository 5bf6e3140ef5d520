"""circularize beside PyAbel's circularize_image: pictures of known distortion, both in one run, on one thread.

python -m benchmarks.postprocess                   all tables, ten minutes and more
python -m benchmarks.postprocess --quick           the same tables from few pictures
python -m benchmarks.postprocess --figures         draw docs/pictures/circularize*.png

Errors are of the outer edge: where each point of the true distorted edge comes to lie after the repair, RMS of its radius
about the mean, in pixels. PyAbel gets the luminance, in pictures of odd size, whose middle is then a pixel as it expects.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharingan_hub.postprocess.circularize import CircularizeResult, circularize
from sharingan_hub.postprocess.polar import blur
from sharingan_hub.postprocess.radial_scale import LUMA, RadialScale, warp
from sharingan_hub.postprocess.symmetry import estimate_order, symmetrize
from training.emblems import Emblem, render, sample_emblems, source_emblem, source_latent

THETA = torch.arange(4096, dtype=torch.float64) * (2 * math.pi / 4096)
KINDS = ("disc", "rings", "sharingan", "source")
BACKGROUNDS = ("own", "black", "white", "textured")
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


# -------------------------------------------------------------------------------------------------- pictures


def draw_logs(truth: str, seed: int, rms: float) -> Tensor:
    """log s at THETA, of this RMS and mean 0."""
    rng = np.random.default_rng(seed)
    t = THETA.numpy()
    turned = np.angle(np.exp(1j * (t - rng.uniform(0, 2 * np.pi))))
    if truth == "dent":
        logs = -np.exp(-((turned / 0.35) ** 2) / 2)
    elif truth == "square":
        logs = np.where(turned > 0, 1.0, -1.0)
    elif truth == "k = 12":
        logs = np.cos(12 * turned)
    else:  # "K = 6", "K = 12", and "K = 2 to 6", which leaves the centre where it is
        low, high = {"K = 6": (1, 6), "K = 12": (1, 12), "K = 2 to 6": (2, 6)}[truth]
        logs = sum(rng.normal() * np.cos(k * t) + rng.normal() * np.sin(k * t) for k in range(low, high + 1))
    logs = logs - logs.mean()
    return torch.from_numpy(logs * rms / np.sqrt((logs**2).mean()))


def look_up(table: Tensor, theta: Tensor) -> Tensor:
    place = theta.remainder(2 * math.pi) * (len(table) / (2 * math.pi))
    left = place.long()
    return torch.lerp(table[left % len(table)], table[(left + 1) % len(table)], place - left)


def texture(size: int, rng: np.random.Generator) -> Tensor:
    """Coloured clouds of three sizes."""
    picture = torch.full((1, 3, size, size), 0.3)
    for cells, amount in ((4, 0.2), (16, 0.12), (64, 0.08)):
        noise = torch.from_numpy(rng.uniform(0, 2, (1, 3, cells, cells))).float()
        picture = picture + amount * F.interpolate(noise, size=(size, size), mode="bicubic")
    return picture[0].clamp(0, 1)


@dataclass
class Case:
    """A distorted picture and its truth."""

    picture: Tensor  # (3, S, S)
    logs: Tensor  # at THETA
    radius: float  # of the outer edge, pixels
    shift: tuple[float, float]  # of the centre, pixels, y down


def draw(
    kind: str,
    truth: str,
    seed: int,
    size: int,
    rms: float,
    background: str = "own",
    noise: float = 0.0,
    off: float = 0.0,
    emblem: Emblem | None = None,
) -> Case:
    """A picture by supersampling its undistorted coordinates, so that no resampled picture is the truth."""
    rng = np.random.default_rng((seed, 1))
    logs = draw_logs(truth, seed, rms)
    shift = tuple(float(v) * off * size for v in rng.uniform(-1, 1, 2))
    factor = 3 if size <= 512 else 2
    axis = (torch.arange(size * factor) + 0.5) / factor - size / 2
    x, y = axis[None] - shift[0], -(axis[:, None] - shift[1])
    theta = torch.atan2(y, x)
    r = torch.hypot(x, y) / look_up(logs.float().exp(), theta)
    radius = (0.76 if rms < 0.05 else 0.66) * size / 2

    def cover(edge: float) -> Tensor:
        return ((edge - r) * factor + 0.5).clamp(0, 1)

    if kind in ("disc", "rings"):
        inside = torch.tensor([0.75, 0.1, 0.12])[:, None, None].expand(3, *r.shape)
        if kind == "rings":
            for start, width in ((0.25, 0.08), (0.5, 0.05), (0.7, 0.03)):
                inside = inside * (1 - 0.95 * (cover(radius * (start + width)) - cover(radius * start)))
        around = torch.full_like(inside, 0.9)
    else:
        if emblem is None:
            (emblem,) = sample_emblems(kind, [seed])  # type: ignore[arg-type]
        big = render([emblem], size * factor)
        # Beyond the emblem's picture its background goes on as at the picture's edge, by the radius: it is round.
        q = (r * (emblem.iris_radius / radius)).clamp(max=1 - 1 / size)
        grid = torch.stack([q * theta.cos(), -q * theta.sin()], -1)[None]
        inside = F.grid_sample(big, grid, mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)
        around = inside
    if background != "own":
        fills = {"black": torch.zeros(3, *r.shape), "white": torch.ones(3, *r.shape)}
        around = fills[background] if background in fills else texture(size * factor, rng)
    picture = F.avg_pool2d(torch.lerp(around, inside, cover(radius))[None], factor)[0]
    if noise:
        picture = (picture + noise * torch.from_numpy(rng.standard_normal(picture.shape)).float()).clamp(0, 1)
    return Case(picture, logs, radius, shift)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- errors


def edge_error(case: Case, s: Callable[[Tensor], Tensor], center: Sequence[float]) -> float:
    """RMS in pixels of the repaired edge's radius, about its mean."""
    r, middle = case.radius * case.logs.exp(), case.picture.shape[-1] / 2
    x = middle + case.shift[0] + r * THETA.cos() - center[0]
    y = center[1] - (middle + case.shift[1] - r * THETA.sin())
    return (torch.hypot(x, y) / s(torch.atan2(y, x))).std(correction=0).item()


def our_errors(cases: Sequence[Case], **options: object) -> tuple[list[float], list[float], CircularizeResult]:
    """Edge errors and centre errors in pixels, batches of 8."""
    edges, centers = [], []
    results = []
    for start in range(0, len(cases), 8):
        some = cases[start : start + 8]
        with torch.no_grad():
            result = circularize(torch.stack([case.picture for case in some]), **options)  # type: ignore[arg-type]
        results.append(result)
        for i, case in enumerate(some):
            scale = RadialScale(result.scale.coefficients[i : i + 1].double(), result.scale.reach)
            edges.append(edge_error(case, lambda t, scale=scale: scale(t)[0], result.center[i].tolist()))  # type: ignore[misc]
            true = torch.tensor(case.shift) + case.picture.shape[-1] / 2
            centers.append((result.center[i] - true).norm().item())
    ok = torch.cat([result.ok for result in results])
    return edges, centers, CircularizeResult(results[0].images, results[0].scale, results[0].center, ok.float(), ok)


def luminance(case: Case) -> np.ndarray:
    return torch.einsum("chw,c->hw", case.picture, torch.tensor(LUMA)).double().numpy()


def abel_error(case: Case, **options: object) -> float:
    """PyAbel's error with these options; NaN where it fails."""
    from abel.tools.circularize import circularize_image

    size = case.picture.shape[-1]
    try:
        _, _, _, correction = circularize_image(luminance(case), return_correction=True, **options)
    except Exception:  # no structure in the band, or a spline through numbers that are none
        return math.nan

    def scale(theta: Tensor) -> Tensor:
        # Its angles are from the vertical, and beyond -pi to pi its spline runs away.
        vertical = np.arctan2(np.cos(theta.numpy()), np.sin(theta.numpy()))
        return torch.from_numpy(1 / correction(vertical))

    mean = scale(THETA).mean()

    def s(theta: Tensor) -> Tensor:
        return scale(theta) / mean

    return edge_error(case, s, (size // 2 + 0.5, size // 2 + 0.5))


def best_band_error(case: Case, rms: float) -> float:
    """PyAbel's error with the best of several bands around the true edge and two fine angular steps: what a careful hand
    could reach."""
    errors = [
        abel_error(case, radial_range=(case.radius * (1 - margin * rms), case.radius * (1 + margin * rms)), dt=dt)
        for margin in (2.5, 3.5, 5, 8)
        for dt in (0.1, 0.04)
    ]
    return min((e for e in errors if not math.isnan(e)), default=math.nan)


def figure(values: Sequence[float]) -> str:
    finite = [v for v in values if not math.isnan(v)]
    if not finite:
        return "fails"
    lost = f", {len(values) - len(finite)} failed" if len(finite) < len(values) else ""
    return f"{statistics.median(finite):.3f} / {max(finite):.3f}{lost}"


def line(label: str, ours: Sequence[Case], odd: Sequence[Case], rms: float, bound: str, **options: object) -> None:
    edges, _, result = our_errors(ours, **options)
    default = [abel_error(case) for case in odd]
    band = [best_band_error(case, rms) for case in odd]
    before = [edge_error(c, torch.ones_like, [c.picture.shape[-1] / 2] * 2) for c in ours]
    rejected = int((~result.ok).sum())
    print(
        f"| {label} | {statistics.median(before):.1f} | {figure(default)} | {figure(band)} | "
        f"{figure(edges)} | {bound} | {rejected} of {len(ours)} |",
        flush=True,
    )


# -------------------------------------------------------------------------------------------------- sections


def accuracy(quick: bool) -> None:
    n = 2 if quick else 16
    print("\n| picture | before | PyAbel, defaults | PyAbel, best band | ours | bound | rejected |")
    print("|---|---|---|---|---|---|---|")

    def both(
        label: str, kind: str, truth: str, size: int, rms: float, bound: str, count: int = n, **more: object
    ) -> None:
        def cases(count: int, side: int) -> list[Case]:
            return [draw(kind, truth, seed, side, rms, **more) for seed in range(count)]  # type: ignore[arg-type]

        few = max(1, min(count, 1 if quick else 4))
        line(f"{kind}, {label}", cases(count, size), cases(few, size + 1), rms, bound)

    for kind in KINDS:
        for background in BACKGROUNDS:
            both(
                f"{background} background, 3 %, K = 6, 256 px", kind, "K = 6", 256, 0.03, "0.02", background=background
            )
    for size, bound in ((512, "0.03"), (1024, "0.05")):
        for kind in KINDS:
            both(f"3 %, K = 6, {size} px", kind, "K = 6", size, 0.03, bound, count=1 if quick else 4)
    for kind in KINDS:
        both("3 %, 5 % noise, 256 px", kind, "K = 6", 256, 0.03, "0.03", noise=0.05)
    for kind in KINDS:
        for rms, bound in ((0.06, "0.05"), (0.1, "0.2")):
            both(f"{rms:.0%}, K = 6, 256 px", kind, "K = 6", 256, rms, bound, count=2 if quick else 64)
    for kind in KINDS:
        for truth, bound in (("k = 12", "0.15"), ("K = 12", "0.15"), ("dent", "0.15"), ("square", "0.5")):
            both(f"3 %, {truth}, 256 px", kind, truth, 256, 0.03, bound)


def centers(quick: bool) -> None:
    print("\nCentre off by up to 4 % of the width, 3 %, K = 2 to 6, 256 px; median / worst, pixels (bound 0.05):\n")
    print("| picture | edge, PyAbel, best band | edge, ours | centre, ours |\n|---|---|---|---|")
    for kind in KINDS:
        cases = [draw(kind, "K = 2 to 6", seed, 256, 0.03, off=0.04) for seed in range(2 if quick else 16)]
        odd = [draw(kind, "K = 2 to 6", seed, 257, 0.03, off=0.04) for seed in range(1 if quick else 4)]
        edges, offsets, _ = our_errors(cases)
        band = [best_band_error(case, 0.08) for case in odd]
        print(f"| {kind} | {figure(band)} | {figure(edges)} | {figure(offsets)} |", flush=True)


def colours(quick: bool) -> None:
    print(
        "\nColours after a known warp (3 %, K = 6) and its inverse, emblems at 256 px, PSNR within 0.8 of the half, dB:\n"
    )
    print("| edges | warp (bound 53) | ratio (bound 49) |\n|---|---|---|")
    emblems = render(sample_emblems("sharingan", range(2 if quick else 16)), 1024)
    emblems = F.interpolate(emblems, size=(256, 256), mode="area")
    coefficients = torch.stack([series(draw_logs("K = 6", seed, 0.03), 6) for seed in range(len(emblems))]).float()
    mask = disc_mask(256)
    for label, pictures in (("one pixel wide", emblems), ("softened by 1 px", blur(blur(emblems)))):
        distorted = warp(pictures, RadialScale(-coefficients))
        row = []
        for method in ("warp", "ratio"):
            back = warp(distorted, RadialScale(coefficients), None, method)  # type: ignore[arg-type]
            error = ((back - pictures).square() * mask).sum((1, 2, 3)) / (3 * mask.sum())
            row.append((-10 * error.log10()).mean().item())
        print(f"| {label} | {row[0]:.1f} | {row[1]:.1f} |")


def orders(quick: bool) -> None:
    """estimate_order after a distortion of 3 % and its repair, and what symmetrize does to a symmetric picture."""
    print("\nOrder of single-pattern emblems, 256 px, after 3 % distortion (K = 6) and circularisation (bound 99 %),")
    print("and PSNR of undistorted ones to themselves symmetrised, lowest, dB (bound 50):\n")
    print("| order | emblems | order found | not repaired | symmetrize, lowest PSNR |\n|---|---|---|---|---|")
    each = 8 if quick else 200
    for order in range(1, 9):
        right = repaired = 0
        worst = math.inf
        for start in range(0, each, 8):
            seeds = range(1000 * order + start, 1000 * order + start + 8)
            emblems = []
            for seed in seeds:
                z, _, phase = source_latent(seed)
                emblem = source_emblem(z, order, phase)
                emblems.append(dataclasses.replace(emblem, patterns=emblem.patterns[:1]))
            with torch.no_grad():
                cases = [draw("source", "K = 6", s, 256, 0.03, emblem=e) for s, e in zip(seeds, emblems)]
                result = circularize(torch.stack([case.picture for case in cases]))
                whole = render(emblems, 256)
                error = (symmetrize(whole, order) - whole).square().mean((1, 2, 3))
            right += int((estimate_order(result.images) == order).sum())
            repaired += int(result.ok.sum())
            worst = min(worst, (-10 * error.clamp(min=1e-10).log10()).min().item())
        print(f"| {order} | {each} | {right / each:.1%} | {each - repaired} | {worst:.0f} |", flush=True)


def disc_mask(size: int) -> Tensor:
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    return (torch.hypot(axis[None], axis[:, None]) < 0.8).float()


def series(logs: Tensor, harmonics: int) -> Tensor:
    """(1, 2, K): the trigonometric series of values at THETA."""
    k = torch.arange(1, harmonics + 1, dtype=torch.float64)[:, None]
    return torch.stack([2 * ((k * THETA).cos() * logs).mean(1), 2 * ((k * THETA).sin() * logs).mean(1)])[None]


def seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def peak_growth(pictures: Tensor) -> float:
    """Bytes by which a fresh process's memory peaks above where it stood before `circularize`, over those of the batch."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(pictures, f"{folder}/pictures.pt")
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, f"{folder}/pictures.pt"], capture_output=True, text=True, check=True
        )
    return float(ran.stdout) / (pictures.numel() * pictures.element_size())


# A small picture first, so that what a first call loads is not counted; then Linux forgets the peak so far.
PEAK = """
import re, sys, torch
from pathlib import Path
from sharingan_hub import circularize
torch.set_num_threads(1)
pictures = torch.load(sys.argv[1], weights_only=True)
status = lambda name: int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
with torch.no_grad():
    circularize(torch.nn.functional.interpolate(pictures[:1], 64))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    circularize(pictures)
print(status("VmHWM") - before)
"""


def speed(quick: bool) -> None:
    from abel.tools.circularize import circularize_image

    repeats = 2 if quick else 7
    print(
        "\n| pictures | ours, RGB pictures/s | us per pixel | peak memory / batch | PyAbel, gray, best band | ratio |"
    )
    print("|---|---|---|---|---|---|")
    base = {size: draw("sharingan", "K = 6", 1, size, 0.03) for size in (256, 257, 512, 513, 1024, 1025)}
    for size, batches in ((256, (1, 8, 32)), (512, (1, 8)), (1024, (1, 4)), (2048, (1,))):
        picture = base[size].picture if size in base else F.interpolate(base[1024].picture[None], scale_factor=2)[0]
        rate = math.nan
        if size + 1 in base:
            odd = base[size + 1]
            gray, band = luminance(odd), (odd.radius * 0.9, odd.radius * 1.1)
            rate = 1 / seconds(lambda: circularize_image(gray, radial_range=band, dt=0.04), 1 if quick else 3)  # noqa: B023
        for batch in batches:
            x = picture.expand(batch, -1, -1, -1).contiguous()
            with torch.no_grad():
                took = seconds(lambda: circularize(x), repeats)  # noqa: B023
            grown = peak_growth(x)
            print(
                f"| {batch} of {size} px | {batch / took:.1f} | {took / batch / size**2 * 1e6:.3f} | {grown:.1f} | "
                f"{rate:.1f} | {batch / took / rate:.1f} |",
                flush=True,
            )


# --------------------------------------------------------------------------------------------------- figures


def figures() -> None:
    """docs/pictures/circularize.png (before, after) and circularize_scale.png (the fitted s)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    wanted = [
        ("sharingan", "K = 6", 3, 0.05, "own", 0.0, 0.0),
        ("sharingan", "K = 6", 22, 0.1, "own", 0.0, 0.0),
        ("source", "dent", 3, 0.04, "textured", 0.0, 0.0),
        ("source", "K = 6", 10, 0.05, "own", 0.05, 0.03),
        ("rings", "K = 12", 4, 0.04, "white", 0.0, 0.0),
    ]
    cases = [draw(k, t, s, 256, rms, b, noise, off) for k, t, s, rms, b, noise, off in wanted]
    with torch.no_grad():
        result = circularize(torch.stack([case.picture for case in cases]))
    rows = [torch.cat([case.picture for case in cases], 2), torch.cat(list(result.images), 2)]
    gap = torch.ones(3, 8, rows[0].shape[2])
    pixels = (torch.cat([rows[0], gap, rows[1]], 1) * 255).round().byte().permute(1, 2, 0).numpy()
    PICTURES.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(PICTURES / "circularize.png", optimize=True)

    figure, axes = pyplot.subplots(1, 3, figsize=(10.5, 3.0), layout="constrained", sharey=True)
    shown = [("K = 6", 3, "six harmonics"), ("dent", 3, "one dented side"), ("square", 2, "a square wave")]
    for axis, (truth, seed, title) in zip(axes, shown):
        case = draw("sharingan", truth, seed, 256, 0.03)
        with torch.no_grad():
            result = circularize(case.picture[None], center="image")
        used = int((result.scale.coefficients.abs().sum((0, 1, 2)) > 0).sum())
        degrees = THETA * (180 / math.pi)
        axis.plot(degrees, case.logs.exp(), color="0.65", linewidth=3.5, label="true")
        axis.plot(degrees, result.scale(THETA.float())[0], color="#c00018", linewidth=1.2, label="fitted")
        error = edge_error(case, lambda t, r=result: r.scale(t)[0], result.center[0].tolist())  # type: ignore[misc]
        axis.set_title(f"{title}: {used} harmonics, {error:.3f} px", fontsize=10)
        axis.set_xlabel("angle, degrees")
        axis.set_xticks([0, 90, 180, 270, 360])
        axis.grid(color="0.92")
    axes[0].set_ylabel("s")
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(PICTURES / "circularize_scale.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pictures")
    parser.add_argument("--figures", action="store_true", help="draw the pictures of the docs, and nothing else")
    parser.add_argument("--only", choices=["accuracy", "centers", "colours", "orders", "speed"], help="one section")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.figures:
        figures()
        return
    print(f"torch {torch.__version__}, one thread. Errors: median / worst, pixels.")
    for section in (accuracy, centers, colours, orders, speed):
        if arguments.only in (None, section.__name__):
            section(arguments.quick)


if __name__ == "__main__":
    main()
