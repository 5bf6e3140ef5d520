"""The package: its lists of requirements agree, and a wheel works in an empty environment far from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned() -> dict[str, str]:
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements("constraints.txt")}


def test_space_installs_what_the_package_needs():
    assert {str(r) for r in requirements("requirements.txt")} == set(PROJECT["dependencies"])


def test_constraints_satisfy_every_requirement():
    versions = pinned()
    wanted = [*requirements("requirements.txt")]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += map(Requirement, extra)
    for requirement in wanted:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_zero_gpu_gets_an_older_torch_that_the_requirements_accept():
    (early,) = requirements("pre-requirements.txt")
    (torch,) = [r for r in requirements("requirements.txt") if r.name == "torch"]
    assert early.name == "torch"
    for version in ("2.8.0", "2.11.0"):
        assert early.specifier.contains(version) and torch.specifier.contains(version)
    assert not early.specifier.contains("2.12.0")


def test_readme_is_a_space_card():
    card = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (ROOT / "README.md").read_text(), re.DOTALL)[1])  # type: ignore[index]
    assert card["sdk"] == "gradio" and card["sdk_version"] == pinned()["gradio"]
    assert card["python_version"] == "3.12"
    assert (ROOT / card["app_file"]).is_file()
    assert "sharingan-hub" in card["tags"] and isinstance(card["models"], list)
    assert card["license"] == "apache-2.0" and PROJECT["license"] == "Apache-2.0"
    assert len(card["short_description"]) <= 60  # the Hub refuses longer ones


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over in the checkout's build folder can get in."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "*.egg-info")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_model_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    package = {name for name in names if name.startswith("sharingan_hub/")}
    assert {name.partition("/")[0] for name in names} == {
        "sharingan_hub",
        f"sharingan_hub-{PROJECT['version']}.dist-info",
    }
    files = subprocess.run(
        ["git", "ls-files", "sharingan_hub"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert package == set(files)
    assert "sharingan_hub/embedded/default/generator_model/diffusion_pytorch_model.safetensors" in package
    assert "sharingan_hub/py.typed" in package


@pytest.mark.slow
def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    # no PYTHONPATH, no Hub, and a working directory far from the checkout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SHARINGAN"))}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(str(bin_folder / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel))
    run(str(bin_folder / "pip"), "check")
    assert "generate" in run(str(bin_folder / "sharingan"), "--help")
    run(str(bin_folder / "sharingan"), "generate", "--seeds", "0-1", "--output-size", "64", "--output-dir", "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    program = """
import importlib.util, sharingan_hub
from sharingan_hub import SharinganPipeline
assert importlib.util.find_spec("training") is None
(image,) = SharinganPipeline.from_pretrained()(seeds=[7], output_size=96).images
print(sharingan_hub.__file__, image.size)
"""
    printed = run(str(bin_folder / "python"), "-c", program)
    assert str(tmp_path) in printed and "(96, 96)" in printed
