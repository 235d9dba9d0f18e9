"""What stands within a line of Markdown: links, emphasis, code, formulas, tags. One construct at a time.

`read(text, at, ...)` says what the construct at `text[at]` is in speech, or raises `Wait` where characters that may
still come could change that. No decision looks further than MAX_SPAN characters ahead, nor past the paragraph.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple, Protocol

from speechstream.text import ssml

MAX_SPAN = 400  # characters that a link's text, code or a formula may have; longer ones are text
MAX_URL = 600  # the rest of a longer address is left out without being kept
MAX_RUN = 64  # of one character, that one decision looks at
MAX_DEPTH = 8  # of brackets within brackets
GUARD = "\u2060"  # is not spoken; keeps `<` and `[[` of a text from being read as SSML

SPECIAL = re.compile(
    r"[\\`*_~=\[!<&$\n\r]|(?<![A-Za-z0-9])(?=(?i:https?://|www\.|(?:h(?:t(?:tps?(?::/?)?|t)?)?|ww?w?)\Z))"
    r"|[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u200d\ufe0f\u20e3]"
)
SPECIAL_OR_BLANK = re.compile(SPECIAL.pattern + r"|[ \t]")
EMOJI = re.compile(
    r"[\U0001f000-\U0001faff\u2600-\u2604\u260e\u2611\u2614\u2615\u2618\u261d\u2620-\u2639\u263a"
    r"\u2648-\u2653\u267b\u267f\u2692-\u26ff\u2702\u2705\u2708-\u270f\u2712\u2714\u2716\u271d"
    r"\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763\u2764\u2795-\u2797"
    r"\u27a1\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55\u231a\u231b\u23e9-\u23f3\u23f8-\u23fa"
    r"\u200d\ufe0f\u20e3]"
)
# Where a paragraph is over for a construct that may go on in its next line.
STOP = re.compile(r"\r?\n[ \t]*(?:\r?\n|[-*+#>|`~\u2022]|\d{1,9}[.)])")
LINE = re.compile(r"\r?\n")
CONTINUED = re.compile(r"\s*\n\s*")
URL_START = re.compile(r"https?://|www\.", re.I)
URL_STARTS = ("http://", "https://", "www.")
URL = re.compile(r"(?:https?://|www\.)[^\s<>\"`|]*", re.I)
HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(?:www\.)?(?:[^\s/?#@]*@)?([^\s/?#:@]+)", re.I)
FOOTNOTE = re.compile(r"\[\^[^\]\s\[]{1,40}\]")
DESTINATION = re.compile(
    r"\(\s*(?:<[^<>\n]*>|(?:[^\s()<>]|\([^\s()]*\))*)"
    r"(?:\s+(?:\"[^\"]*\"|'[^']*'|\([^()]*\)))?\s*\)"
)
UNFINISHED_DESTINATION = re.compile(
    r"\(\s*(?:<[^<>\n]*>?|[^\s<]*)(?:\s+(?:\"[^\"]*\"?|'[^']*'?|\([^()]*\)?)?\s*)?"
)
REFERENCE = re.compile(r"\[[^\[\]\n]{0,100}\]")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
UNFINISHED_ENTITY = re.compile(r"&(?:#[xX]?[0-9A-Fa-f]{0,7}|[A-Za-z][A-Za-z0-9]{0,31})?")
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
PHONEMES = re.compile(
    "[\u02c8\u02cc\u0259\u026a\u028a\u0279\u0251\u0254\u00e6\u028c\u025b\u025c]"
)  # no page of a wiki
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
MAX_SUBSCRIPT = 6
SUBSCRIPT = re.compile(rf"([A-Za-z0-9+-]{{1,{MAX_SUBSCRIPT}}})~(?!~)")
UNFINISHED_SUBSCRIPT = re.compile(rf"[A-Za-z0-9+-]{{0,{MAX_SUBSCRIPT}}}~?")
MARK_CLOSED = re.compile(r"(?<![\s=!<>])==(?![=\w])")
OPERATORS = frozenset("=!<>")
MONEY = re.compile(r"\$\d[\d.,]*(?:[kKmMbB]\b|\s*[-\u2013]\s*\d)?")
MATHS = re.compile(r"[\\^_=+<>{}/|\d\u2200-\u22ff\u0370-\u03ff]|^[A-Za-z]'?$|^[A-Za-z]\(|^-")


class Wait(Exception):
    """More characters are needed before the next decision."""


class Formula(Protocol):
    """TeX to words."""

    def __call__(self, tex: str) -> str:
        """What a formula is in words."""


class Said(NamedTuple):
    """What is said for `text[start:end]`. With as many characters it stands for them one by one."""

    text: str
    start: int
    end: int
    tag: bool = False  # SSML, not text


class Found(NamedTuple):
    """A construct that has been read up to `end`.

    hide: all is left out up to this mark. effect: "" or "block" (a new one begins), "hard" (a line ends).
    open: delimiters of emphasis that are open after it.
    """

    said: tuple[Said, ...]
    end: int
    hide: str = ""
    effect: str = ""
    open: tuple[int, int] = (0, 0)


class Context(NamedTuple):
    """What a construct's reading depends on beside its own characters."""

    final: bool = False  # no more characters come
    lines: bool = True  # it may go on in the next line
    words: bool = False  # plain text is given word by word
    before: str = ""  # the two characters before it
    open: tuple[int, int] = (0, 0)  # stars and underscores of open emphasis
    emoji: bool = False  # are read out
    ssml: bool = False  # its elements are kept
    formula: Formula = lambda tex: "formula"


