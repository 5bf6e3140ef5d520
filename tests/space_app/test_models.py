"""The running Space as an API: other people's models, and what a model says of itself."""

import re

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from tests.app_process import ROOT
from tests.space_app.steps import ADAPTER, MODEL, pixels

pytestmark = pytest.mark.xdist_group("app")


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
