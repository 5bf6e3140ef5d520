"""The running Space as an API: repair, drawings and eyes."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from sharingan_hub import read_recipe
from tests.app_process import ROOT
from tests.eyes import draw_eye
from tests.space_app.steps import pixels

pytestmark = pytest.mark.xdist_group("app")


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


def test_what_cannot_be_found_or_placed_is_one_sentence(client, tmp_path):
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
