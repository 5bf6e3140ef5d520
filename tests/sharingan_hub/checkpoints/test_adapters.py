"""Adapters: the difference of two generators as a small folder, read strictly and laid over the base at any weight."""

import copy
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator, pipeline_sharingan
from sharingan_hub.checkpoints.adapters import CONFIG, WEIGHTS, fingerprint, make_adapter, read_adapter
from sharingan_hub.cli import _parse_adapter, main
from sharingan_hub.hub import CheckpointError
from sharingan_hub.media import read_recipe
from training.adapt import EMBEDDED_SOURCE

BASE_MIX, ADAPTED_MIX = [0.25, 0.25, 0.5, 0.0], [0.0, 0.5, 0.0, 0.5]
SEEDS = range(6)


def network(family: str):
    """A small random generator whose first convolution is large enough to be stored as factors."""
    torch.manual_seed(0)
    if family == "stylegan2":
        model = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=2, channel_base=512, channel_max=32)
    else:
        model = RadialGenerator(
            z_dim=8,
            w_dim=8,
            resolution=32,
            max_order=4,
            num_masks=4,
            num_frame_masks=1,
            num_ground_masks=1,
            channels=(32,),
            base_radius=4,
            base_angle=8,
            mapping_layers=2,
            order_probs=BASE_MIX,
        )
    model.w_avg.normal_()
    return model.eval()


def kernel_name(model) -> str:
    return "convs.0.weight" if isinstance(model, RadialGenerator) else "synthesis.b8.conv1.weight"


@torch.no_grad()
def fine_tuned(base, seed: int = 1):
    """A copy of which some tensors moved, one of them by a change of rank 2, and that draws other orders."""
    model, rng = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    state, kernel = model.state_dict(), kernel_name(base)
    shape = state[kernel].shape
    state[kernel] += (torch.randn(shape[0], 2, generator=rng) @ torch.randn(2, shape[1:].numel(), generator=rng)).view(
        shape
    ) * 0.2
    for name, tensor in state.items():
        if "bias" in name or "affine" in name or name == "w_avg":
            tensor += torch.randn(tensor.shape, generator=rng) * 0.3
    if isinstance(model, RadialGenerator):
        model.register_to_config(order_probs=ADAPTED_MIX)
    return model


