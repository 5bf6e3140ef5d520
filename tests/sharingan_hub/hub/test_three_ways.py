"""A published model opens in three ways, each tried in a process of its own: our class, plain diffusers, and with no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from sharingan_hub import CoGANGenerator, DCGANGenerator, R3GANGenerator, SharinganPipeline, hub
from tests.sharingan_hub.conftest import tiny_pipeline

REPO = "maker/eyes"
DRAW = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
arguments = json.loads(sys.argv[1])
out = arguments.pop("out")
if arguments.pop("plain", False):
    sys.modules["sharingan_hub"] = None  # what an import of it finds where it is not installed
    from diffusers import DiffusionPipeline as Pipeline
    arguments["trust_remote_code"] = True
else:
    from sharingan_hub import SharinganPipeline as Pipeline
if "dtype" in arguments:
    arguments["dtype"] = getattr(torch, arguments["dtype"])
pipe = Pipeline.from_pretrained(arguments.pop("model"), **arguments)
drawn = pipe(seeds=[1, 2], output_type="pt")
np.savez(out, images=drawn.images.float().numpy(), dtype=str(pipe.generator_model.dtype))
own = [name for name in sys.modules if name.startswith("diffusers_modules")]
print(json.dumps({"class": type(pipe).__module__, "foreign": own}))
"""


def environment(loopback, tmp_path: Path, **more: str) -> dict[str, str]:
    names = {"HF_ENDPOINT": loopback.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | names | {"OMP_NUM_THREADS": "1"} | more


def draw(environ: dict[str, str], tmp_path: Path, **arguments) -> tuple[np.ndarray, str, dict]:
    """Pictures, type of the weights, and where the classes came from."""
    arguments["out"] = str(tmp_path / "out.npz")
    command = [sys.executable, "-c", DRAW, json.dumps(arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        return found["images"], str(found["dtype"]), json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def published(loopback, checkpoint) -> list[str]:
    """Commits of two models one after the other, the first of them tagged v1, in a private repository."""
    first = hub.publish(checkpoint, REPO, private=True, token="hf_maker").sha
    HfApi(token="hf_maker").create_tag(REPO, tag="v1", revision=first)
    tiny_pipeline(1).save_pretrained(checkpoint)
    return [first, hub.publish(checkpoint, REPO, token="hf_maker").sha]


def wanted(seed: int) -> np.ndarray:
    return tiny_pipeline(seed)(seeds=[1, 2], output_type="pt").images.numpy()


def test_our_class_opens_any_revision_and_runs_no_code_from_there(loopback, published, tmp_path):
    environ = environment(loopback, tmp_path, HF_TOKEN="hf_maker")
    for revision, seed in ((None, 1), ("v1", 0), (published[0], 0), ("main", 1)):
        images, dtype, classes = draw(environ, tmp_path, model=REPO, revision=revision)
        assert np.array_equal(images, wanted(seed)) and dtype == "torch.float32"
        assert classes == {"class": "sharingan_hub.pipeline_sharingan", "foreign": []}
    assert not [request for request in loopback.requests if request.method == "GET" and request.path.endswith(".py")]
    images, dtype, _ = draw(environ, tmp_path, model=REPO, dtype="bfloat16")
    assert dtype == "torch.bfloat16" and np.abs(images - wanted(1)).max() < 0.1


def test_plain_diffusers_opens_it_where_our_package_is_not_installed(loopback, published, tmp_path):
    environ = environment(loopback, tmp_path, HF_TOKEN="hf_maker")
    images, _, classes = draw(environ, tmp_path, model=REPO, plain=True)
    np.testing.assert_allclose(images, wanted(1), atol=1e-6)
    assert classes["class"].startswith("diffusers_modules")
    images, _, _ = draw(environ, tmp_path, model=REPO, plain=True, revision="v1")
    np.testing.assert_allclose(images, wanted(0), atol=1e-6)


def test_without_a_network_the_cache_and_a_folder_are_enough(loopback, published, checkpoint, tmp_path):
    environ = environment(loopback, tmp_path, HF_TOKEN="hf_maker")
    draw(environ, tmp_path, model=REPO)
    loopback.stop()
    for model in (REPO, str(checkpoint)):
        images, _, _ = draw(environ, tmp_path, model=model)
        assert np.array_equal(images, wanted(1))


def test_a_private_model_is_not_there_for_those_without_a_token(loopback, published, tmp_path):
    arguments = json.dumps({"model": REPO, "out": "none"})
    done = subprocess.run(
        [sys.executable, "-c", DRAW, arguments], env=environment(loopback, tmp_path), capture_output=True, text=True
    )
    assert done.returncode and f"There is no model {REPO} on the Hub, or it is private: log in" in done.stderr


FAMILIES = """
import sys
sys.modules["sharingan_hub"] = None  # what an import of it finds where it is not installed
import numpy as np, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    drawn = pipe(seeds=[1, 2], output_type="pt")
    images = drawn.images if drawn.get("pairs") is None else drawn.pairs
    np.save(f"{folder}/drawn.npy", images.numpy())
"""


def test_plain_diffusers_opens_every_family(tmp_path):
    settings = {"z_dim": 8, "resolution": 28, "channels": 4}
    kinds = (CoGANGenerator, DCGANGenerator, R3GANGenerator)
    pipes = {str(tmp_path / kind.__name__): SharinganPipeline(kind(**settings)) for kind in kinds}
    for folder, pipe in pipes.items():
        pipe.save_pretrained(folder)
    environ = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FAMILIES, *pipes]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, pipe in pipes.items():
        ours = pipe(seeds=[1, 2], output_type="pt")
        expected = ours.images if ours.pairs is None else ours.pairs
        np.testing.assert_allclose(np.load(f"{folder}/drawn.npy"), expected.numpy(), atol=1e-6)
