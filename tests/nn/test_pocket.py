"""pocket-tts: module by module and end to end what transformers' own networks give, offline and streamed."""

import math

import pytest
import torch

from speechstream.convert.pocket import load_codec, load_model
from speechstream.convert.pocket_config import model_config
from speechstream.nn.pocket import LATENT
from speechstream.state import select, stack

pytest.importorskip("transformers.models.pocket_tts", reason="the peer of this comparison")
from tools.make_tiny_pocket import tiny

TOLERANCE = 1e-4
SIZES = {  # name: model, flow, codec
    "tiny": ({}, {}, {}),
    "grouped heads": (
        {
            "hidden_size": 48,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_hidden_layers": 3,
            "latent_dim": 5,
            "hidden_act": "gelu",
            "attention_bias": True,
        },
        {"num_hidden_layers": 3, "hidden_size": 32, "max_period": 1000.0},
        {
            "latent_dim": 5,
            "upsampling_ratios": [3, 2, 2],
            "latent_stride": 5,
            "hidden_size": 24,
            "upsample_groups": 24,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_residual_layers": 2,
            "num_hidden_layers": 1,
            "hidden_act": "gelu",
        },
    ),
    "one call": ({}, {"flow_type": "drifting"}, {"sliding_window": 3, "kernel_size": 5}),
}


class Pair:
    """One configuration in both worlds."""

    def __init__(self, sizes, seed=0):
        self.peer, self.peer_codec = tiny(*sizes, seed=seed)
        self.peer.requires_grad_(False)
        self.peer_codec.requires_grad_(False)
        self.config = model_config(self.peer.config.to_dict(), self.peer_codec.config.to_dict())
        self.model = load_model(self.peer.state_dict(), self.config, "tiny")
        self.decoder, self.encoder = load_codec(self.peer_codec.state_dict(), self.config, "tiny")
        self.latent_dim = self.config.latent_dim


@pytest.fixture(scope="module", params=SIZES)
def pair(request):
    return Pair(SIZES[request.param])


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < TOLERANCE * min(1.0, float(theirs.abs().max()))


def prompt(pair, voice, text):
    """transformers' input_ids: voice placeholder, text, first audio position."""
    c = pair.peer.config
    ids = [c.audio_prompt_bos_token_id] + [c.audio_prompt_token_id] * len(voice[0])
    return torch.tensor([[*ids, *text, c.audio_bos_token_id]])


def text_of(pair, count, seed=1):
    torch.manual_seed(seed)
    return torch.randint(4, pair.config.backbone.vocab_size - 4, (count,)).tolist()


@torch.no_grad()
def generated(pair, voice, text, noise, steps=1):
    """Our latents, one for each row of noise, and the logits of the end of speech; voice None: none."""
    model, state = pair.model, pair.model.init_state()
    if voice is not None:
        state = model.read_voice(voice, state)
    tokens, latents = torch.tensor([[*text, pair.config.bos]]), None
    found, ends = [], []
    for row in noise:
        latent, end, state = model.step(tokens, latents, row[None], state, steps)
        tokens, latents = torch.tensor([[LATENT]]), latent[:, None]
        found.append(latent)
        ends.append(end)
    return torch.stack(found, 1), torch.stack(ends, 1)


def test_backbone(pair):
    torch.manual_seed(2)
    voice, text = torch.randn(1, 6, pair.latent_dim), text_of(pair, 9)
    theirs = pair.peer(
        input_ids=prompt(pair, voice, text), audio_prompt_latents=voice, use_cache=True
    )
    with torch.no_grad():
        state = pair.model.read_voice(voice, pair.model.init_state())
        x = pair.model.embed(torch.tensor([[*text, pair.config.bos]]))
        ours, state = pair.model.hidden(x, state)
    close(ours, theirs.last_hidden_state[:, 7:])
    close(pair.model.eos_head(ours), theirs.logits[:, 7:])
    close(state.keys[:, 0], theirs.cache.layers[0].keys)
    close(state.values[:, -1], theirs.cache.layers[-1].values)


@pytest.mark.parametrize("steps", [1, 4])
def test_flow_head(pair, steps):
    torch.manual_seed(3)
    noise, condition = torch.randn(5, pair.latent_dim), torch.randn(5, pair.config.backbone.dim)
    close(
        pair.model.flow_head.sample(noise, condition, steps),
        pair.peer.sample_latent(condition, noise, steps),
    )


