"""A Space of one's own: the page, the package and, from a checkout, the training, put on the Hub in one commit."""

from __future__ import annotations

from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import yaml_dump

from sharingan_hub.checkpoints.folder import validate
from sharingan_hub.checkpoints.strict import check_place, shown
from sharingan_hub.hub.client import AccessError, RepositoryError, explained, patience
from sharingan_hub.hub.fetching import TIMEOUT, pull
from sharingan_hub.hub.finding import REPO_ID, TAG
from sharingan_hub.hub.publishing import PUBLISH_TIMEOUT, Published

if TYPE_CHECKING:
    from huggingface_hub.hf_api import SpaceInfo

PACKAGE = Path(__file__).parents[1]
# By name and not by what lies there: whatever else a maker keeps in these folders is nobody's business.
SOURCE = (
    "sharingan_hub/**/*.py",
    "sharingan_hub/py.typed",
    "sharingan_hub/cards/template.md",
    "sharingan_hub/space/logo.svg",
    "sharingan_hub/space/style.css",
    "sharingan_hub/embedded/*/README.md",
    "sharingan_hub/embedded/*/*.json",
    "sharingan_hub/embedded/*/*.safetensors",
    "sharingan_hub/embedded/*/*/config.json",
    "sharingan_hub/embedded/*/*/*.safetensors",
    "sharingan_hub/embedded/*/samples/*.png",
    "training/*.py",
    "training/discriminators/*.py",
    "training/experiments/*.py",
    "training/README.md",
    "training/recipes/*.yaml",
    "training/data/sharingan15/*.png",
    "training/data/sharingan15/metadata.jsonl",
)
OURS = "sharingan_hub/__init__.py"  # with the tag, what tells a Space of this project from another
NEW = {"README.md", ".gitattributes"}  # what the Hub puts into a Space that was just made
ZERO_GPU = "torch>=2.8,<2.12"  # as far as ZeroGPU supports it

APP = '''"""The Space: builds the page and launches it. Host and port come from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""

import spaces  # noqa: F401, I001  first: on ZeroGPU it must be there before anything else touches CUDA

from sharingan_hub.space import build_demo
from sharingan_hub.space.style import LAUNCH

demo = build_demo()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
'''
# In a file and not a variable of the Space, which would be another request: that one could fail after the commit.
START = """import os

os.environ.setdefault("SHARINGAN_MODEL", "{model}")  # a variable of the Space goes before this

import spaces"""

BODY = """
# {name}

New eye emblems, drawn by a few-shot GAN: generate, vary, animate, repair, recolour, and train on pictures of your own.
Made with `sharingan space` of SharinGAN Hub. Fan-made, and not affiliated with the owners of the show.
"""


def publish_space(
    repo_id: str, model: str | None = None, private: bool = False, token: str | bool | None = None
) -> Published:
    """Make a Space on the Hub that draws with a model, or renew one, in one commit that holds all of it or is not made.

    What its owner wrote into README.md stays, but for what the Space needs to start; files that are not the project's stay
    too. Where nothing has changed, no commit is made.

    Args:
        repo_id: "user/name", or "name" for one of your own.
        model: Hub id of the checkpoint or adapter that it starts with; None is the embedded one.
        private: make it a private one. One that exists stays as it is, and must be private already.
        token: in place of the one that `hf auth login` has stored; it must allow writing.

    Raises:
        ValueError: `model` is no Hub id.
        HubError: the model is not there or not one that others could open; the Space is there and something else; you are
            not logged in, or may not write there; the Hub does not answer.
    """
    api = HfApi(token=token)
    with explained("Publishing", writing=True), patience(TIMEOUT):
        user = api.whoami()
    owner, slash, name = repo_id.rpartition("/")
    owner = owner if slash else user["name"]
    repo_id = f"{owner}/{name}"
    if not REPO_ID.fullmatch(repo_id):
        raise RepositoryError(f"{shown(repo_id)} is no Hub id; one looks like 'user/name'")
    if owner not in (user["name"], *(one["name"] for one in user.get("orgs", []))):
        raise AccessError(f"You are logged in as {user['name']} and cannot make a Space for {owner}")
    if model is not None:
        _check_model(model, token)
    with explained(f"the Space {repo_id}", writing=True), patience(PUBLISH_TIMEOUT):
        there = _open_space(api, repo_id, private)
        files = space_files(name, model, _card(repo_id, there, token))
        gone = _names(there) - files.keys()
        done = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(path, content) for path, content in files.items()),
                *(
                    CommitOperationDelete(path, is_folder=False)
                    for path in sorted(gone)
                    if path.startswith(("sharingan_hub/", "training/"))
                ),
            ],
            commit_message=f"SharinGAN Hub with {model or 'its own model'}",
            repo_type="space",
            parent_commit=there.sha,  # or else two publishers could make a mixture
        )
    return Published(f"{api.endpoint}/spaces/{repo_id}", done.oid)


