"""Converted networks against forward passes on the foreign files' own tensors, from random weights in each of the layouts."""

import hashlib
import json

import numpy as np
import pytest
import torch

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.checkpoints.folder import validate
from sharingan_hub.convert import ConversionError, convert, set_noise
from sharingan_hub.convert.folder import find
from sharingan_hub.convert.networks import channel_settings, make_generator
from sharingan_hub.convert.unpickle import Record, read
from training.discriminators import StyleGAN2Discriminator

from . import layouts, reference, writers
from .layouts import Sizes

KINDS = {
    "4 px": Sizes(resolution=4, layers=1),
    "8 px": Sizes(resolution=8, layers=8),
    "16 px": Sizes(),
    "32 px": Sizes(resolution=32, base=200, most=6),
    "64 px": Sizes(resolution=64, base=256, most=5, layers=2),
    "256 px": Sizes(resolution=256, base=512, most=4),
    "1024 px": Sizes(resolution=1024, base=2048, most=3),
    "wide mapping": Sizes(z_dim=6, w_dim=10, hidden=24),
    "classes": Sizes(c_dim=3, embed=5),
    "clamped": Sizes(clamp=1.5),
    "no noise": Sizes(noise=False),
}
NO_CLASSES = [name for name, sizes in KINDS.items() if not sizes.c_dim and sizes.noise and sizes.clamp is None]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """As near as the project promises."""
    assert ours.shape == theirs.shape and theirs.abs().max() > 0.05
    assert (ours.double() - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())


def seeded_z(sizes: Sizes, *seeds: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.random.RandomState(seed).randn(sizes.z_dim) for seed in seeds]))


def drawn(pipe: SharinganPipeline, *seeds: int, psi: float = 0.6, noise_mode: str = "const", label: int | None = None):
    with torch.no_grad():
        return pipe.generator_model.synthesis(pipe.prepare_latents(seeds, psi, class_label=label), noise_mode)


def images_for(sizes: Sizes) -> torch.Tensor:
    return torch.rand(4, 3, sizes.resolution, sizes.resolution, generator=torch.Generator().manual_seed(5)) * 2 - 1


def judge_of(folder) -> StyleGAN2Discriminator:
    settings = hub.read_json(folder / "discriminator" / "config.json")
    judge = StyleGAN2Discriminator(**{name: value for name, value in settings.items() if not name.startswith("_")})
    judge.load_state_dict(hub.read_weights(folder / "discriminator" / hub.WEIGHTS, judge.state_dict()))
    return judge


@pytest.mark.parametrize("kind", KINDS)
def test_nvidia_draws_the_same(kind, tmp_path):
    sizes = KINDS[kind]
    folder = convert(layouts.write_nvidia(tmp_path / "x", sizes), tmp_path / "out")
    pipe, state = SharinganPipeline.from_pretrained(folder), layouts.nvidia_generator(sizes)
    label = 2 if sizes.c_dim else None
    for mode in ("const", "none"):
        theirs = reference.nvidia(state, seeded_z(sizes, 3, 4), 0.6, label, mode == "const", sizes.clamp)
        assert_same(drawn(pipe, 3, 4, noise_mode=mode, label=label), theirs)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_tensorflow_draws_the_same(kind, version, tmp_path):
    sizes = KINDS[kind]
    folder = convert(layouts.write_tensorflow(tmp_path / "x", sizes, version=version), tmp_path / "out")
    pipe, variables = SharinganPipeline.from_pretrained(folder), layouts.tensorflow_generator(sizes)
    label = 2 if sizes.c_dim else None
    theirs = reference.tensorflow(variables, seeded_z(sizes, 3, 4), 0.6, label, clamp=sizes.clamp)
    assert_same(drawn(pipe, 3, 4, label=label), theirs)
    silent = {name: value for name, value in variables.items() if not name.startswith("synthesis/noise")}
    theirs = reference.tensorflow(silent, seeded_z(sizes, 3, 4), 0.6, label, clamp=sizes.clamp)
    assert_same(drawn(pipe, 3, 4, noise_mode="none", label=label), theirs)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", NO_CLASSES)
def test_rosinality_draws_the_same(kind, prefix, tmp_path):
    sizes = KINDS[kind]
    folder = convert(layouts.write_rosinality(tmp_path / "x", sizes, prefix=prefix), tmp_path / "out")
    state, average = layouts.rosinality_generator(sizes), layouts.Draw(3)(sizes.w_dim)
    theirs = reference.rosinality(state, seeded_z(sizes, 3, 4), average, 0.6)
    assert_same(drawn(SharinganPipeline.from_pretrained(folder), 3, 4), theirs)


