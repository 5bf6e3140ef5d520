"""Interpolation, style mixing and directions, on small random generators, and the morph on the embedded model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sharingan_hub import (
    CoGANGenerator,
    DCGANGenerator,
    R3GANGenerator,
    SharinganPipeline,
    animate,
    directions,
    interpolate,
    interpolate_palettes,
    interpolate_seeds,
    layer_ranges,
    move,
    style_mix,
    vary,
)
from sharingan_hub.postprocess.oklab import to_oklab
from sharingan_hub.timeline import EASINGS, LOOPS, Timeline, catmull_rom, slerp
from tests.sharingan_hub.conftest import pipeline_with_classes, tiny

PIPES = {"radial": tiny("radial", max_order=8, order_probs=None), "stylegan2": tiny("stylegan2", resolution=32)}


@pytest.fixture(params=list(PIPES))
def pipe(request) -> SharinganPipeline:
    return PIPES[request.param]


@pytest.fixture
def radial() -> SharinganPipeline:
    return PIPES["radial"]


def stops(count: int, loop: str) -> list[int]:
    return [*range(count), *(range(count - 2, 0, -1) if loop == "ping-pong" else ())]


def frames_of(latents) -> torch.Tensor:
    return latents[0 : len(latents)]


# Time


@given(count=st.integers(2, 9), frames=st.integers(2, 200), loop=st.sampled_from(LOOPS))
def test_every_keyframe_is_a_frame_and_stretches_last_equally_long(count, frames, loop):
    order = stops(count, loop)
    assume(frames >= len(order))
    timeline = Timeline(count, frames, "linear", loop)
    at = timeline.at(torch.arange(frames))
    arrived = at.t == 0
    assert timeline.stop(at.stretch)[arrived].tolist() == order
    assert at.t.min() >= 0 and at.t.max() < 1
    numbers = [*at.frame[arrived].tolist(), *([] if loop == "once" else [frames])]
    lengths = np.diff(numbers)
    assert lengths.max() - lengths.min() <= 1
    assert numbers[0] == 0 and numbers[-1] == (frames - 1 if loop == "once" else frames)


def test_easings_go_from_one_end_to_the_other_and_mean_their_names():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    slopes = {}
    for name, ease in EASINGS.items():
        eased = ease(t)
        assert eased[0] == 0 and eased[-1] == 1 and (eased.diff() > 0).all()
        slopes[name] = (eased.diff()[0] * 100, eased.diff()[-1] * 100)
    assert slopes["linear"] == pytest.approx((1, 1))
    assert slopes["smooth"] == pytest.approx((0, 0), abs=0.05)
    assert slopes["in"] == pytest.approx((0, 2), abs=0.05) and slopes["out"] == pytest.approx((2, 0), abs=0.05)


def test_memory_does_not_grow_with_the_number_of_frames(radial):
    keyframes = radial.prepare_latents([1, 2], order=3)
    latents = interpolate(keyframes, 10**9)
    assert len(latents) == 10**9
    assert torch.equal(latents[-1], keyframes[1]) and torch.equal(latents[0], keyframes[0])
    middle = latents[500_000_000:500_000_003]
    assert torch.allclose(middle[1], keyframes.mean(dim=0), atol=1e-5) and middle.shape == (3, *keyframes.shape[1:])
    assert next(animate(radial, latents, output_size=16)).size == (16, 16)
    with pytest.raises(IndexError):
        latents[10**9]


def test_frames_are_the_same_one_by_one_and_in_slices(pipe):
    for latents in (
        interpolate(pipe.prepare_latents([1, 2, 3]), 11, loop="loop"),
        interpolate_seeds(pipe, [1, 2, 3], 11, loop="loop"),
    ):
        one_by_one = torch.stack(list(latents))
        assert one_by_one.shape == (11, pipe.generator_model.num_ws, 12)
        torch.testing.assert_close(frames_of(latents), one_by_one)
        torch.testing.assert_close(latents[2:9:3], one_by_one[2:9:3])


# Ways through W and Z


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("easing", list(EASINGS))
@pytest.mark.parametrize("way", ["linear", "spline", "z"])
def test_at_a_keyframe_the_latents_are_its_own_bit_for_bit(pipe, loop, easing, way):
    seeds = [7, 3, 5, 11]
    keyframes = pipe.prepare_latents(seeds, 0.6)
    if way == "z":
        latents = interpolate_seeds(pipe, seeds, 23, 0.6, easing=easing, loop=loop)
    else:
        latents = interpolate(keyframes, 23, way, easing, loop)
    order = stops(4, loop)
    span = 23 - (loop == "once")
    for place, keyframe in enumerate(order):
        frame = place * span // (len(order) - (loop == "once"))
        assert torch.equal(latents[frame], keyframes[keyframe]), (place, frame)
    assert not torch.equal(latents[1], latents[0])


def test_straight_ways_have_constant_speed(pipe):
    keyframes = pipe.prepare_latents([7, 3, 5])
    styles = frames_of(interpolate(keyframes, 41, "linear"))[:, 0]
    steps = styles.diff(dim=0).norm(dim=1)
    for half, (start, end) in zip((steps[:20], steps[20:]), ((0, 1), (1, 2))):
        expected = (keyframes[end, 0] - keyframes[start, 0]).norm() / 20
        torch.testing.assert_close(half, expected.expand(20), rtol=1e-3, atol=0)


@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=2, unique=True), dim=st.integers(2, 40))
def test_great_circles_have_constant_speed_and_length_grows_evenly(seeds, dim):
    a, b = (torch.from_numpy(np.random.RandomState(seed).randn(dim)) for seed in seeds)
    points = slerp(a, b, torch.linspace(0, 1, 21, dtype=torch.float64)[:, None])
    torch.testing.assert_close(points[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(points.norm(dim=1), torch.linspace(a.norm().item(), b.norm().item(), 21).double())
    units = points / points.norm(dim=1, keepdim=True)
    between = torch.acos((units[0] @ units[-1]).clamp(-1, 1))
    chords = units.diff(dim=0).norm(dim=1)
    torch.testing.assert_close(chords, (2 * torch.sin(between / 40)).expand(20), rtol=1e-5, atol=1e-9)


def test_slerp_of_parallel_vectors_is_a_straight_line():
    a = torch.tensor([1.0, 2.0, -1.0])
    torch.testing.assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    assert slerp(a, -a, 0.5).isfinite().all()


def test_between_seeds_lies_what_the_mapping_network_makes_of_the_great_circle(pipe):
    has_order = "order" in pipe.generator_model.conditions
    conditions = {"order": 3} if has_order else {}
    latents = interpolate_seeds(pipe, [7, 8], 5, 0.5, **conditions)
    z = np.stack([np.random.RandomState(seed).randn(16) for seed in (7, 8)])
    angle = np.arccos(np.dot(*(z / np.linalg.norm(z, axis=1, keepdims=True))))
    mixed = np.sin(0.75 * angle) * z[0] / np.linalg.norm(z[0]) + np.sin(0.25 * angle) * z[1] / np.linalg.norm(z[1])
    with torch.no_grad():  # the mapping network sees the direction of z alone
        mixed = torch.from_numpy(mixed[None]).float()
        model = pipe.generator_model
        w = model.mapping(mixed, torch.tensor([3])) if has_order else model.mapping(mixed)
    average = model.w_avg[2] if has_order else model.w_avg
    expected = average + 0.5 * (w[0] - average)
    torch.testing.assert_close(latents[1][: model.style_ws], expected.expand(model.style_ws, -1), rtol=1e-4, atol=1e-4)


def test_between_two_orders_w_is_mixed_of_both(radial):
    seeds = [7, 7]
    latents = interpolate_seeds(radial, seeds, 9, order=[2, 4])
    low, high = radial.prepare_latents(seeds, order=[3, 4])
    assert latents[5][-1, :2].tolist() == [3.25, 0]
    torch.testing.assert_close(latents[5][:-1], torch.lerp(low, high, 0.25)[:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents[4][:-1], low[:-1], rtol=1e-4, atol=1e-5)


def test_the_spline_turns_and_speeds_up_without_a_jump(pipe):
    keyframes = pipe.prepare_latents([7, 3, 5, 11])

    def jump(curve: str, loop: str) -> float:
        """Largest change of velocity from one frame to the next, as a share of the speed."""
        styles = frames_of(interpolate(keyframes, 1201, curve, loop=loop))[:, 0].double()
        velocity = styles.diff(dim=0)
        return (velocity.diff(dim=0).norm(dim=1) / velocity[:-1].norm(dim=1).mean()).max().item()

    for loop in ("once", "loop"):
        assert jump("linear", loop) > 0.3
        assert jump("spline", loop) < 0.03


def test_the_spline_through_even_steps_on_a_line_is_that_line():
    steps = torch.arange(5.0)[:, None, None] * torch.ones(1, 3, 4) * 0.1 + 0.5  # [..., 2:] is not zero: styles alone
    torch.testing.assert_close(frames_of(interpolate(steps, 41))[:, 0, 0], torch.linspace(0.5, 0.9, 41))
    x = [torch.tensor(float(v)) for v in (0, 1, 4, 9)]  # and it is exact for a parabola
    torch.testing.assert_close(catmull_rom(*x, torch.tensor(0.5)), torch.tensor(2.25))


@pytest.mark.parametrize("way", ["linear", "spline", "z"])
@pytest.mark.parametrize("loop", ["loop", "ping-pong"])
def test_repeated_it_goes_on_without_a_jump(pipe, way, loop):
    conditions = {"order": 3} if "order" in pipe.generator_model.conditions else {}
    spin = 1 / 3 if conditions else 0.0
    if way == "z":
        latents = interpolate_seeds(pipe, [7, 3, 5], 48, loop=loop, spin=spin, **conditions)
    else:
        keyframes = pipe.prepare_latents([7, 3, 5], **conditions)
        latents = interpolate(keyframes, 48, way, loop=loop, spin=spin)
    pictures = pipe(latents=frames_of(latents), output_type="pt").images
    steps = (pictures.roll(-1, 0) - pictures).abs().mean(dim=(1, 2, 3))
    assert steps[-1] < 1.5 * steps[:-1].max() and steps[-1] < 0.5 * (pictures[0] - pictures[16]).abs().mean() + 1e-3
    if loop == "ping-pong":
        there = frames_of(latents)[:, : pipe.generator_model.style_ws]
        torch.testing.assert_close(there[1:24], there[25:].flip(0))


# Order, phase, palettes


def test_orders_pass_through_all_between_and_the_last_row_holds_nothing_else(radial):
    latents = frames_of(interpolate(radial.prepare_latents([7, 3, 5], order=[2, 3, 6]), 9))
    assert latents[:, -1, 0].tolist() == [2, 2.25, 2.5, 2.75, 3, 3.75, 4.5, 5.25, 6]
    assert not latents[:, -1, 1:].any()


@pytest.mark.parametrize(
    ("orders", "phases", "middle"),
    [
        ([2, 3], [0.1, 2 * math.pi - 0.1], 0.0),  # over zero, not all the way round
        ([2, 3], [0.2, 0.6], 0.4),
        ([4, 4], [0.0, math.pi / 2], 0.0),  # a quarter turn of a four-fold picture is none
        ([4, 4], [0.1, math.pi / 2 + 0.3], 0.2),
    ],
)
def test_the_phase_goes_the_short_way(radial, orders, phases, middle):
    latents = frames_of(interpolate(radial.prepare_latents([7, 3], order=orders, phase=phases), 101))
    assert latents[50, -1, 1].item() == pytest.approx(middle, abs=1e-5)
    assert latents[[0, -1], -1, 1].tolist() == pytest.approx(phases)
    pictures = radial(latents=latents[-2:], output_type="pt").images
    assert (pictures[0] - pictures[1]).abs().mean() < 0.02  # the last frame is where the way led


def test_spin_turns_evenly_and_closes_with_the_loop(radial):
    keyframes = radial.prepare_latents([7, 3], order=3, phase=0.5)
    latents = frames_of(interpolate(keyframes, 30, loop="loop", spin=-2 / 3))
    torch.testing.assert_close(latents[:, -1, 1], 0.5 - 2 * math.pi * 2 / 3 * torch.arange(30) / 30)
    assert torch.equal(latents[0], keyframes[0])
    once = frames_of(interpolate(keyframes, 31, spin=0.3))
    assert once[-1, -1, 1].item() == pytest.approx(0.5 + 2 * math.pi * 0.3)
    with pytest.raises(ValueError, match="spin is 0.3; repeated, it must be a multiple of 1/3"):
        interpolate(keyframes, 30, loop="loop", spin=0.3)
    with pytest.raises(ValueError, match="spin is 0.5, but these latents have no phase"):
        interpolate(PIPES["stylegan2"].prepare_latents([1, 2]), 30, spin=0.5)


def test_palettes_go_straight_through_oklab(radial):
    palettes = radial.prepare_palette([["black", "red", "#123456", "gold"], ["white", "lime", "#123456", "navy"]], 2)
    colors = frames_of(interpolate_palettes(palettes, 21))
    assert torch.equal(colors[[0, -1]], palettes)
    assert colors.min() >= 0 and colors.max() <= 1
    lab = to_oklab(colors.double())
    torch.testing.assert_close(lab[:, 0, 0].float(), torch.linspace(0, 1, 21), atol=2e-3, rtol=0)  # grey to the eye
    torch.testing.assert_close(colors[:, 2], palettes[0, 2].expand(21, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(lab[10, 1], to_oklab(palettes[:, 1].double()).mean(dim=0), atol=2e-3, rtol=0)
    assert torch.equal(interpolate_palettes(palettes, 20, loop="loop")[10], palettes[1])


def test_animate_draws_every_frame_in_its_colours(radial):
    palettes = radial.prepare_palette([["red"] * 4, ["blue"] * 4], 2)
    latents = interpolate(radial.prepare_latents([7, 3], order=3), 35)
    pictures = list(animate(radial, latents, interpolate_palettes(palettes, 35), 16))
    assert len(pictures) == 35 and {p.size for p in pictures} == {(16, 16)}
    first, last = (np.asarray(p).mean(axis=(0, 1)) for p in (pictures[0], pictures[-1]))
    assert first[0] > 100 and first[2] == 0 and last[2] > 100 and last[0] == 0
    (alone,) = radial(latents=latents[20:21], output_size=16, palette=palettes[0]).images
    constant = list(animate(radial, latents, palettes[0], 16))
    assert np.abs(np.asarray(constant[20], int) - np.asarray(alone, int)).max() <= 1


def test_no_frame_between_two_orders_of_the_embedded_model_loses_its_pattern():
    pipe = SharinganPipeline.from_pretrained()
    model = pipe.generator_model
    for order in (2, 3, 5):
        for seed in range(6):
            keyframes = pipe.prepare_latents([seed, seed], order=[order, order + 1])
            with torch.no_grad():
                masks = model.masks(frames_of(interpolate(keyframes, 9)), output_size=64)
            share = masks[:, model.num_round_masks :].sum(dim=1).mean(dim=(1, 2))
            assert share.min() > 0.7 * min(share[0], share[-1]), (order, seed, share)
            assert share.max() < 1.3 * max(share[0], share[-1]), (order, seed, share)


# Mixing and directions


def test_variations_begin_at_the_seed_end_at_the_other_and_keep_the_order(pipe):
    own = pipe.prepare_latents([7])
    torch.testing.assert_close(vary(pipe, 7, [1, 2], 0.0), own.expand(2, -1, -1), atol=1e-5, rtol=0)
    varied = vary(pipe, 7, [1, 1], [0.2, 0.6])
    rows = pipe.generator_model.style_ws
    far = (varied - own)[:, :rows].flatten(1).norm(dim=1)
    assert 0 < far[0] < far[1]
    assert torch.equal(varied[:, rows:], own[:, rows:].expand(2, -1, -1))
    order = {"order": 4} if "order" in pipe.generator_model.conditions else {}
    torch.testing.assert_close(vary(pipe, 7, [9], 1.0, **order), pipe.prepare_latents([9], **order), atol=1e-5, rtol=0)
    for strength in (-0.1, 1.5, [0.1, 2]):
        with pytest.raises(ValueError, match=r"strength is .*; it must be from 0 to 1"):
            vary(pipe, 7, [1, 2], strength)


def test_a_class_stays_on_the_way_between_seeds_and_in_variations():
    pipe = pipeline_with_classes()
    ends = pipe.prepare_latents([3, 8], class_label=2)
    frames = interpolate_seeds(pipe, [3, 8], 5, class_label=2)
    assert torch.equal(frames[0], ends[0]) and torch.equal(frames[4], ends[1])
    z, _ = pipe.prepare_z([3, 8])
    middle = pipe.map_z(slerp(z[:1], z[1:], torch.tensor([[0.5]])), class_label=2)
    torch.testing.assert_close(frames[2], middle[0])
    torch.testing.assert_close(vary(pipe, 3, [8, 8], [0.0, 1.0], class_label=2), ends)
    assert not torch.allclose(ends, pipe.prepare_latents([3, 8], class_label=0))


def test_style_mixing_takes_rows_of_b_and_leaves_the_rest_of_a(pipe):
    a, b = pipe.prepare_latents([1, 2]), pipe.prepare_latents([3, 4])
    kept = a.clone()
    mixed = style_mix(a, b, range(2, 5))
    assert torch.equal(mixed[:, 2:5], b[:, 2:5])
    assert torch.equal(mixed[:, :2], a[:, :2]) and torch.equal(mixed[:, 5:], a[:, 5:]) and torch.equal(a, kept)
    assert torch.equal(style_mix(a, b[:1], range(2, 5))[1, 2:5], b[0, 2:5])
    everything = style_mix(a, b, range(pipe.generator_model.style_ws))
    assert torch.equal(everything[:, : pipe.generator_model.style_ws], b[:, : pipe.generator_model.style_ws])


def test_order_and_phase_are_never_mixed_or_moved(radial):
    a, b = radial.prepare_latents([1], order=2, phase=0.3), radial.prepare_latents([3], order=5)
    (direction,) = directions(radial.generator_model, 1)
    for changed in (style_mix(a, b, range(6)), move(a, direction, 2.0)):
        assert torch.equal(changed[:, -1], a[:, -1]) and not torch.equal(changed[:, :-1], a[:, :-1])
    for wrong in (6, [-1], range(5, 8)):
        with pytest.raises(ValueError, match="rows is .*; it must be from 0 to 5"):
            style_mix(a, b, wrong)


def test_the_palette_row_decides_the_colours_alone(radial):
    model = radial.generator_model
    a, b = radial.prepare_latents([1], order=2), radial.prepare_latents([3], order=2)
    mixed = style_mix(a, b, layer_ranges(model)["palette"])
    assert torch.equal(model.palette(mixed), model.palette(b)) and not torch.equal(model.palette(a), model.palette(b))
    assert torch.equal(model.masks(mixed), model.masks(a))
    rings = style_mix(a, b, layer_ranges(model)["rings"])
    assert torch.equal(model.palette(rings), model.palette(a)) and not torch.equal(model.masks(rings), model.masks(a))


def test_layer_ranges_share_out_all_rows_of_styles(pipe):
    ranges = layer_ranges(pipe.generator_model)
    assert [row for span in ranges.values() for row in span] == list(range(pipe.generator_model.style_ws))
    expected = {
        "RadialGenerator": ["coarse", "fine", "rings", "palette"],
        "StyleGAN2Generator": ["coarse", "middle"],  # 32 pixels have no fine layers
    }
    assert list(ranges) == expected[type(pipe.generator_model).__name__]
    with pytest.raises(TypeError, match="generator is a Linear; it must be"):
        layer_ranges(torch.nn.Linear(1, 1))


def layers_of_each_row(pipe: SharinganPipeline) -> list[list[torch.Tensor]]:
    """For each row of styles the weights of the linear layers whose input it is: found by watching them."""
    model = pipe.generator_model
    styles = pipe.prepare_latents([1])
    rows: list[list[torch.Tensor]] = []
    for row in range(model.style_ws):
        marked = styles.clone()
        marked[:, row] = torch.arange(12.0) + 100
        seen: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda layer, args, marked=marked, row=row, seen=seen: (
                    seen.append(layer.weight) if torch.equal(args[0], marked[:, row]) else None
                )
            )
            for layer in model.modules()
            if type(layer).__name__ in ("EqualizedLinear", "FullyConnected")
        ]
        with torch.no_grad():
            model.synthesis(marked)
        for hook in hooks:
            hook.remove()
        rows.append(seen)
    return rows


@pytest.mark.parametrize("rows", [None, range(0, 2), [3], 5])
def test_directions_are_the_eigenvectors_of_what_styles_enter(pipe, rows):
    layers = layers_of_each_row(pipe)
    assert all(layers)
    chosen = range(len(layers)) if rows is None else [rows] if isinstance(rows, int) else rows
    a = torch.cat([weight for row in chosen for weight in layers[row]]).detach().double()
    found = directions(pipe.generator_model, 5, rows)
    vectors = torch.stack([d.vector for d in found]).double()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64), atol=1e-6, rtol=0)
    values = torch.tensor([d.eigenvalue for d in found], dtype=torch.float64)
    assert (values.diff() <= 0).all()
    torch.testing.assert_close(values, torch.linalg.svdvals(a)[:5] ** 2)
    torch.testing.assert_close(vectors @ (a.T @ a), values[:, None] * vectors, atol=1e-4 * values[0].item(), rtol=0)
    assert all(d.vector[d.vector.abs().argmax()] > 0 for d in found)
    assert all(d.rows == tuple(chosen) for d in found)


ONE_ROW = {
    "dcgan": (DCGANGenerator(z_dim=6, resolution=16, channels=4), lambda m, z: m.layers.b4.conv(z[..., None, None])),
    "cogan": (
        CoGANGenerator(z_dim=6, resolution=16, channels=4, shared_layers=0),
        lambda m, z: torch.stack([end.b4.conv(z[..., None, None]) for end in m.ends]),
    ),
    "r3gan": (R3GANGenerator(z_dim=6, resolution=16, channels=4), lambda m, z: m.basis(z)),
}


@pytest.mark.parametrize("family", ONE_ROW)
def test_a_style_in_one_row_has_no_ranges_and_the_directions_of_its_first_layer(family):
    model, first = ONE_ROW[family]
    assert layer_ranges(model) == {}
    jacobian = torch.autograd.functional.jacobian(lambda z: first(model, z).flatten(), torch.zeros(1, 6))[:, 0]
    found = directions(model, 3)
    torch.testing.assert_close(torch.tensor([d.eigenvalue for d in found]), torch.linalg.svdvals(jacobian)[:3] ** 2)
    strongest = jacobian.T @ jacobian @ found[0].vector
    torch.testing.assert_close(strongest, found[0].eigenvalue * found[0].vector, rtol=1e-3, atol=1e-6)
    latents = SharinganPipeline(model).prepare_latents([1])
    expected = latents + 2 * found[0].std * found[0].vector
    torch.testing.assert_close(move(latents, found[0], 2.0), expected)


def test_directions_are_the_same_every_time(pipe):
    first = directions(pipe.generator_model, 3)
    torch.manual_seed(99)
    for a, b in zip(first, directions(pipe.generator_model, 3)):
        assert torch.equal(a.vector, b.vector) and a.std == b.std


def test_strength_counts_standard_deviations_of_what_seeds_give(pipe):
    (direction,) = directions(pipe.generator_model, 1)
    full, none = (pipe.prepare_latents(range(5000, 6000), psi)[:, 0] for psi in (1.0, 0.0))
    along = (full - none) @ direction.vector
    assert along.std().item() == pytest.approx(direction.std, rel=0.1)
    latents = pipe.prepare_latents([1, 2])
    moved = move(latents, direction, [2.0, -1.0])
    steps = ((moved - latents) @ direction.vector)[:, : pipe.generator_model.style_ws]
    torch.testing.assert_close(steps / direction.std, torch.tensor([[2.0], [-1.0]]).expand_as(steps), rtol=1e-3, atol=0)
    assert torch.equal(move(latents, direction, 0), latents)
    partly = move(latents, direction, 1.0, rows=range(0, 2))
    assert torch.equal(partly[:, 2:], latents[:, 2:]) and not torch.equal(partly[:, :2], latents[:, :2])


def test_a_direction_of_some_rows_moves_these(pipe):
    (direction,) = directions(pipe.generator_model, 1, rows=[1, 3])
    latents = pipe.prepare_latents([1])
    changed = (move(latents, direction, 1.0) != latents).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [1, 3]


# Wrong arguments

LATENTS = PIPES["radial"].prepare_latents([1, 2, 3], order=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interpolate([1, 2], 5), TypeError, r"keyframes is a list; it must be a tensor \(K, num_ws, w_dim\)"),
        (lambda: interpolate(LATENTS[:1], 5), ValueError, r"keyframes has shape \(1, 7, 12\); it must be"),
        (lambda: interpolate(LATENTS, 2), ValueError, "frames is 2; it must be at least 3"),
        (lambda: interpolate(LATENTS, 3, loop="ping-pong"), ValueError, "frames is 3; it must be at least 4"),
        (lambda: interpolate(LATENTS, 5.5), TypeError, "frames is 5.5; it must be a whole number"),
        (lambda: interpolate(LATENTS, 5, "bezier"), ValueError, "curve is 'bezier'; it must be one of linear, spline"),
        (lambda: interpolate(LATENTS, 5, easing="bounce"), ValueError, "easing is 'bounce'; it must be one of linear"),
        (lambda: interpolate(LATENTS, 5, loop="yes"), ValueError, "loop is 'yes'; it must be one of once, loop, ping"),
        (lambda: interpolate(LATENTS, 5, spin=math.nan), ValueError, "spin is nan; it must be finite"),
        (lambda: interpolate_seeds(PIPES["radial"], [1], 5), ValueError, "seeds holds 1 seed; it must hold at least 2"),
        (lambda: interpolate_seeds(PIPES["radial"], [1, 2], 5, order=9), ValueError, "order is 9; it must be from 1"),
        (lambda: interpolate_seeds(PIPES["stylegan2"], [1, 2], 5, order=3), ValueError, "does not take it"),
        (lambda: interpolate_palettes(torch.zeros(4, 3), 5), ValueError, r"palettes has shape \(4, 3\); it must be"),
        (lambda: interpolate_palettes(["red"], 5), TypeError, "palettes is a list; it must be"),
        (lambda: style_mix(LATENTS, LATENTS[:2], [1]), ValueError, r"b has shape \(2, 7, 12\); it must be that of a"),
        (lambda: style_mix(LATENTS, LATENTS, []), ValueError, "rows is empty"),
        (lambda: style_mix(LATENTS, LATENTS, "coarse"), TypeError, "rows is 'c'; it must be a whole number"),
        (lambda: directions(PIPES["radial"].generator_model, 13), ValueError, "count is 13; it must be from 1 to 12"),
        (
            lambda: directions(PIPES["radial"], 2),
            TypeError,
            "generator is a SharinganPipeline; it must be one of Radial",
        ),
        (
            lambda: move(LATENTS, directions(PIPES["radial"].generator_model, 1)[0], [1.0, 2.0]),
            ValueError,
            r"strength has shape \(2,\); it must be one number or 3",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
