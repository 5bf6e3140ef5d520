"""What is found of a few pictures before the first step: designs, turns, colours; and what mapping and palette make of it."""

import numpy as np
import pytest
import torch

from sharingan_hub import RadialGenerator, hub
from tests.training.conftest import settings
from training import adapt, designs, prune, reading, train
from training.adapt import EMBEDDED_SOURCE, AdaptConfig


@pytest.fixture(scope="module")
def reader(source) -> tuple[reading.Designs, reading.Reader]:
    designs = reading.draw_designs(source, 2000, seed=0)
    return designs, reading.learn_to_read(source, designs, seed=0)


@pytest.fixture(scope="module")
def source() -> RadialGenerator:
    return hub.read_generator(EMBEDDED_SOURCE).eval().requires_grad_(False)


def drawn(source, z, orders, phase=0.0, colors=None) -> torch.Tensor:
    """Pictures of a generator's designs, in its colours or in those given, turned by `phase`."""
    w = source.mapping(z, orders)
    ws = source.broadcast(w, orders, torch.full((len(z),), phase))
    return source.synthesis(ws, 64, colors)


def normal(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_what_a_design_explains_is_what_least_squares_explains_at_each_turn():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((2, 3, 64, 64))).float()
    circles = torch.from_numpy(rng.random((1, 3, designs.RADII, designs.ANGLES))).float()
    found = designs.fits(masks, circles)
    along = designs.circles_of(masks).double().numpy()
    radii = np.arange(designs.RADII) + 0.5
    area = np.repeat(radii / (radii.sum() * designs.ANGLES), designs.ANGLES)
    slope = np.repeat(radii / designs.RADII - 0.5, designs.ANGLES)
    for m, turn in [(0, 0), (1, 0), (1, 13), (0, 63)]:
        rolled = np.roll(along[m], turn, axis=2).reshape(3, -1)
        basis = np.concatenate([rolled, rolled * slope]) * np.sqrt(area)
        explained = 0.0
        for channel in circles[0].double().numpy().reshape(3, -1) * np.sqrt(area):
            b = basis @ channel
            explained += b @ np.linalg.solve(basis @ basis.T + designs.RIDGE * np.eye(6), b)
        assert found[0, m, turn].item() == pytest.approx(explained, rel=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3, 8])
