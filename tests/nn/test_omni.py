"""Thinker and talker against transformers, and against themselves in any pieces."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("transformers.models.qwen2_5_omni")

from speechstream import bundle
from speechstream.asr.omni.torch import read_networks
from speechstream.config import read
from speechstream.duplex.omni.agent import draw_code
from speechstream.nn.growing import rewound
from speechstream.nn.omni_config import CodeSampling, OmniBundle, OmniEncoderConfig
from speechstream.state import flatten
from tests.omni_tiny import SIZES, generated, made, theirs

TOKENS, CODES = 24, 40


@pytest.fixture(scope="module", params=SIZES)
def both(request, tmp_path_factory):
    """transformers' model, ours, and what its bundle says."""
    b = bundle.load(made(tmp_path_factory.mktemp("omni"), request.param))
    about = read(OmniBundle, b.config)
    return theirs(request.param), read_networks(b, about), about


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def recording(about, frames, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(about.network.encoder.n_mels, frames, generator=g)


def test_the_encoder_hears_what_the_reference_hears(both):
    reference, networks, about = both
    encoder, block = networks.model.encoder, about.network.encoder.block
    for frames in (1, 3, block - 1, block, block + 1, 2 * block, 3 * block + 5):
        mel = recording(about, frames)
        expected = reference.thinker.model.audio_tower(mel, feature_lens=torch.tensor([frames]))
        whole = encoder(mel[None])[0]
        close(whole, expected.last_hidden_state)
        state, parts = encoder.init_state(), []
        for at in range(0, frames, block):
            last = at + block >= frames
            x, state = encoder.step(mel[None, :, at : at + block], state, last)
            parts.append(x[0])
        close(torch.cat(parts), whole)
    two = torch.stack([recording(about, 2 * block, s) for s in (1, 2)])
    close(encoder(two)[1], encoder(two[1:])[0])
    with pytest.raises(ValueError, match="a multiple of"):
        encoder.step(mel[None], encoder.init_state())
    with pytest.raises(ValueError, match="a multiple of heads"):
        OmniEncoderConfig(dim=24, heads=5)


def prompts(about):
    """The ids before and behind a recording."""
    return [370, 265, 5, 7, about.audio_start], [about.audio_end, 371, 8, 370, 9]


def answered(networks, about, mel, marks, pieces=1):
    """Our greedy text and codes, the sound heard block by block."""
    before, behind = prompts(about)
    c, block = about.network.talker, about.network.encoder.block
    state = networks.read(before, networks.start())[1]
    size = pieces * block
    for at in range(0, mel.shape[1], size):
        part = mel[:, at : at + size].numpy()
        state = networks.hear(part, state, last=at + size >= mel.shape[1])
    logits, state = networks.read(behind, state)
    tokens, features, thinker = [], [], state.thinker
    while len(tokens) < TOKENS:
        tokens.append(int(logits.argmax()))
        if tokens[-1] in about.stop:
            break
        logits, x, thinker = networks.think(tokens[-1], thinker)
        features.append(x)
    said = features if tokens[-1] in about.stop else features[:-1]
    mark = torch.tensor([[about.speakers["Ada"]]])
    with torch.inference_mode():
        scores, talker = networks.model.begin(said[0], mark, state.talker, marks)
    scores, codes = scores[0].numpy(), []
    never = np.arange(c.lm.vocab_size) == c.start
    while len(codes) < CODES:
        seen = frozenset({c.mask, c.pad, c.start, *codes})
        codes.append(draw_code(scores, seen, never, CodeSampling(temperature=0), (0,)))
        if codes[-1] in (c.pad, c.end):
            break
        at = len(codes)
        ends = about.text_end if at == len(said) else about.text_pad
        x = said[at] if at < len(said) else networks.silent(ends)
        scores, talker = networks.speak(codes[-1], x, talker)
    return tokens, codes


@pytest.mark.parametrize("marks", [True, False])
def test_text_and_codes_are_those_of_the_reference(both, marks):
    reference, networks, about = both
    mel = recording(about, 3 * about.network.encoder.block + 6)
    before, behind = prompts(about)
    heard = ((mel.shape[1] - 1) // 2 + 1) // 2
    ids = [*before, *[reference.config.thinker_config.audio_token_index] * heard, *behind]
    expected = generated(reference, ids, mel, TOKENS, CODES, padded=marks)
    assert len(set(expected[0])) > 3 and len(set(expected[1])) > 3
    assert answered(networks, about, mel, marks) == expected
    assert answered(networks, about, mel, marks, pieces=2) == expected


def test_what_is_taken_back_has_never_been(both):
    _, networks, about = both
    state = networks.read([300, 301, 302], networks.start())[1]
    thinker, features = state.thinker, []
    for token in (310, 320, 330, 340):
        _, x, thinker = networks.think(token, thinker)
        features.append(x)
    kept = networks.recall(features[:2], thinker, 2, state)
    again = networks.read([310, 320], state)[1]
    for name, a in flatten(again).items():
        close(flatten(kept)[name].float(), a.float())
    assert networks.recall([], thinker, 4, state) is state
    with pytest.raises(ValueError, match="cannot be taken back"):
        rewound(thinker, 8)


def test_codes_are_drawn_as_the_reference_draws_them():
    from transformers.generation import logits_process as reference

    rng, x = np.random.default_rng(0), np.random.default_rng(1).normal(size=30).astype(np.float32)
    said, s = frozenset({3, 4, 9}), CodeSampling(0.7, 8, 0.9, 1.3)
    ids, scores = torch.tensor([sorted(said)]), torch.tensor(x)[None]
    for process in (
        reference.RepetitionPenaltyLogitsProcessor(1.3),
        reference.SuppressTokensLogitsProcessor([5]),
        reference.TemperatureLogitsWarper(0.7),
        reference.TopKLogitsWarper(8),
        reference.TopPLogitsWarper(0.9),
    ):
        scores = process(ids, scores)
    never = np.arange(30) == 5
    counts = np.zeros(30)
    for _ in range(4000):
        counts[draw_code(x, said, never, s, (int(rng.integers(1 << 30)),))] += 1
    p = scores.softmax(-1)[0].numpy()
    assert not counts[p == 0].any()
    np.testing.assert_allclose(counts / counts.sum(), p, atol=0.03)
    greedy = draw_code(x, frozenset(), never, dataclasses.replace(s, temperature=0.0), (0,))
    assert greedy == int(np.where(never, -np.inf, x).argmax())
    with pytest.raises(ValueError, match="penalty must be above 0"):
        CodeSampling(penalty=0)
