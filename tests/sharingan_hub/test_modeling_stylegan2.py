"""StyleGAN2Generator against an independent reference: one kernel for each sample, zero insertion and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from sharingan_hub.modeling_stylegan2 import SelfAttention, StyleGAN2Generator, SynthesisLayer, upsample

TINY = {"z_dim": 12, "w_dim": 10, "resolution": 16, "mapping_layers": 3, "channel_base": 64, "channel_max": 7}
FIR = (1, 3, 3, 1)


def tiny(**changes) -> StyleGAN2Generator:
    """A small generator in which every parameter matters: biases, noise strengths and w_avg are not their first values."""
    torch.manual_seed(0)
    model = StyleGAN2Generator(**{**TINY, **changes}).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                value += 0.3 * torch.randn_like(value)
        model.w_avg.normal_()
    return model


def insert_zeros_and_filter(x: torch.Tensor, pad: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) -> zero insertion, padding, and the filter with a gain of 4, one tap at a time."""
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, 2 * h + sum(pad), 2 * w + sum(pad))
    z[:, :, pad[0] : pad[0] + 2 * h : 2, pad[0] : pad[0] + 2 * w : 2] = x
    return apply_taps(z)


def apply_taps(z: torch.Tensor) -> torch.Tensor:
    """Valid correlation with the separable [1, 3, 3, 1] / 8, times 4."""
    height, width = z.shape[2] - 3, z.shape[3] - 3
    out = z.new_zeros(*z.shape[:2], height, width)
    for i, a in enumerate(FIR):
        for j, b in enumerate(FIR):
            out += a * b / 64 * 4 * z[:, :, i : i + height, j : j + width]
    return out


def affine(state: dict, name: str, w: torch.Tensor) -> torch.Tensor:
    return w @ state[f"{name}.affine.weight"].t() / math.sqrt(w.shape[1]) + state[f"{name}.affine.bias"]


def reference_layer(state: dict, name: str, x: torch.Tensor, w: torch.Tensor, up: bool, noise: bool) -> torch.Tensor:
    """The papers' formulation: modulate and demodulate one kernel for each sample, then convolve in groups."""
    n, c, h, _ = x.shape
    weight = state[f"{name}.weight"][None] * affine(state, name, w)[:, None, :, None, None]
    weight = weight / weight.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    out = weight.shape[1]
    if up:
        # A transposed convolution is a convolution (kernel flipped) of the picture with zeros between its pixels.
        z = x.new_zeros(n, c, 2 * h - 1, 2 * h - 1)
        z[:, :, ::2, ::2] = x
        kernel = weight.flip(3, 4).reshape(n * out, c, 3, 3)
        x = F.conv2d(z.reshape(1, n * c, *z.shape[2:]), kernel, padding=2, groups=n)
        x = apply_taps(F.pad(x.reshape(n, out, *x.shape[2:]), (1, 1, 1, 1)))
    else:
        x = F.conv2d(x.reshape(1, n * c, h, h), weight.reshape(n * out, c, 3, 3), padding=1, groups=n)
        x = x.reshape(n, out, h, h)
    if noise:
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
    x = x + state[f"{name}.bias"][:, None, None]
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def reference(model: StyleGAN2Generator, z: torch.Tensor, noise: bool = True) -> torch.Tensor:
    """The whole generator in float64 from its state dict, by the names that other implementations use."""
    state = {name: value.double() for name, value in model.state_dict().items()}
    w = z.double() / z.double().square().mean(dim=1, keepdim=True).sqrt()
    for i in range(TINY["mapping_layers"]):
        weight = state[f"mapping.fc{i}.weight"] * 0.01 / math.sqrt(w.shape[1])
        w = w @ weight.t() + state[f"mapping.fc{i}.bias"] * 0.01
        w = torch.where(w > 0, w, 0.2 * w) * math.sqrt(2)
    x = state["synthesis.b4.const"][None].repeat(len(z), 1, 1, 1)
    image = x.new_zeros(len(z), 3, 2, 2)
    for size in (4, 8, 16):
        block = f"synthesis.b{size}"
        if size > 4:
            x = reference_layer(state, f"{block}.conv0", x, w, up=True, noise=noise)
        x = reference_layer(state, f"{block}.conv1", x, w, up=False, noise=noise)
        style = affine(state, f"{block}.torgb", w) / math.sqrt(x.shape[1])
        rgb = torch.einsum("nchw,oc,nc->nohw", x, state[f"{block}.torgb.weight"][:, :, 0, 0], style)
        image = insert_zeros_and_filter(image, (2, 1)) + rgb + state[f"{block}.torgb.bias"][:, None, None]
    return image


