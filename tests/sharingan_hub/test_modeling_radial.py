import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub import SharinganPipeline
from sharingan_hub.modeling_radial import RadialGenerator, WedgeConv, unfold, upsample_wedge, wrap


@pytest.fixture(scope="module")
def generator() -> RadialGenerator:
    torch.manual_seed(1)
    settings = {"channels": (16, 12, 8), "num_masks": 8, "mapping_layers": 3, "resolution": 64}
    untrained = RadialGenerator(z_dim=16, w_dim=16, **settings).eval()
    for head in untrained.heads:  # training starts from circles: let the pattern speak up, on ground that shows it
        torch.nn.init.zeros_(head.bias)
    untrained.round_head.bias.data[3:] = 2.0
    return untrained


def test_a_style_and_its_negative_are_equally_near():
    """The mapping network ends without an activation, and its hidden layers may be wider than w."""
    torch.manual_seed(0)
    wide = RadialGenerator(z_dim=16, w_dim=8, channels=(8,), mapping_layers=3, mapping_width=64)
    assert [tuple(layer.weight.shape) for layer in wide.fc] == [(64, 32), (64, 64), (8, 64)]
    w = wide.mapping(torch.randn(4096, 16), torch.full((4096,), 2))
    skewness = (w - w.mean(dim=0)).pow(3).mean(dim=0) / w.std(dim=0) ** 3
    assert skewness.abs().max() < 0.6  # after a leaky ReLU some are above 1
    narrow = RadialGenerator(z_dim=16, w_dim=8, channels=(8,), mapping_layers=2, mapping_width=None)
    assert [tuple(layer.weight.shape) for layer in narrow.fc] == [(8, 32), (8, 8)]


def draw(generator: RadialGenerator, seed: int, order: int, phase: float = 0.0, size: int = 64) -> torch.Tensor:
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator(z, torch.tensor([order]), torch.tensor([phase]), size)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.integers(1, 8), copy=st.integers(1, 7), phase=st.floats(-7, 7))
def test_a_turn_by_one_wedge_changes_nothing(generator, seed, order, copy, phase):
    picture = draw(generator, seed, order, phase)
    turned = draw(generator, seed, order, phase + copy * 2 * math.pi / order)
    # Float rounding of the angle moves an edge by far less than a pixel.
    assert (picture - turned).abs().max() < 2e-2 and (picture - turned).abs().mean() < 1e-4


@pytest.mark.parametrize("order", range(1, 9))
def test_phase_is_a_rotation_so_every_order_is_n_fold_symmetric(generator, order):
    picture = draw(generator, 1, order, 0.3)
    assert (picture.rot90(1, (2, 3)) - draw(generator, 1, order, 0.3 + math.pi / 2)).abs().mean() < 1e-4
    angle, size = 2 * math.pi / order, 256
    large = draw(generator, 1, order, 0.3, size)
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(matrix[None], [1, 3, size, size], align_corners=False)
    axis = torch.linspace(-1, 1, size)
    inside = (axis[None] ** 2 + axis[:, None] ** 2) < 0.95
    difference = (F.grid_sample(large, grid, align_corners=False) - large)[..., inside].abs().mean()
    other = math.pi / order  # half a wedge: a picture that has some pattern is not symmetric under it
    half = (draw(generator, 1, order, 0.3 + other, size) - large)[..., inside].abs().mean()
    assert difference < 0.03 and difference < 0.3 * half


