"""Which of the source model's designs the few pictures are like: found before the first step, so that training begins there.

A RadialGenerator that was taught draws some design for every latent, and its masks say what is where whatever the colours. So a
picture can be compared with designs alone: at every turn, in the colours that fit best. From that follow

- the mapping: of all latents those of designs that some picture is like are wanted, each picture having the same share. The
  mapping network learns to make of any latent a style of that distribution (empirical Bayes: the prior is fitted to what the
  pictures say of it; Robbins 1956), by the energy distance of radial_statistics.py, now between styles;
- the palette: the colours that each picture has in each mask. The palette's last layer is followed by the affine map that turns the
  source's distribution of them into the pictures', both taken as Gaussian, and moves it least (optimal transport: Peyre and Cuturi
  2019, "Computational Optimal Transport", equation 2.40).

No discriminator is asked. Training then finds everything near its place: it is left to shapes and edges.
"""

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sharingan_hub.postprocess.circularize import circularize
from sharingan_hub.postprocess.symmetry import estimate_order
from training import radial_statistics
from training.sampling import draw_latents, seeded, styles

SIDE, RADII, ANGLES = 64, 32, 64  # pixels of a picture; cells it is compared on
BATCH = 25  # designs drawn at once: their working set stays in cache
RIDGE = 1e-3  # on the colours, where a mask is empty
PERPLEXITY = 30.0  # designs that a picture counts as like
PRIOR = 5.0  # pictures that the source's own mix of designs counts as
STYLES, MAPPING_RATE = 256, 0.01  # of a step of the mapping network
UNSEEN_ORDERS = 0.2  # share of its steps that go to all orders alike
REFINE_STEPS, REFINE_RATE, REFINE_HOLD = 40, 0.03, 0.005
PAINT_STEPS, PAINT_RATE, PAINT_HOLD = 200, 0.05, 1e-3
SEEN, SHADED = 0.002, 0.2  # shares of a picture from which a mask has a colour, and a shading, of its own
SHRINK = 0.3  # of covariances of few pictures, towards their diagonals
PALETTES = 4096


def check_masks(generator: Any) -> None:
    """Raise ValueError for a generator that draws no masks, which pictures are compared with."""
    if not hasattr(generator, "masks"):
        raise ValueError(f"designs must be 0 with {type(generator).__name__}, which draws no masks.")


def match_designs(generator: Any, pictures: Tensor, orders: Tensor, count: int, steps: int, seed: int = 0) -> None:
    """Bring a RadialGenerator's mapping network and palette to a few pictures; in place.

    Args:
        pictures: (N, 3, S, S) in [-1, 1].
        orders: (N,), 0 where unknown.
        count: designs that each picture is compared with, of its own order.
        steps: of the mapping network.
    """
    pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
    if (orders == 0).any():
        orders = torch.where(orders > 0, orders, estimate_order(circularize((pictures + 1) / 2).images).to(orders))
    orders = orders.to(pictures.device).clamp(max=generator.config.max_order)
    source = deepcopy(generator).eval().requires_grad_(False)
    z, errors = search(source, pictures, orders, count, seed)
    masks = refine(source, source.mapping(z[errors.argmin(dim=1)], orders), pictures, orders)
    repaint(generator, source, masks, pictures, seed)
    shares = likely(errors, PERPLEXITY).sum(dim=0) + PRIOR / count
    mix = torch.bincount(orders - 1, minlength=generator.config.max_order) / len(orders)
    mix = torch.lerp(mix, torch.ones_like(mix) / len(mix), UNSEEN_ORDERS)
    redraw(generator, source, z, shares / shares.sum(), mix, steps, seed)


