"""Adapters as folders: how the difference of two generators is stored, and what is refused when one is read."""

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

from sharingan_hub import RadialGenerator, SharinganPipeline
from sharingan_hub.checkpoints.adapters import CONFIG, WEIGHTS, fingerprint, make_adapter, read_adapter
from sharingan_hub.hub import CheckpointError
from tests.sharingan_hub.checkpoints.conftest import (
    ADAPTED,
    BASES,
    OTHERS,
    SEEDS,
    assert_same_bits,
    bits,
    delta,
    kernel_name,
    network,
)


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


# Damaged and hostile files


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
