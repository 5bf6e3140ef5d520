"""Models and films of the Space without a browser: which model draws, what is drawn once, and what a stop leaves."""

import inspect
import os
import pickle
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from sharingan_hub import CoGANGenerator, DCGANGenerator, R3GANGenerator, SharinganPipeline, hub, read_recipe
from sharingan_hub.space import build_demo
from sharingan_hub.space.film import Film, render, spinning
from sharingan_hub.space.models import MOST_LOADED, Models, Part, parse_model
from sharingan_hub.space.recipe import Recipe
from tests.sharingan_hub.conftest import files_of, tiny_pipeline

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return tmp_path / "gradio"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


def test_names_of_models_read_and_write_the_same():
    parts = parse_model("user/eyes@0123abc+user/frost*0.5+other/gold@77*-0.25")
    assert parts == (Part("user/eyes", "0123abc"), Part("user/frost", None, 0.5), Part("other/gold", "77", -0.25))
    assert "+".join(map(str, parts)) == "user/eyes@0123abc+user/frost*0.5+other/gold@77*-0.25"


@pytest.mark.parametrize(
    "name", ["", "a b", "../../etc", "/etc/passwd", "x/y/z", "a/b*9", "a/b*..", "a+b+c+d+e", 7, None, "a/b@../c"]
)
def test_what_is_no_name_is_one_sentence(name):
    with pytest.raises(gr.Error) as error:
        parse_model(name)
    assert error.value.message.endswith(".") and "\n" not in error.value.message


