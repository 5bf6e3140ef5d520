"""DCGANGenerator: sizes, first weights, both orders of layers, self-attention, and pictures that know no batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sharingan_hub import CoGANGenerator, DCGANGenerator, SharinganPipeline, style_mix
from sharingan_hub.modeling_dcgan import BatchNorm, SelfAttention


def tiny(**changes) -> DCGANGenerator:
    """A small generator with enough contrast, whose batch norms have seen something, so that its pictures are not grey."""
    torch.manual_seed(0)
    model = DCGANGenerator(**{"z_dim": 6, "resolution": 16, "channels": 4} | changes).train()
    with torch.no_grad():
        model.layers.torgb.weight *= 10
        for _ in range(40):
            model(torch.randn(16, 6))
    return model.eval()


def test_the_paper_s_network_has_its_known_number_of_weights():
    with torch.device("meta"):
        model = DCGANGenerator()
    assert sum(p.numel() for p in model.parameters()) == 3_576_704
    assert not [name for name, _ in model.layers.named_parameters() if name.endswith("conv.bias")]


@pytest.mark.parametrize(("side", "first"), [(16, 4), (28, 7), (30, 8), (32, 4), (37, 5), (64, 4), (100, 7)])
def test_any_size_is_doubled_from_4_to_8_pixels(side, first):
    model = tiny(resolution=side)
    images = model(torch.randn(3, 6))
    assert images.shape == (3, 3, side, side) and images.dtype == torch.float32
    assert next(iter(model.layers)).conv.kernel_size == (first, first)
    assert images.abs().max() <= 1 and images.std() > 0.01


def test_an_odd_size_is_the_middle_of_what_the_doublings_give():
    small, large = tiny(resolution=30), tiny(resolution=32)
    assert small.layers[0].conv.kernel_size == (8, 8)
    z = torch.randn(2, 6)
    whole = small.layers(z[:, :, None, None]).tanh()
    assert whole.shape == (2, 3, 32, 32) == large(z).shape
    assert torch.equal(small(z), whole[:, :, 1:31, 1:31])


def test_first_weights_are_the_paper_s():
    torch.manual_seed(0)
    model = DCGANGenerator(channels=32)
    weights = {name: value for name, value in model.named_parameters()}
    kernels = torch.cat([value.flatten() for value in weights.values() if value.ndim == 4])
    scales = torch.cat([value for name, value in weights.items() if name.endswith("norm.weight")])
    assert kernels.mean().abs() < 1e-4 and kernels.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1, abs=0.005) and scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert all((value == 0).all() for name, value in weights.items() if name.endswith("norm.bias"))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_layers_written_out(norm_first, training):
    """Zeros between the pixels and an ordinary convolution with the turned kernel; batch norm by its formula."""
    model = tiny(norm_first=norm_first).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * (0.2 if value.ndim == 4 else 1))
        for _, value in model.named_buffers():
            value.uniform_(0.5, 2)
    model.train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    z = torch.randn(5, 6, dtype=torch.float64)

    def up(x, weight, stride, padding):
        side = x.shape[3]
        spread = x.new_zeros(*x.shape[:2], stride * (side - 1) + 1, stride * (side - 1) + 1)
        spread[:, :, ::stride, ::stride] = x
        return F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), padding=weight.shape[2] - 1 - padding)

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    x = z[:, :, None, None]
    for name, stride, padding in (("layers.b4", 1, 0), ("layers.b8", 2, 1)):
        x = up(x, state[f"{name}.conv.weight"], stride, padding)
        x = norm(x, f"{name}.norm").relu() if norm_first else norm(x.relu(), f"{name}.norm")
    expected = up(x, state["layers.torgb.weight"], 2, 1).tanh()
    assert expected.std() > 0.1
    torch.testing.assert_close(model(z).double(), expected, atol=1e-6, rtol=1e-5)


def test_batch_norm_is_torch_s_own():
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    for _ in range(2):
        x = 2 + 3 * torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_attention_begins_as_the_identity_and_then_is_its_definition():
    torch.manual_seed(0)
    attention = SelfAttention(16).double()
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gamma.fill_(0.7)
        query, key, value, out = (
            getattr(attention, name).weight[:, :, 0, 0].numpy() for name in ("query", "key", "value", "out")
        )
        expected = x.flatten(2).numpy().copy()
        for picture in expected:
            places = picture.copy().T
            for j, place in enumerate(places):
                scores = np.array([(query @ place) @ (key @ other) for other in places])
                shares = np.exp(scores) / np.exp(scores).sum()
                picture[:, j] += 0.7 * out @ sum(share * (value @ other) for share, other in zip(shares, places))
        torch.testing.assert_close(attention(x).flatten(2), torch.from_numpy(expected))
    x.requires_grad_()
    assert torch.autograd.gradgradcheck(attention, (x,), fast_mode=True)


def test_attention_is_where_it_is_asked_for():
    plain, attentive = tiny(resolution=28), tiny(resolution=28, attention=14)
    assert attentive.layers.attention.query.weight.shape[1] == attentive.layers.b14.conv.weight.shape[1]
    assert [name for name, _ in attentive.layers.named_children()] == ["b7", "b14", "attention", "torgb"]
    attentive.load_state_dict(plain.state_dict(), strict=False)
    z = torch.randn(2, 6)
    assert torch.equal(attentive(z), plain(z))  # gamma is 0
    with pytest.raises(ValueError, match="attention is 28; it must be one of 7, 14"):
        DCGANGenerator(resolution=28, attention=28)


@pytest.mark.parametrize("changes", [{}, {"norm_first": False}, {"attention": 8}, {"resolution": 28}])
def test_a_seed_gives_its_picture_whatever_the_batch(changes):
    model = tiny(**changes)
    if "attention" in changes:
        model.layers.attention.gamma.data.fill_(1)
    pipe = SharinganPipeline(model)
    together = pipe(seeds=[3, 7, 8, 9], output_type="pt").images
    assert together.std() > 0.01
    for i, seed in enumerate([3, 7, 8, 9]):
        torch.testing.assert_close(pipe(seeds=seed, output_type="pt").images[0], together[i], atol=1e-5, rtol=1e-5)
    assert pipe(seeds=3).latents.shape == (1, 1, 6)


def test_a_new_generator_is_in_evaluation_and_training_changes_its_statistics():
    model = DCGANGenerator(z_dim=6, resolution=16, channels=4)
    assert not model.training
    before = model.layers.b4.norm.running_var.clone()
    model(torch.randn(4, 6))
    assert torch.equal(model.layers.b4.norm.running_var, before)
    model.train()(torch.randn(4, 6))
    assert not torch.equal(model.layers.b4.norm.running_var, before)


def test_one_row_cannot_be_mixed():
    pipe = SharinganPipeline(tiny())
    with pytest.raises(ValueError, match="one row of styles"):
        style_mix(pipe(seeds=1).latents, pipe(seeds=2).latents, 0)
    with pytest.raises(ValueError, match="order was given, but DCGANGenerator does not take it"):
        pipe(seeds=1, order=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 15}, "resolution is 15; it must be from 16 to 1024"),
        ({"z_dim": 0}, "z_dim is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"channel_max": 9000}, "channel_max is 9000"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DCGANGenerator(**settings)


def test_wrong_shape_of_latents():
    with pytest.raises(ValueError, match=r"ws has shape \(2, 6\); it must be \(N, 1, 6\)"):
        tiny().synthesis(torch.zeros(2, 6))


# Pairs


def tiny_pair(**changes) -> CoGANGenerator:
    torch.manual_seed(0)
    settings = {"z_dim": 6, "resolution": 32, "channels": 4, "shared_layers": 2} | changes
    model = CoGANGenerator(**settings).train()
    with torch.no_grad():
        for end in model.ends:
            end.torgb.weight *= 10
        for _ in range(40):
            model.pairs(model.broadcast(torch.randn(16, settings["z_dim"])))
    return model.eval()


@pytest.mark.parametrize("shared", [0, 2, 3])
def test_a_pair_is_two_generators_with_equal_first_layers(shared):
    model = tiny_pair(shared_layers=shared)
    ws = model.broadcast(torch.randn(3, 6))
    pairs = model.pairs(ws)
    assert pairs.shape == (3, 2, 3, 32, 32)
    assert torch.equal(pairs[:, 0], model.synthesis(ws)) and (pairs[:, 0] - pairs[:, 1]).abs().mean() > 0.01
    names = ["b4", "b8", "b16", "torgb"]
    for domain, end in enumerate(model.ends):
        assert [*model.shared._modules, *end._modules] == names and len(model.shared) == shared
        alone = tiny(resolution=32)
        own = model.shared.state_dict() | end.state_dict()
        alone.load_state_dict({f"layers.{name}": value for name, value in own.items()} | {"w_avg": model.w_avg})
        torch.testing.assert_close(alone.synthesis(ws), pairs[:, domain])


def test_shared_layers_learn_from_both_domains_and_ends_from_their_own():
    model = tiny_pair().train()
    for domain in (0, 1):
        model.zero_grad()
        model.pairs(model.broadcast(torch.randn(4, 6)))[:, domain].square().sum().backward()
        assert all(p.grad.any() for p in model.shared.parameters())
        assert all(p.grad.any() for p in model.ends[domain].parameters())
        assert not any(p.grad is not None and p.grad.any() for p in model.ends[1 - domain].parameters())


def test_the_pipeline_returns_both_domains():
    pipe = SharinganPipeline(tiny_pair(resolution=28))
    drawn = pipe(seeds=range(20), output_type="pt")  # more than are drawn at once
    assert drawn.images.shape == (20, 3, 28, 28) and drawn.pairs.shape == (20, 2, 3, 28, 28)
    assert torch.equal(drawn.pairs[:, 0], drawn.images)
    alone = pipe(seeds=19, output_type="pt", symmetry=3, output_size=40)
    both = pipe(latents=drawn.latents, output_type="pt", symmetry=3, output_size=40).pairs[19]
    torch.testing.assert_close(alone.pairs[0], both, atol=1e-5, rtol=1e-5)
    expected = [(x * 255).round().byte().permute(1, 2, 0).numpy() for x in drawn.pairs[7]]
    for image, pixels in zip(pipe(seeds=range(20)).pairs[7], expected):
        assert (np.asarray(image) == pixels).all()
    assert pipe(seeds=[0, 1], output_type="np").pairs.shape == (2, 2, 28, 28, 3)
    assert SharinganPipeline(tiny())(seeds=0).pairs is None


def test_a_pair_is_saved_and_opened(tmp_path):
    pipe = SharinganPipeline(tiny_pair(attention=16))
    pipe.save_pretrained(tmp_path)
    opened = SharinganPipeline.from_pretrained(tmp_path)
    assert torch.equal(opened(seeds=3, output_type="pt").pairs, pipe(seeds=3, output_type="pt").pairs)
    assert opened.generator_model.config.shared_layers == 2


def test_a_number_of_shared_layers_that_there_is_not():
    with pytest.raises(ValueError, match="shared_layers is 4; it must be from 0 to 3"):
        CoGANGenerator(resolution=32, shared_layers=4)
