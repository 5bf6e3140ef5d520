"""Small generators and adapters of them, for the tests of making, reading and loading adapters."""

import copy
from pathlib import Path

import pytest
import torch

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from sharingan_hub.checkpoints.adapters import make_adapter

BASE_MIX, ADAPTED_MIX = [0.25, 0.25, 0.5, 0.0], [0.0, 0.5, 0.0, 0.5]
SEEDS = range(6)


def network(family: str):
    """A small random generator whose first convolution is large enough to be stored as factors."""
    torch.manual_seed(0)
    if family == "stylegan2":
        model = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=2, channel_base=512, channel_max=32)
    else:
        model = RadialGenerator(
            z_dim=8,
            w_dim=8,
            resolution=32,
            max_order=4,
            num_masks=4,
            num_frame_masks=1,
            num_ground_masks=1,
            channels=(32,),
            base_radius=4,
            base_angle=8,
            mapping_layers=2,
            order_probs=BASE_MIX,
        )
    model.w_avg.normal_()
    return model.eval()


def kernel_name(model) -> str:
    return "convs.0.weight" if isinstance(model, RadialGenerator) else "synthesis.b8.conv1.weight"


@torch.no_grad()
def fine_tuned(base, seed: int = 1):
    """A copy of which some tensors moved, one of them by a change of rank 2, and that draws other orders."""
    model, rng = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    state, kernel = model.state_dict(), kernel_name(base)
    shape = state[kernel].shape
    state[kernel] += (torch.randn(shape[0], 2, generator=rng) @ torch.randn(2, shape[1:].numel(), generator=rng)).view(
        shape
    ) * 0.2
    for name, tensor in state.items():
        if "bias" in name or "affine" in name or name == "w_avg":
            tensor += torch.randn(tensor.shape, generator=rng) * 0.3
    if isinstance(model, RadialGenerator):
        model.register_to_config(order_probs=ADAPTED_MIX)
    return model


BASES = {family: network(family) for family in ("radial", "stylegan2")}
ADAPTED = {family: fine_tuned(base) for family, base in BASES.items()}
OTHERS = {family: fine_tuned(base, 2) for family, base in BASES.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for family, base in BASES.items():
        make_adapter(base, ADAPTED[family], root / family / "mine", base_model="user/base")
        make_adapter(base, OTHERS[family], root / family / "other")
    return root


@pytest.fixture(params=list(BASES))
def family(request) -> str:
    return request.param


@pytest.fixture
def pipe(family) -> SharinganPipeline:
    return SharinganPipeline(copy.deepcopy(BASES[family]))


@pytest.fixture
def mine(folders, family) -> Path:
    return folders / family / "mine"


@pytest.fixture
def other(folders, family) -> Path:
    return folders / family / "other"


def bits(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def delta(model, base) -> dict[str, torch.Tensor]:
    before = base.state_dict()
    return {name: tensor - before[name] for name, tensor in model.state_dict().items()}
