"""What every talk with the Hub needs: an end to waiting, which its client often lacks, and errors in one sentence."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from sharingan_hub.checkpoints.strict import HubError, printable, shown

TRIES = 3
COMMIT_SECONDS = 60.0  # a commit is not repeated by the client, and takes the Hub longer than other requests
TRY_AGAIN = ": try again later"
LOG_IN = "The Hub does not know you: log in with `hf auth login`, or give a token that is valid"


class RepositoryError(HubError):
    """The repository or its revision is not there, or not for this visitor."""


class UnreachableError(HubError):
    """The Hub does not answer, or not with what was asked for; and the local cache does not hold it."""


class AccessError(HubError):
    """The Hub does not know who asks, or does not let them do this."""


class RateLimitError(HubError):
    """The Hub has had too many requests from here."""


class ConflictError(HubError):
    """Others changed the repository at the same time."""


class RejectedError(HubError):
    """The Hub does not accept what was sent."""


@dataclass(eq=False)
class _Operation:
    """A talk with the Hub: how long it waits for an answer and how often for the same one, and when it began."""

    seconds: float
    waits: int
    began: float
    is_answered: bool = False
    has_ended: bool = False
    files: dict[str, float] = field(default_factory=dict)  # when each was last asked for

    def left(self) -> float:
        """How long the next request may take. Before the Hub has shown that it is there, all of them share the time."""
        return self.seconds if self.is_answered else self.seconds - (time.monotonic() - self.began)


# Of all threads, because the client works with threads of its own.
_under_way: list[_Operation] = []
_thread = threading.local()


@contextmanager
def patience(seconds: float, waits: int = TRIES) -> Iterator[None]:
    """Within it, the Hub's client waits at most this long for an answer and asks for the same at most three times.

    By itself it waits for ever for most answers, asks six times, and sits out rate limits of minutes.

    Args:
        seconds: for each answer; of a download, for its next bytes where `waits` is 1, else as long as the client does.
        waits: how often the whole time is waited for the same answer. After that all ends, whichever thread asks.

    Raises:
        UnreachableError, RateLimitError: from within the client, when patience ends.
    """
    hooks = get_session().event_hooks
    if _before not in hooks["request"]:
        hooks["request"].append(_before)
        hooks["response"].append(_after)
    _thread.asked = None
    operation = _Operation(seconds, waits, time.monotonic())
    _under_way.append(operation)
    try:
        yield
    finally:
        _under_way.remove(operation)


def _before(request: Any) -> None:
    operations = [*_under_way]
    if not operations:
        return
    limit = max(operation.left() for operation in operations)
    patient = max(operation.waits for operation in operations)
    asked, now = (request.method, str(request.url), request.headers.get("Range")), time.monotonic()
    last, tries, waits, began = getattr(_thread, "asked", None) or (None, 0, 0, now)
    if asked == last:
        tries, waits = tries + 1, waits + (now - began >= limit)
    else:  # where a file was asked for and, after such a time, is again, its answer began and stopped halfway
        tries, waits = 1, int(any(now - operation.files.get(asked[1], now) >= limit for operation in operations))
    if request.method == "GET":
        for operation in operations:
            operation.files[asked[1]] = now
    _thread.asked = asked, tries, waits, now
    if tries > TRIES or waits >= patient or limit <= 0 or all(operation.has_ended for operation in operations):
        _thread.asked = None
        for operation in operations:
            operation.has_ended |= waits >= patient
        raise UnreachableError(f"The Hub cannot be reached (no answer){TRY_AGAIN}")
    if request.method == "GET" and "/resolve/" in request.url.path and patient > 1:
        return  # a download has a limit of the client's own, and goes on where it stopped
    limit = max(limit, COMMIT_SECONDS) if "/commit/" in request.url.path else limit
    times = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        kind: min(limit, times.get(kind) or limit) for kind in ("connect", "read", "write", "pool")
    }


def _after(response: Any) -> None:
    if not _under_way:
        return
    if response.status_code == 429:
        raise RateLimitError(rate_limit_sentence(response))
    if response.status_code < 500:
        _thread.asked = None
        for operation in [*_under_way]:
            operation.is_answered = True


def rate_limit_sentence(response: Any) -> str:
    """What to do about an answer 429."""
    headers = f"{response.headers.get('Retry-After', '')};{response.headers.get('RateLimit', '')}"
    seconds = re.match(r"(\d+);", headers) or re.search(r"\bt=(\d+)", headers)
    return f"The Hub has had too many requests from here: try again in {seconds[1] if seconds else 'some'} seconds"


@contextmanager
def explained(what: str, revision: str | None = None, writing: bool = False) -> Iterator[None]:
    """Raise what the Hub's client raises within it as one of our errors, with one sentence; see `explain`."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        raise explain(error, what, revision, writing) from error


