"""Whisper's networks against transformers', and each streamed call against the offline one."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from speechstream.nn.whisper import DecoderState, Encoder, Whisper, WhisperConfig, sinusoids
from speechstream.state import fields, flatten, select, stack

CONFIG = WhisperConfig(
    n_mels=8,
    dim=24,
    heads=3,
    encoder_layers=2,
    decoder_layers=2,
    vocab_size=40,
    text_context=32,
    positions=40,
    left_context=20,
    ctc_vocab_size=7,
    alignment_heads=((0, 1), (1, 0), (1, 2)),
)


def whisper(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    model = Whisper(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return whisper()


def sound(frames, batch=1, seed=0):
    """Mel frames for so many encoder frames, the one of look-ahead included."""
    return torch.randn(
        batch, CONFIG.n_mels, 2 * frames + 1, generator=torch.Generator().manual_seed(seed)
    )


def chunks(mel, chunk):
    """The blocks of a stream: 2c + 1 mel frames each, the last of which comes again; the tail may be short."""
    frames = (mel.shape[2] - 1) // 2
    for at in range(0, frames, chunk):
        yield mel[:, :, 2 * at : 2 * min(at + chunk, frames) + 1]


def stream(encoder, mel, chunk, state=None):
    state, out = state or encoder.init_state(len(mel)), []
    for block in chunks(mel, chunk):
        y, state = encoder.step(block, state)
        out.append(y)
    return torch.cat(out, 1), state


# Against transformers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """transformers' Whisper and ours with the same random weights, copied name by name."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers comes with the development extra"
    )
    torch.manual_seed(1)
    theirs = (
        transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                vocab_size=50,
                num_mel_bins=8,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=3,
                decoder_attention_heads=3,
                encoder_ffn_dim=96,
                decoder_ffn_dim=96,
                d_model=24,
                max_source_positions=60,
                max_target_positions=32,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                suppress_tokens=None,
                begin_suppress_tokens=None,
            )
        )
        .eval()
        .requires_grad_(False)
    )
    for parameter in theirs.parameters():
        if parameter is not theirs.model.encoder.embed_positions.weight:
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = Whisper(
        dataclasses.replace(CONFIG, vocab_size=50, positions=60, ctc_vocab_size=0)
    ).eval()
    ours.requires_grad_(False)

    def attention(mine, other):
        for a, b in (
            (mine.query, other.q_proj),
            (mine.key, other.k_proj),
            (mine.value, other.v_proj),
            (mine.out, other.out_proj),
        ):
            a.load_state_dict(b.state_dict())

    def common(mine, other):
        attention(mine.attn, other.self_attn)
        for a, b in (
            (mine.attn_ln, other.self_attn_layer_norm),
            (mine.mlp[0], other.fc1),
            (mine.mlp[2], other.fc2),
            (mine.mlp_ln, other.final_layer_norm),
        ):
            a.load_state_dict(b.state_dict())

    encoder, decoder = theirs.model.encoder, theirs.model.decoder
    for a, b in (
        (ours.encoder.conv1, encoder.conv1),
        (ours.encoder.conv2, encoder.conv2),
        (ours.encoder.ln_post, encoder.layer_norm),
        (ours.decoder.ln, decoder.layer_norm),
        (ours.decoder.token_embedding, decoder.embed_tokens),
    ):
        a.load_state_dict(b.state_dict())
    ours.decoder.positional_embedding.copy_(decoder.embed_positions.weight)
    for mine, other in zip(ours.encoder.blocks, encoder.layers):
        common(mine, other)
    for mine, other in zip(ours.decoder.blocks, decoder.layers):
        common(mine, other)
        attention(mine.cross_attn, other.encoder_attn)
        mine.cross_attn_ln.load_state_dict(other.encoder_attn_layer_norm.state_dict())
    return ours, theirs


