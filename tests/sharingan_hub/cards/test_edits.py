"""A card that is written again keeps what its owner wrote: text outside the marks, edited parts, metadata of their own."""

import string

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import yaml_dump
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub.cards.edits import MARK, is_as_written, sealed, update_card

PARTS = ("introduction", "use", "limits")
DATA = {
    "license": "apache-2.0",
    "library_name": "diffusers",
    "pipeline_tag": "unconditional-image-generation",
    "tags": ["sharingan-hub", "gan"],
}


def card(texts: dict[str, str], data: dict = DATA) -> str:
    """A card as build_card makes them, of any parts."""
    marked = [
        f"<!-- sharingan-hub:begin {name} -->\n{text}\n<!-- sharingan-hub:end {name} -->"
        for name, text in texts.items()
    ]
    return f"---\n{yaml_dump(data, sort_keys=False)}---\n{sealed(chr(10).join(marked), data)}\n"


def numbered(number: int, data: dict = DATA) -> str:
    return card({name: f"## {name}\n\nVersion {number}." for name in PARTS}, data)


def head(text: str) -> dict:
    return ModelCard(text).data.to_dict()


OLD, NEW = numbered(1), numbered(2)
LINES = st.text(string.ascii_letters + "äöß \n#*-|<>é", max_size=60)
VALUES = st.one_of(
    st.text(string.ascii_letters, min_size=1), st.integers(), st.lists(st.text("abc", min_size=1), max_size=3)
)
OWNED = st.dictionaries(st.sampled_from(["license", "tags", "datasets", "language", "thumbnail", "title"]), VALUES)


def test_a_card_that_nobody_edited_becomes_the_new_one():
    assert update_card(NEW, OLD) == NEW and update_card(OLD, OLD) == OLD
    assert update_card(NEW, None) == update_card(NEW, "") == update_card(NEW, " \n") == NEW


@settings(max_examples=40)
@given(LINES, LINES, LINES)
def test_text_outside_the_marks_survives(before, between, after):
    end = "<!-- sharingan-hub:end introduction -->"
    first, rest = OLD.split("---\n<!--", 1)
    edited = f"{first}---\n{before}\n<!--{rest.replace(end, end + between)}{after}"
    updated = update_card(NEW, edited)
    first, rest = NEW.split("---\n<!--", 1)
    assert updated == f"{first}---\n{before}\n<!--{rest.replace(end, end + between)}{after}"


@settings(max_examples=40)
@given(st.sampled_from(PARTS), LINES)
def test_an_edited_part_survives_and_the_others_are_renewed(part, words):
    edited = OLD.replace(f"## {part}\n\nVersion 1.", f"## {part}\n\nMine: {words}")
    for updated in (update_card(NEW, edited), update_card(numbered(3), update_card(NEW, edited))):
        assert f"## {part}\n\nMine: {words}" in updated
        assert updated.count("Version 1.") == 0 and updated.count("Version") == 2


def test_editors_that_change_line_ends_and_spaces_edit_nothing():
    windows = OLD.replace("Version 1.", "Version 1.  ").replace("\n", "\r\n")
    assert "Version 1." not in update_card(NEW, windows) and update_card(NEW, windows).count("Version 2.") == 3


def test_a_part_that_was_taken_out_stays_out():
    marks = [mark.start() for mark in MARK.finditer(OLD)]
    without = OLD[: marks[2]] + OLD[marks[3] :].partition("-->")[2]
    updated = update_card(NEW, without)
    assert "## use" not in updated and "## limits\n\nVersion 2." in updated


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("<!-- sharingan-hub:end use -->", ""),
        lambda text: text.replace("sharingan-hub:begin use", "sharingan-hub:begin limits"),
        lambda text: text.replace("<!-- sharingan-hub:begin use", "<!-- sharingan-hub:begin use <!--"),
    ],
)
def test_text_behind_a_broken_mark_is_the_owners(damage):
    updated = update_card(NEW, damage(OLD))
    assert "## use\n\nVersion 1." in updated and "## introduction\n\nVersion 2." in updated


def test_parts_may_be_put_in_another_order():
    parts = card({name: f"## {name}\n\nVersion 1." for name in reversed(PARTS)})
    assert update_card(NEW, parts) == card({name: f"## {name}\n\nVersion 2." for name in reversed(PARTS)})


@settings(max_examples=40)
@given(OWNED)
def test_metadata_that_the_owner_wrote_survives(owned):
    edited = f"---\n{yaml_dump(DATA | owned)}---\n" + OLD.split("---\n", 2)[2]
    updated = head(update_card(NEW, edited))
    for key, value in owned.items():
        if key == "tags":
            wanted = value if isinstance(value, list) else [value] if isinstance(value, str) else []
            assert set(updated["tags"]) == {"sharingan-hub", *wanted}
        else:
            assert updated[key] == value
    assert {key: value for key, value in updated.items() if key not in owned} == {
        key: value for key, value in DATA.items() if key not in owned
    }


def test_metadata_that_nobody_changed_is_renewed():
    fresh = {**DATA, "license": "mit", "tags": ["sharingan-hub", "gan", "few-shot"], "base_model": "a/b"}
    del fresh["pipeline_tag"]
    assert head(update_card(numbered(2, fresh), OLD)) == fresh