def explain(error: Exception, repo_id: str, revision: str | None = None, writing: bool = False) -> HubError:
    """The error of ours that says what the client's error means and what to do about it.

    Args:
        repo_id, revision: what was asked for, or is to be written.
        writing: whether it is to be written.
    """
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    for link in chain:
        if isinstance(link, HubError):
            return link
        if isinstance(link, HFValidationError):
            return RepositoryError(f"{shown(repo_id)} is no Hub id; one looks like 'user/name'")
        if isinstance(link, GatedRepoError):
            return RepositoryError(f"{repo_id} asks for consent: accept its terms on the Hub and log in")
        if isinstance(link, RepositoryNotFoundError):
            return RepositoryError(f"There is no model {repo_id} on the Hub, or it is private: log in")
        if isinstance(link, RevisionNotFoundError) and revision is not None:
            return RepositoryError(f"The model {repo_id} has no revision {revision}")
        if isinstance(link, LocalTokenNotFoundError):
            return AccessError(LOG_IN)
        if isinstance(link, OfflineModeIsEnabled):
            return UnreachableError("The Hub cannot be reached (HF_HUB_OFFLINE is set): unset it to use the network")
        if isinstance(link, HfHubHTTPError):
            return explain_status(link, repo_id, writing)
        if isinstance(link, ValueError) and "metadata in README.md" in str(link):
            return RejectedError(f"The Hub does not accept the head of README.md: {last_line(str(link))}")
    if isinstance(error, TypeError | KeyError | AttributeError):  # such as of a card whose head the client cannot take
        return RepositoryError(f"What the Hub says about {repo_id} cannot be read ({type(error).__name__})")
    if isinstance(error, OSError) and error.errno and error.filename:
        return UnreachableError(f"Files of the Hub cannot be stored here: {error.strerror}")
    return UnreachableError(f"The Hub cannot be reached ({type(error).__name__}){TRY_AGAIN}")


def explain_status(error: HfHubHTTPError, repo_id: str, writing: bool) -> HubError:
    """The same for an answer with an error status."""
    status = error.response.status_code
    if status == 401:
        return AccessError(LOG_IN)
    if status == 403 and writing:
        return AccessError(
            f"You may not write to {repo_id}: use a token with write access, publish under your own name, "
            "or propose it as a pull request (create_pr)"
        )
    if status == 403:
        return AccessError(f"You may not see {repo_id}: use a token with read access to it")
    if status in (409, 412):
        return ConflictError(f"Others are changing {repo_id} at the same time{TRY_AGAIN}")
    if status == 429:
        return RateLimitError(rate_limit_sentence(error.response))
    if status >= 500 or status in (404, 408, 416):
        return UnreachableError(f"The Hub cannot be reached (HTTP {status}){TRY_AGAIN}")
    said = last_line(error.server_message or "") or f"HTTP {status}"
    return RejectedError(
        f"The Hub does not accept {'this for' if writing else ''} {repo_id}: {said}".replace("  ", " ")
    )


def last_line(text: str) -> str:
    """The last line of what the Hub says, shortened and printable."""
    lines = text.strip().splitlines() or [""]
    return printable(lines[-1].lstrip("- "), 200)
