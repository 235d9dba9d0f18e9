"""pocket-tts as a voice: what transformers generates and decodes, streamed, left, resumed, forked, batched."""

import json
import math
import shutil

import numpy as np
import onnx
import pytest
import soundfile as sf
import torch

from speechstream import bundle
from speechstream.cli import main
from speechstream.convert.pocket import load_pocket
from speechstream.errors import SpeechStreamError
from speechstream.export.pocket import frames_graph, write_pocket
from speechstream.export.quantize import INT8
from speechstream.nn.pocket import LATENT
from speechstream.runtime.requests import drive
from speechstream.tts.pocket.network import FRAMES, PocketNetwork, read_config
from speechstream.tts.pocket.text import prepared
from speechstream.tts.synthesizer import Synthesizer

pytest.importorskip("transformers.models.pocket_tts", reason="the peer of this comparison")
from tools.make_tiny_pocket import tiny, write

CARD = {"name": "tiny", "licence": "Apache-2.0"}
TEXT = "Well, hello there, my friend. It is a fine day for a walk in the park."
SIZES = {  # another one than the tool's: grouped heads, several steps of the flow
    "model": {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3},
    "flow": {"num_hidden_layers": 3},
}


@pytest.fixture(scope="module")
def peers():
    networks = tiny(**SIZES)
    for network in networks:
        network.requires_grad_(False)
    return networks


@pytest.fixture(scope="module")
def folder(peers, tmp_path_factory):
    generation = {
        "do_sample": True,
        "temperature": 0.5,
        "num_flow_steps": 2,
        "eos_threshold": 0.6,
        "min_frames_before_eos": 6,
    }
    return write(tmp_path_factory.mktemp("pocket"), *peers, generation)


@pytest.fixture(scope="module")
def checkpoint(folder):
    return load_pocket(folder)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("voice")
    assert main(["convert", str(folder), "-o", str(target), "--language", "en-US"]) == 0
    return target


@pytest.fixture(scope="module")
def tts(made):
    return Synthesizer.load(made)


def sound(stream, text=TEXT):
    stream.push(text)
    stream.end()
    return [b.pcm for b in stream]


def peer_sound(peers, tts, monkeypatch, number, letters, name, frames=None):
    """transformers' sound of one utterance, with this voice's noise and the settings of its checkpoint."""
    peer, codec = peers
    voice = tts.voice
    noise = iter(range(10_000))

    def given(*shape, **_):
        row = voice.noise(number, next(noise)) / np.float32(math.sqrt(voice.sampling.temperature))
        return torch.from_numpy(row)[None]

    c = peer.config
    text = voice._front[True].encode(letters)
    latents = VOICES[name]
    ids = [c.audio_prompt_bos_token_id, *[c.audio_prompt_token_id] * len(latents), *text]
    ids = torch.tensor([[*ids, c.audio_bos_token_id]])
    s = voice.sampling
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", given)
        out = peer.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            audio_prompt_latents=latents[None],
            do_sample=True,
            temperature=s.temperature,
            num_flow_steps=s.steps,
            eos_threshold=s.eos_threshold,
            min_frames_before_eos=s.min_frames,
            frames_after_eos=s.tail(len(letters.split())),
            return_dict_in_generate=True,
        )
    pcm = codec.decode(out.audio_latents).audio_values[0, 0].numpy()
    fade = np.linspace(0, 1, int(s.fade_in * tts.sample_rate), dtype=np.float32)
    pcm[: len(fade)] *= fade
    return pcm


VOICES: dict = {}


@pytest.fixture(autouse=True, scope="module")
def voices(checkpoint):
    VOICES.update(checkpoint.voices)


