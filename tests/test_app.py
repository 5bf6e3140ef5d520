"""The real Space: app.py in its own process, called as an API and used in a browser; its Hub is one on this machine."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from sharingan_hub import read_recipe
from tests.browser import chromium
from tests.eyes import draw_eye
from tests.loopback_hub import LoopbackHub

ROOT = Path(__file__).parents[1]
# One server is enough for all of these tests: they go to one worker (--dist loadgroup).
pytestmark = pytest.mark.xdist_group("app")
MODEL, ADAPTER = "maker/stylegan2-eyes", "maker/fifteen"


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """A Hub with a model, an adapter of the embedded source model, and a model that is broken."""
    server = LoopbackHub()
    for name, folder in ((MODEL, "stylegan2-source"), (ADAPTER, "adapter-sharingan15")):
        root = ROOT / "model_cards" / folder
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        server.add(name, files)
    weights = "generator_model/diffusion_pytorch_model.safetensors"
    model = {name: file.data for name, file in server.repos[MODEL].head.files.items() if name != ".gitattributes"}
    card = b"---\ntags: [sharingan-hub]\ntitle: <img src=x onerror=alert(1)> Broken\n---\n"
    server.add("maker/broken", {**model, weights: b"\x80\x04pickle", "README.md": card})
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Space keeps the files that it makes."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def url(hub: LoopbackHub, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of app.py, started on a free port of 127.0.0.1 with the embedded model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    left_out = ("SHARINGAN_MODEL", "HF_TOKEN", "HF_HUB_OFFLINE")
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(served),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    output = []
    for line in process.stdout:
        output.append(line)
        if str(port) in line:
            break
    else:
        pytest.fail("app.py ended before it listened:\n" + "".join(output))
    watchdog.cancel()
    threading.Thread(target=process.stdout.read, daemon=True).start()  # so that the pipe never fills
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def generate(client: Client) -> Any:
    def call(**inputs: Any) -> list[dict[str, Any]]:
        return client.predict(api_name="/generate", **inputs)

    return call


def seeds(pictures: list[dict[str, Any]]) -> list[int]:
    return [int(re.fullmatch(r"seed (\d+)", picture["caption"])[1]) for picture in pictures]  # type: ignore[index]


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(Image.open(picture["image"] if isinstance(picture, dict) else picture), dtype=int)


# As an API


def test_no_arguments_give_eight_new_png_pictures(generate):
    first, second = generate(), generate()
    assert len(first) == len(second) == 8
    for picture in first:
        with Image.open(picture["image"]) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (256, 256), "RGB")
    assert len(set(seeds(first + second))) == 16
    assert len({pixels(picture).tobytes() for picture in first + second}) == 16


def test_seeds_count_up_and_decide_the_picture(generate):
    pictures = generate(seed=7, count=3, order=3, truncation_psi=0.5, output_size=512)
    assert seeds(pictures) == [7, 8, 9]
    (alone,) = generate(seed=8, count=1, order="3", truncation_psi=0.5, output_size="512")
    assert pixels(alone).shape == (512, 512, 3)
    assert np.abs(pixels(alone) - pixels(pictures[1])).max() <= 1
    assert np.abs(pixels(alone) - pixels(pictures[0])).max() > 50
    # the seed is in the file's name and its recipe in the file
    assert Path(alone["image"]).name == "sharingan-8.png"
    recipe = read_recipe(alone["image"])
    assert recipe == {"model": "embedded", "truncation_psi": 0.5, "order": 3, "output_size": 512, "seed": 8}


def test_order_is_what_was_asked_for(generate):
    """Order 4: a quarter turn changes nothing. Order 3: it does."""
    four = generate(seed=1, count=2, order=4)
    three = generate(seed=1, count=2, order=3)
    for picture in four:
        assert np.abs(pixels(picture) - np.rot90(pixels(picture))).max() <= 2
    for picture in three:
        assert np.abs(pixels(picture) - np.rot90(pixels(picture))).max() > 50


def test_last_seed_wraps_around(generate):
    assert seeds(generate(seed=2**32 - 1, count=2)) == [2**32 - 1, 0]


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"count": 0}, "Count"),
        ({"count": 10**9}, "Count"),
        ({"count": True}, "Count"),
        ({"count": None}, "Count"),
        ({"order": 99}, "Order"),
        ({"order": [3]}, "Order"),
        ({"output_size": 300}, "Output size"),
        ({"output_size": 10**9}, "Output size"),
        ({"truncation_psi": None}, "Truncation"),
        ({"truncation_psi": "0.7"}, "Truncation"),
        ({"seed": -2}, "Seed"),
        ({"seed": 2**32}, "Seed"),
        ({"seed": "x" * 10_000}, "Seed"),
        ({"palette": "plaid"}, "Palette"),
        ({"symmetry": 99}, "Symmetry"),
        ({"model": "../../etc"}, "Model"),
    ],
)
def test_bad_input_is_one_sentence(generate, inputs, name):
    with pytest.raises(AppError) as error:
        generate(**inputs)
    message = str(error.value)
    assert re.fullmatch(rf"{name} must be [^\n]{{10,190}}\.", message), message


def test_nan_is_refused(url):
    """As raw JSON, since gradio_client cannot send it."""
    body = b'{"data": [1, 1, 3, NaN, 256, "own", false, 0, ""]}'
    request = urllib.request.Request(
        f"{url}/gradio_api/call/generate", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            event = json.load(response)["event_id"]
    except urllib.error.HTTPError as error:
        assert 400 <= error.code < 500
        return
    with urllib.request.urlopen(f"{url}/gradio_api/call/generate/{event}", timeout=60) as response:
        assert "event: error" in response.read().decode()


def test_every_endpoint_is_documented(client):
    info = client.view_api(return_format="dict", print_info=False)
    endpoints = info["named_endpoints"]  # type: ignore[index]
    assert {"/generate", "/vary", "/draw", "/svg", "/spin", "/restore", "/interpolate", "/mix", "/explore", "/repair",
            "/recolor", "/invert", "/place_in_eye", "/discover", "/load", "/train", "/stop_training", "/publish", "/truncation",
            "/nearest", "/about"} == set(endpoints)  # fmt: skip
    assert all(endpoint["description"] for endpoint in endpoints.values())


def test_a_recipe_is_drawn_varied_and_restored(client, tmp_path):
    recipe = {"seed": 51, "order": 6, "palette": "violet"}
    png = client.predict(recipe, 1024, api_name="/draw")
    with Image.open(png) as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))
    back = client.predict(handle_file(png), api_name="/restore")
    assert back == {
        "seed": 51,
        "order": 6,
        "truncation_psi": 0.7,
        "palette": "violet",
        "output_size": 1024,
        "model": "",
    }
    again = client.predict(back, 1024, api_name="/draw")
    assert Path(again).read_bytes() == Path(png).read_bytes()
    varied = client.predict(recipe, 0.3, api_name="/vary")
    assert len(varied) == 8 and varied[0]["caption"] == "seed 51"
    recipes = [read_recipe(picture["image"]) for picture in varied]
    assert all(one["seed"] == 51 and one["palette"] == "violet" and one["order"] == 6 for one in recipes if one)
    assert len({one["variation"] for one in recipes[1:] if one}) == 7
    svg = client.predict(recipe, api_name="/svg")
    assert ET.parse(svg).getroot().tag.endswith("svg") and len(Path(svg).read_bytes()) < 20_000
    assert client.predict(handle_file(svg), api_name="/restore")["palette"] == "violet"
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(AppError, match="No recipe in this file"):
        client.predict(handle_file(tmp_path / "plain.png"), api_name="/restore")


def test_a_film_has_the_frames_that_were_asked_for(client):
    settings = {"seconds": 0.5, "fps": 20, "loop": "ping-pong", "size": 256}
    film, *_ = client.predict([7, {"seed": 9, "order": 5, "palette": "gold"}], api_name="/interpolate", **settings)
    path = film["video"] if isinstance(film, dict) else film
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 20
    assert len(frames) == 10 and frames[0].shape == (256, 256, 3)
    (seven,) = client.predict(seed=7, count=1, api_name="/generate")
    assert np.abs(frames[0] - pixels(seven)).mean() < 6
    recipe = read_recipe(path)
    assert recipe and recipe["film"]["keyframes"][1]["palette"] == "gold"
    webp, *_ = client.predict([7, 9], api_name="/interpolate", format="webp", space="z", **settings)
    with Image.open(webp) as image:
        assert (image.format, image.n_frames) == ("WEBP", 10)


def test_a_film_keeps_nobody_from_drawing(client, generate):
    film = client.submit(list(range(20)), seconds=60, fps=20, api_name="/interpolate")
    assert len(generate()) == len(generate(palette="gold")) == 8
    assert not film.done()
    film.cancel()


def test_styles_mix_and_directions_move(client):
    picture, recipe = client.predict({"seed": 7}, 9, ["palette", "fine"], api_name="/mix")
    assert recipe["styles"] == {"fine": 9, "palette": 9}
    moved, further = client.predict(recipe, 1.5, api_name="/explore")
    assert further["moves"][0] == 1.5 and further["styles"] == recipe["styles"]
    assert np.abs(pixels(moved) - np.asarray(Image.open(picture).resize((256, 256)), dtype=int)).mean() > 1


def test_a_bent_picture_comes_back_round_and_recoloured(client, tmp_path):
    import torch

    from sharingan_hub.postprocess import RadialScale, symmetry_score
    from sharingan_hub.postprocess.radial_scale import warp
    from sharingan_hub.space.repair import to_image, to_tensor

    drawn = client.predict({"seed": 51, "order": 6}, 256, api_name="/draw")
    waves = torch.zeros(1, 1, 2, 3)
    waves[0, 0, :, 1] = torch.tensor([0.05, -0.03])
    to_image(warp(to_tensor(Image.open(drawn)), RadialScale(waves))).save(tmp_path / "bent.png")
    fixed, original, facts = client.predict(handle_file(tmp_path / "bent.png"), True, "auto", api_name="/repair")
    assert facts["round"]["found"] and facts["round"]["confidence"] > 0.5 and facts["order"] == 6
    assert max(facts["round"]["distortion_percent"]) == pytest.approx(5.8, abs=1.0)
    assert facts["symmetry_after"] > 0.9 > facts["symmetry_before"]
    assert symmetry_score(to_tensor(Image.open(fixed)), 6).item() > 0.9
    assert np.array_equal(pixels(original), pixels(tmp_path / "bent.png"))
    blue = client.predict(handle_file(fixed), "sapphire", api_name="/recolor")
    iris = pixels(blue)[:, 128][30]
    assert iris[2] > 120 and iris[0] < 80


NASTY = {
    "text.png": b"no picture at all",
    "empty.png": b"",
    "cut.png": b"\x89PNG\r\n\x1a\n" + b"\x00" * 20,
    "bomb.ppm": b"P6 60000 60000 255\n",
    "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "postscript.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit",
    "tiny.ppm": b"P6 1 1 255\n\x00\x00\x00",
    "pickle.jpg": b"\x80\x04cposix\nsystem\n.",
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files_are_one_sentence(client, tmp_path, name):
    (tmp_path / name).write_bytes(NASTY[name])
    with pytest.raises(AppError) as error:
        client.predict(handle_file(tmp_path / name), True, "auto", api_name="/repair")
    assert re.fullmatch(r"The picture [^\n/]{10,150}\.", str(error.value)), error.value


@pytest.fixture(scope="module")
def found(client) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a short search makes of a picture of the model's own: a PNG, its recipe, and how near it is."""
    drawn = client.predict({"seed": 51, "order": 6}, 256, api_name="/draw")
    job = client.submit(handle_file(drawn), kind="picture", steps=1, api_name="/invert")
    picture, target, recipe, facts, told = job.result(timeout=300)
    assert np.abs(pixels(target) - pixels(drawn)).mean() < 8
    assert facts["order"] == 6 and facts["progress"] == 1 and "Found" in told
    distances = [output[3]["distance"] for output in job.outputs() if output[3]]
    assert distances == sorted(distances, reverse=True) and len(distances) > 3
    return picture, recipe, facts