BASES = {family: network(family) for family in ("radial", "stylegan2")}
ADAPTED = {family: fine_tuned(base) for family, base in BASES.items()}
OTHERS = {family: fine_tuned(base, 2) for family, base in BASES.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for family, base in BASES.items():
        make_adapter(base, ADAPTED[family], root / family / "mine", base_model="user/base")
        make_adapter(base, OTHERS[family], root / family / "other")
    return root


@pytest.fixture(params=list(BASES))
def family(request) -> str:
    return request.param


@pytest.fixture
def pipe(family) -> SharinganPipeline:
    return SharinganPipeline(copy.deepcopy(BASES[family]))


@pytest.fixture
def mine(folders, family) -> Path:
    return folders / family / "mine"


@pytest.fixture
def other(folders, family) -> Path:
    return folders / family / "other"


def bits(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def delta(model, base) -> dict[str, torch.Tensor]:
    before = base.state_dict()
    return {name: tensor - before[name] for name, tensor in model.state_dict().items()}


# Round trips


def test_base_and_adapter_are_the_fine_tune(pipe, mine, family):
    pipe.load_adapter(mine)
    adapted = ADAPTED[family].state_dict()
    for name, tensor in pipe.generator_model.state_dict().items():
        change = (adapted[name] - BASES[family].state_dict()[name]).abs().max()
        assert (tensor - adapted[name]).abs().max() <= 2e-3 * change, name
    expected = SharinganPipeline(ADAPTED[family])(seeds=SEEDS, output_type="np").images
    assert np.abs(pipe(seeds=SEEDS, output_type="np").images - expected).max() < 1 / 255
    assert pipe.adapters == {"mine": 1.0}


def test_the_folder_holds_what_changed_in_its_smallest_form(mine, family):
    stored = load_file(mine / WEIGHTS)
    kernel = kernel_name(BASES[family])
    changed = {name for name, change in delta(ADAPTED[family], BASES[family]).items() if change.any()}
    assert {name.rpartition(".")[0] for name in stored} == changed and "w_avg" in changed
    assert stored[f"{kernel}.up"].shape == (32, 2) and stored[f"{kernel}.down"].shape == (2, 32 * 9)
    assert f"{kernel}.delta" not in stored and "w_avg.delta" in stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert (mine / WEIGHTS).stat().st_mode == (mine / CONFIG).stat().st_mode
    assert sorted(path.name for path in mine.iterdir()) == [WEIGHTS, CONFIG]


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_truncation_is_the_nearest_change_of_that_rank(tmp_path, rank):
    base, adapted = network("radial"), network("radial")
    change = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(3)) * 0.1
    with torch.no_grad():
        adapted.convs[0].weight += change
    report = make_adapter(base, adapted, tmp_path, rank=rank)
    assert load_file(tmp_path / WEIGHTS)["convs.0.weight.up"].shape == (32, rank)
    # Eckart and Young: the error of the best one is the norm of the singular values left out
    values = np.linalg.svd(change.numpy().reshape(32, -1).astype(np.float64), compute_uv=False)
    assert report.error == pytest.approx(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()), rel=1e-3)
    assert report.size == (tmp_path / WEIGHTS).stat().st_size and report.tensors == 1
    read = read_adapter(tmp_path, base).delta("convs.0.weight", change)
    assert (read - change).norm() / change.norm() == pytest.approx(report.error, rel=1e-4)


def test_small_tensors_and_numbers_that_float16_cannot_hold_stay_whole(tmp_path):
    base, adapted = network("radial"), network("radial")
    with torch.no_grad():
        adapted.palette_hidden.weight += torch.randn(8, 8)
        adapted.log_temperature += 1e5
        adapted.round_conv.bias += 1e-7
    report = make_adapter(base, adapted, tmp_path, rank=1)
    stored = load_file(tmp_path / WEIGHTS)
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "palette_hidden.weight.delta": torch.float16,
        "log_temperature.delta": torch.float32,
        "round_conv.bias.delta": torch.float32,
    }
    assert report.error < 1e-3


def test_no_change_is_an_adapter_too(pipe, family, tmp_path):
    report = make_adapter(BASES[family], BASES[family], tmp_path / "none")
    assert (report.error, report.tensors) == (0.0, 0)
    pipe.load_adapter(tmp_path / "none")
    assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))


def test_writing_anew_replaces_the_adapter_and_nothing_else(tmp_path):
    make_adapter(BASES["radial"], ADAPTED["radial"], tmp_path)
    (tmp_path / "README.md").write_text("card")
    make_adapter(BASES["radial"], OTHERS["radial"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", WEIGHTS, CONFIG]
    read = read_adapter(tmp_path, BASES["radial"])
    torch.testing.assert_close(
        read.delta("w_avg", BASES["radial"].w_avg), OTHERS["radial"].w_avg - BASES["radial"].w_avg, rtol=0, atol=1e-3
    )


def altered(model, change) -> object:
    model = copy.deepcopy(model)
    change(model)
    return model


@pytest.mark.parametrize(
    ("adapted", "told"),
    [
        (lambda: BASES["stylegan2"], "base is a RadialGenerator and adapted a StyleGAN2Generator"),
        (lambda: RadialGenerator(z_dim=8, w_dim=8, channels=(8,)), r"base has base_angle 8 and adapted 16"),
        (
            lambda: altered(BASES["radial"], lambda m: m.register_buffer("extra", torch.ones(1))),
            "differ in the tensor 'extra'",
        ),
        (
            lambda: altered(BASES["radial"], lambda m: m.log_temperature.data.fill_(float("nan"))),
            "log_temperature holds NaN",
        ),
    ],
)
def test_what_cannot_be_an_adapter_is_refused(tmp_path, adapted, told):
    with pytest.raises(ValueError, match=told):
        make_adapter(BASES["radial"], adapted(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "4"])
def test_ranks_are_whole_numbers_from_one_on(tmp_path, rank):
    with pytest.raises(ValueError, match="rank is .*; it must be a whole number from 1 on, or None"):
        make_adapter(BASES["radial"], ADAPTED["radial"], tmp_path, rank=rank)


# Several, with weights


@pytest.mark.parametrize("weight", [0.5, 0.0, -1.0, 2.0])
def test_the_change_grows_with_the_weight(pipe, mine, family, weight):
    pipe.load_adapter(mine, weight)
    change, whole = delta(pipe.generator_model, BASES[family]), delta(ADAPTED[family], BASES[family])
    for name, tensor in whole.items():
        torch.testing.assert_close(change[name], weight * tensor, rtol=0, atol=abs(weight) * 2e-3)
    if weight == 0:
        assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))


