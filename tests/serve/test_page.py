"""The web page: its files and headers; and in a real browser, with a recording for a microphone."""

import itertools
import json
import re
import shutil
import subprocess
import time

import httpx
import numpy as np
import pytest
import soundfile as sf
from rapidfuzz.distance import Levenshtein
from scipy.signal import correlate

from speechstream.serve import page as pages
from speechstream.serve.settings import Settings
from tests.serve import browser
from tests.serve.serving import patiently, serving

RATE = 16_000
KEY = "a/key=with,odd;signs"  # none of which a subprotocol may have
LONG = (
    "One is here and two is there. Three is far away from here, and four is near, I think. "
    "Five came late, because six had lost the way again. Seven waited for eight in the garden, "
    "and nine was asleep. Ten never came at all, which nobody had expected of him."
)
SECONDS = {"austen_0870": 7.1, "austen_0880": 2.99}  # of recordings
needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here")


class Agent:
    """Says what it shall, an answer for each turn, and remembers what it was told. It may be asked twice for one."""

    def __init__(self):
        self.answers, self.asked = [], []

    def __call__(self, messages):
        self.asked.append(messages)
        yield [*self.answers, "Yes."][sum(m["role"] == "assistant" for m in messages)]


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


AGENT = Agent()


@pytest.fixture(scope="module")
def served(models):
    with patiently(), serving(models, Settings(port=0, agent=lambda: AGENT)) as found:
        yield found


@pytest.fixture(scope="module")
def locked(models):
    with serving(models, Settings(port=0, keys=(KEY,))) as found:
        yield found


@pytest.fixture
def agent():
    AGENT.answers, AGENT.asked = [], []
    return AGENT


@pytest.fixture
def microphone(fixtures_dir, tmp_path):
    """microphone(1.0, "austen_0880", ...) writes a file for a microphone: seconds of silence, and recordings."""

    def write(*parts):
        pieces = [
            np.zeros(round(p * RATE), np.int16)
            if isinstance(p, float)
            else sf.read(fixtures_dir / f"{p}.flac", dtype="int16")[0]
            for p in parts
        ]
        path = tmp_path / "microphone.wav"
        sf.write(path, np.concatenate([*pieces, np.zeros(90 * RATE, np.int16)]), RATE)
        return path

    return write


@pytest.fixture(scope="module")
def said(fixtures_dir):
    """What the recordings say, by hand: {name: [{"word", "start", "end"}]}."""
    found = json.loads((fixtures_dir / "transcripts.json").read_text(encoding="utf-8"))
    return {one["file"].removesuffix(".flac"): one["words"] for one in found}


def words(text):
    """As a list, without case and signs."""
    return re.sub(r"[^a-z' ]", " ", text.lower().replace("mr.", "mister")).split()


def text_of(said, *names):
    return [w["word"] for name in names for w in said[name]]


def complete(page, expected):
    """What a page has heard: some words may be wrong, or written as two, but none is lost or doubled."""
    found, expected = "".join(words(page.words("you"))), "".join(expected)
    assert wrong(found, expected) <= 0.2, found
    kinds = [(o.tag, max(o.src_end - o.src_start, o.dest_end - o.dest_start)) for o in Levenshtein.opcodes(found, expected)]  # fmt: skip
    assert all(n <= 5 for kind, n in kinds if kind in ("insert", "delete")), found


def in_time(page, said, first, pause, then):
    """The user's words are where they are in the recordings, whenever the microphone was opened."""
    script = "[...document.querySelectorAll('.turn.you .word')].map(w => [w.textContent, Number(w.dataset.t)])"
    found = page.evaluate(script)
    second = SECONDS[first] + pause  # where the other one begins
    expected = [(w["word"], w["start"]) for w in said[first]]
    expected += [(w["word"], w["start"] + second) for w in said[then]]
    one, two = ([words(w)[0] for w, _ in pairs] for pairs in (found, expected))
    same = Levenshtein.editops(one, two).as_matching_blocks()
    off = [found[b.a + k][1] - expected[b.b + k][1] for b in same for k in range(b.size)]
    assert len(off) > len(expected) / 2
    assert np.abs(off - np.median(off)).max() < 0.4, off


def wrong(found, expected):
    """The rate of wrong words."""
    return Levenshtein.distance(found, expected) / len(expected)


def place(piece, sound):
    """Where a piece begins in a sound, as it is to a thousandth of the scale; None: nowhere."""
    products = correlate(sound, piece, "valid", method="fft")
    energies = correlate(sound**2, np.ones_like(piece), "valid", method="fft")
    at = int(
        np.argmin(energies - 2 * products)
    )  # the squared distance, less what is the piece's own
    return at if np.abs(sound[at:][: len(piece)] - piece).max() < 2e-3 else None