def test_the_position_table_is_whispers(pair):
    ours, theirs = pair
    torch.testing.assert_close(
        ours.encoder.positional_embedding, theirs.model.encoder.embed_positions.weight
    )
    torch.testing.assert_close(
        sinusoids(1500, 512)[0], torch.cat([torch.zeros(256), torch.ones(256)])
    )


def test_offline_with_full_attention_is_whisper_itself(pair):
    ours, theirs = pair
    mel = torch.randn(2, 8, 120)
    tokens = torch.randint(50, (2, 9))
    expected = theirs(input_features=mel, decoder_input_ids=tokens)
    features = ours.encoder(
        F.pad(mel, (0, 1))
    )  # the look-ahead of the last frame is Whisper's zero padding
    torch.testing.assert_close(features, expected.encoder_last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.decoder(tokens, features), expected.logits, rtol=1e-4, atol=1e-4
    )


# The encoder as a stream ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("frames", [1, 63, 64, 201])  # 201 frames go five times round a clock of 40
def test_steps_equal_the_whole_under_the_same_mask(model, chunk, frames):
    mel = sound(frames, batch=2, seed=chunk)
    whole = model.encoder(mel, chunk=chunk)
    y, state = stream(model.encoder, mel, chunk)
    assert y.shape == (2, frames, CONFIG.dim)
    torch.testing.assert_close(y, whole, rtol=1e-5, atol=1e-5)
    assert state.frames.tolist() == [frames, frames]
    assert {n: a.shape for n, a in fields(state)} == {
        n: a.shape for n, a in fields(model.encoder.init_state(2))
    }


def test_the_mask_matters_and_left_context_is_limited(model):
    mel = sound(200)
    whole = model.encoder(mel)
    assert (model.encoder(mel, chunk=8) - whole).abs().max() > 1e-2
    torch.testing.assert_close(model.encoder(mel, chunk=200), whole)
    other = mel.clone()
    other[:, :, :80] += (
        1  # two layers that see 20 frames back, and the chunk: frame 88 on cannot know of frame 39
    )
    same = (model.encoder(other, chunk=8) - model.encoder(mel, chunk=8)).abs().amax(dim=(0, 2)) == 0
    assert not same[:80].any() and same[88:].all()


def test_nothing_is_seen_before_its_chunk(model):
    mel = sound(48)
    other = mel.clone()
    other[:, :, 2 * 32 + 1 :] += 1  # past the look-ahead of the chunk that ends with frame 31
    a, b = model.encoder(mel, chunk=16), model.encoder(other, chunk=16)
    assert torch.equal(a[:, :32], b[:, :32]) and (a[:, 32:] != b[:, 32:]).any()


@pytest.mark.parametrize("chunk", [4, 16])
def test_unsynchronised_streams_share_a_batch(model, chunk):
    encoder, lengths = model.encoder, [90, 33, 160, 5]
    mels = [sound(n, seed=n) for n in lengths]
    whole = [encoder(mel, chunk=chunk) for mel in mels]
    queues = [list(chunks(mel, chunk)) for mel in mels]
    states, out = [encoder.init_state() for _ in lengths], [[] for _ in lengths]
    generator = torch.Generator().manual_seed(2)
    while any(queues):
        ready = [i for i, q in enumerate(queues) if q and torch.rand((), generator=generator) < 0.6]
        if not ready:
            continue
        size = min(
            queues[i][0].shape[2] for i in ready
        )  # a short tail goes with nobody but its like
        ready = [i for i in ready if queues[i][0].shape[2] == size]
        batch = stack([states[i] for i in ready])
        before = {n: a.clone() for n, a in fields(batch)}
        y, after = encoder.step(torch.cat([queues[i].pop(0) for i in ready]), batch)
        assert all(torch.equal(a, before[n]) for n, a in fields(batch))  # pure
        for row, i in enumerate(ready):
            states[i] = select(after, row)
            out[i].append(y[row : row + 1])
    for got, expected in zip(out, whole):
        torch.testing.assert_close(torch.cat(got, 1), expected, rtol=1e-5, atol=1e-5)


