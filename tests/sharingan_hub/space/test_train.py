"""Training in the browser: the running page, its endpoints, and what is left on the disk afterwards."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.space import build_demo
from sharingan_hub.space.style import LAUNCH
from tests.loopback_hub import LoopbackHub

PICTURES = sorted((Path(__file__).parents[3] / "training" / "data" / "sharingan15").glob("*.png"))
QUICK = 0.05  # minutes


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary folders are made."""
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("scratch"))
    yield Path(tempfile.tempdir)
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def demo(scratch: Path) -> Any:
    return build_demo()


@pytest.fixture(scope="module")
def url(demo: Any, scratch: Path) -> Iterator[str]:
    _, address, _ = demo.launch(**LAUNCH, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield address
    demo.close()


@pytest.fixture
def client(demo: Any, url: str, tmp_path: Path) -> Iterator[Client]:
    """A visitor, who leaves nothing to the next test, whichever that is on this worker."""
    client = Client(url, verbose=False, download_files=tmp_path)
    yield client
    leave(demo, client)
    client.close()


def uploads(count: int = 10) -> list[Any]:
    return [handle_file(path) for path in PICTURES[:count]]


def folders(scratch: Path) -> list[Path]:
    return list(scratch.glob("sharingan-train-*"))


def leave(demo: Any, client: Client) -> None:
    """What Gradio calls once it has noticed that a visitor has gone."""
    (unload,) = (fn.fn for fn in demo.fns.values() if any(trigger == "unload" for _, trigger in fn.targets))
    unload(SimpleNamespace(session_hash=client.session_hash))


def wait_until(condition: Any) -> None:
    """Wait for what another thread does; the test's own time limit ends it."""
    import threading

    while not condition():
        threading.Event().wait(0.05)


def test_pictures_become_a_model_that_is_kept_published_and_deleted(demo, client, url, scratch, loopback: LoopbackHub):
    job = client.submit(uploads(), QUICK, api_name="/train")
    strip, status, model, archive, report, nearest = job.result()
    assert any("left" in output[1] and "polyline" in output[1] for output in job.outputs())
    assert model.startswith("trained-") and "Done" in status
    with Image.open(strip) as image, Image.open(nearest) as pairs:
        assert image.size == (4 * 128, 2 * 128) == pairs.size
    assert "**Diversity**" in report and " of 64 designs" in report

    # the zip is a checkpoint that opens, and says nothing of this machine
    where = scratch / "unpacked"
    with zipfile.ZipFile(archive) as file:
        assert not any("checkpoints" in name or "state.pt" in name for name in file.namelist())
        assert not any(str(scratch).encode() in file.read(name) for name in file.namelist())
        file.extractall(where)
    hub.validate(where)
    drawn: Any = SharinganPipeline.from_pretrained(where)(seeds=[3], output_size=256)
    (picture,) = client.predict(seed=3, count=1, model=model, api_name="/generate")
    with Image.open(picture["image"]) as image:
        assert image.tobytes() == drawn.images[0].tobytes()

    # published by its maker alone, under the name of the token's owner, and never under that of whoever runs the Space
    def publish(who: Client, token: str, repo: str = "mine") -> str:
        return who.predict(model, repo, False, token, api_name="/publish")

    with closing(Client(url, verbose=False)) as other, pytest.raises(AppError, match="no model of yours"):
        publish(other, "hf_visitor")
    loopback.requests.clear()
    with pytest.raises(AppError, match="Sign in, or give a Hub token of your own"):
        publish(client, "")
    with pytest.raises(AppError, match="Repository must be"):
        publish(client, "hf_visitor", "../../etc")
    assert not loopback.requests
    with pytest.raises(AppError) as refused:
        publish(client, "hf_nobody")
    assert "hf_nobody" not in str(refused.value)
    assert publish(client, "hf_visitor").startswith(f"{loopback.endpoint}/visitor/mine/commit/")
    files = loopback.repos["visitor/mine"].head.files
    card = files["README.md"].data.decode()
    assert "sharingan-hub" in card and "samples/grid.png" in files and str(scratch) not in card

    # gone as its maker leaves
    leave(demo, client)
    assert not folders(scratch)
    with closing(Client(url, verbose=False)) as other, pytest.raises(AppError, match="is gone"):
        other.predict(seed=4, count=1, model=model, api_name="/generate")  # seed 3 is drawn and stays for its hour


def test_stop_keeps_what_was_learnt(client, scratch):
    job = client.submit(uploads(), 10, api_name="/train")
    wait_until(lambda: any("left" in output[1] for output in job.outputs()))
    assert "Stopping" in client.predict(api_name="/stop_training")
    assert job.result()[2].startswith("trained-")
    assert client.predict(api_name="/stop_training") == "Nothing of yours is being trained."


def test_cancel_and_leaving_stop_the_work_and_leave_nothing(demo, client, url, scratch):
    with closing(Client(url, verbose=False)) as other:
        for who, end in ((client, lambda job: job.cancel()), (other, lambda job: leave(demo, other))):
            job = who.submit(uploads(), 10, api_name="/train")
            wait_until(job.outputs)
            assert folders(scratch)
            end(job)
            wait_until(lambda: not folders(scratch))
    assert len(client.predict(api_name="/generate")) == 8


def test_a_training_keeps_nobody_from_drawing(client, url, scratch):
    job = client.submit(uploads(), 10, api_name="/train")
    with closing(Client(url, verbose=False)) as other:
        assert len(other.predict(api_name="/generate")) == 8
    assert not job.done()
    job.cancel()
    wait_until(lambda: not folders(scratch))


@pytest.mark.parametrize("count", [0, 9, 31])
def test_too_few_or_too_many_pictures_are_one_sentence(client, count):
    files = [handle_file(PICTURES[i % len(PICTURES)]) for i in range(count)]
    with pytest.raises(AppError, match=rf"^Training needs 10 to 30 pictures, got {count}\.$"):
        client.predict(files, QUICK, api_name="/train")


@pytest.mark.parametrize("data", [b"no picture", b"", b"\x80\x04cposix\nsystem\n.", b"P6 60000 60000 255\n"])
def test_nasty_pictures_are_one_sentence(client, scratch, tmp_path, data):
    (tmp_path / "nasty.png").write_bytes(data)
    with pytest.raises(AppError, match=r"^Picture 10 [^\n/]{10,150}\.$"):
        client.predict([*uploads(9), handle_file(tmp_path / "nasty.png")], QUICK, api_name="/train")
    assert not folders(scratch)


@pytest.mark.parametrize("minutes", [0, 11, None, "5", True])
def test_minutes_are_bounded(client, minutes):
    with pytest.raises(AppError, match=r"^Minutes must be a number from 0.05 to 10, got "):
        client.predict(uploads(), minutes, api_name="/train")
