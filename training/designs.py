"""Which of the source model's designs the few pictures are like: found before the first step, so that training begins there.

A RadialGenerator that was taught draws some design for every latent, and its masks say what is where whatever the colours. A reader
(reading.py) learns from its designs which style a picture has. From that follow

- the mapping: of all latents those of designs that some picture is like are wanted, each picture having the same share, tilted so
  that they have the pictures' mean, and then carried to what the pictures vary in (approximate Bayesian computation with regression
  adjustment: Beaumont, Zhang and Balding 2002). The mapping network learns to make of any latent a style of that distribution,
  by the energy distance of radial_statistics.py, now between styles;
- the palette: the colours that each picture has in each mask. The palette's last layer is followed by the affine map that turns
  the distribution of them into the pictures', both taken as Gaussian, and moves it least (optimal transport: Peyre and Cuturi 2019,
  "Computational Optimal Transport", equation 2.40).

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
from training.reading import (
    SIDE,
    design_masks,
    draw_designs,
    learn_to_read,
    palette_values,
    read_designs,
    read_pictures,
)
from training.sampling import seeded

RADII, ANGLES = 32, 64  # cells that a picture and a design are compared on
RIDGE = 1e-3  # on the colours, where a mask is empty
PERPLEXITY = 300.0  # designs that a picture counts as like
PRIOR = 2.0  # pictures that the source's own mix of designs counts as
TILT = 0.03  # ridge on tilting
DIRECTIONS, STYLE_SHRINK = (
    32,
    0.1,
)  # in which styles are carried to the pictures'; of their covariance towards its diagonal
CHOSEN = 4096  # styles that stand for a distribution
STYLES, MAPPING_RATE = 256, 0.01  # of a step of the mapping network
UNSEEN_ORDERS = 0.2  # share of its steps that go to all orders alike
REFINE_STEPS, REFINE_RATE, REFINE_HOLD = 40, 0.03, 0.005
PAINT_STEPS, PAINT_RATE, PAINT_HOLD = 200, 0.05, 1e-3
SEEN, SHADED = 0.002, 0.2  # shares of a picture from which a mask has a colour, and a shading, of its own
SHRINK = 0.3  # of covariances of few pictures' colours, towards their diagonals


def check_masks(generator: Any) -> None:
    """Raise ValueError for a generator that draws no masks, which pictures are compared with."""
    if not hasattr(generator, "masks"):
        raise ValueError(f"designs must be 0 with {type(generator).__name__}, which draws no masks.")


@torch.no_grad()
def match_designs(generator: Any, pictures: Tensor, orders: Tensor, count: int, steps: int, seed: int = 0) -> None:
    """Bring a RadialGenerator's mapping network and palette to a few pictures; in place.

    Args:
        pictures: (N, 3, S, S) in [-1, 1].
        orders: (N,), 0 where unknown.
        count: designs that the reader learns from and that the pictures' are chosen among.
        steps: of the mapping network.
    """
    pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
    if (orders == 0).any():
        orders = torch.where(orders > 0, orders, estimate_order(circularize((pictures + 1) / 2).images).to(orders))
    orders = orders.to(pictures.device).clamp(max=generator.config.max_order)
    source = deepcopy(generator).eval().requires_grad_(False)
    designs = draw_designs(source, count, seed)
    reader = learn_to_read(source, designs, seed)
    known = read_designs(reader, source, designs, seed)
    read = within(read_pictures(reader, pictures, orders), known)
    masks = refine(source, reader.center + reader.scale * read, pictures, orders)

    shares = likely(torch.cdist(read, known).square(), PERPLEXITY).sum(dim=0) + PRIOR / count
    shares = tilted(known, shares / shares.sum(), read.mean(dim=0))
    moves = carried(known, shares, read) * reader.scale
    wanted = torch.stack(
        [
            source.mapping(designs.z, torch.full_like(designs.orders, n + 1)) + moves
            for n in range(source.config.max_order)
        ]
    )
    mix = torch.bincount(orders - 1, minlength=len(wanted)) / len(orders)
    rng = seeded(seed, 0, "chosen designs")
    index = torch.multinomial(shares.cpu(), CHOSEN, replacement=True, generator=rng).to(shares.device)
    chosen_orders = torch.multinomial(mix.cpu(), CHOSEN, replacement=True, generator=rng).to(shares.device) + 1
    chosen = wanted[chosen_orders - 1, index]
    repaint(generator, source, masks, pictures, chosen)
    redraw(generator, wanted, shares, torch.lerp(mix, torch.ones_like(mix) / len(mix), UNSEEN_ORDERS), steps, seed)
    # The energy distance leaves the mapping with some of the source's mean and spread.
    made = generator.mapping(torch.randn(CHOSEN, source.z_dim, generator=rng).to(shares.device), chosen_orders)
    follow(generator.fc[-1], *transport(made, chosen, 0.0))


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


def within(read: Tensor, known: Tensor) -> Tensor:
    """Styles (N, D) of pictures like nothing that the source draws: no farther from the middle than the farthest design (M, D)."""
    most = known.norm(dim=1).max()
    return read * (most / read.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)


def tilted(known: Tensor, shares: Tensor, mean: Tensor) -> Tensor:
    """Shares (M,) times exp(known @ t), (M, D) and (D,), with the t for which the designs' mean is `mean` (D,), nearly: of all
    shares that have it those nearest to the given ones (entropy balancing: Hainmueller 2012, equation 2), but for a ridge on t."""
    away, logs = known - mean, shares.log()
    t = torch.zeros_like(mean, requires_grad=True)
    optimizer = torch.optim.LBFGS([t], max_iter=60, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.logsumexp(logs + away @ t, dim=0) + TILT / 2 * t.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return torch.softmax(logs + away @ t.detach(), dim=0)


def carried(known: Tensor, shares: Tensor, read: Tensor) -> Tensor:
    """How far each design (M, D), of which each has its share (M,), is to be moved so that they vary as the pictures do, (M, D).

    By optimal transport between Gaussians, in the directions in which designs differ most.
    """
    size = min(DIRECTIONS, known.shape[1])
    directions = torch.linalg.eigh(known.t().cov()).eigenvectors[:, -size:]
    x, y = known @ directions, read @ directions
    matrix, offset = transport(x, y, STYLE_SHRINK, shares)
    return (x @ matrix.t() + offset - x) @ directions.t()


@torch.no_grad()
def follow(layer: Any, matrix: Tensor, offset: Tensor) -> None:
    """Have a linear layer's output go through an affine map (D, D), (D,)."""
    layer.weight.copy_(matrix @ layer.weight)
    layer.bias.copy_(matrix @ layer.bias + offset)


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
def repaint(generator: Any, source: Any, masks: Tensor, pictures: Tensor, styles: Tensor) -> None:
    """Give the palette, for styles (M, w_dim), the distribution of colours that pictures (N, 3, SIDE, SIDE) have in their masks."""
    usual = palette_values(source, styles)
    follow(generator.palette_head, *transport(usual, paints(source, masks, pictures, usual), SHRINK))


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


