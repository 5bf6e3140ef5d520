"""Finding models on a Hub on this machine: how many requests that takes, and what strangers' cards can do to the list."""

import json
from datetime import UTC, datetime
from itertools import islice

import pytest
import yaml

from sharingan_hub import hub
from tests.loopback_server import Answer

PNG = b"\x89PNG"


def card(**entries) -> bytes:
    return f"---\n{yaml.safe_dump({'tags': ['sharingan-hub'], **entries})}---\n# words\n".encode()


def add_many(loopback, count: int) -> None:
    for n in range(count):
        loopback.add(f"maker/eyes-{n}", {"README.md": card()}).downloads = n


@pytest.fixture
def thousand(loopback):
    add_many(loopback, 1000)
    loopback.add("maker/other", {"README.md": b"---\ntags: [gan]\n---\n"}).downloads = 10_000
    return loopback


def test_only_pages_that_are_looked_at_are_requested(thousand):
    found = hub.discover(limit=20)
    assert thousand.requests == []
    assert [entry.repo_id for entry in found] == [f"maker/eyes-{n}" for n in range(999, 979, -1)]
    assert len(thousand.requests) == 1
    thousand.clear()
    assert len(list(hub.discover(limit=250))) == 250
    assert len(thousand.requests) == 3
    thousand.clear()
    assert len(list(islice(hub.discover(limit=1000), 101))) == 101
    assert len(thousand.requests) == 2
    thousand.clear()
    assert len({entry.repo_id for entry in hub.discover(limit=5000)}) == 1000
    assert len(thousand.requests) == 10


def test_a_query_narrows_the_list_and_survives_paging(thousand):
    assert [entry.repo_id for entry in hub.discover("eyes-77", limit=3)] == [f"maker/eyes-77{n}" for n in (9, 8, 7)]
    assert len(list(hub.discover("eyes-7", limit=1000))) == 111
    assert list(hub.discover("nothing like it")) == []


def test_an_entry_tells_what_the_card_says(loopback):
    repo = loopback.add(
        "maker/eyes",
        {
            "README.md": card(title="Violet eyes", base_model="someone/base", license="cc-by-4.0", resolution=256),
            "samples/seed0.png": PNG,
            "samples/grid.png": PNG,
        },
    )
    repo.downloads, repo.likes = 12, 3
    entry = next(hub.discover())
    assert entry == hub.ModelEntry(
        repo_id="maker/eyes",
        title="Violet eyes",
        base_model="someone/base",
        resolution=256,
        licence="cc-by-4.0",
        downloads=12,
        likes=3,
        updated=datetime(2025, 1, 1, 0, 1, tzinfo=UTC),
        sha=repo.head.sha,
        thumbnail=f"{loopback.endpoint}/maker/eyes/resolve/{repo.head.sha}/samples/grid.png",
        is_adapter=False,
    )


def test_figures_of_known_kinds_are_told_and_nothing_else(loopback):
    metrics = [
        {"type": "kid", "value": "2.1 ± 0.1", "args": {"value": 2.1}},
        {"type": "coverage", "value": 0.5},
        {"type": "recall", "value": "<b>1</b>"},
        {"type": "beauty", "value": 10},
        {"type": ["kid"], "value": 1},
        "kid",
    ]
    for index in ([{"results": [{"metrics": metrics}]}], {"results": []}, [{"results": {"metrics": 1}}], "kid"):
        loopback.add("maker/eyes", {"README.md": card(**{"model-index": index})})
        expected = (
            {"kid": 2.1, "coverage": 0.5} if isinstance(index, list) and isinstance(index[0]["results"], list) else {}
        )
        assert next(hub.discover()).metrics == expected


def test_what_was_published_is_found_with_its_base_and_size(loopback, checkpoint, adapter):
    hub.publish(checkpoint, "maker/eyes", token="hf_maker")
    hub.publish(adapter, "maker/small", token="hf_maker")
    found = {entry.repo_id: entry for entry in hub.discover()}
    assert found["maker/eyes"].resolution == 16 and found["maker/eyes"].thumbnail.endswith("samples/grid.png")
    assert {name: entry.is_adapter for name, entry in found.items()} == {"maker/eyes": False, "maker/small": True}