@pytest.mark.parametrize("name", ["ada", "noise"])
def test_the_sound_is_transformers(peers, tts, monkeypatch, name):
    """Text with two sentences: the same frames, the same end of each, the same samples."""
    pcm = np.concatenate(sound(tts.stream(voice=name)))
    parts = ["Well, hello there,", "my friend.", "It is a fine day for a walk in the park."]
    core = tts.core(voice=name)
    state = core.take(None, core.take(TEXT, core.init_state()))
    said = []
    while state.clauses:
        found, state = core.utterances(state)
        said += [u.phonemes for u in found]
    assert "".join(said).replace(" ", "") == "".join(parts).replace(" ", "")
    theirs = [peer_sound(peers, tts, monkeypatch, i, t, name) for i, t in enumerate(said)]
    assert len(pcm) == sum(map(len, theirs))
    voice = tts.voice
    budgets = [voice.config.most_frames(len(voice._front[True].encode(t))) for t in said]
    hop = voice.config.network.codec.frame_size
    assert any(len(t) < b * hop for t, b in zip(theirs, budgets))  # an end was seen
    np.testing.assert_allclose(pcm, np.concatenate(theirs), atol=1e-4)
    assert np.abs(pcm).max() > 0.01


def test_the_graph_gives_what_torch_gives(checkpoint, made):
    model = bundle.load(made)
    network = PocketNetwork(model, read_config(model).network)
    torch.manual_seed(1)
    noise, ids = torch.randn(9, 8), [5, 9, 12, checkpoint.config.bos]
    with torch.no_grad():
        state = checkpoint.model.init_state()
        state = checkpoint.model.read_voice(checkpoint.voices["noise"][None], state)
        tokens, latents = torch.tensor([ids]), None
        caches, frame = network.voices[1], None
        for row in noise:
            latent, end, state = checkpoint.model.step(tokens, latents, row[None], state, 2)
            tokens, latents = torch.tensor([[LATENT]]), latent[:, None]
            frame, caches = (
                network.read(ids, row.numpy(), caches)
                if frame is None
                else network.next(frame.next, row.numpy(), caches)
            )
            np.testing.assert_allclose(frame.next, latent[0].numpy(), atol=1e-4)
            np.testing.assert_allclose(
                frame.latent, checkpoint.model.to_codec(latent)[0].numpy(), atol=1e-4
            )
            assert frame.ended == pytest.approx(float(end), abs=1e-4)
        for i, (k, v) in enumerate(zip(caches.keys, caches.values)):
            np.testing.assert_allclose(k, state.keys[:, i].numpy(), atol=1e-4)
            np.testing.assert_allclose(v, state.values[:, i].numpy(), atol=1e-4)


def test_streams_of_different_length_share_a_batch(made):
    model = bundle.load(made)
    network = PocketNetwork(model, read_config(model).network)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 8)).astype(np.float32)
    frames, caches = [], []
    for i, count in enumerate((2, 11, 5)):
        frame, read = network.read(list(range(5, 5 + count)), noise[i], network.voices[i % 2])
        frames.append(frame)
        caches.append(read)
    alone = [network.next(f.next, n, c) for f, n, c in zip(frames, noise, caches)]
    both = network.next_many([f.next for f in frames], noise, caches)
    for (a, ca), (b, cb) in zip(alone, both):
        np.testing.assert_allclose(a.next, b.next, atol=1e-5)
        assert len(ca) == len(cb)
        np.testing.assert_allclose(ca.keys[1], cb.keys[1], atol=1e-5)


def test_blocks_do_not_change_the_sound(made, tmp_path):
    whole = np.concatenate(sound(Synthesizer.load(made).stream()))
    for blocks in ([1], [3, 5], [100]):
        other = tmp_path / str(len(blocks) * blocks[0])
        shutil.copytree(made, other)
        index = json.loads((other / "bundle.json").read_text())
        index["config"]["blocks"] = blocks
        (other / "bundle.json").write_text(json.dumps(index))
        pcm = np.concatenate(sound(Synthesizer.load(other).stream()))
        np.testing.assert_allclose(pcm, whole, atol=1e-5)


