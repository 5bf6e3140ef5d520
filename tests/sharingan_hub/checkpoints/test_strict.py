"""JSON and safetensors files of strangers: what is read is what was written, and what no program writes is refused."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharingan_hub.checkpoints import strict
from sharingan_hub.checkpoints.folder import WEIGHTS
from sharingan_hub.checkpoints.strict import CheckpointError, TensorFile, printable, read_json, read_weights, shown


def sentence(caught) -> str:
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 500 and not set(text) & set("<>")
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("写輪眼 é", "写輪眼 é"),
        ("<b>&", "\\x3cb\\x3e\\x26"),
        ("a\nb\x1b[0m\u202e\ud800", "a\\x0ab\\x1b[0m\\x202e\\xd800"),
        ("[a](https://b) `c` www.d", "[a] (https: //b) \\x60c\\x60 www .d"),
        ("a" * 100, "a" * 57 + "..."),
        ("a" * 60, "a" * 60),
    ],
)
def test_strangers_words_are_one_short_line(text, expected):
    assert printable(text) == expected
    assert shown([text, None]).isprintable() and len(shown([text, None])) <= 60


# JSON

BAD_JSON = {
    "a key twice": (b'{"a": 1, "a": 2}', "it names a key twice"),
    "a key twice inside": (b'{"a": [{"b": 1, "b": 1}]}', "it names a key twice"),
    "deep": (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "it is nested too deep"),
    "very deep": (b"[" * 60_000, "is not valid JSON"),
    "many values": (b'{"a": [' + b"0," * 70_000 + b"0]}", "it holds more than 65536 values"),
    "many lists": (b'{"a": [' + b"[]," * 70_000 + b"0]}", "it holds more than 65536 values"),
    "long number": (b'{"a": ' + b"9" * 4000 + b"}", "a number of very many digits"),
    "longer number": (b'{"a": ' + b"9" * 100_000 + b"}", "a number of very many digits"),
    "other encoding": ('{"a": 1}'.encode("utf-16"), "is not valid JSON"),
    "mark in front": (b'\xef\xbb\xbf{"a": 1}', "is not valid JSON"),
    "two objects": (b"{}{}", "is not valid JSON"),
    "nothing": (b"", "is not valid JSON"),
    "null": (b"null", "must hold a JSON object, not a NoneType"),
}


@pytest.mark.parametrize("case", list(BAD_JSON))
def test_json_that_no_program_writes_is_refused(tmp_path, case):
    text, told = BAD_JSON[case]
    path = tmp_path / "model_index.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=told) as caught:
        read_json(path)
    sentence(caught)


# Weights


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_HEADERS = {
    "no header": (b"", b"", None, "it ends before its header does"),
    "longer than the file": ({"a": entry()}, bytes(8), 10**6, "it ends before its header does"),
    "longer than all memory": ({"a": entry()}, bytes(8), 2**63, "it ends before its header does"),
    "very long": (b" " * 300_000, b"", None, "more than 262144"),
    "no JSON": (b"{", b"", None, "its header is no JSON"),
    "a list": ([entry()], bytes(8), None, "its header is no JSON object"),
    "a name twice": (
        b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2),
        bytes(8),
        None,
        "names a key twice",
    ),
    "gap": ({"a": entry(offsets=(4, 12))}, bytes(12), None, "does not begin where"),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), None, "does not begin where"),
    "same place": ({"a": entry(), "b": entry()}, bytes(8), None, "does not begin where"),
    "backwards": ({"a": entry(offsets=(8, 0))}, bytes(8), None, "has another size than its shape"),
    "negative": ({"a": entry(offsets=(-8, 0))}, bytes(8), None, "no shape or place"),
    "negative shape": ({"a": entry(shape=(-1, -2))}, bytes(8), None, "no shape or place"),
    "true": ({"a": entry(shape=(True, 2))}, bytes(8), None, "no shape or place"),
    "fractions": ({"a": entry(shape=(2.0,))}, bytes(8), None, "no shape or place"),
    "many dimensions": ({"a": entry(shape=[2] + [1] * 5000)}, bytes(8), None, "no shape or place"),
    "overflow": ({"a": entry(shape=(2**32, 2**32))}, bytes(8), None, "has another size than its shape"),
    "an exabyte": ({"a": entry(shape=(2**58,), offsets=(0, 2**60))}, bytes(8), None, "its header accounts for"),
    "trailing bytes": ({"a": entry()}, bytes(9), None, "its header accounts for"),
    "cut": ({"a": entry()}, bytes(7), None, "its header accounts for"),
    "type unknown": ({"a": entry("F99")}, bytes(8), None, "of the unknown type 'F99'"),
    "type no name": ({"a": entry(["F32"])}, bytes(8), None, "of the unknown type"),
    "no entry": ({"a": 3}, bytes(8), None, "does not say what 'a' is"),
    "more in an entry": ({"a": {**entry(), "code": "x"}}, bytes(8), None, "does not say what 'a' is"),
}


@pytest.mark.parametrize("case", list(BAD_HEADERS))
def test_headers_that_do_not_describe_their_file_are_refused(tmp_path, case):
    header, data, length, told = BAD_HEADERS[case]
    path = write(tmp_path / WEIGHTS, header, data, length)
    if case == "no header":
        path.write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match=f"is damaged or no safetensors file: .*{told}") as caught:
        read_weights(path, {"a": torch.empty(2)})
    sentence(caught)


def test_what_safetensors_writes_is_read_bit_for_bit(tmp_path):
    """Also tensors larger than a piece, of other types, without numbers and without dimensions, and with metadata."""
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "large": torch.randn(3, strict.PIECE // 2 + 5, generator=rng),
        "half": torch.randn(7, 3, generator=rng).half(),
        "brain": torch.randn(strict.PIECE + 1, generator=rng).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt", "note": "<b>"})
    for dtype in (torch.float32, torch.bfloat16):
        found = read_weights(tmp_path / WEIGHTS, tensors, dtype)
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == dtype and torch.equal(found[name], tensor.to(dtype)), name


@pytest.mark.parametrize("place", [0, strict.PIECE - 1, strict.PIECE, strict.PIECE + 2])
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_single_bad_number_is_found_wherever_it_is(tmp_path, place, value):
    tensor = torch.zeros(strict.PIECE + 3)
    tensor[place] = value
    save_file({"a": tensor}, tmp_path / WEIGHTS)
    for action in (read_weights, strict.check_weights):
        with pytest.raises(CheckpointError, match="a holds NaN or infinite values"):
            action(tmp_path / WEIGHTS, {"a": tensor})


def test_numbers_that_the_wanted_type_does_not_reach_are_refused(tmp_path):
    save_file({"a": torch.tensor([1e30])}, tmp_path / WEIGHTS)
    read_weights(tmp_path / WEIGHTS, {"a": torch.empty(1)}, torch.bfloat16)
    with pytest.raises(CheckpointError, match="a holds NaN or infinite values"):
        read_weights(tmp_path / WEIGHTS, {"a": torch.empty(1)}, torch.float16)


def test_weights_do_not_change_when_their_file_does(tmp_path):
    path = tmp_path / WEIGHTS
    save_file({"a": torch.ones(100_000)}, path)
    found = read_weights(path, {"a": torch.empty(100_000)})["a"]
    with path.open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(np.full(1000, 7, np.float32).tobytes())
    assert (found == 1).all()
    with TensorFile(path) as file:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(CheckpointError, match="became shorter while it was read"):
            file.read("a")
