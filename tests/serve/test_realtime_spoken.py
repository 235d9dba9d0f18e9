"""Speech to speech over the Realtime socket: a tiny thinker-talker of random weights hears, writes and speaks."""

import asyncio
import threading
import time

import numpy as np
import pytest

pytest.importorskip("openai.types.realtime")
pytest.importorskip("uvicorn")
pytest.importorskip("transformers.models.qwen2_5_omni")
pytest.importorskip("tokenizers")

from speechstream.duplex.moshi import agent as moshi
from speechstream.duplex.omni.agent import OmniAgent, load
from speechstream.lm.generate import Sampling
from speechstream.nn.omni_config import CodeSampling
from tests import moshi_tiny
from tests.omni_tiny import made
from tests.serve.serving import patiently
from tests.serve.test_realtime_socket import PATIENCE_S, RATE, Server, pcm, silence, talk


class Watched(OmniAgent):
    """Remembers what it was asked, and what it was told that was heard."""

    def answer(self, state, speaker=None):
        self.asked.append((state, speaker))
        return super().answer(state, speaker)

    def step(self, answer):
        if len(answer.codes) == 150:  # 3 s: it speaks no further before it may
            self.released.wait(PATIENCE_S)
        return super().step(answer)

    def settle(self, answer, heard):
        state = super().settle(answer, heard)
        self.settled.append((answer, heard, state))
        return state


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(made(tmp_path_factory.mktemp("omni")))


@pytest.fixture(scope="module")
def server(model, embedded_asr, embedded_tts):
    with patiently():
        one = Server((embedded_asr, embedded_tts))
        one.start()
        while not one.server.started:
            time.sleep(0.02)
        yield one
        one.server.should_exit = True
        one.join(20)


@pytest.fixture
def agent(server, model):
    server.agent = Watched(
        model.networks,
        model.about,
        model.tokenizer,
        Sampling(most=12),
        CodeSampling(most=120, temperature=0.9),
    )
    server.agent.asked, server.agent.settled = [], []
    server.agent.released = threading.Event()
    yield server.agent
    server.agent.released.set()


def test_sound_in_text_and_sound_out(server, agent, fixtures_dir):
    async def do(c):
        session = await c.update(audio={"input": {"transcription": {}}, "output": {"voice": "Ben"}})
        assert session["session"]["instructions"] == agent.system
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("response.done")
        text = {"type": "message", "role": "user"}
        text["content"] = [{"type": "input_text", "text": "And now?"}]
        await c.send("conversation.item.create", item=text)
        await c.send("response.create", response={"output_modalities": ["text"]})
        await c.until("response.done")

    c = talk(server, do)
    assert list(c.ledger.done.values()) == ["completed"] * 2
    heard, written = agent.asked[-2], agent.asked[-1]
    assert heard[0].sound is not None and heard[1] == "Ben"
    (first, told, after), *_ = agent.settled
    spoken = c.texts("response.output_audio_transcript.delta")
    assert spoken == first.text and told == first.text.strip()
    networks = agent.networks
    whole = networks.sound(first.codes, networks.voice("Ben", first.before.answers), True)[0]
    sent = c.sound()
    assert len(sent) == len(whole) == len(first.codes) * 480
    np.testing.assert_allclose(sent, np.clip(whole, -1, 32767 / 32768), atol=1e-4)
    # the second turn was written, and goes on with what was said in the first
    assert written[0].sound is None and written[0].answers == after.answers == 1
    assert networks.length(written[0].networks) > networks.length(after.networks)
    assert c.texts("response.output_text.delta").strip()


def test_who_breaks_in_is_heard_and_what_was_not_heard_is_taken_back(server, agent, fixtures_dir):
    agent.sampling = CodeSampling(most=4000, temperature=0.9)
    agent._ends = set()  # it speaks as long as it may: 80 s
    agent.thinking = Sampling(most=12, temperature=1.0)  # and writes, whatever it has heard

    async def do(c):
        await c.update(audio={"input": {"transcription": {}}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        while len(c.sound()) < 2 * RATE:
            await c.until("response.output_audio.delta")
        await asyncio.sleep(1.5)  # some of it is played
        speech = np.concatenate([pcm(fixtures_dir, "austen_0930"), silence(0.8)])
        task = asyncio.ensure_future(c.append(speech))
        await c.until("input_audio_buffer.speech_started")
        agent.released.set()
        await c.until("response.done")
        agent.sampling = CodeSampling(most=20)
        await c.until("response.done")
        await task

    c = talk(server, do)
    assert sorted(c.ledger.done.values()) == ["cancelled", "completed"]
    (first, told, after), *_ = agent.settled
    assert first.text.strip().startswith(told) and told != first.text.strip()
    kept = sum(end <= len(first.text) - len(first.text.lstrip()) + len(told) for end in first.ends)
    assert told and kept
    marks = len(agent.tokenizer.encode("<|im_end|>\n"))
    length = agent.networks.length
    assert length(after.networks) == length(first.before.networks) + kept + marks
    later = agent.asked[-1][0]
    assert later.answers == 1 and later.sound is not None
    assert later.sound.samples < len(pcm(fixtures_dir, "austen_0930")) / RATE * 16_000 + 24_000


def test_a_model_without_turns_is_given_turns(server, tmp_path, fixtures_dir):
    """A tiny Moshi answers what it heard, and says that it cannot be written to."""
    pytest.importorskip("transformers.models.moshi")
    server.agent = moshi.load(moshi_tiny.made(tmp_path), longest_s=2.0)

    async def do(c):
        await c.update(audio={"input": {"transcription": {}}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("response.done")
        text = {"type": "message", "role": "user"}
        text["content"] = [{"type": "input_text", "text": "And now?"}]
        await c.send("conversation.item.create", item=text)
        await c.send("response.create")
        done = await c.until("response.done")
        assert "hears sound only" in done["response"]["status_details"]["error"]["message"]

    c = talk(server, do)
    assert list(c.ledger.done.values()) == ["completed", "failed"]
    assert len(c.sound()) == 2 * RATE and np.abs(c.sound()).max() > 0.01
    assert c.texts("response.output_audio_transcript.delta").strip()
