"""What strangers write is shown as words: no markup, no steering of terminals, and only links that go where they may."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharingan_hub.cards.safe_text import CARD_LIMIT, plain_code, plain_text, safe_card

MARKUP = st.text(
    st.one_of(st.sampled_from("<>&[]()*_`~#|\\!\"'$:;/@ \n\t-+=.{}12ab"), st.characters()), max_size=200
) | st.lists(
    st.sampled_from(
        ["<script>", "</script>", "<!--", "-->", "](", "]:", "[a](", "javascript:alert(1)", "&#106;", "&lt;", "<img src=x ",
         "https://a.example", "data:text/html,", "\u202e", "\u200b", "![x]", "\n", " ", ")", "<", "a", "---\n"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Eyes of fire", "Eyes of fire"),
        ("<b>Fire</b> & Ice", "Fire & Ice"),
        ("Q&amp;A &lt;script&gt;", "Q& A"),
        ("![x](javascript:alert(1))", "(x)(javascript:alert(1))"),
        ("# *my_model_v2* __init__ `code`", "my_model_v2 init code"),
        ("a\u202eb\u200bc\nd\x1b[31m", "abc d(31m"),
        ("https://evil.example and www.evil.com, me@evil.com", "https evil.example and www evil.com, me at evil.com"),
        ("| a | b\\", "/ a / b/"),
        ("日本語 नमस्ते é 👁️", "日本語 नमस्ते é 👁️"),
        ("z" + "\u0301" * 50, "ź" + "\u0301" * 3),
        ("\u3164\u2800", ""),
        ('say "it\'s"', "say ”it’s”"),
        ("x" * 100, "x" * 79 + "…"),
    ],
)
def test_a_title_is_one_line_of_plain_words(written, shown):
    assert plain_text(written) == shown


@given(MARKUP, st.integers(1, 100))
def test_no_title_means_anything_to_markdown_html_or_a_terminal(text, limit):
    shown = plain_text(text, limit)
    assert len(shown) <= limit
    assert not set(shown) & set("<>[]*`~|\\\"'$\n\r\t")
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")]
    assert "://" not in shown and not re.search(r"&[#\w]", shown)
    assert not re.search(r"(?<!\w)_|_(?!\w)", shown)


def test_code_keeps_patterns_but_cannot_leave_its_quotes():
    assert plain_code("fc.[0-3].*|mapping_1") == "fc.[0-3].*|mapping_1"
    assert plain_code("a`\n```\n<script>") == "a’ ’’’ (script)"
    assert len(plain_code("x" * 1000)) == 200


def test_a_card_keeps_its_text_tables_code_and_good_links():
    card = """# Title

Some *words*, a [link](https://example.com/a?b=1&c=2 "said"), a [badge ![b](https://img.example/x.svg)](https://example.com).

| a | b |
|---|---|
| 1 | 2 |

```python
if a < b and c[0] > 3:
    d = f(x)[1]
```"""
    assert safe_card(card) == card.replace("&c", "&amp;c").replace(' "said"', "")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("---\nlicense: mit\n---\n# T", "# T"),
        ("a<script>alert(1)</script>b<style>x</style >c", "abc"),
        ("<b onclick=x>bold</b><br/><iframe src='https://x'></iframe>", "bold"),
        ("a <!-- hidden --> b", "a  b"),
        ("<!-- never closed", "&lt;!-- never closed"),
        ("[a](javascript:alert(1))", "[a] (javascript:alert(1))"),
        ("[a](java&#115;cript&colon;x)", "a"),
        ("[a](javascript\\:x)", "a"),
        ("![i](samples/grid.png) ![j](data:image/png;base64,x) ![k](http://x.example/k.png)", "i j k"),
        ("[a][b]\n\n[b]: javascript:x", "[a][b]\n\n[b] : javascript:x"),
        ("]<b>(javascript:x)", "] (javascript:x)"),
        ("<[img src=x onerror=alert(1)](bad)>", "&lt;img src=x onerror=alert(1)>"),
        ("<<b>script>alert(1)", "&lt;script>alert(1)"),
        ("[a](https://good.example@evil.example)", "a"),
        ("\u202eabc\u200b", "abc"),
        ("a\n```python\nb", "a\n```python\nb\n```"),
        ("~~~~\n~~~\nb", "~~~~\n~~~\nb\n~~~~"),
        ("```\na\n```\nb ``` c", "```\na\n```\nb ``` c"),
    ],
)
def test_what_a_card_may_not_hold_goes_or_becomes_words(written, shown):
    assert safe_card(written) == shown


@given(MARKUP)
def test_no_card_holds_html_entities_or_an_odd_address(text):
    shown = safe_card(text)
    assert not re.search(r"<[A-Za-z/!?]", shown)
    assert not re.search(r"&(?!amp;|lt;)[#A-Za-z]", shown)
    assert not re.search(r"\]\((?!https://)", shown) and "]:" not in shown


@pytest.mark.parametrize(
    "part", ["[", "[](", "](", "<!--", "<script ", "<a ", "[x]( ", "](https://", "&", "_", "[a]((", "``"]
)
def test_a_giant_card_takes_linear_time(part):
    """Not timed: a search that is not linear would not end within a test's patience."""
    assert len(safe_card(part * 2_000_000)) <= 2 * CARD_LIMIT + 2
    assert len(plain_text(part * 2_000_000)) <= 80
