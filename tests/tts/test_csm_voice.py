"""CSM as a voice: what transformers generates after a voice's turn, streamed, left, resumed, forked, batched."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers.models.csm", reason="the peer of this comparison")
pytest.importorskip("tokenizers")

from speechstream.cli import main
from speechstream.convert.csm import load_csm
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import drive
from speechstream.tts.csm.network import CsmNetwork
from speechstream.tts.synthesizer import Synthesizer
from tests.hostile import changed, check_weights, refused_by
from tools.make_tiny_csm import TEXT, tiny, write

GREEDY = {"do_sample": False, "depth_decoder_do_sample": False}
SAID = "Well, hello there. Go on."
SIZES = {  # another one than the tool's
    "grouped": {
        "num_codebooks": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "depth": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32},
        "tie_codebooks_embeddings": False,
        "seed": 3,
    },
    "plain": {},
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Random weights never end."""
    monkeypatch.setattr("speechstream.tts.csm.voice.TOKENS_PER_S", 8.0)
    monkeypatch.setattr("speechstream.tts.csm.voice.SPARE_S", 0.5)


@pytest.fixture(scope="module", params=SIZES)
def both(request, tmp_path_factory):
    """transformers' model, and ours of its checkpoint."""
    model = tiny(**SIZES[request.param])
    folder = write(tmp_path_factory.mktemp("csm"), model, GREEDY)
    target = tmp_path_factory.mktemp("voice")
    assert main(["convert", str(folder), "-o", str(target)]) == 0
    return model, Synthesizer.load(target), folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A voice that draws its codes."""
    generation = {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 9,
        "depth_decoder_do_sample": True,
        "depth_decoder_temperature": 0.7,
        "depth_decoder_top_k": 5,
    }
    folder = write(tmp_path_factory.mktemp("csm"), tiny(), generation)
    target = tmp_path_factory.mktemp("voice")
    assert main(["convert", str(folder), "-o", str(target), "--language", "en-US"]) == 0
    return Synthesizer.load(target)


def sound(stream, text=SAID):
    stream.push(text)
    stream.end()
    return np.concatenate([b.pcm for b in stream])


def test_the_sound_is_transformers(both):
    """Two sentences, each after the voice's turn: the same codes, the same samples."""
    model, tts, folder = both
    voice = tts.voice
    turn = load_csm(folder).voices["ada"]
    levels = voice.config.network.levels
    codes = torch.from_numpy(turn.codes).T[None]
    parts = ["Well, hello there.", "Go on."]
    whole = sound(tts.stream())
    found = []
    for part in parts:
        words = voice._front[True].encode(part)
        most = int(np.ceil((len(words) / 8 + 0.5) * 12.5))
        ids = torch.tensor([words])
        text = model.embed_text_tokens(ids)
        end = torch.zeros(1, 1, levels, dtype=torch.int64)
        frames = torch.cat([codes.transpose(1, 2), end], 1)
        before = torch.tensor([voice._front[True].encode(TEXT)])
        embeds = [model.embed_text_tokens(before), model.backbone_model.embed_tokens(frames), text]
        out = model.generate(
            inputs_embeds=torch.cat(embeds, 1), max_new_tokens=most, do_sample=False,
        )  # fmt: skip
        assert len(set(out[0].flatten().tolist())) > 10
        audio = model.codec_model.decode(out.transpose(1, 2)).audio_values[0, 0]
        found.append(audio.numpy())
    expected = np.concatenate(found)
    assert len(whole) == len(expected)
    np.testing.assert_allclose(whole, expected, atol=1e-4)


def test_snapshots_resume_to_the_sample_and_text_may_trickle(drawn):
    core = drawn.core()
    state = core.take(None, core.take(SAID, core.init_state()))
    parts, snapshots = [], []
    while core.busy(state):
        snapshots.append((len(parts), core.to_bytes(state)))
        events, state = drive(core.resume(state))
        parts += [e.pcm for e in events]
    whole = np.concatenate(parts)
    assert whole.std() > 0.01 and len(parts[0]) == 1920 and len(snapshots) > 6
    for heard, data in snapshots[1::4]:
        state, rest = core.from_bytes(data), []
        while core.busy(state):
            events, state = drive(core.resume(state))
            rest += [e.pcm for e in events]
        np.testing.assert_array_equal(np.concatenate([*parts[:heard], *rest]), whole)
    with drawn.stream() as s:
        for letter in SAID:
            s.push(letter)
        s.end()
        np.testing.assert_array_equal(np.concatenate([b.pcm for b in s]), whole)


def test_forks_go_their_own_way(drawn):
    with drawn.stream() as s:
        s.push("Hello there, my friend. ")
        next(iter(s))
        kept, twin = s.state, s.fork()
        s.push("One more.")
        s.end()
        twin.push("Another.")
        twin.end()
        one, two = (np.concatenate([b.pcm for b in x]) for x in (s, twin))
    assert not np.array_equal(one, two)
    again = drawn.resume(kept)
    again.push("One more.")
    again.end()
    np.testing.assert_array_equal(np.concatenate([b.pcm for b in again]), one)


def test_a_pool_says_what_each_says_alone(drawn):
    texts = ["Good morning.", "One, two, three.", "And so on."]
    pool = drawn.pool(slots=4)
    ids = [pool.open() for _ in texts]
    for sid, text in zip(ids, texts):
        pool.push(sid, text)
        pool.finish(sid)
    heard = {sid: [] for sid in ids}
    while len(pool):
        for sid, events in pool.step().items():
            heard[sid] += [e.pcm for e in events]
    for sid, text in zip(ids, texts):
        np.testing.assert_allclose(
            np.concatenate(heard[sid]), sound(drawn.stream(), text), atol=1e-5
        )


