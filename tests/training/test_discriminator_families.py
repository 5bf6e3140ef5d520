"""Discriminators of all families: shapes, derivatives, freezing, other sizes, saving, and a few steps of training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sharingan_hub import CoGANGenerator, SharinganPipeline, hub
from training import train
from training.config import TrainConfig
from training.discriminators import (
    DISCRIMINATORS,
    AutoencoderDiscriminator,
    CoGANDiscriminator,
    DCGANDiscriminator,
    R3GANDiscriminator,
    ViTDiscriminator,
)

TINY = {  # class_name and settings of each kind that is tried
    "dcgan": {"class_name": "DCGANDiscriminator", "channels": 4},
    "dcgan_activation_first": {"class_name": "DCGANDiscriminator", "channels": 4, "norm_first": False},
    "dcgan_without_norm": {"class_name": "DCGANDiscriminator", "channels": 4, "normalize": False},
    "dcgan_attention": {"class_name": "DCGANDiscriminator", "channels": 4, "attention": 8},
    "r3gan": {"class_name": "R3GANDiscriminator", "channels": 4, "channel_max": 8},
    "autoencoder": {"class_name": "AutoencoderDiscriminator", "channels": 3, "code_dim": 5},
    "vit": {"class_name": "ViTDiscriminator", "patch_size": 4, "width": 12, "num_layers": 2, "heads": 3},
    "hybrid": {
        "class_name": "ViTDiscriminator",
        "patch_size": 4,
        "width": 12,
        "num_layers": 1,
        "heads": 3,
        "stem_layers": 1,
    },
}
DCGAN = {"class_name": "DCGANGenerator", "z_dim": 8, "channels": 4}
R3GAN = {"class_name": "R3GANGenerator", "z_dim": 8, "channels": 4}
STYLEGAN2 = {"class_name": "StyleGAN2Generator", "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
PAIRS = {  # of a generator and a discriminator, trained together for two steps
    "dcgan": (DCGAN, TINY["dcgan"]),
    "nazeri": (DCGAN | {"norm_first": False}, TINY["dcgan_activation_first"]),
    "sagan": (DCGAN | {"attention": 8}, TINY["dcgan_attention"]),
    "stylegan2_attention": (STYLEGAN2 | {"attention": 8}, TINY["vit"]),
    "stylegan2_attention_instead": (STYLEGAN2 | {"attention": 8, "attention_replaces": True}, TINY["vit"]),
    "r3gan": (R3GAN, TINY["r3gan"]),
    "autoencoder": (DCGAN, TINY["autoencoder"]),
    "vit": (DCGAN, TINY["vit"]),
    "hybrid": (R3GAN, TINY["hybrid"]),
}


def tiny(kind: str, resolution: int = 16, **changes):
    """A small discriminator in which every weight matters: biases and what begins at 0 are not 0."""
    torch.manual_seed(0)
    settings = TINY[kind] | {"resolution": resolution} | changes
    network = DISCRIMINATORS[settings.pop("class_name")](**settings)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(("bias", "gamma")) or not value.any():
                value.normal_(std=0.5)
    return network


@pytest.fixture(params=TINY)
def kind(request) -> str:
    return request.param


def test_logits_at_sizes(kind):
    for side in (16, 28, 32, 64):
        if "attention" in TINY[kind] and side == 28:
            continue  # no layer of it has 8 pixels
        network = tiny(kind, side)
        logits = network(torch.rand(4, 3, side, side) * 2 - 1)
        assert logits.shape == (4, 1) and logits.isfinite().all() and logits.std() > 0
        with pytest.raises(ValueError, match=rf"\(N,3,{side},{side}\), got \(4, 3, 9, 9\)"):
            network(torch.zeros(4, 3, 9, 9))


def test_r1_is_differentiated_rightly(kind):
    """The squared gradient at the pictures, against finite differences of the logits; and its own derivative."""
    network = tiny(kind).double().train()
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn_like(value)
    images = (torch.rand(3, 3, 16, 16, dtype=torch.float64) * 2 - 1).requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        return gradient.square().sum(), gradient

    value, gradient = penalty()
    towards = torch.randn_like(images)
    with torch.no_grad():
        step = 1e-6 * towards
        slope = (network(images + step).sum() - network(images - step).sum()) / 2e-6
    torch.testing.assert_close((gradient * towards).sum(), slope, rtol=1e-4, atol=1e-7)

    parameters = [p for p in network.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    assert any(g is not None and g.any() for g in gradients)
    for parameter, own in zip(parameters, gradients):
        if own is None:
            own = torch.zeros_like(parameter)
        towards = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * towards
            values.append(penalty()[0].detach())
            with torch.no_grad():
                parameter -= sign * 1e-6 * towards
        torch.testing.assert_close((own * towards).sum(), (values[0] - values[1]) / 2e-6, rtol=1e-3, atol=1e-5)


def test_freezing_goes_from_the_picture_on(kind):
    network = tiny(kind)
    network.freeze(1)
    frozen = [p for p in network.parameters() if not p.requires_grad]
    assert set(map(id, frozen)) == set(map(id, network.blocks[0].parameters())) and frozen
    network.freeze(len(network.blocks))
    assert any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="freeze_discriminator must be 0 to"):
        network.freeze(len(network.blocks) + 1)


def test_another_resolution_keeps_what_fits(kind):
    network = tiny(kind)
    assert network.at_resolution(16) is network
    other = network.at_resolution(32)
    assert other.config.resolution == 32 and other(torch.zeros(2, 3, 32, 32)).shape == (2, 1)
    first = next(name for name in network.blocks[0].state_dict() if name.endswith("weight"))
    assert torch.equal(other.blocks[0].state_dict()[first], network.blocks[0].state_dict()[first])


def test_saves_and_loads(kind, tmp_path):
    network = tiny(kind).eval()
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(loaded(images), network(images))
    from sharingan_hub.checkpoints.folder import check_discriminator

    check_discriminator(tmp_path)


def test_dcgan_has_its_known_number_of_weights():
    with torch.device("meta"):
        network = DCGANDiscriminator()
    assert sum(p.numel() for p in network.parameters()) == 2_765_568
    assert not [name for name, _ in network.named_parameters() if "conv.bias" in name]


def test_dcgan_normalises_in_the_order_that_it_is_asked_for():
    orders = {
        norm_first: [list(dict(layer.named_children())) for layer in tiny("dcgan", 32, norm_first=norm_first).layers]
        for norm_first in (True, False)
    }
    first, last = ["conv", "relu"], ["conv", "flatten"]
    assert orders[True] == [first, ["conv", "norm", "relu"], ["conv", "norm", "relu"], last]
    assert orders[False] == [first, ["conv", "relu", "norm"], ["conv", "relu", "norm"], last]


def test_without_norm_a_logit_is_its_pictures_own():
    images = torch.randn(4, 3, 16, 16)
    alone = tiny("dcgan_without_norm")
    torch.testing.assert_close(alone(images)[:1], alone(images[:1]))
    batched = tiny("dcgan").train()
    assert (batched(images)[:1] - batched(images[:2])[:1]).abs() > 1e-4


@pytest.mark.parametrize("sizes", [{"resolution": 15}, {"channels": 0}, {"attention": 5}])
def test_dcgan_names_wrong_settings(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        tiny("dcgan", **sizes)


def test_r3gan_begins_as_a_linear_judge_of_ordinary_size():
    torch.manual_seed(0)
    network = R3GANDiscriminator(resolution=32)
    flat = torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32)  # which no mean weakens
    torch.testing.assert_close(network(2 * flat), 2 * network(flat))
    assert 0.2 < network(flat).std() < 5


@pytest.mark.parametrize("name", ["resolution", "channels", "channel_max", "blocks"])
def test_r3gan_names_wrong_settings(name):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        tiny("r3gan", **{name: 0})


def test_an_autoencoder_s_logit_is_its_mean_error():
    network = tiny("autoencoder", 28)
    images = torch.rand(3, 3, 28, 28) * 2 - 1
    seen = network.reconstruct(images)
    assert seen.shape == images.shape
    expected = [np.abs(a - b).mean() for a, b in zip(images.numpy(), seen.detach().numpy())]
    np.testing.assert_allclose(network(images)[:, 0].detach().numpy(), expected, rtol=1e-5)


def test_an_autoencoder_remembers_a_picture_through_its_code():
    torch.manual_seed(0)
    network = AutoencoderDiscriminator(resolution=16, channels=8, code_dim=4)
    assert network.layers.encode[1].out_features == network.layers.decode[0].in_features == 4
    images = torch.rand(2, 3, 1, 1).expand(-1, -1, 16, 16) * 2 - 1
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    before = network(images).mean()
    for _ in range(80):
        optimizer.zero_grad()
        network(images).mean().backward()
        optimizer.step()
    assert network(images).mean() < 0.3 * before


def reference_layer(layer, x):
    """A transformer layer, normalised first (Dosovitskiy et al. 2021, equations 2 and 3), head by head."""

    def norm(x, own):
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, correction=0, keepdim=True) + own.eps).sqrt()
        return x * own.weight + own.bias

    attention = layer.self_attn
    q, k, v = (norm(x, layer.norm1) @ attention.in_proj_weight.t() + attention.in_proj_bias).chunk(3, dim=-1)
    heads = []
    for part in torch.arange(x.shape[2]).chunk(attention.num_heads):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / len(part) ** 0.5
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    x = x + torch.cat(heads, dim=-1) @ attention.out_proj.weight.t() + attention.out_proj.bias
    hidden = norm(x, layer.norm2) @ layer.linear1.weight.t() + layer.linear1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + hidden @ layer.linear2.weight.t() + layer.linear2.bias


def test_vit_equals_its_equations():
    network = tiny("vit").double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    embedding, head = network.layers.embedding, network.layers.head
    patches = [images[:, :, i : i + 4, j : j + 4].flatten(1) for i in range(0, 16, 4) for j in range(0, 16, 4)]
    conv = embedding.convs[0]
    x = torch.stack(patches, dim=1) @ conv.weight.flatten(1).t() + conv.bias + embedding.positions
    for layer in (network.layers.layer0, network.layers.layer1):
        x = reference_layer(layer, x)
    torch.testing.assert_close(network(images), x.mean(dim=1) @ head.out.weight.t() + head.out.bias)


@pytest.mark.parametrize("kind", ["vit", "hybrid"])
def test_vit_sees_how_far_a_picture_is_beyond_the_range(kind):
    """Or nothing would bring a generator back: the layers' norms leave of a large picture its direction alone."""
    network, images = tiny(kind), torch.randn(2, 3, 16, 16)
    near, far = network(1e4 * images), network(2e4 * images)
    torch.testing.assert_close(far, 2 * near, rtol=0.01, atol=0.0)