def test_text_may_trickle(tts):
    whole = np.concatenate(sound(tts.stream()))
    with tts.stream() as s:
        for letter in TEXT:
            s.push(letter)
        s.end()
        np.testing.assert_array_equal(np.concatenate([b.pcm for b in s]), whole)


def test_the_first_block_is_one_frame(tts):
    blocks = sound(tts.stream())
    assert len(blocks[0]) == tts.voice.config.network.codec.frame_size
    assert len(blocks) > 5


def test_snapshots_resume_to_the_sample(tts):
    core = tts.core(voice="noise")
    state = core.take(None, core.take(TEXT, core.init_state()))
    parts, snapshots = [], []
    while core.busy(state):
        snapshots.append((len(parts), core.to_bytes(state)))
        events, state = drive(core.resume(state))
        parts += [e.pcm for e in events]
    whole = np.concatenate(parts)
    assert len(snapshots) > 6
    other = Synthesizer.load(tts.voice.network.path).core(voice="noise")
    for heard, data in snapshots[::3]:
        state, rest = other.from_bytes(data), []
        while other.busy(state):
            events, state = drive(other.resume(state))
            rest += [e.pcm for e in events]
        np.testing.assert_array_equal(np.concatenate([*parts[:heard], *rest]), whole)


def test_forks_go_their_own_way_and_rollback_is_a_state_kept(tts):
    with tts.stream() as s:
        s.push("Hello there, my friend. ")
        first = next(iter(s))
        kept, twin = s.state, s.fork()
        s.push("One more.")
        s.end()
        one = [b.pcm for b in s]
        twin.push("Something else.")
        twin.end()
        two = [b.pcm for b in twin]
    assert len(first.pcm) and not np.array_equal(np.concatenate(one), np.concatenate(two))
    again = tts.resume(kept)
    again.push("One more.")
    again.end()
    np.testing.assert_array_equal(np.concatenate([b.pcm for b in again]), np.concatenate(one))


def test_a_pool_says_what_each_says_alone(tts):
    texts = ["Good morning.", TEXT, "One, two, three, four. Five!"]
    alone = [
        np.concatenate(sound(tts.stream(voice=tts.voices[i % 2]), t)) for i, t in enumerate(texts)
    ]
    pool = tts.pool(slots=4)
    ids = [pool.open(voice=tts.voices[i % 2]) for i in range(len(texts))]
    for sid, text in zip(ids, texts):
        pool.push(sid, text)
        pool.finish(sid)
    heard = {sid: [] for sid in ids}
    while len(pool):
        for sid, events in pool.step().items():
            heard[sid] += [e.pcm for e in events]
    for sid, pcm in zip(ids, alone):
        np.testing.assert_allclose(np.concatenate(heard[sid]), pcm, atol=1e-5)


def test_words_are_in_order_and_cover_the_text(tts):
    audio = tts.synthesize(TEXT)
    assert [w.text for w in audio.words] == TEXT.split()
    assert all(a.end <= b.start + 1e-9 for a, b in zip(audio.words, audio.words[1:]))
    assert audio.words[-1].end <= len(audio.pcm) / tts.sample_rate + 1e-9
    assert not audio.phonemes  # its symbols are letters


def test_markup(tts):
    long = tts.synthesize("Hello <break time='500ms'/> there.")
    assert [w.text for w in long.words] == ["Hello", "there."]
    assert long.words[1].start - long.words[0].end >= 0.5 - 1e-6
    said = tts.synthesize("The <sub alias='web site'>WWW</sub> is there.")
    assert [w.text for w in said.words] == ["The", "web", "site", "is", "there."]
    assert not tts.synthesize("... !").words
    marker = tts.synthesize("Go <|audio_bos|> on.", markup="plain")
    assert np.isfinite(marker.pcm).all()