def test_a_stream_may_change_its_chunk_and_be_resumed(model):
    mel = sound(60)
    _, kept = stream(model.encoder, mel[:, :, : 2 * 40 + 1], 8)
    a, _ = stream(model.encoder, mel[:, :, 80:], 20, kept)
    b, _ = stream(model.encoder, mel[:, :, 80:], 20, kept)
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (
        a - model.encoder(mel, chunk=20)[:, 40:]
    ).abs().max() < 5  # other left context in deeper layers, finite


def test_an_empty_block_changes_nothing(model):
    mel = sound(8)
    _, state = model.encoder.step(mel, model.encoder.init_state())
    y, after = model.encoder.step(mel[:, :, -1:], state)
    assert y.shape == (1, 0, CONFIG.dim)
    assert all(torch.equal(a, flatten(state)[n]) for n, a in fields(after))


@pytest.mark.parametrize("shape", [(1, 8, 16), (1, 8, 0), (1, 7, 17), (2, 8, 17), (8, 17)])
def test_blocks_that_would_lose_frames_are_refused(model, shape):
    with pytest.raises(ValueError, match="mel must be"):
        model.encoder.step(torch.zeros(shape), model.encoder.init_state())
    if shape[0] != 2:
        with pytest.raises(ValueError, match="mel must be"):
            model.encoder(torch.zeros(shape))


@pytest.mark.parametrize("chunk", [None, 8])
def test_padding_does_not_reach_a_shorter_utterance(model, chunk):
    lengths = [50, 21]
    mel = sound(50, batch=2)
    mel[1, :, 2 * 21 + 1 :] = 100
    y = model.encoder(mel, torch.tensor(lengths), chunk)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(
            y[b : b + 1, :n],
            model.encoder(mel[b : b + 1, :, : 2 * n + 1], chunk=chunk),
            rtol=1e-5,
            atol=1e-5,
        )


def test_an_utterance_may_begin_anywhere_on_the_clock(model):
    mel = sound(50, batch=2)
    rolled = Encoder(CONFIG).eval()
    rolled.load_state_dict(model.encoder.state_dict())
    rolled.positional_embedding = model.encoder.positional_embedding.roll(-33, 0)
    y = model.encoder(mel, chunk=8, start=torch.tensor([0, 33]))
    torch.testing.assert_close(y[:1], model.encoder(mel[:1], chunk=8), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y[1:], rolled(mel[1:], chunk=8), rtol=1e-5, atol=1e-5)