@pytest.mark.parametrize("noise_mode", ["const", "none"])
def test_whole_generator_equals_the_papers_formulation(noise_mode):
    model, z = tiny(), torch.randn(3, 12)
    with torch.no_grad():
        expected = reference(model, z, noise=noise_mode == "const")
        torch.testing.assert_close(model(z, noise_mode).double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("up", [False, True])
def test_layer_equals_one_kernel_for_each_sample_in_float64(up):
    torch.manual_seed(1)
    layer = SynthesisLayer(5, 4, 6, resolution=12 if up else 6, up=up).double()
    layer.affine.float()  # the styles are float32 in any precision, so compare with the style it finds
    x, w = torch.randn(2, 5, 6, 6, dtype=torch.float64), torch.randn(2, 6)
    state = {f"layer.{name}": value for name, value in layer.state_dict().items()}
    with torch.no_grad():
        expected = reference_layer(state, "layer", x, w.float(), up, noise=False)
        torch.testing.assert_close(layer(x, w, "none", None, None), expected, atol=1e-6, rtol=1e-6)


def test_upsampling_is_zero_insertion_and_filter():
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(upsample(x), insert_zeros_and_filter(x, (2, 1)))
    inner = upsample(torch.ones(1, 3, 6, 6))[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.ones_like(inner))  # a flat picture stays flat


def test_parameter_count_is_that_of_the_published_1024_pixel_network():
    with torch.device("meta"):
        model = StyleGAN2Generator(resolution=1024, channel_base=32768)
    assert sum(p.numel() for p in model.parameters()) == 30_370_060
    assert sum(p.numel() for p in model.mapping.parameters()) == 2_101_248
    assert model.num_ws == model.style_ws == 18


@pytest.mark.parametrize("resolution", [4, 8, 32])
def test_shapes_rows_and_memory_format(resolution):
    model = tiny(resolution=resolution)
    assert model.num_ws == 2 * int(math.log2(resolution)) - 2
    assert model.conditions == () and model.w_avg.shape == (10,)
    ws = model.broadcast(model.mapping(torch.randn(2, 12)))
    assert ws.shape == (2, model.num_ws, 10)
    image = model.synthesis(ws)
    assert image.shape == (2, 3, resolution, resolution) and image.dtype == torch.float32
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_each_row_of_ws_steers_its_own_layers():
    """Row 0 is the first convolution; row 2k - 1 is shared by a torgb and the next conv0; the last row is a torgb alone."""
    model = tiny()
    ws = model.broadcast(model.mapping(torch.randn(1, 12))).detach()
    layers = [
        ("b4.conv1",),
        ("b4.torgb", "b8.conv0"),
        ("b8.conv1",),
        ("b8.torgb", "b16.conv0"),
        ("b16.conv1",),
        ("b16.torgb",),
    ]
    for row, names in enumerate(layers):
        model.zero_grad()
        mixed = torch.zeros_like(ws)
        mixed[:, row] = ws[:, row]
        model.synthesis(mixed).square().sum().backward()
        # A row of zeros gives no gradient to the weights of its affine layers, whatever flows back to them.
        steered = {n for n, p in model.synthesis.named_parameters() if n.endswith("affine.weight") and p.grad.any()}
        assert steered == {f"{name}.affine.weight" for name in names}


def test_a_class_stands_beside_z_normalised():
    model, z = tiny(c_dim=3, embed_dim=5), torch.randn(4, 12)
    assert model.conditions == ("class_label",) and model.mapping.fc0.weight.shape == (10, 17)
    label = torch.tensor([0, 1, 2, 2])
    embedded = model.mapping.embed.weight[:, label].t() / math.sqrt(3) + model.mapping.embed.bias
    x = torch.cat([part / part.square().mean(dim=1, keepdim=True).sqrt() for part in (z, embedded)], dim=1)
    for i in range(3):
        layer = getattr(model.mapping, f"fc{i}")
        x = F.leaky_relu(x @ layer.weight.t() * 0.01 / math.sqrt(x.shape[1]) + layer.bias * 0.01, 0.2) * math.sqrt(2)
    torch.testing.assert_close(model.mapping(z, label), x)
    torch.testing.assert_close(model.mapping(z), model.mapping(z, torch.zeros(4, dtype=torch.int64)))
    torch.testing.assert_close(
        model(z, class_label=label)[1:2], model(z[1:2], class_label=label[1:2]), atol=1e-5, rtol=1e-4
    )
    assert tiny().conditions == () and "mapping.embed.weight" not in tiny().state_dict()


def test_equalised_learning_rate_keeps_weights_unscaled_and_signals_at_unit_size():
    torch.manual_seed(0)
    model = StyleGAN2Generator(z_dim=256, w_dim=256, resolution=8, mapping_layers=4, channel_max=64)
    assert model.mapping.fc1.weight.std().item() == pytest.approx(100, rel=0.05)
    assert model.synthesis.b8.conv0.weight.std().item() == pytest.approx(1, rel=0.05)
    biases = {name: value for name, value in model.named_parameters() if name.endswith("bias")}
    assert (
        all((value == float(name.endswith("affine.bias"))).all() for name, value in biases.items())
        and len(biases) == 14
    )
    w = model.mapping(torch.randn(64, 256))
    assert 0.5 < w.square().mean().item() < 2


def test_mapping_normalises_z_and_demodulation_cancels_the_weights_scale():
    model, z = tiny(), torch.randn(2, 12)
    torch.testing.assert_close(model.mapping(z * 7), model.mapping(z))
    before = model(z)
    with torch.no_grad():
        model.synthesis.b8.conv0.weight *= 5
    torch.testing.assert_close(model(z), before, atol=1e-4, rtol=1e-4)


def test_noise_modes():
    model, z = tiny(), torch.randn(2, 12)
    with torch.no_grad():
        const, none = model(z), model(z, "none")
        assert torch.equal(const, model(z, "const")) and not torch.allclose(const, none)
        drawn = [model(z, "random", torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])
        # With one generator for each sample, a sample's noise does not depend on the others.
        pair = model(z, "random", [torch.Generator().manual_seed(s) for s in (5, 6)])
        alone = model(z[1:], "random", [torch.Generator().manual_seed(6)])
        torch.testing.assert_close(pair[1:], alone, atol=1e-5, rtol=1e-5)
        for name, strength in model.named_parameters():
            if name.endswith("noise_strength"):
                strength.zero_()
        torch.testing.assert_close(model(z, "const"), model(z, "none"))


def test_random_noise_has_the_stored_strength():
    torch.manual_seed(0)
    layer = SynthesisLayer(3, 1, 4, resolution=64, up=False)
    with torch.no_grad():
        layer.noise_strength.fill_(0.5)
        layer.bias.fill_(100)  # far inside the linear part of the activation
        out = layer(torch.zeros(4, 3, 64, 64), torch.zeros(4, 4), "random", torch.Generator().manual_seed(0), None)
    assert (out / math.sqrt(2)).std().item() == pytest.approx(0.5, rel=0.03)


def test_conv_clamp_limits_activations():
    torch.manual_seed(0)
    free, clamped = (SynthesisLayer(3, 4, 4, resolution=8, up=False) for _ in range(2))
    clamped.load_state_dict(free.state_dict())
    x, w = 9 * torch.randn(2, 3, 8, 8), torch.randn(2, 4)
    with torch.no_grad():
        expected = free(x, w, "none", None, None).clamp(-0.5, 0.5)
        assert torch.equal(clamped(x, w, "none", None, 0.5), expected)
        assert expected.max() == 0.5
    assert tiny(conv_clamp=0.01)(torch.randn(1, 12)).abs().max() <= 3 * 0.01 + 1e-6  # three skips, each clamped


def test_low_precision_keeps_mapping_and_picture_in_float32():
    model, z = tiny(), torch.randn(4, 12)
    with torch.no_grad():
        expected = model(z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            w = model.mapping(z)
        assert w.dtype == torch.float32 and torch.equal(w, model.mapping(z))
        low = model.bfloat16()
        assert low.mapping(z).dtype == torch.float32
        image = low(z)
    assert image.dtype == torch.float32
    assert (image - expected).abs().mean() < 0.03 * expected.abs().mean() + 0.01


def test_gradients_twice():
    """Path length regularisation differentiates a gradient: the first against finite differences, the second finite."""
    model = tiny()
    ws = model.broadcast(model.mapping(torch.randn(1, 12))).detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(model.synthesis(ws).square().mean(), ws, create_graph=True)
    grad.square().sum().backward()
    for name, p in model.synthesis.named_parameters():
        if not name.startswith("b16.torgb.bias"):
            assert p.grad is not None and p.grad.isfinite().all(), name
    direction = torch.randn_like(ws)
    with torch.no_grad():
        plus, minus = (model.synthesis(ws + s * direction).square().mean() for s in (1e-2, -1e-2))
    assert ((plus - minus) / 2e-2).item() == pytest.approx((grad * direction).sum().item(), rel=0.02, abs=1e-3)


def test_round_trip_through_safetensors(tmp_path):
    model, z = tiny(conv_clamp=256.0, mapping_dim=9), torch.randn(2, 12)
    model.save_pretrained(tmp_path)
    again = StyleGAN2Generator.from_pretrained(tmp_path)
    assert not again.training and dict(again.config)["mapping_dim"] == 9
    assert {name: tuple(value.shape) for name, value in model.state_dict().items() if "mapping" in name} == {
        "mapping.fc0.weight": (9, 12),
        "mapping.fc0.bias": (9,),
        "mapping.fc1.weight": (9, 9),
        "mapping.fc1.bias": (9,),
        "mapping.fc2.weight": (10, 9),
        "mapping.fc2.bias": (10,),
    }
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with torch.no_grad():
        assert torch.equal(model(z), again(z))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution is 48; it must be a power of two from 4 to 1024"),
        ({"resolution": 2}, "resolution is 2"),
        ({"resolution": 2048}, "resolution is 2048"),
        ({"z_dim": 0}, "z_dim is 0; it must be from 1 to 8192"),
        ({"mapping_layers": 10**6}, "mapping_layers is 1000000; it must be from 1 to 64"),
        ({"mapping_dim": -1}, "mapping_dim is -1"),
        ({"channel_max": 0}, "channel_max is 0"),
        ({"mapping_lr_multiplier": 0.0}, "mapping_lr_multiplier is 0.0"),
        ({"conv_clamp": -1.0}, "conv_clamp is -1.0"),
        ({"c_dim": -1}, "c_dim is -1; it must be from 0 to 8192"),
        ({"embed_dim": 0}, "embed_dim is 0"),
    ],
)
def test_sizes_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN2Generator(**{**TINY, **changes})


