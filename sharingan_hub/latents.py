"""Walks through the designs that a generator knows: interpolation, style mixing, and directions with a meaning.

Latents are what the pipeline returns and takes, (N, num_ws, w_dim): one row of styles for each layer; where the generator
has orders, a last row of order, phase (radians) and zeros. Seeds, z and truncation are the pipeline's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sharingan_hub.modeling_dcgan import DCGANGenerator
from sharingan_hub.modeling_r3gan import R3GANGenerator
from sharingan_hub.modeling_radial import RadialGenerator
from sharingan_hub.modeling_stylegan2 import StyleGAN2Generator
from sharingan_hub.pipeline_sharingan import SharinganPipeline, chunks, finite, per_picture, whole_number
from sharingan_hub.postprocess.oklab import fit_to_screen, from_oklab, to_oklab
from sharingan_hub.timeline import At, Interpolation, Timeline, catmull_rom, slerp

if TYPE_CHECKING:
    from PIL import Image

CURVES = ("linear", "spline")
STD_SEEDS = 1024  # from which the standard deviations of directions are taken


def interpolate(
    keyframes: Tensor, frames: int, curve: str = "spline", easing: str = "linear", loop: str = "once", spin: float = 0.0
) -> Interpolation:
    """Frames between latents, in W. A frame at a keyframe holds the keyframe's latents bit for bit, spin apart.

    From one order to another it goes through all that lie between, fractions included. The phase goes the short way.

    Args:
        keyframes: latents (K, num_ws, w_dim), K at least 2, as a pipeline returns them.
        frames: how many, at least K; for "ping-pong" 2 K - 2.
        curve: "linear" goes straight from each to the next, at constant speed; "spline" (Catmull and Rom 1974) goes
            through all of them without a sudden change of direction or speed.
        easing: "linear", "smooth" (slow at both ends), "in" (slow at first) or "out" (slow at last), between each two.
        loop: "once" ends with the last keyframe, "loop" goes on to the first one, "ping-pong" back through all of them.
            The last two stop one frame before they are there, so repeated they go on without a jump.
        spin: counter-clockwise turns in all, evenly added to the phase. What is repeated must end as it began, so spin
            times the first order must then be a whole number.

    Returns:
        Frames of shape (num_ws, w_dim).

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """
    allowed = "a tensor (K, num_ws, w_dim) of at least 2 latents"
    if not isinstance(keyframes, Tensor):
        raise TypeError(f"keyframes is a {type(keyframes).__name__}; it must be {allowed}")
    if keyframes.ndim != 3 or len(keyframes) < 2:
        raise ValueError(f"keyframes has shape {tuple(keyframes.shape)}; it must be {allowed}")
    if curve not in CURVES:
        raise ValueError(f"curve is {curve!r}; it must be one of {', '.join(CURVES)}")
    timeline = Timeline(len(keyframes), frames, easing, loop)
    _check_spin(spin, keyframes, timeline)

    def make(at: At) -> Tensor:
        t = at.t.to(keyframes)[:, None, None]
        before, start, end, after = (keyframes[timeline.stop(at.stretch + i)] for i in (-1, 0, 1, 2))
        if curve == "linear":
            ws = torch.lerp(start, end, t)
        else:
            if not timeline.closed:  # beyond its ends the way goes straight on
                first, last = (at.stretch == i for i in (0, timeline.stretches - 1))
                before[first] = 2 * start[first] - end[first]
                after[last] = 2 * end[last] - start[last]
            ws = catmull_rom(before, start, end, after, t)
        return _with_conditions(ws, keyframes, timeline, at, spin)

    return Interpolation(timeline, make)


def interpolate_seeds(
    pipe: SharinganPipeline,
    seeds: Sequence[int],
    frames: int,
    truncation_psi: float = 0.7,
    order: int | Sequence[int] | None = None,
    easing: str = "linear",
    loop: str = "once",
    spin: float = 0.0,
    class_label: int | None = None,
) -> Interpolation:
    """Frames between seeds, in Z: along great circles, then through the mapping network. Each is as likely as a seed's.

    A frame at a keyframe holds what `pipe.prepare_latents` gives for the seed, bit for bit, spin apart. Between two whole
    orders, w is a mixture of what the mapping network says of the two.

    Args:
        pipe: a pipeline.
        seeds: at least 2.
        truncation_psi: as the pipeline takes it.
        order: one for all, one for each seed, or None: drawn by the seed, where the generator has orders.
        frames, easing, loop, spin: as in `interpolate`.
        class_label: of all frames, as the pipeline takes it.

    Returns:
        Frames of shape (num_ws, w_dim).

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """
    seeds = pipe.prepare_seeds(seeds=seeds)
    if len(seeds) < 2:
        raise ValueError("seeds holds 1 seed; it must hold at least 2")
    z, orders = pipe.prepare_z(seeds, order)
    keyframes = pipe.map_z(z, truncation_psi, orders, class_label=class_label)
    timeline = Timeline(len(seeds), frames, easing, loop)
    _check_spin(spin, keyframes, timeline)

    def make(at: At) -> Tensor:
        start, end = timeline.stop(at.stretch), timeline.stop(at.stretch + 1)
        now = slerp(z[start].float(), z[end].float(), at.t.to(z.device, torch.float32)[:, None]).to(z)
        if orders is None:
            ws = pipe.map_z(now, truncation_psi, class_label=class_label)
        else:
            n = _orders_at(keyframes, timeline, at)
            low, high = (pipe.map_z(now, truncation_psi, whole.int().tolist()) for whole in (n.floor(), n.ceil()))
            ws = torch.lerp(low, high, n.frac().to(low)[:, None, None])
        arrived = (at.t == 0).to(ws.device)[:, None, None]  # there a batch of another size may have rounded otherwise
        return _with_conditions(torch.where(arrived, keyframes[start], ws), keyframes, timeline, at, spin)

    return Interpolation(timeline, make)


def interpolate_palettes(palettes: Tensor, frames: int, easing: str = "linear", loop: str = "once") -> Interpolation:
    """Frames between palettes, on straight lines in OKLab, where equal steps look equally large.

    A frame at a keyframe holds the keyframe's colours bit for bit.

    Args:
        palettes: (K, colours, 3) in [0, 1], K at least 2, as `pipe.prepare_palette` gives them.
        frames, easing, loop: as in `interpolate`.

    Returns:
        Frames of shape (colours, 3) in [0, 1].

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """
    allowed = "a tensor (K, colours, 3) of at least 2 palettes"
    if not isinstance(palettes, Tensor):
        raise TypeError(f"palettes is a {type(palettes).__name__}; it must be {allowed}")
    if palettes.ndim != 3 or palettes.shape[2] != 3 or len(palettes) < 2:
        raise ValueError(f"palettes has shape {tuple(palettes.shape)}; it must be {allowed}")
    timeline = Timeline(len(palettes), frames, easing, loop)
    lab = to_oklab(palettes)

    def make(at: At) -> Tensor:
        start, end = timeline.stop(at.stretch), timeline.stop(at.stretch + 1)
        mixed = torch.lerp(lab[start], lab[end], at.t.to(lab)[:, None, None])
        colors = from_oklab(fit_to_screen(mixed.flatten(0, 1))).view_as(mixed).clamp(0, 1)
        return torch.where((at.t == 0).to(lab.device)[:, None, None], palettes[start], colors)

    return Interpolation(timeline, make)


def _check_spin(spin: float, keyframes: Tensor, timeline: Timeline) -> None:
    """Refuse a spin where there is no phase, and one after which a picture that is repeated would jump."""
    spin = finite("spin", spin)
    if style_rows(keyframes) == keyframes.shape[1]:
        if spin:
            raise ValueError(f"spin is {spin:g}, but these latents have no phase; it must be 0")
        return
    order = keyframes[0, -1, 0].item()
    alike = order if order == round(order) else 1  # a picture of order n is the same again after 1/n of a turn
    if timeline.closed and abs(spin * alike - round(spin * alike)) > 1e-6:
        raise ValueError(
            f"spin is {spin:g}; repeated, it must be a multiple of 1/{alike:g}: the first order is {order:g}"
        )


def _orders_at(keyframes: Tensor, timeline: Timeline, at: At) -> Tensor:
    """Order of frames (N,), float32, on the CPU."""
    order = keyframes[:, -1, 0].double().cpu()
    return torch.lerp(order[timeline.stop(at.stretch)], order[timeline.stop(at.stretch + 1)], at.t).float()


def _with_conditions(ws: Tensor, keyframes: Tensor, timeline: Timeline, at: At, spin: float) -> Tensor:
    """Latents of frames (N, num_ws, w_dim), in their last row order and phase, where the keyframes have these."""
    if style_rows(keyframes) == keyframes.shape[1]:
        return ws
    start, end = timeline.stop(at.stretch), timeline.stop(at.stretch + 1)
    order, phase = keyframes[:, -1, :2].double().cpu().unbind(dim=1)
    same = (order[start] == order[end]) & (order[start] == order[start].round())
    period = 2 * math.pi / torch.where(same, order[start], 1.0)  # after which the picture is the same again
    way = torch.remainder(phase[end] - phase[start] + period / 2, period) - period / 2
    turned = 2 * math.pi * spin * at.frame / timeline.span
    row = torch.zeros_like(ws[:, -1])
    row[:, 0] = _orders_at(keyframes, timeline, at)
    row[:, 1] = (phase[start] + at.t * way + turned).to(row)
    return torch.cat([ws[:, :-1], row[:, None]], dim=1)


def animate(
    pipe: SharinganPipeline,
    latents: Interpolation,
    palettes: Interpolation | Tensor | None = None,
    output_size: int | None = None,
) -> Iterator[Image.Image]:
    """Draw the frames one after the other, as many at once as the pipeline draws.

    Args:
        pipe: the pipeline.
        latents: the frames, from `interpolate` or `interpolate_seeds`.
        palettes: colours of each frame, from `interpolate_palettes`, or (K, 3) for all; None: the generator's own.
        output_size: as the pipeline takes it.

    Raises:
        ValueError, TypeError: as the pipeline does.
    """
    for chunk in chunks(len(latents), output_size or pipe.generator_model.resolution):
        palette = palettes[chunk] if isinstance(palettes, Interpolation) else palettes
        out: Any = pipe(latents=latents[chunk], palette=palette, output_size=output_size)
        yield from out.images


def vary(
    pipe: SharinganPipeline,
    seed: int,
    others: Sequence[int],
    strength: float | Sequence[float] = 0.3,
    truncation_psi: float = 0.7,
    order: int | None = None,
    class_label: int | None = None,
) -> Tensor:
    """Variations around a seed: z a part of the great circle on the way to other seeds, each as likely as a seed's own.

    Args:
        pipe: the pipeline.
        seed: what is varied. Its order, given or drawn by it, stays.
        others: seeds that say in which direction each variation lies.
        strength: how much of the way, 0 (the seed itself) to 1 (the other seed's z), for all or for each.
        truncation_psi, order, class_label: as the pipeline takes them.

    Returns:
        Latents (N, num_ws, w_dim), one for each of others.

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """
    strengths = per_picture("strength", strength, len(others), finite)
    if not all(0 <= far <= 1 for far in strengths):
        raise ValueError(f"strength is {strength}; it must be from 0 to 1")
    seeds = pipe.prepare_seeds(seeds=[seed, *others])
    z, orders = pipe.prepare_z(seeds, order)
    far = torch.tensor(strengths, dtype=torch.float32, device=z.device)[:, None]
    varied = slerp(z[:1].float(), z[1:].float(), far).to(z)
    return pipe.map_z(varied, truncation_psi, orders and orders[:1] * len(others), class_label=class_label)


def style_rows(latents: Tensor) -> int:
    """How many rows of latents (N, num_ws, w_dim) are styles: all, or all but the last, which is order, phase and zeros."""
    last = latents[:, -1]
    has_conditions = latents.shape[2] > 2 and bool((last[:, 0] >= 1).all()) and not last[:, 2:].any()
    return latents.shape[1] - has_conditions


def style_mix(a: Tensor, b: Tensor, rows: int | Sequence[int]) -> Tensor:
    """Style mixing (Karras et al. 2019, section 3.1): `a` with the styles of `b` in some layers.

    Args:
        a: latents (N, num_ws, w_dim). Its order and phase stay.
        b: latents (N, num_ws, w_dim), or (1, num_ws, w_dim) for all.
        rows: which rows come from b, such as 7, range(0, 4) or layer_ranges(generator)["coarse"].

    Raises:
        ValueError: the shapes differ, or there is no such row of styles, or but one.
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or len(b) not in (1, len(a)):
        raise ValueError(f"b has shape {tuple(b.shape)}; it must be that of a, {tuple(a.shape)}, or hold one for all")
    count = style_rows(a)
    if count == 1:
        raise ValueError("a and b have one row of styles, which decides the whole picture: there is nothing to mix")
    chosen = _check_rows(rows, count)
    mixed = a.clone()
    mixed[:, chosen] = b[:, chosen].to(a)
    return mixed


def _check_rows(rows: int | Sequence[int], count: int) -> list[int]:
    chosen = [whole_number("rows", row, 0, count - 1) for row in ([rows] if isinstance(rows, int) else rows)]
    if not chosen:
        raise ValueError(f"rows is empty; it must hold at least one of 0 to {count - 1}")
    return chosen


GENERATORS = (RadialGenerator, StyleGAN2Generator, DCGANGenerator, R3GANGenerator)  # CoGANGenerator is a DCGANGenerator


def layer_ranges(generator: Any) -> dict[str, range]:
    """Rows of the latents by what they decide, for `style_mix`, `directions` and `move`.

    StyleGAN2: coarse (4 and 8 pixels), middle (16 and 32), fine (from 64 on), after Karras et al. 2019. RadialGenerator:
    coarse, middle and fine levels of the wedge, rings, palette. Ranges that a small generator lacks are left out, and a
    generator whose style is in a single row has none.

    Raises:
        TypeError: the generator is of another kind.
    """
    _check_generator(generator)
    rows = generator.style_ws
    if rows == 1:
        return {}
    if isinstance(generator, RadialGenerator):
        levels = {"coarse": (0, 2), "middle": (2, rows - 4), "fine": (max(2, rows - 4), rows - 2)}
        spans = {**levels, "rings": (rows - 2, rows - 1), "palette": (rows - 1, rows)}
    else:
        spans = {"coarse": (0, min(4, rows)), "middle": (4, min(8, rows)), "fine": (8, rows)}
    return {name: range(start, stop) for name, (start, stop) in spans.items() if start < stop}


def _check_generator(generator: Any) -> None:
    if not isinstance(generator, GENERATORS):
        names = ", ".join(kind.__name__ for kind in GENERATORS)
        raise TypeError(f"generator is a {type(generator).__name__}; it must be one of {names}")


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in W along which pictures change much.

    Args:
        vector: (w_dim,), of length 1; its largest component is positive.
        std: standard deviation along it of the styles that seeds give, about the average of their order.
        eigenvalue: how strongly the layers answer to it.
        rows: rows of the latents whose layers it comes from.
    """

    vector: Tensor
    std: float
    eigenvalue: float
    rows: tuple[int, ...]


@torch.no_grad()
def directions(generator: Any, count: int, rows: int | Sequence[int] | None = None) -> list[Direction]:
    """Principal directions from the weights alone (Shen and Zhou 2021, "Closed-Form Factorization of Latent Semantics in
    GANs", SeFa): eigenvectors of A^T A, where A holds all weights by which styles enter the layers.

    Args:
        generator: one of this project's.
        count: how many, 1 to w_dim.
        rows: rows of the latents whose layers count; None is all.

    Returns:
        `count` directions at right angles, the one with the strongest answer first.

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type.
    """
    _check_generator(generator)
    weights = _style_weights(generator)
    count = whole_number("count", count, 1, generator.w_dim)
    chosen = list(range(generator.style_ws)) if rows is None else _check_rows(rows, generator.style_ws)
    a = torch.cat([weight for row in chosen for weight in weights[row]]).double()
    values, vectors = torch.linalg.eigh(a.T @ a)
    vectors = vectors.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * largest.sign()  # an eigenvector's sign is arbitrary
    pipe = SharinganPipeline(generator)
    z, orders = pipe.prepare_z(range(STD_SEEDS))
    spread = (pipe.map_z(z, 1.0, orders) - pipe.map_z(z, 0.0, orders))[:, 0].double()
    stds = (spread @ vectors.T).std(dim=0)
    return [
        Direction(vector.float(), std, value, tuple(chosen))
        for vector, std, value in zip(vectors, stds.tolist(), values.flip(0).tolist())
    ]


def _style_weights(generator: Any) -> list[list[Tensor]]:
    """For each row of styles the weights (out, w_dim) of the layers that it enters; all are scaled alike at run time."""
    if generator.style_ws == 1:
        return [[generator.latent_weights()]]
    rows: list[list[Tensor]] = [[] for _ in range(generator.style_ws)]
    if isinstance(generator, RadialGenerator):
        for row, conv in enumerate(generator.convs):
            rows[row].append(conv.affine.weight)
        for level, head in enumerate(generator.heads):
            rows[2 * level + 1].append(head.affine.weight)
        rows[-2] += [generator.round_conv.affine.weight, generator.round_head.affine.weight]
        rows[-1].append(generator.palette_hidden.weight)
    else:
        row = 0
        for size in generator.synthesis.resolutions:
            block = getattr(generator.synthesis, f"b{size}")
            for layer in [block.conv1] if size == 4 else [block.conv0, block.conv1]:
                rows[row].append(layer.affine.weight)
                row += 1
            rows[row].append(block.torgb.affine.weight)  # shared with the next block's conv0
    return rows


def move(
    latents: Tensor,
    direction: Direction,
    strength: float | Sequence[float] | Tensor,
    rows: int | Sequence[int] | None = None,
) -> Tensor:
    """Latents moved along a direction.

    Args:
        latents: (N, num_ws, w_dim). Order and phase stay.
        direction: one of `directions`.
        strength: how far, in standard deviations of the styles along it, for all or (N,); 0 changes nothing, and beyond 2
            or 3 pictures leave what the generator knows.
        rows: which rows move; None is those that the direction comes from.

    Raises:
        ValueError: the shapes do not fit, or there is no such row of styles.
    """
    if latents.ndim != 3 or latents.shape[2:] != direction.vector.shape:
        wanted = f"(N, num_ws, {len(direction.vector)})"
        raise ValueError(f"latents has shape {tuple(latents.shape)}; for this direction it must be {wanted}")
    far = torch.as_tensor(strength, dtype=latents.dtype, device=latents.device)
    if far.shape not in ((), (len(latents),)):
        raise ValueError(f"strength has shape {tuple(far.shape)}; it must be one number or {len(latents)}")
    chosen = _check_rows(direction.rows if rows is None else rows, style_rows(latents))
    moved = latents.clone()
    moved[:, chosen] += far.expand(len(latents))[:, None, None] * direction.std * direction.vector.to(latents)
    return moved
