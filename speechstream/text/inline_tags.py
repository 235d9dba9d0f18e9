"""HTML, SSML, thoughts, comments and models' special tokens in a line of Markdown."""

from __future__ import annotations

import re

from speechstream.text import ssml
from speechstream.text.inline_addresses import host_of
from speechstream.text.spans import (
    Context,
    Found,
    Said,
    Wait,
    as_text,
    character,
    literal,
    window_at,
)

TAG = re.compile(
    r"<(/?)([A-Za-z][\w:.-]*)((?:\s+[A-Za-z_:@][\w:.-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'=<>`]+))?)*"
    r"(?:\s+[\w.]+)?)\s*(/?)>"
)
NO_TAG = re.compile(r"</?[\w:.-]+\s+[^=<>\s]+\s+[^=<>\s]+\s")  # two words without a value
QUOTED = re.compile(r"\"[^\"]*\"?|'[^']*'?")
ADDRESS = re.compile(r"<((?:https?|ftp)://[^\s<>]*|mailto:[^\s<>]*|[\w.+-]+@[\w.-]+)>", re.I)
UNFINISHED_ADDRESS = re.compile(
    r"<(?:(?:https?|ftp):[^\s<>]*|mailto:[^\s<>]*|[\w.+-]+@?[\w.-]*)", re.I
)
SPECIAL_TOKEN = re.compile(r"<\|[\w:./-]{1,60}\|>")
UNFINISHED_TOKEN = re.compile(r"<\|[\w:./-]{0,60}\|?")
THOUGHTS = frozenset(
    "think thinking thought thoughts reasoning scratchpad inner_monologue "
    "tool_call tool_response function_call".split()
)
HIDDEN = frozenset("script style svg math head title template".split())
BLOCKS = frozenset(
    "p div br hr li ul ol dl dt dd tr table thead tbody tfoot caption blockquote section article "
    "header footer main aside nav figure figcaption details summary form fieldset pre "
    "h1 h2 h3 h4 h5 h6 center".split()
)
CELLS = frozenset(("td", "th"))
INLINE = frozenset(
    "a abbr b bdi bdo big button cite code del dfn em font i img input ins kbd label mark meta "
    "link picture source video audio iframe canvas option select textarea q s samp small span "
    "strike strong sub sup time tt u var wbr nobr html body colgroup col object param".split()
)
SPOKEN_SSML = frozenset(("break", "say-as", "phoneme", "emphasis", "prosody"))


def read_tag(text: str, at: int, c: Context) -> Found:
    """HTML, SSML, addresses, thoughts, comments, models' special tokens. Any other `<` is text."""
    after = character(text, at + 1, c)
    if after == "|":
        return _token(text, at, c)
    if after in ("!", "?"):
        for opening, closing in (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>")):
            if text.startswith(opening, at):
                return Found((), at + len(opening), hide=closing, open=c.open)
            if not c.final and opening.startswith(text[at : at + 9]):
                raise Wait
        return literal(text, at, c)
    if not (after.isascii() and after.isalpha()) and after != "/":
        return as_text(text, at, at + 1, c)
    window, whole_window = window_at(text, at, c)
    if NO_TAG.match(window):
        return literal(text, at, c)
    address = ADDRESS.match(window)
    if address:
        end = at + address.end()
        mail = "@" in address[1] and "://" not in address[1]
        said = (Said(address[1].removeprefix("mailto:"), at, end),) if mail else None
        return Found(said or host_of(address[1], at, end), end, open=c.open)
    tag = TAG.match(window)
    if tag is None:
        alive = not whole_window and not re.search("[<>]", QUOTED.sub("", window[1:]))
        if alive and (_may_be_tag(window) or UNFINISHED_ADDRESS.fullmatch(window)):
            raise Wait
        return literal(text, at, c)
    return _element(tag, at, at + tag.end(), c) or literal(text, at, c)


def _may_be_tag(window: str) -> bool:
    name = re.match(r"</?[\w:.-]*", window)
    assert name is not None
    rest = window[name.end() :]
    return not rest or rest[0].isspace() or rest[0] == "/"


def _element(tag: re.Match[str], at: int, end: int, c: Context) -> Found | None:
    closing, name, attributes = tag[1], tag[2].lower(), tag[3]
    nothing = Found((), end, open=c.open)
    if "=" not in attributes and len(attributes.split()) > 1:
        return None  # a <b and c> d
    if name in THOUGHTS or name in HIDDEN:
        return nothing if closing or tag[4] else nothing._replace(hide=f"</{tag[2]}>")
    if c.ssml and (name in SPOKEN_SSML or (name == "sub" and (closing or "alias" in attributes))):
        return nothing._replace(said=(Said(tag[0], at, end, tag=True),))
    if name in BLOCKS:
        return nothing._replace(effect="block")
    if name in CELLS:
        return nothing._replace(said=(Said(", ", at, end),)) if closing else nothing
    if name == "img":
        alt = ssml.read_attributes(attributes).get("alt", "")
        return nothing._replace(said=(Said(alt.replace("<", " "), at, end),) if alt else ())
    if name in INLINE or name in ssml.NAMES or ":" in name or closing:
        return nothing
    return nothing if "=" in attributes else _words(tag, at, end, c)


def _words(tag: re.Match[str], at: int, end: int, c: Context) -> Found:
    """`<your name>`, List<String>: the words are said without the brackets."""
    inner = tag[0][1:-1]
    said = (Said(" ", at, at + 1), Said(inner, at + 1, end - 1), Said(" ", end - 1, end))
    return Found(said if c.before[-1:].isalnum() else said[1:2], end, open=c.open)


def _token(text: str, at: int, c: Context) -> Found:
    window, whole_window = window_at(text, at, c, 66)
    found = SPECIAL_TOKEN.match(window)
    if found:
        return Found((), at + found.end(), open=c.open)
    if not whole_window and UNFINISHED_TOKEN.fullmatch(window):
        raise Wait
    return as_text(text, at, at + 1, c)
