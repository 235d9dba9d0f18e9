"""Kyutai's speech to text against transformers, on random weights: codes, logits, greedy tokens; steps of any size, batches of any age."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is the oracle")
pytest.importorskip("sentencepiece", reason="it makes the vocabulary")

from speechstream.asr.kyutai.torch import read_kyutai
from speechstream.config import read
from speechstream.convert.kyutai import convert_kyutai
from speechstream.nn.growing import join, part
from speechstream.nn.kyutai_config import KyutaiBundle
from speechstream.state import select, stack
from tests.kyutai_tiny import FRAME, VOCAB, generate, padded, sound, theirs, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=["plain", "grouped", "narrow"])
def pair(request, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("kyutai"), theirs(request.param, 2)
    (folder / "src").mkdir()
    write_checkpoint(model, folder / "src")
    b = convert_kyutai(folder / "src", folder / "out", {"name": "tiny", "licence": "none"})
    about = read(KyutaiBundle, b.config)
    return model, read_kyutai(b, about.network).eval().requires_grad_(False), about


def frames(audio):
    return audio[..., : audio.shape[-1] // FRAME * FRAME]


def test_codes_whole_and_in_blocks(pair):
    model, network, _ = pair
    audio = frames(padded(sound(2.5, 1)))
    with torch.no_grad():
        expected = model.codec_model.encode(audio).audio_codes.transpose(1, 2)
    assert len(torch.unique(expected)) > 8
    whole, _ = network.hear(audio, network.codec.init_encoder_state())
    assert torch.equal(whole, expected)
    rng, state, parts, at = np.random.default_rng(1), network.codec.init_encoder_state(), [], 0
    while at < audio.shape[-1]:
        n = FRAME * int(rng.integers(1, 9))
        codes, state = network.hear(audio[..., at : at + n], state)
        parts.append(codes)
        at += n
    assert torch.equal(torch.cat(parts, 1), expected)


def test_logits_and_greedy_tokens(pair):
    model, network, about = pair
    audio = padded(sound(2.0, 3))
    model.generation_config.audio_window_size = None
    out = model.generate(
        input_values=audio, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    tokens, expected = out.sequences, torch.stack(out.logits, 1)
    assert len(set(tokens[0].tolist())) > 10 and tokens.shape[1] > network.config.text.window
    codes, _ = network.hear(frames(audio), network.codec.init_encoder_state())
    first = torch.full((1, 1, network.config.levels), network.config.audio_bos)
    codes = torch.cat([first, codes], 1)[:, : tokens.shape[1] - 1]
    got, pauses, _ = network.read(tokens[:, :-1], codes, network.init_text())
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert pauses.shape[2] == 0 and int(tokens[0, 0]) == about.bos
    state, parts, at = network.init_text(), [], 0
    for n in (3, 1, 7, 1, 1, 9, 100):
        piece = slice(at, at + n)
        logits, _, state = network.read(tokens[:, :-1][:, piece], codes[:, piece], state)
        parts.append(logits)
        at += n
        assert state.keys.shape[3] < network.config.text.window
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


def test_their_own_windows_of_sound_depart_from_their_whole_pass(pair):
    """transformers 5.24 forgets what its codec's transformer has heard between two of them; ours is the whole pass."""
    model, _, _ = pair
    audio = padded(sound(1.0, 1))
    whole, streamed = generate(model, audio), generate(model, audio, window=1)
    assert streamed[:2] == whole[:2] and streamed != whole


def test_streams_of_any_age_share_a_batch(pair):
    _, network, _ = pair
    rng, c = np.random.default_rng(5), network.config
    hearing = [network.codec.init_encoder_state() for _ in range(3)]
    reading = [network.init_text() for _ in range(3)]
    for which, n in (([0], 5), ([1, 0], 1), ([2, 0, 1], 3), ([0, 2], 6), ([1, 2, 0], 1), ([2], 1)):
        audio = torch.from_numpy(0.2 * rng.standard_normal((len(which), 1, FRAME * n))).float()
        alone = [network.hear(a[None], hearing[b]) for a, b in zip(audio, which)]
        codes, state = network.hear(audio, stack([hearing[b] for b in which]))
        assert torch.equal(codes, torch.cat([one for one, _ in alone]))
        ids = torch.from_numpy(rng.integers(0, VOCAB, (len(which), n)))
        one = [
            network.read(ids[r : r + 1], codes[r : r + 1], reading[b]) for r, b in enumerate(which)
        ]
        logits, _, text = network.read(ids, codes, join([reading[b] for b in which]))
        torch.testing.assert_close(logits, torch.cat([o[0] for o in one]), atol=1e-4, rtol=1e-4)
        for row, b in enumerate(which):
            hearing[b], reading[b] = select(state, row), part(text, row)
            assert int(reading[b].tokens[0]) == int(one[row][2].tokens[0])
            assert reading[b].keys.shape[3] < c.text.window
            torch.testing.assert_close(reading[b].values, one[row][2].values, atol=1e-4, rtol=1e-4)
