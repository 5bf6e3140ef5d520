"""Finds s(theta, r) and the centre of a picture's circles; nobody has to say where the circles are.

After J. R. Gascooke, S. T. Gibson, W. D. Lawrance, J. Chem. Phys. 147, 013924 (2017): a trigonometric series in the
angle scales the radius so that rings become round. How it is found is our own, in two stages:

1. Coarse, on 128 px: in log r a scale is a shift. Each ray is correlated with a template, the radial derivative averaged
   over the angles and weighted with its coherence |mean|^2 / mean of squares, which drops patterns and keeps rings.
2. Fine: Gauss-Newton. At the right parameters the derivative D(r, theta), sampled along the distorted circles, is a
   template T(r) alone. An edge that is off by rho pixels gives D - T = -T' rho, linear in the centre and the coefficients.
   Robust weights drop the samples that a pattern covers; radii count by their coherence, and after a first step
   only those that tell most are sampled.

Lengths of the picture being worked on are in its own pixels; a Fit is free of its size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .polar import blur, mix, shrink
from .radial_scale import bernstein, waves

COARSE_SIZE, COARSE_ANGLES, COARSE_RADII, COARSE_HARMONICS = 128, 128, 112, 24
COARSE_SHIFT = 0.35  # largest |log s| that the first correlation looks for
SIZES = (128, 256, 512)  # sizes of the working picture, one after the other
FEW_ANGLES, ANGLES = 128, 256  # at first, and when few circles are left to sample
MOST_RADII = 64  # after a first step the circles that tell most, of each picture
MOST_HARMONICS = 48
REACH = 1.15  # circles are looked for up to this multiple of half of the picture's shorter side
# One ring cannot tell a shift of the centre from the harmonic k = 1. The search starts with none, half and all of the shift
# put into the harmonic; the harmonic's share must pay for itself with this much of the score.
SPLITS, SPLIT_COST = (0.0, 0.5, 1.0), 0.002
OUTER_RING = 0.76  # where, in halves of the picture, that shift was seen, roughly
# Least deviation of a circle's samples, over the strongest edge's height: at first all edges tell about as much, in the end
# clean ones tell more than those before a texture.
ROUGH_FLOOR, FLOOR = 0.06, 0.01
SPREAD = 0.3  # harmonic k is expected within SPREAD / k ...
SPREAD_FIRST = 0.02  # ... but k = 1 rather is a shift
SIGNIFICANT = 14.0  # chi square of a harmonic's two coefficients that noise exceeds once in a thousand
MIXTURES = [v for v in itertools.product((0, 1, -1), repeat=3) if v > (0, 0, 0)]  # 13 of red, green and blue


@dataclass
class Fit:
    """coefficients: (N, J, 2, K) of log s; center: (N, 2) from the middle, y down, 1 is half the shorter side."""

    coefficients: Tensor
    center: Tensor

    def pick(self, rows: Tensor) -> Fit:
        return Fit(self.coefficients[rows], self.center[rows])


@dataclass
class Circles:
    """The circles that a picture is sampled on, and the unknowns' design; the same in all steps of a fit."""

    half: float  # half of the working picture's shorter side
    radii: Tensor  # (N, R), or (1, R) for all pictures; they rise, mostly in steps of a pixel
    directions: Tensor  # (A, 2): cos and -sin, as y goes down
    wave: Tensor  # (2K, A)
    rings: int  # J
    free_center: bool

    def __post_init__(self) -> None:
        self.shares = bernstein(self.radii / (REACH * self.half), self.rings).transpose(0, 1)  # (N, J, R)

    def sample(self, images: Tensor, fit: Fit) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> samples where the fit says the circles lie, (N, C, R, A), and at which radius rays leave the
        picture, (N, 1 or R, A)."""
        height, width = images.shape[-2:]
        scale = fit.coefficients.flatten(2) @ self.wave  # (N, J, A)
        if self.rings > 1:
            scale = self.shares.transpose(1, 2) @ scale
        to_edge = self.directions.new_tensor([2 * self.half / width, 2 * self.half / height])
        center = fit.center * to_edge
        # Per pixel of nominal radius. x and y interleaved along one long axis: operations on a last axis of two are slow.
        rays = scale.exp()[..., None] * (self.directions * to_edge / self.half)
        with torch.no_grad():
            ends = ((1 - center[:, None, None] * rays.sign()) / rays.abs().clamp(min=1e-9)).amin(3)
        middle = center[:, None].expand(-1, len(self.directions), -1).flatten(1)[:, None]
        grid = torch.addcmul(middle, self.radii[..., None], rays.flatten(2)).unflatten(2, (-1, 2))
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False), ends

    def slopes(self, images: Tensor, fit: Fit) -> tuple[Tensor, Tensor]:
        """The derivative D along the radius on all circles but the first and last, (N, C, R - 2, A), and where it is
        known, (N, R - 2, A)."""
        polar, ends = self.sample(images, fit)
        outer = self.radii[:, 2:].masked_fill(~self.joined(), math.inf)[..., None]
        inside = (outer < (ends if ends.shape[1] == 1 else ends[:, 2:])).to(images.dtype)
        return (polar[:, :, 2:] - polar[:, :, :-2]) * (0.5 * inside)[:, None], inside

    def joined(self) -> Tensor:
        """Which circles but the first and last have both neighbours: (N or 1, R - 2)."""
        return self.radii[:, 2:] - self.radii[:, :-2] < 2.5

    def choose(self, told: Tensor) -> Tensor:
        """The places (N, MOST_RADII), rising, of the circles to go on with; told: (N, R - 2), what each tells."""
        near = F.max_pool1d(F.pad(told, (1, 1))[:, None], 7, 1, 3)[:, 0]  # edges and what is beside them
        return near.topk(MOST_RADII, dim=1).indices.sort(dim=1).values


@dataclass
class Step:
    """What a Gauss-Newton step gives."""

    fit: Fit
    weights: Tensor  # (N, R - 2, A), robust, for the next step
    told: Tensor  # (N, R - 2): what each circle tells about the scale
    chi: Tensor  # (N, K): how significant each harmonic is; 0 unless asked for


@dataclass
class Found:
    """A finished fit, with what differentiable steps need to go on from it."""

    fit: Fit
    confidence: Tensor
    mixture: Tensor  # (N, C)
    keep: Tensor  # (N, K)
    weights: Tensor
    radii: Tensor  # (N, R)
    size: int


def find(images: Tensor, harmonics: int | None, rings: int, center: Tensor, free_center: bool) -> Found:
    """Fit pictures (N, C, H, W), float32 or float64, both sides at least 16 px.

    harmonics: K, or None: as many as the data ask for. center: (N, 2) as in Fit, where to start.
    """
    count, device = len(images), images.device
    shorter = min(images.shape[-2:])
    most = harmonics or min(MOST_HARMONICS, max(4, round(0.18 * shorter)))
    images = shrink(images, SIZES[-1])
    fit, mixture = coarse_fit(images, min(most, COARSE_HARMONICS), center, free_center)
    fit = Fit(F.pad(fit.coefficients, (0, most - fit.coefficients.shape[3])).expand(-1, rings, -1, -1), fit.center)
    channel = mix(images, mixture)
    starts = len(SPLITS) if free_center else 1
    if free_center:
        shift = fit.center - center
        first = shift * shift.new_tensor([1 / OUTER_RING, -1 / OUTER_RING])
        extra = F.pad(first[:, None, :, None], (0, most - 1))
        fit = Fit(
            torch.cat([fit.coefficients + split * extra for split in SPLITS]),
            torch.cat([center + (1 - split) * shift for split in SPLITS]),
        )
    keep = torch.ones(starts * count, most, dtype=torch.bool, device=device)
    sizes = [size for size in SIZES if size < shorter] or [shorter]
    if SIZES[0] < shorter <= SIZES[-1]:
        sizes.append(shorter)
    channels = {size: (channel := shrink(channel, size)) for size in reversed(sizes)}
    for size in sizes:
        work = blur(channels[size])
        each = work.repeat(starts, 1, 1, 1)
        # A small picture shows few harmonics, and few are found in a third of the time.
        few = most if size == sizes[-1] else min(most, COARSE_HARMONICS)
        circles = every = make_circles(work, few, rings, free_center, FEW_ANGLES)
        fit, weights = Fit(fit.coefficients[..., :few], fit.center), None
        last = size == sizes[-1]
        for i in range(4 if last else 3):
            judge = last and i == 3
            step = gauss_newton(each, circles, fit, weights, keep[:, :few], FLOOR if judge else ROUGH_FLOOR, judge)
            fit, weights, told = step.fit, step.weights, step.told
            if starts > 1 and i == 1:
                score, _ = roundness(each, every, fit)
                cost = SPLIT_COST * images.new_tensor(SPLITS)[:, None]
                best = (score.view(starts, count) - cost).argmax(0) * count + torch.arange(count, device=device)
                fit, keep, weights, told, starts = fit.pick(best), keep[best], weights[best], told[best], 1
                each = work
            if starts == 1 and circles is every and (last or size != sizes[0]):
                circles = make_circles(work, few, rings, free_center, ANGLES)
                weights = weights.repeat_interleave(ANGLES // FEW_ANGLES, 2)
                if every.radii.shape[1] > MOST_RADII:
                    places = every.choose(told)
                    circles = replace(circles, radii=every.radii[0][places])
                    weights = weights.gather(1, (places[:, 1:-1] - 1)[..., None].expand(-1, -1, ANGLES))
        fit = Fit(F.pad(fit.coefficients, (0, most - few)), fit.center)
    if harmonics is None:
        keep = step.chi > SIGNIFICANT * rings
        fit = Fit(fit.coefficients * keep[:, None, None], fit.center)
    for _ in range(3):
        step = gauss_newton(work, circles, fit, weights, keep)
        fit, weights = step.fit, step.weights
    _, confidence = roundness(work, every, fit)
    return Found(fit, confidence, mixture, keep, step.weights, circles.radii, sizes[-1])


def refine(images: Tensor, found: Found, rings: int, free_center: bool, steps: int = 24) -> Fit:
    """The fit again, differentiable in the pictures (once; not twice).

    The fit z is a fixed point of the step, z = f(z, x). So dz/dx = (1 - df/dz)^-1 df/dx, and neither the way to the fixed
    point nor its length matters (Bai, Kolter, Koltun, NeurIPS 2019, equation 10). The inverse is summed as a series.
    """
    work = blur(shrink(mix(shrink(images, SIZES[-1]), found.mixture), found.size))
    circles = replace(make_circles(work, found.keep.shape[1], rings, free_center, ANGLES), radii=found.radii)
    shape = found.fit.coefficients.shape
    sizes = [2, shape[1:].numel(), found.weights[0].numel()]

    def f(state: Tensor, x: Tensor) -> Tensor:
        center, coefficients, weights = state.split(sizes, 1)
        fit = Fit(coefficients.view(shape), center)
        step = gauss_newton(x, circles, fit, weights.view_as(found.weights), found.keep)
        return torch.cat([step.fit.center, step.fit.coefficients.flatten(1), step.weights.flatten(1)], 1)

    with torch.no_grad():
        state = torch.cat([found.fit.center, found.fit.coefficients.flatten(1), found.weights.flatten(1)], 1)
        for _ in range(steps):
            state = f(state, work)
    start = state.clone().requires_grad_()
    again = f(start, work.detach())

    def solve(gradient: Tensor) -> Tensor:
        total = gradient
        for _ in range(steps):
            (back,) = torch.autograd.grad(again, start, total, retain_graph=True)
            total = gradient + back
        return total

    result = f(state, work)
    result.register_hook(solve)
    center, coefficients, _ = result.split(sizes, 1)
    return Fit(coefficients.view(shape), center)


def make_circles(work: Tensor, harmonics: int, rings: int, free_center: bool, angles: int) -> Circles:
    """Circles a pixel apart about the middle of working pictures (N, 1, h, w), with the design for K `harmonics`."""
    half = min(work.shape[-2:]) / 2
    theta = torch.arange(angles, device=work.device, dtype=work.dtype) * (2 * math.pi / angles)
    radii = torch.arange(max(3.0, 0.05 * half), REACH * half, 1.0, device=work.device, dtype=work.dtype)[None]
    directions = torch.stack([theta.cos(), -theta.sin()], -1)
    return Circles(half, radii, directions, waves(theta, harmonics).flatten(0, 1), rings, free_center)


def coarse_fit(images: Tensor, harmonics: int, center: Tensor, free_center: bool) -> tuple[Fit, Tensor]:
    """A fit to about a pixel of the 128 px picture, and the mixture of colours (N, C) that shows the rings best."""
    images = blur(shrink(images, COARSE_SIZE))
    count, channels, height, width = images.shape
    half = min(height, width) / 2
    options: dict[str, Any] = {"device": images.device, "dtype": images.dtype}
    theta = torch.arange(COARSE_ANGLES, **options) * (2 * math.pi / COARSE_ANGLES)
    low, high = math.log(0.08 * half), math.log(REACH * half)
    step = (high - low) / (COARSE_RADII - 1)
    radii = torch.linspace(low, high, COARSE_RADII, **options).exp()
    directions = torch.stack([theta.cos(), -theta.sin()], -1)
    circles = Circles(half, radii[None], directions, waves(theta, harmonics).flatten(0, 1), 1, free_center)
    reach = round(COARSE_SHIFT / step)
    coefficients = images.new_zeros(count, 1, 2, harmonics)
    for limit in (4, 8, harmonics):
        limit = min(limit, harmonics)
        polar, ends = circles.sample(images, Fit(coefficients, center))
        inside = F.pad((radii[2:, None] < ends).to(images.dtype), (0, 0, 1, 1))
        slope = F.pad((polar[:, :, 2:] - polar[:, :, :-2]) * 0.5, (0, 0, 1, 1)) * inside[:, None]
        mean, power = slope.mean(3), slope.square().mean(3).sum(1, keepdim=True)
        coherence = smooth(mean.square().sum(1, keepdim=True)) / (smooth(power) + 1e-8)
        # Row l of each matrix is the template moved out by l - reach, so all correlations are one product.
        moved = F.pad(mean * coherence, (reach, reach)).unfold(2, COARSE_RADII, 1).flip(2)  # (N, C, 2 reach + 1, R)
        lags = moved.transpose(1, 2).flatten(2) @ slope.flatten(1, 2)  # (N, 2 reach + 1, A)
        lags = lags + 0.5 * (lags.roll(1, 2) + lags.roll(-1, 2))  # neighbouring rays help each other
        peak, at = lags.max(1)
        at = at.clamp(1, 2 * reach - 1)
        before, middle, after = (lags.gather(1, (at + d)[:, None])[:, 0] for d in (-1, 0, 1))
        parabola = 0.5 * (after - before) / (2 * middle - before - after).clamp(min=1e-12)
        shift = (at - reach + parabola.clamp(-0.5, 0.5)) * step
        weight = peak.clamp(min=0) / (peak.amax(1, keepdim=True) + 1e-12)
        update = fit_series(shift, weight, waves(theta, limit), 0.25 * step)
        coefficients = coefficients + F.pad(update[:, None], (0, harmonics - limit))
        if free_center:
            strength = coherence[:, 0] * power[:, 0]
            ring = (strength * radii).sum(1) / (strength.sum(1) + 1e-12) / half
            center = center + coefficients[:, 0, :, 0] * ring[:, None] * center.new_tensor([1, -1])
            coefficients = torch.cat([torch.zeros_like(coefficients[..., :1]), coefficients[..., 1:]], 3)
    return Fit(coefficients, center), clearest(slope, radii) if channels > 1 else torch.ones(count, 1, **options)


def clearest(slope: Tensor, radii: Tensor) -> Tensor:
    """The mixture of channels (N, C) with the most round edges, of slopes (N, C, R, A); outer ones count more."""
    mixtures = F.normalize(slope.new_tensor(MIXTURES), dim=1)
    pairs = torch.einsum("ncra,ndra->ncdr", slope, slope) / slope.shape[3]
    power = torch.einsum("vc,ncdr,vd->nvr", mixtures, pairs, mixtures)
    round_power = smooth(torch.einsum("vc,ncr->nvr", mixtures, slope.mean(3)).square())
    coherence = round_power / (smooth(power) + 1e-8)
    # Heights, not powers: many clear rings tell more than one that is stronger, above all where the centre is.
    return mixtures[(round_power.sqrt() * coherence * radii.sqrt()).sum(2).argmax(1)]


def fit_series(values: Tensor, weights: Tensor, wave: Tensor, unit: float) -> Tensor:
    """Robust smooth series through values (N, A) at the angles of wave (2, K, A) -> coefficients (N, 2, K)."""
    harmonics = wave.shape[1]
    design = torch.cat([torch.ones_like(wave[0, :1]), wave.flatten(0, 1)])
    order = torch.arange(1, harmonics + 1, device=wave.device, dtype=wave.dtype)
    ridge = torch.diag(1e-5 * wave.shape[2] * torch.cat([order.new_tensor([0.01]), order.square().repeat(2)]))
    w = weights
    for _ in range(4):
        normal = torch.einsum("ca,na,da->ncd", design, w, design) + ridge
        solution = torch.linalg.solve(normal, (w * values) @ design.T)
        residual = (values - solution @ design).abs()
        spread = (residual * w).sum(1, keepdim=True) / (w.sum(1, keepdim=True) + 1e-9) + unit
        w = weights / (1 + (residual / (2 * spread)).square()).square()
    return solution[:, 1:].unflatten(1, (2, harmonics))


def smooth(x: Tensor) -> Tensor:
    """Mean of five along the last axis."""
    return F.avg_pool1d(x, 5, 1, 2)


def gauss_newton(
    images: Tensor,
    circles: Circles,
    fit: Fit,
    weights: Tensor | None,
    keep: Tensor,
    floor: float = FLOOR,
    judge: bool = False,
) -> Step:
    """One step.

    Args:
        images: (N, 1, h, w), blurred.
        weights: (N, R, A) of the step before.
        keep: (N, K), the harmonics in use; the others' coefficients are 0.
        floor: least deviation of a circle's samples, as a share of the strongest edge's height.
        judge: find out how significant they are.
    """
    slope, inside = circles.slopes(images, fit)
    slope = slope[:, 0]  # D
    joined = circles.joined()
    radii, rings, angles = circles.radii[:, 1:-1], circles.rings, circles.wave.shape[1]
    w = inside if weights is None else weights * inside
    total = w.sum(2) + 1e-6
    template = (w * slope).sum(2) / total  # T, (N, R)
    residual = slope - template[..., None]
    variance = (w * residual.square()).sum(2) / total
    # Where nothing happens the variance is 0, and a weight of 1 / 0 would drown the edges.
    variance = variance + (floor * template.abs().amax(1, keepdim=True)).square() + 1e-8
    scaled = residual * (25 * variance).rsqrt()[..., None]
    weights = torch.addcmul(scaled.new_ones(()), scaled, scaled).pow(-2) * inside

    steep = F.pad((template[:, 2:] - template[:, :-2]) * 0.5, (1, 1))  # T'
    steep = steep * (joined & joined.roll(1, 1) & joined.roll(-1, 1))
    signal = smooth(template.square()[:, None])[:, 0]
    # Rays that lie closer than the blur is wide see the same pixels, and count as one.
    apart = (radii * (2 * math.pi / angles / 1.5)).clamp(max=1)
    value = signal / (signal + smooth(variance[:, None])[:, 0]) * apart * steep / variance
    # How far in pixels an edge moves when the centre, or the scale of a ring, changes by 1: (N or 1, J + 1, R).
    shares = circles.shares[..., 1:-1] * radii[:, None]
    moves = torch.cat([torch.full_like(shares[:, :1], circles.half), shares], 1)
    gain = moves * value[:, None]
    right = -gain @ (weights * residual)
    pairs = (gain[:, :, None] * moves[:, None]).flatten(1, 2) * steep[:, None]
    left = (pairs @ weights).unflatten(1, (rings + 1, rings + 1))
    designs = [circles.directions.T, *[circles.wave] * rings]
    normal = torch.cat(
        [torch.cat([(d * left[:, i, j, None]) @ e.T for j, e in enumerate(designs)], 2) for i, d in enumerate(designs)],
        1,
    )
    gradient = torch.cat([right[:, i] @ d.T for i, d in enumerate(designs)], 1)

    # Variance of a ray's misfit in units of its weight: as strong as the prior has to be, as sure as a coefficient is.
    by_ray = right[:, 1:].sum(1).square() / (left[:, 1:, 1:].sum((1, 2)) + 1e-12)
    noise = by_ray.mean(1) + 1e-12
    prior = noise[:, None, None] * prior_precision(circles, keep.shape[1])
    state = torch.cat([torch.zeros_like(fit.center), fit.coefficients.flatten(1)], 1)
    gradient = gradient - (prior @ state[..., None])[..., 0]
    used = torch.cat([keep.new_full((len(keep), 2), circles.free_center), keep.repeat(1, 2 * rings)], 1).to(
        normal.dtype
    )
    normal = (normal + prior) * used[:, :, None] * used[:, None] + torch.diag_embed(1 - used)
    delta = torch.linalg.solve(normal, gradient * used)
    coefficients = fit.coefficients + delta[:, 2:].view_as(fit.coefficients)
    found = Fit(coefficients * keep[:, None, None], fit.center + delta[:, :2])

    with torch.no_grad():
        chi = torch.zeros_like(keep, dtype=normal.dtype)
        if judge:
            spread = torch.linalg.inv(normal).diagonal(dim1=1, dim2=2)[:, 2:] * noise[:, None]
            chi = (found.coefficients.square() / (spread.view_as(coefficients) + 1e-20)).sum((1, 2))
        told = value * steep * radii.square() * weights.sum(2)
    return Step(found, weights, told, chi)


def roundness(images: Tensor, circles: Circles, fit: Fit) -> tuple[Tensor, Tensor]:
    """How round the circles are: the share of all radial edges that is, (N,), and the confidence, (N,).

    The confidence is the mean coherence of the circles, each weighted with its round edges: a strong pattern does not
    hide a lone round edge, and where nothing is round no circle stands out.
    """
    slope, inside = circles.slopes(images, fit)
    slope, radii = slope[:, 0], circles.radii[:, 1:-1]
    number = inside.sum(2)
    mean, power = slope.sum(2) / number.clamp(min=1), slope.square().sum(2) / number.clamp(min=1)
    score = (mean.square() * radii).sum(1) / ((power * radii).sum(1) + 1e-12)
    coherence = (smooth(mean.square()[:, None]) / (smooth(power[:, None]) + 1e-7))[:, 0]
    # At the smallest radii a few pixels fill a circle, and the harmonics can make anything round.
    power = power * radii * (radii > 0.2 * circles.half) * (number > 0.5 * slope.shape[2])
    round_power = power * coherence
    return score, (round_power * coherence).sum(1) / (round_power.sum(1) + 1e-12)


def prior_precision(circles: Circles, harmonics: int) -> Tensor:
    """What is expected before looking: small smooth scales, alike on neighbouring rings -> (P, P)."""
    order = torch.arange(1, harmonics + 1, device=circles.radii.device, dtype=circles.radii.dtype)
    one = (order / SPREAD).square()
    if circles.free_center:
        one = torch.cat([one.new_tensor([SPREAD_FIRST**-2]), one[1:]])
    rings = torch.eye(circles.rings, device=one.device, dtype=one.dtype)
    differences = rings.diff(dim=0)
    series = torch.kron(rings / circles.rings + 4 * differences.T @ differences, torch.diag(one.repeat(2)))
    return torch.block_diag(100 * torch.eye(2, device=one.device, dtype=one.dtype), series)