def test_a_found_design_is_one_like_any_other(client, found):
    picture, recipe, facts = found
    seed = pixels(client.predict({"seed": 51, "order": 6}, 512, api_name="/draw"))
    assert np.sqrt(((pixels(picture) - seed) ** 2).mean()) / 255 == pytest.approx(facts["distance"], abs=0.05)
    assert facts["distance"] < 0.2
    back = client.predict(handle_file(picture), api_name="/restore")
    assert back == recipe and Path(picture).name == "sharingan-found.png"
    assert Path(client.predict(back, 512, api_name="/draw")).read_bytes() == Path(picture).read_bytes()
    varied = client.predict(recipe, 0.3, api_name="/vary")
    assert varied[0]["caption"] == "from a picture" and len({pixels(one).tobytes() for one in varied}) == 8
    _, mixed = client.predict(recipe, 9, ["palette"], api_name="/mix")
    assert mixed["found"] == recipe["found"] and mixed["styles"] == {"palette": 9}
    svg = client.predict(mixed, api_name="/svg")
    assert client.predict(handle_file(svg), api_name="/restore") == mixed
    film, *_ = client.predict([mixed, 9], seconds=0.2, api_name="/interpolate")
    film = film["video"] if isinstance(film, dict) else film
    assert client.predict(handle_file(film), api_name="/restore") == {**mixed, "output_size": 512}
    with pytest.raises(AppError, match="In Z only plain seeds"):
        client.predict([recipe, 9], seconds=0.2, space="z", api_name="/interpolate")
    with pytest.raises(AppError, match="Found latents must be text"):
        client.predict({**recipe, "found": recipe["found"][:-4]}, 256, api_name="/draw")


