"""The Generate tab without a browser: what reaches the model, and what a visitor is told."""

import math
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub.media import read_recipe
from sharingan_hub.space import build_demo
from sharingan_hub.space.generate import MAX_SEED, check_whole, draw
from sharingan_hub.space.model import SharedModel


class Recorder(SharedModel):
    """A model that notes what it was asked for and gives grey pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def pipeline(self) -> Any:
        return SimpleNamespace()

    def draw(self, **arguments: Any) -> list[Image.Image]:
        self.calls.append(arguments)
        return [Image.new("RGB", (4, 4), "grey") for _ in arguments["seeds"]]


def test_settings_reach_the_model_and_the_file():
    model = Recorder()
    pictures = draw(model, 5, 2, "3", 1, 256, gr.Progress())
    assert model.calls == [{"seeds": [5, 6], "truncation_psi": 1.0, "order": 3, "output_size": 256}]
    assert [caption for _, caption in pictures] == ["seed 5", "seed 6"]
    recipe = {"model": "embedded", "seed": 6, "truncation_psi": 1.0, "order": 3, "output_size": 256}
    assert read_recipe(pictures[1][0]) == recipe


def test_any_order_is_left_to_the_seed():
    model = Recorder()
    draw(model, 0, 1, "any", 0.7, 256, gr.Progress())
    assert model.calls[0]["order"] is None


def test_large_pictures_are_drawn_a_few_at_a_time():
    model = Recorder()
    pictures = draw(model, 10, 16, "any", 0.7, 2048, gr.Progress())
    assert [seed for call in model.calls for seed in call["seeds"]] == list(range(10, 26))
    assert max(len(call["seeds"]) for call in model.calls) == 1
    assert [caption for _, caption in pictures] == [f"seed {seed}" for seed in range(10, 26)]


@pytest.mark.parametrize("seed", [-1, None])
def test_no_seed_is_a_new_one_each_time(seed):
    model = Recorder()
    for _ in range(4):
        draw(model, seed, 2, "any", 0.7, 256, gr.Progress())
    firsts = {call["seeds"][0] for call in model.calls}
    assert len(firsts) > 1  # all four alike: one in 10**18
    assert all(call["seeds"] == [call["seeds"][0], call["seeds"][0] + 1] for call in model.calls)


@pytest.mark.parametrize("psi", [math.nan, math.inf, -math.inf, True, [0.7]])
def test_truncation_must_be_a_finite_number(psi):
    model = Recorder()
    with pytest.raises(gr.Error, match=r"^'Truncation must be a number from 0 to 1\.5, got .+\.'$"):
        draw(model, 0, 1, "any", psi, 256, gr.Progress())
    assert model.calls == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(json_values)
def test_whole_numbers_in_range_pass_and_all_else_is_one_sentence(value):
    try:
        result = check_whole("Seed", value, -1, MAX_SEED)
    except gr.Error as error:
        assert error.message.startswith("Seed must be a whole number from -1 to 4294967295, got ")
        assert "\n" not in error.message and len(error.message) < 200
    else:
        assert type(result) is int and -1 <= result <= MAX_SEED
        assert result == (int(value) if isinstance(value, str) else value) and not isinstance(value, bool)


@given(st.integers(-1, MAX_SEED))
def test_every_seed_passes_as_number_float_or_text(seed):
    assert check_whole("Seed", seed, -1, MAX_SEED) == check_whole("Seed", float(seed), -1, MAX_SEED) == seed
    if seed >= 0:
        assert check_whole("Seed", str(seed), -1, MAX_SEED) == seed


def test_missing_model_is_one_sentence_and_can_be_tried_again(tmp_path):
    model = SharedModel(str(tmp_path / "nothing-here"))
    model.warm_up()  # does not raise
    for _ in range(2):
        with pytest.raises(gr.Error) as error:
            draw(model, 0, 1, "any", 0.7, 256, gr.Progress())
        assert error.value.message.startswith("The model cannot be loaded: ") and "\n" not in error.value.message


def test_what_the_model_refuses_is_passed_on():
    class Refuses(Recorder):
        def draw(self, **arguments: Any) -> list[Image.Image]:
            raise ValueError("order was given, but StyleGAN2Generator does not take it")

    with pytest.raises(gr.Error, match="order was given, but StyleGAN2Generator does not take it"):
        draw(Refuses(), 0, 1, 3, 0.7, 256, gr.Progress())


def test_samples_are_shown_by_seed(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("seed0000010.png", "seed0000009.png", "grid.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / name)
    samples = SharedModel(str(tmp_path)).samples()
    assert [caption for _, caption in samples] == ["seed 9", "seed 10"]
    assert all(Image.open(path).size == (4, 4) for path, _ in samples)


@pytest.mark.parametrize("name", [None, "someone/their-sharingan"])
def test_page_is_built_without_loading_the_model(monkeypatch, name):
    seen = []
    monkeypatch.setattr(SharedModel, "warm_up", lambda self: seen.append(self.name))
    demo = build_demo(name)
    assert [function.api_name for function in demo.fns.values() if function.api_visibility == "public"] == ["generate"]


def test_environment_names_the_model(monkeypatch):
    seen = []
    monkeypatch.setattr(SharedModel, "__init__", lambda self, name: seen.append(name))
    monkeypatch.setattr(SharedModel, "samples", lambda self: [])
    monkeypatch.setattr(SharedModel, "warm_up", lambda self: None)
    monkeypatch.setenv("SHARINGAN_MODEL", "someone/their-sharingan")
    build_demo()
    build_demo("another/one")
    monkeypatch.setenv("SHARINGAN_MODEL", "")
    build_demo()
    assert seen == ["someone/their-sharingan", "another/one", None]