def search(generator: Any, pictures: Tensor, orders: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents (count, z_dim), and how far each picture is from the design that each of them has at the picture's order: the mean
    squared difference at the best turn in the best colours, (N, count)."""
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, 0, "designs")).to(pictures.device)
    errors = torch.empty(len(pictures), count, device=z.device)
    circles = circles_of(pictures)
    energy = (circles.square() * areas(circles)).sum(dim=(1, 2, 3))
    parts = [(n, start) for n in orders.unique().tolist() for start in range(0, count, BATCH)]
    for order, start in tqdm(parts, desc="Comparing designs", disable=None):
        rows = (orders == order).nonzero().flatten()
        some = z[start : start + BATCH]
        w = generator.mapping(some, torch.full((len(some),), order, device=z.device))
        explained = fits(design_masks(generator, w, order), circles[rows]).amax(dim=2)
        errors[rows, start : start + BATCH] = energy[rows, None] - explained
    return z, errors


def design_masks(generator: Any, w: Tensor, order: Tensor | int, phase: Tensor | None = None) -> Tensor:
    """Masks (N, K, SIDE, SIDE) of styles w (N, w_dim) at an order, or one for each."""
    orders = torch.as_tensor(order, device=w.device).expand(len(w))
    return generator.masks(generator.broadcast(w, orders, phase), output_size=SIDE)


def circles_of(images: Tensor) -> Tensor:
    """(N, C, S, S) -> along circles, (N, C, RADII, ANGLES)."""
    return radial_statistics.circles_of(images, RADII, ANGLES)


def areas(circles: Tensor) -> Tensor:
    """What part of the disc a cell on each circle is, (RADII, 1)."""
    radii = torch.arange(RADII, device=circles.device) + 0.5
    return (radii / (radii.sum() * ANGLES))[:, None]


def fits(masks: Tensor, circles: Tensor) -> Tensor:
    """How much of each picture's energy designs explain at each turn, (N, M, ANGLES), in the colours that fit best.

    Each mask has a colour that may change in a line with the radius. Turning is shifting along circles, so one Fourier transform
    compares all turns; colours are a ridge regression, whose matrix no turn changes.

    Args:
        masks: of M designs, (M, K, SIDE, SIDE).
        circles: of N pictures, (N, 3, RADII, ANGLES).
    """
    along = circles_of(masks)
    area = areas(along)
    slope = (torch.arange(RADII, device=along.device)[:, None] + 0.5) / RADII - 0.5
    basis = torch.cat([along, along * slope], dim=1)
    gram = torch.einsum("mkra,mlra->mkl", basis * area, basis)
    factor = torch.linalg.cholesky(gram + RIDGE * torch.eye(gram.shape[1], device=gram.device))
    # Made orthonormal, what the basis explains is a plain sum of squares.
    basis = torch.linalg.solve_triangular(factor, basis.flatten(2), upper=False).unflatten(2, (RADII, ANGLES))
    found = torch.einsum("ncrf,mkrf->nmkcf", torch.fft.rfft(circles * area, dim=3), torch.fft.rfft(basis, dim=3).conj())
    return torch.fft.irfft(found, n=ANGLES, dim=4).square().sum(dim=(2, 3))


def likely(errors: Tensor, perplexity: float) -> Tensor:
    """How likely each picture is of each design, (N, M), rows adding up to one: exp(-error / t), with t for each picture such that
    as many designs count as `perplexity` says (as in van der Maaten and Hinton 2008, section 2)."""
    low, high = torch.full_like(errors[:, :1], 1e-7), torch.full_like(errors[:, :1], 10.0)
    wanted = math.log(min(perplexity, errors.shape[1] / 2))
    shares = errors
    for _ in range(40):
        t = (low * high).sqrt()
        logs = torch.log_softmax(-errors / t, dim=1)
        shares = logs.exp()
        wide = -(shares * logs).sum(dim=1, keepdim=True) > wanted
        low, high = torch.where(wide, low, t), torch.where(wide, t, high)
    return shares


@torch.enable_grad()
def refine(generator: Any, w: Tensor, pictures: Tensor, orders: Tensor) -> Tensor:
    """Masks (N, K, SIDE, SIDE) of designs near w (N, w_dim) that fit the pictures as they lie.

    Adam in w and the turn; colours are solved for at each step (variable projection: Golub and Pereyra 1973).
    """
    turns = [
        fits(design_masks(generator, one[None], n), circles_of(picture[None]))[0, 0].argmax()
        for one, n, picture in zip(w, orders, pictures)
    ]
    phase = (torch.stack(turns) * (2 * math.pi / ANGLES)).requires_grad_()
    start, w = w, w.clone().requires_grad_()
    optimizer = torch.optim.Adam([{"params": [w], "rate": REFINE_RATE}, {"params": [phase], "rate": REFINE_RATE / 3}])
    axis = (torch.arange(SIDE, device=w.device) + 0.5) * (2 / SIDE) - 1
    radius = torch.hypot(axis, axis[:, None])
    inside = (radius < 1.1).float()
    for step in range(REFINE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, 2 * (1 - step / REFINE_STEPS))
        masks = design_masks(generator, w, orders, phase)
        basis = torch.cat([masks, masks * (radius - 0.5)], dim=1).flatten(2)
        weighted = basis * inside.flatten() / inside.sum()
        ridge = RIDGE * torch.eye(basis.shape[1], device=w.device)
        colors = torch.linalg.solve(
            weighted @ basis.transpose(1, 2) + ridge, weighted @ pictures.flatten(2).transpose(1, 2)
        )
        off = ((colors.transpose(1, 2) @ basis).unflatten(2, (SIDE, SIDE)) - pictures) * inside
        errors = [F.avg_pool2d(off, size).square().mean(dim=(1, 2, 3)) for size in (1, 2, 4)]
        loss = torch.stack(errors).sum() + REFINE_HOLD * (w - start).square().mean(dim=1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return design_masks(generator, w, orders, phase)


@torch.no_grad()
def repaint(generator: Any, source: Any, masks: Tensor, pictures: Tensor, seed: int) -> None:
    """Give the palette the distribution of colours that pictures (N, 3, SIDE, SIDE) have in their masks."""
    latents = draw_latents(source, PALETTES, seed, 0)
    latents.conditions["order"] = torch.arange(PALETTES) % source.config.max_order + 1
    ws = styles(source, latents.select(slice(None), masks.device))
    hidden = F.leaky_relu(source.palette_hidden(ws[:, -2]), 0.2) * math.sqrt(2)
    usual = source.palette_head(hidden)
    wanted = paints(source, masks, pictures, usual)
    matrix, offset = transport(usual, wanted)
    head = generator.palette_head
    head.weight.copy_(matrix @ head.weight)
    head.bias.copy_(matrix @ head.bias + offset)


@torch.enable_grad()
def paints(source: Any, masks: Tensor, pictures: Tensor, usual: Tensor) -> Tensor:
    """What the palette's last layer should give for each picture, (N, 6 K): colours, and the shading of large masks; the rest as
    usual (M, 6 K).

    A mask that a picture does not show has the colour that it has in the others, or where none shows it the pattern's.
    """
    mean, deviation = usual.mean(dim=0), usual.std(dim=0)
    heads = mean.repeat(len(pictures), 1).requires_grad_()
    optimizer = torch.optim.Adam([heads])
    for step in range(PAINT_STEPS):
        optimizer.param_groups[0]["lr"] = PAINT_RATE * min(1.0, 2 * (1 - step / PAINT_STEPS))
        values = heads.unflatten(1, (-1, 6))
        painted = source._paint(masks, (torch.sigmoid(values[..., :3]), values[..., 3:]), slice(None))
        held = ((heads - mean) / deviation).square().mean(dim=1)
        loss = ((painted - pictures).square().mean(dim=(1, 2, 3)) + PAINT_HOLD * held).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values, area = heads.detach().unflatten(1, (-1, 6)), masks.mean(dim=(2, 3))
    for k in range(len(area[0])):
        seen = area[:, k] > SEEN
        values[~seen, k] = values[seen, k].mean(dim=0) if seen.any() else values[~seen, source.num_round_masks]
        if area[:, k].mean() < SHADED:
            values[:, k, 3:] = mean.unflatten(0, (-1, 6))[k, 3:]
    return values.flatten(1)


def transport(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map (D, D), (D,) that takes the Gaussian of x (N, D) to that of y (M, D) with the least squared movement."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    floor = 1e-3 * torch.eye(x.shape[1], device=x.device)
    covariance_x = x.t().cov() + floor
    covariance_y = y.t().cov() if len(y) > 1 else torch.zeros_like(floor)
    covariance_y = torch.lerp(covariance_y, covariance_y.diag().diag(), SHRINK) + floor
    root = square_root(covariance_x)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ square_root(root @ covariance_y @ root) @ inverse
    return matrix, mean_y - matrix @ mean_x


def square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix, symmetric itself."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.t()


@torch.enable_grad()
def redraw(generator: Any, source: Any, z: Tensor, shares: Tensor, mix: Tensor, steps: int, seed: int) -> None:
    """Teach the mapping network to make styles of which each design z (M, z_dim) has its share (M,), at every order alike.

    mix: how many of the steps each order has.
    """
    mapping = list(generator.fc.parameters())
    learning = [weight.requires_grad for weight in mapping]
    optimizer = torch.optim.Adam([weight.requires_grad_() for weight in mapping], betas=(0.0, 0.99))
    rng = seeded(seed, 0, "mapping of designs")
    table = [source.mapping(z, torch.full((len(z),), n + 1, device=z.device)) for n in range(len(mix))]
    shares, mix = shares.cpu(), mix.cpu()
    for step in tqdm(range(steps), desc="Mapping to designs", disable=None):
        optimizer.param_groups[0]["lr"] = MAPPING_RATE * min(1.0, 2 * (1 - step / steps))
        index = int(torch.multinomial(mix, 1, generator=rng))
        chosen = torch.multinomial(shares, STYLES, replacement=True, generator=rng)
        latents = torch.randn(STYLES, generator.z_dim, generator=rng).to(z.device)
        made = generator.mapping(latents, torch.full((STYLES,), index + 1, device=z.device))
        among = torch.cdist(made, made).sum() / (STYLES * (STYLES - 1))
        loss = 2 * torch.cdist(made, table[index][chosen]).mean() - among
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight, learns in zip(mapping, learning):
        weight.requires_grad_(learns)
        weight.grad = None
