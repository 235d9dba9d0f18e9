"""CosyVoice as a voice: the original's tokens, torch's frames and samples, streamed, left, resumed, forked, batched."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from speechstream import bundle
from speechstream.cli import main
from speechstream.convert.cosyvoice import Options, Recording, load_cosyvoice
from speechstream.errors import SpeechStreamError
from speechstream.export.cosyvoice import write_cosyvoice
from speechstream.nn.cosyvoice_config import SpeechSampling
from speechstream.runtime.requests import drive
from speechstream.tts.cosyvoice import writing
from speechstream.tts.cosyvoice.network import CosyVoiceNetwork, read_config
from speechstream.tts.cosyvoice.voice import _Reader
from speechstream.tts.synthesizer import Synthesizer
from tools.make_tiny_cosyvoice import write

GOLDENS = Path(__file__).parents[1] / "convert" / "goldens" / "cosyvoice.safetensors"
TEXT = "Well, hello there. It is a fine day for a walk."
KINDS = [(2, "sentences"), (2, "interleaved"), (3, "sentences"), (3, "interleaved")]
OPTIONS = ["--steps", "2", "--look-back", "1", "--sinks", "0.6"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Bundles by version and mode, with a voice out of a recording."""
    rng = np.random.default_rng(0)
    recording = tmp_path_factory.mktemp("recording") / "ada.wav"
    sf.write(recording, (0.1 * rng.standard_normal(16000)).astype(np.float32), 16000)
    found = {}
    for version in (2, 3):
        source = write(tmp_path_factory.mktemp(f"cosyvoice{version}"), version)
        target = tmp_path_factory.mktemp(f"bundle{version}")
        prompt = ["--prompt-wav", str(recording), "--prompt-text", "in the morning"]
        assert main(["convert", str(source), "-o", str(target), *prompt, *OPTIONS]) == 0
        found[version, "sentences"] = target
        other = shutil.copytree(target, tmp_path_factory.mktemp("turns") / "bundle")
        b = bundle.load(target)
        config = {**b.config, "mode": "interleaved"}
        bundle.write(other, "tts", b.architecture, config, b.card, list(b.files))
        found[version, "interleaved"] = other
    return found


@pytest.fixture(scope="module", params=KINDS, ids=str)
def tts(request, folders):
    return Synthesizer.load(folders[request.param])


def sound(stream, text=TEXT):
    stream.push(text)
    stream.end()
    return [b.pcm for b in stream]


@pytest.fixture(scope="module")
def network(folders):
    model = bundle.load(folders[2, "sentences"])
    return CosyVoiceNetwork(model, read_config(model))


@pytest.mark.parametrize("name, temperature", [("greedy", 0.0), ("drawn", 1.0)])
def test_tokens_are_the_original_s(network, name, temperature):
    """A whole text behind a prompt; drawn with the same uniform numbers, repetition noticed."""
    g = load_file(GOLDENS)
    text, prompt_text, prompt = (g[f"2.{n}"][0].numpy() for n in ("text", "prompt_text", "prompt"))
    now = writing.sentence(network.lm, prompt_text, prompt, text, 7)
    sampling, made = SpeechSampling(temperature=temperature), []
    while not now.over:
        token, now = drive(writing.write(_Reader(network), sampling, now))
        made += [] if token is None else [token]
    assert made == g[f"2.{name}"].tolist()


@pytest.mark.parametrize("name, temperature", [("greedy", 0.0), ("drawn", 1.0)])
@pytest.mark.parametrize("piece", [1, 4, 33])
def test_streamed_tokens_are_the_original_s(network, name, temperature, piece):
    """Text that comes in pieces, between its speech. Behind the last group of text the original reads the last token
    once more, which its training never had; it is read twice here as well, for the comparison alone."""
    g, lm = load_file(GOLDENS), network.lm
    text, prompt_text, prompt = (
        g[f"2.{n}"][0].numpy() for n in ("streamed_text", "prompt_text", "prompt")
    )
    expected = g[f"2.streamed_{name}"].tolist()
    now = writing.interleaved(lm, prompt_text, prompt, 3)
    sampling, made = SpeechSampling(temperature=temperature), []

    def run(now):
        while writing.ready(now):
            token, now = drive(writing.write(_Reader(network), sampling, now))
            made.extend([] if token is None else [token])
            if len(made) > len(expected):
                break
        return now

    for at in range(0, len(text), piece):
        now = run(writing.told(lm, text[at : at + piece], now))
    assert made == expected[: expected.index(-1)]
    again = np.array([lm.speech + made[-1]])
    closed = writing.closed(lm, now)
    made.append(-1)
    run(replace(closed, unread=np.concatenate([again, closed.unread]), most=1000))
    count = min(len(made), len(expected))
    assert made[:count] == expected[:count] and count > expected.index(-1) + 5


