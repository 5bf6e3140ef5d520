"""Training with few numbers: what matrices change is a product of two thin ones.

LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") on a generator's convolution kernels and
linear layers, seen as matrices (out, in * kernel). Biases and small tensors are trained whole.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sharingan_hub import hub
from sharingan_hub.cards.facts import told_name
from sharingan_hub.checkpoints.adapters import AdapterReport, is_factorized, make_adapter, matrix_shape
from training.sampling import seeded


class LowRank(nn.Module):
    """weight -> weight + up @ down / sqrt(rank).

    `down` is drawn with unit variance, as weights with an equalised learning rate are, and `up` starts at zero. The root of
    the rank, not the rank (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"), makes
    Adam's first step move an entry of the weight by as much as a step on the weight itself would, whatever the rank.
    """

    def __init__(self, weight: Tensor, rank: int, rng: torch.Generator) -> None:
        super().__init__()
        out, into = matrix_shape(weight.shape)
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        self.down = nn.Parameter(torch.randn(rank, into, generator=rng).to(weight))
        self.scale = rank**-0.5

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, (out, in, ...) like the weight, in its own precision."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * self.up @ self.down).reshape(weight.shape)


def add_low_rank(generator: Any, rank: int, seed: int) -> None:
    """Freeze the matrices that are in training, and train a change of each that has this rank. No picture changes.

    What is frozen already stays so. Tensors that are small, or for which factors would not be smaller, are trained whole.

    Raises:
        ValueError: rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"adapter_rank must be at least 1, got {rank}.")
    for prefix, module in list(generator.named_modules()):
        if module is generator:
            continue  # a parametrised module is of another class, and the generator's own must stay
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.requires_grad and is_factorized(weight.shape, rank):
                change = LowRank(weight.detach(), rank, seeded(seed, 0, f"low rank {prefix}.{name}"))
                parametrize.register_parametrization(module, name, change)
                weight.requires_grad_(False)


@torch.no_grad()
def merged(generator: Any) -> Any:
    """A copy of a generator with plain weights, the changes added to them.

    Made anew: a deep copy shares its parametrised classes with the original, and taking them apart would break that too.
    """
    if not any(parametrize.is_parametrized(module) for module in generator.modules()):
        return deepcopy(generator)
    tensors = {}
    for prefix, module in generator.named_modules():
        if isinstance(module, parametrize.ParametrizationList | nn.ModuleDict | LowRank):
            continue
        names = [*module._parameters, *module._buffers]
        names += module.parametrizations.keys() if parametrize.is_parametrized(module) else []
        tensors.update({f"{prefix}.{name}".lstrip("."): getattr(module, name) for name in names})
    with torch.device("meta"):  # shapes only, no memory
        copy = type(generator)(**{name: value for name, value in generator.config.items() if not name.startswith("_")})
    copy.load_state_dict({name: tensors[name].detach().clone() for name in copy.state_dict()}, assign=True)
    return copy.train(generator.training)


def write_adapter(base_model: str, adapted: Any, folder: Path, rank: int | None) -> AdapterReport:
    """Write what a run changed of its base as an adapter; see sharingan_hub.checkpoints.adapters.make_adapter.

    base_model: folder or Hub id of the base; others are told its told_name.
    adapted: the generator that is published, with plain weights.
    rank: that of add_low_rank; None where all of what changed is kept.
    """
    base = hub.read_generator(hub.locate(base_model))
    return make_adapter(base, adapted, folder, rank, told_name(base_model))