def test_two_adapters_add_up_whatever_their_order(pipe, mine, other, family):
    pipe.load_adapter(mine, 0.5)
    pipe.load_adapter(other, -0.25)
    assert pipe.adapters == {"mine": 0.5, "other": -0.25}
    change = delta(pipe.generator_model, BASES[family])
    first, second = delta(ADAPTED[family], BASES[family]), delta(OTHERS[family], BASES[family])
    for name, tensor in change.items():
        torch.testing.assert_close(tensor, 0.5 * first[name] - 0.25 * second[name], rtol=0, atol=2e-3)
    reverse = SharinganPipeline(copy.deepcopy(BASES[family]))
    reverse.load_adapter(other, -0.25)
    reverse.load_adapter(mine, 0.5)
    assert_same_bits(bits(pipe.generator_model), bits(reverse.generator_model))


def test_loading_again_by_name_changes_the_weight(pipe, mine, family):
    once = SharinganPipeline(copy.deepcopy(BASES[family]))
    once.load_adapter(mine, 0.3)
    pipe.load_adapter(mine, 0.9, name="x")
    pipe.load_adapter(mine, 0.3, name="x")
    assert pipe.adapters == {"x": 0.3}
    assert_same_bits(bits(pipe.generator_model), bits(once.generator_model))


def test_a_name_belongs_to_one_adapter(pipe, mine, other):
    pipe.load_adapter(mine, name="x")
    before = bits(pipe.generator_model)
    with pytest.raises(ValueError, match="name is 'x', which another adapter has"):
        pipe.load_adapter(other, name="x")
    assert_same_bits(bits(pipe.generator_model), before)


def test_an_adapter_beside_its_checkpoint_is_called_like_the_checkpoint(pipe, mine, tmp_path):
    shutil.copytree(mine, tmp_path / "emblems" / "adapter")
    pipe.load_adapter(tmp_path / "emblems" / "adapter")
    assert pipe.adapters == {"emblems": 1.0}


def test_unloading_brings_back_the_same_bits(pipe, mine, other, family):
    pipe.unload_adapter()  # of none
    pipe.load_adapter(mine, 0.7)
    alone = bits(pipe.generator_model)
    pipe.load_adapter(other, 3.0)
    pipe.unload_adapter("other")
    assert_same_bits(bits(pipe.generator_model), alone)
    with pytest.raises(ValueError, match="name is 'other'; the adapters loaded are: 'mine'"):
        pipe.unload_adapter("other")
    pipe.load_adapter(other)
    pipe.unload_adapter()
    assert pipe.adapters == {}
    assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))
    assert dict(pipe.generator_model.config) == dict(BASES[family].config)
    with pytest.raises(ValueError, match="name is 'mine'; the adapters loaded are: none"):
        pipe.unload_adapter("mine")


