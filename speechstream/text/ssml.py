"""Markup in text: a small, forgiving subset of SSML 1.1, and two shorthands.

| written | effect |
|---|---|
| `[[h\u0259l\u02c8O]]` | these phonemes, as they stand (symbols of `speechstream.text.en.phonemes`) |
| `<break time="300ms"/>`, `<break 300ms/>`, `<break strength="strong"/>` | silence; at most 10 s each |
| `<speak>`, `<p>`, `<s>` | `</p>` and `</s>` end a paragraph and a sentence; `<speak>` only wraps |
| `<say-as interpret-as="...">` | characters (spell-out), digits, telephone, cardinal (number), ordinal, date, time, verbatim |
| `<sub alias="World Wide Web">WWW</sub>` | the alias is spoken for the text |
| `<phoneme ph="...">word</phoneme>` | the phonemes are spoken for the text |
| `<emphasis level="strong">` | strong, moderate (default), reduced, none |
| `<prosody rate="120%" pitch="+2st" volume="+6dB">` | also x-slow...x-fast, x-low...x-high, silent...x-loud; nested values multiply |

`<voice>`, `<lang>`, `<mark>`, `<audio>`, `<w>`, `<token>`, common HTML elements, comments and `<?xml?>` are passed over and their content
spoken. Any other `<` is text. Markup that is never closed, closed twice or has values that cannot be read is not an error: an
element left open lasts to the end of the stream, a value that cannot be read has no effect.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, replace

MAX_TAG = 400  # characters: a `<` not closed within this many is text
MAX_PHONEMES = 400  # characters: the same for `[[`
MAX_ATOM = 600  # characters: the same for the content of say-as, sub and phoneme
MAX_DEPTH = 32  # open elements remembered; deeper ones have no effect
MAX_BREAK = 10.0  # seconds

WRAPPERS = frozenset(
    "speak p s voice lang mark audio w token desc metadata lexicon "
    "b i u em strong br a div span code pre h1 h2 h3 h4 ul ol li tr td table blockquote".split()
)
ATOMS = frozenset(("say-as", "sub", "phoneme"))
NAMES = WRAPPERS | ATOMS | {"break", "emphasis", "prosody"}
MENTIONED = frozenset(  # elements that a text about pages names; they are not markup where they stand as words do
    "a div span code pre h1 h2 h3 h4 ul ol li tr td table blockquote body strong em p".split()
)
OPENED = ("<", " ", "\n", "(", '"', "`", "\u201c")
CLOSED = ' \n.,;:!?)"`\u201d'
TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9:-]*)((?:\s[^<>]*?)?)(/?)>")
IGNORED = re.compile(r"<!--.*?-->|<\?.*?\?>|<![A-Za-z\[][^<>]*>", re.S)
ATTRIBUTE = re.compile(r"""([A-Za-z][\w:-]*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9A-Fa-f]{1,6});")

STRENGTHS = {
    "none": 0.0,
    "x-weak": 0.1,
    "weak": 0.2,
    "medium": 0.4,
    "strong": 0.7,
    "x-strong": 1.2,
}  # seconds
RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}
PITCHES = {
    "x-low": -6.0,
    "low": -3.0,
    "medium": 0.0,
    "default": 0.0,
    "high": 3.0,
    "x-high": 6.0,
}  # semitones
VOLUMES = {
    "silent": -60.0,
    "x-soft": -12.0,
    "soft": -6.0,
    "medium": 0.0,
    "default": 0.0,
    "loud": 4.0,
    "x-loud": 8.0,
}  # decibels


@dataclass(frozen=True)
class Style:
    """How a stretch of text is to be spoken."""

    speed: float = 1.0  # factor on the speaking rate, 0.25 to 4
    pitch: float = 0.0  # semitones, -24 to 24
    volume: float = 0.0  # decibels, -60 to 20
    emphasis: str = ""  # "", "strong", "moderate", "reduced"


@dataclass(frozen=True)
class Tag:
    """One piece of markup: `name` is the element, "phonemes" for `[[...]]`, or "ignored"."""

    name: str
    attributes: dict
    close: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Open:
    """An element that is open, and the style inside it."""

    name: str
    style: Style


