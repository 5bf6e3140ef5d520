"""Fetching from a Hub on this machine by the real client: what comes, what does not, and what a visitor is told."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
import torch

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.hub import fetching
from tests.loopback_server import Answer

from ..conftest import files_of, tiny_pipeline

REPO = "maker/eyes"
WEIGHTS = "generator_model/diffusion_pytorch_model.safetensors"
FETCHED = {
    "model_index.json",
    "generator_model/config.json",
    WEIGHTS,
    "README.md",
    "samples/grid.png",
    "samples/seed0.png",
}


@pytest.fixture
def repo(loopback, checkpoints):
    """The repository maker/eyes: a checkpoint and a few things that nobody should fetch."""
    more = {
        "README.md": b"card",
        "checkpoints/optimizer.bin": b"pickle",
        "huge.zip": b"zip",
        "generator_model/x.pt": b"x",
    }
    return loopback.add(REPO, files_of(checkpoints / "old") | more)


def fetched(loopback) -> list[str]:
    return [request.path.rpartition("/resolve/")[2] for request in loopback.requests if request.method == "GET"]


def test_from_pretrained_fetches_data_and_no_code(loopback, repo):
    pipe = SharinganPipeline.from_pretrained(REPO)
    pictures = pipe(seeds=[1], output_type="pt").images
    assert torch.equal(pictures, tiny_pipeline()(seeds=[1], output_type="pt").images)
    assert files_of(hub.pull(REPO)).keys() == FETCHED
    assert not [path for path in fetched(loopback) if path.endswith((".py", ".zip", ".bin", ".pt"))]


def test_a_repository_that_has_not_changed_costs_one_request(loopback, repo):
    folder = hub.pull(REPO)
    loopback.clear()
    assert hub.pull(REPO) == folder
    assert [request.path for request in loopback.requests] == [f"/api/models/{REPO}"]


def test_the_configuration_comes_before_the_weights(loopback, repo):
    hub.pull(REPO)
    first = {path.partition("/")[2] for path in fetched(loopback)[2:4]}
    assert first == {"model_index.json", "generator_model/config.json"}


@pytest.mark.parametrize("trouble", ["delay", "500", "drop", "truncate", "429", "gone", "offline"])
def test_a_cached_checkpoint_opens_when_the_hub_does_not_answer(loopback, repo, monkeypatch, trouble):
    repo.refs["v1"] = repo.head.sha
    loopback.add(REPO, repo.files | {"README.md": b"changed"})
    folder, tagged = hub.pull(REPO), hub.pull(REPO, revision="v1")
    assert (folder.name, tagged.name) == (repo.head.sha, repo.refs["v1"]) and folder != tagged
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    if trouble == "gone":
        loopback.stop()
    elif trouble == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        loopback.fail(trouble, times=1000)
    assert hub.pull(REPO) == folder and hub.pull(REPO, revision="v1") == tagged
    assert hub.pull(REPO, revision=tagged.name) == tagged
    with pytest.raises(hub.HubError, match="again"):
        hub.pull(REPO, revision="v2")


@pytest.mark.parametrize(
    ("fault", "method", "part", "hanging"),
    [("delay", "HEAD", ".json", 3), ("delay", "GET", WEIGHTS, 1), ("stall", "GET", WEIGHTS, 1)],
)
def test_a_hub_that_hangs_midway_is_waited_for_once_where_there_is_a_cached_checkpoint(
    loopback, repo, checkpoints, monkeypatch, fault, method, part, hanging
):
    folder = hub.pull(REPO)
    loopback.add(REPO, files_of(checkpoints / "new"))
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    loopback.clear()
    loopback.fail(fault, lambda request: request.method == method and request.path.endswith(part), times=1000)
    assert hub.pull(REPO) == folder
    assert len([request for request in loopback.requests if request.fault]) == hanging  # files that are fetched at once
    loopback.clear()
    assert hub.pull(REPO) != folder


def test_the_files_that_would_come_next_are_not_waited_for_either(loopback, repo, monkeypatch):
    folder = hub.pull(REPO)
    loopback.add(REPO, repo.files | {f"samples/more{n}.png": bytes([n]) for n in range(30)})
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    loopback.fail("delay", lambda request: request.method == "GET" and "more" in request.path, times=1000)
    assert hub.pull(REPO) == folder
    assert len([request for request in loopback.requests if request.fault]) <= 8  # which the client fetches at once


def test_without_the_network_nothing_is_asked(loopback, repo):
    folder = hub.pull(REPO)
    loopback.clear()
    assert hub.pull(REPO, local_files_only=True) == folder
    assert loopback.requests == []
    with pytest.raises(hub.UnreachableError, match="maker/none is not in the local cache, and the network was not"):
        hub.pull("maker/none", local_files_only=True)


def test_half_a_download_is_not_taken_for_a_checkpoint(loopback, repo, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    loopback.fail("500", lambda request: request.path.endswith(".safetensors"), times=1000)
    for _ in range(2):
        with pytest.raises(hub.UnreachableError, match="maker/eyes is not in the local cache: try again later"):
            hub.pull(REPO)
    loopback.clear()
    loopback.fail("500", times=1000)
    with pytest.raises(hub.UnreachableError, match="HTTP 500"):
        hub.pull(REPO)
    loopback.clear()
    assert files_of(hub.pull(REPO)).keys() == FETCHED


def test_a_file_that_another_program_cached_is_no_checkpoint(loopback, repo, monkeypatch):
    huggingface_hub.hf_hub_download(REPO, "README.md")
    loopback.stop()
    with pytest.raises(hub.UnreachableError, match="not in the local cache"):
        hub.pull(REPO)


def test_a_look_at_a_newer_revision_does_not_hide_the_one_that_is_cached(loopback, repo, checkpoints):
    folder = hub.pull(REPO)
    loopback.add(REPO, files_of(checkpoints / "new"))
    look = hub.pull(REPO, with_weights=False)
    assert look != folder and not list(look.rglob("*.safetensors"))
    loopback.stop()
    assert hub.pull(REPO) == folder


@pytest.mark.parametrize("name", [WEIGHTS, "generator_model/config.json"])
def test_a_file_that_comes_damaged_is_not_kept(loopback, repo, name):
    loopback.fail("wrong hash", lambda request: request.method == "GET" and request.path.endswith(name))
    with pytest.raises(hub.UnreachableError, match=f"{name} came damaged"):
        hub.pull(REPO)
    assert (hub.pull(REPO) / name).read_bytes() == repo.files[name]


@pytest.mark.parametrize("sha", ["../../../up", "main", "", None])
def test_a_commit_that_is_none_names_no_folder(loopback, repo, monkeypatch, tmp_path, sha):
    def model_info(self, request) -> Answer:
        files = [{"rfilename": name, "size": len(content)} for name, content in repo.files.items()]
        return Answer.json({"id": REPO, "sha": sha, "siblings": files})

    monkeypatch.setattr("tests.loopback_hub.ROUTES", [("GET", f"/api/models/{REPO}", model_info)])
    with pytest.raises(hub.UnreachableError, match="it names no commit"):
        hub.pull(REPO)
    assert len(loopback.requests) == 1


def test_a_process_killed_while_pulling_leaves_nothing_in_the_way(loopback, repo, tmp_path):
    reached = threading.Event()
    loopback.fail(
        "delay", lambda request: request.path.endswith(WEIGHTS) and request.method == "GET" and not reached.set()
    )
    environment = os.environ | {
        "HF_ENDPOINT": loopback.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    code = f"from sharingan_hub import hub; hub.pull({REPO!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    try:
        assert reached.wait(60), process.communicate()
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "hub_cache" / "models--maker--eyes" / "refs" / "main").exists()
    with pytest.raises(hub.UnreachableError):
        hub.pull(REPO, local_files_only=True)
    folder = hub.pull(REPO)
    assert {name: content for name, content in repo.files.items() if name in FETCHED} == files_of(folder)


def test_private_repositories_open_for_their_token_alone(loopback, checkpoints):
    loopback.add(REPO, files_of(checkpoints / "old"), private=True)
    for token in (None, "hf_visitor"):
        with pytest.raises(
            hub.RepositoryError, match="There is no model maker/eyes on the Hub, or it is private: log in"
        ):
            hub.pull(REPO, token=token)
    with pytest.raises(hub.AccessError, match="log in with `hf auth login`, or give a token that is valid"):
        hub.pull(REPO, token="hf_wrong")
    assert (hub.pull(REPO, token="hf_maker") / WEIGHTS).is_file()
    with pytest.raises(hub.RepositoryError, match="or it is private"):  # the cache is not asked whether one may
        hub.pull(REPO)


def test_refusals_are_told_in_one_sentence_even_with_a_cached_copy(loopback, repo):
    hub.pull(REPO)
    with pytest.raises(hub.RepositoryError, match="^The model maker/eyes has no revision v9$"):
        hub.pull(REPO, revision="v9")
    repo.gated = True
    with pytest.raises(
        hub.RepositoryError, match="^maker/eyes asks for consent: accept its terms on the Hub and log in$"
    ):
        hub.pull(REPO)
    del loopback.repos[REPO]
    with pytest.raises(
        hub.RepositoryError, match="^There is no model maker/eyes on the Hub, or it is private: log in$"
    ):
        hub.pull(REPO)


def test_branches_tags_pull_requests_and_commits_are_honoured(loopback, checkpoints):
    repo = loopback.add(REPO, files_of(checkpoints / "old"))
    old = repo.head
    repo.refs |= {"v1.0": old.sha, "style/blue": old.sha, "refs/pr/1": old.sha}
    loopback.add(REPO, files_of(checkpoints / "new"))
    for revision in ("v1.0", "style/blue", "refs/pr/1", old.sha):
        assert hub.pull(REPO, revision=revision).name == old.sha
        pipe = SharinganPipeline.from_pretrained(REPO, revision=revision, dtype=torch.bfloat16)
        assert pipe.dtype == torch.bfloat16
    assert hub.pull(REPO).name == repo.head.sha != old.sha
    loopback.stop()
    assert hub.pull(REPO, revision="style/blue").name == old.sha and hub.pull(REPO).name == repo.head.sha


@pytest.mark.parametrize("revision", ["../../../up", "a/../b", "/root", "", ".hidden", "two words", "a\nb"])
def test_what_is_no_revision_is_not_asked_for(loopback, repo, revision):
    with pytest.raises(hub.RepositoryError, match="is no revision; it must be a branch, a tag or a commit"):
        hub.pull(REPO, revision=revision)
    assert loopback.requests == []


def test_an_adapter_is_pulled_like_a_checkpoint(loopback, adapter):
    more = {"README.md": b"card", "train.py": b"print('no')", "ticket.safetensors": b"no adapter has one"}
    loopback.add(REPO, files_of(adapter) | more)
    assert files_of(hub.pull(REPO)).keys() == {"adapter_config.json", "adapter.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"nothing else"}, "maker/eyes holds no SharinGAN Hub checkpoint: model_index.json is missing"),
        ({"model_index.json": b"{}", "generator_model/config.json": b"{}"}, f"{WEIGHTS} is missing"),
        ({"adapter_config.json": b"{}"}, "adapter.safetensors is missing"),
    ],
)
def test_a_repository_without_a_checkpoint_is_refused_by_its_list(loopback, files, message):
    loopback.add(REPO, files)
    with pytest.raises(hub.CheckpointError, match=message):
        SharinganPipeline.from_pretrained(REPO)
    assert len(loopback.requests) == 1


@pytest.mark.parametrize("name", [WEIGHTS, "generator_model/config.json", "model_index.json", "ticket.safetensors"])
def test_a_declared_size_that_no_checkpoint_has_is_refused_by_the_list(loopback, repo, monkeypatch, name):
    loopback.add(REPO, repo.files | {name: bytes(5000)})
    monkeypatch.setitem(fetching.CHECKPOINT, name, 4999)
    with pytest.raises(hub.CheckpointError, match=f"declares 5,000 bytes for {name}; at most 4,999 bytes are fetched"):
        hub.pull(REPO)
    assert len(loopback.requests) == 1


@pytest.mark.parametrize("name", [WEIGHTS, "ticket.safetensors", "adapter/adapter.safetensors"])
def test_weights_larger_than_their_configuration_says_are_not_fetched(loopback, repo, name):
    loopback.add(REPO, repo.files | {name: bytes(2**20)})
    with pytest.raises(
        hub.CheckpointError, match=f"declares 1,048,576 bytes of weights in {name}; its configuration accounts for"
    ):
        hub.pull(REPO)
    assert not [path for path in fetched(loopback) if path.endswith(".safetensors")]


def test_a_configuration_that_asks_for_gigabytes_is_refused_before_the_weights(loopback, repo):
    config = json.loads(repo.files["generator_model/config.json"]) | {"channel_base": 2**30, "channel_max": 2**30}
    loopback.add(REPO, repo.files | {"generator_model/config.json": json.dumps(config).encode()})
    with pytest.raises(hub.CheckpointError, match="channel_"):
        hub.pull(REPO)
    assert not [path for path in fetched(loopback) if path.endswith(".safetensors")]


def test_what_is_only_shown_is_left_out_where_it_is_too_large_or_too_much(loopback, repo, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_SAMPLES", 3)
    monkeypatch.setattr(fetching, "SAMPLE_BYTES", 100)
    monkeypatch.setitem(fetching.SHOWN, "README.md", 100)
    samples = {f"samples/{n}.png": bytes([n]) * 100 for n in range(5)} | {"samples/0large.png": bytes(101)}
    kept = {name: content for name, content in repo.files.items() if not name.startswith("samples")}
    loopback.add(REPO, kept | samples | {"README.md": bytes(101)})
    folder = hub.pull(REPO)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["0.png", "1.png", "2.png"]
    assert not (folder / "README.md").exists()
    loopback.stop()
    assert hub.pull(REPO) == folder  # and what was left out is not missed later


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "samples/../../evil.png",
        "samples/../evil.png",
        "/samples/evil.png",
        "samples//evil.png",
        "samples/.evil.png",
        "samples/deep/evil.png",
        "samples/<img src=x onerror=alert(1)>.png",
        "samples/\u202egnp.png",
        "samples/evil.png\n",
        "samples/[a-z]*.png",
        "Model_index.json",
        "generator_model/../model_index.json",
        "generator_model/modeling_evil.py",
        "generator_model/pytorch_model.bin",
    ],
)
def test_files_with_odd_names_stay_where_they_are_and_are_no_reason_to_refuse(loopback, repo, tmp_path, name):
    loopback.add(REPO, repo.files | {name: b"evil"})
    folder = hub.pull(REPO)
    assert files_of(folder).keys() == FETCHED
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"evil"]


def test_a_card_that_the_client_cannot_take_is_told_apart_from_a_hub_that_is_down(loopback, repo):
    loopback.add(REPO, repo.files | {"README.md": b"---\nignore_metadata_errors: true\ntags: [sharingan-hub]\n---\n"})
    with pytest.raises(hub.RepositoryError, match="What the Hub says about maker/eyes cannot be read"):
        hub.pull(REPO)


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./missing", "../up", "/nowhere/at/all", "two words", "", "a//b", "~/none"]
)
def test_what_is_neither_folder_nor_id(loopback, name):
    with pytest.raises(hub.HubError, match="is neither a folder that exists nor a Hub id such as 'user/name'"):
        SharinganPipeline.from_pretrained(name)
    assert loopback.requests == []


@pytest.mark.parametrize("name", ["user/-name", "user/na--me", "user/name.git", "u" * 97 + "/x"])
def test_ids_that_the_hub_does_not_allow(loopback, name):
    for local_files_only in (False, True):
        with pytest.raises(hub.RepositoryError, match="is no Hub id; one looks like 'user/name'"):
            hub.pull(name, local_files_only=local_files_only)
    assert loopback.requests == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(hub.CheckpointError, match="gone' is neither a folder"):
        SharinganPipeline.from_pretrained(Path(tmp_path / "gone"))


PROMISES = """
import sys, time
import sharingan_hub
from huggingface_hub import constants
from sharingan_hub import SharinganPipeline, hub

constants.ENDPOINT = "http://127.0.0.1:9"  # nothing listens there
begin, spent = time.perf_counter(), time.process_time()
SharinganPipeline.from_pretrained("maker/eyes")
print(time.perf_counter() - begin, time.process_time() - spent)
constants.ENDPOINT = sys.argv[1]
begin = time.perf_counter()
SharinganPipeline.from_pretrained("maker/eyes")
print(time.perf_counter() - begin)
"""


def test_a_new_process_opens_the_cache_at_once_with_the_hub_down_and_within_five_seconds_when_it_hangs(
    loopback, repo, tmp_path
):
    hub.pull(REPO)
    loopback.fail("delay", times=1000)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub_cache"), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROMISES, loopback.endpoint]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    down, work, hanging = map(float, done.stdout.split())
    assert work < 0.3 and down < 2  # and nothing waits; on a busy machine the work takes its time
    assert hanging < 5
