"""Eyes drawn for tests: where iris, lids and highlights are is known to a fraction of a pixel."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Eye:
    """A picture of an eye and what is where in it. Masks are (H, W) bool, of pixels that lie there wholly."""

    picture: Tensor  # (1, 3, H, W) in [0, 1]
    center: tuple[float, float]  # x and y in pixels, (0.5, 0.5) is the first pixel's middle
    radius: float
    iris: Tensor  # what is seen of the iris, with its highlights
    lids: Tensor  # skin, lashes and lines
    highlights: Tensor


def draw_eye(
    size: int = 256,
    at: tuple[float, float] = (0.5, 0.5),
    radius: float = 0.17,
    skin: tuple[float, float, float] = (0.87, 0.68, 0.56),
    iris: tuple[float, float, float] = (0.35, 0.22, 0.12),
    opening: float = 1.0,
    anime: bool = False,
    noise: float = 0.01,
    seed: int = 0,
) -> Eye:
    """An eye, looking at us.

    Args:
        size: of the square picture in pixels.
        at: centre of the iris, in sizes.
        radius: of the iris, in sizes.
        skin, iris: their colours.
        opening: 1 is a relaxed eye, whose upper lid covers the top of the iris; more is wide open; 0 is closed.
        anime: flat colours and thick lines.
        noise: standard deviation of the sensor's noise.
        seed: draws noise, fibres and lashes.
    """
    rng = np.random.default_rng(seed)
    scale = 3 if size <= 256 else 2
    n = size * scale
    axis = (np.arange(n) + 0.5) / n
    x, y = axis[None, :] - at[0], axis[:, None] - at[1]
    r = np.hypot(x, y)
    theta = np.arctan2(-y, x)
    unit = radius

    half = 2.35 * unit  # half of the eye's width
    along = np.clip(1 - (x / half) ** 2, 0, None)
    upper = -0.82 * unit * opening * along**0.85 + 0.12 * unit * (x / half)  # rows of the lids
    lower = 0.86 * unit * opening * along**0.95 + 0.12 * unit * (x / half)
    open_ = (y > upper) & (y < lower) & (np.abs(x) < half)

    def smooth(low, high, v):
        t = np.clip((v - low) / (high - low), 0, 1)
        return t * t * (3 - 2 * t)

    def mix(base, color, share):
        return base + (np.asarray(color) - base) * share[..., None]

    light = 1.03 - 0.12 * smooth(-2, 2, x / unit + y / unit) if not anime else np.ones_like(r)
    picture = np.ones((n, n, 3)) * np.asarray(skin) * light[..., None]
    crease = np.abs(y - (upper * 1.25 - 0.32 * unit)) / unit
    picture = mix(picture, np.asarray(skin) * 0.62, (1 - smooth(0.0, 0.09, crease)) * (np.abs(x) < 0.9 * half) * 0.7)

    white = np.array([0.97, 0.97, 0.98]) if anime else np.array([0.9, 0.88, 0.87])
    ball = np.ones((n, n, 3)) * white
    if not anime:
        ball *= (1 - 0.22 * smooth(0.8, 2.4, np.hypot(x, 1.5 * y) / unit))[..., None]
    inner = np.asarray(iris)
    fibres = np.zeros_like(r)
    if not anime:
        for k in rng.integers(15, 90, 24):
            fibres += np.cos(k * theta + rng.uniform(0, 6.3) + 3 * r / unit * rng.normal()) / 24
    shade = 1 + 0.5 * fibres + (0.35 * smooth(0.3, 1.0, y / unit) if anime else 0.25 * (0.6 - r / unit))
    colored = inner * shade[..., None]
    colored = mix(colored, inner * 0.35, smooth(0.86, 0.97, r / unit) * (0.9 if anime else 0.6))
    colored = mix(colored, (0.03, 0.03, 0.04), 1 - smooth(0.37, 0.41, r / unit))
    soft = 0.012 if anime else 0.05
    ball = mix(ball, colored, 1 - smooth(1 - soft, 1 + soft, r / unit))
    below = (y - upper) / unit  # the upper lid's shadow
    ball = ball * (1 - (0.25 if anime else 0.42) * (1 - smooth(0.0, 0.2 if anime else 0.5, below)))[..., None]
    spots = np.zeros((n, n), dtype=bool)
    for dx, dy, a, b in ((-0.33, -0.3, 0.16, 0.2), (0.36, 0.33, 0.07, 0.07)):
        spots |= ((x / unit - dx) / a) ** 2 + ((y / unit - dy) / b) ** 2 < 1
    ball[spots] = 0.99
    picture[open_] = ball[open_]

    line = 0.13 if anime else 0.07
    lash = (np.abs(y - upper + 0.04 * unit) < line * unit * (0.5 + 0.5 * along)) & (np.abs(x) < half)
    picture[lash] = (0.06, 0.04, 0.05)
    low_line = (np.abs(y - lower) < 0.025 * unit) & (np.abs(x) < half)
    picture[low_line] = np.asarray(skin) * (0.3 if anime else 0.6)
    lashes = np.zeros_like(lash)
    for x0 in np.linspace(-0.92, 0.92, 9 if anime else 26) * half:
        top = -0.82 * unit * opening * (1 - (x0 / half) ** 2) ** 0.85 + 0.12 * unit * (x0 / half)
        length = unit * rng.uniform(0.25, 0.45)
        lean = 0.5 * x0 / half + rng.normal() * 0.08
        t = (top - y) / length
        lashes |= (t > -0.05) & (t < 1) & (np.abs(x - x0 - lean * (top - y)) < 0.022 * unit * (1.1 - t))
    picture[lashes] = (0.06, 0.04, 0.05)
    lids = ~open_ | lash | low_line | lashes

    def down(v):
        return v.reshape(size, scale, size, scale, *v.shape[2:]).mean(axis=(1, 3))

    small = down(picture) + rng.normal(size=(size, size, 3)) * noise
    seen = open_ & ~lids & (r < unit)
    whole = [torch.from_numpy(down(mask.astype(float)) > 0.999) for mask in (seen, lids, spots & seen)]
    image = torch.from_numpy(np.clip(small, 0, 1)).permute(2, 0, 1)[None].float()
    return Eye(image, (at[0] * size, at[1] * size), radius * size, *whole)
