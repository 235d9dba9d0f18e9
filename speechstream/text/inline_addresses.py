"""Addresses in a line of Markdown: of http://, https:// and www. the host is said."""

from __future__ import annotations

import re

from speechstream.text.spans import MAX_URL, Context, Found, Said, Wait, as_text

URL_START = re.compile(r"https?://|www\.", re.I)
URL_STARTS = ("http://", "https://", "www.")
URL = re.compile(r"(?:https?://|www\.)[^\s<>\"`|]*", re.I)
HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(?:www\.)?(?:[^\s/?#@]*@)?([^\s/?#:@]+)", re.I)


def read_url(text: str, at: int, c: Context) -> Found:
    """http://, https:// and www.: the host is said."""
    if c.before[-1:].isalnum():
        return as_text(text, at, at + 1, c)
    if not URL_START.match(text, at):
        rest = text[at : at + 8].lower()
        if not c.final and len(rest) < 8 and any(s.startswith(rest) for s in URL_STARTS):
            raise Wait
        return as_text(text, at, at + 1, c)
    found = URL.match(text[at : at + MAX_URL])
    assert found is not None
    size = found.end()
    if size == MAX_URL:
        return Found(host_of(found[0], at, at + size), at + size, hide=" ", open=c.open)
    if at + size == len(text) and not c.final:
        raise Wait
    size = len(_trimmed(found[0]))
    if not size:
        return as_text(text, at, at + found.end(), c)
    return Found(host_of(found[0][:size], at, at + size), at + size, open=c.open)


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


def host_of(url: str, start: int, end: int) -> tuple[Said, ...]:
    found = HOST.match(url)
    return (Said(found[1] if found else url, start, end),)
