"""The running Space as an API: seeds, recipes, films and styles."""

import json
import re
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

import av
import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from sharingan_hub import read_recipe
from tests.space_app.steps import pixels, seeds

pytestmark = pytest.mark.xdist_group("app")


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