def test_tags_are_joined_with_the_owners_and_without_those_they_took_out():
    old = numbered(1, DATA | {"tags": ["sharingan-hub", "gan", "few-shot"]})
    edited = old.replace("- gan\n", "- mine\n")
    updated = update_card(numbered(2, DATA | {"tags": ["sharingan-hub", "gan", "radial"]}), edited)
    assert head(updated)["tags"] == ["sharingan-hub", "radial", "mine"]
    again = update_card(numbered(3, DATA | {"tags": ["sharingan-hub", "gan", "new"]}), updated)
    assert head(again)["tags"] == ["sharingan-hub", "new", "mine"]


def test_a_key_that_the_owner_took_out_stays_out_unless_it_is_needed():
    edited = (
        OLD.replace("license: apache-2.0\n", "")
        .replace("library_name: diffusers\n", "")
        .replace("- sharingan-hub\n", "")
    )
    updated = head(update_card(NEW, edited))
    assert "license" not in updated
    assert updated["library_name"] == "diffusers" and "sharingan-hub" in updated["tags"]


def test_a_readme_of_the_users_own_only_gets_what_a_model_needs():
    readme = "---\nlicense: mit\ntags: art\n---\n# Mine\n\nAll of it.\n"
    updated = update_card(NEW, readme)
    assert updated.endswith("---\n# Mine\n\nAll of it.\n")
    assert head(updated) == {
        "license": "mit",
        "tags": ["art", "sharingan-hub"],
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
    }
    assert (
        update_card(NEW, "# No head")
        == f"---\n{yaml_dump({k: v for k, v in DATA.items() if k in ('library_name', 'pipeline_tag')}, sort_keys=False)}tags:\n- sharingan-hub\n---\n# No head"
    )


def test_a_readme_that_has_all_it_needs_is_left_as_it_is_to_the_byte():
    readme = "---\n# a comment\nlibrary_name:   diffusers\npipeline_tag: image-to-image\ntags: [sharingan-hub]\n---\r\n\nMine\r\n"
    assert update_card(NEW, readme) == readme


def test_a_head_alone_as_the_hubs_own_form_makes_it_gets_our_text():
    updated = update_card(NEW, "---\nlicense: cc-by-4.0\n---\n")
    assert head(updated) == {**DATA, "license": "cc-by-4.0"} and "## use\n\nVersion 2." in updated
    assert head(update_card(numbered(3), updated))["license"] == "cc-by-4.0"


@pytest.mark.parametrize(
    "broken",
    [
        "license: [mit",
        "a: b: c",
        "- a\n- list",
        "date: 2020-99-99",
        "a: &x [1, 2]\nb: *x",
        "x: !!python/object/apply:os.system ['true']",
        "{" * 500,
        "a: \ud800",
    ],
)
@pytest.mark.parametrize("body", ["# Mine\n", OLD.split("---\n", 2)[2], ""])
def test_a_damaged_head_is_set_aside_and_kept(broken, body):
    updated = update_card(NEW, f"---\n{broken}\n---\n{body}")
    assert broken in updated.split("---\n", 2)[2]
    assert head(updated).items() >= {k: v for k, v in DATA.items() if k not in ("license", "tags")}.items()
    assert "sharingan-hub" in head(updated)["tags"]
    assert update_card(NEW, updated) == updated
    assert "# Mine" in updated or "Version 2." in updated


def test_a_head_cannot_end_the_comment_that_it_is_set_aside_in():
    updated = update_card(NEW, "---\na: [ -->\n<script>alert(1)</script>\n---\n# Mine\n")
    comment = updated.split("---\n", 2)[2]
    assert comment.startswith("<!--") and "<script>" in comment[: comment.index("-->")]


def test_a_head_of_very_many_lines_is_set_aside_unread():
    lines = "".join(f"key{number}: x\n" for number in range(10_000))
    updated = update_card(NEW, f"---\n{lines}---\n# Mine\n")
    assert head(updated).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "key9999" in updated and "# Mine" in updated


def test_a_thousand_million_laughs_are_not_laughed():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert head(update_card(NEW, "---\n" + "\n".join(lines) + "\n---\n# Mine\n"))["tags"] == ["sharingan-hub"]


MESS = st.lists(
    st.sampled_from(
        [OLD, NEW, "---\n", "---\nlicense: mit\n---\n", "tags: 3\n", "# Mine\n", "\r\n", "<!-- sharingan-hub:begin use 00 -->",
         "<!-- sharingan-hub:end use -->", "<!-- sharingan-hub:metadata license=zz tags= -->", "<!--", "-->", "\ufeff", "Version 1."]
    ),
    max_size=6,
).map("".join)  # fmt: skip


@settings(max_examples=40)
@given(MESS)
def test_updating_twice_changes_nothing_more(previous):
    once = update_card(NEW, previous)
    assert update_card(NEW, once) == once


@settings(max_examples=40)
@given(MESS)
def test_whatever_was_there_the_result_is_a_card_that_can_be_found(previous):
    metadata = head(update_card(NEW, previous))
    assert "sharingan-hub" in metadata["tags"] and metadata["library_name"] == "diffusers"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\nThanks to my cat.\n",
        lambda text: text.replace("license: apache-2.0", "license: mit"),
        lambda text: text.replace("library_name:", "language: en\nlibrary_name:"),
        lambda text: text.replace("Version 1", "Version 7", 1),
        lambda text: text.replace("<!-- sharingan-hub:begin limits", "Between.\n<!-- sharingan-hub:begin limits"),
        lambda text: "# Mine\n",
        lambda text: "",
    ],
)
def test_a_card_is_as_written_until_somebody_edits_it(edit):
    assert is_as_written(OLD) and is_as_written(update_card(NEW, OLD))
    edited = edit(OLD)
    assert edited != OLD and not is_as_written(edited)