def test_wrong_calls_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="noise_mode is 'loud'; it must be one of const, random, none"):
        model(torch.randn(1, 12), "loud")
    with pytest.raises(ValueError, match=r"ws has shape \(1, 5, 10\); it must be \(N, 6, w_dim\)"):
        model.synthesis(torch.randn(1, 5, 10))


@pytest.mark.gpu
def test_same_picture_on_the_gpu():
    model, z = tiny(), torch.randn(4, 12)
    with torch.no_grad():
        expected = model(z)
        torch.testing.assert_close(model.cuda()(z.cuda()).cpu(), expected, atol=1e-2, rtol=1e-2)
        half = model.half()(z.cuda()).cpu()
    assert (half - expected).abs().mean() < 0.02


# Self-attention


def test_attention_begins_as_the_identity_and_then_is_its_definition():
    torch.manual_seed(0)
    attention = SelfAttention(16)
    x = torch.randn(2, 16, 3, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gamma.fill_(0.7)
        for layer in (attention.query, attention.key, attention.value, attention.out):
            layer.bias.normal_()
        places = x.permute(0, 2, 3, 1).reshape(2, 12, 16)

        def linear(layer, values):
            return values @ layer.weight.t() / math.sqrt(layer.weight.shape[1]) + layer.bias

        expected = places.clone()
        for n in range(2):
            for i in range(12):
                scores = torch.stack(
                    [linear(attention.query, places[n, i]) @ linear(attention.key, places[n, j]) for j in range(12)]
                )
                shares = (scores / math.sqrt(2)).softmax(dim=0)  # 16 / 8 numbers in a query
                seen = sum(share * linear(attention.value, places[n, j]) for j, share in enumerate(shares))
                expected[n, i] += 0.7 * linear(attention.out, seen)
        torch.testing.assert_close(attention(x).permute(0, 2, 3, 1).reshape(2, 12, 16), expected, atol=1e-5, rtol=1e-5)


def test_attention_beside_a_convolution_begins_as_the_generator_without_it():
    plain, attentive = tiny(), tiny(attention=8)
    missing = attentive.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == [] and all(".b8.attention." in name for name in missing.missing_keys)
    z = torch.randn(2, 12)
    assert torch.equal(attentive(z), plain(z))
    before = attentive(z)
    attentive.synthesis.b8.attention.gamma.data.fill_(1.0)
    assert not torch.allclose(attentive(z), before, atol=1e-3)


def test_attention_in_place_of_a_convolution_alone_carries_from_place_to_place():
    """What a change of one pixel in front of the block's second convolution reaches behind it."""

    def reached(gamma: float) -> int:
        model = tiny(attention=8, attention_replaces=True, channel_max=16)
        model.synthesis.b8.attention.gamma.data.fill_(gamma)
        block, w = model.synthesis.b8, torch.randn(1, 10)
        x = torch.randn(1, 8, 8, 8)
        y = x.clone()
        y[:, :, 2, 3] += 1
        with torch.no_grad():
            first, second = (block.attention(block.conv1(value, w, "none", None, None)) for value in (x, y))
        return int((first != second).any(dim=1).sum())

    assert tiny(attention=8, attention_replaces=True).synthesis.b8.conv1.weight.shape[2:] == (1, 1)
    assert reached(0.0) == 1 and reached(1.0) == 64


def test_a_one_by_one_layer_is_a_matrix_for_each_pixel():
    torch.manual_seed(0)
    layer = SynthesisLayer(5, 4, 6, resolution=3, up=False, kernel=1)
    x, w = torch.randn(2, 5, 3, 3), torch.randn(2, 6)
    with torch.no_grad():
        state = {f"layer.{name}": value for name, value in layer.state_dict().items()}
        weight = layer.weight[None, :, :, 0, 0] * affine(state, "layer", w)[:, None]
        weight = weight / weight.square().sum(dim=2, keepdim=True).sqrt()
        expected = F.leaky_relu(torch.einsum("noi,nihw->nohw", weight, x), 0.2) * math.sqrt(2)
        torch.testing.assert_close(layer(x, w, "none", None, None), expected, atol=1e-5, rtol=1e-5)


def test_attention_differentiates_twice():
    """Path length regularisation does that."""
    attention = SelfAttention(8).double()
    attention.gamma.data.fill_(1)
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), attention.query.weight)
    assert second.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": 12}, "attention is 12; it must be a power of two from 4 to 16, or None"),
        ({"attention": 32}, "attention is 32"),
        ({"attention_replaces": True}, "attention_replaces is True, but there is no attention"),
    ],
)
def test_attention_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
