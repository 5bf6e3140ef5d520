"""Files that no picture program made are uploaded to the running Space: a picture or one sentence, and it goes on."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.app_process import ROOT
from tests.nasty_files import PICTURES, RECIPES, REFUSED, encoded, wheel, with_recipe
from tests.space_app.steps import pixels

pytestmark = pytest.mark.xdist_group("app")

NAMES = {
    "folder": "folder.png/",
    "up": "../../../../tmp/escaped.png",
    "drive": "C:\\windows\\..\\escaped.png",
    "long": "x" * 4000 + ".png",
    "right to left": "\u202egnp.exe\u05d0\u05d1.png",
    "markup": "<script>alert(1)</script>.png",
    "zero": "a\x00b.png",
    "dots": "..",
    "none": " ",
}


def sentence(client: Any, api: str, *inputs: Any) -> str:
    """What a call is refused with: one sentence with nothing of the server in it."""
    with pytest.raises(AppError) as error:
        client.predict(*inputs, api_name=api)
    text = str(error.value)
    assert re.fullmatch(r"[^\n]{10,250}\.", text), text
    assert not any(word in text for word in (str(ROOT), "/tmp", "Traceback", "Error", "object", "root:")), text
    return text


@pytest.fixture
def draws_on(generate):
    """The Space draws after the test as before it."""
    yield
    assert len(generate(seed=0, count=1)) == 1


@pytest.fixture
def good(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"good{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(wheel().rotate(10 * number), "PNG"))
    return paths


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_everywhere(client, tmp_path, good, draws_on, name):
    (tmp_path / name).write_bytes(REFUSED[name])
    file, fine = handle_file(tmp_path / name), handle_file(good[0])
    for api, inputs, what in (
        ("/repair", [file, True, "auto"], "The picture"),
        ("/recolor", [file, "gold"], "The picture"),
        ("/recolor", [fine, "own", False, None, None, None, file], "The reference"),
        ("/invert", [file], "The picture"),
        ("/place_in_eye", [file, {"seed": 7}], "The eye"),
        ("/train", [[*map(handle_file, good), file], 0.05], "Picture 10"),
        ("/restore", [file], "No recipe in this file"),
    ):
        assert sentence(client, api, *inputs).startswith(what), api


@pytest.mark.parametrize("name", PICTURES)
def test_an_unusual_picture_is_opened_as_it_looks(client, tmp_path, draws_on, name):
    (tmp_path / name).write_bytes(PICTURES[name])
    file = handle_file(tmp_path / name)
    _, original, facts = client.predict(file, False, "off", api_name="/repair")
    shown = pixels(original)
    assert shown.ndim == 3 and shown.shape[2] == 3 and 1 <= facts["order"] <= 8
    if name == "deep.png":  # its grey rises over the whole range
        assert shown[30, 0].max() < 5 and shown[30, -1].min() > 250 and 110 < shown[30, 64, 0] < 145
    elif name != "endless.png":
        assert shown[0, 0].min() > 240 and shown[shown.shape[0] // 2, shown.shape[1] // 2].sum() < 450
    if name == "turned.jpg":
        assert shown.shape == (192, 96, 3)
    recoloured = client.predict(file, "gold", False, None, None, None, file, api_name="/recolor")
    placed, _ = client.predict(file, {"seed": 7}, 0.5, 0.5, 0.3, api_name="/place_in_eye")
    assert pixels(recoloured).shape == pixels(placed).shape == shown.shape


def test_unusual_pictures_are_trained_on_and_looked_for(client, tmp_path, draws_on):
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    files = [handle_file(tmp_path / name) for name in PICTURES]
    assert client.predict(files, 0.05, api_name="/train")[2].startswith("trained-")
    found, *_ = client.predict(handle_file(tmp_path / "print.jpg"), steps=1, api_name="/invert")
    assert pixels(found).shape == (512, 512, 3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_strangers_recipe_is_one_sentence_and_its_picture_a_picture(client, tmp_path, draws_on, name):
    (tmp_path / "recipe.png").write_bytes(with_recipe(RECIPES[name]))
    sentence(client, "/restore", handle_file(tmp_path / "recipe.png"))
    client.predict(handle_file(tmp_path / "recipe.png"), False, "off", api_name="/repair")


@pytest.mark.parametrize(
    "model", ["../../etc/passwd", "/etc/passwd", "maker/x\n@evil", "maker/none", "embedded+" * 9, "a" * 999]
)
def test_a_strangers_recipe_opens_no_model(client, tmp_path, draws_on, model):
    (tmp_path / "recipe.png").write_bytes(with_recipe(json.dumps({"seed": 1, "model": model})))
    recipe = client.predict(handle_file(tmp_path / "recipe.png"), api_name="/restore")
    sentence(client, "/draw", recipe, 256)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_decides_nothing(url, client, served, draws_on, name):
    """As multipart/form-data, since gradio_client takes a file's own name."""
    answer = httpx.post(f"{url}/gradio_api/upload", files={"files": (NAMES[name], encoded(wheel(), "PNG"))}, timeout=60)
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500 and str(ROOT) not in answer.text
        return
    (path,) = answer.json()
    assert Path(path).resolve().is_relative_to(served.resolve())
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with Image.open(client.predict(file, False, "off", api_name="/repair")[1]) as image:
        assert image.size == wheel().size


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of another process's memory is read from /proc")
def test_memory_is_bounded(process, client, tmp_path):
    """What would be 1.2 GB of pixels, and a picture of 24 million that are 16 bits deep."""
    large = Image.new("I;16", (6000, 3999))
    files = {"bomb.png": REFUSED["bomb.png"], "large.png": encoded(large, "PNG")}
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
    before = peak(process.pid)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    sentence(client, "/repair", handle_file(tmp_path / "bomb.png"), False, "off")
    client.predict(handle_file(tmp_path / "large.png"), False, "off", api_name="/repair")
    assert peak(process.pid) - before < 500


def peak(pid: int) -> int:
    """The most memory that a process has had, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) // 1024
