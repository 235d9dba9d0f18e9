"""The pure core of speaking: forks, snapshots and batches say what the stream says that was never touched."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio
from speechstream.runtime.requests import answer_together, drive
from speechstream.text.clauses import TextStream
from speechstream.text.rules import ReadingOptions
from speechstream.text.user_lexicon import UserLexicon
from speechstream.text.utterance import Utterance
from speechstream.tts.stream import SynthesisCore
from speechstream.tts.synthesizer import Synthesizer
from speechstream.tts.voice import Block, Controls, VoiceInfo

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "tests" / "fixtures" / "tts" / "tiny-voice"
TEXT = (
    "Well, it was Dr. Smith <break time='250ms'/> who paid $3.50. "
    "<prosody volume='+3dB'>Why?</prosody> she asked, na\u00efve as caf\u00e9s are. Nobody knew."
)
TTS = Synthesizer.load(VOICE)


def whole(core, pieces, state=None):
    """Every event of a stream that is given these pieces, each when it has nothing else to do."""
    state = core.init_state() if state is None else state
    events = []
    for piece in [*pieces, None]:
        said, state = drive(core.step(piece, state))
        events += said
        while core.busy(state):
            said, state = drive(core.resume(state))
            events += said
    return events, state


def same(a, b, atol=0.0):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert (x.start, x.words, x.phonemes) == (y.start, y.words, y.phonemes)
        np.testing.assert_allclose(x.pcm, y.pcm, atol=atol, rtol=0)


@st.composite
def pieces_of(draw):
    data = TEXT.encode() if draw(st.booleans()) else TEXT
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]


@settings(max_examples=12, deadline=None)
@given(
    pieces_of(),
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.sampled_from([True, False, "markdown"]),
)
def test_snapshots_and_forks_anywhere_change_nothing(pieces, what, markup):
    words = UserLexicon({"nobody": "somebody"})
    core = SynthesisCore(TTS.voice, Controls("two", 1.1, 1.0, 2.0, 1.5), markup, words)
    expected, _ = whole(core, pieces)
    state, events, forks, turn = core.init_state(), [], [], 0
    left = [*pieces, None]
    while not core.over(state):
        if core.busy(state):
            said, state = drive(core.resume(state))
        else:
            said, state = drive(core.step(left.pop(0), state))
        assert len(said) <= 1
        events += said
        act, turn = what[turn % len(what)], turn + 1
        if act == 1:
            state = core.from_bytes(core.to_bytes(state))
        elif act == 2 and not forks:
            forks.append((state, list(events), list(left)))
    same(events, expected)
    for state, events, left in forks:  # what was kept was not touched by what followed
        while not core.over(state):
            work = core.resume(state) if core.busy(state) else core.step(left.pop(0), state)
            said, state = drive(work)
            events += said
        same(events, expected)


def test_a_stream_goes_on_in_another_process(tmp_path):
    core = TTS.core(voice="two", reading=ReadingOptions("dmy", {"SQL"}, {"GIF"}))
    assert core.kind(core.to_bytes(core.init_state()))[-1] == core.reading
    expected, _ = whole(core, [TEXT])
    said, state = drive(core.step(TEXT, core.init_state()))
    for _ in range(5):
        more, state = drive(core.resume(state))
        said += more
    assert state.spoken is not None  # in the middle of an utterance
    (tmp_path / "state").write_bytes(core.to_bytes(state))
    script = f"""
import sys, numpy as np
from pathlib import Path
from speechstream.runtime.requests import drive
from speechstream.text.rules import ReadingOptions
from speechstream.tts.synthesizer import Synthesizer
core = Synthesizer.load({str(VOICE)!r}).core(voice="two", reading=ReadingOptions("dmy", {{"SQL"}}, {{"GIF"}}))
state = core.from_bytes(Path("state").read_bytes())
said, state = drive(core.step(None, state))
while core.busy(state):
    more, state = drive(core.resume(state))
    said += more