def test_vit_layers_begin_different():
    network = ViTDiscriminator(resolution=16, width=32, heads=2)
    first, second = (network.layers.get_submodule(f"layer{i}").self_attn.in_proj_weight for i in (0, 1))
    assert not torch.equal(first, second) and first.std().item() == pytest.approx(0.02, rel=0.1)


def test_vit_stretches_its_positions():
    network = tiny("vit")
    with torch.no_grad():  # a slope from left to right
        network.layers.embedding.positions.copy_(torch.arange(4.0).repeat(4)[None, :, None].expand(-1, -1, 12))
    large = network.at_resolution(32)
    grid = large.layers.embedding.positions.unflatten(1, (8, 8))
    assert torch.allclose(grid, grid[:, :1].expand_as(grid), atol=1e-5)
    torch.testing.assert_close(grid[0, 0, 2:6, 0], torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.1, rtol=0)
    assert torch.equal(large.layers.layer1.linear1.weight, network.layers.layer1.linear1.weight)
    small = large.at_resolution(16)  # bicubic, so not quite the same again
    torch.testing.assert_close(small.layers.embedding.positions, network.layers.embedding.positions, atol=0.25, rtol=0)


def test_a_stem_halves_before_the_patches():
    plain, hybrid = tiny("vit").layers.embedding, tiny("hybrid").layers.embedding
    assert [tuple(conv.stride) for conv in plain.convs] == [(4, 4)]
    assert [tuple(conv.stride) for conv in hybrid.convs if hasattr(conv, "stride")] == [(2, 2), (2, 2)]
    assert plain.positions.shape == hybrid.positions.shape == (1, 16, 12)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("vit", {"resolution": 30}, "resolution must be a multiple of patch_size, 4, got 30"),
        ("vit", {"heads": 5}, "width must be a multiple of heads, 5, got 12"),
        ("vit", {"num_layers": 0}, "num_layers must be at least 1"),
        ("hybrid", {"stem_layers": 3}, "patch_size must be a multiple of 2.stem_layers, 2.3, got 4"),
        ("autoencoder", {"resolution": 15}, "resolution must be at least 16"),
        ("autoencoder", {"code_dim": 0}, "code_dim must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(kind, **changes)


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_cogan_is_two_discriminators_with_equal_last_layers(shared):
    torch.manual_seed(0)
    network = CoGANDiscriminator(resolution=16, channels=4, normalize=False, shared_layers=shared).double()
    images = torch.randn(3, 6, 16, 16, dtype=torch.float64)
    logits = network(images)
    assert logits.shape == (3, 2)
    for domain, start in enumerate(network.starts):
        assert len(start) == 3 - shared
        alone = DCGANDiscriminator(resolution=16, channels=4, normalize=False).double()
        alone.load_state_dict({f"layers.{k}": v for k, v in (start.state_dict() | network.shared.state_dict()).items()})
        torch.testing.assert_close(alone(images[:, 3 * domain : 3 * domain + 3]), logits[:, domain : domain + 1])
    images.requires_grad_()
    assert torch.autograd.gradgradcheck(network, (images,), fast_mode=True)
    network.freeze(1)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {f"starts.{i}.layer0.conv.{part}" for i in (0, 1) for part in ("weight", "bias")}
    with pytest.raises(ValueError, match=r"\(N,6,16,16\), got \(1, 3, 16, 16\)"):
        network(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="shared_layers must be 0 to 2"):
        CoGANDiscriminator(resolution=16, shared_layers=3)


def test_cogan_s_networks_play_with_two_domains():
    """A few steps on two domains, dark and bright: each end learns its own, and what is shared stays shared."""
    torch.manual_seed(0)
    generator = CoGANGenerator(z_dim=4, resolution=16, channels=8, shared_layers=1).train()
    discriminator = CoGANDiscriminator(resolution=16, channels=8, shared_layers=1)
    rates = {"lr": 2e-3, "betas": (0.5, 0.999)}
    optimizers = [torch.optim.Adam(network.parameters(), **rates) for network in (generator, discriminator)]
    for _ in range(40):
        level = torch.tensor([-0.7, 0.7]).repeat_interleave(3)[None, :, None, None]
        reals = level + 0.1 * torch.randn(8, 6, 16, 16)
        fakes = generator.pairs(generator.broadcast(torch.randn(8, 4))).flatten(1, 2)
        loss = (F.softplus(-discriminator(reals)) + F.softplus(discriminator(fakes.detach()))).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        F.softplus(-discriminator(fakes)).mean().backward()
        optimizers[0].step()
    pairs = generator.pairs(generator.broadcast(torch.randn(8, 4)))
    assert pairs[:, 0].mean() < -0.2 and pairs[:, 1].mean() > 0.2
    assert [name for name, _ in generator.named_children()] == ["shared", "ends"]
    assert not {id(p) for p in generator.shared.parameters()} & {id(p) for p in generator.ends.parameters()}


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def settings(pictures: Path, output: Path, pair: str, **changes) -> dict:
    generator, discriminator = PAIRS[pair]
    own = {
        "generator": generator,
        "discriminator": discriminator,
        "train_data": str(pictures),
        "output_dir": str(output),
    }
    rest = {"resolution": 16, "batch_size": 4, "max_steps": 2, "report_to": "none", "learning_rate": 2e-4}
    return own | rest | {"r1_interval": 1, "ema_decay": 0.5} | changes


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_trains_and_its_folder_opens(pair, pictures, tmp_path):
    output = train.train(TrainConfig(**settings(pictures, tmp_path / "run", pair)))
    hub.validate(output)
    pipe = SharinganPipeline.from_pretrained(output)
    kind = PAIRS[pair][0]["class_name"]
    assert type(pipe.generator_model).__name__ == kind and not pipe.generator_model.training
    assert kind in (output / "README.md").read_text()
    two = pipe(seeds=[1, 2], output_type="pt").images
    torch.testing.assert_close(pipe(seeds=2, output_type="pt").images[0], two[1], atol=1e-5, rtol=0)
    seen = json.loads((output / "discriminator" / "config.json").read_text())
    assert seen["_class_name"] == PAIRS[pair][1]["class_name"]
    further = settings(pictures, tmp_path / "further", pair, base_model=str(output), max_steps=1)
    assert train.train(TrainConfig(**further)).is_dir()


def test_style_mixing_needs_rows(pictures, tmp_path):
    config = TrainConfig(**settings(pictures, tmp_path / "run", "dcgan", style_mixing=0.5))
    with pytest.raises(ValueError, match="style_mixing must be 0 with DCGANGenerator"):
        train.train(config)
