"""GAN objectives: what D and what G minimise, one pair of losses for each value of the key `objective`.

Losses are per sample: the trainer divides by the global batch, so the result does not depend on how it is split. A loss
sees logits of reals and of fakes side by side, because some objectives compare them; most are a sum of two terms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Term = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A pair of losses, all tensors (N,M): M logits of a picture, one where it is judged as a whole.

    discriminator: logits of reals, of fakes -> what D minimises. generator: logits of fakes, of reals -> what G minimises.
    paired: whether G's loss looks at the reals; with the others they may be anything.
    """

    discriminator: Loss
    generator: Loss
    paired: bool = False


def separable(real: Term, fake: Term, generator: Term) -> Objective:
    """An objective whose losses judge reals and fakes each by themselves."""
    return Objective(lambda r, f: real(r) + fake(f), lambda f, r: generator(f))


def _softplus_negative(logits: Tensor) -> Tensor:
    return F.softplus(-logits)


def _minus_softplus(logits: Tensor) -> Tensor:
    return -F.softplus(logits)


def _distance(target: float, logits: Tensor) -> Tensor:
    return (logits - target).square()


def _sigmoid_distance(target: float, logits: Tensor) -> Tensor:
    return (logits.sigmoid() - target).square()


def _relativistic(first: Tensor, second: Tensor) -> Tensor:
    return F.softplus(second - first)


OBJECTIVES = {
    # Goodfellow et al. 2014, equation 1: D maximises log s(D(x)) + log(1 - s(D(G(z)))), where s is the logistic function
    # and -log s(x) = softplus(-x); G minimises the same.
    "minimax": separable(_softplus_negative, F.softplus, _minus_softplus),
    # The same, section 3: G maximises log s(D(G(z))), whose gradient does not vanish where D is sure.
    "non_saturating": separable(_softplus_negative, F.softplus, _softplus_negative),
    # Arjovsky et al. 2017, "Wasserstein GAN", equation 2: what D minimises is the distance with the sign turned.
    "wasserstein": separable(lambda real: -real, lambda fake: fake, lambda fake: -fake),
    # Mao et al. 2017, "Least Squares Generative Adversarial Networks", without their factor 1/2: equation 9, codes 0 and 1;
    "least_squares": separable(partial(_distance, 1.0), partial(_distance, 0.0), partial(_distance, 1.0)),
    # and equation 8, codes -1, 1 and 0, with which G minimises Pearson's chi-squared.
    "least_squares_signed": separable(partial(_distance, 1.0), partial(_distance, -1.0), partial(_distance, 0.0)),
    # Lim and Ye 2017, "Geometric GAN".
    "hinge": separable(lambda real: F.relu(1 - real), lambda fake: F.relu(1 + fake), lambda fake: -fake),
    # Huang et al. 2024, "The GAN is dead; long live the GAN!" (R3GAN), equation 2, after Jolicoeur-Martineau 2019: each real
    # is compared with the fake beside it.
    "relativistic": Objective(_relativistic, _relativistic, paired=True),
    # Squared errors of probabilities, where least squares has those of logits (Menon and Dubey).
    "mse": separable(partial(_sigmoid_distance, 1.0), partial(_sigmoid_distance, 0.0), partial(_sigmoid_distance, 1.0)),
}


def began(k: float) -> Objective:
    """Berthelot et al. 2017, "BEGAN", section 3.3: here D's logits are reconstruction errors L, which G brings down.

    D minimises L(x) - k L(G(z)); see next_k.
    """
    return separable(lambda real: real, lambda fake: -k * fake, lambda fake: fake)


def next_k(k: float, gamma: float, rate: float, real: float, fake: float) -> float:
    """BEGAN's controller, in [0, 1]: k grows where fakes are reconstructed better than gamma times as badly as reals.

    real, fake: mean reconstruction errors of a step.
    """
    return min(1.0, max(0.0, k + rate * (gamma * real - fake)))


def convergence(gamma: float, real: float, fake: float) -> float:
    """BEGAN's measure of convergence, section 3.4; arguments as for next_k. Small is good."""
    return real + abs(gamma * real - fake)


def accuracy(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """Whether D tells each real from the fake beside it, (N,M) with values 1, 0, or 1/2 where it sees no difference.

    It does where the other way round would cost it more. No threshold is needed, and the objective may be any.
    """
    return (1 + (objective.discriminator(fake, real) - objective.discriminator(real, fake)).sign()) / 2
