"""Sound files of each kind come back as what was written into them."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.foreign import Record
from sharingan_hub.convert.unpickle import read
from tests.sharingan_hub.convert import writers
from tests.sharingan_hub.convert.assembler import call, legacy, many, number, storage, tensor, text, whole, zipped

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]


def same(read: Any, written: Any) -> bool:
    """Whether two values are equal, with tensors and arrays in them, and of the same types."""
    if isinstance(written, Tensor):
        return isinstance(read, Tensor) and read.dtype == written.dtype and torch.equal(read, written)
    if isinstance(written, np.ndarray):
        return isinstance(read, np.ndarray) and read.dtype == written.dtype and np.array_equal(read, written)
    if isinstance(written, dict):
        return (
            type(read) is dict and list(read) == list(written) and all(same(read[name], written[name]) for name in read)
        )
    if isinstance(written, list | tuple):
        return type(read) is type(written) and len(read) == len(written) and all(map(same, read, written))
    return type(read) is type(written) and (read == written or read != read and written != written)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_snapshot_of_nvidias_pytorch_programs(tmp_path, protocol):
    weight, average = torch.randn(3, 4), torch.randn(512)
    layer = writers.nvidia_module(
        "FullyConnectedLayer",
        {"weight": weight, "bias": torch.zeros(3), "noise_strength": torch.zeros([])},
        {"resample_filter": torch.ones(4, 4)},
        weight_gain=np.float64(0.5),
        activation="lrelu",
    )
    mapping = writers.nvidia_module("MappingNetwork", modules={"fc0": layer}, buffers={"w_avg": average}, z_dim=4)
    generator = writers.nvidia_module(
        "Generator",
        modules={"mapping": mapping},
        init_args=(1, 2),
        init_kwargs={"z_dim": 4, "mapping_kwargs": writers.EasyDict(num_layers=8)},
    )
    kwargs = {"path": "pictures.zip", "use_labels": False, "max_size": None}
    path = writers.pickle_nvidia(
        tmp_path / "x", protocol, G=generator, D=None, G_ema=generator, training_set_kwargs=kwargs
    )
    content = read(path)
    assert list(content) == ["training_set_kwargs", "G", "D", "G_ema"]
    assert content["training_set_kwargs"] == kwargs
    found = content["G_ema"]
    assert isinstance(found, Record)
    assert (found.module, found.name, found.args) == ("torch_utils.persistence", "Generator", ())
    assert "module_src" not in found.state
    assert found.state["_init_args"] == (1, 2)
    assert found.state["_init_kwargs"] == {"z_dim": 4, "mapping_kwargs": {"num_layers": 8}}
    found = found.state["_modules"]["mapping"]
    assert found.name == "MappingNetwork" and found.state["z_dim"] == 4
    assert torch.equal(found.state["_buffers"]["w_avg"], average)
    found = found.state["_modules"]["fc0"].state
    assert same(found["_parameters"], {"weight": weight, "bias": torch.zeros(3), "noise_strength": torch.zeros([])})
    assert type(found["_parameters"]["weight"]) is Tensor
    assert type(found["weight_gain"]) is float and found["weight_gain"] == 0.5
    assert found["_non_persistent_buffers_set"] == set()


@pytest.mark.parametrize("protocol", range(5))
def test_a_snapshot_of_the_tensorflow_programs(tmp_path, protocol):
    weight = np.random.default_rng(0).standard_normal((3, 3, 2, 5)).astype(np.float32)
    synthesis = writers.tensorflow_network("G_synthesis", {"4x4/Conv/weight": weight, "noise0": np.ones((1, 1, 4, 4))})
    networks = [
        writers.tensorflow_network(
            name, {"lod": np.float32(0.5)}, writers.EasyDict(resolution=8), {"synthesis": synthesis}, version=4
        )
        for name in ("G", "D", "Gs")
    ]
    content = read(writers.pickle_tensorflow(tmp_path / "x", *networks, protocol=protocol))
    assert [network.state["name"] for network in content] == ["G", "D", "Gs"]
    found = content[2]
    assert (found.module, found.name, found.args) == ("dnnlib.tflib.network", "Network", ())
    assert found.state["version"] == 4 and found.state["static_kwargs"] == {"resolution": 8}
    assert same(found.state["variables"], [("lod", 0.5)])
    variables = found.state["components"]["synthesis"].state["variables"]
    assert same(variables, [("4x4/Conv/weight", weight), ("noise0", np.ones((1, 1, 4, 4)))])


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved(tmp_path, legacy):
    full = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES}
    tensors |= {
        "bytes": torch.arange(5, dtype=torch.uint8),
        "truth": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3.0),
        "part": full[1, :, ::2],
        "turned": full.permute(2, 0, 1),
        "channels last": torch.randn(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "full": full,
    }
    content = {
        "g_ema": writers.state_dict(tensors),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "args": argparse.Namespace(size=256, path="x", betas=(0.0, 0.99), resume=None),
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0, 1]}]},
        "shape": torch.Size([1, 2]),
        "array": np.arange(6, dtype=">i4").reshape(2, 3),
        "set": {1, "a"},
    }
    found = read(writers.save_torch(tmp_path / "x", content, legacy))
    args = found.pop("args")
    assert (args.module, args.name) == ("argparse", "Namespace")
    assert args.state == {"size": 256, "path": "x", "betas": (0.0, 0.99), "resume": None}
    expected = {name: value for name, value in content.items() if name != "args"}
    expected |= {"parameter": torch.ones(3), "shape": (1, 2), "array": np.arange(6, dtype=np.int32).reshape(2, 3)}
    expected["g_ema"] = dict(tensors)
    assert same(found, expected)
    assert found["g_ema"]["part"].untyped_storage().data_ptr() == found["g_ema"]["full"].untyped_storage().data_ptr()
    assert same(found["g_ema"]["truth"].logical_not(), torch.tensor([False, True]))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.binary().map(bytearray)
)
KEYS = st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63) | st.none()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner) | st.sets(KEYS),
    max_leaves=20,
)


@given(VALUES, st.integers(0, 5))
def test_whatever_python_pickles_of_plain_values_comes_back(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain"
    path.write_bytes(pickle.dumps([value], protocol))
    assert same(read(path), [value])


def test_texts_of_python_2_are_read_as_latin_1(tmp_path):
    (tmp_path / "x").write_bytes(b"\x80\x02]q\x00(U\x02\xe9aT\x02\x00\x00\x00\xffbS'c\\n'\ne.")
    assert read(tmp_path / "x") == ["\xe9a", "\xffb", "c\n"]


def test_an_ordered_dictionary_of_python_2(tmp_path):
    pair = pickle.EMPTY_LIST + pickle.MARK + text("a") + number(1) + pickle.APPENDS
    ordered = call("collections", "OrderedDict", pickle.EMPTY_LIST + pair + pickle.APPEND)
    (tmp_path / "x").write_bytes(whole(ordered, 2))
    assert read(tmp_path / "x") == {"a": 1}


def test_truth_is_0_or_1(tmp_path):
    """Other bytes count as true, and what torch does with them is not defined."""
    truth = tensor(storage("BoolStorage"), number(0), many(number(4)), many(number(1)))
    for archive in (zipped(truth, {"0": b"\0\1\2\xff"}), legacy(truth, data=b"\4" + bytes(7) + b"\0\1\2\xff")):
        (tmp_path / "x").write_bytes(archive)
        assert read(tmp_path / "x").view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_bytes_after_an_array_or_a_tensor(tmp_path):
    content = [np.ones(2), b"bytes", torch.ones(2), b"more"]
    found = read(writers.pickle_foreign(tmp_path / "x", content))
    assert same(found, [np.ones(2), bytearray(b"bytes"), torch.ones(2), bytearray(b"more")])


def test_tensors_can_be_written_to_and_outlive_the_file(tmp_path):
    for before_zip in (False, True):
        path = writers.save_torch(tmp_path / "x", {"a": torch.ones(3)}, before_zip)
        found = read(path)["a"]
        path.write_bytes(b"")
        found += 1
        assert found.tolist() == [2, 2, 2]


def test_the_name_of_a_file_plays_no_part(tmp_path):
    for suffix in (".pkl", ".pt", ".png", ""):
        assert read(writers.save_torch(tmp_path / f"x{suffix}", {"a": 1})) == {"a": 1}


def test_a_missing_file_or_a_folder_is_an_error_of_the_system(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            read(path)


def test_a_file_larger_than_any_checkpoint_is_refused_unread(tmp_path):
    path: Path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(b"\x80\x04")
        file.truncate(2**32 + 1)
    with pytest.raises(ConversionError, match="more than any"):
        read(path)