def match(text: str, at: int, final: bool, start: int = 0) -> tuple[Tag | None, int] | None:
    """Read the markup that begins at `text[at]` ('<' or '['), in a clause that begins at `start`.

    Returns (tag, end), or (None, at) where it is plain text, or None where more characters are needed to tell.
    """
    if text[at] == "[":
        if not text.startswith("[[", at):
            return None if at + 1 == len(text) and not final else (None, at)
        end = text.find("]]", at + 2, at + MAX_PHONEMES)
        if end >= 0:
            return Tag("phonemes", {"ph": text[at + 2 : end]}, empty=True), end + 2
        return (None, at) if final or len(text) >= at + MAX_PHONEMES else None
    if at + 1 < len(text) and not (text[at + 1].isalpha() or text[at + 1] in "/!?"):
        return None, at
    head = text[at : at + MAX_TAG]
    found = TAG.match(head)
    if found:
        slash, name, attributes, empty = found.groups()
        name = name.lower()
        if name not in NAMES:
            return None, at
        before = text[at - 1] if at > start else "</"[bool(slash)]
        if name in MENTIONED and not attributes and before in OPENED:
            following = text[at + found.end() : at + found.end() + 1]
            if not following and not final:
                return None
            if not following or following in CLOSED:
                return None, at  # wrap it in a <div> and see
        return Tag(
            name, read_attributes(attributes), bool(slash), bool(empty) or name == "break"
        ), at + found.end()
    ignored = IGNORED.match(head)
    if ignored:
        return Tag("ignored", {}, empty=True), at + ignored.end()
    comment = head.startswith(("<!", "<?"))
    dead = (not comment and (">" in head or "<" in head[1:])) or len(head) == MAX_TAG or final
    return (None, at) if dead else None


def closing(text: str, start: int, name: str, final: bool) -> tuple[int, int] | None:
    """Where the content of an atom ends and where its closing tag ends; (-1, -1) if never, None if not yet known."""
    found = re.compile(rf"</{name}\s*>", re.I).search(text, start, start + MAX_ATOM)
    if found:
        return found.start(), found.end()
    return (-1, -1) if final or len(text) >= start + MAX_ATOM else None


def read_attributes(text: str) -> dict:
    """Attributes of a tag; a bare value such as the `300ms` of `<break 300ms/>` is under the empty name."""
    values = {
        m[1].lower(): html.unescape(m[2] or m[3] or m[4] or "") for m in ATTRIBUTE.finditer(text)
    }
    bare = ATTRIBUTE.sub(" ", text).strip(" \t\r\n/\"'")
    return values | {"": bare} if bare else values


def seconds(tag: Tag) -> float:
    """The length of a break in seconds; what cannot be read is a medium break (0.4 s)."""
    value = (tag.attributes.get("time") or tag.attributes.get("") or "").strip().lower()
    found = re.fullmatch(r"\+?(\d{0,7}\.?\d{0,4})\s*(ms|s)", value)
    if found and found[1] not in ("", "."):
        return min(MAX_BREAK, float(found[1]) * (0.001 if found[2] == "ms" else 1.0))
    strength = tag.attributes.get("strength", value).strip().lower()
    return STRENGTHS.get(strength, STRENGTHS["medium"])


def push(stack: tuple[Open, ...], tag: Tag) -> tuple[Open, ...]:
    """The open elements after an opening or closing tag. A closing tag that matches nothing changes nothing."""
    if tag.empty or tag.name in ("break", "phonemes", "ignored"):
        return stack
    if tag.close:
        for i in range(len(stack) - 1, -1, -1):
            if stack[i].name == tag.name:
                return stack[:i]
        return stack
    if len(stack) >= MAX_DEPTH:
        return stack
    style = stack[-1].style if stack else Style()
    if tag.name == "prosody":
        style = _prosody(style, tag.attributes)
    elif tag.name == "emphasis":
        level = tag.attributes.get("level", "moderate").strip().lower()
        if level in ("strong", "moderate", "reduced", "none"):
            style = replace(style, emphasis="" if level == "none" else level)
    return stack + (Open(tag.name, style),)


def style_of(stack: tuple[Open, ...]) -> Style:
    """The style in force inside these open elements."""
    return stack[-1].style if stack else Style()


def _prosody(style: Style, attributes: dict) -> Style:
    rate = attributes.get("rate", "").strip().lower()
    speed = RATES.get(rate)
    if speed is None:
        found = re.fullmatch(r"([+-]?)(\d{1,4}(?:\.\d{1,4})?)(%?)", rate)
        speed = 1.0
        if found:
            number = float(found[2]) / (100 if found[3] else 1)
            speed = {"": number, "+": 1 + number, "-": 1 - number}[found[1]]
    pitch = _signed(attributes.get("pitch", ""), PITCHES, ("st", "%", ""))
    volume = _signed(attributes.get("volume", ""), VOLUMES, ("db", "%", ""))
    return replace(
        style,
        speed=float(min(4.0, max(0.25, style.speed * speed))),
        pitch=float(min(24.0, max(-24.0, style.pitch + pitch))),
        volume=float(min(20.0, max(-60.0, style.volume + volume))),
    )


def _signed(value: str, names: dict, suffixes: tuple[str, ...]) -> float:
    value = value.strip().lower()
    if value in names:
        return names[value]
    found = re.fullmatch(r"([+-]?\d{1,4}(?:\.\d{1,4})?)\s*([a-z%]*)", value)
    if not found or found[2] not in suffixes:
        return 0.0
    number = float(found[1])
    if (
        found[2] == "%"
    ):  # a change of 6% is very nearly a semitone; of loudness, percent of full scale's dB
        per_octave = 12.0 if "st" in suffixes else 6.0206
        return per_octave * math.log2(max(0.05, 1 + number / 100))
    return number