def test_a_card_with_nothing_in_it_gives_an_entry_all_the_same(loopback):
    loopback.add("maker/three_red-eyes", {"README.md": card()})
    entry = next(hub.discover())
    assert entry.title == "three red eyes"
    assert (entry.base_model, entry.resolution, entry.licence, entry.thumbnail) == (None, None, None, None)


def test_private_models_are_found_with_their_token(loopback):
    loopback.add("maker/eyes", {"README.md": card()}, private=True)
    assert list(hub.discover()) == []
    assert [entry.repo_id for entry in hub.discover(token="hf_maker")] == ["maker/eyes"]


@pytest.mark.parametrize(
    "entries",
    [
        {"ignore_metadata_errors": True},
        {"self": 1},
        {"model-index": "nonsense"},
        {"model_name": ["<script>alert(1)</script>"], "license": {"a": 1}, "base_model": [[]], "resolution": "10e9"},
        {"model_name": "<img src=x onerror=alert(1)> [eyes](javascript:alert(1))\u202e\x1b[31m" * 100},
        {"resolution": 10**30, "base_model": "<b>base</b>", "license": "\n\n# mit"},
        {"resolution": True, "model_name": "", "base_model": ""},
    ],
)
def test_no_card_ends_the_list_or_gets_markup_into_it(loopback, entries):
    loopback.add("maker/good", {"README.md": card()})
    loopback.add(
        "evil/eyes", {"README.md": card(**entries), "samples/<b>.png": PNG, "samples/../x.png": PNG}
    ).downloads = 9
    evil, good = hub.discover()
    assert (evil.repo_id, good.repo_id) == ("evil/eyes", "maker/good")
    for text in (evil.title, evil.base_model or "", evil.licence or ""):
        assert len(text) <= 80 and text.isprintable() and not set(text) & set("<>[]\n")
    assert evil.title and evil.resolution is None and evil.thumbnail is None


@pytest.mark.parametrize("item", [None, 7, [], {}, {"id": 7}, {"id": "no-slash"}, {"id": "a/../b"}, {"id": "a/<b>"}])
def test_what_is_no_model_is_left_out(loopback, monkeypatch, item):
    loopback.add("maker/good", {"README.md": card()})
    list_models = loopback.list_models

    def with_odd_item(self, request) -> Answer:
        return Answer.json([item, *json.loads(list_models(request).body)])

    monkeypatch.setattr("tests.loopback_hub.ROUTES", [("GET", "/api/models", with_odd_item)])
    assert [entry.repo_id for entry in hub.discover()] == ["maker/good"]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("500", hub.UnreachableError, "The Hub cannot be reached .HTTP 500.: try again later"),
        ("429", hub.RateLimitError, "try again in 55 seconds"),
        ("delay", hub.UnreachableError, "The Hub cannot be reached .*: try again later"),
        ("drop", hub.UnreachableError, "The Hub cannot be reached .*: try again later"),
        ("truncate", hub.UnreachableError, "The Hub cannot be reached .*: try again later"),
    ],
)
@pytest.mark.parametrize("page", [0, 1])
def test_a_hub_in_trouble_is_told_in_one_sentence_at_any_page(loopback, monkeypatch, fault, error, message, page):
    add_many(loopback, 110)
    loopback.fail(fault, page)
    found = hub.discover(limit=1000)
    assert len(list(islice(found, page * 100))) == page * 100
    monkeypatch.setattr("sharingan_hub.hub.finding.TIMEOUT", 0.2 if fault == "delay" else 5.0)
    with pytest.raises(error, match=message):
        next(found)
    assert len(loopback.requests) == page + 1
    monkeypatch.setattr("sharingan_hub.hub.finding.TIMEOUT", 5.0)
    assert len(list(hub.discover(limit=1000))) == 110


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "many"])
def test_a_limit_is_a_whole_number_from_one_on(limit):
    with pytest.raises(ValueError, match="limit is .*; it must be a whole number from 1 on"):
        hub.discover(limit=limit)


def test_a_token_that_is_not_valid_is_told(loopback):
    with pytest.raises(hub.AccessError, match="log in with `hf auth login`"):
        next(hub.discover(token="hf_wrong"))