# Without a browser.


@pytest.fixture(scope="module")
def files():
    return {name: pages.content(name)[0].decode() for name in pages.names()}


def test_every_file_comes_with_its_type_and_a_strict_policy(locked):
    with httpx.Client(base_url=locked.url) as client:
        for path, name in [("/", "index.html"), *((f"/page/{n}", n) for n in pages.names())]:
            if path == "/page/index.html":
                assert client.get(path).status_code == 401
                continue
            answer = client.get(path)
            assert answer.status_code == 200 and answer.content == pages.content(name)[0]
            policy = dict(
                p.split(" ", 1) for p in answer.headers["content-security-policy"].split("; ")
            )
            assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
            assert "unsafe" not in str(policy) and policy["frame-ancestors"] == "'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            known = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert known.status_code == 304 and not known.content
            assert client.post(path).status_code == 405
        assert "javascript" in client.get("/page/app.js").headers["content-type"]


def test_what_there_is_needs_the_key(locked, served, models):
    assert httpx.get(f"{locked.url}/page/setup").status_code == 401
    bad = httpx.get(f"{locked.url}/page/setup", headers={"Authorization": "Bearer nonsense"})
    assert bad.status_code == 401 and "not known" in bad.json()["error"]["message"]
    found = httpx.get(f"{locked.url}/page/setup", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert found["keyed"] and found["voices"] == list(models[1].voices)
    assert found["latencies"] == sorted(models[0].latencies)
    assert not httpx.get(f"{served.url}/page/setup").json()["keyed"]


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(files):
    for name, text in files.items():
        there = set(re.findall(r"[a-z]+://[^\s\"'`)>]*", text)) - {"http://www.w3.org/2000/svg"}
        assert not there, (name, there)
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text
    html = files["index.html"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\bsrc=)|javascript:", html)
    wanted = set(re.findall(r'(?:src|href)="([^"#]+)"', html))
    wanted |= {f"page/{n}" for t in files.values() for n in re.findall(r'from "\./([^"]+)"', t)}
    wanted |= {f"page/{n}" for t in files.values() for n in re.findall(r'new URL\("(\w+\.js)"', t)}
    assert wanted == {f"page/{name}" for name in files if name != "index.html"}


def test_every_id_and_label_is_there(files):
    html = files["index.html"]
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([^"]+)"\)', files["app.js"])) <= set(ids)
    assert set(re.findall(r'(?:for|aria-describedby)="([^"]+)"', html)) <= set(ids)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_have_the_contrast_of_wcag(files, theme):
    block = re.findall(r":root \{(.*?)\}", files["style.css"], re.S)[theme]
    c = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    pairs = itertools.product(["ink", "soft", "you", "voice"], ["paper", "raised"])
    more = [
        ("on-strong", "strong"),
        ("alarm", "alarm-paper"),
        ("voice", "calm-paper"),
        ("paper", "ink"),
    ]
    for text, ground in [*pairs, *more]:
        one, two = sorted((luminance(c[text]), luminance(c[ground])))
        assert (two + 0.05) / (one + 0.05) >= 4.5, (text, ground)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_the_scripts_are_javascript(files):
    for name, text in files.items():
        if name.endswith(".js"):
            command = ["node", "--input-type=module", "--check"]
            done = subprocess.run(command, input=text, text=True, capture_output=True)
            assert done.returncode == 0, (name, done.stderr)


# With one.


@needs_browser
def test_a_conversation_that_is_interrupted_by_voice(
    served, models, agent, microphone, said, tmp_path
):
    agent.answers = [LONG]
    path = microphone(1.0, "austen_0880", 7.0, "austen_0930")
    with browser.browsing(tmp_path / "profile", path) as page:
        page.open(served.url)
        page.click("#start")
        page.until(
            "document.querySelectorAll('.turn.voice').length == 2 && document.querySelector('#state').dataset.state == 'listening'"
        )
        yours, voices = page.texts(".turn.you .words"), page.texts(".turn.voice .words")
        assert wrong(words(yours[0]), text_of(said, "austen_0880")) <= 0.3
        assert wrong(words(yours[-1]), text_of(said, "austen_0930")) <= 0.3
        assert LONG.startswith(voices[0]) and voices[1] == "Yes."
        in_time(page, said, "austen_0880", 7.0, "austen_0930")
        at = page.evaluate(
            "[...document.querySelector('.turn.voice').querySelectorAll('.word')].map(w => Number(w.dataset.t))"
        )
        assert len(at) > 5 and (np.diff(at) > 0).all()
        # What was struck out was not heard, and the agent knows what was.
        heard = page.texts(".turn.voice .word:not(.unheard)")
        told = [m["content"] for m in agent.asked[-1] if m["role"] == "assistant"][0]
        assert page.texts(".turn.voice .word.unheard") and LONG.startswith(told)
        assert abs(len(told.split()) - len(heard[:-1])) <= 2
        sound, _ = page.heard()
        played = words(models[0].transcribe(sound, 24_000).text)
        assert wrong(played, words(" ".join(heard))) <= 0.3
        reply = page.texts("#reply")[0]
        assert re.fullmatch(r"\d+ ms", reply) or re.fullmatch(r"\d+ s", reply)
        assert not page.errors()
        print("end of speech to first sound:", reply, "round trip:", page.texts("#trip")[0])


@needs_browser
@pytest.mark.parametrize("how", ["button", "key"])
def test_a_typed_question_and_a_stop(served, agent, microphone, tmp_path, how):
    agent.answers = [LONG, "<b>Fine</b> &amp; good."]
    with browser.browsing(tmp_path / "profile", microphone(1.0)) as page:
        page.open(served.url)
        page.type("#text", "Tell me <i>all</i>.")
        page.until("document.querySelectorAll('.turn.voice .word:not(.coming)').length > 1")
        page.click("#interrupt") if how == "button" else page.key("Escape", 27)
        at = page.evaluate("performance.now()")
        page.until("document.querySelector('.turn.voice.cut')")
        time.sleep(1.0)
        sound, times = page.heard()
        late = [x for t, x in zip(times, sound.reshape(-1, browser.BLOCK)) if t > at + 300]
        assert len(late) > 5 and np.abs(late).max() == 0
        page.type("#text", "And now?")
        page.until(
            "document.querySelectorAll('.turn.voice').length == 2 && document.querySelector('#state').dataset.state == 'listening'"
        )
        assert agent.asked[0][-1]["content"] == "Tell me <i>all</i>."
        assert page.texts(".turn.you .words") == ["Tell me <i>all</i>.", "And now?"]
        assert "<b>Fine</b>" in page.texts(".turn.voice .words")[1]  # as text
        assert not page.evaluate("document.querySelector('.turn i, .turn b')")
        told = [m["content"] for m in agent.asked[1] if m["role"] == "assistant"][0]
        assert LONG.startswith(told) and len(told) < len(LONG)


@needs_browser
def test_a_dropped_socket_and_a_reload_lose_no_word(served, microphone, said, tmp_path):
    path = microphone(1.0, "austen_0870", 1.5, "austen_0880")
    port = int(served.url.rpartition(":")[2])
    reading = text_of(
        said, "austen_0870", "austen_0880"
    )  # by hand; the recogniser has its own opinion of names
    finals = "document.querySelectorAll('.turn.you:not(.open)').length"
    before = len(served.engine.resumable)
    with browser.cable(port) as cable, browser.browsing(tmp_path / "profile", path) as page:
        page.open(f"http://127.0.0.1:{cable.port}")
        page.click("input[value=transcribe] + span")
        page.click("#start")
        page.until("document.querySelector('.partial').textContent.split(' ').length > 3")
        cable.cut()
        page.until("document.querySelector('#state').dataset.state == 'waiting'")
        time.sleep(0.7)
        cable.plugged = True
        page.until(f"{finals} == 2")
        assert "Nothing was lost" in page.texts("#notice-text")[0]
        complete(page, reading)
        in_time(page, said, "austen_0870", 1.5, "austen_0880")

        # The microphone's file begins anew with each page.
        page.reload()
        complete(page, reading)
        page.until(f"{finals} == 4 || document.querySelector('#start').textContent == 'Continue'")
        if page.texts("#start") == ["Continue"]:
            page.click("#start")
        page.until(f"{finals} == 4")
        complete(page, 2 * reading)
        assert len(served.engine.resumable) == before + 1
        page.click("#start")
        page.until("document.querySelector('#start').textContent == 'Start'")
        assert page.evaluate("JSON.parse(sessionStorage['speechstream.page']).stream") is None
        assert not page.errors()


@needs_browser
def test_a_reload_in_the_middle_of_a_sentence(served, microphone, said, tmp_path):
    reading, kept = text_of(said, "austen_0870"), len(served.engine.resumable)
    with browser.browsing(tmp_path / "profile", microphone(1.0, "austen_0870")) as page:
        page.open(served.url)
        page.click("input[value=transcribe] + span")
        page.click("#start")
        page.until("document.querySelector('.partial').textContent.split(' ').length > 5")
        before = words(page.words("you"))
        page.reload()
        page.until("document.querySelector('#start').textContent != 'Start'")
        page.until(
            "document.querySelector('#log').textContent.endsWith('for them.') || document.querySelector('#start').textContent == 'Continue'"
        )
        if page.texts("#start") == ["Continue"]:
            page.click("#start")
            page.until("document.querySelector('#log').textContent.endsWith('for them.')")
        found = words(page.words("you"))
        rates = [wrong(found, reading[:n] + reading) for n in range(len(before) - 1, len(reading))]
        assert min(rates) <= 0.25, found  # a word that is cut in two is heard wrongly
        assert len(served.engine.resumable) == kept + 1


@needs_browser
def test_a_conversation_goes_on_after_a_drop_and_says_so(served, agent, microphone, tmp_path):
    agent.answers = ["Good morning.", "Still here."]
    port = int(served.url.rpartition(":")[2])
    idle = "document.querySelector('#state').dataset.state == 'listening'"
    with (
        browser.cable(port) as cable,
        browser.browsing(tmp_path / "profile", microphone(1.0)) as page,
    ):
        page.open(f"http://127.0.0.1:{cable.port}")
        page.type("#text", "Hello.")
        page.until(f"document.querySelectorAll('.turn.voice').length == 1 && {idle}")
        cable.cut()
        page.until("document.querySelector('#state').dataset.state == 'waiting'")
        cable.plugged = True
        page.until(
            "document.querySelector('#notice-text').textContent.includes('new conversation')"
        )
        page.type("#text", "Are you there?")
        page.until(f"document.querySelectorAll('.turn.voice').length == 2 && {idle}")
        contents = [m["content"] for m in agent.asked[-1] if m["role"] != "system"]
        assert contents == ["Hello.", "Good morning.", "Are you there?"]


@needs_browser
def test_a_wrong_key_is_told_and_a_right_one_is_nowhere_to_be_seen(locked, microphone, tmp_path):
    with browser.browsing(tmp_path / "profile", microphone(1.0)) as page:
        page.open(locked.url)
        assert page.evaluate("document.activeElement.id") == "key"
        page.type("#key", "not the right one")
        page.until(
            "document.querySelector('#notice-text').textContent.includes('does not know this key')"
        )
        page.type("#key", KEY)
        page.until(
            "document.querySelector('#voice option') && document.querySelector('#key-form').hidden"
        )
        page.type("#text", "Hello.")
        page.until(
            "document.querySelector('.turn.voice') && document.querySelector('#state').dataset.state == 'listening'"
        )
        assert page.texts(".turn.voice .words") == ["Hello! What can I do for you?"]
        page.click("#start")
        page.click("input[value=transcribe] + span")
        page.click("#start")
        page.until("document.querySelector('#state').dataset.state == 'listening'")
        page.reload()
        assert page.evaluate("document.querySelector('#key-form').hidden")
        seen = page.requested()
        assert any("v1/stream" in url for url in seen) and any("v1/realtime" in url for url in seen)
        assert not any("key" in url.lower() or "token" in url or "?" in url for url in seen)
        assert KEY not in page.evaluate(
            "JSON.stringify(localStorage) + document.documentElement.outerHTML + location"
        )
        page.evaluate("sessionStorage.setItem('speechstream.key', 'one that has changed')")
        page.call("Page.reload")
        page.until(
            "document.querySelector('#notice-text').textContent.includes('does not know this key')"
        )


@needs_browser
def test_a_text_is_spoken(served, models, tmp_path):
    text = "It rained on Monday, so we stayed inside. The dog slept by the fire."
    with browser.browsing(tmp_path / "profile") as page:
        page.open(served.url)
        page.click("input[value=speak] + span")
        page.type("#text", "Hello.")  # the recorder is ready when it is over
        page.until("document.querySelectorAll('.turn.voice:not(.open)').length == 1")
        page.evaluate("(window.heard = [], document.querySelector('#text').value = '')")
        page.type("#text", text)
        page.until("document.querySelectorAll('.turn.voice:not(.open)').length == 2")
        time.sleep(0.3)
        assert page.texts(".turn.voice .words") == ["Hello.", text]
        sound, _ = page.heard()
        alone = models[1].synthesize(text, markup=False).pcm
        # Of what was said every 40 ms were played, in order. On a slow machine there may be gaps between blocks, so a
        # piece that a gap cuts in two may be missing.
        at, missing, pieces = (
            0,
            0,
            [x for x in np.split(alone, range(960, len(alone), 960)) if np.abs(x).max() > 0.01],
        )
        for piece in pieces[:-1]:
            found = place(piece, sound[at:])
            at, missing = (at, missing + 1) if found is None else (at + found, missing)
        assert len(pieces) > 60 and missing <= 0.1 * len(pieces)
        # The first block is played as it was made.
        a, b = (np.flatnonzero(np.abs(x) > 1e-3)[0] for x in (sound, alone))
        n = 6000
        off = min(range(-50, 50), key=lambda o: np.abs(sound[a + o :][:n] - alone[b:][:n]).max())
        assert np.abs(sound[a + off :][:n] - alone[b:][:n]).max() < 2e-3