def read(text: str, at: int, c: Context) -> Found:
    """The construct, or the run of plain text, that begins at `text[at]`. Raises Wait."""
    found = (SPECIAL_OR_BLANK if c.words else SPECIAL).search(text, at)
    if found is None:
        return _plain(text, at, len(text), c)
    if found.start() > at:
        return _plain(text, at, found.start(), c)
    character = text[at]
    reader = _READERS.get(character)
    if reader is not None:
        return reader(text, at, c)
    if EMOJI.match(character):
        return _plain(text, at, at + 1, c) if c.emoji else Found((), at + 1, open=c.open)
    return _plain(text, at, at + 1, c)


def whole(text: str, offset: int, c: Context) -> tuple[Said, ...]:
    """All of a text that is complete. Places are those in the text, and `offset` more."""
    c, at, out = c._replace(final=True, before="", open=(0, 0)), 0, []
    while at < len(text):
        found = read(text, at, c)
        said = found.said
        if found.effect or text[at] == "\n":
            said = (Said(" ", at, found.end),)
        out += [s._replace(start=s.start + offset, end=s.end + offset) for s in said]
        end = found.end
        if found.hide:
            closed = re.compile(re.escape(found.hide), re.I).search(text, end)
            end = closed.end() if closed else len(text)
        c, at = c._replace(before=text[max(0, end - 2) : end], open=found.open), end
    return tuple(out)


def guarded(text: str, start: int) -> tuple[Said, ...]:
    """Characters that stand for themselves, with guards where they would be taken for SSML."""
    out, begin = [], 0
    for m in re.finditer(r"(?<=<)(?=[A-Za-z/!?])|(?<=\[)(?=\[)|(?<=&)(?=[#A-Za-z])", text):
        out += [Said(text[begin : m.start()], start + begin, start + m.start())]
        out += [Said(GUARD, start + m.start(), start + m.start())]
        begin = m.start()
    return (*out, Said(text[begin:], start + begin, start + len(text)))


def _plain(text: str, at: int, end: int, c: Context) -> Found:
    return Found(guarded(text[at:end], at), end, open=c.open)