def test_a_design_looks_out_of_an_eye(client, tmp_path):
    from sharingan_hub.space.repair import to_image

    drawn = draw_eye()
    to_image(drawn.picture).save(tmp_path / "eye.png")
    before = pixels(tmp_path / "eye.png")
    placed, facts = client.predict(handle_file(tmp_path / "eye.png"), {"seed": 7}, api_name="/place_in_eye")
    assert facts["found"] and facts["size"] == [256, 256]
    assert facts["x"] * 256 == pytest.approx(drawn.center[0], abs=2)
    assert facts["radius"] * 256 == pytest.approx(drawn.radius, abs=2)
    lids, iris = drawn.lids.numpy(), drawn.iris.numpy()
    assert np.array_equal(pixels(placed)[lids], before[lids])
    assert np.abs(pixels(placed)[iris] - before[iris]).mean() > 20
    assert (read_recipe(placed) or {})["seed"] == 7
    Image.new("RGB", (200, 100), "tan").save(tmp_path / "plain.png")
    nothing, facts = client.predict(handle_file(tmp_path / "plain.png"), {"seed": 7}, api_name="/place_in_eye")
    assert facts == {"found": False, "size": [200, 100]}
    assert np.array_equal(pixels(nothing), pixels(tmp_path / "plain.png"))
    _, facts = client.predict(
        handle_file(tmp_path / "plain.png"), {"seed": 7}, 0.25, 0.5, 0.3, api_name="/place_in_eye"
    )
    assert (facts["x"], facts["y"], facts["radius"]) == (0.25, 0.5, 0.3)


