"""The pipeline's checkpoint folder, read by us and by plain diffusers."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sharingan_hub
from sharingan_hub import RadialGenerator, SharinganPipeline, hub
from sharingan_hub.hub import fetching
from tests.sharingan_hub.conftest import PIPES, files_of, tiny


def test_checkpoint_layout(pipe, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "samples" / "1.png").write_text("picture")
    pipe.save_pretrained(tmp_path)
    model = pipe.generator_model
    module = {"RadialGenerator": "modeling_radial", "StyleGAN2Generator": "modeling_stylegan2"}[type(model).__name__]
    content = files_of(tmp_path)
    assert set(content) == {
        "README.md",
        "samples/1.png",
        "model_index.json",
        "pipeline.py",
        "generator_model/config.json",
        "generator_model/diffusion_pytorch_model.safetensors",
        f"generator_model/{module}.py",
    }
    index = json.loads(content["model_index.json"])
    assert index["_class_name"] == ["pipeline", "SharinganPipeline"]
    assert index["generator_model"] == [module, type(model).__name__]
    package = Path(sharingan_hub.__file__).parent
    assert content["pipeline.py"] == (package / "pipeline_sharingan.py").read_bytes()
    assert content[f"generator_model/{module}.py"] == (package / f"{module}.py").read_bytes()
    assert os.stat(tmp_path / "generator_model" / hub.WEIGHTS).st_mode == os.stat(tmp_path / "README.md").st_mode


def test_saved_and_opened_without_network(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)

    def refuse(*args):
        raise AssertionError("a local folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    again = SharinganPipeline.from_pretrained(tmp_path)
    assert type(again.generator_model) is type(pipe.generator_model) and not again.generator_model.training
    assert again.generator_model.dtype == torch.float32 and again.device.type == "cpu"
    a, b = pipe(seeds=[1, 2], output_type="pt"), again(seeds=[1, 2], output_type="pt")
    assert torch.equal(a.images, b.images) and torch.equal(a.latents, b.latents)
    again.save_pretrained(tmp_path / "again")
    assert files_of(tmp_path / "again").items() <= files_of(tmp_path).items()  # the same files, byte for byte
    monkeypatch.setattr(fetching, "DEFAULT", tmp_path)
    assert torch.equal(SharinganPipeline.from_pretrained()(seeds=[1, 2], output_type="pt").images, b.images)


def test_opening_draws_no_random_numbers(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    SharinganPipeline.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_dtype(pipe, tmp_path):
    pipe.save_pretrained(str(tmp_path))
    expected = pipe(seeds=[1, 2], output_type="pt").images
    for argument in ("dtype", "torch_dtype"):
        low = SharinganPipeline.from_pretrained(str(tmp_path), **{argument: torch.bfloat16})
        assert low.generator_model.dtype == torch.bfloat16
        out = low(seeds=[1, 2], output_type="pt")
        assert out.latents.dtype == torch.float32
        assert (out.images - expected).abs().mean() < 0.03
    low.save_pretrained(tmp_path)  # half the size, and opened as float32 again
    again = SharinganPipeline.from_pretrained(tmp_path)
    assert again.generator_model.dtype == torch.float32
    assert torch.equal(again.generator_model.w_avg, low.generator_model.w_avg.float())
    with pytest.raises(TypeError, match="dtype is 'float16'; it must be a floating-point torch.dtype"):
        SharinganPipeline.from_pretrained(tmp_path, dtype="float16")


def test_saving_another_family_leaves_no_code_of_the_first(tmp_path):
    PIPES["stylegan2"].save_pretrained(tmp_path)
    PIPES["radial"].save_pretrained(tmp_path)
    assert [p.name for p in (tmp_path / "generator_model").glob("*.py")] == ["modeling_radial.py"]
    assert isinstance(SharinganPipeline.from_pretrained(tmp_path).generator_model, RadialGenerator)


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)
    before = files_of(tmp_path)
    other = tiny("radial" if isinstance(pipe.generator_model, RadialGenerator) else "stylegan2")
    other.generator_model.w_avg.zero_()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            other.save_pretrained(tmp_path)
    assert files_of(tmp_path) == before
    other.save_pretrained(tmp_path)
    assert files_of(tmp_path) != before


def test_only_safetensors_and_no_variants(pipe, tmp_path):
    with pytest.raises(ValueError, match="safetensors only"):
        pipe.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="variant is 'fp16'"):
        pipe.save_pretrained(tmp_path, variant="fp16")
    assert not files_of(tmp_path)


def test_opening_runs_no_code_from_the_folder(pipe, tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "marker"
    pipe.save_pretrained(folder)
    code = [folder / "pipeline.py", *(folder / "generator_model").glob("modeling_*.py"), folder / "__init__.py"]
    for path in code:
        path.write_text(f"open({str(marker)!r}, 'w').write({path.name!r})\nraise SystemExit('hostile code ran')\n")
    images = SharinganPipeline.from_pretrained(folder)(seeds=[1], output_type="pt").images
    assert torch.equal(images, pipe(seeds=[1], output_type="pt").images)
    assert not marker.exists()
    with pytest.raises(SystemExit):  # the trap is one: code that is run does spring it
        exec(compile(code[0].read_text(), "pipeline.py", "exec"), {})
    assert marker.exists()


PLAIN_DIFFUSERS = """
import sys
sys.modules["sharingan_hub"] = None  # what an import of it finds where it is not installed
import numpy as np, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(pipe).__module__.startswith("diffusers_modules"), type(pipe)
    out = pipe(seeds=[1, 2], output_type="np")
    np.savez(folder + "/out.npz", images=out.images, latents=out.latents.numpy())
    pipe.save_pretrained(folder + "/again")
    for call in (lambda: pipe(circularize=True), lambda: type(pipe).from_pretrained(folder)):
        try:
            call()
        except ImportError as error:
            assert "install or upgrade the sharingan-hub package" in str(error)
        else:
            raise AssertionError("it cannot work without the package")
