"""Finding models that others published: one page of the Hub's list after the other, and only as many as are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from sharingan_hub.hub.client import explained, patience

TAG = "sharingan-hub"
PAGE = 100
TIMEOUT = 5.0  # seconds that the Hub may take for one page
REPO_ID = re.compile(r"\w[\w\-.]{0,95}/\w[\w\-.]{0,95}", re.ASCII)
SHA = re.compile(r"[0-9a-f]{40}")
SAMPLE = re.compile(r"samples/\w[\w. -]*\.png", re.ASCII)  # as fetching.py downloads them
MAX_RESOLUTION = 8192
METRICS = ("kid", "fid", "precision", "recall", "density", "coverage", "copying", "diversity", "novelty", "symmetry")


@dataclass(frozen=True)
class ModelEntry:
    """A published model, as far as the Hub's list tells. All text is harmless: one line without markup.

    Args:
        title: its name; the last part of the repository's where the card has none.
        resolution: side of its pictures in pixels.
        downloads, likes: as the Hub counts them.
        updated: when it last changed.
        sha: commit that the rest is about; None where the Hub does not say.
        thumbnail: address of one of its sample pictures on the Hub.
        is_adapter: whether it is a small fine-tune that is laid over `base_model`, and no model of its own.
        metrics: what its card claims was measured, such as kid and coverage; the card says against what.
    """

    repo_id: str
    title: str
    base_model: str | None
    resolution: int | None
    licence: str | None
    downloads: int
    likes: int
    updated: datetime | None
    sha: str | None
    thumbnail: str | None
    is_adapter: bool
    metrics: dict[str, float] = field(default_factory=dict)


def discover(query: str | None = None, limit: int = 20, token: str | bool | None = None) -> Iterator[ModelEntry]:
    """Models and adapters on the Hub with the tag `sharingan-hub`, most downloaded first.

    Pages are requested while the result is iterated over. An entry that cannot be read is left out.

    Args:
        query: words that the repository's name must contain; None finds all.
        limit: how many at most, from 1 on.
        token: to find private ones too.

    Raises:
        ValueError: limit is below 1.
        UnreachableError, RateLimitError, AccessError: while iterating, when the Hub does not answer.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit is {limit!r}; it must be a whole number from 1 on")
    entries = map(read_entry, _list(query, min(limit, PAGE), token))
    return islice((entry for entry in entries if entry is not None), limit)


def _list(query: str | None, size: int, token: str | bool | None) -> Iterator[Any]:
    """What the Hub says of each model.

    HfApi.list_models asks the same, but waits for ever for a Hub that hangs, and ends at the first card whose head it
    cannot take: one stranger could hide everybody's models.
    """
    url: str | None = f"{constants.ENDPOINT}/api/models"
    params: dict[str, Any] | None = {"filter": TAG, "sort": "downloads", "limit": size, "full": True, "cardData": True}
    if query and params is not None:
        params["search"] = query
    while url:
        with explained("the list of models"), patience(TIMEOUT):
            headers = build_hf_headers(token=token)
            response = get_session().get(url, params=params, headers=headers, timeout=TIMEOUT)
            hf_raise_for_status(response)
            items = response.json()
        yield from items if isinstance(items, list) else []
        url, params = response.links.get("next", {}).get("url"), None


def read_entry(item: Any) -> ModelEntry | None:
    """A model from the Hub's list; None where that cannot be read. Strangers wrote most of it."""
    from sharingan_hub.cards import plain_text

    if not isinstance(item, dict) or not _is_match(REPO_ID, item.get("id")):
        return None
    repo_id, sha = item["id"], item.get("sha") if _is_match(SHA, item.get("sha")) else None
    card = item["cardData"] if isinstance(item.get("cardData"), dict) else {}

    def text(name: str) -> str | None:
        value = card.get(name)
        value = value[0] if isinstance(value, list) and value else value
        return plain_text(value) or None if isinstance(value, str) else None

    siblings = item["siblings"] if isinstance(item.get("siblings"), list) else []
    names = [str(file.get("rfilename")) for file in siblings if isinstance(file, dict)]
    samples = sorted(name for name in names if SAMPLE.fullmatch(name))
    picture = "samples/grid.png" if "samples/grid.png" in samples else next(iter(samples), None)
    resolution = card.get("resolution")
    return ModelEntry(
        repo_id=repo_id,
        title=text("title") or text("model_name") or plain_text(re.sub("[-_]+", " ", repo_id.partition("/")[2])),
        base_model=text("base_model"),
        resolution=resolution if type(resolution) is int and 1 <= resolution <= MAX_RESOLUTION else None,
        licence=text("license"),
        downloads=_count(item.get("downloads")),
        likes=_count(item.get("likes")),
        updated=_time(item.get("lastModified")),
        sha=sha,
        thumbnail=picture and hf_hub_url(repo_id, picture, revision=sha),
        is_adapter="adapter_config.json" in names or card.get("base_model_relation") == "adapter",
        metrics=_metrics(item.get("model-index") or card.get("model-index")),
    )


def _metrics(index: Any) -> dict[str, float]:
    """Figures of the known kinds in a card's model-index; what cannot be read is left out."""
    found: dict[str, float] = {}
    for model in index if isinstance(index, list) else []:
        for result in _list_in(model, "results"):
            for metric in _list_in(result, "metrics"):
                kind = metric.get("type") if isinstance(metric, dict) else None
                exact = metric["args"].get("value") if kind and isinstance(metric.get("args"), dict) else None
                value: Any = exact if exact is not None else metric.get("value") if kind else None
                if kind in METRICS and type(value) in (int, float) and abs(value) < 1e9:
                    found.setdefault(str(kind), float(value))
    return found


def _list_in(value: Any, name: str) -> list[Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner[:64] if isinstance(inner, list) else []


def _is_match(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