def _literal(text: str, at: int, c: Context) -> Found:
    """The character is text, whatever follows it."""
    said = (Said(text[at], at, at + 1), Said(GUARD, at + 1, at + 1))
    return Found(said, at + 1, open=c.open)


def _ends_line(text: str, at: int, c: Context) -> Found:
    """A line's end is the caller's; a carriage return before it is nothing."""
    return Found((), at + 1, open=c.open)


def _char(text: str, at: int, c: Context) -> str:
    """The character at a place, "" after the end of a finished text."""
    if at < len(text):
        return text[at]
    if c.final:
        return ""
    raise Wait


def _window(text: str, at: int, c: Context, size: int = MAX_SPAN) -> tuple[str, bool]:
    """The characters that a construct at `at` may reach, and whether no more will be added to them."""
    window = text[at : at + size]
    stop = (STOP if c.lines else LINE).search(window)
    if stop:
        return window[: stop.start()], True
    return window, c.final or len(window) == size


def _url(text: str, at: int, c: Context) -> Found:
    """http://, https:// and www.: the host is said."""
    if c.before[-1:].isalnum():
        return _plain(text, at, at + 1, c)
    if not URL_START.match(text, at):
        rest = text[at : at + 8].lower()
        if not c.final and len(rest) < 8 and any(s.startswith(rest) for s in URL_STARTS):
            raise Wait
        return _plain(text, at, at + 1, c)
    found = URL.match(text[at : at + MAX_URL])
    assert found is not None
    size = found.end()
    if size == MAX_URL:
        return Found(_host(found[0], at, at + size), at + size, hide=" ", open=c.open)
    if at + size == len(text) and not c.final:
        raise Wait
    size = len(_trimmed(found[0]))
    if not size:
        return _plain(text, at, at + found.end(), c)
    return Found(_host(found[0][:size], at, at + size), at + size, open=c.open)


def _trimmed(url: str) -> str:
    """An address without the marks of the sentence that it stands in."""
    while url:
        bare = url.rstrip(".,;:!?'*_~\u2019\u201d")
        for opening, closing in ("()", "[]"):
            if bare.endswith(closing) and bare.count(closing) > bare.count(opening):
                bare = bare[:-1]
        if bare == url:
            break
        url = bare
    return url


def _host(url: str, start: int, end: int) -> tuple[Said, ...]:
    found = HOST.match(url)
    return (Said(found[1] if found else url, start, end),)


def _emphasis(text: str, at: int, c: Context) -> Found:
    """Stars, underscores and pairs of tildes: markers are not said (CommonMark's flanking rules)."""
    mark, end = text[at], at
    while end < at + MAX_RUN and _char(text, end, c) == mark:
        end += 1
    size, after, before = end - at, _char(text, end, c), c.before[-1:]
    if size == MAX_RUN:
        return _plain(text, at, end, c)
    left = bool(after) and not after.isspace()
    right = bool(before) and not before.isspace()
    if mark == "~" and size == 1 and before.isalnum() and after.isalnum():
        return _subscript(text, end, c) or _plain(text, at, end, c)
    if mark == "~":
        drop = size == 2 and (left or right)
        return Found((), end, open=c.open) if drop else _plain(text, at, end, c)
    left, right = (
        left and (not _punctuation(after) or not right or _punctuation(before)),
        right and (not _punctuation(before) or not left or _punctuation(after)),
    )
    if mark == "*" and before.isalnum() and after.isalnum() and _product(text, end, c):
        return _plain(text, at, end, c)
    which = "*_".index(mark)
    depth = c.open[which]
    opens = left and (mark == "*" or not right or _punctuation(before))
    closes = right and (mark == "*" or not left or _punctuation(after)) and depth > 0
    if not opens and not closes:
        return _plain(text, at, end, c)
    depth = max(depth - size, 0) if closes else min(depth + size, MAX_RUN)
    return Found((), end, open=(depth, c.open[1]) if which == 0 else (c.open[0], depth))