@pytest.mark.parametrize("name", ["training/data", "sharingan_hub/embedded", "someone/eyes"])
def test_a_strangers_name_is_never_a_folder_of_this_disk(models, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(gr.Error, match="is not loaded here. Load it in the Community tab first."):
        models.pipeline(name)


def test_pictures_carry_their_recipe_and_are_drawn_once(models, monkeypatch):
    recipes = [Recipe(seed=seed, order=3, output_size=256) for seed in (1, 2, 1)]
    (first, title), (second, _), (again, _) = models.pictures(recipes)
    assert title == "seed 1" and first == again != second
    assert read_recipe(first) == {**recipes[0].to_dict(), "model": "embedded"}
    monkeypatch.setattr(models, "_draw", lambda recipes: pytest.fail("drawn again"))
    assert models.pictures(recipes[:1])[0][0] == first
    os.unlink(first)  # cleared away meanwhile
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        models.pictures(recipes[:1])


def test_large_pictures_are_drawn_a_few_at_a_time(models, monkeypatch):
    batches = []
    monkeypatch.setattr(
        models, "_draw", lambda recipes: batches.append(len(recipes)) or [Image.new("RGB", (4, 4))] * len(recipes)
    )
    models.pictures([Recipe(seed=seed, output_size=2048) for seed in range(3)])
    models.pictures([Recipe(seed=seed, output_size=256) for seed in range(16)])
    assert batches == [1, 1, 1, 16]


def test_a_palette_changes_colours_and_nothing_else(models):
    recipe = Recipe(seed=51, output_size=256)
    (own, _), (gold, _) = models.pictures([recipe, replace(recipe, palette="gold")])
    red, yellow = (Image.open(path).resize((64, 64)).getpixel((32, 56)) for path in (own, gold))
    assert red[0] > 120 and max(red[1:]) < 60
    assert yellow[0] > 120 and yellow[1] > 90 and yellow[2] < 60
    assert Image.open(gold).getpixel((2, 2)) > (235, 235, 235)  # the ground stays
    svg = models.svg(replace(recipe, palette="gold"))
    assert svg.read_text().startswith("<svg") and read_recipe(svg) == {
        **replace(recipe, palette="gold").to_dict(),
        "model": "embedded",
    }


def test_a_community_model_is_pinned_checked_and_apart(models, loopback, checkpoints, adapter):
    for name, folder in (
        ("maker/old", checkpoints / "old"),
        ("maker/new", checkpoints / "new"),
        ("maker/change", adapter),
    ):
        loopback.add(name, files_of(folder))
    sha = loopback.repos["maker/old"].head.sha
    assert models.load("maker/old") == f"maker/old@{sha}"
    loopback.add("maker/old", files_of(checkpoints / "new"))  # what was loaded stays what it was
    old = models.pipeline(f"maker/old@{sha}")
    assert old is models.pipeline(f"maker/old@{sha}") is not models.pipeline("")
    name = models.load(f"maker/old@{sha}+maker/change*0.5")
    assert name.endswith("*0.5") and f"maker/change@{loopback.repos['maker/change'].head.sha}" in name
    half, new = models.pipeline(name), tiny_pipeline(1)
    wanted = (tiny_pipeline(0).generator_model.state_dict(), new.generator_model.state_dict())
    for key, value in half.generator_model.state_dict().items():
        middle = (wanted[0][key].float() + wanted[1][key].float()) / 2
        assert (value - middle).norm() <= 2e-3 * middle.norm()
    assert all((value == wanted[0][key]).all() for key, value in old.generator_model.state_dict().items())
    loopback.fail("drop", lambda request: True)
    assert models.pipeline(f"maker/old@{sha}") is old
    with pytest.raises(hub.HubError):
        models.load("maker/unknown")


def test_only_so_many_models_stay_in_memory(loopback, checkpoints, monkeypatch):
    models = Models()
    models._loaded[""] = tiny_pipeline()
    for i in range(MOST_LOADED + 2):
        loopback.add(f"maker/m{i}", files_of(checkpoints / "old"))
        models.load(f"maker/m{i}")
    assert len(models._loaded) == MOST_LOADED + 1 and "" in models._loaded


def test_a_broken_repository_is_refused_in_one_sentence(models, loopback, checkpoints):
    files = files_of(checkpoints / "old")
    loopback.add("maker/broken", {**files, "generator_model/diffusion_pytorch_model.safetensors": b"\x80\x04pickle"})
    with pytest.raises(hub.HubError) as error:
        models.load("maker/broken")
    assert "\n" not in str(error.value)


SETTINGS = {
    "space": "w",
    "easing": "smooth",
    "loop": "loop",
    "seconds": 1,
    "fps": 12,
    "turns": 0,
    "size": 256,
    "format": "mp4",
}


@pytest.mark.parametrize(
    ("keyframes", "settings", "sentence"),
    [
        ([], {}, "Keyframes must be a list of 2 to 24 recipes"),
        ([7], {}, "A film needs at least two keyframes"),
        ([7, 8], {"seconds": 61}, "Seconds must be a number from 0.2 to 60, got 61."),
        ([7, 8], {"seconds": 60, "fps": 60}, "A film has at most 1200 frames as MP4; this one would have 3600."),
        ([7, 8], {"size": 2048}, "A film's size must be at most 1024 pixels, got 2048."),
        ([7, 8], {"format": "exe"}, "Format must be one of mp4, webp, got 'exe'."),
        ([7, {"seed": 8, "model": "a/b@1"}], {}, "All keyframes of a film must come from one model."),
        ([7, "x"], {}, "A recipe must be an object with a seed"),
    ],
)
def test_films_that_cannot_be_made_are_told(keyframes, settings, sentence):
    with pytest.raises(gr.Error) as error:
        Film.read(keyframes, **SETTINGS | settings)
    assert error.value.message.startswith(sentence)


def test_in_z_only_seeds_can_be_joined(models):
    film = Film.read([7, {"seed": 8, "variation": 3}], **SETTINGS | {"space": "z"})
    with pytest.raises(gr.Error, match="In Z only plain seeds"):
        next(render(film, models))


def test_a_film_that_is_stopped_leaves_no_file_and_no_more_frames(models, monkeypatch, files):
    drawn = []
    original = models.frames
    monkeypatch.setattr(models, "frames", lambda film: (drawn.append(1) or frame for frame in original(film)))
    film = Film.read([7, 8], **SETTINGS | {"seconds": 20})
    frames = render(film, models)
    for _ in range(3):
        next(frames)
    frames.close()
    assert len(drawn) < 40
    assert not film.path(models).exists()
    assert [path.name for path in films(files)] == []


def films(files: Path) -> list[Path]:
    return [path for path in files.rglob("*") if path.is_file() and path.suffix in (".mp4", ".webp", ".tmp")]


def test_a_film_that_cannot_be_written_says_so(models, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharingan_hub.media.write_video", full)
    with pytest.raises(OSError, match="No space left"):
        list(render(Film.read([7, 8], **SETTINGS), models))


def test_a_spinning_design_ends_as_it_began(models):
    film = spinning(Recipe(seed=7, order=4))
    frames = [frame for _, frame in render(film, models)]
    assert len(frames) == film.frames == 48
    with Image.open(film.path(models)) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == ("WEBP", 48, 0)


def test_what_goes_to_a_borrowed_gpu_and_comes_back_pickles_and_asks_for_a_short_time(monkeypatch):
    """As ZeroGPU does it: arguments and results travel between processes, and the duration comes from the arguments."""
    durations = []

    def borrow(duration):
        def decorate(function):
            def call(*arguments):
                durations.append(duration(*arguments))
                result = function(*pickle.loads(pickle.dumps(arguments)))
                if inspect.isgenerator(result):
                    return (pickle.loads(pickle.dumps(one)) for one in result)
                return pickle.loads(pickle.dumps(result))

            return call

        return decorate

    monkeypatch.setattr("sharingan_hub.space.models.spaces.GPU", borrow)
    models = Models()
    recipes = [Recipe(seed=1, styles=(("fine", 2),), moves=(1.0,), palette="gold", output_size=256)]
    assert len(models.pictures(recipes)) == 1
    film = Film.read([recipe.to_dict() for recipe in (*recipes, Recipe(seed=3))], **SETTINGS)
    assert len(list(render(film, models))) == film.frames
    assert len(durations) == 2 and all(type(seconds) is int and 5 < seconds <= 120 for seconds in durations)


def test_a_model_without_wedges_cannot_spin(loopback, checkpoints, models):
    loopback.add("maker/pixels", files_of(checkpoints / "old"))
    name = models.load("maker/pixels")
    with pytest.raises(gr.Error, match="cannot be turned"):
        next(render(spinning(Recipe(model=name)), models))


@pytest.mark.parametrize("kind", [CoGANGenerator, DCGANGenerator, R3GANGenerator])
def test_a_model_with_one_style_and_no_order_draws_and_has_no_layers(models, kind, tmp_path):
    SharinganPipeline(kind(z_dim=8, resolution=16, channels=4)).save_pretrained(tmp_path / "model")
    name = models.add(tmp_path / "model")
    recipes = [Recipe(seed=1, output_size=256, model=name), Recipe(seed=1, variation=3, moves=(1.0,), model=name)]
    assert [Image.open(path).size for path, _ in models.pictures(recipes)] == [(256, 256), (512, 512)]
    assert models.svg(recipes[0]).read_text().startswith("<svg")
    film = Film.read([recipe.to_dict() for recipe in recipes], **SETTINGS)
    assert len(list(render(film, models))) == film.frames
    with pytest.raises(gr.Error, match="no layers called fine; one style decides its whole picture"):
        models.pictures([replace(recipes[0], styles=(("fine", 2),))])
    with pytest.raises(TypeError, match=f"{kind.__name__}; it must be a RadialGenerator or a StyleGAN2Generator"):
        next(models.inversions(Image.new("RGB", (16, 16)), None, None, 1, name))


def test_missing_start_model_is_one_sentence_and_can_be_tried_again(tmp_path):
    models = Models(str(tmp_path / "nothing-here"))
    assert models.title == "nothing-here"  # what visitors see tells nothing of this disk
    models.warm_up()  # does not raise
    for _ in range(2):
        with pytest.raises(hub.HubError):
            models.pictures([Recipe()])


def test_samples_are_shown_by_seed(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("seed0000010.png", "seed0000009.png", "grid.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / name)
    samples = Models(str(tmp_path)).samples()
    assert [caption for _, caption in samples] == ["seed 9", "seed 10"]


ENDPOINTS = [
    "about", "discover", "draw", "explore", "generate", "interpolate", "invert", "load", "mix", "nearest", "place_in_eye",
    "publish", "recolor", "repair", "restore", "spin", "stop_training", "svg", "train", "truncation", "vary",
]  # fmt: skip


@pytest.mark.parametrize("name", [None, "someone/their-sharingan"])
def test_page_is_built_without_loading_the_model(monkeypatch, name):
    monkeypatch.setattr(Models, "warm_up", lambda self: None)
    monkeypatch.setattr(SharinganPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    demo = build_demo(name)
    public = [function for function in demo.fns.values() if function.api_visibility == "public"]
    assert sorted(function.api_name for function in public) == ENDPOINTS
    assert all(len(function.api_description) > 20 for function in public)
    assert all(function.concurrency_limit for function in public)


def test_environment_names_the_model(monkeypatch):
    seen = []
    monkeypatch.setattr(Models, "__init__", lambda self, start=None: seen.append(start))
    monkeypatch.setattr(Models, "warm_up", lambda self: None)
    for environment, given in (
        ("someone/their-sharingan", None),
        ("someone/their-sharingan", "another/one"),
        ("", None),
    ):
        monkeypatch.setenv("SHARINGAN_MODEL", environment)
        with pytest.raises(AttributeError):  # the page finds no title
            build_demo(given)
    assert seen == ["someone/their-sharingan", "another/one", None]


THREADS_ALLOCATE = """
import ctypes, sys, threading
from sharingan_hub.space import _share_heaps
_share_heaps()
libc, gate = ctypes.CDLL("libc.so.6"), threading.Barrier(12)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes, libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_char_p] * 2, [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
def allocate():
    gate.wait()
    libc.malloc(100_000)
    gate.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="heaps are glibc's")
def test_threads_share_two_heaps(tmp_path):
    subprocess.run([sys.executable, "-c", THREADS_ALLOCATE, tmp_path / "heaps.xml"], check=True)
    assert (tmp_path / "heaps.xml").read_text().count("<heap nr=") == 2
