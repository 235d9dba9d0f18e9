"""Incremental decoding against decoding from scratch, with a scripted decoder; long speech with a scripted encoder."""

import gc
import json
import tracemalloc

import numpy as np
import pytest

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.incremental import MAX_TOKENS_PER_S
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.whisper.attention import FRAME_S, AttentionDecoder
from speechstream.asr.whisper.cache import Values
from speechstream.asr.whisper.family import WhisperFamily
from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, EncoderState
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.events import Endpoint, Final, Partial, SpeechStarted
from tests.asr.whisper.heard import Heard

WORDS, TAILS, END, PROMPT = 30, 10, 40, [41, 42]  # 30 pieces open a word, 10 continue one


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    pieces = (
        [f"\u0120w{i}" for i in range(WORDS)]
        + [f"-{i}" for i in range(TAILS)]
        + ["<end>", "<a>", "<b>", "<c>"]
    )
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    path.write_text(json.dumps({"pieces": pieces, "end": END, "prompt": PROMPT}))
    return Vocabulary(path)


class ScriptedEngine:
    """A decoder that says what `script(text tokens, memory)` says: (next token, first frame, end).

    What it has read it knows from the state alone, so a wrong cache is a wrong answer.
    """

    name = "scripted"

    def __init__(self, script=None):
        self.script, self.calls, self.read = script, 0, 0

    def decoder_state(self, batch=1):
        empty = np.zeros((1, 1, 1, 0, 1), np.float32)
        return DecoderState(empty, empty, np.zeros(1, np.int64))

    def decode(self, tokens, keys, values, mask, state, first=0):
        assert state.tokens.tolist() == [state.keys.shape[3]]
        before = state.keys[0, 0, 0, :, 0].astype(int).tolist()
        after = before + tokens[0].tolist()
        assert after[:2] == PROMPT
        logits = np.zeros((1, tokens.shape[1], END + 4), np.float32)
        logits[..., END + 1 :] = 99  # what is never text, not even where it is most likely
        alignment = np.zeros((1, tokens.shape[1], keys.shape[3]), np.float32)
        memory = keys[0, 0, 0, mask[0], 0]
        for n in range(tokens.shape[1]):
            if len(before) + n + 1 >= len(PROMPT):
                token, start, end = self.script(after[len(PROMPT) : len(before) + n + 1], memory)
                logits[0, n, token] = 9
                alignment[0, n, start:end] = 1 / max(end - start, 1)
        self.calls, self.read = self.calls + 1, self.read + tokens.shape[1]
        cache = np.array(after, np.float32).reshape(1, 1, 1, -1, 1)
        return Decoded(logits[:, first:], alignment), DecoderState(
            cache, cache.copy(), np.array([len(after)])
        )