@pytest.mark.parametrize("weights", [{"mine": 1.0}, {"mine": 0.5}, {"mine": 0.5, "other": 0.25}, {"mine": 2.0}])
def test_the_mix_of_orders_moves_with_the_weight(folders, weights):
    pipe = SharinganPipeline(copy.deepcopy(BASES["radial"]))
    for name, weight in weights.items():
        pipe.load_adapter(folders / "radial" / name, weight)
    total = sum(weights.values())
    mix = np.clip((1 - total) * np.array(BASE_MIX) + total * np.array(ADAPTED_MIX), 0, None)
    assert pipe.generator_model.config.order_probs == pytest.approx(list(mix / mix.sum()))
    if weights == {"mine": 1.0}:
        orders = SharinganPipeline(ADAPTED["radial"])(seeds=range(30)).latents[:, -1, 0]
        assert torch.equal(pipe(seeds=range(30)).latents[:, -1, 0], orders) and set(orders.tolist()) == {2, 4}
    pipe.unload_adapter()
    assert pipe.generator_model.config.order_probs == BASE_MIX


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(mine, family, dtype):
    base, adapted = (SharinganPipeline(copy.deepcopy(m)).to(dtype) for m in (BASES[family], ADAPTED[family]))
    before = bits(base.generator_model)
    base.load_adapter(mine)
    for name, tensor in base.generator_model.state_dict().items():
        expected = adapted.generator_model.state_dict()[name]
        assert tensor.dtype == dtype
        # the base is rounded, and so is the sum: one unit in the last place each, and what the adapter lost
        unit = torch.finfo(dtype).eps * expected.abs().clamp(min=1)
        assert ((tensor - expected).abs() <= 2 * unit + 2e-3).all(), name
    base.unload_adapter()
    assert_same_bits(bits(base.generator_model), before)


def test_a_pipeline_that_changes_its_precision_keeps_base_and_adapters(pipe, mine, other, family):
    pipe.load_adapter(mine)
    pipe.to(torch.bfloat16)
    pipe.load_adapter(other)
    pipe.to(torch.float32)
    pipe.unload_adapter("mine")
    pipe.unload_adapter()
    expected = SharinganPipeline(copy.deepcopy(BASES[family])).to(torch.bfloat16).to(torch.float32)
    touched = load_file(mine / WEIGHTS).keys() | load_file(other / WEIGHTS).keys()
    touched = {name.rpartition(".")[0] for name in touched}
    for name, tensor in pipe.generator_model.state_dict().items():
        kept = BASES[family] if name in touched else expected.generator_model
        assert torch.equal(tensor, kept.state_dict()[name])


def test_a_copied_pipeline_has_adapters_of_its_own(pipe, mine, family):
    pipe.load_adapter(mine, 0.5)
    twin = copy.deepcopy(pipe)
    twin.unload_adapter()
    assert pipe.adapters == {"mine": 0.5} and twin.adapters == {}
    assert_same_bits(bits(twin.generator_model), bits(BASES[family]))
    assert not torch.equal(pipe.generator_model.w_avg, twin.generator_model.w_avg)


def test_another_generator_in_the_pipeline_has_no_adapters(pipe, mine, family):
    pipe.load_adapter(mine, 0.5)
    pipe.register_modules(generator_model=copy.deepcopy(BASES[family]))
    assert pipe.adapters == {}
    pipe.unload_adapter()
    assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))


def test_saving_saves_the_sum(pipe, mine, other, tmp_path):
    pipe.load_adapter(mine, 0.5)
    pipe.load_adapter(other, 0.5)
    pipe.save_pretrained(tmp_path)
    opened = SharinganPipeline.from_pretrained(tmp_path)
    assert opened.adapters == {}
    assert_same_bits(bits(opened.generator_model), bits(pipe.generator_model))
    assert torch.equal(opened(seeds=SEEDS, output_type="pt").images, pipe(seeds=SEEDS, output_type="pt").images)


# The wrong base, and hostile files


