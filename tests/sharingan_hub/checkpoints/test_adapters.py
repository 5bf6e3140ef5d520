"""Adapters laid over their base: at any weight, several at once, on no other base, from Python and the command."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sharingan_hub import SharinganPipeline, pipeline_sharingan
from sharingan_hub.checkpoints.adapters import WEIGHTS, make_adapter
from sharingan_hub.cli import _parse_adapter, main
from sharingan_hub.hub import CheckpointError
from sharingan_hub.media import read_recipe
from tests.sharingan_hub.checkpoints.conftest import (
    ADAPTED,
    ADAPTED_MIX,
    BASE_MIX,
    BASES,
    OTHERS,
    SEEDS,
    assert_same_bits,
    bits,
    delta,
)
from training.adapt import EMBEDDED_SOURCE

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