def test_what_stands_between_text_and_speech(network):
    """The sequence that is read, for any cut of the text: groups of both in turn, the rest, the mark, the end."""
    lm, rng = network.lm, np.random.default_rng(0)
    prompt_text, prompt, text = (rng.integers(0, 40, n) for n in (12, 20, 23))
    read = []

    class Listening:
        lm = network.lm

        def read(self, ids, caches):
            read.extend(int(i) for i in ids)
            return _Reader(network).read(ids, caches)

    now = writing.interleaved(lm, prompt_text, prompt, 0)
    for at in range(0, len(text), 6):
        now = writing.told(lm, text[at : at + 6], now)
        while writing.ready(now):
            _, now = drive(writing.write(Listening(), SpeechSampling(seed=5), now))
    assert not now.over
    now = writing.closed(lm, now)
    while not now.over:
        _, now = drive(writing.write(Listening(), SpeechSampling(seed=5), now))
    words = [*prompt_text, *text]
    assert read[0] == lm.begin and read.count(lm.task) == 1
    before, after = read[1 : read.index(lm.task)], read[read.index(lm.task) + 1 :]
    assert [i for i in before if i < lm.speech] == words and all(i >= lm.speech for i in after)
    groups = "".join("t" if i < lm.speech else "s" for i in before)
    # less speech to a group where the model says so; no text is left
    assert re.fullmatch("(t{5}s{1,15})*", groups)
    assert before[5:20] == [lm.speech + p for p in prompt[:15]]


def test_graphs_make_torch_s_frames_and_samples(folders, tmp_path_factory):
    """The network that runs without torch, a block at a time, against torch at once: prompt, guidance, windows, sinks."""
    for version in (2, 3):
        source = write(tmp_path_factory.mktemp("again"), version)
        one = load_cosyvoice(source, Options(look_back_s=1, sinks_s=0.6, steps=2))
        model = bundle.load(folders[version, "sentences"])
        net = CosyVoiceNetwork(model, read_config(model))
        voice, c = net.voices[0], net.config
        rng, e = np.random.default_rng(version), net.config.encoder
        tokens = np.concatenate([voice.tokens, rng.integers(0, 40, 61)])
        frames = e.repeats * len(tokens)
        prompt = np.zeros((1, frames, c.flow.n_mels), np.float32)
        prompt[0, : len(voice.mel)] = voice.mel
        with torch.no_grad():
            mu = one.encoder(torch.from_numpy(tokens[None]))
            mel = one.decoder(
                mu,
                torch.from_numpy(voice.speaker[None]),
                prompt=torch.from_numpy(prompt),
                noise=torch.from_numpy(net.noise(0, frames)[None]),
            )
            audio = one.vocoder(mel[:, len(voice.mel) :])[0].numpy()
        primed, made = net.primed(0), []
        memory, at = primed.memory, len(tokens) - len(primed.tokens) - 61
        while at < len(tokens):
            given = tokens[at : at + e.block + e.lookahead]
            fill = np.zeros(e.block + e.lookahead - len(given), np.int64)
            part, memory = net.solve(
                [np.concatenate([given, fill])], [len(given)], [memory], [voice]
            )[0]
            made.append(part)
            at += e.block
        found = np.concatenate(made)
        np.testing.assert_allclose(found, mel[0, -len(found) :].numpy(), atol=1e-4)
        state, held = net.vocoder.init_state(), c.sound.given_ahead
        heard = mel[:, len(voice.mel) :].numpy()
        given = np.pad(heard, ((0, 0), (0, held + 1), (0, 0)))
        pcm, _ = net.decode(given, np.array([heard.shape[1]]), state)
        np.testing.assert_allclose(pcm[0, net.delay :][: len(audio)], audio, atol=1e-4)


