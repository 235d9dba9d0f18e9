"""Moshi's network against transformers': rows, levels, whole streams drawn greedily, and the sound of them."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers.models.moshi")
pytest.importorskip("tokenizers")


from speechstream.nn.llm import attend
from speechstream.nn.moshi import greedy
from speechstream.state import flatten, nbytes, select, stack
from tests.moshi_tiny import SIZES, made, read, theirs

FRAME = 1920


@pytest.fixture(scope="module", params=list(SIZES))
def pair(request, tmp_path_factory):
    """A model of transformers, and ours of its checkpoint."""
    bundle = made(tmp_path_factory.mktemp("moshi"), request.param)
    return theirs(request.param), read(bundle)


def sound(frames, seed=0):
    rng = np.random.default_rng(seed)
    n = frames * FRAME
    x = rng.standard_normal(n) * np.abs(np.sin(np.arange(n) / 3000 + seed))
    return torch.from_numpy(0.3 * x).float()[None, None]


def spoken(model, codes, draw=greedy, state=None):
    """Text (B, T), codes (B, T, levels) and the state of a stream that hears the user's codes (B, T, levels)."""
    with torch.no_grad():
        state = model.begin(model.init_state(len(codes)), draw) if state is None else state
        words, own = [], []
        for frame in codes.unbind(1):
            word, code, state = model.step(frame, state, draw)
            words.append(word)
            own.append(code)
    return torch.stack(words, 1), torch.stack(own, 1), state


def test_a_stream_is_what_generate_writes(pair):
    """Its `generate` hears the codes of one silent frame for ever."""
    model, ours = pair
    count = 9  # fewer than the window
    found = model.generate(
        max_new_tokens=count + 1,
        do_sample=False,
        depth_decoder_do_sample=False,
        return_audio_codes=True,
    )
    with torch.no_grad():
        silent = model.audio_encoder.encode(
            torch.zeros(1, 1, FRAME), num_quantizers=ours.config.levels
        )[0]
        heard, _ = ours.hear(torch.zeros(1, 1, FRAME), ours.codec.init_encoder_state())
    assert torch.equal(heard.transpose(1, 2), silent)
    words, codes, state = spoken(ours, heard.expand(-1, count, -1))
    assert words[0].tolist() == found.sequences[0, -count - 1 :][:count].tolist()
    assert torch.equal(codes.transpose(1, 2), found.audio_codes[..., :count])
    assert len(set(codes.flatten().tolist())) > 10 and len(set(words[0].tolist())) > 3
    decoder, pieces = state.decoder, []
    with torch.no_grad():
        for n in (1, 3, count - 4):
            at = sum(p.shape[2] for p in pieces) // FRAME
            piece, decoder = ours.say(codes[:, at : at + n], decoder)
            pieces.append(piece)
    theirs_ = found.audio_sequences[..., : count * FRAME]
    np.testing.assert_allclose(torch.cat(pieces, 2), theirs_, atol=1e-4)


def test_rows_and_levels_give_the_logits_of_transformers(pair):
    model, ours = pair
    c, rng = ours.config, np.random.default_rng(1)
    T = 8
    user, own = (torch.from_numpy(rng.integers(0, c.begin_code, (2, T, c.levels))) for _ in "uo")
    words = torch.from_numpy(rng.integers(0, c.text.vocab_size, (2, T)))
    with torch.no_grad():
        out = model(
            input_ids=words,
            user_audio_codes=user.transpose(1, 2),
            moshi_audio_codes=own.transpose(1, 2),
        )
        rows = torch.cat([words[..., None], own, user], 2)
        state, logits, features = ours.init_state(2).text, [], []
        for begin, end in ((0, 1), (1, 6), (6, 8)):
            one, h, state = ours.read(rows[:, begin:end], state)
            logits.append(one)
            features.append(h)
        torch.testing.assert_close(torch.cat(logits, 1), out.logits, atol=1e-4, rtol=0)
        h = torch.cat(features, 1).flatten(0, 1)
        deep = model.depth_decoder(
            last_hidden_state=h[:, None],
            input_ids=torch.cat([words.flatten()[:, None], own.flatten(0, 1)[:, :-1]], 1),
        ).logits
        seen = []

        def forced(scores, number):
            seen.append(scores)
            return own.flatten(0, 1)[:, number - 1]

        ours.depth(h, words.flatten(), forced)
        torch.testing.assert_close(torch.stack(seen, 1), deep, atol=1e-4, rtol=0)


def test_the_user_is_heard_in_any_pieces(pair):
    model, ours = pair
    x = sound(7)
    with torch.no_grad():
        whole = model.audio_encoder.encode(x, num_quantizers=ours.config.levels)[0]
        state, found = ours.codec.init_encoder_state(), []
        for begin, end in ((0, 1), (1, 5), (5, 7)):
            codes, state = ours.hear(x[..., begin * FRAME : end * FRAME], state)
            found.append(codes)
    assert torch.equal(torch.cat(found, 1).transpose(1, 2), whole)


def test_following_is_as_having_spoken(pair):
    """What was said, read all at once, in two pieces or in a batch, leaves the same state."""
    _, ours = pair
    c = ours.config
    rng = np.random.default_rng(2)
    user = torch.from_numpy(rng.integers(0, c.begin_code, (2, 13, c.levels)))
    words, codes, after = spoken(ours, user)
    with torch.no_grad():
        begun = ours.begin(ours.init_state(2))
        once = ours.follow(user, words, codes, begun)
        twice = ours.follow(user[:, :5], words[:, :5], codes[:, :5], begun)
        twice = ours.follow(user[:, 5:], words[:, 5:], codes[:, 5:], twice)
    for state in (once, twice):
        for name, a in flatten(after).items():
            torch.testing.assert_close(flatten(state)[name], a, atol=1e-4, rtol=0, msg=name)
    alone = [spoken(ours, user[i : i + 1]) for i in range(2)]
    assert torch.equal(torch.cat([a[1] for a in alone]), codes)
    rest = torch.from_numpy(rng.integers(0, c.begin_code, (2, 3, c.levels)))
    both = spoken(ours, rest, state=stack([a[2] for a in alone]))
    one = spoken(ours, rest[1:], state=select(after, 1))
    assert torch.equal(both[1][1:], one[1])


def test_a_stream_is_no_longer_than_its_window(pair):
    """Beyond it, each frame costs and remembers the same, and is what the whole masked to the window gives."""
    _, ours = pair
    c = ours.config
    window = c.text.window
    count = window + 9
    rng = np.random.default_rng(3)
    rows = torch.from_numpy(rng.integers(0, c.begin_code, (1, count, 1 + 2 * c.levels)))
    with torch.no_grad():
        state, sizes, logits = ours.init_state().text, [], []
        for t in range(count):
            one, _, state = ours.read(rows[:, t : t + 1], state)
            logits.append(one)
            sizes.append(nbytes(state))
        level = torch.arange(2 * c.levels)
        x = ours.text_embed(rows[..., 0])
        x = x + ours.embed(rows[..., 1:] + level * (c.begin_code + 1)).sum(2)
        whole = ours.head(ours.norm(attend(c.text, ours.layers, x, ours.init_state().text)[0]))
    assert len(set(sizes[window:])) == 1
    torch.testing.assert_close(torch.cat(logits, 1), whole, atol=1e-4, rtol=0)
