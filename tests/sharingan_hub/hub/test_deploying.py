"""A Space of one's own, put on a Hub on this machine by the real client: what goes there, and that it runs."""

import math
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sharingan_hub import hub
from sharingan_hub.cli import main
from sharingan_hub.hub import deploying
from tests.app_process import app

from ..commands.test_share import refused
from ..conftest import files_of

ROOT = Path(__file__).parents[3]
SPACE, MODEL = "maker/eyes-space", "maker/eyes"


@pytest.fixture
def space(loopback, checkpoint, monkeypatch):
    """Makes or renews a Space of a maker's who has published a model -> its repository."""
    monkeypatch.setenv("HF_TOKEN", "hf_maker")
    hub.publish(checkpoint, MODEL)
    loopback.clear()

    def make(*argv: str) -> Any:
        assert main(["space", SPACE, *argv]) == 0
        return loopback.repos[f"spaces/{SPACE}"]

    return make


def head(repo: Any) -> dict[str, Any]:
    return repo.head.card


def commits(loopback) -> int:
    return sum("/commit/" in request.path for request in loopback.requests)


def test_a_space_is_all_that_it_needs_in_one_commit(space, loopback, capsys):
    repo = space("--model", MODEL, "--private")
    assert capsys.readouterr().out == f"{loopback.endpoint}/spaces/{SPACE}\n"
    assert repo.private and commits(loopback) == 1
    listed = subprocess.run(
        ["git", "ls-files", "sharingan_hub", "training"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert repo.files.keys() == {*listed, "app.py", "requirements.txt", "README.md"}
    assert all(repo.files[name] == (ROOT / name).read_bytes() for name in listed)
    card = head(repo)
    assert (card["sdk"], card["python_version"], card["app_file"]) == ("gradio", "3.12", "app.py")
    assert f"gradio=={card['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert card["models"] == card["preload_from_hub"] == [MODEL]
    assert card["hf_oauth"] and card["hf_oauth_scopes"] == ["contribute-repos"]
    assert "sharingan-hub" in card["tags"] and card["license"] == "apache-2.0" and card["startup_duration_timeout"]
    assert len(card["short_description"]) <= 60 and card["title"] == "eyes-space"
    needed = repo.files["requirements.txt"].decode().splitlines()
    assert "torch>=2.8,<2.12" in needed and sum(line.startswith("torch") for line in needed) == 1
    assert f'os.environ.setdefault("SHARINGAN_MODEL", "{MODEL}")' in repo.files["app.py"].decode()


def test_without_a_model_it_is_the_page_of_this_checkout(space):
    repo = space()
    assert repo.files["app.py"] == (ROOT / "app.py").read_bytes()
    assert head(repo)["models"] == [] and "preload_from_hub" not in head(repo)
    assert repo.files["requirements.txt"].decode().splitlines()[1:] == [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[0] not in "#t"
    ]


def test_again_makes_no_commit_and_a_change_makes_one(space, loopback):
    first = space("--model", MODEL).head
    loopback.clear()
    assert space("--model", MODEL).head == first and commits(loopback) == 0
    repo = loopback.repos[f"spaces/{SPACE}"]
    readme = repo.files["README.md"].replace(b"title: eyes-space", b"title: My own title") + b"\nMine.\n"
    files = repo.files | {
        "README.md": readme,
        "notes.md": b"mine",
        "training/old.py": b"1",
        "sharingan_hub/old.py": b"",
    }
    edited = loopback.add(f"spaces/{SPACE}", files).head
    loopback.clear()
    repo = space()  # with the embedded model from now on
    assert commits(loopback) == 1 and repo.head != edited
    assert repo.files.keys() == first.files.keys() - {".gitattributes"} | {"notes.md"}
    assert head(repo)["title"] == "My own title" and repo.files["README.md"].endswith(b"\nMine.\n")
    assert head(repo)["models"] == [] and repo.files["app.py"] == (ROOT / "app.py").read_bytes()
    loopback.clear()
    space()
    assert commits(loopback) == 0


def test_an_attempt_that_broke_off_is_made_good(space, loopback, capsys):
    loopback.fail("500", lambda request: "/commit/" in request.path, times=math.inf)
    assert "The Hub cannot be reached" in refused(capsys, "space", SPACE)
    assert len(loopback.repos[f"spaces/{SPACE}"].files) == 1
    loopback.clear()
    assert head(space())["title"] == "eyes-space"


@pytest.mark.parametrize(
    "files",
    [
        {"app.py": b"print('another page')", "README.md": b"---\nsdk: gradio\n---\n"},
        {"app.py": b"print('about it')", "README.md": b"---\nsdk: gradio\ntags: [sharingan-hub]\n---\n"},
        {"sharingan_hub/__init__.py": b"", "README.md": b"---\nsdk: gradio\n---\n"},
    ],
)
def test_a_space_with_something_else_is_left_alone(space, loopback, capsys, files):
    before = loopback.add(f"spaces/{SPACE}", files).head
    assert "holds something else: choose another name" in refused(capsys, "space", SPACE)
    assert loopback.repos[f"spaces/{SPACE}"].head == before


@pytest.mark.parametrize("token", ["", "hf_wrong", "hf_visitor", "hf_reader"])
def test_without_the_right_nothing_is_made(space, loopback, capsys, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    sentence = refused(capsys, "space", SPACE, "--model", MODEL)
    assert any(words in sentence for words in ("log in with", "logged in as visitor", "You may not write to"))
    assert f"spaces/{SPACE}" not in loopback.repos


def test_nothing_is_made_for_a_model_that_the_space_could_not_open(space, loopback, checkpoint, capsys):
    weights = "generator_model/diffusion_pytorch_model.safetensors"
    loopback.add("maker/broken", files_of(checkpoint) | {weights: b"\x80\x04pickle"})
    loopback.add("maker/secret", files_of(checkpoint), private=True)
    loopback.add("maker/asking", files_of(checkpoint)).gated = True
    for model, words in (
        ("maker/none", "There is no model maker/none"),
        ("maker/broken", weights),
        ("maker/secret", "is private"),
        ("maker/asking", "is gated"),
        (str(checkpoint), "must be the Hub id of a published model"),
        ('maker/x"); import os', "must be the Hub id of a published model"),
    ):
        assert words in refused(capsys, "space", SPACE, "--model", model)
    assert "is no Hub id" in refused(capsys, "space", "maker/no good")
    assert "is for a Space on the Hub" in refused(capsys, "space", "--private")
    assert "are for a Space on this computer" in refused(capsys, "space", SPACE, "--port", "80")
    space()
    assert "there and public" in refused(capsys, "space", SPACE, "--private")
    loopback.stop()
    assert "The Hub cannot be reached" in refused(capsys, "space", "maker/other")
    assert loopback.repos.keys() == {MODEL, "maker/broken", "maker/secret", "maker/asking", f"spaces/{SPACE}"}


def checkout(folder: Path) -> Path:
    """A copy of the project with what a maker may have lying about in it."""
    for name, content in deploying.space_files("copy", None).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    for name in (
        ".env", ".venv/bin/python.py", "runs/mine/x.py", "tests/test_x.py", "notes.py", "sharingan_hub/.env.py",
        "sharingan_hub/__pycache__/x.pyc", "sharingan_hub/.cache/x.py", "sharingan_hub/hf_token.txt", "training/runs/model.safetensors",
        "training/runs/x.py", "sharingan_hub/__pycache__/x.py",
        "training/data/mine/1.png", "training/__pycache__/x.py", "training/.git/hooks.py",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"secret")
    return folder


def test_what_else_lies_in_the_folders_stays_there(tmp_path, monkeypatch):
    expected = deploying.space_files("copy", None).keys()
    monkeypatch.setattr(deploying, "PACKAGE", checkout(tmp_path) / "sharingan_hub")
    assert deploying.space_files("copy", None).keys() == expected


def test_an_installed_package_makes_one_without_training(tmp_path, monkeypatch):
    everything = deploying.space_files("copy", None)
    folder = checkout(tmp_path)
    (folder / "app.py").unlink()  # what is called training there may be anybody's
    monkeypatch.setattr(deploying, "PACKAGE", folder / "sharingan_hub")
    project = "torch>=2.8; torchaudio>=2; datasets>=4.0 ; extra == 'train'".split("; ")
    monkeypatch.setattr(deploying, "requires", lambda name: [*project[:2], "datasets>=4.0; extra == 'train'"])
    files = deploying.space_files("copy", None)
    assert files.keys() == {name for name in everything if not name.startswith("training/")}
    assert files["requirements.txt"] == b"torch>=2.8,<2.12\ntorchaudio>=2\n"


@pytest.mark.xdist_group("app")
def test_what_is_on_the_hub_runs(space, loopback, tmp_path):
    repo = space("--model", MODEL)
    for name, content in repo.files.items():
        path = tmp_path / "pulled" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (
        app(tmp_path / "pulled", HF_ENDPOINT=loopback.endpoint, HF_HOME=str(tmp_path / "hf")) as (url, _),
        urllib.request.urlopen(f"{url}/config", timeout=60) as response,
    ):
        config = response.read().decode()
    assert "Train your own" in config and f"Model: **{MODEL}**" in config
