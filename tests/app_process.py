"""app.py in a process of its own, as a Space starts it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("SHARINGAN_MODEL", "HF_TOKEN", "HF_HUB_OFFLINE")


@contextmanager
def app(folder: Path = ROOT, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the app.py in a folder on a free port of 127.0.0.1 -> its address and process, once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        **{name: value for name, value in os.environ.items() if name not in LEFT_OUT},
        "PYTHONPATH": str(folder),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    output = []
    try:
        for line in process.stdout:
            output.append(line)
            if str(port) in line:
                break
        else:
            raise RuntimeError("app.py ended before it listened:\n" + "".join(output))
        watchdog.cancel()
        threading.Thread(target=process.stdout.read, daemon=True).start()  # so that the pipe never fills
        yield f"http://127.0.0.1:{port}", process
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(60)
