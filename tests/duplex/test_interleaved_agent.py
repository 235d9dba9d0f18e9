"""A talker that interleaves features and codes, against language models of transformers put together as OpenS2S does."""

import json

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("transformers.models.qwen2_5_omni")
pytest.importorskip("tokenizers")

from torch.nn import functional as F

from speechstream.cli import main
from speechstream.duplex.omni.agent import InterleavedAgent, load
from speechstream.errors import SpeechStreamError
from speechstream.lm.generate import Sampling
from speechstream.nn.omni_config import CodeSampling
from speechstream.state import flatten
from tests.omni_tiny import made
from tools.make_tiny_omni import interleave

SPOKEN = CodeSampling(temperature=0.0, penalty=1.0, most=37)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return made(tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module", params=[(1, 2), (3, 4), (5, 1)])
def agent(request, plain, tmp_path_factory):
    bundle = interleave(plain, tmp_path_factory.mktemp("spans") / "bundle", *request.param)
    return load(bundle, thinking=Sampling(most=11), sampling=SPOKEN)


def theirs(c, weights):
    """A Qwen2 of transformers with the weights of one of ours."""
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            intermediate_size=c.ff_dim,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.kv_heads,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope.base},
            tie_word_embeddings=False,
        )
    )
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def reference(agent, prompt):
    """Text, codes and their logits: all embeddings so far read anew for each, as published, greedily."""
    model, c = agent.networks.model, agent.about.network
    thinker = theirs(c.thinker, model.thinker.state_dict())
    t, lm = model.talker, {"lm_head.weight": model.talker.head.weight}
    own = ("embed_tokens.", "layers.", "norm.")
    lm |= {f"model.{n}": w for n, w in t.state_dict().items() if n.startswith(own)}
    talker = theirs(c.talker.lm, lm)
    speaker = agent.networks._speakers["Ada"][0]
    embeds = [F.layer_norm(speaker @ t.speaker.weight.T, (c.talker.lm.dim,), t.speaker_norm.weight, t.speaker_norm.bias, 1e-5)[None]]  # fmt: skip
    ids, text, codes, logits, ended = list(prompt), [], [], [], False
    while not ended:
        rows = []
        while len(rows) < c.talker.text_span and not ended:
            out = thinker(torch.tensor([ids]), output_hidden_states=True)
            token = int(out.logits[0, -1].argmax())
            if token in agent.about.stop or len(text) < agent.thinking.most:
                rows.append(out.hidden_states[-1][0, -1])
            ended = token in agent.about.stop or len(text) >= agent.thinking.most
            if not ended:
                text.append(token)
                ids.append(token)
        if rows:
            x = torch.stack(rows) @ t.proj.weight.T
            x = F.layer_norm(x, (c.talker.lm.dim,), t.proj_norm.weight, t.proj_norm.bias, 1e-5)
            embeds.append(x)
        for _ in range(SPOKEN.most if ended else c.talker.code_span):
            scores = talker(inputs_embeds=torch.cat(embeds)[None]).logits[0, -1].numpy().copy()
            logits.append(scores.copy())
            scores[agent._never if ended else agent._never_yet] = -np.inf
            code = int(scores.argmax())
            if code in agent._ends or len(codes) >= SPOKEN.most:
                return text, codes, logits
            codes.append(code)
            embeds.append(t.embed_tokens.weight[code][None])
    return text, codes, logits


def said(agent, answer):
    pieces, seen = [], []
    while not agent.over(answer):
        if answer.due:
            seen.append(answer.scores)
        piece, answer = agent.step(answer)
        pieces.append(piece)
    return answer, pieces, seen


def test_text_and_codes_are_those_of_the_published_order(agent):
    assert isinstance(agent, InterleavedAgent)
    state = agent.write("the rain fell", agent.open())
    answer, pieces, seen = said(agent, agent.answer(state))
    ids = agent.tokenizer.encode
    start = [*ids("<|im_start|>system\n"), *ids(agent.system), *ids("<|im_end|>\n")]
    start += [*ids("<|im_start|>user\n"), *ids("the rain fell"), *ids("<|im_end|>\n")]
    text, codes, logits = reference(agent, [*start, *ids("<|im_start|>assistant\n")])
    assert list(answer.tokens) == text and list(answer.codes) == codes
    assert len(set(text)) > 3 and len(set(codes)) > 2
    np.testing.assert_allclose(np.stack(seen), np.stack(logits), atol=1e-4)
    assert "".join(p.text for p in pieces) == answer.text
    # text and speech leave together: a span's codes are there before the next token
    c = agent.about.network.talker
    first = next(i for i, p in enumerate(pieces) if i and len(p.text))
    assert first <= c.text_span + c.code_span + 1
    each = agent.about.network.flow.repeats * agent.about.network.vocoder.frame_size
    sound = np.concatenate([p.pcm for p in pieces])
    assert len(sound) == len(codes) * each
    networks = agent.networks
    whole = networks.sound(answer.codes, networks.voice("Ada", agent._seed + 1), True)[0]
    np.testing.assert_allclose(sound, whole, atol=1e-4)


def test_what_was_heard_is_what_is_remembered(agent):
    x = 0.1 * np.random.default_rng(0).standard_normal(20_000).astype("f4")
    before = agent.hear(x, agent.open())
    answer = said(agent, agent.answer(before))[0]
    marks = agent.tokenizer.encode("<|im_end|>\n")
    for count in (0, 4, len(answer.tokens)):
        heard = agent.tokenizer.decode(answer.tokens[:count]).strip()
        kept = agent.settle(answer, heard).networks
        fresh = agent.answer(before).before.networks
        fresh = agent.networks.read([*answer.tokens[:count], *marks], fresh)[1]
        for name, a in flatten(fresh).items():
            np.testing.assert_allclose(flatten(kept)[name], a, atol=1e-4, err_msg=name)
    again = said(agent, agent.answer(before))[0]  # from the same value, once more
    assert again.codes == answer.codes
    other = said(agent, agent.answer(before, "Ben"))[0]
    assert other.tokens == answer.tokens and other.codes != answer.codes


def test_spans_that_cannot_be_are_refused(plain, tmp_path):
    with pytest.raises(ValueError, match="or both 0; got 3 and 0"):
        interleave(plain, tmp_path / "out", 3, 0)
    bundle = interleave(plain, tmp_path / "bundle", 2, 3)
    index = json.loads((bundle / "bundle.json").read_text("utf-8"))
    index["config"]["network"]["talker"] |= {"text_span": 0, "code_span": 0}
    (bundle / "bundle.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(SpeechStreamError, match="does not fit together: its talker"):
        load(bundle)


def test_the_published_folder_is_refused_in_one_sentence(tmp_path, capsys):
    values = {"architectures": ["OmniSpeechModel"], "interleave_strategy": "1:2"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "OpenS2S" in capsys.readouterr().err