def test_long_texts_are_cut_where_the_model_can_follow(tts):
    core = tts.core()
    text = "and so on, " * 60
    state = core.take(None, core.take(text, core.init_state()))
    found = []
    while state.clauses:
        some, state = core.utterances(state)
        found += some
    assert all(len(tts.voice._front[True].encode(u.phonemes)) <= 60 for u in found)
    assert " ".join(u.phonemes for u in found).split() == text.split()


def test_texts_are_prepared_as_the_model_reads_them():
    assert prepared("hello  there\nyou") == "Hello there you."
    assert prepared("\u00e9t\u00e9!") == "\u00c9t\u00e9!"
    assert prepared("Wait \u2014") == "Wait \u2014"


def test_controls_that_it_has_not_are_refused(tts):
    for options in ({"speed": 1.1}, {"pitch": 1.0}, {"energy": 1.0}, {"voice": "nobody"}):
        with pytest.raises(ValueError, match="pocket-tts|no speaker"):
            tts.stream(**options)


def test_snapshots_that_could_not_be_are_refused(tts):
    from dataclasses import replace

    core = tts.core()
    _, state = drive(core.step(TEXT, core.init_state()))
    spoken = state.voice.spoken
    for broken in (
        replace(spoken, made=spoken.most + 1),
        replace(spoken, latent=spoken.latent[:3]),
        replace(spoken, symbols=spoken.symbols + 1),
        replace(spoken, caches=replace(spoken.caches, keys=spoken.caches.keys[:1])),
    ):
        data = core.to_bytes(replace(state, voice=replace(state.voice, spoken=broken)))
        with pytest.raises(SpeechStreamError, match="no stream that could have been"):
            core.from_bytes(data)


def test_eight_bits_are_close(tmp_path, made, monkeypatch):
    """Of matrices large enough to be stored in 8 bits; the error is that of the codes, not of another network."""
    networks = tiny({"hidden_size": 128, "intermediate_size": 256}, {"hidden_size": 128}, seed=4)
    one = load_pocket(write(tmp_path / "checkpoint", *networks))
    # the codec is not what is asked about, and is another one's
    codec = onnx.load(made / "codec.onnx")
    monkeypatch.setattr("speechstream.export.pocket.codec_graph", lambda decoder: codec)
    b = write_pocket(one, tmp_path / "int8", CARD, INT8)
    full = frames_graph(one.model, 1).ByteSize()
    assert sum(b.files[n] for n in (FRAMES, "weights.bin")) < 0.45 * full
    network = PocketNetwork(b, read_config(b).network)
    torch.manual_seed(5)
    ids, noise = [5, 9, 12, 40, one.config.bos], torch.randn(8)
    with torch.no_grad():
        state = one.model.read_voice(one.voices["ada"][None], one.model.init_state())
        latent, end, _ = one.model.step(torch.tensor([ids]), None, noise[None], state)
    frame, _ = network.read(ids, noise.numpy(), network.voices[0])
    error = np.linalg.norm(frame.next - latent[0].numpy()) / np.linalg.norm(latent[0].numpy())
    assert 0 < error < 0.05


def test_say_and_voices(made, tts, tmp_path, capsys):
    target = tmp_path / "said.wav"
    assert main(["say", "Hello there.", "--voice", f"{made}#noise", "-o", str(target)]) == 0
    pcm, rate = sf.read(target, dtype="float32")
    whole = tts.synthesize("Hello there.", voice="noise").pcm
    assert rate == tts.sample_rate
    np.testing.assert_allclose(pcm, whole, atol=1e-4)
    assert main(["voices", str(made)]) == 0
    assert capsys.readouterr().out.split()[:3] == ["ada", "en-US", "pocket-tts"]
    assert main(["say", "Hello.", "--voice", str(made), "--speed", "2", "-o", str(target)]) == 2
    assert "no control of speed" in capsys.readouterr().err


