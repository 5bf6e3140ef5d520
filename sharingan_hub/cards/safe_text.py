"""Strangers' text made harmless before it is shown: one line of plain words, or a card without HTML and odd links."""

import html
import re
import unicodedata

CARD_LIMIT = 20_000  # characters of a card that are shown
MARKS_IN_A_ROW = 3  # accents on one letter, more than any script needs; longer piles spill over their neighbours
# Letters and symbols that show nothing, though their Unicode categories do not say so.
BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# What Markdown, HTML or a terminal could take for more than a letter, and what says the same without danger.
PLAIN = str.maketrans({"<": "(", ">": ")", "[": "(", "]": ")", "|": "/", "\\": "/", '"': "”", "'": "’"})
CODE = str.maketrans({"<": "(", ">": ")", "`": "’", "\\": "/"})
ANGLED = re.compile(r"</?[A-Za-z][A-Za-z0-9-]*(?:\s[^<>]*)?/?>")
# Bounded everywhere: a stranger's text must not make the search slow.
LINK = re.compile(
    r"!?\[([^\[\]]{0,1000})\]\([ \n]{0,3}([^\s()]{0,1000})"
    r"(?:[ \n]{1,3}(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'))?[ \n]{0,3}\)"
)
ADDRESS = r"https://[A-Za-z0-9\-.]+(?::[0-9]+)?(?:[/?#][A-Za-z0-9\-._~/?#@!$&*+,;=%:]*)?"


def plain_text(text: str, limit: int = 80) -> str:
    """One line of a stranger's text, such as a title, that means nothing to Markdown, HTML or a terminal.

    Control, bidirectional, zero-width and other invisible characters go, whitespace becomes single spaces, and what is
    longer than `limit` characters is cut and ends in an ellipsis. Letters of all scripts and emoji stay.
    """
    text = ANGLED.sub("", html.unescape(text[: 20 * limit + 1000]))
    text = _visible(text).translate(PLAIN)
    text = re.sub(r"[*`~$]+|(?<![^\W_])_+|_+(?![^\W_])", "", text)  # of underscores, those between letters stay
    text = re.sub(r"&(?=[#\w])", "& ", text)
    text = re.sub(r"://", " ", text.replace("@", " at "))
    text = re.sub(r"(?i)\bwww\.", "www ", text)
    text = re.sub(r"^[\s#=+>.:!-]+", "", text)
    text = re.sub(r"^(\d+)[.)](?=\s|$)", r"\1", text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: max(limit - 1, 0)].rstrip() + "…"


def plain_code(text: str, limit: int = 200) -> str:
    """The same for text that stands between backticks or in a block of code: patterns such as "a*.b|c" stay as they are."""
    kept = _visible(text[: limit + 1]).translate(CODE)
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def safe_card(text: str) -> str:
    """A stranger's card as Markdown that can be shown: headings, lists, tables, code, and links and pictures by https.

    HTML, comments, the metadata at its beginning, invisible characters, reference links, and every link or picture that
    has any other address go, or stay as mere words. At most 20,000 characters are kept.
    """
    text = text[: 2 * CARD_LIMIT].replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    head = re.match(r"\s*---\n.*?\n---[ \t]*(?:\n|$)", text, re.DOTALL)
    text = text[head.end() :] if head else text
    text = html.unescape(text)  # or an entity could hide what is looked for below
    text = "\n".join(_visible(line, keep_spaces=True) for line in text.expandtabs(4).split("\n"))
    for opening, closing in (("<!--", "-->"), (r"<script\b", r"</script\s*>"), (r"<style\b", r"</style\s*>")):
        text = without(text, opening, closing)
    text = ANGLED.sub("", text)
    for _ in range(2):  # a picture first, then the link around it
        text = LINK.sub(_link, text)
    # What has been taken out may have joined what stood beside it. From here on, things are only put in: whatever a reader
    # of Markdown could still take for an entity, a tag or a link is none after this.
    text = re.sub(r"&(?=[#A-Za-z])", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    text = re.sub(rf"\]\((?!{ADDRESS}\))", "] (", text)
    text = re.sub(r"\]:", "] :", text)
    text = text.strip() if len(text) <= CARD_LIMIT else text[:CARD_LIMIT].strip() + "…"
    return text + _missing_fence(text)


def _missing_fence(text: str) -> str:
    """What ends a block of code that a text begins and leaves open, with all that may come after it inside."""
    fence = ""
    for mark, rest in re.findall(r"^ {0,3}(`{3,}|~{3,})(.*)$", text, re.MULTILINE):
        if not fence and not (mark[0] == "`" and "`" in rest):
            fence = mark
        elif fence and mark.startswith(fence) and not rest.strip():
            fence = ""
    return f"\n{fence}" if fence else ""


def _link(match: re.Match[str]) -> str:
    """A link or picture found in a card: the same without its title where the address may stay, else its words."""
    words, address = match[1], match[2]
    if not re.fullmatch(ADDRESS, address):
        return words
    return f"{'!' if match[0].startswith('!') else ''}[{words}]({address})"


def without(text: str, opening: str, closing: str) -> str:
    """The text without what stands between two patterns; what is opened and never closed stays."""
    kept, place = [], 0
    begin, end = re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE)
    while (first := begin.search(text, place)) and (last := end.search(text, first.end())):
        kept.append(text[place : first.start()])
        place = last.end()
    return "".join(kept) + text[place:]


def _visible(text: str, keep_spaces: bool = False) -> str:
    """Composed text without invisible characters; whitespace of all kinds becomes spaces."""
    letters, marks = [], 0
    for letter in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(letter)
        marks = marks + 1 if kind[0] == "M" else 0
        if letter.isspace() or kind[0] == "Z":
            letters.append(" ")
        elif kind[0] != "C" and letter not in BLANKS and marks <= MARKS_IN_A_ROW:
            letters.append(letter)
    return "".join(letters) if keep_spaces else " ".join("".join(letters).split())
