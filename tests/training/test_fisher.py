"""Fisher information against derivatives by hand, elastic weight consolidation, and the choice of filters."""

import pytest
import torch
from torch import nn

from sharingan_hub import CoGANGenerator, DCGANGenerator, RadialGenerator, StyleGAN2Generator
from training.discriminators import DCGANDiscriminator, StyleGAN2Discriminator
from training.fisher import Consolidation, Filters, information


def test_information_of_a_linear_model():
    """For the loss (w x - y)^2 / 2 the derivative is (w x - y) x."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, dtype=torch.float64))
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    found, nothing = information([weight, unused], (((weight @ a - b) ** 2 / 2) for a, b in zip(x, y)))
    expected = ((x @ weight.detach() - y)[:, None] * x).square().sum(dim=0)
    torch.testing.assert_close(found, expected)
    assert (nothing == 0).all() and weight.grad is None


def test_information_of_a_logistic_model_is_its_variance():
    """With labels drawn from the model itself, the expected square of the score is p (1 - p) x^2."""
    torch.manual_seed(0)
    weight, x = nn.Parameter(torch.tensor(0.7)), 1.5
    p = torch.sigmoid(weight.detach() * x)
    labels = (torch.rand(4000) < p).float()
    losses = (nn.functional.binary_cross_entropy_with_logits(weight * x, label) for label in labels)
    (found,) = information([weight], losses)
    assert found / 4000 == pytest.approx((p * (1 - p) * x * x).item(), rel=0.05)


def test_consolidation_is_the_weighted_square_of_the_way_gone():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4))]
    held = Consolidation(weights)
    held.information = [torch.rand(2, 3), torch.rand(4)]
    assert held.penalty() == 0
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight += torch.randn_like(weight)
    total, gradients = 0.0, []
    for f, weight, start in zip(held.information, weights, before):
        for i in range(weight.numel()):
            total += f.flatten()[i].item() * (weight.flatten()[i] - start.flatten()[i]).item() ** 2
        gradients.append(2 * f * (weight.detach() - start))
    penalty = held.penalty()
    assert penalty.item() == pytest.approx(total, rel=1e-5)
    penalty.backward()
    for weight, gradient in zip(weights, gradients):
        torch.testing.assert_close(weight.grad, gradient)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 10, 1)
        self.torgb = nn.Conv2d(10, 3, 1)
        self.frozen = nn.Conv2d(2, 2, 1).requires_grad_(False)
        self.linear = nn.Linear(2, 2)


def chosen(freeze, zero):
    """Ten filters whose information is 0, 1, ... 9, in a shuffled order."""
    torch.manual_seed(0)
    network = Small()
    filters = Filters(network)
    rank = torch.tensor([3, 0, 9, 1, 7, 2, 8, 4, 6, 5])
    # Within a filter the mean counts, not the largest.
    filters.choose([rank.float().view(10, 1, 1, 1) + torch.tensor([-0.5, 0.5]).view(1, 2, 1, 1)], freeze, zero)
    return network, filters, rank


def test_filters_are_frozen_above_and_removed_below_the_quantiles():
    network, filters, rank = chosen(0.75, 0.1)
    assert [id(w) for w in filters.weights] == [id(network.conv.weight)]  # colours, what is frozen and no filters: not
    assert torch.equal(filters.removed, rank < 0.9)
    assert torch.equal(filters.learning, (rank >= 0.9) & (rank <= 6.75))


def test_what_is_frozen_stays_bit_for_bit_and_what_is_removed_stays_zero():
    network, filters, rank = chosen(0.75, 0.1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.9, 0.99))
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    def learn():
        optimizer.zero_grad()
        network.torgb(network.conv(torch.ones(1, 2, 1, 1)) ** 2 + 1).square().sum().backward()
        filters.mask_gradients()
        optimizer.step()

    filters.clear(optimizer)
    for _ in range(3):
        learn()
    for tensor, start in ((network.conv.weight, before["conv.weight"]), (network.conv.bias, before["conv.bias"])):
        assert torch.equal(tensor[rank > 6], start[rank > 6])
        assert (tensor[rank == 0] == 0).all()
        assert ((tensor != start).flatten(1).all(1) if tensor.ndim > 1 else tensor != start)[
            (rank > 0) & (rank < 7)
        ].all()
    assert (network.torgb.weight != before["torgb.weight"]).all()
    # Others are frozen later: Adam must not carry them on by its momentum. What is removed never comes back.
    filters.choose([9 - rank.float().view(10, 1, 1, 1).expand(-1, 2, -1, -1)], 0.75)
    filters.clear(optimizer)
    start = network.conv.weight.detach().clone()
    learn()
    assert (network.conv.weight[rank == 0] == 0).all()
    assert torch.equal(network.conv.weight[rank < 3], start[rank < 3])
    assert (network.conv.weight[rank > 3] != start[rank > 3]).all()


def test_a_transposed_convolution_s_filters_are_its_output_channels():
    """Its weights are (in, out, k, k). Two of eight channels learn, two are removed, four stay."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.LeakyReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())
    network[2].requires_grad_(False)
    filters = Filters(network)
    assert filters.learning.shape == (8,)
    rank = torch.tensor([5, 0, 7, 2, 6, 1, 3, 4])
    own = rank.float().view(1, 8, 1, 1) + torch.randn(3, 8, 2, 2).mul(0.01)
    filters.choose([own], 0.45, 0.25)
    assert torch.equal(filters.removed, rank < 2) and torch.equal(filters.learning, (rank >= 2) & (rank < 4))
    optimizer = torch.optim.Adam(network[0].parameters(), lr=0.1, betas=(0.9, 0.99))
    start = network[0].weight.detach().clone()
    filters.clear(optimizer)
    x = torch.randn(2, 3, 4, 4)
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        filters.mask_gradients()
        optimizer.step()
    weight = network[0].weight
    assert (weight[:, rank < 2] == 0).all() and torch.equal(weight[:, rank >= 4], start[:, rank >= 4])
    assert (weight[:, (rank >= 2) & (rank < 4)] != start[:, (rank >= 2) & (rank < 4)]).all()
    drawn = network[0](x)  # what is removed draws one colour, its bias
    assert torch.equal(drawn[:, rank < 2], network[0].bias[rank < 2].view(1, 2, 1, 1).expand(2, 2, 5, 5))


