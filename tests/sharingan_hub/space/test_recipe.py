"""Recipes: what travels in files, links, pins and API calls comes back as it was, and anything else is one sentence."""

import dataclasses
import json
from urllib.parse import parse_qsl

import gradio as gr
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub import SharinganPipeline, write_png
from sharingan_hub.postprocess import PALETTES as LIBRARY_PALETTES
from sharingan_hub.space.checks import check_whole
from sharingan_hub.space.models import Models
from sharingan_hub.space.recipe import LAYERS, MAX_LATENT, MAX_SEED, PALETTES, SIZES, Recipe, found_text
from sharingan_hub.space.snippet import snippet
from tests.sharingan_hub.conftest import pipeline_with_classes

seeds = st.integers(0, MAX_SEED)
recipes = st.builds(
    Recipe,
    seed=seeds,
    order=st.none() | st.integers(1, 8),
    truncation_psi=st.floats(0, 1.5),
    variation=st.none() | seeds,
    strength=st.floats(0, 1),
    styles=st.dictionaries(st.sampled_from(LAYERS), seeds).map(lambda styles: tuple((n, styles[n]) for n in LAYERS if n in styles)),
    moves=st.lists(st.floats(-4, 4), max_size=6).map(tuple),
    palette=st.none() | st.sampled_from(sorted(PALETTES)),
    circularize=st.booleans(),
    symmetry=st.none() | st.integers(1, 8),
    output_size=st.sampled_from(SIZES),
    class_label=st.none() | st.integers(0, 99),
    model=st.sampled_from(["", "user/eyes@0123abc", "embedded+user/frost@0123abc*0.5"]),
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def same(a: Recipe, b: Recipe) -> bool:
    """Strength says nothing where there is no variation, and is not kept then."""
    return a == b or (a.variation is None and Recipe(**{**vars(a), "strength": b.strength}) == b)


@given(recipes)
def test_a_recipe_survives_json_and_links(recipe):
    assert same(recipe, Recipe.read(json.loads(json.dumps(recipe.to_dict()))))
    back = Recipe.from_query(dict(parse_qsl(recipe.to_query())))
    assert back is not None and same(recipe, back)


def test_a_link_is_read_as_people_write_it():
    recipe = Recipe.from_query({"seed": "7", "order": "3", "palette": "violet", "utm_source": "x"})
    assert recipe == Recipe(seed=7, order=3, palette="violet")
    assert Recipe.from_query({"__theme": "dark"}) is None


FIELDS = ("seed", "order", "truncation_psi", "variation", "strength", "styles", "moves", "palette", "circularize",
          "symmetry", "output_size", "found", "model")  # fmt: skip


@given(st.sampled_from(FIELDS), json_values)
def test_anything_else_is_one_sentence(name, value):
    try:
        recipe = Recipe.read({"seed": 0, name: value})
    except gr.Error as error:
        assert "\n" not in error.message and len(error.message) < 250
        assert error.message.endswith(".") and not error.print_exception
    else:
        assert isinstance(recipe, Recipe)


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


@given(st.integers(1, 12), st.integers(1, 40), st.data())
def test_found_latents_survive_json_but_are_in_no_link(rows, width, data):
    values = st.lists(st.floats(-999, 999, width=16), min_size=rows * width, max_size=rows * width)
    latents = torch.tensor(data.draw(values)).reshape(1, rows, width)
    recipe = Recipe(found=found_text(latents))
    assert Recipe.read(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.to_query() == ""


@pytest.mark.parametrize(
    "found",
    [
        found_text(torch.full((1, 9, 256), float("nan"))),
        found_text(torch.full((1, 9, 256), float("inf"))),
        found_text(torch.full((1, 9, 256), 1.1 * MAX_LATENT)),
        found_text(torch.zeros(1, 9, 256)).replace("9x", "8x"),
        found_text(torch.zeros(1, 9, 256))[:-1],
        found_text(torch.zeros(1, 90, 999)),
        "9x256:",
        "1x1:\u0661AA=",
        "0x0:AAA=",
    ],
)
def test_strangers_latents_are_refused_in_one_sentence(found):
    with pytest.raises(gr.Error, match="Found latents must") as error:
        Recipe.read({"seed": 0, "found": found})
    assert len(error.value.message) < 200


def test_palettes_are_the_librarys():
    assert {name: (palette.iris, palette.pattern) for name, palette in LIBRARY_PALETTES.items()} == PALETTES


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


def test_found_latents_draw_what_was_found_and_variations_keep_its_order(pipe):
    ws = pipe.prepare_latents([7], 0.7, order=5)
    found = Recipe(found=found_text(ws))
    assert torch.allclose(found.latents(pipe), ws, atol=2e-3)
    assert found.latents(pipe)[0, -1, 0] == 5 and Recipe(found=found.found, order=3).latents(pipe)[0, -1, 0] == 3
    same, half, other = (Recipe(found=found.found, variation=9, strength=far).latents(pipe) for far in (0.0, 0.5, 1.0))
    assert torch.equal(same, found.latents(pipe))
    assert torch.allclose(other[:, :-1], pipe.prepare_latents([9], 0.7, order=5)[:, :-1])
    assert torch.allclose(half, (same + other) / 2, atol=1e-6)
    assert half[0, -1, 0] == 5


@pytest.mark.parametrize("shape", [(9, 128), (8, 256), (1, 1)])
def test_latents_of_another_model_are_refused(pipe, shape):
    with pytest.raises(gr.Error, match="model of another shape"):
        Recipe(found=found_text(torch.ones(1, *shape))).latents(pipe)


def test_the_snippet_of_a_found_design_reads_it_from_its_file(pipe, tmp_path, monkeypatch):
    recipe = Recipe(found=found_text(pipe.prepare_latents([7])), variation=3, palette="gold", output_size=256)
    write_png(Image.new("RGB", (8, 8)), tmp_path / f"{recipe.file_name}.png", recipe.to_dict())
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(snippet(recipe, Models()), space)
    assert torch.equal(space["latents"], recipe.latents(pipe)) and space["image"].size == (256, 256)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(seed=7, order=3, output_size=256),
        Recipe(seed=7, variation=5, strength=0.4, output_size=256),
        Recipe(seed=7, order=5, styles=(("fine", 9), ("palette", 12)), moves=(1.0, 0.0, -0.5), output_size=256),
    ],
)
def test_the_snippet_draws_the_same_latents(pipe, recipe):
    space: dict = {}
    exec(snippet(recipe, Models()).rpartition("\n")[0], space)  # all but the drawing, which the next lines look at
    last = snippet(recipe, Models()).rpartition("\n")[2]
    drawn = eval(last.partition(" = ")[2].removesuffix(".images[0]"), space)
    assert torch.equal(drawn.latents, recipe.latents(pipe))
    assert drawn.images[0].size == (256, 256)


@pytest.mark.parametrize("more", [{}, {"variation": 5}, {"styles": (("middle", 9),)}])
def test_a_class_is_drawn_and_told(tmp_path, more):
    pipeline_with_classes().save_pretrained(tmp_path)
    pipe = SharinganPipeline.from_pretrained(tmp_path)
    recipe = Recipe(seed=7, class_label=2, output_size=256, **more)
    assert not torch.allclose(recipe.latents(pipe), dataclasses.replace(recipe, class_label=None).latents(pipe))
    space: dict = {}
    exec(
        snippet(recipe, Models(str(tmp_path))).rpartition("\n")[0].replace(f'"{tmp_path.name}"', f'"{tmp_path}"'), space
    )
    drawn = eval(snippet(recipe, Models()).rpartition(" = ")[2].removesuffix(".images[0]"), space | {"pipe": pipe})
    assert torch.equal(drawn.latents, recipe.latents(pipe))
