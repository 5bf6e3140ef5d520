"""Few-shot adaptation by cross-domain correspondence (CDC).

Ojha et al. 2021, "Few-shot Image Generation via Cross-domain Correspondence": what is alike to the source generator stays
alike to the adapted one (section 3.1), and only near a few fixed latents, the anchors, are whole pictures judged (3.2);
elsewhere a patch head judges, see discriminators/patch.py.

The step's own fakes are compared, in groups of four, so the adapted generator needs no further pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.sampling import Latents, draw_latents, seeded

GROUP = 4  # latents compared with one another
ANCHOR_DEVIATION = 0.1  # of the latents about their anchor
ANCHOR_STEP = -2  # the step that the anchors' own latents are drawn for; -1 is the samples'


def style_layers(generator: nn.Module) -> list[nn.Module]:
    """The modulated convolutions, in the order in which they run; but not those to RGB, for colours may change.

    Raises:
        ValueError: the generator has none.
    """
    layers = [
        layer for name, layer in generator.named_modules() if hasattr(layer, "affine") and not name.endswith("torgb")
    ]
    if not layers:
        raise ValueError(
            f"correspondence_weight must be 0 with {type(generator).__name__}, which has no modulated convolutions."
        )
    return layers


@contextmanager
def recorded(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the layers' outputs, in the order in which they run inside the context."""
    outputs: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def draw_layers(count: int, layers: int, seed: int, step: int) -> Tensor:
    """Which layer each of a batch's fakes is compared at, (N,)."""
    return torch.randint(layers, (count,), generator=seeded(seed, step, "layers"))


def correspondence_loss(adapted: Sequence[Tensor], source: Sequence[Tensor], layer: Tensor) -> Tensor:
    """KL(adapted || source) of how alike each fake is to the three others of its group (equations 1 and 2).

    Cosine similarities become shares by softmax, without temperature. The sum over the three comparisons is divided by
    three, as in the authors' runs, so that their weight of 1000 means the same here.

    Args:
        adapted, source: outputs (N,...) of each layer for the same latents, N a multiple of 4.
        layer: index of the layer at which each fake is compared, (N,).

    Returns:
        (N,), differentiable in the adapted outputs.
    """
    losses = torch.zeros(len(layer), device=adapted[0].device)
    for index in layer.unique().tolist():
        chosen = (layer == index).to(losses.device)
        ours, theirs = (likeness(outputs[index])[chosen].log_softmax(dim=1) for outputs in (adapted, source))
        losses = losses.masked_scatter(chosen, (ours.exp() * (ours - theirs)).mean(dim=1))
    return losses


def likeness(features: Tensor) -> Tensor:
    """Cosine similarities of each sample (N,...) to the three others of its group: (N,3)."""
    groups = F.normalize(features.float().flatten(1), dim=1).unflatten(0, (-1, GROUP))
    cosines = groups @ groups.transpose(1, 2)
    others = ~torch.eye(GROUP, dtype=torch.bool, device=features.device)
    return cosines[:, others].view(-1, GROUP - 1)


def draw_near_anchors(generator: Any, anchors: int, count: int, seed: int, step: int) -> Latents:
    """Latents about fixed ones: z moved by N(0, 0.1^2), the order the anchor's own, the phase free."""
    fixed = draw_latents(generator, anchors, seed, ANCHOR_STEP)
    latents = draw_latents(generator, count, seed, step)
    which = torch.randint(anchors, (count,), generator=seeded(seed, step, "anchors"))
    latents.z = fixed.z[which] + ANCHOR_DEVIATION * latents.z
    if "order" in latents.conditions:
        latents.conditions["order"] = fixed.conditions["order"][which]
    return latents