def _subscript(text: str, at: int, c: Context) -> Found | None:
    """H~2~O: what stands between two single tildes within a word. None: there is no second one."""
    window = text[at : at + MAX_SUBSCRIPT + 2]
    found = SUBSCRIPT.match(window)
    if (found is None or found.end() == len(window)) and not c.final:
        if len(window) < MAX_SUBSCRIPT + 2 and UNFINISHED_SUBSCRIPT.fullmatch(window):
            raise Wait
    if found is None:
        return None
    return Found(guarded(found[1], at), at + found.end(), open=c.open)


def _marked(text: str, at: int, c: Context) -> Found:
    """==text==: what is marked is said. Two equals signs that are not a pair around a text stay."""
    end = at
    while end < at + MAX_RUN and _char(text, end, c) == "=":
        end += 1
    after, before = _char(text, end, c), c.before[-1:]
    plain = _plain(text, at, end, c)
    opens = bool(after) and not after.isspace() and not before.isalnum() and before not in OPERATORS
    if end - at != 2 or not opens:
        return plain
    window, whole_window = _window(text, end, c)
    closed = MARK_CLOSED.search(window)
    if closed is None or closed.end() == len(window):
        if not whole_window:
            raise Wait
        if closed is None:
            return plain
    return Found(whole(window[: closed.start()], end, c), end + closed.end(), open=c.open)


def _product(text: str, end: int, c: Context) -> bool:
    """Whether the star between two letters or digits is a sign: 5*3, a*b."""
    if c.before[-1:].isdigit() or text[end].isdigit():
        return True
    alone = len(c.before) < 2 or not c.before[-2].isalnum()
    return alone or not _char(text, end + 1, c).isalnum()


def _punctuation(c: str) -> bool:
    return bool(c) and not c.isalnum() and not c.isspace()


def _code(text: str, at: int, c: Context) -> Found:
    """Code is read as it stands."""
    end = at
    while end < at + MAX_RUN and _char(text, end, c) == "`":
        end += 1
    ticks = text[at:end]
    window, whole_window = _window(text, end, c)
    closed = re.search(rf"(?<!`){ticks}(?!`)", window)
    if closed and closed.end() == len(window) and not whole_window:
        raise Wait  # another tick may follow
    if closed is None:
        if not whole_window:
            raise Wait
        return Found((), end, open=c.open)
    inner = window[: closed.start()]
    said = guarded(CONTINUED.sub(lambda m: " " * len(m[0]), inner), end)
    return Found(said, end + closed.end(), open=c.open)


def _image(text: str, at: int, c: Context) -> Found:
    if _char(text, at + 1, c) != "[":
        return _plain(text, at, at + 1, c)
    found = _bracket(text, at + 1, c)
    return _plain(text, at, at + 1, c) if found is None else found


def _link(text: str, at: int, c: Context) -> Found:
    after = _char(text, at + 1, c)
    if after == "^":
        window, closed = _window(text, at, c, 44)
        note = FOOTNOTE.match(window)
        if note:
            return Found((), at + note.end(), open=c.open)
        if not closed and re.fullmatch(r"\[\^[^\]\s\[]{0,40}", window):
            raise Wait
    if text.startswith("[THINK]", at):
        return Found((), at + 7, hide="[/THINK]", open=c.open)
    if not c.final and "[THINK]".startswith(text[at : at + 7]):
        raise Wait
    if c.ssml and after == "[":
        window, closed = _window(text, at, c)
        end = window.find("]]")
        if end < 0 and not closed:
            raise Wait
        if end > 0 and PHONEMES.search(window, 2, end):
            said = (Said(window[: end + 2], at, at + end + 2, tag=True),)
            return Found(said, at + end + 2, open=c.open)
    found = _bracket(text, at, c)
    if found is None:
        return _literal(text, at, c) if after == "[" else _plain(text, at, at + 1, c)
    return found