def test_another_base_is_refused_and_the_wanted_one_named(folders, family, pipe):
    wrong = copy.deepcopy(BASES[family])
    with torch.no_grad():
        wrong.w_avg[0] += 1e-6
    with pytest.raises(CheckpointError, match="adapter for another base: it wants the .* 'user/base' with weights"):
        SharinganPipeline(wrong).load_adapter(folders / family / "mine")
    elsewhere = next(name for name in BASES if name != family)
    with pytest.raises(CheckpointError, match=f"it wants the {type(BASES[elsewhere]).__name__} ") as caught:
        pipe.load_adapter(folders / elsewhere / "mine")
    assert "\n" not in str(caught.value)
    assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))


def test_the_fingerprint_sees_names_shapes_types_and_bits():
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    same = {"b": torch.ones(1), "a": torch.zeros(3, 2).t()}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1).nextafter(torch.tensor(2.0))},
        {"a": torch.zeros(2, 3), "b": torch.ones(1).half()},
    ]
    assert fingerprint(tensors) == fingerprint(same)
    assert len({fingerprint(some) for some in [tensors, *others]}) == 5
    assert fingerprint(tensors, torch.bfloat16) == fingerprint(others[2], torch.bfloat16)


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def edit_tensors(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    edit(folder, tensors=config["tensors"] | changes)


def edit_stored(folder: Path, change) -> None:
    stored = load_file(folder / WEIGHTS)
    change(stored)
    save_file(stored, folder / WEIGHTS)


def huge_header(folder: Path) -> None:
    """A header that claims a tensor of an exabyte."""
    header = {"w_avg.delta": {"dtype": "F32", "shape": [2**30, 2**28], "data_offsets": [0, 2**60]}}
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)


