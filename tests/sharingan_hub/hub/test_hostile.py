"""Hostile checkpoints and adapters by the hundred, on this disk and on a Hub.

Whatever a stranger puts into a repository, it is opened or refused in one sentence: nothing of it is run, nothing is written
elsewhere, nobody waits, and memory stays near what the files that are read have in bytes.
"""

import copy
import io
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sharingan_hub import RadialGenerator, SharinganPipeline, hub
from sharingan_hub.checkpoints.adapters import is_adapter, make_adapter
from sharingan_hub.checkpoints.folder import WEIGHTS, validate
from sharingan_hub.checkpoints.ticket import write_ticket
from sharingan_hub.hub import fetching

SLACK = 12 * 2**20  # bytes: a megabyte of JSON, read and parsed, and what the allocators keep
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class Pipe:
    pass


@dataclass(frozen=True)
class Sparse:
    """A file of this many bytes that takes no space."""

    size: int


class Vast(bytes):
    """A file that the Hub says is large."""

    def __len__(self) -> int:
        return 2**40


class Trap:
    """Unpickling it leaves a mark."""

    def __reduce__(self):
        return Path.touch, (MARK,)


Files = dict[str, Any]
MARK = Path("/nowhere")
BASE: Any = None
CHECKPOINT: Files = {}
ADAPTER: Files = {}
CODE = b"import pathlib\npathlib.Path(%r).touch()\nraise SystemExit\n"


@pytest.fixture(scope="module", autouse=True)
def templates(tmp_path_factory) -> None:
    """A checkpoint with all that one may hold, and an adapter of it; both are sound before an attack."""
    global BASE, MARK
    folder, adapter = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("adapter")
    MARK = folder.parent / "mark"
    torch.manual_seed(0)
    small = {"z_dim": 4, "w_dim": 4, "channels": [4], "base_radius": 2, "base_angle": 4, "mapping_layers": 2}
    masks = {"max_order": 3, "num_masks": 3, "num_frame_masks": 1, "num_ground_masks": 1, "mapping_width": 32}
    BASE = RadialGenerator(**small, **masks, resolution=16, order_probs=[0.5, 0.25, 0.25]).eval()
    other = copy.deepcopy(BASE)
    for parameter in other.parameters():
        parameter.data += 0.1
    SharinganPipeline(BASE).save_pretrained(folder)
    make_adapter(BASE, other, adapter, base_model="maker/base")
    write_ticket(folder / "ticket.safetensors", BASE)
    (folder / "report.json").write_text('{"steps": 3}')
    (folder / "discriminator").mkdir()
    (folder / "discriminator" / "config.json").write_text('{"_class_name": "StyleGAN2Discriminator", "resolution": 16}')
    save_file({"out.weight": torch.ones(3, 3)}, folder / "discriminator" / WEIGHTS)
    shutil.copytree(adapter, folder / "adapter")
    for root, files in ((folder, CHECKPOINT), (adapter, ADAPTER)):
        validate(root)
        for path in root.rglob("*"):
            if path.suffix in (".json", ".safetensors"):
                files[path.relative_to(root).as_posix()] = path.read_bytes()


# What strangers do. Each attack changes the files of a repository.

WORDS = st.sampled_from(
    [
        "../../x",
        "/etc/passwd",
        "os.system",
        "<script>alert(1)</script>",
        "[x](https://evil.example) `x` www.evil.example",
        "写輪眼",
        "\ud800",
        "\u202e\x1b[2J",
        "\x00",
        "__class__",
    ]
) | st.text(max_size=30)
NUMBERS = (
    st.integers(-2, 70)
    | st.sampled_from([2**20, 2**31, 2**63, -(2**63), 10**15, 8192, 1024])
    | st.floats()
    | st.sampled_from([1e308, 1e-308, 0.5])
)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = LEAVES | st.lists(LEAVES, max_size=6) | st.dictionaries(WORDS, LEAVES, max_size=3) | st.just([[[[]]]])
TEXTS = st.binary(max_size=60) | st.sampled_from(
    [
        b"[" * 200_000,
        b'{"a":' * 60_000,
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 300_000 + b"}",
        b"[" + b"{}," * 300_000 + b"1]",
        b'{"a": "' + "𝒳".encode() * 250_000 + b'"}',
        b" " * (2**20 + 1),
        '{"a": 1}'.encode("utf-16"),
        b"null",
        b"NaN",
        b"-",
    ]
)


def disguises() -> list[bytes]:
    """Files of other kinds, some of which run code where they are opened."""
    trap = pickle.dumps(Trap())
    archive, zipped = io.BytesIO(), io.BytesIO()
    torch.save({"w_avg": torch.zeros(3)}, archive)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", trap)
        file.writestr("../../escaped", "x")
    return [
        trap,
        archive.getvalue(),
        zipped.getvalue(),
        b"\x7fELF" + bytes(60),
        b"\x89HDF\r\n\x1a\n" * 9,
        b"<html>" * 9,
        b"",
    ]


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: object, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def pick(draw: Callable, files: Files, suffix: str) -> str | None:
    names = sorted(name for name, data in files.items() if name.endswith(suffix) and type(data) is bytes)
    return draw(st.sampled_from(names)) if names else None