def test_the_round_masks_alone_draw_circles(generator):
    torch.manual_seed(1)
    bare = RadialGenerator(z_dim=16, w_dim=16, channels=(16, 12, 8), num_masks=8, mapping_layers=3)
    with torch.no_grad():
        bare.palette_head.weight *= 3  # bold colours
        for head in bare.heads:  # silence the pattern's masks
            head.weight[bare.num_round_masks :] = 0
            head.bias[bare.num_round_masks :] = -4
        picture = bare(torch.randn(1, 16), torch.tensor([3]), torch.tensor([0.0]), 64)
        turned = bare(torch.randn(1, 16), torch.tensor([3]), torch.tensor([0.0]), 64)
        ws = bare.broadcast(bare.mapping(torch.randn(1, 16), torch.tensor([3])), torch.tensor([3]))
        spun = ws.clone()
        spun[:, -1, 1] = 0.7
        assert (bare.synthesis(ws, 64) - bare.synthesis(spun, 64)).abs().max() < 1e-4
    assert picture.std() > 0.05 and (picture - turned).abs().max() > 0.05


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_one_set_of_weights_draws_the_same_picture_at_any_size(size):
    """Only the edges' pixels may differ, and those are averages; of the model in the package."""
    pipe = SharinganPipeline.from_pretrained()
    small, large = (pipe(seeds=range(8), output_size=side, output_type="pt").images for side in (128, size))
    assert (F.avg_pool2d(large, size // 128) - small).abs().mean(dim=(1, 2, 3)).max() < 0.01
    assert small.std() > 0.1


def test_edges_stay_about_a_pixel_wide():
    """Four times the size has four times the edges' length, not sixteen; of the model in the package, at every order."""
    model = SharinganPipeline.from_pretrained().generator_model
    z, order = torch.randn(8, 128, generator=torch.Generator().manual_seed(2)), torch.arange(1, 9)
    with torch.no_grad():
        ws = model.broadcast(model.mapping(z, order), order)
        masks = [model.masks(ws, output_size=size) for size in (128, 512)]
    blended = [((some > 0.02) & (some < 0.98)).float().mean().item() for some in masks]
    assert 0.2 * blended[0] < blended[1] < 0.3 * blended[0]


def test_where_two_patterns_lie_the_same_one_shows_at_any_size(generator):
    """Both far above the ground, a little apart: at none do their colours mix, nor does the ground show between them."""
    first = torch.tensor([30.0, 60.0]).repeat_interleave(32).expand(32, 64)
    pattern = torch.stack([first, first.flip(1), first - 200])[None]
    for size in (128, 256, 1024):
        _, smooth = generator._smooth((torch.zeros(1, 5, 64, 1), pattern), torch.tensor([1]), size)
        share = torch.softmax(F.pad(smooth * (math.e * size / 64), (0, 0, 0, 0, 0, 1)), dim=1)[0]
        assert share[1, :, 2:30].min() > 0.999 and share[0, :, 34:62].min() > 0.999
        assert share[2:, 3:].max() < 1e-3  # where a cell's arc is as long as a cell, or longer


def test_without_gradients_pictures_are_drawn_in_bands_and_are_the_same(generator):
    z, order = torch.randn(3, 16), torch.tensor([1, 4, 7])
    whole = generator(z, order, torch.tensor([0.0, 1.0, 2.0]), 520).detach()
    with torch.no_grad():
        banded = generator(z, order, torch.tensor([0.0, 1.0, 2.0]), 520)
        alone = generator(z[1:2], order[1:2], torch.tensor([1.0]), 520)
    assert (whole - banded).abs().max() < 1e-4
    assert (banded[1:2] - alone).abs().max() < 1 / 255


def test_masks_share_out_every_pixel(generator):
    order = torch.tensor([2, 6])
    ws = generator.broadcast(generator.mapping(torch.randn(2, 16), order), order)
    masks = generator.masks(ws, output_size=48)
    assert masks.shape == (2, 8, 48, 48) and masks.min() >= 0
    assert (masks.sum(dim=1) - 1).abs().max() < 1e-5
    assert torch.equal(
        generator.masks(ws, order=torch.tensor([3, 3]), output_size=48)[1],
        generator.masks(ws, order=torch.tensor([5, 3]), output_size=48)[1],
    )
    assert not torch.equal(generator.masks(ws, order=torch.tensor([3, 3]), output_size=48)[1], masks[1])


def test_a_palette_takes_the_colours_place_and_its_own_changes_nothing(generator):
    order = torch.tensor([4])
    with torch.no_grad():
        ws = generator.broadcast(generator.mapping(torch.randn(1, 16), order), order)
        own = generator.palette(ws)
        assert own.shape == (1, 8, 3) and own.min() >= 0 and own.max() <= 1
        assert torch.allclose(generator.synthesis(ws, palette=own), generator.synthesis(ws))
        assert torch.allclose(generator.synthesis(ws, palette=own[0]), generator.synthesis(ws))
        assert generator.synthesis(ws, palette=torch.zeros(8, 3)).max() == -1
        red = generator.synthesis(ws, palette=torch.tensor([1.0, 0.0, 0.0]).expand(8, 3))
        assert red[:, 0].max() > 0.5 and red[:, 1:].max() == -1


def test_outside_the_inscribed_circle_there_is_no_pattern(generator):
    order = torch.tensor([3])
    with torch.no_grad():
        masks = generator.masks(
            generator.broadcast(generator.mapping(torch.randn(1, 16), order), order), output_size=64
        )
    assert masks[0, generator.num_round_masks :, :4, :4].max() < 1e-3
    assert masks[0, generator.num_round_masks :, 16:48, 16:48].max() > 0.1


def test_order_and_phase_travel_in_the_last_row(generator):
    order, phase = torch.tensor([2, 7]), torch.tensor([0.5, -1.0])
    w = generator.mapping(torch.randn(2, 16), order)
    ws = generator.broadcast(w, order, phase)
    assert ws.shape == (2, generator.num_ws, 16) and generator.style_ws == generator.num_ws - 1
    assert torch.equal(ws[:, -1, :2], torch.stack([order.float(), phase], dim=1)) and not ws[:, -1, 2:].any()
    assert all(torch.equal(ws[:, i], w) for i in range(generator.style_ws))


def styles(generator: RadialGenerator, orders: list[float], phase: float = 0.0) -> torch.Tensor:
    """Latents of one style for each of the orders, fractions included."""
    w = generator.mapping(torch.randn(1, 16, generator=torch.Generator().manual_seed(4)), torch.tensor([2]))
    count = len(orders)
    return generator.broadcast(w.expand(count, -1), torch.tensor(orders), torch.full((count,), phase)).detach()


@settings(max_examples=50, deadline=None)
@given(order=st.integers(1, 8), part=st.floats(0.01, 0.99))
def test_between_orders_one_wedge_opens_among_whole_ones(order, part):
    angle = torch.linspace(-math.pi, math.pi, 7001)[None, None]  # the whole circle, ends included
    exact = torch.tensor(order + part)
    wedges = angle * exact / (2 * math.pi)
    turn, grown = unfold(wedges, exact.view(1, 1, 1), torch.remainder(wedges, 1))
    steps = torch.remainder(turn.diff(dim=2) + 0.5, 1) - 0.5
    width = exact / 7000
    new = grown < 1
    assert abs(new.float().mean() - part / exact) < 1e-3  # as wide as its part of a wedge
    inside = ~new[..., 1:] & ~new[..., :-1]
    assert torch.allclose(steps[inside], width, atol=1e-4)  # the others: undistorted
    assert torch.allclose(steps[new[..., 1:] & new[..., :-1]], width / part, atol=1e-4)
    assert turn[new].max() - turn[new].min() > 1 - 2 * width / part  # a whole one
    assert steps.abs().max() <= width / part + 1e-4  # and no tear anywhere
    assert turn[0, 0, 3500] < 1e-4 or turn[0, 0, 3500] > 1 - 1e-4  # the motif at the phase stands still
    assert torch.allclose(grown[new], torch.tensor(1 - (1 - part) ** 2), atol=1e-5)


@pytest.mark.parametrize("order", range(1, 8))
def test_a_morph_begins_and_ends_at_whole_orders(generator, order):
    ws = styles(generator, [order, order + 1e-3, order + 1 - 1e-3, order + 1], 0.4)
    with torch.no_grad():
        first, begun, nearly, last = generator.synthesis(ws, 128)
    assert (begun - first).abs().mean() < 5e-3 < (last - first).abs().mean()
    assert (nearly - last).abs().mean() < 5e-3


def test_a_morph_shows_no_tear(generator):
    """Across the negative x axis, where angles jump, neighbouring pixels differ no more than others."""
    with torch.no_grad():
        for order in (2.5, 3.5, 6.3):
            left = generator.masks(styles(generator, [order]), output_size=256)[..., :128]
            across = (left[..., 127, :] - left[..., 128, :]).abs().mean()
            beside = (left[..., 120:128, :].diff(dim=2)).abs().mean()
            assert across < 2 * beside


def test_the_new_motif_grows_where_the_wedge_opens(generator):
    """A motif a quarter of a wedge wide: at order 3 + f the new one is on the left, and comes once it is strong enough."""
    cells = torch.arange(64)
    motif = torch.where((cells < 8) | (cells >= 56), 5.0, -5.0).expand(1, 1, 32, 64)
    rounds = torch.tensor([-20.0] * 3 + [20.0] * 2).view(1, 5, 1, 1).expand(-1, -1, 64, -1)  # all of it is ground
    seen = []
    for order in (3.0, 3.1, 3.2, 3.5, 3.9, 4.0):
        condition = torch.tensor([[order, 0.0]])
        with torch.no_grad():
            masks = generator._masks((rounds, motif.expand(-1, 3, -1, -1)), condition, 128, slice(None))
        pattern = masks[0, 5:].sum(dim=0)
        assert pattern[64, 100] > 0.99  # at the phase
        seen.append(pattern[64, 27].item())
    assert max(seen[:3]) < 0.01 and min(seen[3:]) > 0.99  # 1 - (1 - f)**2 is half at f = 0.29


def test_whole_orders_cost_nothing_more_and_stay_the_same_beside_fractions(generator, monkeypatch):
    look_ups = []
    sample = F.grid_sample
    monkeypatch.setattr(F, "grid_sample", lambda *args, **options: look_ups.append(1) or sample(*args, **options))
    ws = styles(generator, [3, 3.4, 4, 7.5])
    whole = generator.synthesis(ws[[0, 2]], 48)
    assert len(look_ups) == 2
    assert (generator.synthesis(ws, 48)[[0, 2]] - whole).abs().max() < 1e-5  # another batch rounds otherwise
    look_ups.clear()
    with torch.no_grad():
        drawn = generator.synthesis(ws, 48)
        assert len(look_ups) == 2 + 3 + 2 + 3
        assert (drawn[[0, 2]] - whole).abs().max() < 1e-5
    assert (drawn[1] - drawn[0]).abs().max() > 0.02  # a fraction shows


def test_gradients_pass_through_a_morph(generator):
    ws = styles(generator, [3, 2.5]).requires_grad_()
    generator.synthesis(ws, 48).square().mean().backward()
    assert ws.grad.isfinite().all() and ws.grad[:, :-1].abs().sum(dim=(1, 2)).min() > 0
    assert ws.grad[1, -1, :2].abs().min() > 0  # order and phase
    step = torch.zeros_like(ws)
    step[1, -1, 0] = 1e-3
    with torch.no_grad():  # between whole orders the order's own gradient is the slope of the loss
        up, down = (generator.synthesis(ws + s, 48).double().square().mean() for s in (step, -step))
    assert (up - down).item() / 2e-3 == pytest.approx(ws.grad[1, -1, 0].item(), rel=0.1)


def test_modulated_convolution_is_the_papers_per_sample_weights():
    torch.manual_seed(0)
    conv = WedgeConv(5, 4, 6)
    x, w = torch.randn(3, 5, 7, 8), torch.randn(3, 6)
    out = conv(x, w)
    for i in range(3):  # equations 1 to 3 for one sample at a time, and a plain loop for the padding
        style = conv.affine(w[i : i + 1])[0]
        weight = conv.weight * conv.gain * style[None, :, None, None]
        weight = weight * (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        for r, a in ((0, 0), (3, 4), (6, 7)):
            total = conv.bias.clone()
            for dr in (-1, 0, 1):
                for da in (-1, 0, 1):
                    if 0 <= r + dr < 7:
                        total = total + weight[:, :, dr + 1, da + 1] @ x[i, :, r + dr, (a + da) % 8]
            assert torch.allclose(out[i, :, r, a], total, atol=1e-4)


def test_wedges_wrap_in_angle():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert np.array_equal(wrap(x, 2)[0, 0].numpy(), np.pad(x[0, 0].numpy(), ((0, 0), (2, 2)), mode="wrap"))
    rolled = upsample_wedge(x.roll(1, dims=3))
    assert torch.allclose(rolled, upsample_wedge(x).roll(2, dims=3))
    assert rolled.shape == (1, 1, 6, 8)


def test_the_centre_keeps_only_what_its_arc_can_hold(generator):
    logits = torch.randn(2, 3, 32, 64)
    limited = generator._limit_frequency(logits, torch.tensor([8.0, 1.0]))
    assert limited[0, :, 0].std(dim=-1).max() < 1e-3  # eight-fold at the very centre: a constant
    spectrum = torch.fft.rfft(limited[1, :, -1]) / torch.fft.rfft(logits[1, :, -1])
    assert (spectrum.abs()[:, :20] - 1).abs().max() < 1e-2  # one-fold at the edge: everything
    assert torch.allclose(limited.mean(dim=3), logits.mean(dim=3), atol=1e-5)


def outline(logits: torch.Tensor) -> torch.Tensor:
    """Where logits (R, A), high inside, cross zero: a radius in cells for each angle."""
    row = (logits > 0).sum(dim=0) - 1
    inside, outside = logits.gather(0, row[None])[0], logits.gather(0, row[None] + 1)[0]
    return row + 0.5 + inside / (inside - outside)


@pytest.mark.parametrize(("order", "wave"), [(4, 16), (8, 8), (3.5, 21)])
def test_outlines_wave_less_at_large_sizes_and_stand_where_they_stood(generator, order, wave):
    """A lobe, its outline waving by a third of a cell about every second one; what is outside weighs more than what is in."""
    radius, turn = torch.arange(32)[:, None] + 0.5, torch.arange(64) / 64
    lobe = 20 + 3 * torch.cos(2 * math.pi * turn)
    waving = lobe + 0.33 * torch.cos(2 * math.pi * wave * turn)
    logits = (waving - radius) * torch.where(radius > waving, 5.0, 1.0)
    rings, asked = torch.zeros(1, 5, 64, 1), torch.tensor([order])
    same = generator._smooth((rings, logits[None, None]), asked, 128)
    assert torch.equal(same[1][0, 0], logits)  # at the sizes of training
    drawn = {
        size: outline(generator._smooth((rings, logits[None, None]), asked, size)[1][0, 0]) for size in (256, 2048)
    }
    before = outline(logits)
    left = {size: (found - lobe).std() / (before - lobe).std() for size, found in drawn.items()}
    assert left[2048] < 0.5 and left[2048] < left[256] < 0.65
    assert all(abs((found - before).mean()) < 0.05 for found in drawn.values())


def test_smoothing_damps_a_faint_wave_by_a_gaussian_of_its_length(generator):
    """Half a cell of blur along the arc, and twice the steepness, at a size that is as good as infinite."""
    wave = 1e-3 * torch.cos(2 * math.pi * 5 * torch.arange(64) / 64).expand(1, 1, 32, 64)
    _, smooth = generator._smooth((torch.zeros(1, 5, 64, 1), wave), torch.tensor([3]), 2**20)
    gains = np.exp(-0.5 * (0.5 * 5 * 3 / (np.arange(32) + 0.5)) ** 2)  # of each row by itself
    side = math.exp(-2)
    padded = np.pad(gains, 1, mode="edge")
    expected = 2 * (padded[1:-1] + side * (padded[:-2] + padded[2:])) / (1 + 2 * side)
    np.testing.assert_allclose(smooth[0, 0, :, 0].detach() / 1e-3, expected, rtol=1e-3, atol=1e-5)


def test_every_weight_learns(generator):
    order = torch.tensor([1, 3, 5, 8])
    generator.train().zero_grad()
    generator(torch.randn(4, 16), order, torch.rand(4), 32).square().mean().backward()
    for name, weight in generator.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    generator.eval().zero_grad()


def test_weights_and_config_survive_a_round_trip(tmp_path):
    saved = RadialGenerator(z_dim=16, w_dim=16, channels=(12, 8), order_probs=[0.125] * 8)
    saved.w_avg.normal_()
    saved.save_pretrained(tmp_path)
    loaded = RadialGenerator.from_pretrained(tmp_path)
    assert loaded.config.order_probs == [0.125] * 8
    assert torch.equal(draw(saved, 0, 3), draw(loaded, 0, 3)) and torch.equal(saved.w_avg, loaded.w_avg)


@pytest.mark.parametrize(
    "arguments, named", [({"num_ground_masks": 5}, "num_ground_masks"), ({"order_probs": [1.0]}, "order_probs")]
)
def test_wrong_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        RadialGenerator(**arguments)
