"""The three commands on real files in a temporary folder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sharingan_hub.cli import main
from sharingan_hub.commands.repair import open_picture, plan_files
from sharingan_hub.media import read_recipe, write_png
from sharingan_hub.postprocess import postprocess
from training.emblems import render, sample_emblems


@pytest.fixture(scope="module")
def emblem() -> Image.Image:
    image = render(sample_emblems("sharingan", [103]), 48)[0]
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


@pytest.fixture
def folder(tmp_path, emblem):
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    emblem.save(pictures / "a.png")
    emblem.resize((40, 40)).save(pictures / "more" / "b.jpg")
    return pictures


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def test_recolor_writes_what_the_function_gives(folder, tmp_path, emblem, capsys):
    assert main(["recolor", str(folder), "--palette", "violet", "--output-dir", str(tmp_path / "out")]) == 0
    expected = postprocess(tensor(emblem), {"recolor": "violet"})
    written = Image.open(tmp_path / "out" / "a.png")
    assert (tensor(written) - expected).abs().max() < 0.51 / 255
    assert (tensor(written) - tensor(emblem)).abs().max() > 0.3
    assert Image.open(tmp_path / "out" / "more" / "b.png").size == (40, 40)
    assert read_recipe(tmp_path / "out" / "a.png") == {
        "source": "a.png",
        "steps": [{"recolor": {"palette": "violet", "hue_only": False}}],
    }
    assert "2 pictures written to" in capsys.readouterr().out
    assert list(folder.rglob("*.tmp")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["circularize", "--harmonics", "4", "--center", "image"],
        ["circularize", "--center", "24,24", "--per-ring", "--method", "ratio"],
        ["symmetrize", "--order", "4", "--method", "wedge"],
        ["symmetrize"],
        ["recolor", "--iris", "#12a4d9", "--pattern", "black", "--sclera", "ivory", "--hue-only"],
    ],
)
def test_every_option_reaches_its_step(folder, tmp_path, arguments):
    assert main([*arguments, str(folder / "a.png"), "--output-dir", str(tmp_path / "out"), "--device", "cpu"]) == 0
    ((name, options),) = read_recipe(tmp_path / "out" / "a.png")["steps"][0].items()
    assert name == arguments[0]
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    expected = postprocess(tensor(Image.open(folder / "a.png")), {name: options})
    assert (tensor(Image.open(tmp_path / "out" / "a.png")) - expected).abs().max() < 0.51 / 255


def test_reference_may_be_a_file(folder, tmp_path, emblem):
    other = tmp_path / "other.png"
    Image.fromarray(np.array(emblem)[:, :, ::-1].copy()).save(other)  # blue instead of red
    arguments = ["recolor", str(folder / "a.png"), "--reference", str(other), "--output-dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    done = tensor(Image.open(tmp_path / "out" / "a.png"))
    assert (done - tensor(Image.open(other))).abs().mean() < 0.03
    assert read_recipe(tmp_path / "out" / "a.png")["steps"][0]["recolor"]["reference"] == "other.png"


def test_originals_and_earlier_results_stay_unless_overwrite(folder, capsys):
    before = (folder / "a.png").read_bytes()
    arguments = ["recolor", str(folder / "a.png"), "--palette", "gold", "--output-dir", str(folder)]
    assert main(arguments) == 2
    assert "a.png exists: choose another --output-dir, or add --overwrite" in capsys.readouterr().err
    assert (folder / "a.png").read_bytes() == before
    assert main([*arguments, "--overwrite"]) == 0
    assert (folder / "a.png").read_bytes() != before


def test_unreadable_files_are_named_and_the_rest_goes_on(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "text.jpg").write_text("no picture")
    (folder / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would start Ghostscript
    assert main(["symmetrize", str(folder), "--order", "3", "--output-dir", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    named = [line for line in captured.err.splitlines() if "could not be read: " in line]
    assert [Path(line.split(": ")[0]).name for line in named] == ["broken.png", "page.png", "text.jpg"]
    assert captured.err.splitlines()[-1] == "sharingan: 3 of 5 pictures could not be read"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png"]


def test_alpha_grey_icc_and_earlier_recipe_are_kept(tmp_path, emblem):
    clear = emblem.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 48).astype(np.uint8), (48, 1))))
    clear.info["icc_profile"] = b"profile"
    write_png(clear, tmp_path / "clear.png", {"seed": 7, "model": "embedded"})
    emblem.convert("L").save(tmp_path / "grey.png")
    emblem.quantize(8).save(tmp_path / "indexed.png", transparency=0)
    files = [str(tmp_path / name) for name in ("clear.png", "grey.png", "indexed.png")]
    assert main(["symmetrize", *files, "--order", "1", "--output-dir", str(tmp_path / "one")]) == 0
    done = Image.open(tmp_path / "one" / "clear.png")
    assert done.mode == "RGBA" and done.info["icc_profile"] == b"profile"
    opaque = np.array(clear)[..., 3] > 128
    assert np.abs(np.array(done)[opaque].astype(int) - np.array(clear)[opaque].astype(int)).max() <= 1
    assert np.array_equal(np.array(done)[..., 3], np.array(clear)[..., 3])
    assert read_recipe(tmp_path / "one" / "clear.png")["seed"] == 7
    assert Image.open(tmp_path / "one" / "grey.png").mode == "L"
    assert Image.open(tmp_path / "one" / "indexed.png").mode == "RGBA"
    assert main(["recolor", *files, "--palette", "cyan", "--output-dir", str(tmp_path / "two")]) == 0
    assert [Image.open(tmp_path / "two" / Path(f).name).mode for f in files] == ["RGBA", "RGB", "RGBA"]


def test_exif_turns_and_sixteen_bits_scale(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_picture(tmp_path / "turned.png")
    assert upright.size == (4, 6)
    assert np.array_equal(np.array(upright), np.rot90(np.array(image), -1))
    deep = (np.arange(24, dtype=np.uint16).reshape(4, 6) * 2500).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.abs(np.array(open_picture(tmp_path / "deep.png")) - deep / 257).max() <= 0.6


def test_patterns_names_and_repetitions(folder, tmp_path, emblem):
    emblem.save(folder / "a.bmp")
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    out = tmp_path / "out"

    def names(*inputs, output_dir=out):
        return sorted(str(target.relative_to(output_dir)) for _, target in plan_files(list(inputs), output_dir, False))

    assert names(str(folder / "*.png")) == ["a.png"]
    assert names(str(folder / "**" / "*.jpg")) == ["b.png"]
    assert names(str(folder), str(folder / "a.png")) == ["a.bmp.png", "a.png", "more/b.png"]
    inner = folder / "inner"
    inner.mkdir()
    emblem.save(inner / "old.png")
    assert "inner/old.png" not in names(str(folder), output_dir=inner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recolor", "missing.png", "--palette", "gold"], "'missing.png' is no file or folder, and no pattern"),
        (["recolor", "{folder}"], "nothing to recolor with: give palette, reference, iris, pattern or sclera"),
        (["recolor", "{folder}", "--palette", "nosuch"], "palette is 'nosuch'; it must be one of crimson"),
        (
            ["recolor", "{folder}", "--reference", "nosuch.png"],
            "--reference nosuch.png could not be read: No such file",
        ),
        (["symmetrize", "{folder}", "--order", "0"], "must be a whole number from 1 to 360, or \"auto\", got '0'"),
        (["circularize", "{folder}", "--center", "3"], "must be auto, image or X,Y in pixels, got '3'"),
        (["circularize", "{folder}", "--harmonics", "200"], "harmonics"),
        (["circularize", "{folder}/empty"], "holds no pictures"),
        (["symmetrize", "{folder}", "--device", "nosuch"], "device 'nosuch' cannot be used"),
        (["symmetrize"], "the following arguments are required: IN"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(folder, tmp_path, arguments, message, capsys):
    (folder / "empty").mkdir()
    arguments = [argument.replace("{folder}", str(folder)) for argument in arguments]
    try:
        code = main([*arguments, "--output-dir", str(tmp_path / "out")])
    except SystemExit as error:
        code = error.code
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_help_has_an_example_and_imports_nothing_heavy():
    code = (
        "import sys; from sharingan_hub.cli import main\n"
        "try: main(['recolor', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sharingan recolor eye.png --palette violet" in done.stdout
