"""What stands within a line of Markdown: links, emphasis, code, formulas, tags. One construct at a time.

`read(text, at, ...)` says what the construct at `text[at]` is in speech, or raises `Wait` where characters that may
still come could change that. No decision looks further than MAX_SPAN characters ahead, nor past the paragraph.
"""

from __future__ import annotations

import html
import re

from speechstream.text.inline_addresses import read_url
from speechstream.text.inline_formulas import delimited, read_dollar
from speechstream.text.inline_tags import read_tag
from speechstream.text.spans import (
    GUARD,
    MAX_DEPTH,
    MAX_RUN,
    MAX_URL,
    Context,
    Found,
    Said,
    Wait,
    as_text,
    character,
    guard,
    guarded,
    is_punctuation,
    literal,
    window_at,
)

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
CONTINUED = re.compile(r"\s*\n\s*")
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
PHONEMES = re.compile(
    "[\u02c8\u02cc\u0259\u026a\u028a\u0279\u0251\u0254\u00e6\u028c\u025b\u025c]"
)  # no page of a wiki
MAX_SUBSCRIPT = 6
SUBSCRIPT = re.compile(rf"([A-Za-z0-9+-]{{1,{MAX_SUBSCRIPT}}})~(?!~)")
UNFINISHED_SUBSCRIPT = re.compile(rf"[A-Za-z0-9+-]{{0,{MAX_SUBSCRIPT}}}~?")
MARK_CLOSED = re.compile(r"(?<![\s=!<>])==(?![=\w])")
OPERATORS = frozenset("=!<>")


def read(text: str, at: int, c: Context) -> Found:
    """The construct, or the run of plain text, that begins at `text[at]`. Raises Wait."""
    found = (SPECIAL_OR_BLANK if c.words else SPECIAL).search(text, at)
    if found is None:
        return as_text(text, at, len(text), c)
    if found.start() > at:
        return as_text(text, at, found.start(), c)
    first = text[at]
    reader = _READERS.get(first)
    if reader is not None:
        return reader(text, at, c)
    if EMOJI.match(first):
        return as_text(text, at, at + 1, c) if c.emoji else Found((), at + 1, open=c.open)
    return as_text(text, at, at + 1, c)


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


def _ends_line(text: str, at: int, c: Context) -> Found:
    """A line's end is the caller's; a carriage return before it is nothing."""
    return Found((), at + 1, open=c.open)


def _emphasis(text: str, at: int, c: Context) -> Found:
    """Stars, underscores and pairs of tildes: markers are not said (CommonMark's flanking rules)."""
    mark, end = text[at], at
    while end < at + MAX_RUN and character(text, end, c) == mark:
        end += 1
    size, after, before = end - at, character(text, end, c), c.before[-1:]
    if size == MAX_RUN:
        return as_text(text, at, end, c)
    left = bool(after) and not after.isspace()
    right = bool(before) and not before.isspace()
    if mark == "~" and size == 1 and before.isalnum() and after.isalnum():
        return _subscript(text, end, c) or as_text(text, at, end, c)
    if mark == "~":
        drop = size == 2 and (left or right)
        return Found((), end, open=c.open) if drop else as_text(text, at, end, c)
    left, right = (
        left and (not is_punctuation(after) or not right or is_punctuation(before)),
        right and (not is_punctuation(before) or not left or is_punctuation(after)),
    )
    if mark == "*" and before.isalnum() and after.isalnum() and _product(text, end, c):
        return as_text(text, at, end, c)
    which = "*_".index(mark)
    depth = c.open[which]
    opens = left and (mark == "*" or not right or is_punctuation(before))
    closes = right and (mark == "*" or not left or is_punctuation(after)) and depth > 0
    if not opens and not closes:
        return as_text(text, at, end, c)
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
    while end < at + MAX_RUN and character(text, end, c) == "=":
        end += 1
    after, before = character(text, end, c), c.before[-1:]
    plain = as_text(text, at, end, c)
    opens = bool(after) and not after.isspace() and not before.isalnum() and before not in OPERATORS
    if end - at != 2 or not opens:
        return plain
    window, whole_window = window_at(text, end, c)
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
    return alone or not character(text, end + 1, c).isalnum()


def _code(text: str, at: int, c: Context) -> Found:
    """Code is read as it stands."""
    end = at
    while end < at + MAX_RUN and character(text, end, c) == "`":
        end += 1
    ticks = text[at:end]
    window, whole_window = window_at(text, end, c)
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
    if character(text, at + 1, c) != "[":
        return as_text(text, at, at + 1, c)
    found = _bracket(text, at + 1, c)
    return as_text(text, at, at + 1, c) if found is None else found


def _link(text: str, at: int, c: Context) -> Found:
    after = character(text, at + 1, c)
    if after == "^":
        window, closed = window_at(text, at, c, 44)
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
        window, closed = window_at(text, at, c)
        end = window.find("]]")
        if end < 0 and not closed:
            raise Wait
        if end > 0 and PHONEMES.search(window, 2, end):
            said = (Said(window[: end + 2], at, at + end + 2, tag=True),)
            return Found(said, at + end + 2, open=c.open)
    found = _bracket(text, at, c)
    if found is None:
        return literal(text, at, c) if after == "[" else as_text(text, at, at + 1, c)
    return found


def _bracket(text: str, at: int, c: Context) -> Found | None:
    """A link or an image whose text is in the brackets at `at`: the text is said. None: it is neither."""
    window, whole_window = window_at(text, at, c)
    size = _closing(window, whole_window)
    if size is None:
        return None
    end, inner = at + size, text[at + 1 : at + size - 1]
    after = character(text, end, c)
    hide = ""
    if after == "(":
        target, whole_target = window_at(text, end, c, MAX_URL)
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
        target, whole_target = window_at(text, end, c, 104)
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


def _entity(text: str, at: int, c: Context) -> Found:
    window = text[at : at + 34]
    found = ENTITY.match(window)
    if found and html.unescape(found[0]) != found[0]:
        said = html.unescape(found[0]).replace("\u00a0", " ")
        end = at + found.end()
        # what follows could make SSML of these two
        return Found((Said(said, at, end), *guard(said, end)), end, open=c.open)
    if not found and not c.final and len(window) < 34 and UNFINISHED_ENTITY.fullmatch(window):
        raise Wait
    said_here = (Said("&", at, at + 1), Said(GUARD, at + 1, at + 1))
    return Found(said_here if found else said_here[:1], at + 1, open=c.open)


def _escape(text: str, at: int, c: Context) -> Found:
    r"""Escaped characters, a line's hard end, and formulas in \( \) and \[ \]."""
    after = character(text, at + 1, c)
    if after == "\n" or (after == "\r" and character(text, at + 2, c) == "\n"):
        return Found((), at + 1, effect="hard", open=c.open)
    if after in ("(", "["):
        closing = "\\)" if after == "(" else "\\]"
        formula = delimited(text, at, at + 2, closing, c)
        if formula is not None:
            return formula
    if after and after.isascii() and is_punctuation(after):
        return Found((Said(after, at + 1, at + 2), *guard(after, at + 2)), at + 2, open=c.open)
    return as_text(text, at, at + 1, c)


_READERS = {
    "\\": _escape,
    "`": _code,
    "*": _emphasis,
    "_": _emphasis,
    "~": _emphasis,
    "=": _marked,
    "[": _link,
    "!": _image,
    "<": read_tag,
    "&": _entity,
    "$": read_dollar,
    "\n": _ends_line,
    "\r": _ends_line,
    **dict.fromkeys("hHwW", read_url),
}
