"""A run's checkpoints on the Hub, sent in the background, which neither delays the run nor ends it."""

import logging
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from sharingan_hub import hub

logger = logging.getLogger("training.publishing")

NOT_SENT = "A checkpoint was not published: %s. Training goes on."


class Publishing(Protocol):
    """What a config says of publishing: whether, where, and whether privately."""

    push_to_hub: bool
    hub_model_id: str | None
    hub_private_repo: bool


class CheckpointPublisher:
    """Sends checkpoints one at a time from a thread of its own; what comes while one is on its way is left out."""

    def __init__(self, config: Publishing) -> None:
        self.config = config
        self.pool = ThreadPoolExecutor(1, "publish")
        self.sending: Future[None] | None = None

    def send(self, folder: Path) -> None:
        """Begin to publish a copy of a checkpoint folder, which may change meanwhile."""
        if self.sending is not None and not self.sending.done():
            logger.info("The checkpoint before this one is still on its way to the Hub: this one is not sent.")
            return
        try:
            copy = copied(folder)
        except OSError as error:  # such as a full disk
            logger.warning(NOT_SENT, error)
            return
        self.sending = self.pool.submit(self._send, copy)

    def _send(self, copy: Path) -> None:
        try:
            steps = hub.read_json(copy / "report.json")["steps"]
            publish(self.config, copy, f"Step {steps}")
        except Exception as error:  # whatever it is, the next checkpoint may get through
            logger.warning(NOT_SENT, error)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def close(self) -> None:
        """Wait for what is on its way."""
        self.pool.shutdown()


def copied(folder: Path) -> Path:
    """A temporary copy of what may be published of a folder; nothing is left where it cannot be made."""
    copy = Path(tempfile.mkdtemp(prefix="publish-"))
    try:
        ignored = shutil.ignore_patterns("checkpoints", "logs", ".*")
        shutil.copytree(folder, copy, ignore=ignored, dirs_exist_ok=True)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return copy


def publish(config: Publishing, folder: Path, message: str) -> hub.Published:
    """Publish a folder where the config says."""
    assert config.hub_model_id is not None
    return hub.publish(folder, config.hub_model_id, private=config.hub_private_repo, commit_message=message)