"""


def test_plain_diffusers_opens_it_without_our_package(tmp_path):
    folders = [tmp_path / family for family in PIPES]
    for folder, pipe in zip(folders, PIPES.values(), strict=True):
        pipe.save_pretrained(folder)
    run = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_DIFFUSERS, *map(str, folders)],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for folder, pipe in zip(folders, PIPES.values(), strict=True):
        expected, found = pipe(seeds=[1, 2], output_type="np"), np.load(folder / "out.npz")
        np.testing.assert_allclose(found["images"], expected.images, atol=1e-6)
        np.testing.assert_allclose(found["latents"], expected.latents.numpy(), atol=1e-6)
        # What it saves is a checkpoint as good as ours, and names no path of this machine.
        again = files_of(folder / "again")
        assert again == {name: content for name, content in files_of(folder).items() if name in again}
        assert len(again) == 5 and str(tmp_path).encode() not in again["generator_model/config.json"]


# Folders that are no checkpoint


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


INDEX, CONFIG, WEIGHTS = "model_index.json", "generator_model/config.json", f"generator_model/{hub.WEIGHTS}"
BROKEN = {
    "no index": (lambda f: (f / INDEX).unlink(), "model_index.json is missing"),
    "index is text": (lambda f: (f / INDEX).write_text("hello"), "model_index.json is not valid JSON"),
    "index is bytes": (lambda f: (f / INDEX).write_bytes(b"\xff\xfe\x00"), "model_index.json is not valid JSON"),
    "index is nested": (lambda f: (f / INDEX).write_text("[" * 100_000), "model_index.json is not valid JSON"),
    "index is a list": (lambda f: (f / INDEX).write_text("[1]"), "must hold a JSON object, not a list"),
    "index is huge": (
        lambda f: (f / INDEX).write_text('"' + "x" * 2**20 + '"'),
        "model_index.json is larger than 1 MB",
    ),
    "index of another pipeline": (lambda f: (f / INDEX).write_text("{}"), "names no generator_model"),
    "odd component": (lambda f: edit_json(f / INDEX, generator_model=["a", 1]), "names no generator_model"),
    "unknown class": (
        lambda f: edit_json(f / INDEX, generator_model=["os", "system"]),
        "generator is a 'system'; this version knows CoGANGenerator, .*, RadialGenerator, StyleGAN2Generator",
    ),
    "no config": (lambda f: (f / CONFIG).unlink(), "config.json is missing"),
    "unknown setting": (lambda f: edit_json(f / CONFIG, colour="red"), "does not describe a StyleGAN2Generator"),
    "text for a number": (lambda f: edit_json(f / CONFIG, z_dim="many"), "does not describe a StyleGAN2Generator"),
    "absurd size": (lambda f: edit_json(f / CONFIG, z_dim=10**12), "z_dim = 1000000000000, which no generator has"),
    "absurd depth": (lambda f: edit_json(f / CONFIG, mapping_layers=10**6), "mapping_layers = 1000000, which no"),
    "absurd list": (lambda f: edit_json(f / CONFIG, z_dim=[1] * 2000), "which no generator has"),
    "nan": (lambda f: edit_json(f / CONFIG, conv_clamp=float("nan")), "conv_clamp = nan, which no generator has"),
    "object": (lambda f: edit_json(f / CONFIG, z_dim={"a": 1}), "which no generator has"),
    "wrong resolution": (lambda f: edit_json(f / CONFIG, resolution=17), "resolution is 17; it must be a power of two"),
    "too wide for its weights": (lambda f: edit_json(f / CONFIG, w_dim=8000), "has shape .*, config.json says"),
    "too deep for its weights": (lambda f: edit_json(f / CONFIG, mapping_layers=3), "lacks tensor 'mapping.fc2.bias'"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "safetensors is missing: weights are read as safetensors only"),
    "pickle as weights": (lambda f: torch.save({"a": 1}, f / WEIGHTS), "is damaged or no safetensors file"),
    "cut weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        "is damaged or no safetensors",
    ),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "is damaged or no safetensors file"),
    "one tensor less": (lambda f: edit_weights(f / WEIGHTS, lambda t: t.pop("w_avg")), "lacks tensor 'w_avg'"),
    "one tensor more": (
        lambda f: edit_weights(f / WEIGHTS, lambda t: t.update(evil=torch.zeros(1))),
        "has an unknown tensor 'evil'",
    ),
    "wrong shape": (
        lambda f: edit_weights(f / WEIGHTS, lambda t: t.update(w_avg=torch.zeros(5))),
        r"w_avg has shape \(5,\), config.json says \(12,\)",
    ),
    "integers": (
        lambda f: edit_weights(f / WEIGHTS, lambda t: t.update(w_avg=torch.zeros(12, dtype=torch.int64))),
        "w_avg is of type torch.int64, not floating-point",
    ),
    "nan weights": (lambda f: edit_weights(f / WEIGHTS, lambda t: t["w_avg"].fill_(float("nan"))), "w_avg holds NaN"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_what_is_no_checkpoint_is_refused_in_one_sentence(stylegan2, tmp_path, case):
    stylegan2.save_pretrained(tmp_path)
    change, message = BROKEN[case]
    change(tmp_path)
    with pytest.raises(hub.CheckpointError, match=message) as caught:
        SharinganPipeline.from_pretrained(tmp_path)
    assert isinstance(caught.value, hub.HubError) and isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_resolution_of_a_size_free_generator_is_bounded(radial, tmp_path):
    radial.save_pretrained(tmp_path)
    edit_json(tmp_path / CONFIG, resolution=500_000)
    with pytest.raises(
        hub.CheckpointError,
        match="resolution = 500000, which no generator has; it must be a whole number from 4 to 8192",
    ):
        SharinganPipeline.from_pretrained(tmp_path)


def test_unknown_arguments_of_from_pretrained_are_refused(tmp_path):
    with pytest.raises(TypeError, match="trust_remote_code"):
        SharinganPipeline.from_pretrained(tmp_path, trust_remote_code=True)