def test_snapshots_that_could_not_be_are_refused(drawn):
    core = drawn.core()
    _, state = drive(core.step(SAID, core.init_state()))
    spoken = state.voice.spoken
    for broken in (
        replace(spoken, made=spoken.most + 1),
        replace(spoken, hidden=spoken.hidden[:3]),
        replace(spoken, ready=np.full((1, 4), 999)),
        replace(spoken, symbols=spoken.symbols + 1),
        replace(spoken, caches=replace(spoken.caches, keys=spoken.caches.keys[:1])),
    ):
        data = core.to_bytes(replace(state, voice=replace(state.voice, spoken=broken)))
        with pytest.raises(SpeechStreamError, match="no stream that could have been"):
            core.from_bytes(data)


def test_frames_of_many_streams_are_those_of_each(drawn):
    network: CsmNetwork = drawn.voice.network
    front = drawn.voice._front[True]
    read = [
        network.backbone.read(front.encode(t), network.voices[0])
        for t in ("Hello.", "And so on and on.")
    ]
    noise = [drawn.voice.noise(7, n)[1:] for n in range(2)]
    hidden = [r[1] for r in read]
    both = network.levels_many(hidden, [3, 11], noise, 5)
    alone = [network.levels(h, f, n, 5) for h, f, n in zip(hidden, [3, 11], noise)]
    np.testing.assert_array_equal(both, alone)
    after = network.backbone.next_many(both, [r[2] for r in read])
    for codes, (_, _, caches), (logits, features, new) in zip(both, read, after):
        one = network.backbone.frames(codes[None], caches)
        np.testing.assert_allclose(logits, one[0], atol=1e-4)
        np.testing.assert_allclose(features, one[1], atol=1e-4)
        assert len(new) == len(caches) + 1


def test_a_frame_of_ends_ends_the_speech(drawn, monkeypatch):
    voice, given = drawn.voice, drawn.voice.network.levels
    count = iter(range(100))

    def levels(hidden, first, noise, top_k):
        codes = given(hidden, first, noise, top_k)
        return codes if next(count) < 4 else np.array([0, 0, 0, 7])  # whatever the last level is

    monkeypatch.setattr(voice.network, "levels", levels)
    assert len(sound(drawn.stream(), "Hello.")) == 4 * 1920


def test_weights_of_8_bits_are_near(both, tmp_path):
    model, tts, folder = both
    assert main(["convert", str(folder), "-o", str(tmp_path / "out"), "--weights", "int8"]) == 0
    small = Synthesizer.load(tmp_path / "out").voice
    ids = small._front[True].encode("The rain fell.")
    a = small.network.backbone.read(ids, small.network.voices[0])
    b = tts.voice.network.backbone.read(ids, tts.voice.network.voices[0])
    assert 0 < np.abs(a[0] - b[0]).max() < 0.1 * np.abs(b[0]).max()


def test_what_it_has_not_is_said(drawn):
    with pytest.raises(ValueError, match="has no control of speed"):
        drawn.stream(speed=1.2)
    with pytest.raises(ValueError, match="has no speaker 'Eve'; it has ada"):
        drawn.stream(voice="Eve")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), tiny())


def converted(source, target, card):
    from speechstream.export.csm import write_csm

    return write_csm(load_csm(source), target, card)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("hidden_size",), 10**9, "dim must be 1 to|is of another backbone"),
        (("hidden_act",), "relu", "only 'silu'"),
        (("num_codebooks",), 9, "other levels or codes"),
        (("num_hidden_layers",), 3, "lacks the tensor 'backbone_model.layers.2"),
        (("rope_parameters", "rope_type"), "longrope", "rope"),
        (("vocab_size",), 40, "other levels or codes"),
        (("text_vocab_size",), 300, "its language model 300"),
        (("depth_decoder_config", "max_position_embeddings"), 2, "2 positions for 4 levels"),
        (("depth_decoder_config", "intermediate_size"), 44, "has the shape"),
        (("depth_decoder_config", "backbone_hidden_size"), 16, "of another backbone"),
        (("codec_config", "num_quantizers"), 3, "its codec has 3|has weights its config"),
        (("codec_config", "codebook_size"), 36, "knows 35|does not fit|has the shape"),
        (("codebook_eos_token_id",), 99, "its end is 99"),
        (("quantization_config",), {"bits": 4}, "quantised"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(copy, path, value, match):
    changed(copy, *path, value=value)
    refused_by(converted, copy, match)


def test_weights_that_are_damaged_are_refused(copy):
    check_weights(
        converted, copy, ("codebooks_head", "depth_decoder.codebooks_head"), "backbone_model.more"
    )


def test_voices_that_cannot_be_are_refused(copy):
    (copy / "voices" / "ada.txt").unlink()
    refused_by(converted, copy, "needs what it says in ada.txt")
    (copy / "voices" / "ada.txt").write_text(" ", "utf-8")
    refused_by(converted, copy, "a voice is 0.5 to 60 s of speech and its text")
    (copy / "voices" / "ada.wav").write_bytes(b"no sound")
    (copy / "voices" / "ada.txt").write_text("The rain.", "utf-8")
    refused_by(converted, copy, "ada.wav")
    (copy / "generation_config.json").write_text('{"do_sample": true, "top_p": 0.9}')
    refused_by(converted, copy, "its codes are drawn by top_p")
    (copy / "tokenizer.json").write_text(json.dumps({}))
    refused_by(converted, copy, "tokenizer")
    with pytest.raises(SpeechStreamError, match="cannot be read"):
        load_csm(copy.parent)