def test_nasty_drawings_and_eyes_are_one_sentence(client, tmp_path):
    for name, data in NASTY.items():
        (tmp_path / name).write_bytes(data)
        for api, rest in (("/invert", ()), ("/place_in_eye", ({"seed": 7},))):
            with pytest.raises(AppError) as error:
                client.predict(handle_file(tmp_path / name), *rest, api_name=api)
            assert re.fullmatch(r"The (picture|eye) [^\n/]{10,150}\.", str(error.value)), error.value
    Image.new("RGB", (99, 99)).save(tmp_path / "blank.png")
    blank = handle_file(tmp_path / "blank.png")
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("/invert", {}, "all of one colour"),
        ("/invert", {"order": 9}, "Order must be"),
        ("/invert", {"kind": "cat"}, "Kind must be one of"),
        ("/invert", {"steps": 10**6}, "Steps must be a whole number from 1 to 400"),
        ("/place_in_eye", {"recipe": {"seed": 7}, "x": 0.5}, "X and y must both be given"),
        ("/place_in_eye", {"recipe": {"seed": 7}, "x": 2, "y": 0.5}, "X must be a number from 0 to 1"),
        ("/place_in_eye", {"recipe": {"seed": 7}, "x": 0.5, "y": 0.5, "radius": 9}, "Radius must be a number"),
    ]
    for api, inputs, sentence in wrong:
        with pytest.raises(AppError, match=sentence):
            client.predict(blank, api_name=api, **inputs)


