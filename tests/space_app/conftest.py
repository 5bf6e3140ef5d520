"""The real Space: app.py in its own process, called as an API and used in a browser; its Hub is one on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from tests.app_process import ROOT, app
from tests.browser import chromium
from tests.loopback_hub import LoopbackHub
from tests.space_app.steps import ADAPTER, MODEL


@pytest.fixture(scope="session")
def hub() -> Iterator[LoopbackHub]:
    """A Hub with a model, an adapter of the embedded source model, and a model that is broken."""
    server = LoopbackHub()
    for name, folder in ((MODEL, "stylegan2-source"), (ADAPTER, "adapter-sharingan15")):
        root = ROOT / "model_cards" / folder
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        server.add(name, files)
    weights = "generator_model/diffusion_pytorch_model.safetensors"
    model = {name: file.data for name, file in server.repos[MODEL].head.files.items() if name != ".gitattributes"}
    card = b"---\ntags: [sharingan-hub]\ntitle: <img src=x onerror=alert(1)> Broken\n---\n"
    server.add("maker/broken", {**model, weights: b"\x80\x04pickle", "README.md": card})
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Space keeps the files that it makes."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Space makes temporary folders."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def running(hub: LoopbackHub, served: Path, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """app.py with the embedded model: one server for all of these tests, which go to one worker."""
    folders = {"GRADIO_TEMP_DIR": served, "TMPDIR": scratch, "HF_HOME": tmp_path_factory.mktemp("hf")}
    with app(HF_ENDPOINT=hub.endpoint, **{name: str(folder) for name, folder in folders.items()}) as started:
        yield started


@pytest.fixture(scope="session")
def url(running: Any) -> str:
    return running[0]


@pytest.fixture(scope="session")
def process(running: Any) -> Any:
    return running[1]


@pytest.fixture(scope="session")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="session")
def generate(client: Client) -> Any:
    def call(**inputs: Any) -> list[dict[str, Any]]:
        return client.predict(api_name="/generate", **inputs)

    return call


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any, url: str, hub: LoopbackHub) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    known = (url, hub.endpoint, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(known) else problems.append(request.url))
    page.goto(url)
    page.locator("#gallery .thumbnail-item img").nth(7).wait_for()
    yield page
    context.close()
    assert problems == []  # no error on the console, and nothing asked of any other host
