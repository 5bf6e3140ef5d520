"""Which weights matter, by their Fisher information, and two ways to keep those.

The information of a weight is the expected square of the loss's derivative by it. Li et al. 2020, "Few-shot Image
Generation with Elastic Weight Consolidation": weights are held where the source model had them, the more firmly the more
they matter. Zhao et al. 2022, "Few-shot Image Generation via Adaptation-Aware Kernel Modulation" (AdAM), and 2023,
"Exploring Incompatible Knowledge Transfer in Few-shot Image Generation" (RICK): filters that matter most are frozen, those
that matter least are removed, and the rest is fine-tuned.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

COLORS = 3


def information(weights: Sequence[nn.Parameter], losses: Iterable[Tensor]) -> list[Tensor]:
    """Sum over `losses`, scalars, of the square of each one's derivative by each of the weights."""
    totals = [torch.zeros_like(weight) for weight in weights]
    for loss in losses:
        for total, gradient in zip(totals, torch.autograd.grad(loss, weights, allow_unused=True)):
            if gradient is not None:
                total += gradient.square()
    return totals


class Consolidation:
    """Elastic weight consolidation: the sum over weights of F (weight - weight of the source model)^2.

    Li et al. 2020, equation 3, without lambda.

    Args:
        weights: those in training, at their source model's values.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights = weights
        self.source = [weight.detach().clone() for weight in weights]
        self.information = [torch.zeros_like(weight) for weight in self.source]

    def penalty(self) -> Tensor:
        """A scalar, differentiable in the weights."""
        terms = [
            (information * (weight - source).square()).sum()
            for information, weight, source in zip(self.information, self.weights, self.source)
        ]
        return torch.stack(terms).sum()

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The information alone: the source model's weights are there wherever a run begins."""
        return {"information": self.information}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        for own, loaded in zip(self.information, state["information"], strict=True):
            own.copy_(loaded)


class Filters:
    """The filters of a network's convolutions, each an output channel with its bias, and which of them learn.

    Layers that end in colours, masks or a logit are left out: among their few channels there is none to spare.

    Args:
        network: whose weights in training are looked at.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, network: nn.Module) -> None:
        named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        turned = tuple(f"{n}." for n, module in network.named_modules() if isinstance(module, nn.ConvTranspose2d))
        dims = {n: int(n.startswith(turned)) for n, weight in named.items() if weight.ndim == 4}  # of output channels
        chosen = [n for n, dim in dims.items() if named[n].shape[dim] > COLORS and "head" not in n]
        if not chosen:
            raise ValueError(
                f"fisher_freeze and fisher_zero must be 1 and 0 where {type(network).__name__} has no filters in training."
            )
        self.weights = [named[name] for name in chosen]
        self.biases = [named.get(name.removesuffix("weight") + "bias") for name in chosen]
        self.dims = [dims[name] for name in chosen]
        self.sizes = [weight.shape[dim] for weight, dim in zip(self.weights, self.dims)]
        count, device = sum(self.sizes), self.weights[0].device
        self.learning = torch.ones(count, dtype=torch.bool, device=device)
        self.removed = torch.zeros(count, dtype=torch.bool, device=device)

    def choose(self, information: Sequence[Tensor], freeze: float, zero: float = 0.0) -> None:
        """Freeze filters above the quantile `freeze` of their mean information; remove, for good, those below `zero`.

        information: of each of `weights`, in their shapes. The filters removed before have no part in the quantiles.
        """
        filters = (values.transpose(0, dim) for values, dim in zip(information, self.dims))
        means = torch.cat([values.flatten(1).mean(dim=1) for values in filters])
        present = means[~self.removed]
        frozen = (means > present.quantile(freeze)) & ~self.removed
        if zero > 0:
            self.removed |= means < present.quantile(zero)
        self.learning = ~(frozen | self.removed)

    @torch.no_grad()
    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Make what is removed zero, and let an optimiser forget where it was moving what does not learn."""
        for weight, learning, removed in self._split():
            weight.masked_fill_(removed, 0.0)
            moments = optimizer.state.get(weight, {})
            for name in {"exp_avg", "momentum_buffer"} & moments.keys():
                moments[name].mul_(learning)

    def mask_gradients(self) -> None:
        """Make the gradients of what does not learn zero; Adam then leaves it as it is, bit for bit."""
        for weight, learning, _ in self._split():
            if weight.grad is not None:
                weight.grad.mul_(learning)

    def _split(self) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
        """Each weight and bias with `learning` and `removed` of its filters, in a shape that multiplies it."""
        flags = self.learning.split(self.sizes), self.removed.split(self.sizes)
        for weight, bias, dim, *own in zip(self.weights, self.biases, self.dims, *flags):
            learning, removed = (flag.view(-1, 1, 1, 1).transpose(0, dim) for flag in own)
            yield weight, learning, removed
            if bias is not None:
                yield bias, learning.flatten(), removed.flatten()

    def state_dict(self) -> dict[str, Tensor]:
        return {"learning": self.learning, "removed": self.removed}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.learning.copy_(state["learning"])
        self.removed.copy_(state["removed"])
