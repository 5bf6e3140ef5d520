"""`sharingan info FILE`: what a foreign checkpoint holds."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from sharingan_hub.cli import main
from tests.sharingan_hub.convert import writers
from tests.sharingan_hub.convert.assembler import CANARY, TOUCH, call, many, name, text, whole


def told(capsys, path) -> dict[str, str]:
    """What the command prints, name by name; further lines of a value follow after commas."""
    assert main(["info", str(path)]) == 0
    facts: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        heading, value = line[:12].strip(), line[12:]
        if heading:
            last = heading.removesuffix(":")
            facts[last] = value
        else:
            facts[last] += f", {value}"
    return facts


def test_info_of_a_snapshot_of_nvidias_pytorch_programs(tmp_path, capsys):
    layer = writers.nvidia_module("FullyConnectedLayer", {"weight": torch.ones(3, 4), "bias": torch.ones(3)})
    generator = writers.nvidia_module(
        "Generator",
        modules={"fc0": layer},
        buffers={"w_avg": torch.ones(3)},
        init_kwargs={"z_dim": 4, "img_resolution": 64, "mapping_kwargs": {"num_layers": 2}},
    )
    path = writers.pickle_nvidia(tmp_path / "wind.pkl", G_ema=generator, augment_pipe=None)
    assert told(capsys, path) == {
        "file": "wind.pkl",
        "holds": "training_set_kwargs: nothing, G_ema: Generator, 3 tensors of 18 numbers, augment_pipe: nothing",
        "classes": "Generator (1), FullyConnectedLayer (1)",
        "shapes": "3 (2), 3 x 4 (1)",
        "resolution": "64 px",
        "options": "z_dim=4, img_resolution=64",
    }


def test_info_of_a_snapshot_of_the_tensorflow_programs(tmp_path, capsys):
    synthesis = writers.tensorflow_network("G_synthesis", {"noise0": np.ones((1, 1, 4, 4)), "lod": np.float32(0)})
    networks = [
        writers.tensorflow_network(title, {}, {"resolution": 32, "label_size": 0}, {"synthesis": synthesis})
        for title in ("G", "D", "Gs")
    ]
    facts = told(capsys, writers.pickle_tensorflow(tmp_path / "x", *networks))
    assert facts["holds"].startswith("G: Network, 1 tensor of 16 numbers, D: Network")
    assert facts["classes"] == "Network (4)"
    assert facts["resolution"] == "32 px" and facts["options"] == "resolution=32, label_size=0"


@pytest.mark.parametrize("legacy", [False, True])
def test_info_of_rosinalitys_files(tmp_path, capsys, legacy):
    tensors = {"noises.noise_0": torch.ones(1, 1, 4, 4), "noises.noise_1": torch.ones(1, 1, 8, 8)}
    content = {"g_ema": writers.state_dict(tensors), "args": argparse.Namespace(lr=0.5)}
    facts = told(capsys, writers.save_torch(tmp_path / "x", content, legacy))
    assert facts["holds"] == "g_ema: dict, 2 tensors of 80 numbers, args: Namespace"
    assert facts["resolution"] == "8 px" and facts["options"] == "lr=0.5"
    content["args"].size = 256
    assert told(capsys, writers.save_torch(tmp_path / "x", content, legacy))["resolution"] == "256 px"


def test_info_lists_only_so_much_and_nothing_that_steers_a_terminal(tmp_path, capsys):
    content = {f"\x1b[2J{index}\nlicence:": torch.ones(1) for index in range(100)}
    assert main(["info", str(writers.save_torch(tmp_path / "x", content))]) == 0
    out = capsys.readouterr().out
    assert "and 88 more" in out and len(out.splitlines()) < 20
    assert "\x1b" not in out and "\nlicence" not in out


def test_info_cuts_long_options(tmp_path, capsys):
    options = argparse.Namespace(**{f"option{index}": "y" * 10**6 for index in range(20)})
    options = told(capsys, writers.save_torch(tmp_path / "x", {"args": options}))["options"]
    assert options.startswith("option0=yyy") and ", option3=yyy" in options and len(options) <= 600


def test_info_names_what_a_hostile_file_asks_for_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [call("builtins", "exec", text(TOUCH)), name("os", "system"), name("collections", "OrderedDict")]
    (tmp_path / "x.pkl").write_bytes(whole(many(*asked)))
    assert main(["info", "x.pkl"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sharingan: x.pkl asks for builtins.exec, os.system: no StyleGAN2 checkpoint needs that")
    assert error.count("\n") == 1 and not (tmp_path / CANARY).exists()