def test_a_wedge_is_rolled_where_the_picture_turns(source, order):
    z, orders = normal(8, source.z_dim, 12), torch.full((8,), order)
    quarter = 2 * np.pi / order / 4
    still, turned = (reading.wedges_of(drawn(source, z, orders, turn), order) for turn in (0.0, quarter))
    same, back, forth = (
        (still.roll(cells, 3) - turned).square().mean() for cells in (0, -reading.ANGLES // 4, reading.ANGLES // 4)
    )
    assert forth < 0.2 * min(same, back)


def test_wedges_are_painted_as_pictures_are(source):
    """Masks painted, then folded to a wedge, are masks folded, then painted."""
    z, orders = normal(3, source.z_dim, 13), torch.full((3,), 5)
    w = source.mapping(z, orders)
    masks, values = reading.design_masks(source, w, 5), reading.palette_values(source, w)
    painted = source.paint(masks, source.broadcast(w, orders))
    folded = reading.paint_wedges(reading.wedges_of(masks, 5), values)
    assert (reading.wedges_of(painted, 5) - folded).abs().mean() < 0.02


def test_a_reader_tells_styles_whatever_the_colours_and_the_turn(source, reader):
    """Of designs that it has never seen, in strange colours: nearer than any constant, and the same design from itself."""
    designs, network = reader
    z, orders = normal(40, source.z_dim, 14), torch.arange(40) % 8 + 1
    colors = torch.rand(40, 7, 3, generator=torch.Generator().manual_seed(2))
    truth = (source.mapping(z, orders) - network.center) / network.scale
    ws = source.broadcast(source.mapping(z, orders), orders, torch.full((40,), 0.7))
    read = reading.read_pictures(network, source.synthesis(ws, 64, colors), orders)
    assert (read - truth).square().mean() < 0.97 * truth.square().mean()
    others = reading.read_designs(network, source, designs, seed=1)
    again = reading.read_designs(network, source, designs, seed=2)
    assert (others - again).square().mean() < 0.3 * (others - others.roll(8, 0)).square().mean()


def test_a_reader_of_a_seed_is_the_same_and_leaves_torch_s_random_numbers(source):
    designs = reading.draw_designs(source, 40, seed=3)
    torch.manual_seed(7)
    first = reading.learn_to_read(source, designs, seed=3).state_dict()
    after = torch.rand(1)
    second = reading.learn_to_read(source, designs, seed=3).state_dict()
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("perplexity", [2.0, 10.0])
def test_as_many_designs_count_as_wanted(perplexity):
    errors = (
        torch.rand(5, 200, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1e-2, 0.1, 1, 1])[:, None]
    )
    shares = designs.likely(errors, perplexity)
    assert torch.allclose(shares.sum(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(torch.special.entr(shares).sum(dim=1).exp(), torch.full((5,), perplexity), rtol=1e-2)
    assert torch.equal(shares.argmax(dim=1), errors.argmin(dim=1))


def test_few_designs_or_equal_ones_are_no_trouble():
    assert torch.isfinite(designs.likely(torch.tensor([[0.2, 0.1]]), 10.0)).all()
    assert torch.allclose(designs.likely(torch.full((1, 30), 0.1), 10.0), torch.full((1, 30), 1 / 30))


def test_transport_gives_the_wanted_gaussian_and_moves_no_more_than_it_must():
    x = normal(4000, 3, 0) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.7]]) + 3
    y = normal(4000, 3, 1) @ torch.tensor([[0.5, 0.2, 0], [0, 1, 0], [0.3, 0, 0.2]]) - 1
    matrix, offset = designs.transport(x, y, 0.0)
    moved = x @ matrix.t() + offset
    assert torch.allclose(moved.mean(dim=0), y.mean(dim=0), atol=1e-4)
    assert torch.allclose(moved.t().cov(), y.t().cov(), atol=5e-3)
    # Of all affine maps that do this, the one whose matrix is symmetric and positive moves least (Brenier).
    assert torch.allclose(matrix, matrix.t(), atol=1e-4) and (torch.linalg.eigvalsh(matrix) > 0).all()
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    root, inverse = designs.square_root(y.t().cov()), torch.linalg.inv(designs.square_root(x.t().cov()))
    other = (x - x.mean(dim=0)) @ (root @ turn @ inverse).t() + y.mean(dim=0)
    assert (moved - x).square().sum() < (other - x).square().sum()


def test_transport_of_shares_is_transport_of_as_many_rows():
    x, y = normal(200, 3, 3), normal(50, 3, 4) * 0.5 + 1
    counts = torch.arange(200) % 4
    by_shares = designs.transport(x, y, 0.2, counts / counts.sum())
    by_rows = designs.transport(x.repeat_interleave(counts, dim=0), y, 0.2)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(by_shares, by_rows))


def test_tilting_gives_the_mean_and_is_exponential(monkeypatch):
    """A Gaussian tilted by exp(t x) is the same Gaussian moved by t; the smaller the ridge, the nearer the mean."""
    x = normal(200_000, 1, 5)
    monkeypatch.setattr(designs, "TILT", 1e-4)
    shares = designs.tilted(x, torch.full((len(x),), 1 / len(x)), torch.tensor([0.8]))
    mean = shares @ x
    assert mean.item() == pytest.approx(0.8, abs=0.01)
    assert (shares @ (x - mean).square()).item() == pytest.approx(1, abs=0.03)
    slope = (shares[1:] / shares[:-1]).log() / (x[1:] - x[:-1])[:, 0]
    near = (x[1:] - x[:-1])[:, 0].abs() > 0.1
    assert torch.allclose(slope[near], torch.tensor(0.8), atol=0.02)
    monkeypatch.setattr(designs, "TILT", 1.0)
    assert 0.3 < designs.tilted(x, torch.full((len(x),), 1 / len(x)), torch.tensor([0.8])) @ x < 0.5