def test_text_may_trickle(tts):
    whole = np.concatenate(sound(tts.stream()))
    with tts.stream() as s:
        for letter in TEXT:
            s.push(letter)
        s.end()
        np.testing.assert_array_equal(np.concatenate([b.pcm for b in s]), whole)
    assert len(whole) > tts.sample_rate and np.abs(whole).max() > 0.01


def test_sound_comes_before_the_text_is_over(folders):
    tts = Synthesizer.load(folders[2, "interleaved"])
    with tts.stream() as s:
        s.push("It is a fine day for a walk in the park, and so we went, all of us. ")
        first = next(iter(s))
        assert len(first.pcm)


def test_snapshots_resume_to_the_sample(tts):
    core = tts.core()
    state = core.take(None, core.take(TEXT, core.init_state()))
    parts, snapshots = [], []
    while core.busy(state):
        snapshots.append((len(parts), core.to_bytes(state)))
        events, state = drive(core.resume(state))
        parts += [e.pcm for e in events]
    whole = np.concatenate(parts)
    other = Synthesizer.load(tts.voice.network.path).core()
    for heard, data in snapshots[:: max(len(snapshots) // 4, 1)]:
        state, rest = other.from_bytes(data), []
        while other.busy(state):
            events, state = drive(other.resume(state))
            rest += [e.pcm for e in events]
        np.testing.assert_array_equal(np.concatenate([*parts[:heard], *rest]), whole)


def test_forks_go_their_own_way_and_rollback_is_a_state_kept(tts):
    with tts.stream() as s:
        s.push("Hello there, my friend, how are you today, and all the others? ")
        next(iter(s))
        kept, twin = s.state, s.fork()
        s.push("One more.")
        s.end()
        one = np.concatenate([b.pcm for b in s])
        twin.push("Something else that is said.")
        twin.end()
        two = np.concatenate([b.pcm for b in twin])
    assert len(one) != len(two) or not np.array_equal(one, two)
    again = tts.resume(kept)
    again.push("One more.")
    again.end()
    np.testing.assert_array_equal(np.concatenate([b.pcm for b in again]), one)


def test_a_pool_says_what_each_says_alone(tts):
    texts = ["Good morning.", TEXT, "One, two, three!"]
    alone = [np.concatenate(sound(tts.stream(), t)) for t in texts]
    pool = tts.pool(slots=4)
    ids = [pool.open() for _ in texts]
    for sid, text in zip(ids, texts):
        pool.push(sid, text)
        pool.finish(sid)
    heard = {sid: [] for sid in ids}
    while len(pool):
        for sid, events in pool.step().items():
            heard[sid] += [e.pcm for e in events]
    for sid, pcm in zip(ids, alone):
        np.testing.assert_allclose(np.concatenate(heard[sid]), pcm, atol=1e-4)


def test_words_are_in_order_and_cover_the_text(tts):
    audio = tts.synthesize(TEXT)
    assert [w.text for w in audio.words] == TEXT.split()
    assert all(a.end <= b.start + 1e-9 for a, b in zip(audio.words, audio.words[1:]))
    assert audio.words[-1].end <= len(audio.pcm) / tts.sample_rate + 1e-9


def test_nothing_to_say_and_controls_that_it_has_not(tts):
    assert not len(tts.synthesize("... !").pcm) and not len(tts.synthesize("").pcm)
    for options in ({"speed": 1.1}, {"pitch": 1.0}, {"voice": "nobody"}):
        with pytest.raises(ValueError, match="CosyVoice|no speaker"):
            tts.stream(**options)


def test_a_block_costs_the_same_however_long_the_stream_is(network):
    """What it computes and what it keeps: the sizes of all inputs of all graphs, and of the memory."""
    e, voice, sizes = network.config.encoder, network.voices[0], []
    memory, state = network.primed(0).memory, network.vocoder.init_state()
    for graph in (network.encoder, network.estimator, network.vocoder):
        step = graph.step

        def counted(inputs, held=None, step=step):
            seen[-1] += sum(a.size for a in inputs.values())
            return step(inputs, held)

        graph.step = counted
    try:
        seen = []
        for _ in range(30):
            seen.append(0)
            tokens = np.arange(e.block + e.lookahead) % 40
            mel, memory = network.solve([tokens], [len(tokens)], [memory], [voice])[0]
            given = np.concatenate([mel, np.zeros((network.config.sound.given_ahead, 8))])
            _, state = network.decode(given[None].astype(np.float32), np.array([len(given)]), state)
            sizes.append(sum(e.keys.nbytes + e.tails.nbytes for e in memory.evaluations))
    finally:
        for graph in (network.encoder, network.estimator, network.vocoder):
            del graph.step
    assert len(set(seen)) == 1 and len(set(sizes)) == 1


def test_say_and_voices(folders, tmp_path, capsys):
    target, made = tmp_path / "said.wav", folders[2, "sentences"]
    assert main(["say", "Hello there.", "--voice", str(made), "-o", str(target)]) == 0
    pcm, rate = sf.read(target, dtype="float32")
    tts = Synthesizer.load(made)
    np.testing.assert_allclose(pcm, tts.synthesize("Hello there.").pcm, atol=1e-4)
    assert (rate, tts.voices) == (2400, ("ada",))
    assert main(["voices", str(made)]) == 0
    assert capsys.readouterr().out.split()[:3] == ["ada", "en", "CosyVoice"]


def test_damaged_bundles_are_refused(folders, tmp_path):
    made = folders[2, "sentences"]

    def said(change):
        other = tmp_path / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(made, other)
        b = bundle.load(other)
        config = {**b.config}
        change(other, config)
        bundle.write(other, "tts", b.architecture, config, b.card, list(b.files))
        with pytest.raises(SpeechStreamError) as caught:
            Synthesizer.load(other)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def part(name, **values):
        return lambda folder, config: config.update({name: {**config[name], **values}})

    assert "mystery" in said(lambda folder, config: config.update(mystery=1))
    assert "version must be 2 or 3" in said(lambda folder, config: config.update(version=7))
    assert "mode must be" in said(lambda folder, config: config.update(mode="loud"))
    assert "voices are incomplete" in said(
        lambda folder, config: config.update(speakers=["a", "b"])
    )
    assert "top_p" in said(part("sampling", top_p=2.0))
    assert "its tokens must be" in said(part("lm", speech_tokens=1))
    assert "do not fit each other" in said(part("encoder", n_mels=9))
    assert "estimator is of another size" in said(
        lambda folder, config: config["flow"].update(
            windows={**config["flow"]["windows"], "left_blocks": 9}
        )
    )
    assert "lm.onnx is of another size" in said(
        lambda folder, config: config["lm"]["network"].update(layers=1)
    )


def test_snapshots_that_could_not_be_are_refused(folders):
    tts = Synthesizer.load(folders[2, "sentences"])
    core = tts.core()
    _, state = drive(core.step(TEXT, core.init_state()))
    now = state.voice.sounding
    caches = now.writing.caches
    for broken in (
        replace(now, mel=now.mel[:, :3]),
        replace(now, tokens=now.tokens + 1000),
        replace(now, samples=10**6),
        replace(now, speaker=4),
        replace(now, writing=replace(now.writing, caches=replace(caches, keys=caches.keys[:1]))),
        replace(now, memory=replace(now.memory, evaluations=now.memory.evaluations[:1])),
    ):
        data = core.to_bytes(replace(state, voice=replace(state.voice, sounding=broken)))
        with pytest.raises(SpeechStreamError, match="no stream that could have been"):
            core.from_bytes(data)


def test_a_fresh_size_and_eight_bits(tmp_path):
    """A checkpoint of other sizes than the tool's, its language model in 8 bits, without a voice's recording."""
    from tools.make_tiny_cosyvoice import Sizes

    sizes = Sizes(lm_dim=64, lm_layers=1, dim=24, heads=3, ff=40, layers=1, up_layers=2, block=4)
    source = write(tmp_path / "source", 2, sizes, seed=9)
    one = load_cosyvoice(source, Options(look_back_s=0.5, sinks_s=0, steps=1))
    write_cosyvoice(one, tmp_path / "bundle", {"name": "t", "licence": "x"}, "int8")
    audio = Synthesizer.load(tmp_path / "bundle").synthesize("Hello.")
    assert np.isfinite(audio.pcm).all() and len(audio.pcm) > 1000
    missing = Recording("ada", tmp_path / "none.wav", "hello")
    with pytest.raises(SpeechStreamError, match="none.wav"):
        load_cosyvoice(source, recordings=(missing,))