np.save("rest.npy", np.concatenate([e.pcm for e in said]))
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=tmp_path,
        timeout=120,
        env={"PYTHONPATH": str(ROOT)},
    )
    rest = np.load(tmp_path / "rest.npy")
    ours = np.concatenate([e.pcm for e in said] + [rest])
    np.testing.assert_array_equal(ours, np.concatenate([e.pcm for e in expected]))


def together(jobs):
    """Streams in step, their requests answered in batches: events of each, and the sizes of the batches."""
    states = [core.init_state() for core, _ in jobs]
    left = [[*pieces, None] for _, pieces in jobs]
    works, requests, events = [None] * len(jobs), [None] * len(jobs), [[] for _ in jobs]
    answers, sizes = [None] * len(jobs), []
    while not all(core.over(s) for (core, _), s in zip(jobs, states)):
        for i, (core, _) in enumerate(jobs):
            while requests[i] is None and not core.over(states[i]):
                if works[i] is None:
                    busy = core.busy(states[i])
                    works[i] = (
                        core.resume(states[i]) if busy else core.step(left[i].pop(0), states[i])
                    )
                try:
                    requests[i] = works[i].send(answers[i])
                except StopIteration as done:
                    said, states[i] = done.value
                    events[i] += said
                    works[i] = None
                answers[i] = None
        asking = [i for i, r in enumerate(requests) if r is not None]
        keys = [requests[i].key for i in asking]
        sizes += [keys.count(k) for k in set(keys)]
        for n, answer in answer_together([requests[i] for i in asking]):
            assert not isinstance(answer, Exception), answer
            answers[asking[n]] = answer
            requests[asking[n]] = None
    return events, sizes


def test_batched_streams_say_what_they_say_alone():
    texts = ["One, two, three. Four.", TEXT, "A quick test, of this thing.", "Hello there."]
    jobs = [
        (TTS.core(voice=("one", "two")[i % 2], speed=1 + i / 10), [texts[i % 4]]) for i in range(8)
    ]
    events, sizes = together(jobs)
    assert max(sizes) >= 4
    for got, (core, pieces) in zip(events, jobs):
        same(got, whole(core, pieces)[0], atol=1e-5)


def test_the_pool_speaks_many_streams_and_moves_them():
    pool = TTS.pool(slots=8)
    texts = ["Hello there, all of you. ", TEXT, "One, two, three. Four."]
    sids = [pool.open(voice="two", speed=1.2) for _ in texts]
    events = {sid: [] for sid in sids}
    for sid, text in zip(sids, texts):
        pool.push(sid, text[:10])
        pool.push(sid, text[10:].encode())
    for sid, said in pool.step(0.0).items():
        events[sid] += said
    other = TTS.pool(slots=8)
    moved = {sid: other.resume(pool.snapshot(sid)) for sid in sids}
    for sid in moved.values():
        other.finish(sid)
    while len(other):
        said = other.step(0.001)
        for sid in sids:
            events[sid] += said.get(moved[sid], [])
    core = TTS.core(voice="two", speed=1.2)
    for sid, text in zip(sids, texts):
        assert all(isinstance(e, Audio) for e in events[sid])
        expected, _ = whole(core, [text])
        ours = np.concatenate([e.pcm for e in events[sid]])
        np.testing.assert_allclose(ours, np.concatenate([e.pcm for e in expected]), atol=1e-4)


def test_the_shell_forks_and_resumes():
    with TTS.stream(voice="two") as s:
        s.push(TEXT)
        s.end()
        begun = [next(s) for _ in range(3)]
        twin, later = s.fork(), TTS.resume(s.state, voice="two")
        later.end()  # the text had been looked at, its end had not
        rest = list(s)
        assert begun and rest
        same(list(twin), rest)
        same(list(later), rest)


