"""Inversion: from a picture back to the latents that draw it, as nearly as the generator can.

The start is the best of many seeds. From there gradient descent goes on in W+, a style for each layer (Abdal, Qin, Wonka
2019, "Image2StyleGAN"), in standard deviations along the principal axes of W, and is held near the styles that seeds give
(Zhu et al. 2020, "Improved StyleGAN Embedding: Where are the Good Latents?"); its rate rises and falls as in Karras et
al. 2020, appendix D. Compared are the pictures at several scales, and what the feature network's first layers make of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sharingan_hub.features import FeatureNetwork, feature_network
from sharingan_hub.inversion_target import Target, prepare_target, resize
from sharingan_hub.modeling_radial import RadialGenerator
from sharingan_hub.modeling_stylegan2 import StyleGAN2Generator
from sharingan_hub.pipeline_sharingan import MAX_SEED, SharinganPipeline, chunks, whole_number
from sharingan_hub.postprocess.polar import to_polar

COARSE, FINE, SMALLEST = 64, 128, 8  # pixels: compared at 64 first, at 128 in the end, and each at its halves down to 8
SEEDS = 192  # that are looked at
CANDIDATES, TRIAL = 4, 30  # how many of them are tried, and for how many steps
PRIOR_SEEDS = 1024  # from which the axes of W are taken
RADII, ANGLES = 24, 192  # of the polar pictures in which seeds are compared
OWN_COLORS = (
    0.02  # how much a mask holds to the seed's own colour; by how much to the target's, its share of the area says
)
RATE, PHASE_RATE = 0.05, 0.02  # a step, of styles in standard deviations, and in radians
FINE_FROM = 0.6  # of the steps
FROM_AVERAGE, FROM_ONE_STYLE = 1e-4, 1e-4  # weights of the penalties on squared standard deviations
FEATURES = 0.01  # weight of the feature network's part of the loss
PALETTE_STEPS = 150
REPORT = 10  # steps from one report to the next


@dataclass(frozen=True)
class Inversion:
    """The best that was found so far.

    Args:
        latents: (1, num_ws, w_dim), as a pipeline takes them.
        image: the picture that they give.
        target: the picture that was looked for: cut out and centred where that was needed; of a drawing the ink.
        distance: root mean square difference of the two, from 0 to 1, at 128 pixels; of a drawing that of the ink.
        order: how often the pattern repeats; None where the generator has no orders.
        phase: the turn of the pattern in radians; None likewise.
        progress: share of the work that is done; 1 at the end.
    """

    latents: Tensor
    image: Image.Image
    target: Image.Image
    distance: float
    order: int | None
    phase: float | None
    progress: float


def invert(
    pipe: SharinganPipeline,
    image: Image.Image | Tensor,
    order: int | None = None,
    drawing: bool | None = None,
    steps: int = 200,
    seed: int = 0,
) -> Inversion:
    """Find the latents that draw a picture, as nearly as the generator can. The same arguments give the same latents.

    Args:
        pipe: a pipeline with a RadialGenerator or a StyleGAN2Generator.
        image: an emblem, or a drawing of one: a picture, or a tensor (3, H, W) or (1, 3, H, W) in [0, 1].
        order: how often the pattern repeats; None finds out.
        drawing: True takes the shapes from dark lines on light paper, and leaves the colours to the generator; False takes
            the colours from the picture too. None decides by the picture, and is False where a generator has no palette.
        steps: of the descent, at least 1.
        seed: 0 to 2**32 - 1; it draws the designs to start from.

    Raises:
        ValueError, TypeError: an argument is outside its range or of another type, or the picture is blank.
    """
    *_, last = inversion_steps(pipe, image, order, drawing, steps, seed)
    return last


def inversion_steps(
    pipe: SharinganPipeline,
    image: Image.Image | Tensor,
    order: int | None = None,
    drawing: bool | None = None,
    steps: int = 200,
    seed: int = 0,
) -> Iterator[Inversion]:
    """What `invert` does, a little at a time: each Inversion is the best so far, and the last one is the result.

    Whoever has seen enough stops asking, and keeps what came last. Arguments and errors are those of `invert`; errors come
    at once, not with the first Inversion.
    """
    if not isinstance(pipe.generator_model, RadialGenerator | StyleGAN2Generator):
        kind = type(pipe.generator_model).__name__
        raise TypeError(f"pipe draws with a {kind}; it must be a RadialGenerator or a StyleGAN2Generator")
    steps = whole_number("steps", steps, 1, 10_000)
    seed = whole_number("seed", seed, 0, MAX_SEED)
    return _Inverter(pipe, prepare_target(pipe, image, order, drawing)).run(seed, steps)


class _Prior:
    """The styles that seeds give, as a normal distribution: w = mean + v @ axes, v of variance 1 along each axis."""

    def __init__(self, pipe: SharinganPipeline, order: int | None) -> None:
        w = pipe.map_z(pipe.prepare_z(range(PRIOR_SEEDS), order)[0], 1.0, order)[:, 0]
        self.mean = w.mean(dim=0)
        values, vectors = torch.linalg.eigh((w - self.mean).T.double().cov(correction=0))
        keep = values > values[-1] * 1e-4
        self.axes = (vectors * values.clamp(min=0).sqrt()).T[keep].float()

    def to_v(self, w: Tensor) -> Tensor:
        """(..., w_dim) -> (..., axes)."""
        return (w - self.mean) @ self.axes.T / self.axes.square().sum(dim=1)

    def to_w(self, v: Tensor) -> Tensor:
        """(..., axes) -> (..., w_dim)."""
        return self.mean + v @ self.axes


class _Comparison:
    """How different pictures (N, 3, S, S) in [0, 1] are from the target: at several scales, and in what the feature network sees."""

    def __init__(self, target: Tensor, size: int, network: FeatureNetwork) -> None:
        self.network = network
        self.scales = self._scales(resize(target, size))
        self.details = network.details(self.scales[0])

    def _scales(self, x: Tensor) -> list[Tensor]:
        scales = [x]
        while scales[-1].shape[3] > SMALLEST:
            scales.append(F.avg_pool2d(scales[-1], 2))
        return scales

    def __call__(self, x: Tensor) -> Tensor:
        """The loss (N,)."""
        loss = torch.stack([_squared(a, b) for a, b in zip(self._scales(x), self.scales)]).sum(dim=0)
        return loss + FEATURES * _squared(self.network.details(x), self.details) / self.details.square().mean()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each picture (N,)."""
    return (a - b).square().mean(dim=(1, 2, 3))