@pytest.mark.parametrize("size", ["8 px", "16 px", "64 px"])
def test_discriminators_judge_the_same(size, tmp_path):
    sizes = KINDS[size]
    images = images_for(sizes)
    cases = [
        (layouts.write_nvidia, reference.nvidia_judge(layouts.nvidia_discriminator(sizes), images)),
        (layouts.write_tensorflow, reference.tensorflow_judge(layouts.tensorflow_discriminator(sizes), images)),
        (layouts.write_rosinality, reference.rosinality_judge(layouts.rosinality_discriminator(sizes), images)),
    ]
    for write, theirs in cases:
        folder = convert(
            write(tmp_path / write.__name__, sizes), tmp_path / f"{write.__name__}-out", with_discriminator=True
        )
        with torch.no_grad():
            assert_same(judge_of(folder)(images), theirs)


def test_a_clamped_discriminator_judges_the_same(tmp_path):
    sizes = Sizes(clamp=0.8)
    folder = convert(layouts.write_nvidia(tmp_path / "x", sizes), tmp_path / "out", with_discriminator=True)
    images, state = images_for(sizes), layouts.nvidia_discriminator(sizes)
    theirs = reference.nvidia_judge(state, images, clamp=0.8)
    with torch.no_grad():
        assert_same(judge_of(folder)(images), theirs)
    assert not torch.allclose(theirs, reference.nvidia_judge(state, images), rtol=1e-2)


@pytest.mark.parametrize("write", [layouts.write_nvidia, layouts.write_tensorflow, layouts.write_rosinality])
def test_raw_and_averaged_are_told_apart(write, tmp_path):
    read_as = {
        layouts.write_nvidia: (layouts.nvidia_generator, "synthesis.b8.conv1.bias"),
        layouts.write_tensorflow: (layouts.tensorflow_generator, "synthesis/8x8/Conv1/bias"),
        layouts.write_rosinality: (layouts.rosinality_generator, "convs.1.activate.bias"),
    }
    make, name = read_as[write]
    path = write(tmp_path / "x", Sizes())
    for which, seed in (("ema", 0), ("raw", 2)):
        folder = convert(path, tmp_path / which, which=which)
        bias = SharinganPipeline.from_pretrained(folder).generator_model.synthesis.b8.conv1.bias
        assert torch.equal(bias, torch.as_tensor(make(Sizes(), seed)[name]))


def test_tensorflow_seeds_draw_their_own_noise(tmp_path):
    """Its scripts draw z, and then every noise variable in its order, from one RandomState."""
    sizes = Sizes(resolution=32)
    pipe = SharinganPipeline.from_pretrained(convert(layouts.write_tensorflow(tmp_path / "x", sizes), tmp_path / "out"))
    rnd = np.random.RandomState(11)
    z = rnd.randn(1, sizes.z_dim)
    shapes = [(1, 1, 4, 4), (1, 1, 8, 8), (1, 1, 8, 8), (1, 1, 16, 16), (1, 1, 16, 16), (1, 1, 32, 32), (1, 1, 32, 32)]
    noise = {f"synthesis/noise{i}": rnd.randn(*shape) for i, shape in enumerate(shapes)}
    theirs = reference.tensorflow(layouts.tensorflow_generator(sizes), torch.from_numpy(z), 0.6, noise=noise)
    assert not torch.allclose(drawn(pipe, 11).double(), theirs, atol=1e-2)
    set_noise(pipe.generator_model, 11)
    assert_same(drawn(pipe, 11), theirs)


def test_a_file_without_average_gets_one(tmp_path):
    folder = convert(layouts.write_rosinality(tmp_path / "x", Sizes(), average=False), tmp_path / "out")
    model = SharinganPipeline.from_pretrained(folder).generator_model
    w = model.mapping(torch.randn(4000, 8, generator=torch.Generator().manual_seed(9)))
    assert ((model.w_avg - w.mean(dim=0)).abs() < 6 * w.std(dim=0) / 4000**0.5).all() and model.w_avg.any()