def hear(memory, frames, confirmed=True):
    """Grow a memory by so many frames of nothing."""
    zeros = np.zeros((1, 1, 1, frames, 1), np.float32)
    memory.put(
        memory.frames, Encoded(zeros, zeros, np.zeros((1, frames // 2, 3), np.float32)), confirmed
    )


def extend(decoder, engine, hypothesis, memory, final=False):
    return memory.extend(decoder, engine, hypothesis, final)


def greedy(script, memory, prefix, limit=1000):
    """The definition: after a prefix, one token at a time."""
    tokens = list(prefix)
    while len(tokens) < limit:
        token, _, _ = script(tokens, np.zeros(memory.frames))
        if token == END:
            break
        tokens.append(token)
    return tokens


class Speech:
    """Random words of one to three pieces; what ended lately is heard wrong, differently each time."""

    def __init__(self, seed, frames=900):
        rng = np.random.default_rng(seed)
        self.truth, at, self.seed = [], 5, seed
        while at < frames - 20:
            for piece in range(int(rng.integers(1, 4))):
                token = int(rng.integers(WORDS)) if piece == 0 else WORDS + int(rng.integers(TAILS))
                size = int(rng.integers(4, 14))
                self.truth.append((token, at, at + size))
                at += size
            at += int(rng.integers(0, 30))

    def __call__(self, tokens, memory):
        T, n = len(memory), len(tokens)
        if n >= len(self.truth) or self.truth[n][2] > T:
            return END, T - 1, T
        token, start, end = self.truth[n]
        rng = np.random.default_rng([self.seed, T // 16, n])
        if end > T - 24 and rng.random() < 0.5:
            token = int(rng.integers(END + 1))  # the end among them
        return token, start, end


class Changed:
    """Twenty words, some of which are others (or more, or fewer) once 600 frames have been heard."""

    def __init__(self, before, after):
        self.before, self.after = before, after

    def __call__(self, tokens, memory):
        said, n = self.after if len(memory) >= 600 else self.before, len(tokens)
        end = 10 * n + 10
        return (said[n] if n < len(said) and end < 560 else END), 10 * n, end


@pytest.mark.parametrize(
    "before, after",
    [
        (range(20), [*range(8), 27, *range(9, 20)]),  # a word is another one
        (range(20), [*range(8), 28, 29, *range(10, 20)]),
        (range(20), [*range(8), 29, *range(8, 20)]),  # one more
        (range(20), [*range(8), *range(9, 20)]),  # one fewer
    ],
)
def test_behind_a_word_that_changes_the_old_ones_are_read_together(vocabulary, before, after):
    script, memory = Changed(list(before), list(after)), Heard()
    decoder, engine = AttentionDecoder(vocabulary, margin_s=20), ScriptedEngine(script)
    hear(memory, 590)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory)
    assert list(h.tokens) == list(before) and engine.calls == 21
    hear(memory, 16)
    h = extend(decoder, engine, h, memory)
    assert list(h.tokens) == list(after)
    assert engine.calls - 21 <= 4


@pytest.mark.parametrize("seed", range(8))
def test_verified_drafts_equal_greedy_decoding(vocabulary, seed):
    speech, memory = Speech(seed), Heard()
    decoder, engine = AttentionDecoder(vocabulary), ScriptedEngine(Speech(seed))
    h, changes = decoder.init_state(engine.decoder_state()), 0
    while memory.frames < 900:
        hear(memory, 16)
        old = h
        kept = list(old.tokens), old.stable
        h = extend(decoder, engine, old, memory)
        assert (list(old.tokens), old.stable) == kept  # a hypothesis is a value
        assert list(h.tokens) == greedy(speech, memory, list(old.tokens)[: old.stable])
        assert (
            h.stable >= old.stable
            and list(h.tokens)[: old.stable] == list(old.tokens)[: old.stable]
        )
        assert len(list(h.tokens)) == len(h.rows) == len(h.probabilities)
        assert h.cache.tokens.tolist() == [len(PROMPT) + h.stable - 1]
        if h.stable > old.stable:  # whole words: another one follows
            assert vocabulary.opens_word[list(h.tokens)[h.stable]]
        stable, _ = decoder.text(h)
        assert stable.startswith(decoder.text(old)[0])
        changes += (
            list(old.tokens)[old.stable :] != list(h.tokens)[old.stable : len(list(old.tokens))]
        )
    assert changes > 5 and h.stable > len(speech.truth) // 2
    before = h
    h = extend(decoder, engine, h, memory, final=True)
    assert (
        h.stable == len(list(h.tokens))
        and list(h.tokens)[: before.stable] == list(before.tokens)[: before.stable]
    )
    assert list(h.tokens)[: before.stable] == [
        t for t, _, _ in speech.truth[: before.stable]
    ]  # stable is what was said


def test_only_confirmed_audio_makes_words_stable(vocabulary):
    truth = [(3, 0, 20), (5, 20, 40), (7, 40, 60), (9, 60, 80)]
    engine = ScriptedEngine(
        lambda tokens, memory: (*truth[len(tokens)],) if len(tokens) < 4 else (END, 0, 1)
    )
    decoder, memory = AttentionDecoder(vocabulary, margin_s=0.2), Heard()
    hear(memory, 90, confirmed=False)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory)
    assert h.stable == 0 and decoder.text(h) == ("", "w3 w5 w7 w9") and decoder.words(h) == []
    memory.confirmed = 25  # the first word ended, but not well before
    h = extend(decoder, engine, h, memory)
    assert h.stable == 0
    memory.confirmed = 52
    h = extend(decoder, engine, h, memory)
    assert h.stable == 2 and decoder.text(h) == ("w3 w5", "w7 w9")
    first, second = decoder.words(h)
    assert (first.text, first.start, first.end) == ("w3", 0.0, pytest.approx(0.4))
    assert (second.text, second.start, second.end) == ("w5", pytest.approx(0.4), pytest.approx(0.8))
    assert 0 < first.confidence < 1


@pytest.mark.parametrize("period", range(1, 9))
def test_loops_are_stopped(vocabulary, period):
    cycle = np.random.default_rng(period).permutation(WORDS)[:period].tolist()
    engine = ScriptedEngine(lambda tokens, memory: (cycle[len(tokens) % period], 0, len(memory)))
    decoder, memory = AttentionDecoder(vocabulary), Heard()
    hear(memory, 1500)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory, final=True)
    assert len(list(h.tokens)) == 4 * period - 1  # the fourth copy is never completed
    again = extend(decoder, engine, h, memory, final=True)
    assert list(again.tokens) == list(h.tokens)


@pytest.mark.parametrize("size", [5, 9, 18, 30])
@pytest.mark.parametrize("opening", [0, 1, 2])
def test_a_sentence_that_is_read_again_is_written_once(vocabulary, size, opening):
    """The decoder goes back to the beginning; the second reading begins with other tokens (a small letter, a mark)."""
    cycle = np.random.default_rng(size).permutation(WORDS)[:size].tolist()

    def script(tokens, memory):
        n = len(tokens)
        token = END - 1 - n % size if n >= size and n % size < opening else cycle[n % size]
        return token, n % size * 10, n % size * 10 + 10

    decoder, memory, engine = AttentionDecoder(vocabulary), Heard(), ScriptedEngine(script)
    hear(memory, 10 * size)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory)
    hear(memory, 40)
    h = extend(decoder, engine, h, memory, final=True)
    assert list(h.tokens)[:size] == cycle
    assert (
        len(list(h.tokens)) == size if size > 8 else len(list(h.tokens)) <= 3 * size + 8
    )  # short ones only by their number


def test_a_sentence_that_is_said_again_is_written_again(vocabulary):
    cycle = np.random.default_rng(0).permutation(WORDS)[:18].tolist()
    engine = ScriptedEngine(
        lambda tokens, memory: (
            (cycle[len(tokens) % 18], 10 * len(tokens), 10 * len(tokens) + 10)
            if len(tokens) < 36
            else (END, 0, 1)
        )
    )
    decoder, memory = AttentionDecoder(vocabulary), Heard()
    hear(memory, 360)
    assert extend(
        decoder, engine, decoder.init_state(engine.decoder_state()), memory, final=True
    ).tokens == tuple(cycle * 2)


@pytest.mark.parametrize("frames", [2, 100, 700])
def test_nobody_speaks_faster_than_the_limit(vocabulary, frames):
    numbers = np.random.default_rng(0).integers(0, END, 2000).tolist()
    engine = ScriptedEngine(lambda tokens, memory: (numbers[len(tokens)], 0, len(memory)))
    decoder, memory = AttentionDecoder(vocabulary), Heard()
    hear(memory, frames)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory, final=True)
    assert len(list(h.tokens)) == int(frames * FRAME_S * MAX_TOKENS_PER_S) + 8


