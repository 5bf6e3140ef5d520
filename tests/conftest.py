"""Shared by all tests: no network, one thread for each process, and GPU tests only where there is a GPU."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

# Nothing listens there. Read when huggingface_hub is first imported, so it is set before any import of it.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from tests.loopback_hub import LoopbackHub

torch.set_num_threads(1)
hypothesis.settings.register_profile("sharingan", deadline=None)
hypothesis.settings.load_profile("sharingan")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training makes the smallest numbers count as zero for the whole process; no other test should see that."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["LoopbackHub"]:
    """A Hub on this machine that the client in this process talks to, logged in as nobody and with an empty cache.

    Tokens are hf_maker, hf_reader (the same user's, without the right to write) and hf_visitor. Before it tries something
    again, the client does not wait.
    """
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http, close_session, disable_progress_bars, enable_progress_bars

    from tests.loopback_hub import LoopbackHub, User

    hub = LoopbackHub({"hf_maker": User("maker"), "hf_reader": User("maker", False), "hf_visitor": User("visitor")})
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DOWNLOAD_TIMEOUT": 1,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    disable_progress_bars()
    hub.start()
    yield hub
    hub.stop()
    close_session()
    enable_progress_bars()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
