"""Streams of the synthesizer: text in any pieces, sound the same; ends, cancels, pauses, timings, hostile text."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio
from speechstream.runtime.requests import drive
from speechstream.text.en.ipa import to_ipa
from speechstream.tts.piper import voice as piper_voice
from speechstream.tts.piper.network import Latents
from speechstream.tts.synthesizer import Synthesizer, installed_voices

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "tests" / "fixtures" / "tts" / "tiny-voice"
TEXT = 'Well, it was Dr. Smith who paid $3.50. "Why?" she asked, and nobody knew the answer to that question at all.'


@pytest.fixture(scope="module")
def tts():
    return Synthesizer.load(VOICE)


def spoken(stream):
    return np.concatenate([c.pcm for c in stream] or [np.zeros(0, np.float32)])


@pytest.mark.parametrize("seed", range(4))
def test_any_pieces_give_the_sound_of_the_whole(tts, seed):
    whole = tts.synthesize(TEXT)
    rng, data = np.random.default_rng(seed), TEXT.encode() if seed % 2 else TEXT
    with tts.stream() as s:
        at, chunks = 0, []
        while at < len(data):
            count = int(rng.integers(1, 20))
            s.push(data[at : at + count])
            at += count
        s.end()
        chunks = list(s)
    np.testing.assert_allclose(np.concatenate([c.pcm for c in chunks]), whole.pcm, atol=1e-4)
    assert [w for c in chunks for w in c.words] == list(whole.words)


def test_streams_do_not_disturb_each_other(tts):
    texts = [TEXT, "One, two, three. Four.", "A quick test, of this thing, and of that."]
    alone = [tts.synthesize(t, voice="two").pcm for t in texts]
    streams = [tts.stream(voice="two") for _ in texts]
    parts, rng = [[] for _ in texts], np.random.default_rng(0)
    for s, t in zip(streams, texts):
        s.push(t)
        s.end()
    left = set(range(3))
    while left:
        i = int(rng.choice(sorted(left)))
        chunk = next(streams[i], None)
        if chunk is None:
            left.discard(i)
        else:
            parts[i].append(chunk.pcm)
    for part, pcm in zip(parts, alone):
        np.testing.assert_array_equal(np.concatenate(part), pcm)


def test_chunks_follow_each_other_without_gaps(tts):
    with tts.stream() as s:
        s.push(TEXT)
        s.end()
        at = 0
        for chunk in s:
            assert chunk.start == at / s.sample_rate and chunk.pcm.dtype == np.float32
            for item in (*chunk.words, *chunk.phonemes):
                assert item.start >= chunk.start - 0.05  # the codec's delay
            at += len(chunk.pcm)
    assert at > 0


def test_blocks_meet_without_steps(tts):
    """The seams of blocks are as smooth as the sound itself: streamed blocks against one block of everything."""
    with tts.stream() as s:
        s.push("Hello there my friend.")
        s.end()
        blocks = [c.pcm for c in s]
    pcm, steps = np.concatenate(blocks), np.cumsum([len(b) for b in blocks])[:-1]
    jumps = np.abs(np.diff(pcm))
    seams = jumps[steps - 1]
    assert seams.max() <= 1.2 * jumps.max()
    # between any two frames the sound turns at random here, whether a block ends there or not
    inside = np.setdiff1d(np.arange(steps[0], len(pcm), 320), steps) - 1
    assert len(inside) > 10 and seams.max() < 1.2 * jumps[inside].max()


def test_timings_refer_to_the_text(tts):
    chunk = tts.synthesize(TEXT)
    assert [TEXT[slice(*w.span)] for w in chunk.words][:9] == [
        "Well",
        "it",
        "was",
        "Dr.",
        "Smith",
        "who",
        "paid",
        "$3.50",
        "$3.50",
    ]
    assert all(
        a.end <= b.start + 1e-9 and a.start < a.end for a, b in zip(chunk.words, chunk.words[1:])
    )
    assert chunk.words[-1].end <= len(chunk.pcm) / tts.sample_rate
    for w in chunk.words:  # the phonemes of a word lie in it
        inside = [p for p in chunk.phonemes if w.start - 1e-9 <= p.start and p.end <= w.end + 1e-9]
        assert inside and inside[0].start == pytest.approx(w.start)


def test_speed_and_breaks_change_the_length(tts):
    normal, fast = (len(tts.synthesize("A quick test of speed.", speed=s).pcm) for s in (1.0, 2.0))
    assert 0.4 < fast / normal < 0.65
    with_break = tts.synthesize("A quick test <break time='1500ms'/> of speed.")
    gap = with_break.words[3].start - with_break.words[2].end
    assert 1.5 <= gap < 1.9
    quiet = with_break.pcm[int((with_break.words[2].end + 0.4) * 8000) :][:8000]
    assert not quiet.any()


def test_markup_changes_loudness_and_can_be_left_out(tts):
    plain, loud = (
        tts.synthesize("Hello there."),
        tts.synthesize("<prosody volume='+6dB'>Hello there.</prosody>"),
    )
    ratio = np.std(loud.pcm[: len(plain.pcm)]) / np.std(plain.pcm)
    assert 1.8 < ratio < 2.1  # 6 dB are a factor of 1.995
    text = "a <break time='2s'/> b"
    read = tts.synthesize(text)
    assert len(read.words) == 2 and len(read.pcm) > 2 * tts.sample_rate
    assert len(tts.synthesize(text, markup=False).words) > 2


def test_text_from_another_thread_is_spoken_while_it_comes(tts):
    first_heard = threading.Event()

    def write():
        s.push("This is the first sentence. And ")
        assert first_heard.wait(20)  # sound came before the text had ended
        s.push("this the second.")
        s.end()

    with tts.stream() as s:
        thread = threading.Thread(target=write)
        thread.start()
        words = []
        for chunk in s:
            first_heard.set()
            words += [w.text for w in chunk.words]
        thread.join(20)
    assert words == "This is the first sentence And this the second".split()


def test_patience_speaks_what_has_come(tts):
    with tts.stream(patience_s=0.05) as s:
        s.push("Nothing ends this but ")
        words = []
        for chunk in s:
            words += [w.text for w in chunk.words]
            if len(words) >= 4:
                s.end()
    assert words == ["Nothing", "ends", "this", "but"]


def test_flush_speaks_what_has_come(tts):
    with tts.stream() as s:
        s.push("Hello dear ")
        s.flush()
        words = []
        while not words:  # silence may come first
            words += next(s).words
        assert words[0].text == "Hello"


def test_cancel_ends_a_waiting_and_a_speaking_stream(tts):
    before = threading.active_count()
    with tts.stream() as s:
        timer = threading.Timer(0.1, s.cancel)
        timer.start()
        assert list(s) == []  # it waited for text
        timer.join()
    with tts.stream() as s:
        s.push("word " * 2000)
        s.end()
        assert isinstance(next(s), Audio)
        s.cancel()
        s.cancel()
        assert next(s, None) is None
        s.push("no more")  # no effect
        s.end()
    s.cancel()
    assert s.cancelled and list(s) == [] and threading.active_count() == before


def test_a_stream_left_behind_leaves_no_thread(tts):
    before = threading.active_count()
    s = tts.stream()
    s.push("Hello there. All of you.")
    next(s)
    del s
    assert threading.active_count() == before


def test_a_snapshot_is_taken_up_to_the_sample(tts):
    stream = tts.stream()
    stream.push("Hello there, my friend. And more.")
    stream.end()
    next(stream)
    again = tts.resume(stream.core.to_bytes(stream.state))
    again.end()
    np.testing.assert_array_equal(spoken(again), spoken(stream))


def test_wrong_use_is_one_sentence(tts, tmp_path):
    for options, message in (
        ({"voice": "nobody"}, "no speaker 'nobody'; it has one, two"),
        ({"speed": 9}, "speed goes"),
        ({"pitch": True}, "pitch goes"),
        ({"patience_s": 0}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tts.stream(**options)
    with tts.stream() as s:
        with pytest.raises(ValueError, match="str or as UTF-8"):
            s.push(3)
        s.end()
        with pytest.raises(SpeechStreamError, match="has ended"):
            s.push("x")
    with pytest.raises(SpeechStreamError, match="not the snapshot"):
        tts.resume(b"junk")
    with pytest.raises(ValueError, match="state must be that of a stream"):
        tts.resume(None)
    with pytest.raises(SpeechStreamError, match=r"entry 1 \('SQL'\) must be a str"):
        tts.stream(lexicon={"SQL": 5})
    with pytest.raises(SpeechStreamError, match="no voice 'nonesuch'"):
        Synthesizer.load("nonesuch")
    with pytest.raises(SpeechStreamError, match="is no voice"):
        Synthesizer.load(tmp_path)


HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "marks": "?!... --- ,,,",
    "long": "x" * 20_000,
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "scripts": "Привет мир, 你好, مرحبا, hello",
    "control": "a\x00b\x07c\x1b[31md",
    "bytes": b"\xff\xfe hello \xc3",
    "tags": "<speak><prosody rate='fast'>never closed <break",
    "brackets": "[[[[ ]] ]] [[",
    "surrogate": "a\ud800b",
    "entity": "&#0; &#1114112; &amp;",
    "nested": "<p>" * 200 + "hi",
    "digits": "9" * 3000,
    "accents": "a" + "\u0301" * 3000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_spoken_or_passed_over(tts, name):
    with tts.stream() as s:
        s.push(HOSTILE[name])
        s.end()
        seconds = 0.0
        for chunk in s:
            assert np.isfinite(chunk.pcm).all()
            seconds += len(chunk.pcm) / s.sample_rate
            if seconds > 20:  # enough of it
                break
    assert (seconds > 0) == (name not in ("empty", "blank", "marks", "brackets"))


def test_installed_voices_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "tiny").symlink_to(VOICE)
    (tmp_path / "other.txt").write_text("no voice", encoding="utf-8")
    monkeypatch.setenv("SPEECHSTREAM_VOICES", str(tmp_path))
    assert installed_voices()["tiny"] == tmp_path / "tiny"
    assert Synthesizer.load("tiny").voices == ("one", "two")


def test_torch_is_not_needed():
    script = f"""