def set_values(draw: Callable, files: Files) -> None:
    """Other values, and other keys, in a configuration."""
    if name := pick(draw, files, ".json"):
        try:
            content = json.loads(files[name])
            for _ in range(draw(st.integers(1, 3))):
                content[draw(st.sampled_from(sorted(content)) | WORDS)] = draw(VALUES)
            files[name] = json.dumps(content).encode()
        except (ValueError, TypeError, RecursionError):  # after another attack
            return


def set_text(draw: Callable, files: Files) -> None:
    """Something else than JSON, or far too much of it."""
    if name := pick(draw, files, ".json"):
        files[name] = draw(TEXTS)


def set_header(draw: Callable, files: Files) -> None:
    """Other names, shapes, types and places of tensors."""
    if name := pick(draw, files, ".safetensors"):
        try:
            header, rest = header_of(files[name])
            tensor = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
            entry = header[tensor]
            sizes = st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**40, 2**62, 2**64]), max_size=5)
            kind = draw(st.sampled_from(["name", "shape", "data_offsets", "dtype", "more", "any"]))
            if kind == "name":
                header[draw(WORDS)] = header.pop(tensor)
            elif kind == "more":
                entry[draw(WORDS)] = draw(VALUES)
            elif kind == "any":
                header[tensor] = draw(VALUES)
            else:
                types = st.sampled_from(["F64", "I64", "F8_E5M2", "BOOL", "F16", "U8", "C64"]) | WORDS
                entry[kind] = draw(types if kind == "dtype" else sizes)
            files[name] = with_header(header, rest)
        except (ValueError, TypeError, AttributeError):
            return


def set_length(draw: Callable, files: Files) -> None:
    """A header that says it is as long as it likes."""
    if name := pick(draw, files, ".safetensors"):
        files[name] = struct.pack("<Q", draw(st.integers(0, 2**64 - 1) | st.integers(0, 3000))) + files[name][8:]


def set_bytes(draw: Callable, files: Files) -> None:
    """Other bytes somewhere, or fewer, or more."""
    if (name := pick(draw, files, ".safetensors")) and files[name]:
        data = bytearray(files[name])
        start = draw(st.integers(0, len(data) - 1))
        data[start : start + draw(st.integers(0, 40))] = draw(
            st.binary(max_size=40) | st.sampled_from([b"\xff" * 8, b"\0" * 9])
        )
        files[name] = bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


def disguise(draw: Callable, files: Files) -> None:
    """A file of another kind under the name of this one."""
    if name := pick(draw, files, draw(st.sampled_from([".safetensors", ".json"]))):
        files[name] = draw(st.sampled_from(disguises()))


def take_away(draw: Callable, files: Files) -> None:
    files.pop(draw(st.sampled_from(sorted(files))))


def add_files(draw: Callable, files: Files) -> None:
    """Code and other files that nobody asked for."""
    code = CODE % str(MARK)
    for name in draw(st.lists(st.sampled_from(CODE_NAMES), min_size=1, max_size=4)):
        files.setdefault(name, draw(st.sampled_from([code, *disguises()])))


CODE_NAMES = [
    "pipeline.py",
    "generator_model/modeling_radial.py",
    "generator_model/__init__.py",
    "__init__.py",
    "conftest.py",
    "pickle.py",
    "generator_model/pytorch_model.bin",
    "<img src=x onerror=alert(1)>.safetensors",
    "写輪眼\u202e.txt",
]


def put_special(draw: Callable, files: Files) -> None:
    """Links, pipes and files without end, on a disk."""
    targets = [
        "/etc/passwd",
        "/dev/zero",
        "..",
        "/",
        "nowhere",
        "config.json",
        f"../../{MARK.name}",
        "model_index.json",
    ]
    special = draw(
        st.builds(Link, st.sampled_from(targets)) | st.just(Pipe()) | st.builds(Sparse, st.sampled_from([2**30, 2**40]))
    )
    name = draw(
        st.sampled_from(sorted(CHECKPOINT | ADAPTER)) | st.sampled_from(["generator_model", "adapter", "discriminator"])
    )
    for other in [other for other in files if other == name or other.startswith(f"{name}/")]:
        del files[other]
    if not any(name.startswith(f"{other}/") for other in files):
        files[name] = special


def claim_much(draw: Callable, files: Files) -> None:
    """A Hub that declares a terabyte."""
    if name := pick(draw, files, draw(st.sampled_from([".safetensors", ".json"]))):
        files[name] = Vast(files[name])