def test_a_frozen_layer_is_a_buffer(tmp_path):
    """FreezeD makes weights of the discriminator buffers, which have no gradient."""
    sizes, state = Sizes(), layouts.nvidia_discriminator(Sizes())
    made = layouts.nvidia_module(state, sizes, "Discriminator")
    block = made._meta["state"]["_modules"]["b16"]._meta["state"]["_modules"]["conv0"]._meta["state"]
    for name, value in list(block["_parameters"].items()):
        block["_buffers"][name] = value.data
        del block["_parameters"][name]
    generator = layouts.nvidia_module(layouts.nvidia_generator(sizes), sizes, "Generator")
    path = writers.pickle_nvidia(tmp_path / "x", G_ema=generator, D=made)
    folder = convert(path, tmp_path / "out", with_discriminator=True)
    assert torch.equal(judge_of(folder).b16.conv0.weight, state["b16.conv0.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_other_precisions_become_float32(dtype, tmp_path):
    state = {name: tensor.to(dtype) for name, tensor in layouts.nvidia_generator(Sizes()).items()}
    path = writers.pickle_nvidia(tmp_path / "x", G_ema=layouts.nvidia_module(state, Sizes(), "Generator"))
    model = SharinganPipeline.from_pretrained(convert(path, tmp_path / "out")).generator_model
    assert torch.equal(model.synthesis.b8.conv0.weight, state["synthesis.b8.conv0.weight"].float())


def test_the_multiplier_of_the_mapping_network_is_read(tmp_path):
    told = {f"mapping.fc{i}": {"bias_gain": 0.02} for i in range(3)}
    nvidia = convert(layouts.write_nvidia(tmp_path / "n", Sizes(), **told), tmp_path / "nvidia")
    tensorflow = convert(layouts.write_tensorflow(tmp_path / "t", Sizes(), mapping_lrmul=0.02), tmp_path / "tensorflow")
    for folder in (nvidia, tensorflow):
        assert SharinganPipeline.from_pretrained(folder).generator_model.config.mapping_lr_multiplier == 0.02


def test_channels_are_read_from_the_tensors():
    for base, most in ((16384, 512), (32768, 512), (2048, 64), (100, 7), (65536, 1024)):
        for resolution in (4, 8, 64):
            widths = {2**i: max(1, min(base // 2**i, most)) for i in range(2, resolution.bit_length())}
            made = channel_settings(widths)
            assert {side: max(1, min(made["channel_base"] // side, made["channel_max"])) for side in widths} == widths
    assert channel_settings({4: 512, 8: 512, 16: 512, 32: 512, 64: 256}) == {"channel_base": 16384, "channel_max": 512}
    with pytest.raises(ConversionError, match="channels at each resolution, which no StyleGAN2 has: 4: 8, 8: 16"):
        channel_settings({4: 8, 8: 16})


# The folder


def test_a_folder_is_a_whole_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = layouts.write_rosinality(tmp_path / "stylegan2-car|s.pt", Sizes())
    folder = convert(source, "models/cars", with_discriminator=True)
    validate(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", source.name]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["cars"]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model_index.json", "pipeline.py", "README.md", "report.json", "samples/grid.png"} <= names
    card = (folder / "README.md").read_text()
    assert hashlib.sha256(source.read_bytes()).hexdigest() in card
    for words in (
        "license: other",
        "# cars",
        'from_pretrained("models/cars")',
        "rosinality",
        "they keep that of the checkpoint",
    ):
        assert words in card, words
    assert "Fan-made" not in card and "emblems" not in card.split("## Use")[0]


def test_conversion_is_whole_or_not_at_all(tmp_path, monkeypatch):
    source = layouts.write_nvidia(tmp_path / "x", Sizes())
    taken = tmp_path / "taken"
    taken.mkdir()
    convert(source, taken)  # an empty one will do
    with pytest.raises(ValueError, match="not empty"):
        convert(source, taken)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("sharingan_hub.convert.folder.write_card", full_disk)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError):
        convert(source, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_values_that_are_not_finite_are_refused(tmp_path):
    state = layouts.nvidia_generator(Sizes())
    state["synthesis.b8.conv0.weight"][0, 0, 0, 0] = float("nan")
    path = writers.pickle_nvidia(tmp_path / "x", G_ema=layouts.nvidia_module(state, Sizes(), "Generator"))
    with pytest.raises(ConversionError, match="NaN"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What is refused


def nvidia_file(path, sizes=None, state=None, **attributes):
    sizes = sizes or Sizes()
    state = layouts.nvidia_generator(sizes) if state is None else state
    return writers.pickle_nvidia(path, G_ema=layouts.nvidia_module(state, sizes, "Generator", **attributes))


def changed(state, drop=(), **more):
    return {**{name: value for name, value in state.items() if not name.startswith(tuple(drop))}, **more}


NVIDIA = layouts.nvidia_generator(Sizes())
TENSORFLOW = layouts.tensorflow_generator(Sizes())
ROSINALITY = layouts.rosinality_generator(Sizes())
CASES = {
    "architecture": (lambda p: nvidia_file(p, **{"synthesis.b8": {"architecture": "resnet"}}), "architecture 'resnet'"),
    "activation": (lambda p: nvidia_file(p, **{"synthesis.b8.conv0": {"activation": "relu"}}), "activation 'relu'"),
    "filter": (
        lambda p: nvidia_file(p, state=changed(NVIDIA, **{"synthesis.b8.resample_filter": torch.ones(2, 2) / 4})),
        "another filter",
    ),
    "clamps": (lambda p: nvidia_file(p, **{"synthesis.b8.conv0": {"conv_clamp": 256}}), "conv_clamp of several values"),
    "not square": (
        lambda p: nvidia_file(p, state=changed(NVIDIA, **{"synthesis.b4.const": torch.ones(7, 4, 5)})),
        "pictures that are not square",
    ),
    "grey": (
        lambda p: nvidia_file(p, state=changed(NVIDIA, **{"synthesis.b16.torgb.weight": torch.ones(1, 6, 1, 1)})),
        "pictures of 1 channels",
    ),
    "shape": (
        lambda p: nvidia_file(p, state=changed(NVIDIA, **{"synthesis.b8.conv0.bias": torch.ones(3)})),
        "of shape",
    ),
    "lacks": (lambda p: nvidia_file(p, state=changed(NVIDIA, drop=["synthesis.b8.conv0.bias"])), "lacks tensor"),
    "unknown": (lambda p: nvidia_file(p, state=changed(NVIDIA, **{"mapping.more": torch.ones(3)})), "unknown tensor"),
    "no blocks": (lambda p: nvidia_file(p, state=changed(NVIDIA, drop=["synthesis.b8."])), "blocks for"),
    "StyleGAN3": (
        lambda p: nvidia_file(
            p, state={"synthesis.input.freqs": torch.ones(3, 2), "synthesis.L0_36_8.weight": torch.ones(1)}
        ),
        "a StyleGAN3 generator",
    ),
    "encoder": (
        lambda p: writers.save_torch(p, {"state_dict": {"encoder.body.0.weight": torch.ones(1)}, "opts": {}}),
        "an encoder",
    ),
    "StyleGAN1 of rosinality": (
        lambda p: writers.save_torch(p, {"generator": {}, "g_running": {"generator.x": torch.ones(1)}}),
        "a StyleGAN1 generator",
    ),
    "StyleGAN1": (lambda p: layouts.write_tensorflow(p, Sizes(), version=3), "a StyleGAN1 generator"),
    "configuration d": (
        lambda p: tensorflow_file(
            p, changed(TENSORFLOW, **{"synthesis/ToRGB_lod0/weight": np.ones((1, 1, 7, 3), "f4")})
        ),
        "configurations a to d",
    ),
    "residual": (lambda p: layouts.write_tensorflow(p, Sizes(), architecture="resnet"), "architecture 'resnet'"),
    "classes of the first release": (
        lambda p: tensorflow_file(p, changed(TENSORFLOW, **{"mapping/LabelConcat/weight": np.ones((3, 8), "f4")})),
        "classes of the first TensorFlow release",
    ),
    "variable": (
        lambda p: tensorflow_file(p, changed(TENSORFLOW, **{"synthesis/8x8/Other/weight": np.ones(3, "f4")})),
        "unknown variable 'synthesis/8x8/Other/weight'",
    ),
    "rosinality's other filter": (
        lambda p: writers.save_torch(
            p, {"g_ema": changed(ROSINALITY, **{"convs.0.conv.blur.kernel": torch.ones(4, 4)})}
        ),
        "another filter",
    ),
    "rosinality's unknown": (
        lambda p: writers.save_torch(p, {"g_ema": changed(ROSINALITY, **{"convs.0.extra": torch.ones(4)})}),
        "unknown tensor 'convs.0.extra'",
    ),
    "rosinality's shape": (
        lambda p: writers.save_torch(p, {"g_ema": changed(ROSINALITY, **{"input.input": torch.ones(2, 7, 4, 4)})}),
        "has shape",
    ),
    "whole numbers": (
        lambda p: writers.save_torch(
            p, {"g_ema": changed(ROSINALITY, **{"conv1.activate.bias": torch.ones(7).long()})}
        ),
        "torch.int64",
    ),
    "only raw": (lambda p: writers.save_torch(p, {"g": ROSINALITY}), "no g_ema"),
    "something else": (lambda p: writers.save_torch(p, {"epoch": 3, "model": {}}), "no network of a known program"),
}


def tensorflow_file(path, variables):
    network = layouts.tensorflow_network("Gs", variables, Sizes())
    return writers.pickle_tensorflow(path, network, network, network)


@pytest.mark.parametrize("case", CASES)
def test_other_networks_are_refused_by_name(case, tmp_path):
    write, words = CASES[case]
    with pytest.raises(ConversionError, match=words) as caught:
        find_all(write(tmp_path / "x"))
    assert "\n" not in str(caught.value)


def find_all(path):
    return make_generator(find(read(path)))


def test_discriminators_by_class_are_refused(tmp_path):
    state = changed(layouts.nvidia_discriminator(Sizes()), **{"mapping.embed.weight": torch.ones(8, 3)})
    made = layouts.nvidia_module(state, Sizes(), "Discriminator")
    generator = layouts.nvidia_module(NVIDIA, Sizes(), "Generator")
    path = writers.pickle_nvidia(tmp_path / "x", G_ema=generator, D=made)
    with pytest.raises(ConversionError, match="judges by class"):
        convert(path, tmp_path / "out", with_discriminator=True)
    convert(path, tmp_path / "out")


def test_hostile_values_in_place_of_settings_are_refused(tmp_path):
    for told in ({"conv_clamp": "os.system"}, {"conv_clamp": [1]}, {"conv_clamp": -1}, {"conv_clamp": 10**400}):
        path = nvidia_file(
            tmp_path / "x",
            **{
                f"synthesis.{b}.{n}": told
                for b, n in [
                    ("b4", "conv1"),
                    ("b4", "torgb"),
                    ("b8", "conv0"),
                    ("b8", "conv1"),
                    ("b8", "torgb"),
                    ("b16", "conv0"),
                    ("b16", "conv1"),
                    ("b16", "torgb"),
                ]
            },
        )
        with pytest.raises(ConversionError):
            find_all(path)


def test_the_report_says_where_the_weights_are_from(tmp_path):
    source = layouts.write_nvidia(tmp_path / "network-snapshot-000400.pkl", Sizes())
    report = json.loads((convert(source, tmp_path / "out", which="raw") / "report.json").read_text())
    assert report["converted"]["file"] == source.name and report["converted"]["generator"] == "raw"


def module(**state):
    return Record("torch_utils.persistence", "Generator", (), state)


def network(**state):
    return Record("dnnlib.tflib.network", "Network", (), {"version": 5, **state})


def doubling(leaf, parts):
    """A record that holds itself twice, forty levels deep: 2 to the 40 parts in a small file."""
    for _ in range(40):
        leaf = parts({"a": leaf, "b": leaf})
    return leaf


HOSTILE = {
    "a module without anything": {"G_ema": module()},
    "names that are numbers": {"G_ema": module(_parameters={3: torch.ones(1)}, _buffers=7, _modules=[1])},
    "no tensors": {"G_ema": module(_parameters={"weight": "text"})},
    "no modules": {"G_ema": module(_modules={"synthesis": 5})},
    "modules that double": {"G_ema": doubling(module(), lambda parts: module(_modules=parts))},
    "an array for a setting": {"G_ema": module(architecture=np.ones(4))},
    "networks that double": (doubling(network(), lambda parts: network(components=parts)),) * 3,
    "variables that are none": (network(variables=7),) * 3,
    "variables without names": (network(variables=[(1, np.ones(2))]),) * 3,
    "variables of text": (network(variables=[("dlatent_avg", np.array(["a"]))]),) * 3,
    "a version that is none": (network(version=np.ones(3)),) * 3,
    "an array for an option": (network(static_kwargs={"nonlinearity": np.ones(3), "resample_kernel": [np.ones(2)]}),)
    * 3,
    "a deep name": (network(variables=[("synthesis/noise99", np.ones((1, 1, 4, 4), "f4"))]),) * 3,
    "tensors under numbers": {"g_ema": {"conv1.conv.weight": torch.ones(1), 3: torch.ones(1)}},
    "many layers": {"g_ema": {"conv1.conv.weight": torch.ones(1), "convs.999.conv.weight": torch.ones(1)}},
    "an empty average": {"g_ema": {"conv1.conv.weight": torch.ones(1)}, "latent_avg": torch.ones(0, 3)},
    "nothing": {},
    "a number": 3,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_contents_are_refused_in_one_sentence(case):
    with pytest.raises(ConversionError) as caught:
        make_generator(find(HOSTILE[case]))
    assert 10 < len(str(caught.value)) < 400 and "\n" not in str(caught.value)
