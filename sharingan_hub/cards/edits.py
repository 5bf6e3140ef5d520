"""A card that is written again and again, and whose owner may edit it in between.

What we write stands between two comments that no reader sees; the first carries a hash of what is between them:

    <!-- sharingan-hub:begin use 1a2b3c4d -->
    ...
    <!-- sharingan-hub:end use -->

A part whose hash is still right is ours to renew. One that was edited, and all text outside, is its owner's. One that is gone
was taken out on purpose and does not come back. Another comment keeps hashes of the metadata that we wrote, by which what the
owner changed, added or took out there is known.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from sharingan_hub.cards.safe_text import without

BEGIN = "<!-- sharingan-hub:begin {name} {digest} -->"
END = "<!-- sharingan-hub:end {name} -->"
METADATA = "<!-- sharingan-hub:metadata {digests} -->"
MARK = re.compile(r"<!-- sharingan-hub:(begin|end) ([a-z]+)(?: ([0-9a-f]+))? -->")
MEMORY = re.compile(r"<!-- sharingan-hub:metadata ([\w\-=, ]*) -->")
ASIDE = "<!-- This stood where the metadata is, and could not be read as such:\n{head}\n-->\n\n"
TAG = "sharingan-hub"  # by which models are found
CARD_BYTES = 2**20
HEAD_LIMIT = 2**16  # characters; a reader in Python takes a second for so many
NEEDED = ("library_name", "pipeline_tag")


def sealed(body: str, metadata: Mapping[str, Any]) -> str:
    """A card's body, its parts marked by BEGIN without a hash and END, with the hashes and those of the metadata put in."""
    parts, place = [], 0
    for first, last in _pairs(body):
        digest = _digest(body[first.end() : last.start()])
        parts += [body[place : first.start()], BEGIN.format(name=first[2], digest=digest)]
        place = first.end()
    body = "".join(parts) + body[place:]
    digests = " ".join(f"{key}={','.join(_digests(value))}" for key, value in metadata.items())
    return METADATA.format(digests=digests) + "\n" + body.lstrip("\n")


def update_card(new: str, previous: str | None) -> str:
    """The new card, with whatever the owner of the previous one wrote there kept.

    Of a card of ours, parts that nobody edited and metadata that nobody changed become those of `new`; tags and data sets
    are joined. Of a card without our marks everything stays, and only what a model needs in order to be found and opened
    is added to its metadata: the tag, library_name and pipeline_tag. A head that is not readable as YAML, or uses YAML's
    aliases, is set aside in a comment. Updating twice changes nothing more.

    Args:
        new: text of a card from build_card.
        previous: text of the README.md that is to be replaced; None where there is none.
    """
    if previous is None or not previous.strip():
        return new
    previous = previous.removeprefix("\ufeff")
    head, body = _split(previous)
    kept_head = previous[: len(previous) - len(body)]
    new_head, new_body = _split(new)
    fresh, current, remembered = _read_head(new_head) or {}, _read_head(head), _memory(body)
    ours = not body.strip() or bool(MARK.search(body) or MEMORY.search(body))
    if ours:
        body = _renewed(body, new_body) if body.strip() else new_body
    if current is None:  # the head is damaged
        body = ASIDE.format(head=re.sub(r"--(!?)>", r"-- \1>", head or "")) + body
        merged = fresh if ours else _with_needed({}, fresh)
    else:
        merged = _with_needed(_merged(remembered, current, fresh) if ours else current, fresh)
    return kept_head + body if merged == current else f"---\n{_yaml(merged)}\n---\n{body}"