def name_oddly(draw: Callable, files: Files) -> None:
    """A Hub that lists names which lead elsewhere."""
    odd = [
        "../../escaped.json",
        "/tmp/escaped.json",
        "samples/../../escaped.png",
        "..\\escaped.json",
        "generator_model/../x.json",
    ]
    files[
        draw(st.sampled_from([*odd, "samples/<b>.png", "samples/a.png/b.png", "samples/.png", "%2e%2e/escaped.json"]))
    ] = b"{}"


ANYWHERE = [
    set_values,
    set_values,
    set_text,
    set_header,
    set_header,
    set_length,
    set_bytes,
    disguise,
    take_away,
    add_files,
]


@st.composite
def repositories(draw, attacks: list[Callable]) -> Files:
    files = dict(draw(st.sampled_from([CHECKPOINT, ADAPTER])))
    for attack in draw(st.lists(st.sampled_from(attacks), min_size=1, max_size=3)):
        if files:
            attack(draw, files)
    return files


# What must never happen


def refusal(action: Callable[[], object]) -> hub.HubError | None:
    """How an action refuses: only ever by a HubError of one sentence."""
    try:
        action()
    except hub.HubError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 600 and text.isprintable(), repr(text)
        assert not set(text) & set("<>`") and not re.search(r"\]\(|://|www\.", text), text
        return error
    return None


def peak() -> int:
    """The most memory that this process has had since `CLEAR` was told to forget, in bytes; 0 where only Linux tells."""
    if not CLEAR.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def put(folder: Path, files: Files) -> None:
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        if any(str(parent) in files for parent in Path(name).parents):
            continue  # two attacks at once: nothing can lie below a link or a file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Link):
            path.symlink_to(data.target)
        elif isinstance(data, Pipe):
            os.mkfifo(path)
        elif isinstance(data, Sparse):
            path.touch()
            os.truncate(path, data.size)
        else:
            path.write_bytes(data)


def everything(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*")}


def open_adapter(folder: Path) -> None:
    SharinganPipeline(copy.deepcopy(BASE)).load_adapter(folder)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_folders(data, tmp_path):
    files = data.draw(repositories([*ANYWHERE, put_special, put_special]))
    root = tmp_path / "root"
    folder = root / "folder"
    root.mkdir()
    try:
        put(folder, files)
        before = everything(root)
        allowed = 1.5 * sum(len(file) for file in (*CHECKPOINT.values(), *ADAPTER.values())) + SLACK
        opens = open_adapter if is_adapter(folder) else SharinganPipeline.from_pretrained
        if CLEAR.exists():
            CLEAR.write_text("5")
        start = peak()
        invalid = refusal(lambda: validate(folder))
        closed = refusal(lambda: opens(folder))
        assert peak() - start <= allowed
        # What is valid opens. An adapter may be one for another base, which only that base can tell.
        assert invalid or not closed or is_adapter(folder), str(closed)
        if not invalid and not is_adapter(folder):
            SharinganPipeline.from_pretrained(folder)(seeds=[0], output_size=16)
        assert everything(root) == before and not MARK.exists()
    finally:
        shutil.rmtree(root)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_repositories(data, loopback, tmp_path, monkeypatch):
    """Through the Hub's own client: refused before more is fetched than is needed to say so."""
    monkeypatch.chdir(tmp_path)
    files = data.draw(repositories([*ANYWHERE, claim_much, name_oddly]))
    if "maker/base" not in loopback.repos:
        loopback.add("maker/base", CHECKPOINT)
    name = f"stranger/n{len(loopback.repos)}"
    loopback.add(name, files)
    loopback.clear()
    cache = tmp_path / "hub_cache"
    refusal(lambda: SharinganPipeline.from_pretrained(name))
    assert loopback.transferred < 2**23
    fetched = {path.relative_to(cache).parts[3:] for path in cache.glob("models--stranger*/snapshots/*/**/*")}
    for parts in fetched:
        path = "/".join(parts)
        assert (
            path in fetching.READ | fetching.SHOWN
            or any(known.startswith(f"{path}/") for known in fetching.READ)
            or parts[0] == "samples"
        )
    vast = [path for path, file in files.items() if isinstance(file, Vast)]
    assert not [request.path for request in loopback.requests if request.path.endswith(tuple(vast)) and vast]
    assert {path.name for path in tmp_path.iterdir()} <= {"hub_cache"} and not MARK.exists()
    assert not list(cache.parent.parent.glob("escaped*"))


def test_the_trap_is_one():
    assert not MARK.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert MARK.exists()
    MARK.unlink()


def test_the_templates_open(tmp_path):
    put(tmp_path / "checkpoint", CHECKPOINT)
    put(tmp_path / "adapter", ADAPTER)
    SharinganPipeline.from_pretrained(tmp_path / "checkpoint").load_adapter(tmp_path / "adapter")
