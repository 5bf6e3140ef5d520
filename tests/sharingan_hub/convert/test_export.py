"""There and back: foreign files, our folders, and files for the other programs again, bit for bit."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from sharingan_hub.convert import ConversionError, convert, export

from . import layouts, writers
from .layouts import Sizes

SQUARE = {
    "4 px": Sizes(resolution=4, layers=1),
    "8 px": Sizes(resolution=8),
    "64 px": Sizes(resolution=64, base=256, most=5, layers=2),
}
ANY = {
    **SQUARE,
    "wide mapping": Sizes(z_dim=6, w_dim=10, hidden=24),
    "classes": Sizes(c_dim=3, embed=5),
    "clamped": Sizes(clamp=2),
}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("size", SQUARE)
def test_rosinality_there_and_back(size, tmp_path):
    sizes = SQUARE[size]
    judged = sizes.resolution > 4
    source = layouts.write_rosinality(tmp_path / "x", sizes, prefix="module.")
    folder = convert(source, tmp_path / "out", with_discriminator=judged)
    back = torch.load(export(folder, tmp_path / "back.pt"), weights_only=True)
    assert_equal(back["g_ema"], layouts.rosinality_generator(sizes))  # filters too: it loads strictly
    assert torch.equal(back["latent_avg"], layouts.Draw(3)(sizes.w_dim))
    if judged:
        assert_equal(back["d"], layouts.rosinality_discriminator(sizes))
    again = convert(tmp_path / "back.pt", tmp_path / "again", with_discriminator=judged)
    for part in ["generator_model", "discriminator"] if judged else ["generator_model"]:
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("size", ANY)
def test_nvidia_there_and_back(size, tmp_path):
    sizes = ANY[size]
    judged = sizes.resolution > 4
    folder = convert(layouts.write_nvidia(tmp_path / "x", sizes), tmp_path / "out", with_discriminator=judged)
    path = export(folder, tmp_path / "back.safetensors", "nvidia")
    assert_equal(load_file(path), layouts.nvidia_generator(sizes))
    with safe_open(path, "pt") as file:
        kwargs = json.loads(file.metadata()["init_kwargs"])
    assert (kwargs["z_dim"], kwargs["c_dim"], kwargs["w_dim"]) == (sizes.z_dim, sizes.c_dim, sizes.w_dim)
    assert kwargs["img_resolution"] == sizes.resolution and kwargs["synthesis_kwargs"]["conv_clamp"] == sizes.clamp
    assert kwargs["mapping_kwargs"]["num_layers"] == sizes.layers
    beside = tmp_path / "back-discriminator.safetensors"
    assert beside.exists() == judged
    if judged:
        assert_equal(load_file(beside), layouts.nvidia_discriminator(sizes))


def test_all_three_formats_hold_the_same_networks(tmp_path):
    """From rosinality's tensors, those of NVIDIA's layout; and from TensorFlow's, by way of NVIDIA's and rosinality's, ours."""
    sizes = Sizes(resolution=32)
    first = convert(layouts.write_tensorflow(tmp_path / "x", sizes), tmp_path / "first", with_discriminator=True)
    second = convert(export(first, tmp_path / "r.pt"), tmp_path / "second", with_discriminator=True)
    state = load_file(export(second, tmp_path / "n.safetensors", "nvidia"))
    judge = load_file(tmp_path / "n-discriminator.safetensors")
    path = writers.pickle_nvidia(
        tmp_path / "y",
        G_ema=layouts.nvidia_module(state, sizes, "Generator"),
        D=layouts.nvidia_module(judge, sizes, "Discriminator"),
    )
    third = convert(path, tmp_path / "third", with_discriminator=True)
    for part in ("generator_model", "discriminator"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (first / name).read_bytes() == (second / name).read_bytes() == (third / name).read_bytes()


def test_another_multiplier_goes_into_the_weights(tmp_path):
    told = {f"mapping.fc{i}": {"bias_gain": 0.02} for i in range(3)}
    folder = convert(layouts.write_nvidia(tmp_path / "x", Sizes(), **told), tmp_path / "out")
    state = torch.load(export(folder, tmp_path / "back.pt"), weights_only=True)["g_ema"]
    source = layouts.nvidia_generator(Sizes())
    torch.testing.assert_close(state["style.2.weight"], source["mapping.fc1.weight"] * 2)
    torch.testing.assert_close(state["style.2.bias"], source["mapping.fc1.bias"] * 2)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (Sizes(c_dim=2, embed=8), "has classes"),
        (Sizes(hidden=9), "differ in width"),
        (Sizes(z_dim=6), "differ in width"),
    ],
)
def test_what_rosinality_does_not_have_is_refused(sizes, words, tmp_path):
    folder = convert(layouts.write_nvidia(tmp_path / "x", sizes), tmp_path / "out")
    with pytest.raises(ConversionError, match=words):
        export(folder, tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()


def test_what_is_there_stays_and_other_generators_are_refused(tmp_path):
    folder = convert(layouts.write_rosinality(tmp_path / "x", Sizes()), tmp_path / "out")
    (tmp_path / "back.pt").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        export(folder, tmp_path / "back.pt")
    with pytest.raises(ValueError, match="layout is 'onnx'"):
        export(folder, tmp_path / "new.pt", "onnx")
    SharinganPipeline(RadialGenerator(z_dim=4, w_dim=4, channels=[4], base_radius=4, base_angle=4)).save_pretrained(
        tmp_path / "r"
    )
    with pytest.raises(ConversionError, match="RadialGenerator"):
        export(tmp_path / "r", tmp_path / "new.pt")
    attentive = StyleGAN2Generator(z_dim=4, w_dim=4, resolution=8, mapping_layers=1, channel_max=8, attention=8)
    SharinganPipeline(attentive).save_pretrained(tmp_path / "attentive")
    with pytest.raises(ConversionError, match="has self-attention"):
        export(tmp_path / "attentive", tmp_path / "new.pt")
    (folder / "discriminator").mkdir()
    (folder / "discriminator" / "config.json").write_text('{"resolution": "much"}')
    with pytest.raises(ConversionError, match="no StyleGAN2Discriminator"):
        export(folder, tmp_path / "new.pt")
    assert (tmp_path / "back.pt").read_text() == "mine" and not (tmp_path / "new.pt").exists()