HOSTILE = {
    "no config": (lambda f: (f / CONFIG).unlink(), "mine holds no adapter: adapter_config.json is missing"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter.safetensors is missing"),
    "not JSON": (lambda f: (f / CONFIG).write_text("{"), "is not valid JSON"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "must hold a JSON object"),
    "deep": (lambda f: (f / CONFIG).write_text("[" * 100_000), "is not valid JSON"),
    "newer": (lambda f: edit(f, format=2), "has format 2; this version reads 1"),
    "key unknown": (lambda f: edit(f, code="x"), "has an unknown key 'code'"),
    "key missing": (lambda f: (f / CONFIG).write_text('{"format": 1}'), "lacks 'base_class'"),
    "class no name": (lambda f: edit(f, base_class=[1]), "base_class must be a name"),
    "model no name": (lambda f: edit(f, base_model=3), "base_model a name or null"),
    "no sums": (lambda f: edit(f, base_fingerprints={"float32": "x"}), "must be 3 SHA-256 sums"),
    "mix too short": (lambda f: edit(f, order_probs=[1.0]), "null or 4 shares that add up to 1"),
    "mix negative": (lambda f: edit(f, order_probs=[-1, 1, 1, 0]), "null or 4 shares that add up to 1"),
    "mix NaN": (lambda f: edit(f, order_probs=[float("nan")] * 4), "null or 4 shares that add up to 1"),
    "mix text": (lambda f: edit(f, order_probs="1111"), "null or 4 shares that add up to 1"),
    "tensors a list": (lambda f: edit(f, tensors=["w_avg"]), "tensors must be an object, not a list"),
    "unknown weight": (lambda f: edit_tensors(f, **{"evil.weight": None}), "changes 'evil.weight', which is no weight"),
    "rank absurd": (lambda f: edit_tensors(f, **{"convs.0.weight": 10**12}), "has rank 1000000000000; it must be"),
    "rank too large": (lambda f: edit_tensors(f, **{"convs.0.weight": 29}), "has rank 29; it must be"),
    "rank zero": (lambda f: edit_tensors(f, **{"convs.0.weight": 0}), "has rank 0; it must be"),
    "rank true": (lambda f: edit_tensors(f, **{"convs.0.weight": True}), "has rank True; it must be"),
    "rank text": (lambda f: edit_tensors(f, **{"convs.0.weight": "2"}), "has rank 2; it must be"),
    "rank of a bias": (lambda f: edit_tensors(f, **{"convs.0.bias": 1}), "has rank 1; it must be"),
    "rank of others": (lambda f: edit_tensors(f, **{"convs.0.weight": 3}), r"has shape \(32, 2\)|has shape \(2, 288\)"),
    "tensor missing": (lambda f: edit_tensors(f, **{"const": None}), "lacks tensor 'const.delta'"),
    "tensor unknown": (lambda f: edit_stored(f, lambda s: s.update(x=torch.ones(1))), "has an unknown tensor 'x'"),
    "wrong shape": (lambda f: edit_stored(f, lambda s: s.update({"w_avg.delta": torch.ones(9)})), "has shape"),
    "whole numbers": (
        lambda f: edit_stored(f, lambda s: s.update({"w_avg.delta": torch.ones(4, 8, dtype=torch.int32)})),
        "not floating-point",
    ),
    "NaN": (lambda f: edit_stored(f, lambda s: s["w_avg.delta"].fill_(float("nan"))), "holds NaN or infinite values"),
    "infinite": (lambda f: edit_stored(f, lambda s: s["w_avg.delta"].fill_(torch.inf)), "holds NaN or infinite values"),
    "pickle": (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"w_avg.delta": 1})), "is damaged or no safetensors"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-40]), "is damaged or no safetensor"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is damaged or no safetensors"),
    "huge header": (huge_header, "is damaged or no safetensors|unknown tensor|lacks tensor"),
    "too large": (lambda f: (f / WEIGHTS).write_bytes(bytes(2**21)), "is larger than the .* bytes that adapter_config"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_files_are_refused_in_one_sentence(folders, tmp_path, case):
    harm, told = HOSTILE[case]
    folder = tmp_path / "mine"
    shutil.copytree(folders / "radial" / "mine", folder)
    pipe = SharinganPipeline(copy.deepcopy(BASES["radial"]))
    pipe.load_adapter(folders / "radial" / "other")
    before, config = bits(pipe.generator_model), dict(pipe.generator_model.config)
    harm(folder)
    with pytest.raises(CheckpointError, match=told) as caught:
        pipe.load_adapter(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert pipe.adapters == {"other": 1.0} and dict(pipe.generator_model.config) == config
    assert_same_bits(bits(pipe.generator_model), before)


def test_no_orders_no_mix(folders, tmp_path):
    shutil.copytree(folders / "stylegan2" / "mine", tmp_path / "mine")
    edit(tmp_path / "mine", order_probs=[1.0])
    with pytest.raises(CheckpointError, match="order_probs must be null, as this generator has no orders"):
        SharinganPipeline(copy.deepcopy(BASES["stylegan2"])).load_adapter(tmp_path / "mine")


def test_a_weight_that_overflows_changes_nothing(pipe, mine, family):
    with pytest.raises(ValueError, match="weight makes .* infinite in torch.float32; give a smaller one"):
        pipe.load_adapter(mine, 3e38)
    assert pipe.adapters == {}
    assert_same_bits(bits(pipe.generator_model), bits(BASES[family]))


@pytest.mark.parametrize(("weight", "error"), [("1", TypeError), (float("nan"), ValueError), (None, TypeError)])
def test_weights_are_finite_numbers(pipe, mine, weight, error):
    with pytest.raises(error, match="weight is"):
        pipe.load_adapter(mine, weight)


@pytest.mark.parametrize("folder", ["", "/no/where", "a/b/c", Path("gone")])
def test_what_is_neither_folder_nor_hub_id(pipe, folder):
    with pytest.raises(CheckpointError, match="is neither a folder that exists nor a Hub id"):
        pipe.load_adapter(folder)


@pytest.mark.parametrize("folder", [None, 3])
def test_folders_are_paths(pipe, folder):
    with pytest.raises(TypeError, match="folder is a .*; it must be the path of an adapter's folder"):
        pipe.load_adapter(folder)


def test_without_the_package_it_says_what_to_install(pipe, mine, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(pipeline_sharingan.importlib, "import_module", missing)
    assert pipe.adapters == {}
    pipe.unload_adapter()
    with pytest.raises(ImportError, match="install or upgrade the sharingan-hub package"):
        pipe.load_adapter(mine)


# The embedded models


@pytest.mark.parametrize(("rank", "size", "decibels"), [(None, 400_000, 70), (16, 120_000, 35)])
def test_the_embedded_model_as_an_adapter_of_its_source(tmp_path, rank, size, decibels):
    pipe, full = SharinganPipeline.from_pretrained(EMBEDDED_SOURCE), SharinganPipeline.from_pretrained()
    report = make_adapter(pipe.generator_model, full.generator_model, tmp_path, rank=rank)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < size and report.size < size
    pipe.load_adapter(tmp_path)
    made, truth = (p(seeds=range(8), output_size=64, output_type="pt").images for p in (pipe, full))
    assert -10 * (made - truth).square().mean().log10() > decibels


# The command


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    SharinganPipeline(BASES["radial"]).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def generate(folder: Path, *options: object) -> int:
    fixed = ["--device", "cpu", "--seeds", "0-2", "--output-dir", str(folder)]
    return main(["generate", *fixed, *map(str, options)])


def test_generate_with_adapters_writes_them_into_the_recipe(tmp_path, folders, checkpoint, capsys):
    mine, other = folders / "radial" / "mine", folders / "radial" / "other"
    chosen = ["--model", checkpoint, "--adapter", f"{mine}:0.5", "--adapter", other]
    assert generate(tmp_path / "out", *chosen) == 0
    recipe = read_recipe(tmp_path / "out" / "seed0000001.png")
    assert recipe is not None and recipe["adapters"] == {"mine": 0.5, "other": 1.0} and recipe["model"] == "base"
    # what the recipe names makes the same picture again
    pipe = SharinganPipeline.from_pretrained(checkpoint)
    for name, weight in recipe["adapters"].items():
        pipe.load_adapter(folders / "radial" / name, weight)
    again = pipe(seeds=recipe["seed"], truncation_psi=recipe["truncation_psi"], output_size=recipe["output_size"])
    with pipeline_sharingan.Image.open(tmp_path / "out" / "seed0000001.png") as written:
        assert written.tobytes() == again.images[0].tobytes()
    # the same settings go on, others are kept apart
    assert generate(tmp_path / "out", *chosen) == 0
    assert "3 were there already" in capsys.readouterr().out
    assert generate(tmp_path / "out", "--model", checkpoint, "--adapter", f"{mine}:0.25", "--adapter", other) == 2
    assert "holds pictures made with" in capsys.readouterr().err
    assert generate(tmp_path / "plain", "--model", checkpoint) == 0
    assert "adapters" not in (read_recipe(tmp_path / "plain" / "seed0000001.png") or {})


def test_generate_says_what_is_wrong_with_an_adapter(tmp_path, folders, checkpoint, capsys):
    assert generate(tmp_path / "out", "--model", checkpoint, "--adapter", folders / "stylegan2" / "mine") == 2
    assert "adapter for another base" in (told := capsys.readouterr().err) and told.count("\n") == 1
    assert generate(tmp_path / "out", "--model", checkpoint, "--adapter", f"{folders / 'radial' / 'mine'}:nan") == 2
    assert "weight is nan; it must be finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine", ("mine", 1.0)),
        ("a/mine:0.5", ("a/mine", 0.5)),
        ("mine:-1e-1", ("mine", -0.1)),
        (r"C:\mine", (r"C:\mine", 1.0)),
        (r"C:\mine:2", (r"C:\mine", 2.0)),
        ("7", ("7", 1.0)),
    ],
)
def test_folder_and_weight_in_one_argument(text, expected):
    assert _parse_adapter(text) == expected