import sys
import speechstream as ss
assert len(ss.Synthesizer.load({str(VOICE)!r}).synthesize("Hello.").pcm)
assert "torch" not in sys.modules and "onnx" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=120)


class FakePiper:
    """Every id lasts two frames of ten samples; the sound of a frame is its number."""

    sample_rate, speakers, digest = 100, {}, "fake"
    config = {"espeak": {"voice": "en-us"}, "dataset": "fake", "audio": {"quality": "low"}}

    def phoneme_ids(self, phonemes, strict=True):
        return [1, 0] + [i for c in phonemes for i in (ord(c), 0)] + [2]

    def latents(self, ids, speed=1.0, speaker=None):
        self.ids = ids
        return Latents(np.zeros((1, 1, 2 * len(ids)), np.float32), (), np.full(len(ids), 2))

    def decode(self, latents, start=0, stop=None):
        stop = min(stop, int(latents.durations.sum()))
        return np.repeat(np.arange(start, stop, dtype=np.float32), 10) / 1000


@pytest.fixture
def piper(monkeypatch):
    fake = FakePiper()
    monkeypatch.setattr(piper_voice.PiperVoice, "load", lambda path, threads=1, device="cpu": fake)
    return fake


def test_piper_speaks_our_phonemes_with_exact_timings(piper, tmp_path):
    tts = Synthesizer(piper_voice.PiperSpeech(tmp_path / "x.onnx"))
    chunk = tts.synthesize("hello, bird")
    symbols = "h \u0259 l \u02c8 o \u028a ,".split()
    assert list(piper.ids[2:16:2]) == [ord(c) for c in symbols]
    frame = 10 / 100
    # beginning and pad (4 frames), then 4 frames a symbol: "hello" has five of ours, the diphthong two of theirs
    assert chunk.words[0].start == pytest.approx(4 * frame)
    assert chunk.words[0].end == pytest.approx((4 + 4 * 6) * frame)
    expected = np.repeat(np.arange(len(chunk.pcm) // 10, dtype=np.float32), 10) / 1000
    np.testing.assert_array_equal(chunk.pcm, expected)
    with pytest.raises(ValueError, match="no control of pitch"):
        tts.stream(pitch=2)


def test_our_phonemes_as_espeak_writes_them():
    # espeak-ng 1.51 en-us: "bird", "better", "happy", "chair", "now"
    for ours, theirs in (
        ("b\u02c8\u025c\u0279d", "b\u02c8\u025c\u02d0d"),
        ("b\u02c8\u025b\u027e\u0259\u0279", "b\u02c8\u025b\u027e\u025a"),
        ("h\u02c8\u00e6pi", "h\u02c8\u00e6pi"),
        ("\u02a7\u02c8\u025b\u0279", "t\u0283\u02c8\u025b\u0279"),
        ("n\u02c8W", "n\u02c8a\u028a"),
        ("s\u02c8i", "s\u02c8i\u02d0"),
    ):
        assert "".join(to_ipa(ours)) == theirs


def test_other_languages_go_to_espeak(piper, monkeypatch, tmp_path):
    monkeypatch.setattr(FakePiper, "config", {**FakePiper.config, "espeak": {"voice": "de"}})
    monkeypatch.setattr(FakePiper, "phonemize", lambda self, text: text.lower(), raising=False)
    text = "Guten <break time='1s'/> Tag, Welt."
    chunk = Synthesizer(piper_voice.PiperSpeech(tmp_path / "x.onnx")).synthesize(text)
    assert [text[slice(*w.span)] for w in chunk.words] == ["Guten", "Tag,", "Welt."]
    assert chunk.words[1].start - chunk.words[0].end >= 1.0


def test_a_piper_stream_is_a_value_with_its_noise(piper, monkeypatch, tmp_path):
    """What has been planned is not drawn again: a fork and a snapshot have the sound of the stream itself."""
    rng = np.random.default_rng(0)
    latents = FakePiper.latents

    def noisy(self, *args, **options):
        made = latents(self, *args, **options)
        return replace(made, z=rng.normal(size=made.z.shape).astype(np.float32))

    monkeypatch.setattr(FakePiper, "latents", noisy)
    monkeypatch.setattr(
        FakePiper,
        "decode",
        lambda self, made, start=0, stop=None: np.repeat(made.z[0, 0, start:stop], 10),
    )
    core = Synthesizer(piper_voice.PiperSpeech(tmp_path / "x.onnx")).core()
    text = "One long sentence of many words that goes on for more than one block of frames, surely."
    said, state = drive(core.step(text + " ", core.init_state()))
    while state.voice.latents is None or state.voice.at == 0:
        said, state = drive(core.resume(state))
    ends = []
    for start in (state, core.from_bytes(core.to_bytes(state)), state):
        pcm = []
        while start.spoken is not None:
            more, start = drive(core.resume(start))
            pcm += [e.pcm for e in more]
        ends.append(np.concatenate(pcm))
    assert len(ends[0]) and np.std(ends[0]) > 0.5
    for other in ends[1:]:
        np.testing.assert_array_equal(other, ends[0])
