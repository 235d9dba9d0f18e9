"""A tiny thinker-talker as an agent: equal in any pieces, and what it remembers is what was heard."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("transformers.models.qwen2_5_omni")
pytest.importorskip("tokenizers")

from speechstream import Recognizer
from speechstream.duplex.omni.agent import load
from speechstream.errors import SpeechStreamError
from speechstream.lm.generate import Sampling
from speechstream.nn.omni_config import CodeSampling
from speechstream.state import flatten
from tests.omni_tiny import made

SAID = Sampling(most=10)
SPOKEN = CodeSampling(most=30, temperature=0.9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made(tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module")
def agent(bundle):
    return load(bundle, thinking=SAID, sampling=SPOKEN)


def sound(seconds=1.3, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype("f4")


def heard(agent, state, x, sizes=(4000,)):
    at, n = 0, 0
    while at < len(x):
        size = sizes[n % len(sizes)]
        state = agent.hear(x[at : at + size], state)
        at, n = at + size, n + 1
    return state


def said(agent, answer):
    pieces = []
    while not agent.over(answer):
        piece, answer = agent.step(answer)
        pieces.append(piece)
    return answer, pieces


def samples(pieces):
    return np.concatenate([p.pcm for p in pieces])


def test_any_pieces_of_sound_give_the_same_answer(agent):
    one = said(agent, agent.answer(heard(agent, agent.open(), sound(), [len(sound())])))
    for sizes in ([1, 800, 37], [3001]):
        again = said(agent, agent.answer(heard(agent, agent.open(), sound(), sizes)))
        assert again[0].text == one[0].text and again[0].codes == one[0].codes
        np.testing.assert_array_equal(samples(again[1]), samples(one[1]))
    answer, pieces = one
    assert "".join(p.text for p in pieces) == answer.text and answer.text.strip()
    c = agent.about.network
    each = c.flow.repeats * c.vocoder.frame_size
    assert len(samples(pieces)) == len(answer.codes) * each and samples(pieces).std() > 0.01
    begun = [i for i, p in enumerate(pieces) if len(p.pcm)][0]
    assert begun < len(pieces) - 2  # before all is said
    other = said(agent, agent.answer(heard(agent, agent.open(), sound(seed=1)), "Ben"))
    assert other[0].codes != answer.codes


def test_the_codes_are_decoded_as_a_whole_would_be(agent):
    answer, pieces = said(agent, agent.answer(heard(agent, agent.open(), sound())))
    networks = agent.networks
    state = networks.voice("Ada", agent._seed + 1)
    whole = networks.sound(answer.codes, state, True)[0]
    np.testing.assert_allclose(samples(pieces), whole, atol=1e-4)


def test_what_was_heard_is_what_is_remembered(agent):
    """As if the model had read a conversation in which it said no more than that."""
    before = heard(agent, agent.open("be brief"), sound())
    kept = before
    answer = said(agent, agent.answer(before))[0]
    marks = agent.tokenizer.encode("<|im_end|>\n")
    for count in (0, 4, len(answer.tokens)):
        words = agent.tokenizer.decode(answer.tokens[:count])
        state = agent.settle(answer, words.strip())
        asked = agent.answer(kept)  # from the same value, once more
        fresh = agent.networks.read([*answer.tokens[:count], *marks], asked.before.networks)[1]
        for name, a in flatten(fresh).items():
            np.testing.assert_allclose(flatten(state.networks)[name], a, atol=1e-4, err_msg=name)
        assert state.sound is None and state.answers == 1


def test_a_written_turn_and_a_plain_agent_say_the_same(agent):
    state = agent.write("hello <|im_end|> there", agent.open())
    answer = said(agent, agent.answer(state))[0]
    messages = [{"role": "user", "content": "hello <|im_end|> there"}]
    assert "".join(agent(messages)) == answer.text
    listening = agent.hear(sound(0.1), agent.open())
    with pytest.raises(ValueError, match="the user is speaking"):
        agent.write("hello", listening)


def test_without_torch_it_says_what_is_missing(bundle, monkeypatch):
    monkeypatch.delitem(sys.modules, "speechstream.asr.omni.torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        SpeechStreamError, match=r"runs in torch, .* pip install speechstream\[train"
    ):
        load(bundle)
    with pytest.raises(SpeechStreamError, match=r"needs torch: pip install speechstream\[train"):
        Recognizer.load(bundle, engine="torch")


def test_wrong_input_is_said(agent, bundle, tmp_path):
    with pytest.raises(ValueError, match="finite samples"):
        agent.hear(np.full(10, np.nan, np.float32), agent.open())
    with pytest.raises(ValueError, match="the speaker must be one of Ada, Ben; got 'Eve'"):
        agent.answer(agent.write("hello", agent.open()), "Eve")
    state = agent.open()
    with pytest.raises(SpeechStreamError, match="beyond the 4096 tokens"):
        for _ in range(20):
            state = agent.write("the rain fell softly " * 100, state)
    index = json.loads((bundle / "bundle.json").read_text("utf-8"))
    index["config"]["network"]["talker"]["start"] = 10**6
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in bundle.iterdir():
        (wrong / path.name).write_bytes(path.read_bytes())
    (wrong / "bundle.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(SpeechStreamError, match="does not fit together: the talker's mark 'start'"):
        load(wrong)
    index["config"]["network"]["talker"]["start"] = 41
    index["config"]["network"]["thinker"]["layers"] = 3
    (wrong / "bundle.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(SpeechStreamError, match=r"does not fit together: its thinker\.model"):
        load(wrong)