def test_what_is_like_no_design_is_taken_for_no_stranger_than_one():
    known = torch.tensor([[3.0, 0], [0, -5], [0, 0]])
    assert torch.equal(designs.within(torch.tensor([[2.0, 2], [0, 0]]), known), torch.tensor([[2.0, 2], [0, 0]]))
    assert torch.allclose(designs.within(torch.tensor([[30.0, -40]]), known), torch.tensor([[3.0, -4]]))


def test_designs_are_carried_to_what_the_pictures_vary_in():
    """In the directions in which designs differ; along the others they stay where they are."""
    spread = torch.cat([torch.full((4,), 3.0), torch.full((36,), 0.1)])
    known, read = normal(4000, 40, 6) * spread, normal(900, 40, 7) * 0.5 + 1
    shares = torch.rand(4000, generator=torch.Generator().manual_seed(3))
    shares = shares / shares.sum()
    moved = known + designs.carried(known, shares, read)
    assert torch.allclose(shares @ moved[:, :4], read[:, :4].mean(dim=0), atol=0.05)
    assert torch.allclose(moved[:, :4].std(dim=0), read[:, :4].std(dim=0), rtol=0.1)
    directions = torch.linalg.eigh(known.t().cov()).eigenvectors[:, : 40 - designs.DIRECTIONS]
    assert torch.allclose(moved @ directions, known @ directions, atol=1e-4)


def test_one_picture_has_a_gaussian_too():
    matrix, offset = designs.transport(normal(500, 4, 0), torch.full((1, 4), 0.5), 0.3)
    moved = normal(500, 4, 2) @ matrix.t() + offset
    assert (moved - 0.5).abs().max() < 0.3


def test_refining_brings_a_design_to_its_picture(source):
    orders, own = torch.tensor([4, 6]), normal(2, source.z_dim, 5)
    pictures = drawn(source, own, orders, 0.4)
    near = torch.lerp(source.mapping(own, orders), source.mapping(normal(2, source.z_dim, 6), orders), 0.3)
    truth = reading.design_masks(source, source.mapping(own, orders), orders, torch.tensor([0.4, 0.4]))
    before = (reading.design_masks(source, near, orders, torch.tensor([0.4, 0.4])) - truth).square().mean()
    after = (designs.refine(source, near, pictures, orders) - truth).square().mean()
    assert after < 0.5 * before


def test_the_palette_takes_the_pictures_colours_and_a_mask_none_shows_the_pattern_s(source):
    generator = hub.read_generator(EMBEDDED_SOURCE)
    masks = torch.zeros(6, 7, 64, 64)
    masks[:, 0], masks[:, 3, 16:48, 8:56], masks[:, 5, 28:36, 28:36] = 1, 1, 1
    masks[:, 0] -= masks[:, 3]
    masks[:, 3] -= masks[:, 5]
    wanted = torch.tensor([[0.9, 0.9, 0.9], [0.7, 0.2, 0.2], [0.1, 0.1, 0.3]])
    pictures = torch.einsum("nkhw,kc->nchw", masks[:, [0, 3, 5]], wanted) * 2 - 1
    orders = torch.arange(400) % 8 + 1
    styles = source.mapping(normal(400, source.z_dim, 7), orders)
    designs.repaint(generator, source, masks, pictures, styles)
    ws = generator.broadcast(generator.mapping(normal(400, source.z_dim, 8), orders), orders)
    palette = generator.palette(ws).mean(dim=0)
    # Shading darkens by a twentieth at rest.
    assert (palette[[0, 3, 5]] - wanted).abs().max() < 0.1
    assert torch.allclose(palette[[1, 2, 4, 6]], palette[5].expand(4, 3), atol=0.05)


