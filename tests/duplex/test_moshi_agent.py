"""A tiny Moshi as an agent: both at once or by turns, equal in any pieces; what it remembers is what was heard."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

pytest.importorskip("transformers.models.moshi")
pytest.importorskip("tokenizers")

from speechstream.audio.resample import Resampler
from speechstream.cli import main
from speechstream.duplex import live
from speechstream.duplex.full_duplex import FullDuplexSession, converse_recorded
from speechstream.duplex.moshi.agent import load
from speechstream.duplex.replay import replay
from speechstream.duplex.session import Session
from speechstream.duplex.spoken import SpokenRunner, is_spoken
from speechstream.errors import SpeechStreamError
from speechstream.nn.moshi_config import FrameSampling
from speechstream.state import flatten, nbytes
from tests.moshi_tiny import made

FRAME, BLOCK = 1920, 1280  # samples of 80 ms at 24 and at 16 kHz


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made(tmp_path_factory.mktemp("moshi"))


@pytest.fixture(scope="module")
def agent(bundle):
    return load(bundle, longest_s=1.6)


def sound(frames=10, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(frames * BLOCK).astype("f4")


def exchanged(agent, x, sizes, state=None):
    state, at, n, pieces = state or agent.open(), 0, 0, []
    while at < len(x):
        size = sizes[n % len(sizes)]
        piece, state = agent.exchange(x[at : at + size], state)
        pieces.append(piece)
        at, n = at + size, n + 1
    return "".join(p.text for p in pieces), np.concatenate([p.pcm for p in pieces]), state


def said(agent, answer):
    pieces = []
    while not agent.over(answer):
        piece, answer = agent.step(answer)
        pieces.append(piece)
    return answer, pieces


def close(agent, one, other):
    for name, a in flatten(agent.networks.value(one.networks)).items():
        b = flatten(agent.networks.value(other.networks))[name]
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


def test_each_frame_of_sound_gives_one_in_any_pieces(agent):
    x = sound(12)
    text, pcm, state = exchanged(agent, x, [len(x)])
    late = Resampler(16_000, 24_000)  # which keeps a few samples back
    begun = late.step(x[None], late.init_state())[0].shape[1]
    assert len(pcm) == begun // FRAME * FRAME and pcm.std() > 0.01 and text.strip()
    for sizes in ([1, 800, 37], [BLOCK]):
        again = exchanged(agent, x, sizes)
        assert again[0] == text
        np.testing.assert_allclose(again[1], pcm, atol=1e-5)
    other = exchanged(agent, sound(12, seed=1), [len(x)])
    assert other[0] != text  # it hears
    np.testing.assert_allclose(state.waiting, again[2].waiting, atol=1e-6)


def test_a_conversation_is_forked_and_goes_on_from_bytes(agent):
    x = sound(80)  # more than its window
    half = 40 * BLOCK + 77
    state = exchanged(agent, x[:half], [BLOCK])[2]
    data = agent.snapshot(state)
    whole = exchanged(agent, x[half:], [BLOCK], state)
    resumed = exchanged(agent, x[half:], [3000], agent.resume(data))
    assert resumed[0] == whole[0]
    np.testing.assert_allclose(resumed[1], whole[1], atol=1e-5)
    again = exchanged(agent, x[half:], [BLOCK], state)  # from the same value, once more
    assert again[0] == whole[0] and agent.snapshot(again[2]) == agent.snapshot(whole[2])
    # what is remembered does not grow beyond the window
    more = exchanged(agent, x, [BLOCK], whole[2])[2]
    sizes = [nbytes(s.networks) for s in (whole[2], more)]
    assert sizes[0] == sizes[1]
    with pytest.raises(SpeechStreamError, match="not the snapshot"):
        agent.resume(data[:-50])


def test_another_models_snapshot_is_refused(agent, tmp_path):
    other = load(made(tmp_path, "grouped"))
    with pytest.raises(SpeechStreamError, match="snapshot is of another model"):
        other.resume(agent.snapshot(agent.open()))


def test_by_turns_it_is_silent_while_it_hears(agent):
    """Its own stream is padding and the codes of silence, whatever pieces the turn comes in."""
    x = sound(7)
    states = []
    for sizes in ([len(x)], [1, 700]):
        state, at, n = agent.open(), 0, 0
        while at < len(x):
            size = sizes[n % len(sizes)]
            state = agent.hear(x[at : at + size], state)
            at, n = at + size, n + 1
        states.append(agent.answer(state).before)
    close(agent, *states)
    higher = Resampler(16_000, 24_000)
    y, s = higher.step(x[None], higher.init_state())
    y = np.concatenate([y[0], higher.finish(s)[0]])
    y = np.concatenate([y, np.zeros(-len(y) % FRAME, np.float32)])
    n = len(y) // FRAME
    pads, codes = [agent.about.pad] * n, [agent.networks.silence()] * n
    at_once = agent.networks.follow(y, pads, codes, agent.open().networks)
    for name, a in flatten(agent.networks.value(at_once)).items():
        b = flatten(agent.networks.value(states[0].networks))[name]
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


def test_what_was_heard_is_what_is_remembered(agent):
    before = agent.hear(sound(), agent.open())
    answer, pieces = said(agent, agent.answer(before))
    assert "".join(p.text for p in pieces) == answer.text and len(answer.words) == 20
    assert [len(p.pcm) for p in pieces] == [FRAME] * 20 and pieces[-1].ended
    words = [w for p in pieces for w in p.words]
    assert [answer.text[w.first : w.last] for w in words] == answer.text.split()
    for w in words:  # a word begins in the frame that wrote its first letter
        assert answer.ends[w.start // FRAME] > w.first
        assert w.start == 0 or answer.ends[w.start // FRAME - 1] <= w.first
    whole = agent.settle(answer, answer.text.strip())
    assert whole.networks is answer.networks
    # as if it had been dropped after the frames that were heard, in all of which the user was silent
    told = answer.text.strip()[: len(answer.text.strip()) // 2]
    kept = sum(e <= len(told) + len(answer.text) - len(answer.text.lstrip()) for e in answer.ends)
    assert 0 < kept < 20
    again = agent.answer(before)
    for _ in range(kept):
        _, again = agent.step(again)
    assert again.words == answer.words[:kept]
    close(agent, agent.settle(answer, told), again)
    close(agent, agent.settle(answer, ""), answer.before)


def test_an_answer_is_over_when_no_text_comes(bundle):
    """All frames are padding: after the patience nothing was said; after some text, two seconds later."""
    agent = load(bundle, sampling=FrameSampling(0.0, 0, 0.0, 0))
    step = agent.networks.step
    agent.networks.step = lambda pcm, state: (agent.about.pad, *step(pcm, state)[1:])
    answer, pieces = said(agent, agent.answer(agent.open()))
    assert len(pieces) == 62 and not answer.text
    word = agent.vocabulary.pieces.index(b" rain") + agent.vocabulary.special
    words = iter([word])
    agent.networks.step = lambda p, s: (next(words, agent.about.pad), *step(p, s)[1:])
    answer, pieces = said(agent, agent.answer(agent.open()))
    assert len(pieces) == 26 and answer.text == " rain"
    assert [p.words for p in pieces if p.words] == [pieces[1].words] and pieces[1].words[
        0
    ].end == FRAME


def test_a_session_runs_it_as_any_agent_that_hears(agent, fixtures_dir, embedded_asr, embedded_tts):
    user, rate = soundfile.read(next(fixtures_dir.glob("austen_0870*")), dtype="float32")
    user = np.concatenate([user, np.zeros(rate, np.float32)])
    assert is_spoken(agent)
    runner = SpokenRunner(agent, "Be brief.", steps=1)
    session = Session(embedded_asr, embedded_tts, runner, sample_rate_in=rate)
    out = replay(session, user, rate)
    messages = session.state.messages
    session.close()
    assert [m.role for m in messages][-2:] == ["user", "assistant"]
    assert np.abs(out).max() > 0.01 and messages[-1].content.strip()


def test_wrong_input_is_said(agent, bundle, monkeypatch):
    with pytest.raises(ValueError, match="finite samples"):
        agent.exchange(np.full(10, np.nan, np.float32), agent.open())
    with pytest.raises(ValueError, match="the speaker must be own"):
        agent.answer(agent.open(), "Eve")
    with pytest.raises(SpeechStreamError, match="hears sound only"):
        agent.write("hello", agent.open())
    with pytest.raises(SpeechStreamError, match="hears sound only"):
        agent([])
    monkeypatch.delitem(sys.modules, "speechstream.duplex.moshi.torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        SpeechStreamError, match=r"runs in torch, .* pip install speechstream\[train"
    ):
        load(bundle)


def test_without_turns_all_sound_is_heard_and_all_speech_played(agent, bundle, tmp_path, capsys):
    x = sound(20)
    text, pcm, _ = exchanged(agent, x, [BLOCK])
    said = []
    session = FullDuplexSession(agent, tell=said.append)
    out = converse_recorded(session, x, 16_000)
    assert "".join(said) == text
    late = 4 * 480  # a frame is whole after four blocks of 20 ms
    begun = np.flatnonzero(out)[0]
    assert late <= begun <= late + FRAME
    np.testing.assert_allclose(
        out[begun:], pcm[np.flatnonzero(pcm)[0] :][: len(out) - begun], atol=1e-5
    )
    for _ in range(2):  # nobody plays it: what waits is the latest
        session.push(x)
    assert len(session.pull(24_000)) == 24_000 and not session.pull(100).any()
    # the same by the command, with the echo of nothing and an answer after the end
    soundfile.write(tmp_path / "user.wav", x, 16_000)
    given = [
        "talk",
        "--llm",
        str(bundle),
        "--full-duplex",
        "--input-file",
        str(tmp_path / "user.wav"),
    ]
    assert main([*given, "--output-file", str(tmp_path / "out.wav")]) == 0
    assert capsys.readouterr().out.strip()
    whole, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 24_000 and len(whole) == round(11.6 * rate)


def test_full_duplex_is_refused_where_it_cannot_be(bundle, capsys):
    for given, match in (
        (["--bot", "echo"], "needs --llm"),
        (["--llm", str(bundle), "--text"], "needs --llm"),
        (["--llm", str(bundle), "--system", "Be brief."], "takes no instructions"),
    ):
        assert main(["talk", "--full-duplex", *given]) == 2
        assert match in capsys.readouterr().err


def test_devices_drive_it_as_any_conversation(agent, tmp_path, monkeypatch):
    """Its echo is taken out before it hears; a loudspeaker that is behind gets what was said last."""

    class Devices:
        alive, captured = True, 0.0

        def __init__(self, *given):
            self.session = given[0]

        def start(self):
            pass

        def close(self):
            return True

        def __iter__(self):
            for at in range(0, 40 * BLOCK, 320):
                session.pull(480, at / 16_000)
                yield 0.1 * np.sin(np.arange(at, at + 320) / 7).astype("f4")

    class Echo:
        delay_s, loss_db = None, 0.0

        def __init__(self):
            self.speaker, self.microphone = [], []

        def played(self, pcm, at=None):
            self.speaker.append(pcm)

        def cancel(self, pcm, at=None):
            self.microphone.append(pcm)
            return SimpleNamespace(voice=0 * pcm)

    monkeypatch.setattr(live, "Microphone", Devices)
    monkeypatch.setattr(live, "Loudspeaker", Devices)
    echo, said, lags = Echo(), [], []
    session = FullDuplexSession(agent, 16_000, echo, said.append)
    live.converse(session, record=str(tmp_path / "both.wav"), each=lags.append)
    heard, played = np.concatenate(echo.microphone), np.concatenate(echo.speaker)
    assert len(heard) == 40 * BLOCK and len(played) == 40 * FRAME and len(lags) == 160
    text, pcm, _ = exchanged(agent, np.zeros(40 * BLOCK, np.float32), [320])
    assert "".join(said) == text  # of silence: it did not hear what was its echo
    begun = np.flatnonzero(played)[0]
    np.testing.assert_allclose(
        played[begun:], pcm[np.flatnonzero(pcm)[0] :][: len(played) - begun], atol=1e-5
    )
    assert session.now == pytest.approx(3.2)


def test_a_bundle_that_does_not_fit_is_refused(bundle, tmp_path):
    index = json.loads((bundle / "bundle.json").read_text("utf-8"))
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for part, key, value, match in (
        (index["config"]["network"], "levels", 3, "its depth.embed.weight is"),
        (index["config"]["network"], "levels", 9, "speaks in 9 codes"),
        (index["config"]["network"]["depth"], "ff_dim", 10**9, "ff_dim must be 1 to"),
        (index["config"], "pad", -1, "special tokens must be ids"),
        (index["config"]["sampling"], "top_k", -2, "top_k must not be negative"),
    ):
        before, part[key] = part[key], value
        (tmp_path / "bundle.json").write_text(json.dumps(index), "utf-8")
        with pytest.raises(SpeechStreamError, match=f"does not fit together: .*{match}"):
            load(tmp_path)
        part[key] = before
