"""Voxtral Realtime against transformers, on random weights: features, encoder, language model, greedy tokens; steps of any size."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is the oracle")


from speechstream.audio.features import LogMel
from speechstream.config import Section
from speechstream.convert.voxtral import network_config, renamed
from speechstream.nn.growing import join, part
from speechstream.nn.voxtral import Voxtral
from speechstream.nn.voxtral_config import shapes
from tests.voxtral_tiny import EOS, SIZES, VOCAB, features, generate, padded, prompt, sound, theirs

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")


def ours(model):
    config, _ = network_config(Section(model.config.to_dict()))
    network = Voxtral(config).eval().requires_grad_(False)
    network.load_state_dict({renamed(k): v for k, v in model.state_dict().items()})
    return network


@pytest.fixture(scope="module", params=list(SIZES))
def pair(request):
    model = theirs(request.param, seed=2)
    return model, ours(model)


def test_features_are_theirs_in_blocks_of_any_size():
    model = theirs()
    x = padded(sound(1.1), 4)
    expected = features(model, x)[0].numpy()
    mel = LogMel(16, floor=-6.5)
    state, rng, at, parts = mel.init_state(), np.random.default_rng(0), 0, []
    whole = np.concatenate([x, np.zeros(200, np.float32)])
    while at < len(whole):
        n = int(rng.integers(0, 3000))
        frames, state = mel.step(whole[None, at : at + n], state)
        parts.append(frames[0])
        at += n
    got = np.concatenate(parts, 1)[:, : expected.shape[1]]
    assert expected.shape[1] == len(x) // 160
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_encoder_whole_and_in_blocks(pair):
    model, network = pair
    mel = features(model, padded(sound(2.0), 3))
    with torch.no_grad():
        expected = model.model.get_audio_features(mel, return_dict=True).pooler_output
    whole, _ = network.hear(mel, network.encoder.init_state())
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    rng, state, parts, at = np.random.default_rng(1), network.encoder.init_state(), [], 0
    while at < mel.shape[2]:
        n = 8 * int(rng.integers(1, 6))
        audio, state = network.hear(mel[..., at : at + n], state)
        parts.append(audio)
        at += n
        assert state.keys.shape[3] < network.config.encoder.window
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("delay", [1, 6, 30])
def test_logits_and_greedy_tokens(pair, delay):
    model, network = pair
    mel = features(model, padded(sound(1.4, delay), delay))
    audio, _ = network.hear(mel, network.encoder.init_state())
    torch.manual_seed(delay)
    ids = torch.randint(0, VOCAB, audio.shape[:2])
    with torch.no_grad():
        expected = model(
            input_ids=ids, input_features=mel, num_delay_tokens=delay, use_cache=False
        ).logits
    got, _ = network.read(ids, audio, network.scales(delay), network.init_text())
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    state, parts, at = network.init_text(), [], 0
    for n in (3, 1, 7, 1, 1, 9, 100):
        piece = slice(at, at + n)
        logits, state = network.read(ids[:, piece], audio[:, piece], network.scales(delay), state)
        parts.append(logits)
        at += n
        window = network.config.text.window
        assert not window or state.keys.shape[3] < window
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)
    tokens = network.generate(mel[0], prompt(delay), delay)
    assert tokens == generate(model, mel, delay, eos=None)
    assert len(tokens) == audio.shape[1] - len(prompt(delay)) and len(set(tokens)) > 1


def test_generation_ends_where_theirs_does():
    model = theirs("plain", seed=2)
    network, mel = ours(model), features(model, padded(sound(1.4), 2))
    eos = network.generate(mel[0], prompt(2), 2)[7]
    tokens = network.generate(mel[0], prompt(2), 2, (eos,))
    assert tokens == generate(model, mel, 2, eos=eos) and tokens[-1] == eos and len(tokens) <= 8


def test_their_own_streaming_is_their_offline_pass(pair):
    """By how much it departs: not in its tokens, and neither do ours."""
    model, network = pair
    delay = 2
    mel = features(model, padded(sound(1.5), delay))
    first = 8 * len(prompt(delay))

    def chunks():
        yield mel[..., :first]
        for at in range(first, mel.shape[2], 8):
            yield mel[..., at : at + 8]

    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([prompt(delay)]),
            input_features=chunks(),
            num_delay_tokens=delay,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    tokens = network.generate(mel[0], prompt(delay), delay)
    streamed = out[0, len(prompt(delay)) :].tolist()
    assert streamed[: len(tokens)] == tokens


def test_streams_of_any_age_share_a_batch(pair):
    _, network = pair
    rng = np.random.default_rng(5)
    mels, dim = network.config.encoder.n_mels, network.config.text.dim
    scales = [network.scales(d) for d in (1, 6, 30)]
    hearing = [network.encoder.init_state() for _ in range(3)]
    reading = [network.init_text() for _ in range(3)]

    def step(which, n):
        mel = torch.from_numpy(rng.standard_normal((len(which), mels, 8 * n)).astype(np.float32))
        ids = torch.from_numpy(rng.integers(0, VOCAB, (len(which), n)))
        heard = [network.hear(m[None], hearing[b]) for m, b in zip(mel, which)]
        audio, state = network.hear(mel, join([hearing[b] for b in which]))
        torch.testing.assert_close(audio, torch.cat([a for a, _ in heard]), atol=1e-4, rtol=1e-4)
        for row, b in enumerate(which):
            hearing[b] = part(state, row)
            torch.testing.assert_close(hearing[b].keys, heard[row][1].keys, atol=1e-4, rtol=1e-4)
        sound_of = torch.from_numpy(rng.standard_normal((len(which), n, dim)).astype(np.float32))
        alone = [
            network.read(ids[r : r + 1], sound_of[r : r + 1], scales[b], reading[b])
            for r, b in enumerate(which)
        ]
        logits, text = network.read(
            ids, sound_of, torch.cat([scales[b] for b in which]), join([reading[b] for b in which])
        )
        torch.testing.assert_close(logits, torch.cat([a for a, _ in alone]), atol=1e-4, rtol=1e-4)
        for row, b in enumerate(which):
            reading[b] = part(text, row)
            assert int(reading[b].tokens[0]) == int(alone[row][1].tokens[0])
            torch.testing.assert_close(
                reading[b].values, alone[row][1].values, atol=1e-4, rtol=1e-4
            )

    for which, n in (([0], 5), ([1, 0], 1), ([2, 0, 1], 3), ([0, 2], 9), ([1, 2, 0], 1), ([2], 1)):
        step(which, n)


def test_the_table_of_tensors_is_the_network(pair):
    _, network = pair
    state = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    if network.config.text.tied:
        state.pop("text.lm_head.weight")
    assert state == shapes(network.config)
    assert EOS < VOCAB


def test_wrong_blocks_are_refused(pair):
    _, network = pair
    with pytest.raises(ValueError, match="whole tokens of 8 mel frames, got 12"):
        network.hear(torch.zeros(1, network.config.encoder.n_mels, 12), None)
    with pytest.raises(ValueError, match="an even number"):
        network.encoder.step(torch.zeros(1, 3, 8), network.encoder.init_state())