def space_files(name: str, model: str | None, card: tuple[dict[str, Any], str] = ({}, "")) -> dict[str, Path | bytes]:
    """Everything that a Space consists of, by the names in its repository.

    Args:
        name: what it is called.
        model: Hub id of the model that it starts with; None is the embedded one.
        card: metadata and text of the README.md that is there.

    Raises:
        CheckpointError: one of the project's files is a link that leads out of its folder.
    """
    root = PACKAGE.parent
    # Beside an installed package lie other people's; a folder called training is ours only in a checkout.
    checkout = (root / "app.py").is_file() and (root / "training" / "recipes").is_dir()
    files: dict[str, Path | bytes] = {}
    for pattern in SOURCE:
        for path in sorted(root.glob(pattern)) if checkout or pattern.startswith("sharingan_hub/") else []:
            if path.is_file() and not any(
                part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts
            ):
                check_place(path)
                files[path.relative_to(root).as_posix()] = path
    app = APP if model is None else APP.replace("import spaces", START.format(model=model), 1)
    files["app.py"] = app.encode()
    files["requirements.txt"] = ("\n".join(_requirements()) + "\n").encode()
    files["README.md"] = _readme(name, model, *card).encode()
    return files


def _check_model(model: str, token: str | bool | None) -> None:
    """Whether a Space, which has no token, can open a model."""
    if not REPO_ID.fullmatch(model):
        raise ValueError(
            f"model must be the Hub id of a published model such as 'user/my-sharingan', got {shown(model)}"
        )
    with explained(model), patience(TIMEOUT):
        info = HfApi(token=token).model_info(model, timeout=TIMEOUT)
    if info.private or info.gated:
        kind = "private" if info.private else "gated"
        raise AccessError(f"{model} is {kind}, and a Space has no token to open it with: open it to all first")
    validate(pull(model, token=token))


def _open_space(api: HfApi, repo_id: str, private: bool) -> SpaceInfo:
    """What the Hub says of a Space, which is made where it is missing.

    Raises:
        AccessError, RepositoryError: it is there, and public though it should be private, or another project's.
    """
    try:
        info = api.space_info(repo_id, timeout=TIMEOUT)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        # None: as the organisation has set it
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True)
        return api.space_info(repo_id, timeout=TIMEOUT)
    if private and not info.private:
        raise AccessError(
            f"The Space {repo_id} is there and public: make it private in its settings, or leave that out"
        )
    if not (_is_new(info) or _is_ours(info)):
        raise RepositoryError(f"The Space {repo_id} is there and holds something else: choose another name")
    return info


def _names(info: SpaceInfo) -> set[str]:
    return {file.rfilename for file in info.siblings or []}


def _is_new(info: SpaceInfo) -> bool:
    """Whether there is nothing in it yet, as after an attempt that broke off."""
    return _names(info) <= NEW


def _is_ours(info: SpaceInfo) -> bool:
    tags = info.card_data.get("tags") if info.card_data else None
    return OURS in _names(info) and isinstance(tags, list) and TAG in tags


def _card(repo_id: str, info: SpaceInfo, token: str | bool | None) -> tuple[dict[str, Any], str]:
    """Metadata and text of the README.md of a Space of ours; of a new one the Hub has written it, and it says nothing."""
    from sharingan_hub.cards import read_card

    if _is_new(info):
        return {}, ""
    path = hf_hub_download(
        repo_id, "README.md", repo_type="space", revision=info.sha, token=token, etag_timeout=TIMEOUT
    )
    return read_card(Path(path).parent)


def _readme(name: str, model: str | None, theirs: dict[str, Any], text: str) -> str:
    """A Space's card: what its owner wrote, and what it needs."""
    suggested = {
        "title": name,
        "emoji": "👁️",
        "colorFrom": "red",
        "colorTo": "gray",
        "hf_oauth": True,
        "hf_oauth_scopes": ["contribute-repos"],
        "license": "apache-2.0",
        "short_description": "New eye emblems from a few-shot GAN, crisp at any size",
        "startup_duration_timeout": "1h",
        "tags": [TAG, "gan", "few-shot", "diffusers"],
    }
    needed = {
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": "3.12",
        "app_file": "app.py",
        "models": [model] if model else [],
        "preload_from_hub": [model] if model else [],
    }
    metadata = {**theirs, **suggested, **theirs, **needed}  # in the order in which they stand there
    if model is None:
        del metadata["preload_from_hub"]
    return f"---\n{yaml_dump(metadata, sort_keys=False).strip()}\n---\n{text or BODY.format(name=name)}"


def _requirements() -> list[str]:
    """What a Space installs, with a torch that ZeroGPU supports."""
    if (PACKAGE.parent / "app.py").is_file():
        text = (PACKAGE.parent / "requirements.txt").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    else:
        lines = [line for line in requires("sharingan-hub") or [] if "extra ==" not in line]
    return [ZERO_GPU if line.startswith("torch>") else line for line in lines]