def transport(x: Tensor, y: Tensor, shrink: float, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The affine map (D, D), (D,) that takes the Gaussian of x (N, D), of which each row has its share (N,) or all the same, to that of
    y (M, D), its covariance shrunk towards the diagonal, with the least squared movement."""
    shares = x.new_full((len(x),), 1 / len(x)) if shares is None else shares
    mean_x, mean_y = shares @ x, y.mean(dim=0)
    floor = 1e-3 * torch.eye(x.shape[1], device=x.device)
    covariance_x = ((x - mean_x) * shares[:, None]).t() @ (x - mean_x) + floor
    covariance_y = y.t().cov() if len(y) > 1 else torch.zeros_like(floor)
    covariance_y = torch.lerp(covariance_y, covariance_y.diag().diag(), shrink) + floor
    root = square_root(covariance_x)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ square_root(root @ covariance_y @ root) @ inverse
    return matrix, mean_y - matrix @ mean_x


def square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix, symmetric itself."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.t()


@torch.enable_grad()
def redraw(generator: Any, wanted: Tensor, shares: Tensor, mix: Tensor, steps: int, seed: int) -> None:
    """Teach the mapping network to make styles (orders, M, w_dim), of which each has its share (M,), at every order.

    mix: how many of the steps each order has.
    """
    mapping = list(generator.fc.parameters())
    learning = [weight.requires_grad for weight in mapping]
    optimizer = torch.optim.Adam([weight.requires_grad_() for weight in mapping], betas=(0.0, 0.99))
    rng = seeded(seed, 0, "mapping of designs")
    shares, mix = shares.cpu(), mix.cpu()
    for step in tqdm(range(steps), desc="Mapping to designs", disable=None):
        optimizer.param_groups[0]["lr"] = MAPPING_RATE * min(1.0, 2 * (1 - step / steps))
        index = int(torch.multinomial(mix, 1, generator=rng))
        chosen = torch.multinomial(shares, STYLES, replacement=True, generator=rng).to(wanted.device)
        latents = torch.randn(STYLES, generator.z_dim, generator=rng).to(wanted.device)
        made = generator.mapping(latents, torch.full((STYLES,), index + 1, device=wanted.device))
        among = torch.cdist(made, made).sum() / (STYLES * (STYLES - 1))
        loss = 2 * torch.cdist(made, wanted[index][chosen]).mean() - among
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight, learns in zip(mapping, learning):
        weight.requires_grad_(learns)
        weight.grad = None