def _bracket(text: str, at: int, c: Context) -> Found | None:
    """A link or an image whose text is in the brackets at `at`: the text is said. None: it is neither."""
    window, whole_window = _window(text, at, c)
    size = _closing(window, whole_window)
    if size is None:
        return None
    end, inner = at + size, text[at + 1 : at + size - 1]
    after = _char(text, end, c)
    hide = ""
    if after == "(":
        target, whole_target = _window(text, end, c, MAX_URL)
        found = DESTINATION.match(target)
        if found is not None:
            end += found.end()
        elif not UNFINISHED_DESTINATION.fullmatch(target):
            return None
        elif not whole_target:
            raise Wait
        elif len(target) == MAX_URL and not re.search(r"\s", target):
            end, hide = end + MAX_URL, ")"
        else:
            return None
    elif after == "[" and not c.before[-1:].isalnum() and not c.before.endswith(("]", ")")):
        target, whole_target = _window(text, end, c, 104)
        found = REFERENCE.match(target)
        if found is None:
            if not whole_target and re.fullmatch(r"\[[^\[\]\n]{0,100}", target):
                raise Wait
            return None
        end += found.end()
    else:
        return None
    return Found(whole(inner, at + 1, c), end, hide=hide, open=c.open)


def _closing(window: str, whole_window: bool) -> int | None:
    """Where the brackets at the window's beginning are closed; None: nowhere, or they are too deep."""
    depth = 0
    for m in re.finditer(r"\\.|(`+).*?(?<!`)\1(?!`)|`+|[\[\]]", window, re.S):
        if m[0][0] == "`" and not whole_window and (m[1] is None or m.end() == len(window)):
            raise Wait  # brackets in code are none, and it may be code
        depth += {"[": 1, "]": -1}.get(m[0], 0)
        if depth > MAX_DEPTH:
            return None
        if depth == 0 and m[0] == "]":
            return m.end()
    if whole_window:
        return None
    raise Wait


