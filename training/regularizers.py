"""Regularisers of both networks, chosen by the key `regularizers`. What they weigh, and how often, the config says."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

PATH_DECAY = 0.01  # how far the mean path length moves in a step


def r1(images: Tensor, logits: Tensor) -> Tensor:
    """Squared gradient norm of the logits at pictures (Mescheder et al. 2018, equation 9, without gamma/2).

    R1 is this at real pictures, R2 at fakes.

    images: (N,C,H,W), requires grad and led to logits (N,1). Returns (N,), differentiable in the weights.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def gradient_penalty(images: Tensor, logits: Tensor) -> Tensor:
    """Squared distance of the gradient's norm from 1 (Gulrajani et al. 2017, equation 3, without lambda), as for r1.

    images: points on the lines between reals and fakes.
    """
    return (r1(images, logits).sqrt() - 1).square()


def path_lengths(ws: Tensor, images: Tensor, noise: Tensor) -> Tensor:
    """|J^T y|, by how much a step in style space changes each picture (Karras et al. 2020, "Analyzing and Improving the Image
    Quality of StyleGAN", equation 4).

    ws: (N,rows,w_dim), led to images (N,C,H,W). noise: y before its division by the root of H W. With several rows, each
    has its own length, and the root of their mean square counts. Returns (N,), differentiable in the weights.
    """
    scaled = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * scaled).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def distance(fakes: Tensor, reals: Tensor) -> Tensor:
    """|fake - real|^2 of pictures (N,C,H,W) side by side -> (N,).

    Nazeri adds it to D's loss, which has no weight in it: `distance_d` changes the curve and no gradient. `distance_g` is
    the same term where it has one, in G's loss.
    """
    return (fakes - reals).square().sum(dim=(1, 2, 3))


@torch.no_grad()
def clip(weights: Iterable[Tensor], limit: float) -> None:
    """Bring weights back to [-limit, limit], in place (Arjovsky et al. 2017, algorithm 1)."""
    for weight in weights:
        weight.clamp_(-limit, limit)


def normalize_spectrum(network: nn.Module) -> list[Any]:
    """Divide the weight of each convolution and linear layer by its largest singular value (Miyato et al. 2018).

    Returns what `estimate_spectrum` takes: the singular values are estimated there and stand still in between, so that all
    passes of a step have the same weights. (torch's own rule, an estimate in each forward pass, would make the result
    depend on how the batch is split.)

    Raises:
        ValueError: the network has none of torch's layers. Layers with an equalised learning rate have their own scale.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    if not layers:
        raise ValueError(f"spectral_norm needs torch's own layers, and {type(network).__name__} has none.")
    return [parametrizations.spectral_norm(layer).eval() for layer in layers]


@torch.no_grad()
def estimate_spectrum(layers: Iterable[Any]) -> None:
    """One power iteration for each layer's largest singular value."""
    for layer in layers:
        parametrized = layer.parametrizations.weight
        parametrized.train()
        parametrized()
        parametrized.eval()