def test_damaged_bundles_are_refused(made, tmp_path):
    from safetensors.numpy import load_file, save_file

    def said(change):
        other = tmp_path / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(made, other)
        index = json.loads((other / "bundle.json").read_text())
        change(other, index["config"])
        bundle.write(other, "tts", "pocket-tts", index["config"], CARD, list(index["files"]))
        with pytest.raises(SpeechStreamError) as caught:
            Synthesizer.load(other)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def voices(edit):
        def change(folder, config):
            tensors = load_file(folder / "voices.safetensors")
            save_file(edit(tensors), folder / "voices.safetensors")

        return change

    assert "mystery" in said(lambda folder, config: config.update(mystery=1))
    assert "blocks" in said(lambda folder, config: config.update(blocks=[0]))
    assert "3 speakers" in said(lambda folder, config: config.update(speakers=["a", "b", "c"]))
    assert "another size" in said(
        lambda folder, config: config["network"]["backbone"].update(layers=1)
    )
    assert "another rate" in said(
        lambda folder, config: config["network"]["codec"].update(stride=8)
    )
    lost = voices(lambda t: {n: a for n, a in t.items() if n != "1.values.2"})
    assert "voices are incomplete" in said(lost)
    cut = voices(lambda t: {n: a[:, :-1] if n == "0.keys.0" else a for n, a in t.items()})
    assert "another size" in said(cut)


def test_what_was_read_is_a_value_though_it_grows_in_place(made):
    """Forks of one state, in any order and from threads at once, give what a copy of it gives."""
    from concurrent.futures import ThreadPoolExecutor

    from speechstream.lm.appending import Caches

    model = bundle.load(made)
    network = PocketNetwork(model, read_config(model).network)
    noise = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    first, start = network.read([5, 9, 13], noise[0], network.voices[0])
    assert start.home is not None and network.voices[0].home is None

    def copied(caches):
        return Caches(*(tuple(a.copy() for a in part) for part in (caches.keys, caches.values)))

    def run(caches, rows):
        frame = first
        for row in rows:
            frame, caches = network.next(frame.next, row, caches)
        return frame.next, caches

    before = copied(start)
    expected = [run(copied(start), noise[i : i + 90])[0] for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: run(start, noise[i : i + 90]), range(4)))
    for (latent, caches), like in zip(found, expected):
        np.testing.assert_allclose(latent, like, atol=1e-6)
        assert len(caches) == len(start) + 90
    for a, b in zip(start.keys + start.values, before.keys + before.values):
        np.testing.assert_array_equal(a, b)
    assert len({c.home for _, c in found}) == 4


def test_the_end_is_counted_as_transformers_counts_it(tts):
    """Of any course of the logit: the same last frame, with every tail and budget."""
    from dataclasses import replace

    from transformers.models.pocket_tts.generation_pocket_tts import PocketTTSEosThresholdCriteria

    from speechstream.tts.pocket.network import Frame

    s, core = tts.voice.sampling, tts.core()
    _, state = drive(core.step(TEXT, core.init_state()))
    like = state.voice.spoken
    rng, zeros, lengths = np.random.default_rng(2), np.zeros(8, np.float32), set()
    for case in range(200):
        tail, most = case % 4, 5 + case % 9
        ended = s.eos_threshold + rng.choice([-1.0, -1.0, -1.0, 0.0, 1.0], 40)
        rule = PocketTTSEosThresholdCriteria(s.eos_threshold, tail, s.min_frames)
        ids = torch.zeros(1, 1, dtype=torch.int64)
        theirs = 1
        while not rule(ids, torch.tensor([ended[theirs - 1]])) and theirs < most:
            theirs += 1
        now = replace(like, made=0, heard=0, most=most, tail=tail, left=-1, over=False)
        while not now.over:
            now = tts.voice._made(now, Frame(zeros, zeros, ended[now.made]), like.caches)
        assert now.made == theirs
        lengths.add(theirs)
    assert len(lengths) > 5