def test_wrong_states_are_refused():
    core = TTS.core(voice="two")
    _, state = drive(core.step(TEXT, core.init_state()))
    data = core.to_bytes(state)
    for bad in (b"", data[:-9], data[:50], b"x" * 100):
        with pytest.raises(SpeechStreamError):
            core.from_bytes(bad)
    with pytest.raises(SpeechStreamError, match="cannot be resumed by"):
        TTS.core(voice="one").from_bytes(data)
    voice, replace = state.voice, dataclasses.replace
    for wrong in (
        replace(state, voice=replace(voice, at=10_000)),
        replace(state, voice=replace(voice, plan=None)),
        replace(state, spoken=None),
        replace(state, finished=True),
        replace(
            state, voice=replace(voice, plan=replace(voice.plan, index=voice.plan.index + 999))
        ),
        replace(state, spoken=replace(state.spoken, words=99)),
    ):
        with pytest.raises(SpeechStreamError):
            core.from_bytes(core.to_bytes(wrong))
    with pytest.raises(ValueError, match="str or as UTF-8"):
        drive(core.step(3, state))
    _, ended = drive(core.step(None, state))
    with pytest.raises(ValueError, match="has ended"):
        drive(core.step("more", ended))


@dataclasses.dataclass(frozen=True)
class _LateState:
    symbols: int = 0
    at: int = 0


class _Late:
    """A voice that does not know how long a symbol lasts before it is spoken, as language-model voices: 10 samples
    each, known when the symbol has been said."""

    sample_rate, digest, phonetic = 100, "late", True
    speakers = (VoiceInfo("late", "en-US", ""),)

    def utterances(self, clause, markup, reading=None):
        return TTS.voice.utterances(clause, markup, reading)

    def check_controls(self, controls):
        pass

    def init_state(self):
        return _LateState()

    def begin(self, utterance, controls, state):
        yield from ()
        return _LateState(len(utterance.phonemes))

    def speaking(self, state):
        return state.at < state.symbols

    def block(self, state):
        yield from ()
        starts = np.array([state.at / 10])
        return Block(np.ones(10, np.float32), starts), dataclasses.replace(state, at=state.at + 1)

    def rest(self, state):
        return state

    def finish(self, controls, state):
        yield from ()
        return np.zeros(0, np.float32), state

    def finishing(self, state):
        return False

    def declared(self):
        return {"": _LateState}

    def check_state(self, state, utterance):
        pass


def test_timings_may_come_with_their_blocks():
    core = SynthesisCore(_Late())
    events, state = whole(core, ["Hello there you."])
    (utterance,) = [
        u for c in TextStream()("Hello there you.") for u in core.voice.utterances(c, True)
    ]
    assert isinstance(utterance, Utterance)
    words = [w for e in events for w in e.words]
    assert [(w.start, w.end) for w in words] == [
        (w.first / 10, w.last / 10) for w in utterance.words
    ]
    for e in events:  # a word comes in the block in which its end is known
        assert all(w.end <= e.start + 0.1 for w in e.words)
    assert len([p for e in events for p in e.phonemes]) == len(utterance.phonemes.replace(" ", ""))
    assert core.over(core.from_bytes(core.to_bytes(state)))


def test_every_part_runs_on_the_device_or_none():
    with pytest.raises(SpeechStreamError, match="onnxruntime-gpu"):
        Synthesizer.load(VOICE, device="cuda")
    with pytest.raises(ValueError, match="device must be"):
        Synthesizer.load(VOICE, device="tpu")
    with pytest.raises(ValueError, match="threads must be"):
        Synthesizer.load(VOICE, threads=0)


def test_a_pool_takes_up_a_stream_with_its_dictionary():
    pool = TTS.pool(2)
    sid = pool.open(markup="markdown", pause=2.0, lexicon={"nobody": "somebody"}, code="skip")
    pool.push(sid, "# A title\n\nNobody")
    pool.step()
    data = pool.snapshot(sid)
    other = TTS.pool(2)
    again = other.resume(data)
    said = []
    for p, n in ((pool, sid), (other, again)):
        p.push(n, " knew *it*.")
        p.finish(n)
        events = []
        while n in p:
            events += p.step().get(n, [])
        said.append([w.text for e in events if isinstance(e, Audio) for w in e.words])
    assert said[0] == said[1] and "somebody" in [w.lower() for w in said[0]]
