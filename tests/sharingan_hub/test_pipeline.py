"""SharinganPipeline: seeds, truncation, latents, arguments. Its folder: checkpoints/test_pipeline_folder.py."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub import SharinganPipeline, pipeline_sharingan
from sharingan_hub.pipeline_sharingan import CHUNK_PICTURES
from tests.sharingan_hub.conftest import ORDER_PROBS, PIPES, pipeline_with_classes

# Seeds and truncation


def test_seeds_follow_the_stylegan_convention(stylegan2):
    z = np.stack([np.random.RandomState(seed).randn(16) for seed in (7, 2**32 - 1)])
    with torch.no_grad():
        w = stylegan2.generator_model.mapping(torch.from_numpy(z).float())
    latents = stylegan2(seeds=[7, 2**32 - 1], truncation_psi=1).latents
    torch.testing.assert_close(latents, w[:, None].expand_as(latents))


def test_order_is_drawn_by_the_seed_after_z(radial):
    expected = []
    for seed in range(40):
        state = np.random.RandomState(seed)
        state.randn(16)
        expected.append(state.choice(4, p=ORDER_PROBS) + 1)
    latents = radial.prepare_latents(range(40))
    assert latents[:, -1, 0].tolist() == expected
    assert set(expected) == {2, 3, 4}  # order 1 never comes in this training data
    assert not latents[:, -1, 1:].any()


@pytest.mark.parametrize("psi", [0.0, 0.7, 1.0, -0.5])
def test_truncation_pulls_towards_the_average_of_the_order(pipe, psi):
    model = pipe.generator_model
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(16) for seed in (1, 2, 3)])).float()
    orders = [1, 4, 2]
    given_order = {"order": orders} if "order" in model.conditions else {}
    with torch.no_grad():
        w = model.mapping(z, torch.tensor(orders)) if given_order else model.mapping(z)
    center = model.w_avg[[0, 3, 1]] if given_order else model.w_avg
    expected = center + psi * (w - center)
    latents = pipe(seeds=[1, 2, 3], truncation_psi=psi, **given_order).latents
    assert latents.shape == (3, model.num_ws, 12)
    styles = latents[:, : model.style_ws]
    torch.testing.assert_close(styles, expected[:, None].expand_as(styles))
    if given_order:
        assert latents[:, -1, 0].tolist() == orders


@settings(max_examples=15)
@given(
    family=st.sampled_from(list(PIPES)),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=CHUNK_PICTURES + 3),
    data=st.data(),
)
def test_a_seed_gives_the_same_picture_alone_and_in_any_batch(family, seeds, data):
    pipe = PIPES[family]
    i = data.draw(st.integers(0, len(seeds) - 1))
    batch, alone = pipe(seeds=seeds, output_type="np"), pipe(seeds=seeds[i], output_type="np")
    assert batch.seeds == seeds and alone.seeds == [seeds[i]]
    assert np.abs(batch.images[i] - alone.images[0]).max() < 1e-4
    png = np.asarray(pipe(seeds=seeds).images[i], dtype=int) - np.asarray(pipe(seeds=seeds[i]).images[0], dtype=int)
    assert np.abs(png).max() <= 1


def test_generator_draws_seeds_that_give_the_same_pictures(pipe):
    first, second, other = (pipe(batch_size=3, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first.seeds == second.seeds != other.seeds and len(set(first.seeds)) == 3
    for a, b in zip(first.images, pipe(seeds=first.seeds).images, strict=True):
        assert a.tobytes() == b.tobytes()
    torch.manual_seed(5)
    drawn = pipe(batch_size=2).seeds
    torch.manual_seed(5)
    assert pipe(batch_size=2).seeds == drawn != pipe(batch_size=2).seeds


@pytest.mark.parametrize(
    "seeds", [3, np.int64(3), torch.tensor(3), np.array([3]), (3,), range(3, 4), torch.tensor([3])]
)
def test_seeds_of_any_integer_kind(pipe, seeds):
    assert pipe(seeds=seeds).seeds == [3]


# Latents


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_latents_fed_back_give_the_same_pictures(pipe, output_type):
    conditions = {"order": [3, 1], "phase": 0.4} if "order" in pipe.generator_model.conditions else {}
    first = pipe(seeds=[4, 5], truncation_psi=0.9, output_type=output_type, **conditions)
    kept = first.latents.clone()
    again = pipe(latents=first.latents, truncation_psi=0.1, output_type=output_type)
    assert again.seeds is None and torch.equal(again.latents, kept)
    assert np.array_equal(
        np.stack([np.asarray(x) for x in first.images]), np.stack([np.asarray(x) for x in again.images])
    )


def test_order_and_phase_given_with_latents_replace_those_inside(radial):
    base = radial(seeds=[4, 5], order=2, phase=0.1, output_type="pt")
    kept = base.latents.clone()
    turned = radial(latents=base.latents, phase=[0.5, 0.9], output_type="pt")
    assert torch.equal(turned.images, radial(seeds=[4, 5], order=2, phase=[0.5, 0.9], output_type="pt").images)
    assert not torch.equal(turned.images, base.images)
    other = radial(latents=base.latents, order=3, output_type="pt")
    assert other.latents[:, -1, 0].tolist() == [3, 3]
    assert torch.equal(other.latents[:, -1, 1], base.latents[:, -1, 1])
    assert torch.equal(other.latents[:, :-1], base.latents[:, :-1])
    assert torch.equal(base.latents, kept)  # the caller's tensor stays as it is


def test_between_two_orders_of_latents_lies_a_morph(radial):
    latents = radial.prepare_latents([4] * 4, order=2)
    latents[:, -1, 0] = torch.tensor([2, 2.001, 2.5, 3])
    images = radial(latents=latents, output_type="pt").images
    assert (images[0] - images[1]).abs().mean() < 0.01
    assert (images[2] - images[0]).abs().mean() > 0.01 and (images[2] - images[3]).abs().mean() > 0.01


def test_z_and_the_mapping_are_what_seeds_go_through(pipe):
    z, orders = pipe.prepare_z([7, 8])
    assert np.array_equal(z.numpy(), np.stack([np.random.RandomState(s).randn(16) for s in (7, 8)]).astype("float32"))
    latents = pipe.prepare_latents([7, 8], 0.5)
    assert torch.equal(pipe.map_z(z, 0.5, orders), latents)
    assert orders == (latents[:, -1, 0].tolist() if "order" in pipe.generator_model.conditions else None)


def test_a_full_turn_of_the_phase_over_the_order_is_the_same_picture(radial):
    images = radial(seeds=[8, 8, 8], order=3, phase=[0, 2 * np.pi / 3, 1.0], output_type="pt").images
    torch.testing.assert_close(images[0], images[1], atol=2e-3, rtol=0)
    assert (images[0] - images[2]).abs().max() > 0.02


# Output


def test_output_types_agree(pipe):
    pil, array, tensor = (pipe(seeds=[1, 2], output_type=kind).images for kind in ("pil", "np", "pt"))
    size = pipe.generator_model.resolution
    assert all(isinstance(x, Image.Image) and x.mode == "RGB" and x.size == (size, size) for x in pil)
    assert array.shape == (2, size, size, 3) and array.dtype == np.float32
    assert tensor.shape == (2, 3, size, size) and tensor.dtype == torch.float32
    assert 0 <= array.min() and array.max() <= 1 and array.std() > 0.01
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.stack([np.asarray(x) for x in pil]), np.round(array * 255).astype(np.uint8))
    images, latents, seeds = pipe(seeds=[1, 2], return_dict=False)
    assert seeds == [1, 2] and len(images) == 2 and latents.shape[0] == 2


def test_no_gradient_but_latents_can_be_optimised(pipe):
    out = pipe(seeds=[1], output_type="pt")
    assert not out.images.requires_grad and not out.latents.requires_grad
    ws = out.latents.requires_grad_()
    pipe.generator_model.synthesis(ws).sum().backward()
    assert ws.grad is not None and ws.grad.any()


def test_large_batches_are_drawn_in_chunks(pipe, monkeypatch):
    sizes = []
    synthesis = pipe.generator_model.synthesis
    forward = synthesis.forward if isinstance(synthesis, torch.nn.Module) else synthesis

    def spy(ws, *args, **kwargs):
        sizes.append(len(ws))
        return forward(ws, *args, **kwargs)

    owner, name = (
        (synthesis, "forward") if isinstance(synthesis, torch.nn.Module) else (pipe.generator_model, "synthesis")
    )
    monkeypatch.setattr(owner, name, spy)
    assert len(pipe(batch_size=CHUNK_PICTURES * 2 + 1).images) == CHUNK_PICTURES * 2 + 1
    assert sizes == [CHUNK_PICTURES, CHUNK_PICTURES, 1]
    sizes.clear()
    monkeypatch.setattr(pipeline_sharingan, "CHUNK_PIXELS", 2 * 64 * 64)
    pipe(batch_size=3, output_size=64)
    assert sizes == [2, 1]


class Stripes(ModelMixin, ConfigMixin):
    """Black and white columns of one pixel, whatever the latents."""

    conditions = ()
    z_dim = w_dim = 4
    num_ws = style_ws = 2
    resolution = 64

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(4))
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def mapping(self, z):
        return z

    def broadcast(self, w):
        return w[:, None].expand(-1, 2, -1)

    def synthesis(self, ws):
        columns = torch.arange(64) % 2 * 3.0 - 1.0  # from -1 to 2: above 1 is clipped
        return columns.expand(len(ws), 3, 64, 64)


def test_pictures_are_clipped_and_resized_with_antialiasing():
    pipe = SharinganPipeline(Stripes())
    assert pipe(output_type="pt").images[0, 0, 0, :4].tolist() == [0, 1, 0, 1]
    small = pipe(output_size=24, output_type="pt").images
    assert small.shape == (1, 3, 24, 24)
    # The mean of -1 and 2 is 0.5, which is 0.75 in [0, 1]; without anti-aliasing there would be new stripes.
    torch.testing.assert_close(small[..., 2:-2], torch.full((1, 3, 24, 20), 0.75), atol=0.03, rtol=0)


def test_output_size_is_drawn_not_resized_where_the_generator_can(radial):
    images = radial(seeds=[1], output_size=48, output_type="pt").images
    with torch.no_grad():
        drawn = radial.generator_model.synthesis(radial.prepare_latents([1]), output_size=48)
    torch.testing.assert_close(images, (drawn / 2 + 0.5).clamp(0, 1))


# Palette and post-processing


def test_palette_as_numbers_or_names(radial):
    names = ["#ff0000", "black", "#00F", "#204060"]
    numbers = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 1], [32 / 255, 64 / 255, 96 / 255]])
    expected = radial(seeds=[1, 2], palette=numbers, output_type="pt").images
    own = radial(seeds=[1, 2], output_type="pt").images
    assert not torch.allclose(expected, own)
    for palette in (names, numbers.numpy(), numbers.tolist(), [names, numbers.tolist()]):
        torch.testing.assert_close(radial(seeds=[1, 2], palette=palette, output_type="pt").images, expected)
    each = radial(seeds=[1, 1], palette=torch.stack([numbers, 1 - numbers]), output_type="pt").images
    torch.testing.assert_close(each[0], expected[0])
    assert not torch.allclose(each[0], each[1])


def test_finished_pictures_are_postprocessed_in_order(pipe, monkeypatch):
    calls = []

    def step(name):
        def run(x, *args):
            assert x.shape[1:] == (3, 24, 24) and 0 <= x.min() and x.max() <= 1
            calls.append((name, *args))
            return SimpleNamespace(images=x * 0.5) if name == "circularize" else x * 0.5

        return run

    room = SimpleNamespace(**{name: step(name) for name in ("circularize", "symmetrize", "recolor")})
    monkeypatch.setitem(sys.modules, "sharingan_hub.postprocess", room)
    plain = pipe(seeds=[1], output_size=24, output_type="pt").images
    assert calls == []
    done = pipe(seeds=[1], output_size=24, output_type="pt", recolor="red", circularize=True, symmetry=3).images
    assert calls == [("circularize",), ("symmetrize", 3), ("recolor", "red")]
    torch.testing.assert_close(done, plain / 8)


@pytest.mark.parametrize("argument", [{"circularize": True}, {"recolor": "red"}, {"symmetry": 3}])
def test_postprocessing_without_its_room_says_what_to_install(pipe, monkeypatch, argument):
    monkeypatch.setitem(sys.modules, "sharingan_hub.postprocess", None)
    with pytest.raises(ImportError, match="install or upgrade the sharingan-hub package"):
        pipe(**argument)


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size is 1.5; it must be a whole number"),
        ({"batch_size": True}, TypeError, "batch_size is True"),
        ({"generator": 3}, TypeError, "generator is a int; it must be a torch.Generator"),
        ({"seeds": -1}, ValueError, "seeds is -1; it must be from 0 to 4294967295"),
        ({"seeds": [0, 2**32]}, ValueError, "seeds is 4294967296"),
        ({"seeds": []}, ValueError, "seeds is empty"),
        ({"seeds": "12"}, TypeError, "seeds is '12'; it must be a whole number"),
        ({"seeds": [0.5]}, TypeError, "seeds is 0.5"),
        ({"seeds": [1, 2, 3], "batch_size": 2}, ValueError, "batch_size is 2, but seeds holds 3"),
        ({"seeds": [1], "generator": torch.Generator()}, ValueError, "seeds and generator were both given"),
        ({"truncation_psi": float("nan")}, ValueError, "truncation_psi is nan; it must be finite"),
        ({"truncation_psi": "strong"}, TypeError, "truncation_psi is 'strong'; it must be a number"),
        ({"order": 0}, ValueError, "order is 0; it must be from 1 to 4"),
        ({"order": 5}, ValueError, "order is 5; it must be from 1 to 4"),
        ({"order": 2.0}, TypeError, "order is 2.0; it must be a whole number"),
        ({"order": [1, 2]}, ValueError, "order holds 2 values for 1 pictures; give one, or one for each"),
        ({"phase": float("inf")}, ValueError, "phase is inf; it must be finite"),
        ({"phase": [0.0, 1.0]}, ValueError, "phase holds 2 values for 1 pictures"),
        ({"phase": "left"}, TypeError, "phase is 'left'; it must be a number"),
        ({"palette": [[0, 0, 0]]}, ValueError, r"palette has shape \(1, 3\); it must be \(4, 3\)"),
        ({"palette": np.full((4, 3), 1.5)}, ValueError, "palette holds values outside 0 to 1"),
        ({"palette": torch.full((4, 3), float("nan"))}, ValueError, "palette holds values outside 0 to 1"),
        ({"palette": ["red", "black", "nocolour", "blue"]}, ValueError, "palette cannot be read as 4 colours"),
        ({"palette": [[0, 0, 0], [1], [0], [0]]}, ValueError, "palette cannot be read as 4 colours"),
        ({"output_size": 15}, ValueError, "output_size is 15; it must be from 16 to 8192"),
        ({"output_size": 10000}, ValueError, "output_size is 10000"),
        ({"output_size": "big"}, TypeError, "output_size is 'big'"),
        ({"output_type": "jpg"}, ValueError, "output_type is 'jpg'; it must be 'pil', 'np' or 'pt'"),
        ({"latents": [1, 2]}, TypeError, r"latents is a list; it must be a tensor \(N, 7, 12\)"),
        ({"latents": torch.zeros(1, 12)}, ValueError, r"latents has shape \(1, 12\)"),
        ({"latents": torch.zeros(0, 7, 12)}, ValueError, r"latents has shape \(0, 7, 12\)"),
        ({"latents": torch.full((1, 7, 12), float("nan"))}, ValueError, "latents holds NaN"),
        (
            {"latents": torch.zeros(1, 7, 12)},
            ValueError,
            "latents holds order 0; it must be from 1 to 4",
        ),
        ({"latents": torch.full((1, 7, 12), 4.5)}, ValueError, "latents holds order 4.5"),
        ({"latents": torch.ones(1, 7, 12), "order": 1.5}, TypeError, "order is 1.5; it must be a whole number"),
        ({"latents": torch.ones(1, 7, 12), "seeds": 1}, ValueError, "latents and seeds were both given"),
        ({"latents": torch.ones(1, 7, 12), "batch_size": 3}, ValueError, "batch_size is 3, but latents holds 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(radial, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        radial(**arguments)
    assert "\n" not in str(caught.value)


def test_a_class_is_one_for_all_or_one_for_each():
    pipe = pipeline_with_classes()
    ws = pipe.prepare_latents([5, 5, 6], 0.7, class_label=[2, 0, 2])
    torch.testing.assert_close(ws[:1], pipe.prepare_latents([5], 0.7, class_label=2))
    torch.testing.assert_close(ws[1:2], pipe.prepare_latents([5], 0.7))
    assert not torch.allclose(ws[0], ws[1])
    drawn = pipe(seeds=[5], class_label=2, output_type="pt")
    assert torch.equal(pipe(latents=drawn.latents, output_type="pt").images, drawn.images)
    for wrong, words in ((3, "class_label is 3; it must be from 0 to 2"), ([0, 1], "class_label holds 2 values")):
        with pytest.raises(ValueError, match=words):
            pipe(seeds=[5], class_label=wrong)
    with pytest.raises(ValueError, match="latents and class_label were both given"):
        pipe(latents=drawn.latents, class_label=1)
    with pytest.raises(ValueError, match="class_label was given, but StyleGAN2Generator does not take it"):
        PIPES["stylegan2"](class_label=1)


@pytest.mark.parametrize("name", ["order", "phase", "palette"])
def test_conditions_of_other_generators_are_refused_by_name(stylegan2, name):
    with pytest.raises(ValueError, match=f"{name} was given, but StyleGAN2Generator does not take it"):
        stylegan2(**{name: 1})


@pytest.mark.gpu
def test_same_pictures_on_the_gpu(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    cuda = SharinganPipeline.from_pretrained(tmp_path).to("cuda")
    out = cuda(seeds=list(range(20)), output_type="pt")
    assert out.images.device.type == "cuda"
    expected = pipe(seeds=list(range(20)), output_type="pt").images
    assert (out.images.cpu() - expected).abs().mean() < 1 / 255
    alone = cuda(seeds=[7], output_type="pt").images
    assert (alone[0] - out.images[7]).abs().max() < 1 / 255
    assert torch.equal(cuda(latents=out.latents, output_type="pt").images, out.images)
    drawn = cuda(batch_size=2, generator=torch.Generator("cuda").manual_seed(0)).seeds
    assert drawn == cuda(batch_size=2, generator=torch.Generator("cuda").manual_seed(0)).seeds
