"""Recipes: what travels in files, links, pins and API calls comes back as it was, and anything else is one sentence."""

import json
from urllib.parse import parse_qsl

import gradio as gr
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharingan_hub import SharinganPipeline
from sharingan_hub.postprocess import PALETTES as LIBRARY_PALETTES
from sharingan_hub.space.checks import check_whole
from sharingan_hub.space.models import Models
from sharingan_hub.space.recipe import LAYERS, MAX_SEED, PALETTES, SIZES, Recipe
from sharingan_hub.space.snippet import snippet

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
          "symmetry", "output_size", "model")  # fmt: skip


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


def test_palettes_are_the_librarys():
    assert {name: (palette.iris, palette.pattern) for name, palette in LIBRARY_PALETTES.items()} == PALETTES


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


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