def _tag(text: str, at: int, c: Context) -> Found:
    """HTML, SSML, addresses, thoughts, comments, models' special tokens. Any other `<` is text."""
    after = _char(text, at + 1, c)
    if after == "|":
        return _token(text, at, c)
    if after in ("!", "?"):
        for opening, closing in (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>")):
            if text.startswith(opening, at):
                return Found((), at + len(opening), hide=closing, open=c.open)
            if not c.final and opening.startswith(text[at : at + 9]):
                raise Wait
        return _literal(text, at, c)
    if not (after.isascii() and after.isalpha()) and after != "/":
        return _plain(text, at, at + 1, c)
    window, whole_window = _window(text, at, c)
    if NO_TAG.match(window):
        return _literal(text, at, c)
    address = ADDRESS.match(window)
    if address:
        end = at + address.end()
        mail = "@" in address[1] and "://" not in address[1]
        said = (Said(address[1].removeprefix("mailto:"), at, end),) if mail else None
        return Found(said or _host(address[1], at, end), end, open=c.open)
    tag = TAG.match(window)
    if tag is None:
        alive = not whole_window and not re.search("[<>]", QUOTED.sub("", window[1:]))
        if alive and (_may_be_tag(window) or UNFINISHED_ADDRESS.fullmatch(window)):
            raise Wait
        return _literal(text, at, c)
    return _element(tag, at, at + tag.end(), c) or _literal(text, at, c)


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
    window, whole_window = _window(text, at, c, 66)
    found = SPECIAL_TOKEN.match(window)
    if found:
        return Found((), at + found.end(), open=c.open)
    if not whole_window and UNFINISHED_TOKEN.fullmatch(window):
        raise Wait
    return _plain(text, at, at + 1, c)


def _entity(text: str, at: int, c: Context) -> Found:
    window = text[at : at + 34]
    found = ENTITY.match(window)
    if found and html.unescape(found[0]) != found[0]:
        said = html.unescape(found[0]).replace("\u00a0", " ")
        end = at + found.end()
        # what follows could make SSML of these two
        return Found((Said(said, at, end), *_guard(said, end)), end, open=c.open)
    if not found and not c.final and len(window) < 34 and UNFINISHED_ENTITY.fullmatch(window):
        raise Wait
    said_here = (Said("&", at, at + 1), Said(GUARD, at + 1, at + 1))
    return Found(said_here if found else said_here[:1], at + 1, open=c.open)


def _guard(said: str, at: int) -> tuple[Said, ...]:
    return (Said(GUARD, at, at),) if said in "<[&" else ()


def _escape(text: str, at: int, c: Context) -> Found:
    r"""Escaped characters, a line's hard end, and formulas in \( \) and \[ \]."""
    after = _char(text, at + 1, c)
    if after == "\n" or (after == "\r" and _char(text, at + 2, c) == "\n"):
        return Found((), at + 1, effect="hard", open=c.open)
    if after in ("(", "["):
        closing = "\\)" if after == "(" else "\\]"
        formula = _delimited(text, at, at + 2, closing, c)
        if formula is not None:
            return formula
    if after and after.isascii() and _punctuation(after):
        return Found((Said(after, at + 1, at + 2), *_guard(after, at + 2)), at + 2, open=c.open)
    return _plain(text, at, at + 1, c)


def _delimited(text: str, at: int, start: int, closing: str, c: Context) -> Found | None:
    """A formula up to `closing`, which must stand within MAX_SPAN characters. None: there is none."""
    window = text[start : start + MAX_SPAN]
    end = window.find(closing)
    if end < 0:
        if not c.final and len(window) < MAX_SPAN and not re.search(r"\n[ \t\r]*\n", window):
            raise Wait
        return None
    inner = window[:end]
    if re.search(r"\n[ \t\r]*\n", inner) or not inner.strip():
        return None
    if closing == "$$" and not MATHS.search(inner.strip()):
        return None
    stop = start + end + len(closing)
    return Found((Said(c.formula(inner), at, stop),), stop, open=c.open)


def _dollar(text: str, at: int, c: Context) -> Found:
    """$x^2$ is a formula, $5 and $10 are not (pandoc's rule, and money is told apart as soon as can be)."""
    after = _char(text, at + 1, c)
    if after == "$":
        formula = _delimited(text, at, at + 2, "$$", c)
        end = at + 1
        while end < at + MAX_RUN and formula is None and _char(text, end, c) == "$":
            end += 1
        return formula or _plain(text, at, end, c)
    plain = _plain(text, at, at + 1, c)
    if not after or after.isspace() or c.before[-1:].isalnum():
        return plain
    window, whole_window = _window(text, at + 1, c)
    end = window.find("$")
    inner = window if end < 0 else window[:end]
    if after.isdigit() and re.match(
        r"[\d.,]+[ \t]*[A-Za-z]{2}|[\d.,]+[.,;:!?]?\s+[^-+*/=<>^\\\s$]", inner
    ):
        return plain  # $5 and, $5. The
    if re.match(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}\s", inner):
        return plain  # $HOME is set
    if end < 0:
        if whole_window:
            return plain
        raise Wait
    if inner[-1:].isspace() or _char(text, at + end + 2, c).isalnum() or not MATHS.search(inner):
        return plain
    stop = at + end + 2
    return Found((Said(c.formula(inner), at, stop),), stop, open=c.open)


_READERS = {
    "\\": _escape,
    "`": _code,
    "*": _emphasis,
    "_": _emphasis,
    "~": _emphasis,
    "=": _marked,
    "[": _link,
    "!": _image,
    "<": _tag,
    "&": _entity,
    "$": _dollar,
    "\n": _ends_line,
    "\r": _ends_line,
    **dict.fromkeys("hHwW", _url),
}