def test_the_mapping_learns_to_draw_the_chosen_designs_alone(source):
    generator = hub.read_generator(EMBEDDED_SOURCE)
    generator.fc[0].requires_grad_(False)
    z, shares, orders = normal(300, source.z_dim, 9), torch.zeros(300), torch.full((256,), 4)
    shares[:30] = 1 / 30
    chosen = source.mapping(z[:30], torch.full((30,), 4))
    untouched = {n: v.clone() for n, v in generator.state_dict().items() if not n.startswith("fc.")}
    mix = torch.zeros(8).index_fill_(0, torch.tensor([3]), 1.0)
    wanted = torch.stack([source.mapping(z, torch.full((300,), n)) for n in range(1, 9)])
    designs.redraw(generator, wanted, shares, mix, 60, seed=0)
    fresh = normal(256, source.z_dim, 10)
    own = 2 * torch.cdist(chosen, chosen).mean()

    @torch.no_grad()
    def apart(network) -> float:
        made = network.mapping(fresh, orders)
        return float(2 * torch.cdist(made, chosen).mean() - torch.cdist(made, made).mean() - own / 2)

    assert apart(generator) < 0.5 * apart(source)
    assert all(torch.equal(v, untouched[n]) for n, v in generator.state_dict().items() if n in untouched)
    assert not generator.fc[0].weight.requires_grad and generator.fc[1].weight.requires_grad
    assert generator.fc[1].weight.grad is None


def test_unknown_orders_are_read_off_the_pictures(source, monkeypatch):
    asked, read_pictures = [], reading.read_pictures

    def listen(reader, pictures, orders):
        asked.append(orders.tolist())
        return read_pictures(reader, pictures, orders)

    monkeypatch.setattr(designs, "read_pictures", listen)
    pictures = drawn(source, normal(2, source.z_dim, 11), torch.tensor([3, 5]))
    designs.match_designs(hub.read_generator(EMBEDDED_SOURCE), pictures, torch.tensor([3, 0]), 30, 1)
    assert asked == [[3, 5]]


def test_adaptation_begins_with_them_and_resumes_to_the_same_bits(folder, tmp_path):
    changes = {"designs": 30, "designs_steps": 3, "order_prior": 1.0, "freeze_generator": ["fc"]}
    plain, begun = ({"max_steps": 2, **some} for some in ({"freeze_generator": ["fc"]}, changes))
    for name, some in (("plain", plain), ("begun", begun)):
        adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / name, **some)))
    adapt.adapt(
        AdaptConfig(
            **settings(folder, "radial", tmp_path / "two", **changes | {"max_steps": 1, "checkpointing_steps": 1})
        )
    )
    adapt.adapt(AdaptConfig(**settings(folder, "radial", tmp_path / "two", **begun, resume_from="latest")))
    first, other, resumed = (hub.read_generator(tmp_path / name).state_dict() for name in ("begun", "plain", "two"))
    assert not torch.equal(first["fc.0.weight"], other["fc.0.weight"])  # though the game leaves it alone
    assert all(torch.equal(first[name], resumed[name]) for name in first)


def test_what_they_do_not_fit_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match="designs must be 0 with StyleGAN2Generator, which draws no masks"):
        adapt.build_adaptation(AdaptConfig(**settings(folder, "stylegan2", tmp_path, designs=30)))
    with pytest.raises(ValueError, match="designs must be 0 with adapter_rank"):
        AdaptConfig(**settings(folder, "radial", tmp_path, designs=30, adapter_rank=2))
    with pytest.raises(ValueError, match="designs must be 0 in a search for tickets"):
        prune.PruneConfig(**settings(folder, "radial", tmp_path, designs=30))
    with pytest.raises(ValueError, match="designs must not be negative"):
        AdaptConfig(**settings(folder, "radial", tmp_path, designs=-1))


def test_a_prior_fills_up_the_orders_that_are_seen():
    mix = [0.0, 0.5, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0]
    assert train.with_prior(mix, 4, 0.0) == mix
    assert train.with_prior(mix, 4, 1.0) == pytest.approx([0, 3 / 7, 2 / 7, 0, 2 / 7, 0, 0, 0])
    assert train.with_prior(None, 4, 1.0) is None