class _Inverter:
    """One target, and the ways of one generator to it.

    A design on its way is v (style_ws, axes), the styles of each layer, and a phase, which only radial generators have.
    """

    def __init__(self, pipe: SharinganPipeline, target: Target) -> None:
        self.pipe, self.model, self.target = pipe, pipe.generator_model, target
        network = feature_network()
        if pipe.device.type != "cpu":
            # a copy: the one in the cache stays where it is
            network = copy.deepcopy(network).to(pipe.device)  # type: ignore[arg-type]  # diffusers wraps `to`
        self.comparisons = {size: _Comparison(target.picture, size, network) for size in (COARSE, FINE)}
        self.prior = _Prior(pipe, target.order)
        self.best: Inversion | None = None

    @torch.enable_grad()
    def run(self, seed: int, steps: int) -> Iterator[Inversion]:
        """Search, trial, descent."""
        # counted in gradients of one picture; looking at a seed takes about a third of that
        work = SEEDS / 3 + CANDIDATES * TRIAL + steps
        seeds = self.pipe.prepare_seeds(SEEDS, torch.Generator().manual_seed(seed))
        losses, ws, colors = torch.empty(0), torch.empty(0), torch.empty(0)
        for chunk in chunks(SEEDS, COARSE):
            looked = self.look_at(self.pipe.prepare_latents(seeds[chunk], 1.0, self.target.order))
            losses, ws, colors = (torch.cat([a.to(b), b]) for a, b in zip((losses, ws, colors), looked))
            yield self.report(ws[losses.argmin()][None], len(ws) / 3 / work)
        best = losses.argsort()[:CANDIDATES]
        v, phase = self.start(ws[best], colors[best])
        for step, losses in enumerate(self.descend(v, phase, TRIAL, fine_from=TRIAL), 1):
            if step % REPORT == 0:
                done = SEEDS / 3 + step * CANDIDATES
                yield self.report(self.latents(v, phase)[losses.argmin()][None], done / work)
        v, phase = v[losses.argmin()][None], phase[losses.argmin()][None]
        for step, _ in enumerate(self.descend(v, phase, steps, fine_from=round(FINE_FROM * steps)), 1):
            if step % REPORT == 0 or step == steps:
                yield self.report(self.latents(v, phase), (work - steps + step) / work)

    def latents(self, v: Tensor, phase: Tensor) -> Tensor:
        """Latents (N, num_ws, w_dim) of v (N, style_ws, axes) and phase (N,)."""
        ws = self.prior.to_w(v)
        if self.target.order is None:
            return ws
        condition = torch.zeros_like(ws[:, :1])
        condition[:, 0, 0] = self.target.order
        condition[:, 0, 1] = phase
        return torch.cat([ws, condition], dim=1)

    def draw(self, ws: Tensor, size: int) -> Tensor:
        """Pictures (N, 3, S, S) to compare with the target, about [0, 1]."""
        if self.target.ink is not None:
            return torch.einsum("nkhw,kc->nchw", self.model.masks(ws, output_size=size), self.target.ink)
        if self.target.order is not None:
            return self.model.synthesis(ws, output_size=size) * 0.5 + 0.5
        return resize(self.model.synthesis(ws) * 0.5 + 0.5, size)

    @torch.no_grad()
    def report(self, ws: Tensor, progress: float) -> Inversion:
        """The best so far, now that these latents (1, num_ws, w_dim) are known too."""
        picture = self.draw(ws, FINE).clamp(0, 1)
        distance = _squared(picture, self.comparisons[FINE].scales[0]).sqrt().item()
        if self.best is None or distance < self.best.distance:
            order, phase = self.target.order, None
            if order is not None:
                phase = ws[0, -1, 1].item() % (2 * math.pi / order)
                ws = self.pipe.check_latents(ws, None, phase)
            out: Any = self.pipe(latents=ws)
            self.best = Inversion(ws.clone(), out.images[0], self.target.shown, distance, order, phase, progress)
        self.best = replace(self.best, progress=progress)
        return self.best

    @torch.no_grad()
    def look_at(self, ws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (N,) of seeds' latents, the latents turned as they fit best, and the colours that fit best (N, K, 3).

        Turning a picture is shifting its polar one, so one Fourier transform compares all angles. The colours of masks M
        that are nearest to a picture T, and to the seed's own colours p by a share of `OWN_COLORS`, are those of a ridge
        regression: p + (G + OWN_COLORS)^-1 (C - G p), G = M M^T, C = M T^T, where C alone depends on the angle.
        """
        if self.target.order is None:
            return self.comparisons[COARSE](self.draw(ws, COARSE)), ws, ws[:, :0]
        masks = self.model.masks(ws, output_size=COARSE)
        own = self.model.palette(ws) if self.target.ink is None else self.target.ink.expand(len(ws), -1, -1)
        if self.target.ink is None:
            masks = self.shaded(masks, ws)
        m, t = _polar(masks), _polar(self.comparisons[COARSE].scales[0])[0]
        area = (torch.arange(RADII, device=m.device) + 0.5) * (2 / RADII**2 / ANGLES)
        g = torch.einsum("nkra,njra,r->nkj", m, m, area)
        spectra = torch.fft.rfft(m * area[:, None]).conj(), torch.fft.rfft(t)
        c = torch.fft.irfft(torch.einsum("nkrf,crf->nkcf", *spectra), n=ANGLES)[..., : ANGLES // self.target.order]
        gp = g @ own
        losses = (t.square().sum(dim=(0, 2)) @ area) - 2 * (own[..., None] * c).sum(dim=(1, 2))
        losses = losses + (own * gp).sum(dim=(1, 2))[:, None]
        colors = own
        if self.target.ink is None:
            missing = c - gp[..., None]
            ridge = g + OWN_COLORS * torch.eye(g.shape[1], device=g.device)
            change = torch.linalg.solve(ridge, missing.flatten(2)).view_as(missing)
            losses = losses - (change * missing).sum(dim=(1, 2))
        losses, turn = losses.min(dim=1)
        ws = ws.clone()
        ws[:, -1, 1] = turn * (2 * math.pi / ANGLES)
        if self.target.ink is None:
            colors = (own + change[torch.arange(len(ws)), :, :, turn]).clamp(0, 1)
        return losses, ws, colors

    def shaded(self, masks: Tensor, ws: Tensor) -> Tensor:
        """Masks (N, K, S, S) times their shading: the picture, but for the colours."""
        count = masks.shape[1]
        basis = F.pad(torch.eye(count, device=masks.device), (0, -count % 3))
        parts = [self.model.paint(masks, ws, basis[:, i : i + 3]) for i in range(0, count, 3)]
        return torch.cat(parts, dim=1)[:, :count] * 0.5 + 0.5

    def start(self, ws: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
        """v (N, style_ws, axes) and phase (N,) of seeds' latents, with styles of the palette that give the colours."""
        rows = self.model.style_ws
        v = self.prior.to_v(ws[:, :rows])
        if self.target.order is None:
            return v, ws.new_zeros(len(ws))
        if self.target.ink is not None:
            v[:, -1] = self.inked()
            return v, ws[:, -1, 1].clone()
        area = self.model.masks(ws, output_size=COARSE).detach().mean(dim=(2, 3))[..., None] + 0.01
        style = v[:, -1].clone().requires_grad_()
        adam = torch.optim.Adam([style], 2 * RATE)
        for _ in range(PALETTE_STEPS):
            ws = torch.cat([ws[:, :-2], self.prior.to_w(style)[:, None], ws[:, -1:]], dim=1)
            loss = (area * (self.model.palette(ws) - colors).square()).sum() + FROM_AVERAGE * style.square().sum()
            style.grad = torch.autograd.grad(loss, style)[0]
            adam.step()
            ws = ws.detach()
        v[:, -1] = style.detach()
        return v, ws[:, -1, 1].clone()

    def inked(self) -> Tensor:
        """A style of the palette for drawings, (axes,): of those that seeds give, the one whose ink stands out best."""
        assert self.target.ink is not None
        ws = self.pipe.prepare_latents(range(SEEDS), 0.7, self.target.order)
        palettes = self.model.palette(ws)
        iris = self.model.config.num_frame_masks
        contrast = (palettes[:, self.target.ink[:, 0] == 0] - palettes[:, [iris]]).norm(dim=2).amin(dim=1)
        return self.prior.to_v(ws[contrast.argmax(), 0])

    def descend(self, v: Tensor, phase: Tensor, steps: int, fine_from: int) -> Iterator[Tensor]:
        """Move designs in place down the loss, by Adam (Kingma and Ba 2015); after each step the losses (N,) before it.

        The rate rises over the first twentieth of the steps, and falls over the last two fifths.
        """
        variables, rates = [v], [RATE]
        if self.target.order is not None:
            variables, rates = [v, phase], [RATE, PHASE_RATE]
        adam = torch.optim.Adam([{"params": [x], "lr": 0.0} for x in variables], betas=(0.9, 0.99))
        for step in range(steps):
            size = COARSE if step < fine_from else FINE
            done = step / steps
            part = min(1.0, 0.05 + done / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / 0.4)))
            for group, rate in zip(adam.param_groups, rates):
                group["lr"] = rate * part
            for x in variables:
                x.requires_grad_()
            losses = self.comparisons[size](self.draw(self.latents(v, phase), size))
            common = v.mean(dim=1, keepdim=True)
            away = FROM_AVERAGE * common.square() + FROM_ONE_STYLE * (v - common).square()
            gradients = torch.autograd.grad((losses + away.mean(dim=(1, 2))).sum(), variables)
            for x, gradient in zip(variables, gradients):
                x.requires_grad_(False).grad = gradient
            if self.target.ink is not None:
                gradients[0][:, -1] = 0  # the colours stay
            adam.step()
            yield losses.detach()


def _polar(x: Tensor) -> Tensor:
    """(N, C, S, S) -> (N, C, RADII, ANGLES), the disc within."""
    radii = (torch.arange(RADII, device=x.device) + 0.5) * (x.shape[3] / 2 / RADII)
    return to_polar(x, radii, torch.arange(ANGLES, device=x.device) * (2 * math.pi / ANGLES))
