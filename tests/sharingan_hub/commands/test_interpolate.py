"""`sharingan interpolate` with the embedded model."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharingan_hub import SharinganPipeline, media
from sharingan_hub.cli import main
from sharingan_hub.commands.interpolate import parse_keyframes
from sharingan_hub.media import read_recipe
from tests.sharingan_hub.conftest import pipeline_with_classes


def run(output: Path, *options: object) -> int:
    small = ["--frames", 6, "--output-size", 32, "--device", "cpu", "--output", output]
    return main(["interpolate", *map(str, [*small, *options])])


def refused(capsys, *argv: object) -> str:
    """The one sentence with which a command ends that exits with 2."""
    try:
        code = main(["interpolate", *map(str, argv)])
    except SystemExit as stopped:
        code = stopped.code
    text = capsys.readouterr().err.strip()
    lines = [line for line in text.splitlines() if "Drawing" not in line]
    assert code == 2 and "Traceback" not in text and len(lines) == 1, text
    return lines[0]


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), int) for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


@pytest.mark.parametrize("space", ["w", "z"])
def test_a_folder_of_frames_shows_every_seed(tmp_path, capsys, pipe, space):
    assert run(tmp_path / "a/walk", "--seeds", "1,7,12", "--orders", "2,3,6", "--space", space) == 0
    assert "6 frames written" in capsys.readouterr().out
    assert os.listdir(tmp_path / "a") == ["walk"]
    assert sorted(os.listdir(tmp_path / "a/walk")) == [f"frame{i:07d}.png" for i in range(6)]
    made = pictures(tmp_path / "a/walk")
    seeds = pipe(seeds=[1, 7, 12], order=[2, 3, 6], output_size=32).images
    for frame, image in zip((0, 2, 4), seeds):  # it goes on from the last seed to the first
        assert np.abs(made[frame] - np.asarray(image, int)).max() <= 1
    recipe = read_recipe(tmp_path / "a/walk/frame0000004.png")
    assert recipe is not None
    told = {"model": "embedded", "seeds": [1, 7, 12], "order": [2, 3, 6], "space": space, "frame": 4, "loop": "loop"}
    assert told.items() <= recipe.items() and recipe["frames"] == 6 and recipe["fps"] == 30


def test_one_seed_goes_through_orders_and_palettes(tmp_path, pipe):
    gold = "white,black,black,gold,black,black,black"
    options = ("--seeds", 7, "--loop", "once", "--frames", 5)
    assert run(tmp_path / "orders", *options, "--orders", "2,3,4", "--palette", gold) == 0
    expected = pipe(seeds=[7] * 3, order=[2, 3, 4], palette=gold.split(","), output_size=32).images
    assert np.abs(pictures(tmp_path / "orders")[::2] - np.stack([np.asarray(i, int) for i in expected])).max() <= 1
    blue = gold.replace("gold", "navy")
    assert run(tmp_path / "colours", *options, "--order", 3, "--palette", gold, "--palette", blue) == 0
    made = pictures(tmp_path / "colours")
    expected = pipe(seeds=[7], order=3, palette=blue.split(","), output_size=32).images
    assert np.abs(made[-1] - np.asarray(expected[0], int)).max() <= 1
    assert made[0, ..., 0].mean() > made[2, ..., 0].mean() > made[4, ..., 0].mean()  # less and less red


@pytest.mark.parametrize("space", ["w", "z"])
def test_a_class_is_that_of_all_frames(tmp_path, space):
    pipe = pipeline_with_classes()
    pipe.save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--seeds", "1,7", "--frames", 2, "--space", space, "--class", 2]
    assert main(["interpolate", *map(str, options), "--device", "cpu", "--output", str(tmp_path / "walk")]) == 0
    made = pictures(tmp_path / "walk")
    for frame, image in zip(made, pipe(seeds=[1, 7], class_label=2).images, strict=True):
        assert np.abs(frame - np.asarray(image, int)).max() <= 1
    assert np.abs(made - np.stack([np.asarray(image, int) for image in pipe(seeds=[1, 7]).images])).max() > 1
    recipe = read_recipe(tmp_path / "walk/frame0000000.png")
    assert recipe is not None and recipe["class_label"] == 2


def test_spin_and_easing_reach_the_frames(tmp_path, pipe):
    assert run(tmp_path / "spin", "--seeds", 7, "--order", 3, "--spin", "1/3") == 0
    made = pictures(tmp_path / "spin")
    phases = [2 * np.pi / 3 * i / 6 for i in range(6)]
    expected = pipe(seeds=[7] * 6, order=3, phase=phases, output_size=32).images
    assert np.abs(made - np.stack([np.asarray(i, int) for i in expected])).max() <= 1
    for easing in ("linear", "in"):
        assert run(tmp_path / easing, "--seeds", "7,8", "--order", 3, "--loop", "once", "--easing", easing) == 0
    steps = [np.abs(np.diff(pictures(tmp_path / name)[:2], axis=0)).mean() for name in ("linear", "in")]
    assert steps[1] < 0.5 * steps[0]  # a fifth of the way, and a twenty-fifth


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device", "frame")])
def test_what_is_stopped_leaves_nothing_behind(tmp_path, capsys, monkeypatch, error):
    write_png, written = media.write_png, []

    def stopped(image, path, recipe):
        if len(written) == 3:
            raise error
        written.append(path)
        write_png(image, path, recipe)

    monkeypatch.setattr(media, "write_png", stopped)
    assert run(tmp_path / "walk", "--seeds", "1,2") == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(written) == 3 and not any(tmp_path.iterdir())
    assert "Traceback" not in capsys.readouterr().err


def test_files_that_are_there_stay(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    for name in ("full/mine.txt", "walk.mp4", "plain"):
        (tmp_path / name).write_text("mine")
    seeds = ("--seeds", "1,2", "--output")
    assert "full is a folder with files in it" in refused(capsys, *seeds, tmp_path / "full", "--overwrite")
    assert "walk.mp4 exists: choose another --output, or add --overwrite" in refused(
        capsys, *seeds, tmp_path / "walk.mp4"
    )
    assert "plain exists and is no folder" in refused(capsys, *seeds, tmp_path / "plain", "--overwrite")
    assert {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {
        "mine.txt": "mine",
        "walk.mp4": "mine",
        "plain": "mine",
    }


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "v1.0").mkdir()
    assert run(tmp_path / "v1.0", "--seeds", "1,2") == 0
    assert len(os.listdir(tmp_path / "v1.0")) == 6


@pytest.mark.parametrize(("name", "format"), [("walk.webp", "WEBP"), ("walk.GIF", "GIF")])
@pytest.mark.parametrize("loop", ["loop", "once"])
def test_animations_hold_all_frames(tmp_path, name, format, loop):
    assert run(tmp_path / name, "--seeds", "1,7", "--fps", 10, "--loop", loop) == 0
    with Image.open(tmp_path / name) as image:
        assert image.format == format and image.n_frames == 6 and image.size == (32, 32)
        image.seek(1)
        image.load()
        assert image.info["duration"] == 100
        assert (image.info.get("loop", 1) == 0) == (loop == "loop")  # 0 is for ever
    assert os.listdir(tmp_path) == [name]


def test_a_video_holds_all_frames(tmp_path):
    import av

    (tmp_path / "walk.mp4").write_text("an old one")
    assert run(tmp_path / "walk.mp4", "--seeds", "1,7", "--fps", 12, "--output-size", 64, "--overwrite") == 0
    with av.open(str(tmp_path / "walk.mp4")) as video:
        frames = list(video.decode(video=0))
        assert len(frames) == 6 and (frames[0].width, frames[0].height) == (64, 64)
        assert video.streams.video[0].average_rate == 12
    recipe = read_recipe(tmp_path / "walk.mp4")
    assert recipe is not None and recipe["seeds"] == [1, 7] and recipe["space"] == "w"
    assert os.listdir(tmp_path) == ["walk.mp4"]


@pytest.mark.parametrize(
    ("text", "seeds"), [("7", [7]), ("12,1,7", [12, 1, 7]), ("3-5,3,3", [3, 4, 5, 3, 3]), (" 1 , 2-3", [1, 2, 3])]
)
def test_seeds_stay_in_their_order(text, seeds):
    assert parse_keyframes(text) == seeds


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "--seeds"),
        (["--seeds", "1,x"], "--seeds"),
        (["--seeds", "0-4294967295"], "at most 1000 seeds"),
        (["--seeds", "1,2", "--order", "3", "--orders", "3,4"], "not allowed with"),
        (["--seeds", "1,2", "--orders", "3,x"], "whole numbers from 1 on"),
        (["--seeds", "1,2", "--orders", "3,4,5"], "order holds 3 values for 2 pictures"),
        (["--seeds", "1,2", "--order", "9"], "order is 9; it must be from 1 to 8"),
        (["--seeds", "1,2", "--frames", "1"], "frames is 1; it must be at least 2"),
        (["--seeds", "1,2", "--fps", "0", "--output", "out.mp4"], "fps is 0.0; it must be from 0.1 to 240"),
        (["--seeds", "1,2", "--spin", "1/0"], "turns such as 1"),
        (["--seeds", "1,2", "--order", "4", "--spin", "1/3"], "must be a multiple of 1/4"),
        (["--seeds", "1,2", "--easing", "bounce"], "--easing"),
        (["--seeds", "1,2", "--palette", "red,blue"], "palette has shape"),
        (["--seeds", "1,2", "--palette", "red,nocolour"], "palette cannot be read"),
        (["--seeds", "1,2", "--output", "out.avi"], "--output ends in '.avi'; it must be .mp4, .webp, .gif"),
        (["--seeds", "1,2", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["--seeds", "1,2", "--model", "missing"], "missing"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, capsys, options, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, "--output", "out", *options)
    assert not any(tmp_path.iterdir())


def test_help_has_an_example_and_imports_nothing_heavy():
    code = (
        "import sys; from sharingan_hub.cli import main\n"
        "try: main(['interpolate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sharingan interpolate --seeds 1,7,12 --frames 120" in done.stdout
