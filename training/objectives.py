"""GAN objectives: one pair of losses per sample for each value of the key `objective`.

Losses stay per sample: the trainer divides by the global batch, so the result does not depend on how it is split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A pair of losses, both (N,1) logits to (N,1) losses.

    discriminator_real, discriminator_fake: the two terms that D minimises. generator: what G minimises.
    """

    discriminator_real: Callable[[Tensor], Tensor]
    discriminator_fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _softplus_negative(logits: Tensor) -> Tensor:
    return F.softplus(-logits)


# Goodfellow et al. 2014, section 3: D maximises log s(D(x)) + log(1 - s(D(G(z)))), G maximises log s(D(G(z))), where s
# is the logistic function and -log s(x) = softplus(-x).
NON_SATURATING = Objective(
    discriminator_real=_softplus_negative, discriminator_fake=F.softplus, generator=_softplus_negative
)

OBJECTIVES = {"non_saturating": NON_SATURATING}
