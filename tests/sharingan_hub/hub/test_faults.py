"""Something goes wrong at every single request of publishing and of pulling: old or new, never a mixture, and then again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from sharingan_hub import hub
from sharingan_hub.hub import client, fetching, publishing
from tests.loopback_hub import Repo
from tests.loopback_server import FAULTS

from ..conftest import files_of

REPO = "maker/eyes"
FOR_EVER = 10**6


@contextmanager
def in_a_hurry(monkeypatch) -> Iterator[None]:
    """Within it, nobody waits long for an answer that does not come."""
    with monkeypatch.context() as patch:
        for place, name in (
            (fetching, "TIMEOUT"),
            (publishing, "TIMEOUT"),
            (publishing, "PUBLISH_TIMEOUT"),
            (client, "COMMIT_SECONDS"),
            (constants, "HF_HUB_DOWNLOAD_TIMEOUT"),
        ):
            patch.setattr(place, name, 0.25)
        yield


@pytest.fixture
def states(loopback, checkpoints) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What the repository holds after the old checkpoint was published, and after the new one was."""
    files = []
    for name in ("old", "new"):
        hub.publish(checkpoints / name, REPO, token="hf_maker")
        files.append(loopback.repos[REPO].files)
    return files[0], files[1]


def go_back(loopback, monkeypatch, cache: Path, files: dict[str, bytes]) -> Repo:
    """A Hub with this revision alone, and an empty cache."""
    loopback.repos.clear()
    loopback.store.clear()
    loopback.clear()
    shutil.rmtree(cache, ignore_errors=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return loopback.add(REPO, files)


@pytest.mark.parametrize("times", [1, FOR_EVER], ids=["once", "from there on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_publishing_leaves_the_old_or_the_new_revision(
    loopback, checkpoints, states, monkeypatch, tmp_path, fault, times
):
    old, new = states
    cache = tmp_path / "cache"

    def publish() -> None:
        hub.publish(checkpoints / "new", REPO, token="hf_maker")

    go_back(loopback, monkeypatch, cache, old)
    publish()
    count = len(loopback.requests)
    assert count >= 10
    outcomes = set()
    for number in range(count):
        repo = go_back(loopback, monkeypatch, cache, old)
        loopback.fail(fault, lambda request, first=number: request.number >= first, times=times)
        try:
            with in_a_hurry(monkeypatch):
                publish()
            assert repo.files == new, number
            outcomes.add("new")
        except hub.HubError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            assert repo.files in (old, new), number
            outcomes.add("error")
        loopback.clear()
        publish()
        assert repo.files == new, number
    assert "error" in outcomes or times == 1 or fault in ("truncate", "wrong hash")


@pytest.mark.parametrize("times", [1, FOR_EVER], ids=["once", "from there on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_making_a_repository_leaves_nothing_or_all_of_it(
    loopback, checkpoints, states, monkeypatch, tmp_path, fault, times
):
    _, new = states
    for number in range(4):  # what comes then is the same as above
        go_back(loopback, monkeypatch, tmp_path / "cache", {})
        loopback.repos.clear()
        loopback.fail(fault, lambda request, first=number: request.number >= first, times=times)
        try:
            with in_a_hurry(monkeypatch):
                hub.publish(checkpoints / "new", REPO, token="hf_maker")
            assert loopback.repos[REPO].files == new
        except hub.HubError:
            assert REPO not in loopback.repos or loopback.repos[REPO].files in ({}, new)
        loopback.clear()
        hub.publish(checkpoints / "new", REPO, token="hf_maker")
        assert loopback.repos[REPO].files == new


@pytest.mark.parametrize("times", [1, FOR_EVER], ids=["once", "from there on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_pulling_gives_the_old_or_the_new_revision(loopback, states, monkeypatch, tmp_path, fault, times):
    old, new = ({name: data for name, data in files.items() if not fetching.CODE.fullmatch(name)} for files in states)
    cache = tmp_path / "cache"

    go_back(loopback, monkeypatch, tmp_path / "with_old", states[0])
    assert files_of(hub.pull(REPO)) == old

    def start() -> None:
        go_back(loopback, monkeypatch, cache, states[0])
        shutil.copytree(tmp_path / "with_old", cache, symlinks=True)
        loopback.add(REPO, states[1])

    start()
    hub.pull(REPO)
    count = len(loopback.requests)
    assert count >= 14
    for number in range(count):
        start()
        loopback.fail(fault, lambda request, first=number: request.number >= first, times=times)
        with in_a_hurry(monkeypatch):
            folder = files_of(hub.pull(REPO))
        assert folder in (old, new), number
        loopback.clear()
        loopback.fail("drop", times=FOR_EVER)
        assert files_of(hub.pull(REPO)) == folder, number
        loopback.clear()
        assert files_of(hub.pull(REPO)) == new, number


@pytest.mark.parametrize("fault", FAULTS)
def test_pulling_for_the_first_time_gives_all_or_an_error(loopback, states, monkeypatch, tmp_path, fault):
    new = {name: data for name, data in states[1].items() if not fetching.CODE.fullmatch(name)}
    for number in range(14):
        go_back(loopback, monkeypatch, tmp_path / "cache", states[1])
        loopback.fail(fault, lambda request, first=number: request.number >= first, times=FOR_EVER)
        try:
            with in_a_hurry(monkeypatch):
                assert files_of(hub.pull(REPO)) == new
        except (hub.UnreachableError, hub.RateLimitError):
            with pytest.raises(hub.UnreachableError):
                hub.pull(REPO, local_files_only=True)
        loopback.clear()
        assert files_of(hub.pull(REPO)) == new, number