def test_ctc_pairs_frames_alike_offline_and_streamed(model):
    mel = sound(50)
    features = model.encoder(mel, chunk=8)
    whole = model.ctc_log_probs(features)
    assert whole.shape == (1, 25, 7)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(1, 25))
    pair = torch.cat([features[0, 6], features[0, 7]])
    torch.testing.assert_close(
        whole[0, 3], (model.ctc.weight @ pair + model.ctc.bias).log_softmax(-1)
    )
    parts = [model.ctc_log_probs(part) for part in features.split(8, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


# The decoder as a stream ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(model):
    """Tokens (3, 12) and the features they are read over."""
    generator = torch.Generator().manual_seed(4)
    return (
        torch.randint(40, (3, 12), generator=generator),
        torch.randn(3, 17, 24, generator=generator),
    )


@pytest.mark.parametrize("split", [[12], [1] * 12, [5, 7], [3, 1, 1, 6, 1], [0, 12], [4, 0, 8]])
def test_decoder_steps_equal_the_whole(model, text, split):
    tokens, features = text
    mask = torch.arange(17) < torch.tensor([17, 9, 1])[:, None]
    keys, values = model.decoder.memory(features)
    state, out, at = model.decoder.init_state(3), [], 0
    for size in split:
        logits, alignment, state = model.decoder.step(
            tokens[:, at : at + size], state, keys, values, mask
        )
        torch.testing.assert_close(alignment.sum(-1), torch.ones(3, size))
        assert not alignment.masked_select(~mask[:, None].expand_as(alignment)).any()
        out.append(logits)
        at += size
    torch.testing.assert_close(
        torch.cat(out, 1), model.decoder(tokens, features, mask), rtol=1e-5, atol=1e-5
    )
    assert state.tokens.tolist() == [12] * 3 and state.keys.shape[3] == 12


def test_memory_is_projected_frame_by_frame(model, text):
    _, features = text
    whole = model.decoder.memory(features)
    parts = [model.decoder.memory(part) for part in features.split([5, 1, 11], dim=1)]
    for i in range(2):
        torch.testing.assert_close(torch.cat([p[i] for p in parts], 3), whole[i])


def test_alignment_is_the_mean_of_the_heads_asked_for(model, text):
    tokens, features = text
    keys, values = model.decoder.memory(features)

    def heads(*chosen):
        model.decoder.config = dataclasses.replace(CONFIG, alignment_heads=chosen)
        try:
            return model.decoder.step(tokens, model.decoder.init_state(3), keys, values)[1]
        finally:
            model.decoder.config = CONFIG

    every = torch.stack([heads(h) for h in CONFIG.alignment_heads])
    torch.testing.assert_close(heads(*CONFIG.alignment_heads), every.mean(0))
    assert (every[0] - every[1]).abs().max() > 1e-3
    assert not heads().any()


def test_left_padded_streams_equal_each_alone(model, text):
    tokens, features = text
    keys, values = model.decoder.memory(features)
    ages, alone = (7, 0, 3), []
    for b, n in enumerate(ages):
        _, _, state = model.decoder.step(
            tokens[b : b + 1, :n], model.decoder.init_state(), keys[b : b + 1], values[b : b + 1]
        )
        alone.append(state)
    longest = max(ages)
    batch = stack(
        [
            DecoderState(
                *(F.pad(a, (0, 0, longest - n, 0), value=50.0) for a in (s.keys, s.values)),
                s.tokens,
            )
            for n, s in zip(ages, alone)
        ]
    )
    block = torch.stack([tokens[b, n : n + 4] for b, n in enumerate(ages)])
    logits, alignment, after = model.decoder.step(block, batch, keys, values)
    more, _, _ = model.decoder.step(
        block[:, :1], after, keys, values
    )  # and once more, from the padded state
    for b in range(len(ages)):
        expected, where, state = model.decoder.step(
            block[b : b + 1], alone[b], keys[b : b + 1], values[b : b + 1]
        )
        torch.testing.assert_close(logits[b : b + 1], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alignment[b : b + 1], where, rtol=1e-5, atol=1e-5)
        expected, _, _ = model.decoder.step(
            block[b : b + 1, :1], state, keys[b : b + 1], values[b : b + 1]
        )
        torch.testing.assert_close(more[b : b + 1], expected, rtol=1e-5, atol=1e-5)
    assert after.tokens.tolist() == [n + 4 for n in ages]


def test_the_decoder_looks_at_no_later_token(model, text):
    tokens, features = text
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 40
    a, b = model.decoder(tokens, features), model.decoder(other, features)
    torch.testing.assert_close(a[:, :6], b[:, :6])
    assert (a[:, 6:] - b[:, 6:]).abs().amax(-1).min() > 1e-3


def test_more_text_than_the_decoder_has_positions_for_is_refused(model, text):
    _, features = text
    keys, values = model.decoder.memory(features)
    tokens = torch.zeros(3, 20, dtype=torch.int64)
    _, _, state = model.decoder.step(tokens, model.decoder.init_state(3), keys, values)
    with pytest.raises((IndexError, RuntimeError)):
        model.decoder.step(tokens, state, keys, values)
