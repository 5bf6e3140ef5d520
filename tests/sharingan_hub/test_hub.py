"""Fetching from a Hub that is played by a server on this machine: what comes, what does not, and what a visitor is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from sharingan_hub import SharinganPipeline, StyleGAN2Generator, hub

SHA = {"main": "a" * 40, "v1": "b" * 40}
REPO = "maker/eyes"


class Handler(BaseHTTPRequestHandler):
    """The few answers that fetching a repository needs (addresses and headers as the client expects them)."""

    server: "FakeHub"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        fake = self.server
        fake.requests.append(f"{self.command} {path}")
        if fake.silent:
            fake.released.wait(30)
            return
        if fake.status:
            return self.answer(fake.status, b'{"error": "trouble"}', fake.headers)
        if path.startswith(f"/api/models/{REPO}"):
            revision = path.partition("/revision/")[2] or "main"
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in fake.files.items()
                ]
                return self.answer(200, json.dumps(tree).encode())
            sha = SHA.get(revision, revision if revision in SHA.values() else None)
            if sha is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in fake.files]
            return self.answer(200, json.dumps({"id": REPO, "sha": sha, "siblings": siblings}).encode())
        for sha in SHA.values():
            name = path.removeprefix(f"/{REPO}/resolve/{sha}/")
            if name in fake.files:
                data = fake.files[name]
                return self.answer(200, data, {"X-Repo-Commit": sha, "ETag": f'"{hash(data)}"'})
        self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.silent, self.status = False, 0
        self.headers: dict[str, str] = {}
        self.released = threading.Event()


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[SharinganPipeline, dict[str, bytes]]:
    """A pipeline, and the files of a repository that holds it and a few things that nobody should fetch."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=1, channel_base=64, channel_max=4)
    pipe = SharinganPipeline(model.eval())
    pipe.save_pretrained(folder)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files |= {
        "README.md": b"card",
        "samples/1.png": b"picture",
        "checkpoints/optimizer.bin": b"pickle",
        "huge.zip": b"zip",
    }
    return pipe, files


def test_from_pretrained_fetches_data_and_no_code(fake, checkpoint):
    pipe, fake.files = checkpoint
    fetched = SharinganPipeline.from_pretrained(REPO)
    assert torch.equal(fetched(seeds=[1], output_type="pt").images, pipe(seeds=[1], output_type="pt").images)
    folder = hub.pull(REPO)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()} == {
        "model_index.json",
        "generator_model/config.json",
        "generator_model/diffusion_pytorch_model.safetensors",
        "README.md",
        "samples/1.png",
    }
    assert not [request for request in fake.requests if ".py" in request or "huge" in request or "optimizer" in request]


@pytest.mark.parametrize("trouble", ["silent", "error 500", "gone", "offline"])
def test_cached_checkpoint_opens_when_the_hub_does_not_answer(fake, checkpoint, monkeypatch, trouble):
    _, fake.files = checkpoint
    folder, tagged = hub.pull(REPO), hub.pull(REPO, revision="v1")
    assert folder.name == SHA["main"] and tagged.name == SHA["v1"]
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    if trouble == "silent":
        fake.silent = True
    elif trouble == "error 500":
        fake.status = 500
    elif trouble == "gone":
        fake.shutdown()
        fake.server_close()
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fake.requests.clear()
    assert hub.pull(REPO) == folder and hub.pull(REPO, revision="v1") == tagged
    assert hub.pull(REPO, revision=SHA["v1"]) == tagged
    with pytest.raises(
        hub.UnreachableError, match="cannot be reached .* maker/eyes at revision v2 is not in the local cache"
    ):
        hub.pull(REPO, revision="v2")
    if trouble != "gone":
        fake.requests.clear()
        assert hub.pull(REPO, local_files_only=True) == folder
        assert fake.requests == []


def test_half_a_download_is_not_taken_for_a_checkpoint(fake, checkpoint, monkeypatch):
    _, files = checkpoint
    fake.files = dict(files)
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    real = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", real.replace("{filename}", "{filename}.lost")
    )
    with pytest.raises(hub.HubError):
        hub.pull(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", real)
    fake.status = 500
    with pytest.raises(hub.UnreachableError):
        hub.pull(REPO)
    fake.status = 0
    assert (hub.pull(REPO) / "model_index.json").read_bytes() == files["model_index.json"]


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "There is no model maker/eyes on the Hub, or it is private: log in"),
        (401, {"X-Error-Code": "RepoNotFound"}, "There is no model maker/eyes on the Hub, or it is private: log in"),
        (403, {"X-Error-Code": "GatedRepo"}, "maker/eyes asks for consent: accept its terms on the Hub and log in"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "The model maker/eyes has no revision v9"),
    ],
)
def test_refusals_are_told_in_one_sentence_even_with_a_cached_copy(fake, checkpoint, status, headers, message):
    _, fake.files = checkpoint
    hub.pull(REPO)
    fake.status, fake.headers = status, headers
    with pytest.raises(hub.RepositoryError, match=message) as caught:
        hub.pull(REPO, revision="v9")
    assert "\n" not in str(caught.value)


def test_nothing_cached_and_no_hub(fake, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    fake.silent = True
    with pytest.raises(hub.UnreachableError, match="The Hub cannot be reached .*: try again later"):
        SharinganPipeline.from_pretrained(REPO)
    with pytest.raises(hub.UnreachableError, match="maker/eyes is not in the local cache, and the network was not"):
        SharinganPipeline.from_pretrained(REPO, local_files_only=True)


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./missing", "../up", "/nowhere/at/all", "two words", "", "a//b", "~/none"]
)
def test_what_is_neither_folder_nor_id(fake, name):
    with pytest.raises(hub.HubError, match="is neither a folder that exists nor a Hub id such as 'user/name'"):
        SharinganPipeline.from_pretrained(name)
    assert fake.requests == []


@pytest.mark.parametrize("name", ["user/-name", "user/na--me", "user/name.git", "u" * 97 + "/x"])
def test_ids_that_the_hub_does_not_allow(fake, name):
    for local_files_only in (False, True):
        with pytest.raises(hub.RepositoryError, match="is no Hub id; one looks like 'user/name'"):
            hub.pull(name, local_files_only=local_files_only)
    assert fake.requests == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(hub.CheckpointError, match="gone' is neither a folder"):
        SharinganPipeline.from_pretrained(Path(tmp_path / "gone"))


def test_a_repository_without_a_checkpoint(fake):
    fake.files = {"README.md": b"nothing else"}
    with pytest.raises(hub.CheckpointError, match="model_index.json is missing"):
        SharinganPipeline.from_pretrained(REPO)
