"""`sharingan convert`, and what works with a folder that it made."""

import json

import numpy as np
from PIL import Image

from sharingan_hub.cli import main
from training.adapt import main as adapt

from ..convert import layouts
from ..convert.layouts import Sizes


def run(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments: object) -> str:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code
    text = capsys.readouterr().err.strip()
    assert code == 2 and "\n" not in text and "Traceback" not in text, text
    return text


def test_there_generated_with_and_back(tmp_path, capsys):
    source, out = layouts.write_tensorflow(tmp_path / "x", Sizes()), tmp_path / "out"
    assert "licence" in run(capsys, "convert", source, "--output-dir", out, "--with-discriminator")
    run(capsys, "generate", "--model", out, "--seeds", "0-1", "--output-dir", tmp_path / "pictures")
    assert Image.open(tmp_path / "pictures" / "seed0000001.png").size == (16, 16)
    run(capsys, "interpolate", "--model", out, "--seeds", "1,2", "--frames", 3, "--output", tmp_path / "walk.gif")
    run(capsys, "convert", out, "--to", "rosinality", "--output", tmp_path / "back.pt")
    assert "512" not in run(capsys, "info", out) and (tmp_path / "back.pt").is_file()


def test_a_class_is_chosen(tmp_path, capsys):
    source, out = layouts.write_nvidia(tmp_path / "x", Sizes(c_dim=3, embed=8)), tmp_path / "out"
    run(capsys, "convert", source, "--output-dir", out)
    pictures = []
    for label in (0, 2):
        run(capsys, "generate", "--model", out, "--seeds", "1", "--class", label, "--output-dir", tmp_path / f"{label}")
        pictures.append(np.asarray(Image.open(tmp_path / f"{label}" / "seed0000001.png")))
    assert not np.array_equal(*pictures)
    words = refused(capsys, "generate", "--model", out, "--class", 3, "--output-dir", tmp_path / "n")
    assert "class_label is 3; it must be from 0 to 2" in words


def test_published_in_one_go(tmp_path, capsys, loopback, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_maker")
    source = layouts.write_rosinality(tmp_path / "x", Sizes())
    told = run(capsys, "convert", source, "--output-dir", tmp_path / "out", "--push-to-hub", "maker/old")
    files = loopback.repos["maker/old"].head.files
    assert loopback.repos["maker/old"].head.sha in told and "license: other" in files["README.md"].data.decode()


def test_adaptation_begins_from_it(tmp_path, capsys):
    out = tmp_path / "out"
    source = layouts.write_nvidia(tmp_path / "x", Sizes(clamp=256))
    run(capsys, "convert", source, "--output-dir", out, "--with-discriminator")
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    options = {"train_data": tmp_path / "pictures", "base_model": out, "output_dir": tmp_path / "run", "resolution": 16}
    options |= {"batch_size": 8, "max_steps": 2, "checkpointing_steps": 100, "sample_every": 100, "report_to": "none"}
    adapt([argument for name, value in options.items() for argument in (f"--{name}", str(value))])
    assert json.loads((tmp_path / "run" / "discriminator" / "config.json").read_text())["conv_clamp"] == 256
    assert "license: other" in (tmp_path / "run" / "README.md").read_text()  # and so is what was made of it


def test_wrong_arguments_and_files_are_one_sentence(tmp_path, capsys):
    source, out = layouts.write_nvidia(tmp_path / "x.pkl", Sizes()), tmp_path / "out"
    assert "--output-dir says where" in refused(capsys, "convert", source)
    assert "--to goes with --output" in refused(capsys, "convert", source, "--to", "nvidia", "--output-dir", out)
    assert "such file" in refused(capsys, "convert", tmp_path / "gone.pkl", "--output-dir", out)
    assert "not empty" in refused(capsys, "convert", source, "--output-dir", tmp_path)
    (tmp_path / "text.pkl").write_text("hello")
    assert "text.pkl" in refused(capsys, "convert", tmp_path / "text.pkl", "--output-dir", out)
    assert not out.exists()