def test_nothing_said_is_nothing_written(vocabulary):
    engine = ScriptedEngine(lambda tokens, memory: (END, 0, 1))
    decoder, memory = AttentionDecoder(vocabulary), Heard()
    h = decoder.init_state(engine.decoder_state())
    for _ in range(5):
        hear(memory, 20)
        h = extend(decoder, engine, h, memory)
    h = extend(decoder, engine, h, memory, final=True)
    assert list(h.tokens) == [] and decoder.text(h) == ("", "") and decoder.words(h) == []


def test_memory_keeps_what_it_was_told():
    rng, memory = np.random.default_rng(0), Heard()
    keys, values = rng.random((2, 1, 2, 3, 400, 4)).astype(np.float32)
    ctc = rng.random((1, 200, 5)).astype(np.float32)
    for at in range(0, 400, 16):  # the quick pass is wrong everywhere
        memory.put(
            at,
            Encoded(
                keys[:, :, :, at : at + 16] + 1,
                values[:, :, :, at : at + 16] + 1,
                ctc[:, at // 2 : at // 2 + 8] + 1,
            ),
            confirmed=False,
        )
        if (at + 16) % 64 == 0:
            a = at - 48
            memory.put(
                a,
                Encoded(
                    keys[:, :, :, a : a + 64],
                    values[:, :, :, a : a + 64],
                    ctc[:, a // 2 : a // 2 + 32],
                ),
                True,
            )
        assert memory.frames == at + 16 and memory.confirmed == (at + 16) // 64 * 64
        c = memory.confirmed
        for got, expected in ((memory.memory.keys, keys), (memory.memory.values, values)):
            np.testing.assert_array_equal(got[:, :, :, :c], expected[:, :, :, :c])
            np.testing.assert_array_equal(
                got[:, :, :, c : at + 16], expected[:, :, :, c : at + 16] + 1
            )
        np.testing.assert_array_equal(memory.ctc[:, : c // 2], ctc[:, : c // 2])


# A whole recogniser, of which only the networks are pretended ---------------------------------------------------------


class Features:
    """Each tenth of a frame, its first sample: sound that tells who it is."""

    mels = 1

    def init_state(self, batch=1):
        return 0  # samples until the next frame

    def step(self, x, skip):
        n = x.shape[1]
        return x[:, None, skip::160], skip - n if skip >= n else -((n - skip) % -160) % 160


class Voices:
    """Sound of level i / 100 is word i - 1, silence is none."""

    def init_state(self, batch=1):
        return None

    def step(self, x, state):
        return (np.abs(x.reshape(1, -1, 512)).max(2) > 0.005).astype(float), state


class Engine(ScriptedEngine):
    """Hears a word in each run of at least five frames of one level; short chunks end in frames that are wrong."""

    def __init__(self):
        super().__init__(self.next)

    def encoder_state(self, batch=1):
        nothing = np.zeros((batch, 1, 1, 0, 1), np.float32)
        return EncoderState(
            np.zeros((batch, 1, 2), np.float32), nothing, nothing, np.zeros(batch, np.int64)
        )

    def filled(self, frames):
        return slice(0, 0)

    def encode_in_place(self, mel, state, keep=None, ctc=True):
        return self.encode(mel, state, keep, ctc)

    def encode(self, mel, state, keep=None, ctc=True):
        x = (
            mel[:, :, :-1:2, None, None].transpose(0, 3, 1, 2, 4).astype(np.float32)
        )  # (1, 1, 1, c, 1)
        c = x.shape[3]
        if c < 64:
            x = x.copy()
            x[:, :, :, -2:] = 0.35
        x = x[:, :, :, :keep]
        return Encoded(x, x, np.zeros((1, x.shape[3] // 2, 3), np.float32)), state

    def next(self, tokens, memory):
        levels = np.rint(memory * 100).astype(int)
        edges = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
        runs = [
            (levels[a] - 1, a, b) for a, b in zip(edges, edges[1:]) if b - a >= 5 and levels[a] > 0
        ]
        if len(tokens) >= len(runs):
            return END, len(levels) - 1, len(levels)
        word, a, b = runs[len(tokens)]
        return (
            ((word + 1) % WORDS if b == len(levels) else word),
            a,
            b,
        )  # one that is still being said is misheard


def talk(seed, sentences, words, pause_s=1.3):
    """Samples at 16 kHz and the words in them, with pauses between sentences and none within."""
    rng, sound, said, last = np.random.default_rng(seed), [np.zeros(9000)], [], -1
    for _ in range(sentences):
        for _ in range(words):
            last = int(rng.choice([w for w in range(WORDS) if w != last]))
            sound.append(np.full(int(rng.integers(4800, 8000)), (last + 1) / 100))
            said.append(f"w{last}")
        sound.append(np.zeros(int(16000 * pause_s)))
    return np.concatenate(sound).astype(np.float32), said


@pytest.fixture
def asr(vocabulary, request):
    family = WhisperFamily(Values(Engine()), AttentionDecoder(vocabulary), Features())
    return Recognizer(family, getattr(request, "param", EndpointRules()), vad=Voices())


def listen(asr, sound, latency_ms, seed=0):
    """Events of a stream whose blocks are of random sizes; what is stable is watched."""
    rng, stream, events, at = np.random.default_rng(seed), asr.stream(latency_ms), [], 0
    while at < len(sound):
        size = int(rng.choice([0, 1, 160, 511, 4000, 30000]))
        events += stream.push(sound[at : at + size])
        at += size
    events += stream.finish()
    stable = ""
    for event in events:
        if isinstance(event, Partial):
            assert event.stable.startswith(stable)
            stable = event.stable
        elif isinstance(event, Final):
            assert event.text.startswith(stable)
            stable = ""
    return events


def text(events):
    return " ".join(e.text for e in events if isinstance(e, Final)).split()


@pytest.mark.parametrize("latency_ms", [80, 320, 1280])
def test_sentences_come_whole(asr, latency_ms):
    sound, said = talk(1, sentences=4, words=7)
    events = listen(asr, sound, latency_ms)
    assert text(events) == said
    finals = [e for e in events if isinstance(e, Final)]
    assert [len(f.words) for f in finals] == [7] * 4 and sum(
        isinstance(e, Endpoint) for e in events
    ) == 4
    starts = np.flatnonzero(np.diff(np.rint(sound * 100)) != 0)[:-1] / 16000
    for final in finals:
        assert all(a.end <= b.start + 1e-6 for a, b in zip(final.words, final.words[1:]))
        for word in final.words[1:]:
            assert np.abs(starts - word.start).min() < 0.06
    assert text(listen(asr, sound, latency_ms, seed=9)) == said


@pytest.mark.parametrize("asr", [EndpointRules(longest_s=6.0)], indirect=True)
@pytest.mark.parametrize("latency_ms", [80, 640, 1280, None])
@pytest.mark.parametrize("seed", range(3))
def test_a_long_segment_is_cut_between_words(asr, latency_ms, seed):
    sound, said = talk(seed, sentences=1, words=100)  # 40 s without a breath
    if latency_ms is None:
        transcript = asr.transcribe(sound, 16000)
        events = list(transcript.segments)
        assert transcript.duration == pytest.approx(len(sound) / 16000)
    else:
        events = listen(asr, sound, latency_ms, seed)
    finals = [e for e in events if isinstance(e, Final)]
    assert len(finals) >= 6 and all(f.end - f.start < 7.5 for f in finals)
    assert text(events) == said
    assert all(a.end <= b.start + 1e-6 for a, b in zip(finals, finals[1:]))


@pytest.mark.parametrize("asr", [EndpointRules(longest_s=3.0)], indirect=True)
@pytest.mark.parametrize("latency_ms", [160, None])
def test_noise_that_never_ends_is_cut_and_says_nothing(asr, latency_ms):
    asr.family.networks.script = lambda tokens, memory: (END, 0, 1)
    sound = np.full(16000 * 12, 0.2, np.float32)
    if latency_ms is None:
        assert asr.transcribe(sound, 16000).segments == ()
    else:
        events = listen(asr, sound, latency_ms)
        assert events and all(isinstance(e, SpeechStarted) for e in events)


def test_streams_do_not_know_each_other(asr):
    (a, said_a), (b, said_b) = talk(5, 2, 6), talk(6, 2, 6)
    streams, events = [asr.stream(320), asr.stream(160)], [[], []]
    for at in range(0, max(len(a), len(b)), 1600):
        for i, sound in enumerate((a, b)):
            events[i] += streams[i].push(sound[at : at + 1600])
    for i in range(2):
        events[i] += streams[i].finish()
    assert text(events[0]) == said_a and text(events[1]) == said_b


def test_a_long_stream_holds_no_more_than_a_short_one(asr):
    """Of what Python and numpy hold; how much of it the system's allocator keeps is for tools.soak_asr."""
    sound, _ = talk(5, 1, 5)
    held = []
    tracemalloc.start()
    try:
        with asr.stream(320) as stream:
            for _ in range(16):  # of some 4 s
                for at in range(0, len(sound), 8000):
                    stream.push(sound[at : at + 8000])
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # the same sound ends each round, so anything kept of it would show in all that follow
    assert max(held[6:]) - max(held[2:6]) < 16 << 10, held