def test_quantiles_of_a_later_choice_leave_out_what_was_removed():
    _, filters, rank = chosen(1.0, 0.5)
    assert torch.equal(filters.removed, rank < 4.5) and torch.equal(filters.learning, rank > 4.5)
    filters.choose([rank.float().view(10, 1, 1, 1)], 0.75)
    assert torch.equal(filters.learning, (rank > 4.5) & (rank <= 8))


@pytest.mark.parametrize(
    "network",
    [
        RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8),
        StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, channel_base=128, channel_max=16),
        StyleGAN2Discriminator(resolution=16, channel_base=128),
    ],
    ids=lambda network: type(network).__name__,
)
def test_every_network_has_filters_with_their_biases(network):
    filters = Filters(network)
    names = {id(weight): name for name, weight in network.named_parameters()}
    assert len(filters.weights) >= 3
    for weight, bias in zip(filters.weights, filters.biases):
        name = names[id(weight)]
        assert "torgb" not in name and "head" not in name
        assert bias is None or names[id(bias)] == name.replace("weight", "bias")
    assert sum(bias is not None for bias in filters.biases) >= 3


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (DCGANGenerator(z_dim=8, resolution=16, channels=5), 10 + 5),
        (CoGANGenerator(z_dim=8, resolution=16, channels=5, shared_layers=1), 10 + 5 + 5),
        (DCGANDiscriminator(resolution=16, channels=5), 5 + 10),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dcgan_s_filters_are_channels_of_its_layers(network, count):
    """All but the colours and the logit, whichever way round the weights are."""
    filters = Filters(network)
    filters.choose([torch.rand_like(weight) for weight in filters.weights], 0.5, 0.1)
    assert len(filters.learning) == count
    filters.clear(torch.optim.Adam(network.parameters()))
    norms = torch.cat([w.transpose(0, d).flatten(1).norm(dim=1) for w, d in zip(filters.weights, filters.dims)])
    assert torch.equal(norms == 0, filters.removed) and filters.removed.sum() == 2


def test_a_network_without_filters_in_training_is_refused():
    with pytest.raises(ValueError, match="fisher_freeze and fisher_zero must be 1 and 0 where Linear"):
        Filters(nn.Linear(2, 2))