@torch.no_grad()
def test_codec_decodes_alike_whole_and_in_any_blocks(pair):
    torch.manual_seed(4)
    latents = torch.randn(2, 13, pair.latent_dim)
    theirs = pair.peer_codec.decode(latents).audio_values
    close(pair.decoder(latents), theirs)
    for cuts in ((1,) * 13, (3, 1, 7, 2), (13,)):
        state, parts = pair.decoder.init_state(2), []
        for block in latents.split(list(cuts), 1):
            audio, state = pair.decoder.step(block, state)
            parts.append(audio)
        close(torch.cat(parts, -1), theirs)


@torch.no_grad()
def test_codec_streams_of_different_age_share_a_batch(pair):
    torch.manual_seed(5)
    latents = torch.randn(2, 9, pair.latent_dim)
    whole = pair.decoder(latents)
    _, old = pair.decoder.step(latents[:1, :5], pair.decoder.init_state())
    both, state = pair.decoder.step(
        torch.stack([latents[0, 5:9], latents[1, :4]]), stack([old, pair.decoder.init_state()])
    )
    hop = pair.config.codec.frame_size
    close(both[0], whole[0, :, 5 * hop :])
    close(both[1], whole[1, :, : 4 * hop])
    rest, _ = pair.decoder.step(latents[1:, 4:], select(state, 1))
    close(rest[0], whole[1, :, 4 * hop :])


@torch.no_grad()
def test_codec_encodes_alike(pair):
    torch.manual_seed(6)
    audio = 0.3 * torch.randn(1, 1, 6 * pair.config.codec.frame_size)
    close(pair.encoder(audio), pair.peer_codec.encode(audio).latents)
    assert pair.encoder(audio[..., :-5]).shape == (1, 6, pair.latent_dim)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("with_voice", [True, False])
@torch.no_grad()
def test_generation_end_to_end(pair, steps, with_voice):
    """transformers' own `generate` with the same noise: its latents, its end, its sound."""
    torch.manual_seed(7)
    voice = torch.randn(1, 5, pair.latent_dim) if with_voice else None
    text, frames = text_of(pair, 11), 9
    c = pair.peer.config
    ids = prompt(pair, voice, text) if with_voice else torch.tensor([[*text, c.audio_bos_token_id]])
    torch.manual_seed(8)
    theirs = pair.peer.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **({"audio_prompt_latents": voice} if with_voice else {}),
        do_sample=True,
        temperature=0.7,
        num_flow_steps=steps,
        eos_threshold=1e9,
        frames_after_eos=1,
        max_new_tokens=frames,
        return_dict_in_generate=True,
        output_logits=True,
    )
    torch.manual_seed(8)
    noise = torch.cat([torch.randn(1, pair.latent_dim) * math.sqrt(0.7) for _ in range(frames)])
    latents, ends = generated(pair, voice, text, noise, steps)
    close(ends, torch.stack(theirs.logits, 1))
    close(pair.model.to_codec(latents), theirs.audio_latents)
    sound = pair.peer_codec.decode(theirs.audio_latents).audio_values
    close(pair.decoder(pair.model.to_codec(latents)), sound)


@torch.no_grad()
def test_a_prompt_may_be_read_in_pieces_and_with_others(pair):
    text = text_of(pair, 8)
    torch.manual_seed(9)
    noise = torch.randn(4, pair.latent_dim)
    whole, _ = generated(pair, None, text, noise)
    model = pair.model
    _, state = model.hidden(model.embed(torch.tensor([text[:3]])), model.init_state())
    _, state = model.hidden(model.embed(torch.tensor([text[3:]])), state)
    latent, _, _ = model.step(torch.tensor([[pair.config.bos]]), None, noise[:1], state)
    close(latent, whole[:, 0])


def test_a_state_is_not_changed_by_a_step(pair):
    state = pair.model.read_voice(torch.ones(1, 3, pair.latent_dim), pair.model.init_state())
    before = state.keys.clone()
    noise = torch.zeros(1, pair.latent_dim)
    with torch.no_grad():
        one, _, _ = pair.model.step(torch.tensor([[7]]), None, noise, state)
        two, _, _ = pair.model.step(torch.tensor([[7]]), None, noise, state)
    assert torch.equal(state.keys, before) and torch.equal(one, two)
