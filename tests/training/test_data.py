"""Sets of pictures, healthy and broken, in folders, zips and data sets: against colours known beforehand."""

import json
import struct
import sys
import types
import warnings
import zipfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import training.data
from tests.nasty_files import encoded
from training.data import load_pictures
from training.emblems import BENCHMARK, sample_emblems, write_folder


def colours(train_data: Path | str, resolution: int = 4) -> list[tuple[int, ...]]:
    """The colour of each picture's middle, 0 to 255."""
    pictures = load_pictures(str(train_data), resolution)
    images, _ = pictures.batch(range(len(pictures)))
    assert images.dtype == torch.float32 and images.shape == (len(pictures), 3, resolution, resolution)
    middle = ((images[:, :, resolution // 2, resolution // 2] + 1) * 127.5).round().int()
    return [tuple(colour) for colour in middle.tolist()]


def save(folder: Path, name: str, colour: tuple[int, ...] = (10, 20, 30), size: tuple[int, int] = (6, 6)) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folders_are_searched_in_the_order_of_their_names(tmp_path):
    save(tmp_path, "b.png", (2, 2, 2))
    save(tmp_path, "sub/deep/c.PNG", (3, 3, 3))
    save(tmp_path, "a.png", (1, 1, 1))
    save(tmp_path, ".cache/hidden.png", (9, 9, 9))
    save(tmp_path, "._a.png", (9, 9, 9))
    (tmp_path / "notes.txt").write_text("not a picture")
    assert colours(tmp_path) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


def test_one_picture_is_enough(tmp_path):
    save(tmp_path, "only.png", (255, 0, 0))
    pictures = load_pictures(str(tmp_path), 8)
    images, orders = pictures.batch([0, 0, 0])
    assert len(pictures) == 1 and pictures.order_probs is None
    assert images.shape == (3, 3, 8, 8) and orders.tolist() == [0, 0, 0] and orders.dtype == torch.int64
    assert (images[:, 0] == 1).all() and (images[:, 1:] == -1).all()
    with pytest.raises(IndexError, match="0 to 0, got 1"):
        pictures.batch([1])


def broken_files(folder: Path) -> list[str]:
    """Files that are named like pictures and are none; their names, sorted."""
    save(folder, "whole.jpg", size=(64, 64))
    jpeg = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    png = encoded(noise)
    (folder / "cut.jpg").write_bytes(jpeg[:-200])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "flipped.png").write_bytes(png[:200] + bytes(byte ^ 0xFF for byte in png[200:400]) + png[400:])
    (folder / "header.png").write_bytes(png[:20])
    (folder / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (folder / "text.png").write_text("hello")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "bomb.png").write_bytes(bomb())
    return ["bomb.png", "cut.jpg", "cut.png", "empty.png", "flipped.png", "gone.png", "header.png", "script.png"] + [
        "text.png"
    ]


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_broken_files_are_named_and_left_out(tmp_path):
    save(tmp_path, "a.png", (1, 1, 1))
    save(tmp_path, "z.png", (2, 2, 2))
    names = broken_files(tmp_path)
    with pytest.warns(UserWarning, match="could not be read") as caught:
        assert colours(tmp_path) == [(1, 1, 1), (2, 2, 2)]
    (message,) = [str(warning.message) for warning in caught]
    assert f"{len(names)} pictures" in message and ", ".join(names) in message


def test_a_long_list_of_broken_files_is_cut_short(tmp_path):
    save(tmp_path, "a.png")
    for i in range(30):
        (tmp_path / f"bad{i:02}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="30 pictures could not be read.*bad09.png and 20 more"):
        load_pictures(str(tmp_path), 4)


def test_nothing_readable_is_one_sentence(tmp_path):
    names = broken_files(tmp_path)
    with pytest.raises(ValueError, match=f"none of its {len(names)} pictures could be read") as error:
        load_pictures(str(tmp_path), 4)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_healthy_set_gives_no_warning(tmp_path):
    save(tmp_path, "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pictures(str(tmp_path), 4)


def test_orders_come_from_the_metadata_beside_the_pictures(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png", "sub/d.png", "sub/e.png"):
        save(tmp_path, name)
    rows = [{"file_name": "a.png", "order": 3}, {"file_name": "missing.png", "order": 5}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    rows = [{"file_name": "c.png", "order": 3}, {"file_name": "d.png", "order": 6}, {"file_name": "e.png", "order": 12}]
    (tmp_path / "sub/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pictures = load_pictures(str(tmp_path), 4)
    assert pictures.batch(range(5))[1].tolist() == [3, 0, 3, 6, 0]
    assert pictures.order_probs == pytest.approx([0, 0, 2 / 3, 0, 0, 1 / 3, 0, 0])


@pytest.mark.parametrize("order", [0, -1, 9, 2.0, "3", True, None, [3]])
def test_what_is_no_order_is_unknown(tmp_path, order):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "order": order}))
    pictures = load_pictures(str(tmp_path), 4)
    assert pictures.batch([0])[1].tolist() == [0] and pictures.order_probs is None


def test_orders_of_broken_pictures_do_not_count(tmp_path):
    save(tmp_path, "b.png")
    (tmp_path / "a.png").write_text("no picture")
    rows = [{"file_name": "a.png", "order": 1}, {"file_name": "b.png", "order": 2}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="a.png"):
        pictures = load_pictures(str(tmp_path), 4)
    assert pictures.batch([0])[1].tolist() == [2]
    assert pictures.order_probs == [0, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("target", BENCHMARK)
def test_orders_that_nobody_gives_are_read_off_the_pictures(target, tmp_path, monkeypatch, caplog):
    """Off crooked ones too, and off those of a set too large for memory: the true orders of drawn emblems."""
    emblems = sample_emblems(target, range(30))
    mix = np.bincount([emblem.order for emblem in emblems], minlength=9)[1:] / 30
    write_folder(emblems, 128, tmp_path)
    assert load_pictures(str(tmp_path), 16).order_probs == pytest.approx(mix)  # as given
    (tmp_path / "metadata.jsonl").unlink()
    caplog.set_level("INFO", "training.data")
    assert load_pictures(str(tmp_path), 16).order_probs == pytest.approx(mix)
    assert f"No orders are given; 30 pictures show order {mix.nonzero()[0][0] + 1} in " in caplog.text
    for i, file in enumerate(sorted(tmp_path.glob("*.png"))):
        with Image.open(file) as image:
            squashed = (1.02, 0, i % 4 - 2.8, 0, 0.98, i % 5 - 0.7)  # by 4 %, and up to two pixels off the middle
            crooked = image.transform(image.size, Image.Transform.AFFINE, squashed, Image.Resampling.BICUBIC)
        crooked.save(file)
    monkeypatch.setattr(training.data, "MEMORY_LIMIT", 1)
    assert load_pictures(str(tmp_path), 16).order_probs == pytest.approx(mix, abs=0.04)  # one of them may be misread


def test_where_half_the_pictures_have_no_symmetry_their_orders_are_unknown(tmp_path, monkeypatch):
    emblems = [emblem for emblem in sample_emblems("sharingan", range(9)) if emblem.order == 3][:4]
    write_folder(emblems, 64, tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"noise{i}.png")
    assert load_pictures(str(tmp_path), 16).order_probs is None
    monkeypatch.setattr(training.data, "MEMORY_LIMIT", 1)
    content = (tmp_path / "noise0.png").read_bytes()
    (tmp_path / "noise0.png").write_bytes(content[:60] + bytes(len(content) - 60))  # damaged past its header
    mix = load_pictures(str(tmp_path), 16).order_probs
    assert mix == pytest.approx([3 / 7, 0, 4 / 7, 0, 0, 0, 0, 0])  # without symmetry is order 1


def test_broken_metadata_costs_its_rows_alone(tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "order": 4}\n{oops\n[1]\n{"order": 2}\n')
    with pytest.warns(UserWarning, match="3 lines of metadata.jsonl"):
        pictures = load_pictures(str(tmp_path), 4)
    assert pictures.batch([0])[1].tolist() == [4]
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match="metadata.jsonl could not be read"):
        assert load_pictures(str(tmp_path), 4).order_probs is None


def test_a_zip_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/b.png", encoded(Image.new("RGB", (5, 9), (2, 2, 2))))
        archive.writestr("in/a.png", encoded(Image.new("RGB", (9, 5), (1, 1, 1))))
        archive.writestr("../../outside.png", encoded(Image.new("RGB", (9, 5), (3, 3, 3))))
        archive.writestr("__MACOSX/in/._a.png", b"junk")
        archive.writestr("in/bad.png", b"junk")
        archive.writestr("in/metadata.jsonl", '{"file_name": "b.png", "order": 7}')
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.warns(UserWarning, match=r"1 picture could not be read and left out: in/bad\.png$"):
        assert colours(tmp_path / "set.zip") == [(3, 3, 3), (1, 1, 1), (2, 2, 2)]
        assert load_pictures(str(tmp_path / "set.zip"), 4).batch([0, 1, 2])[1].tolist() == [0, 0, 7]
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_damage_inside_a_zip_costs_one_picture(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", encoded(Image.fromarray(noise)))
        archive.writestr("b.png", encoded(Image.new("RGB", (9, 5), (2, 2, 2))))
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[3000:3100] = bytes(100)
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.warns(UserWarning, match="left out: a.png"):
        assert colours(tmp_path / "set.zip") == [(2, 2, 2)]


def test_a_member_that_unpacks_to_too_much_is_left_out(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encoded(Image.new("RGB", (4, 4))) + bytes(100_000))
        archive.writestr("b.png", encoded(Image.new("RGB", (4, 4), (2, 2, 2))))
    monkeypatch.setattr(training.data, "MAX_FILE_BYTES", 50_000)
    with pytest.warns(UserWarning, match="left out: a.png"):
        assert colours(tmp_path / "set.zip") == [(2, 2, 2)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("folder", "holds no pictures"),
        ("zip without pictures", "holds no pictures"),
        ("text file", "neither a folder nor a zip"),
        ("cut zip", "neither a folder nor a zip"),
        ("nothing", "does not exist here"),
    ],
)
def test_no_data_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "data.zip"
    if content == "folder":
        path.mkdir()
        (path / "readme.md").write_text("nothing here")
    elif content != "nothing":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.md", "nothing here")
        if content == "cut zip":
            path.write_bytes(path.read_bytes()[:40])
        elif content == "text file":
            path.write_text("hello")
    with pytest.raises(ValueError, match=sentence) as error:
        load_pictures(str(path), 4)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_wrong_path_is_told_from_a_hub_id(tmp_path, monkeypatch):
    asked = []

    def not_found(repo):
        asked.append(repo)
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{repo}' doesn't exist on the Hub\nor so")

    monkeypatch.setattr(datasets, "load_dataset", not_found)
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "./photos", "../photos/mine", "~/photos", "/photos", "a/b/c", "mine/photos.zip", "a b/c"):
        with pytest.raises(ValueError, match="does not exist here"):
            load_pictures(name, 4)
    assert not asked
    with pytest.raises(ValueError, match="no such folder or zip here and no such data set on the Hub"):
        load_pictures("someone/photos", 4)
    assert asked == ["someone/photos"]


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    def unreachable(repo):
        raise ConnectionError(f"Couldn't reach '{repo}' on the Hub\nmany lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match="Couldn't reach 'someone/photos' on the Hub$"):
        load_pictures("someone/photos", 4)


def test_rows_of_a_hub_data_set(tmp_path, monkeypatch):
    save(tmp_path, "on_disk.png", (3, 3, 3))
    cells = [
        {"bytes": encoded(Image.new("L", (5, 9), 1)), "path": None},
        {"bytes": b"junk", "path": "junk.png"},
        None,
        {"bytes": encoded(Image.new("RGBA", (5, 9), (2, 2, 2, 255))), "path": "anything"},
        {"bytes": None, "path": str(tmp_path / "on_disk.png")},
        {"bytes": None, "path": str(tmp_path / "not_on_disk.png")},
    ]
    features = datasets.Features(
        {"text": datasets.Value("string"), "image": datasets.Image(), "order": datasets.Value("int32")}
    )
    rows = datasets.Dataset.from_dict(
        {"text": ["x"] * 6, "image": cells, "order": [5, 1, 1, None, 77, 1]}, features=features
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda repo: datasets.DatasetDict({"test": rows.select([1]), "train": rows})
    )
    with pytest.warns(UserWarning, match="left out: row 1, row 2, row 5$"):
        assert colours("someone/photos") == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
        pictures = load_pictures("someone/photos", 4)
    assert pictures.batch([0, 1, 2])[1].tolist() == [5, 0, 0] and pictures.order_probs == [0, 0, 0, 0, 1, 0, 0, 0]

    monkeypatch.setattr(
        datasets, "load_dataset", lambda repo: datasets.DatasetDict({"train": rows.remove_columns("image")})
    )
    with pytest.raises(ValueError, match="no image column, but text, order"):
        load_pictures("someone/photos", 4)
    monkeypatch.setattr(datasets, "load_dataset", lambda repo: datasets.DatasetDict({"train": rows.select([])}))
    with pytest.raises(ValueError, match="holds no pictures"):
        load_pictures("someone/photos", 4)


def test_a_folder_of_parquet_files_goes_through_datasets(tmp_path, monkeypatch):
    """As a clone of a Hub data set is; here with the real reader, not a stand-in."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (6, 6), (i, i, i)) for i in range(3)], "order": [1, 2, 2]}
    ).cast_column("image", datasets.Image())
    (tmp_path / "clone/data").mkdir(parents=True)
    rows.to_parquet(tmp_path / "clone/data/train.parquet")
    assert colours(tmp_path / "clone") == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert load_pictures(str(tmp_path / "clone"), 4).order_probs == pytest.approx([1 / 3, 2 / 3, 0, 0, 0, 0, 0, 0])
    (tmp_path / "clone/data/train.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(ValueError, match="Parquet files cannot be read"):
        load_pictures(str(tmp_path / "clone"), 4)


def test_a_set_too_large_for_memory_gives_the_same_pictures(tmp_path, monkeypatch):
    generator = np.random.RandomState(0)
    for i in range(5):
        Image.fromarray(generator.randint(0, 256, (9, 12, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "order": 4}')
    expected = load_pictures(str(tmp_path), 4).batch([4, 1, 1, 0])
    monkeypatch.setattr(training.data, "MEMORY_LIMIT", 5 * 3 * 16 - 1)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.warns(UserWarning, match="left out: bad.png"):
        pictures = load_pictures(str(tmp_path), 4)
    images, orders = pictures.batch([4, 1, 1, 0])
    assert torch.equal(images, expected[0]) and torch.equal(orders, expected[1])

    # damage past the header shows when the picture is wanted: the next one stands in, with its own order
    content = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(content[:60] + bytes(len(content) - 60))
    with pytest.warns(UserWarning, match="0.png could not be read"):
        images, orders = pictures.batch([0, 0])
    assert torch.equal(images[1], expected[0][1]) and orders.tolist() == [4, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        pictures.batch([0])


@pytest.fixture
def stand_in_emblems(monkeypatch):
    """Emblem i is of order i % 8 + 1 and as bright as its order, so that the seeds show in the pictures."""
    module = types.ModuleType("training.emblems")
    module.DISTRIBUTIONS = ("source", "sharingan")
    module.order_probs = lambda name: [0.125] * 8 if name == "source" else [0.5, 0.5] + [0.0] * 6
    module.sample_emblems = lambda distribution, seeds: [types.SimpleNamespace(order=i % 8 + 1) for i in seeds]
    module.render = lambda emblems, size: torch.stack([torch.full((3, size, size), e.order / 8) for e in emblems])
    monkeypatch.setitem(sys.modules, "training.emblems", module)
    monkeypatch.setattr(training, "emblems", module, raising=False)


def test_drawn_emblems_take_the_index_as_their_seed(stand_in_emblems):
    pictures = load_pictures("emblems:source", 6)
    images, orders = pictures.batch(torch.tensor([0, 2**31 - 1, 3]))
    assert len(pictures) == 2**31 and images.shape == (3, 3, 6, 6) and images.dtype == torch.float32
    assert orders.tolist() == [1, 8, 4] and orders.dtype == torch.int64
    assert torch.equal(images[:, 0, 0, 0], orders / 4 - 1)
    assert pictures.order_probs == [0.125] * 8
    assert load_pictures("emblems:sharingan", 6).order_probs == [0.5, 0.5] + [0.0] * 6


@pytest.mark.parametrize(
    ("train_data", "resolution", "named"),
    [
        ("emblems:other", 8, "emblems:other"),
        ("emblems:", 8, "emblems:"),
        ("", 8, "train_data"),
        (None, 8, "train_data"),
        ("emblems:source", 0, "resolution"),
        ("emblems:source", 8.0, "resolution"),
        ("emblems:source", True, "resolution"),
    ],
)
def test_bad_arguments_are_named(train_data, resolution, named):
    with pytest.raises(ValueError, match=named):
        load_pictures(train_data, resolution)