def test_files_of_the_server_are_not_read(url):
    """A file is what was uploaded, not what a caller names."""
    file = {"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}
    for api, data in (("repair", [file, True, "auto"]), ("restore", [file])):
        body = json.dumps({"data": data}).encode()
        request = urllib.request.Request(f"{url}/gradio_api/call/{api}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            event = json.load(response)["event_id"]
        with urllib.request.urlopen(f"{url}/gradio_api/call/{api}/{event}", timeout=60) as response:
            answer = response.read().decode()
        assert "event: error" in answer and str(ROOT) not in answer


def test_the_model_explains_itself(client):
    strip = client.predict({"seed": 7}, api_name="/truncation")
    assert [picture["caption"] for picture in strip] == ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.5"]
    card, sheets = client.predict("", api_name="/about")
    assert "# Radial sharingan, from 15 pictures" in card and len(sheets) == 2
    if (ROOT / "training" / "data").is_dir():
        near = client.predict({"seed": 7}, api_name="/nearest")
        distances = [float(picture["caption"]) for picture in near[1:]]
        assert near[0]["caption"] == "chosen" and distances == sorted(distances) and len(distances) == 3


def test_two_visitors_draw_with_their_own_models(url, hub, client, tmp_path):
    other = Client(url, verbose=False, download_files=tmp_path)
    found = {entry["repo_id"]: entry for entry in client.predict("", api_name="/discover")}
    assert {MODEL, ADAPTER, "maker/broken"} <= set(found)
    assert (
        found[ADAPTER]["is_adapter"] and found[MODEL]["author"] == "maker" and "<" not in found["maker/broken"]["title"]
    )
    mine = client.predict(MODEL, api_name="/load")
    theirs = other.predict(f"{ADAPTER}*0.5", api_name="/load")
    assert mine == f"{MODEL}@{hub.repos[MODEL].head.sha}"
    assert theirs == f"{ADAPTER}@{hub.repos[ADAPTER].head.sha}*0.5"
    pictures = {
        name: pixels(one.predict(seed=3, count=1, model=name, api_name="/generate")[0])
        for name, one in ((mine, client), (theirs, other), ("", client))
    }
    assert len({picture.tobytes() for picture in pictures.values()}) == 3
    again = pixels(other.predict(seed=3, count=1, model="", api_name="/generate")[0])
    assert np.array_equal(again, pictures[""])


@pytest.mark.parametrize("repo", ["maker/broken", "maker/nothing-here", "no name", "training/data"])
def test_what_cannot_be_loaded_is_one_sentence(client, repo):
    with pytest.raises(AppError) as error:
        client.predict(repo, api_name="/load")
    assert re.fullmatch(r"[^\n]{10,300}\.", str(error.value)) and str(ROOT) not in str(error.value)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any, url: str, hub: LoopbackHub) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    known = (url, hub.endpoint, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(known) else problems.append(request.url))
    page.goto(url)
    page.locator("#gallery .thumbnail-item img").nth(7).wait_for()
    yield page
    context.close()
    assert problems == []  # no error on the console, and nothing asked of any other host


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def wait_for_pictures(page: Any, where: str, count: int, size: int) -> list[str]:
    """Wait until a gallery shows `count` loaded pictures of `size` pixels -> their captions."""
    page.wait_for_function(
        """([where, count, size]) => {
            const images = [...document.querySelectorAll(where + " .thumbnail-item img")];
            images.forEach(image => image.loading = "eager");
            return images.length == count && images.every(image => image.complete && image.naturalWidth == size);
        }""",
        arg=[where, count, size],
    )
    return page.locator(f"{where} .caption-label").all_inner_texts()


def save(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def choose(page: Any, number: int) -> str:
    """Click a picture of the grid -> its caption, once it is the one that is looked at."""
    item = page.locator("#gallery .thumbnail-item").nth(number)
    caption = item.locator(".caption-label").inner_text()
    item.click()
    page.locator("#title h3", has_text=caption).wait_for()
    return caption


def test_visitor_generates_chooses_and_saves(page, tmp_path):
    before = page.locator("#gallery .caption-label").all_inner_texts()  # before any button is pressed
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        "before => document.querySelector('#gallery .caption-label')?.innerText != before", arg=before[0]
    )
    after = wait_for_pictures(page, "#gallery", 8, 256)
    assert len(set(after)) == 8 and not set(after) & set(before)
    caption = choose(page, 5)
    page.get_by_role("radio", name="1024").check(force=True)
    png = save(page, "PNG", tmp_path)
    seed = int(caption.removeprefix("seed "))
    with Image.open(png) as image:
        assert (image.format, image.size, png.name) == ("PNG", (1024, 1024), f"sharingan-{seed}.png")
    assert (read_recipe(png) or {})["seed"] == seed
    svg = save(page, "SVG", tmp_path)
    assert ET.parse(svg).getroot().tag.endswith("svg") and (read_recipe(svg) or {})["seed"] == seed
    with Image.open(save(page, "Spin", tmp_path)) as image:
        assert (image.format, image.n_frames) == ("WEBP", 48)


def test_settings_redraw_the_same_seeds_and_a_dropped_file_brings_them_back(page, tmp_path, client):
    page.locator(".swatches").get_by_role("radio", name="sapphire").first.check(force=True)
    page.locator("#title h3", has_text="sapphire").wait_for()
    assert page.locator("#gallery .caption-label").all_inner_texts() == [f"seed {i}" for i in range(8)]
    png = client.predict({"seed": 77, "order": 5, "truncation_psi": 1.1, "palette": "gold"}, 256, api_name="/draw")
    page.locator("#restore input[type=file]").set_input_files(png)
    page.locator("#title h3", has_text="seed 77 · order 5 · gold").wait_for()
    page.wait_for_function("document.querySelector('#settings input[type=number]').value == '1.1'")
    assert page.locator("#settings").get_by_role("radio", name="5", exact=True).is_checked()


def test_variations_pins_and_links_stay_with_the_visitor(page, url):
    choose(page, 3)
    page.get_by_role("button", name="Vary the chosen one").click()
    page.locator("#gallery .caption-label", has_text="variation").nth(6).wait_for()
    page.locator("#gallery .thumbnail-item").nth(2).click()
    page.locator("#title h3", has_text="variation").wait_for()
    title = page.locator("#title h3").inner_text()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator("#pinned .thumbnail-item img").wait_for()
    page.get_by_role("button", name="Recipe, link, Python").click()
    link = page.locator("#link textarea").input_value()
    assert link.startswith(url) and "variation=" in link
    page.goto(link)
    page.locator("#title h3", has_text=title).wait_for()
    page.wait_for_function("document.querySelector('#settings input[type=number]').value == '0.7'")
    page.locator("#pinned .thumbnail-item img").wait_for()  # kept in the browser
    page.get_by_role("button", name="Recipe, link, Python").click()
    page.locator("#python", has_text="vary(pipe, 3").wait_for()


def test_visitor_is_told_what_is_wrong_and_goes_on(page):
    page.get_by_role("button", name="Seed, number, repairs").click()
    page.get_by_label("Seed", exact=True).fill("-7")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("Seed must be a whole number from -1 to 4294967295, got -7.").wait_for()
    page.get_by_label("Seed", exact=True).fill("41")
    page.get_by_label("Seed", exact=True).press("Enter")
    page.get_by_text("seed 42", exact=True).wait_for()


def test_visitor_makes_a_film_and_two_others_are_stopped(page, tmp_path, served, client):
    open_tab(page, "Interpolate")
    page.get_by_role("button", name="Pin three examples").click()
    page.locator("#keyframes .thumbnail-item img").nth(2).wait_for()
    page.get_by_label("number input for Seconds").fill("1")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text("30 frames, 1 s").wait_for()
    with av.open(save(page, "Download", tmp_path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30
    page.get_by_label("number input for Seconds").fill("20")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text(re.compile(r"Frame \d+ of 600")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Stopped.").wait_for()
    page.get_by_label("number input for Seconds").fill("19.5")
    page.get_by_role("button", name="Make the film").click()
    page.get_by_text(re.compile(r"Frame \d+ of 585")).wait_for()
    page.close()  # the visitor leaves
    # One film is drawn at a time: were the others not stopped, they would be there by now.
    client.predict([7, 9], seconds=0.2, api_name="/interpolate")
    assert sum(1 for path in served.rglob("*.mp4") if (read_recipe(path) or {})["film"]["seconds"] > 19) == 0
    assert not list(served.rglob("*.tmp"))


def test_visitor_mixes_and_moves(page):
    choose(page, 2)
    open_tab(page, "Mix and explore")
    source = page.locator("#mixed img")
    source.wait_for()
    page.locator("#sources .thumbnail-item img").nth(7).wait_for()
    before = source.get_attribute("src")
    page.locator("#sources .thumbnail-item").nth(5).click()
    page.wait_for_function("before => document.querySelector('#mixed img').src != before", arg=before)
    before = source.get_attribute("src")
    page.get_by_label("range slider for Direction 1").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('#mixed img').src != before", arg=before)
    page.get_by_role("button", name="Take to Generate").click()
    page.locator("#title h3", has_text="seed 2 · mixed").wait_for()


def test_visitor_repairs_and_recolours(page, tmp_path):
    open_tab(page, "Repair & recolour")
    page.get_by_role("button", name="A damaged one").click()
    page.get_by_text("Out of round").wait_for()
    page.locator("#facts svg polygon").wait_for()
    page.locator("#compare img").nth(1).wait_for()
    page.locator(".swatches:visible").get_by_role("radio", name="emerald").check(force=True)
    shown = page.locator("#compare img").last.get_attribute("src")
    page.wait_for_function("before => [...document.querySelectorAll('#compare img')].at(-1).src != before", arg=shown)
    with Image.open(save(page, "Download PNG", tmp_path)) as image:
        red, green, blue = image.resize((64, 64)).getpixel((32, 8))
    assert green > red + 30 and green > blue + 20


def test_visitor_finds_a_design_and_stops_a_search(page, served, client):
    open_tab(page, "From my drawing")
    page.locator("#try-sketch").click()
    page.get_by_text("Ready: press Find it.").wait_for()
    page.get_by_label("number input for Steps").fill("400")
    page.get_by_role("button", name="Find it").click()
    page.locator("#found-status", has_text=re.compile(r"\d%, difference 0\.\d+")).wait_for()
    page.locator("#cancel-invert").click()
    page.get_by_text("Stopped; this is the best so far").wait_for()
    previews = len(list(served.rglob("image.png")))
    client.predict(api_name="/generate")  # meanwhile it would have gone on
    assert len(list(served.rglob("image.png"))) == previews
    page.locator("#try-eye").click()
    page.get_by_text("Iris at 50% and 50%").wait_for()
    page.locator("#placed img").click(position={"x": 10, "y": 20})
    page.get_by_text(re.compile(r"Iris at \d% and \d% of")).wait_for()
    page.get_by_role("button", name="Vary, pin and save it").click()
    page.locator("#title h3", has_text="from a picture").wait_for()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator("#pinned .thumbnail-item img").wait_for()
    page.get_by_role("button", name="Recipe, link, Python").click()
    assert page.locator("#link textarea").input_value().startswith("Found from a picture, so too long for a link")
    page.reload()
    page.locator("#pinned .thumbnail-item").click()
    page.locator("#title h3", has_text="from a picture").wait_for()


def test_visitor_uploads_a_drawing(page, client, tmp_path):
    open_tab(page, "From my drawing")
    (tmp_path / "text.png").write_bytes(NASTY["text.png"])
    page.locator("#drawing input[type=file]").set_input_files(tmp_path / "text.png")
    page.get_by_text("The picture cannot be read: it is no whole PNG, JPEG or WebP.").wait_for()
    page.reload()
    open_tab(page, "From my drawing")
    drawn = client.predict({"seed": 3}, 256, api_name="/draw")
    page.locator("#drawing input[type=file]").set_input_files(drawn)
    page.locator("#yours img").wait_for()
    page.get_by_label("number input for Steps").fill("20")
    page.get_by_role("button", name="Find it").click()
    page.locator("#found-status b").wait_for(timeout=120_000)
    page.get_by_role("button", name="Vary, pin and save it").click()
    page.locator("#title h3", has_text="from a picture").wait_for()


def test_visitor_loads_a_community_model_and_comes_back(page, hub):
    open_tab(page, "Community")
    card = page.locator("#cards article", has_text=ADAPTER)
    card.wait_for()
    assert "Adapter" in card.inner_text() and "downloads" in card.inner_text()
    assert page.locator("#cards img[onerror]").count() == 0
    card.get_by_role("button").click()
    page.locator("#using", has_text=ADAPTER).wait_for()
    strength = page.locator(".strength input[type=range]")
    strength.wait_for()
    strength.focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#using", has_text="× 0.95").wait_for()
    open_tab(page, "Generate")
    choose(page, 1)
    page.get_by_role("button", name="Recipe, link, Python").click()
    assert f'"{ADAPTER}@{hub.repos[ADAPTER].head.sha}*0.95"' in page.locator("#recipe").inner_text()
    open_tab(page, "About the model")
    page.locator("#card h1").first.wait_for()
    open_tab(page, "Community")
    page.get_by_role("button", name="Back to the Space's own model").click()
    page.locator("#using", has_text="this Space's own").wait_for()


def test_the_page_goes_on_without_the_hub(page, hub):
    hub.fail("500", times=math.inf)
    try:
        open_tab(page, "Community")
        page.get_by_text("The Hub did not answer.").wait_for()
        page.get_by_label("Or load by name").fill("maker/never-seen")
        page.get_by_role("button", name="Check and load").last.click()
        page.locator(".toast-body", has_text="Hub").wait_for()
        open_tab(page, "Generate")
        page.get_by_role("button", name="Generate", exact=True).click()
        wait_for_pictures(page, "#gallery", 8, 256)
    finally:
        hub.faults.clear()


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_runs_over_the_side(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    for name in page.get_by_role("tab").all_inner_texts():
        if page.get_by_role("tab", name=name, exact=True).is_visible():
            open_tab(page, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            if folder := os.environ.get("SHARINGAN_SCREENSHOTS"):
                page.screenshot(path=Path(folder) / f"{width}-{name}.png", full_page=True)
    open_tab(page, "Generate")
    top = {name: page.locator(name).bounding_box()["y"] for name in ("#go", "#gallery", "#detail", "#settings")}
    if width < 1100:
        assert top["#go"] < top["#gallery"] <= top["#detail"] < top["#settings"]
    assert top["#gallery"] < 400  # the first pictures are on the first screen


def test_the_page_is_used_by_keyboard_and_named_for_those_who_listen(page):
    page.get_by_role("tab", name="Generate").focus()
    for _ in range(10):  # the other tabs come first
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#go') != null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#gallery .caption-label').innerText != 'seed 0'")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [role=tab]")].filter(element =>
            element.checkVisibility() && element.type != "file" &&
            !(element.innerText || element.ariaLabel || element.title || element.labels?.length ||
              element.getAttribute("aria-labelledby") || element.querySelector("img[alt]:not([alt=''])"))
        ).map(element => element.outerHTML.slice(0, 150))"""
    )
    assert unnamed == []


def test_the_page_is_light_before_anything_is_drawn(page):
    sizes = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.transferSize)")
    assert sum(sizes) < 2_000_000