def is_as_written(card: str) -> bool:
    """Whether a card is ours and nobody has edited, added or taken out anything that a reader sees."""
    head, body = _split(card)
    metadata, pairs = _read_head(head), _pairs(body)
    if metadata is None or {key: _digests(value) for key, value in metadata.items()} != _memory(body):
        return False
    outside = "".join(
        body[a:b]
        for a, b in zip([0, *(last.end() for _, last in pairs)], [*(first.start() for first, _ in pairs), len(body)])
    )
    return (
        bool(pairs)
        and all(first[3] == _digest(body[first.end() : last.start()]) for first, last in pairs)
        and not without(outside, "<!--", "-->").strip()
    )


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text of a folder's README.md, which may be a stranger's; both empty where they cannot be read.

    Of metadata with YAML's aliases, or of very much of it, nothing is read.
    """
    from sharingan_hub.checkpoints.strict import CheckpointError, open_file

    try:
        with open_file(folder / "README.md") as file:
            card = file.read(CARD_BYTES).decode("utf-8", errors="replace")
    except (OSError, CheckpointError):
        return {}, ""
    head, body = _split(card.removeprefix("\ufeff"))
    return _read_head(head) or {}, body


def _split(card: str) -> tuple[str | None, str]:
    """The YAML between the lines of dashes, None where there is none, and the text after them."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    match = REGEX_YAML_BLOCK.search(card)
    return (match[2], card[match.end() :]) if match else (None, card)


def _read_head(head: str | None) -> dict[str, Any] | None:
    """Metadata; empty where there is no head, None where it cannot be read."""
    import yaml

    if head and len(head) > HEAD_LIMIT:
        return None

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for gigabytes
                raise yaml.YAMLError("alias")
            return super().compose_node(parent, index)

    try:
        data = yaml.load(head or "", Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return None
    return {} if data is None else data if isinstance(data, dict) else None


def _yaml(metadata: dict[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump

    return yaml_dump(metadata, sort_keys=False).strip()


# Text


def _pairs(body: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    """Marks that belong together: a beginning, and next to it the end of the same part."""
    marks = list(MARK.finditer(body))
    return [(a, b) for a, b in zip(marks, marks[1:]) if (a[1], b[1]) == ("begin", "end") and a[2] == b[2]]


def _renewed(body: str, new_body: str) -> str:
    """The body with those parts that nobody edited, and the memory of the metadata, as they are in the new one."""
    fresh = {a[2]: new_body[a.start() : b.end()] for a, b in _pairs(new_body)}
    parts, place = [], 0
    for first, last in _pairs(body):
        if first[3] == _digest(body[first.end() : last.start()]) and first[2] in fresh:
            parts += [body[place : first.start()], fresh[first[2]]]
            place = last.end()
    body = "".join(parts) + body[place:]
    memory = MEMORY.search(new_body)
    return MEMORY.sub(lambda _: memory[0], body, count=1) if memory else body


def _digest(text: str) -> str:
    """Hash of a text, whatever its line ends and the spaces before them."""
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:8]


# Metadata


def _digests(value: Any) -> list[str]:
    """Hash of a value, or of each item of a list of strings."""
    items = value if _is_list(value) else [value]
    return [_digest(json.dumps(item, sort_keys=True, default=str)) for item in items]


def _is_list(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _memory(body: str) -> dict[str, list[str]]:
    """Hashes of the metadata that we wrote last."""
    found = MEMORY.search(body)
    pairs = [pair.partition("=") for pair in found[1].split()] if found else []
    return {key: digests.split(",") if digests else [] for key, _, digests in pairs}


def _merged(
    remembered: Mapping[str, list[str]], current: Mapping[str, Any], fresh: Mapping[str, Any]
) -> dict[str, Any]:
    """The current metadata with the fresh one in it, wherever the current is still what we wrote."""
    result = dict(current)
    for key in [*current, *(key for key in fresh if key not in current)]:
        before, now, ours = remembered.get(key), current.get(key), fresh.get(key)
        if isinstance(now, str) and _is_list(ours):
            now = [now]
        if (None if now is None else _digests(now)) == before:
            value = ours
        elif _is_list(now) and _is_list(ours):
            gone = set(before or []) - set(_digests(now))
            value = [item for item in ours if _digests(item)[0] not in gone]
            value += [item for item in now if _digests(item)[0] not in (before or []) and item not in value]
        else:
            continue
        result.pop(key, None) if value is None else result.update({key: value})
    return result


def _with_needed(metadata: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with what a model needs in order to be found and opened."""
    result = dict(metadata)
    for key in NEEDED:
        if result.get(key) is None and key in fresh:
            result[key] = fresh[key]
    tags = result.get("tags")
    tags = [tags] if isinstance(tags, str) else tags if isinstance(tags, list) else []
    if TAG in fresh.get("tags", []) and TAG not in tags:
        result["tags"] = [*tags, TAG]
    return result
