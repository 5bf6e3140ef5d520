"""An end to waiting: what the Hub's client does within `patience`, and that it is left alone outside."""

import errno
import os

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from sharingan_hub.hub.client import RateLimitError, UnreachableError, explain, patience
from tests.loopback_hub import User

REPO = "maker/eyes"


@pytest.fixture
def repo(loopback):
    return loopback.add(REPO, {"README.md": b"card", "a.bin": b"a", "b.bin": b"b"})


def asked(loopback, part: str) -> int:
    return len([request for request in loopback.requests if part in request.path])


@pytest.mark.parametrize("fault", ["delay", "drop", "500"])
def test_the_same_is_asked_three_times_at_most(loopback, repo, fault):
    loopback.fail(fault, lambda request: "/tree/" in request.path, times=1000)
    with pytest.raises(UnreachableError, match="The Hub cannot be reached"), patience(0.3):
        list(HfApi().list_repo_tree(REPO))
    # before the Hub has shown that it is there, it is not even given the time for three
    assert asked(loopback, "/tree/") == (1 if fault == "delay" else 3)


def test_a_hub_that_has_answered_before_is_given_three_times(loopback, repo):
    loopback.fail("delay", lambda request: "/tree/" in request.path, times=1000)
    with pytest.raises(UnreachableError), patience(0.3):
        HfApi().model_info(REPO)
        list(HfApi().list_repo_tree(REPO))
    assert asked(loopback, "/tree/") == 3


def test_threads_of_the_client_end_waiting_too(loopback, repo):
    loopback.fail("delay", lambda request: request.method == "PUT", times=1000)
    files = [CommitOperationAdd(name, name.encode()) for name in ("new.bin", "newer.bin")]
    with pytest.raises(RuntimeError) as caught, patience(0.3):
        HfApi(token="hf_maker").create_commit(REPO, files, commit_message="two large files")
    assert isinstance(explain(caught.value, REPO, writing=True), UnreachableError)
    assert len([request for request in loopback.requests if request.method == "PUT"]) == 6
    assert len(repo.history) == 2


def test_a_download_that_goes_on_may_be_cut_more_than_three_times(loopback, repo):
    repo = loopback.add(REPO, {"large.bin": bytes(range(256)) * 64})
    loopback.fail("truncate", lambda request: request.method == "GET" and "/resolve/" in request.path, times=5)
    with patience(5):
        folder = snapshot_download(REPO)
    assert open(f"{folder}/large.bin", "rb").read() == repo.files["large.bin"]


def test_a_rate_limit_is_told_at_once(loopback, repo):
    loopback.fail("429", times=1000)
    with pytest.raises(RateLimitError, match="try again in 55 seconds"), patience(5):
        list(HfApi().list_repo_tree(REPO))
    assert len(loopback.requests) == 1


def test_a_full_disk_is_not_blamed_on_the_hub():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/blobs/x")
    assert str(explain(full, REPO)) == "Files of the Hub cannot be stored here: No space left on device"


def test_outside_of_it_the_client_is_as_it_was(loopback, repo):
    with patience(5):
        HfApi().model_info(REPO)
    loopback.clear()
    loopback.fail("429", times=2)
    assert list(HfApi().list_repo_tree(REPO))  # which it asks for a third time, after having waited
    loopback.fail("500", times=1000)
    with pytest.raises(HfHubHTTPError):
        list(HfApi().list_repo_tree(REPO))
    assert len(loopback.requests) == 3 + 6


def test_sentences_hold_no_line_breaks_and_nothing_that_steers_a_terminal(loopback):
    loopback.tokens["hf_other"] = User("other")
    loopback.add(REPO, {"README.md": b"card"})
    for token, name in ((None, REPO), ("hf_other", REPO), ("hf_maker", "maker/none")):
        with pytest.raises(HfHubHTTPError) as caught:
            HfApi(token=token).create_commit(name, [CommitOperationAdd("a", b"a")], commit_message="a")
        assert str(explain(caught.value, name, writing=True)).isprintable()
