"""Regularisers of the discriminator, chosen by the key `regularizers`."""

import torch
from torch import Tensor


def r1(images: Tensor, logits: Tensor) -> Tensor:
    """Squared gradient norm of the logits at real pictures (Mescheder et al. 2018, equation 9, without gamma/2).

    images: (N,C,H,W), requires grad and led to logits (N,1). Returns (N,), differentiable in the weights.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))
