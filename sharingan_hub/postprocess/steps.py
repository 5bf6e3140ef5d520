"""Several repairs one after the other, as the pipeline, the command line and the Space ask for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .circularize import circularize
from .polar import check_images
from .radial_scale import warp
from .recolor import recolor
from .symmetry import carry_out, plan, symmetrize

STEPS: dict[str, Callable[..., Any]] = {"circularize": circularize, "symmetrize": symmetrize, "recolor": recolor}
FIRST_OPTION = {"circularize": "harmonics", "symmetrize": "order", "recolor": "palette"}
Steps = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


def postprocess(images: Tensor, steps: Steps) -> Tensor:
    """Apply repairs in the order given.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W) in [0, 1].
        steps: names ("circularize", "symmetrize", "recolor"), or mappings of a name to its options:
            ["circularize", {"symmetrize": {"order": 3}}, {"recolor": {"palette": "violet"}}]. In place of options
            the first one's value will do: {"symmetrize": 3}, {"recolor": "violet"}. One step needs no list.

    Returns:
        (N, C, H, W) in [0, 1], of the dtype and on the device that came; recolor makes three channels of one.

    Raises:
        TypeError, ValueError: images are no pictures, a step or option is unknown, or a step refuses its options.
    """
    check_images(images)
    for name, options in parse_steps(steps):
        done = STEPS[name](images, **options)
        images = done.images if name == "circularize" else done
    return images


def postprocess_with_alpha(images: Tensor, alpha: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """`postprocess` for pictures with an alpha channel (N, 1, H, W): the channel moves with the picture.

    What there is to repair is judged on the picture over white. Colours are not premultiplied, neither those that come
    nor those that go.
    """
    check_images(images)
    check_images(alpha, "alpha")
    inked = images * alpha
    for name, options in parse_steps(steps):
        shown = (inked + 1 - alpha).clamp(0, 1)
        if name == "recolor":
            inked = _without_ground(recolor(shown, **options), alpha)
            continue
        layers = torch.cat((inked, alpha), dim=1)
        if name == "symmetrize":
            layers = carry_out(plan(shown, options.get("order"), options.get("method", "auto")), layers)
        else:
            found = circularize(shown, **options)
            work = layers.to(torch.promote_types(layers.dtype, torch.float32))
            round_ = warp(work, found.scale, found.center, options.get("method", "warp")).to(layers.dtype)
            layers = torch.where(found.ok[:, None, None, None], round_, layers)
        inked, alpha = layers[:, :-1], layers[:, -1:].clamp(0, 1)
    return (inked / alpha.clamp(min=1e-3)).clamp(0, 1), alpha


def _without_ground(shown: Tensor, alpha: Tensor) -> Tensor:
    """Colours times alpha, of pictures that lie over what is seen where they are transparent (or else over white)."""
    clear = (alpha < 0.01).to(shown)
    count = clear.sum(dim=(2, 3), keepdim=True)
    ground = torch.where(count > 0, (shown * clear).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1), 1.0)
    return torch.minimum((shown - (1 - alpha) * ground).clamp(min=0), alpha)


def parse_steps(steps: Steps) -> list[tuple[str, dict[str, Any]]]:
    """Steps as pairs of name and options.

    Raises:
        TypeError, ValueError: as `postprocess`; values of options are left to the step itself.
    """
    if isinstance(steps, str | Mapping):
        steps = [steps]
    if not isinstance(steps, Sequence):
        raise TypeError(f"steps is a {type(steps).__name__}; it must be a list of names or mappings")
    parsed = []
    for step in steps:
        if isinstance(step, str):
            step = {step: None}
        if not isinstance(step, Mapping) or len(step) != 1:
            raise ValueError(
                f'steps holds {str(step)[:80]}; each must be a name or a mapping such as {{"symmetrize": 3}}'
            )
        ((name, options),) = step.items()
        if name not in STEPS:
            raise ValueError(f"steps holds {str(name)[:80]!r}; it must be of {', '.join(STEPS)}")
        if options is None:
            options = {}
        elif not isinstance(options, Mapping):
            options = {FIRST_OPTION[name]: options}
        known = list(inspect.signature(STEPS[name]).parameters)[1:]
        for option in options:
            if option not in known:
                raise ValueError(f"{name} has no option {str(option)[:80]!r}; it has {', '.join(known)}")
        parsed.append((str(name), dict(options)))
    return parsed
