"""Streaming Moonshine on random weights: files, live streams, pools, forks and snapshots give what transformers gives."""

import functools
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers.models.moonshine_streaming")
pytest.importorskip("tokenizers")

from speechstream import Recognizer
from speechstream.asr.moonshine.family import Hear
from speechstream.asr.moonshine.torch import read_moonshine
from speechstream.asr.redecode.family import Read
from speechstream.bundle import load
from speechstream.config import read
from speechstream.convert.moonshine import convert_moonshine
from speechstream.errors import SpeechStreamError
from speechstream.nn.moonshine_config import MoonshineBundle
from speechstream.runtime.requests import answer_together, drive
from speechstream.state import nbytes
from tests import redecoded, streamed
from tests.moonshine_tiny import SIZES, generate, inputs, theirs
from tests.redecoded import ENGINES, heard, sound
from tools.make_tiny_moonshine import write

BUILT = {name: ENGINES[: 1 if name == "tied" else 2] for name in SIZES}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles by name; "tied" has no graphs."""
    folder = tmp_path_factory.mktemp("moonshine")

    @functools.cache
    def of(name):
        source = write(folder / name, theirs(name))
        if name == "tied":
            card = {"name": name, "licence": "none"}
            return convert_moonshine(source, folder / f"{name}.bundle", card).path
        return streamed.converted(source)

    return of


@pytest.fixture(scope="module")
def asr(bundles):
    return {e: Recognizer.load(bundles("plain"), engine=e) for e in ENGINES}


def most(samples):
    return max(12, int(samples * 6.5) // 16_000)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("samples", [100, 8640, 40_001])
def test_blocks_of_any_size_give_the_tokens_of_transformers(bundles, name, samples):
    x = sound(samples / 16_000, samples)
    wanted = generate(theirs(name), x, most(samples))
    for engine in BUILT[name]:
        family = Recognizer.load(bundles(name), engine=engine).family
        rng = np.random.default_rng(0)
        for latency, longest in ((None, 30_000), (160, 9000), (640, 500)):
            segment = heard(family, x, family.mode(latency), rng, longest)
            assert list(segment.tokens) == wanted
    assert len(set(wanted)) > 2 or samples == 100  # random weights like to repeat themselves


def test_what_is_written_meanwhile_is_the_text_of_the_sound_so_far(asr):
    x = sound(1.7, 4)
    for one in asr.values():
        family = one.family
        mode, segment = family.mode(320), family.open(family.mode(320))
        for at in range(0, len(x), 2560):
            segment = drive(family.feed(x[at : at + 2560], segment, mode))
            now = (at + 2560) // 5120 * 5120
            if now and now == at + 2560 <= len(x):
                wanted = generate(theirs(), x[:now], most(now))
                assert list(segment.tokens) == wanted
                assert family.text(segment) == ("", family._said(wanted))


@pytest.mark.parametrize("name", SIZES)
def test_networks_equal_the_references(bundles, name):
    b = load(bundles(name))
    about, model = read(MoonshineBundle, b.config), theirs(name)
    ours = read_moonshine(b, about.network).eval()
    ids = torch.tensor([[1, 5, 9, 300]])
    for samples in (80, 400, 12_345, 32_000):
        given = inputs(sound(samples / 16_000, samples))
        frames = given["input_values"].reshape(1, -1, 80).clone()
        if samples % 80:
            frames[:, -1] = 0
        with torch.no_grad():
            torch.testing.assert_close(
                ours(frames, ids),
                model(**given, decoder_input_ids=ids).logits,
                atol=1e-4,
                rtol=1e-4,
            )


def test_the_reference_departs_from_itself_without_a_mask():
    """Then its encoder sees everything. Ours equals what its processor gives, which has a mask."""
    given = inputs(sound(2.0, 3))
    encoder = theirs().model.encoder
    with torch.no_grad():
        masked = encoder(**given).last_hidden_state
        whole = encoder(given["input_values"]).last_hidden_state
    assert (masked - whole).abs().max() > 0.5 * masked.std()


@pytest.mark.parametrize("name", SIZES)
def test_steps_of_any_size_and_age_equal_the_whole(bundles, name):
    each = [Recognizer.load(bundles(name), engine=e).family.networks for e in BUILT[name]]
    one = each[0].model
    ahead, rng = one.config.encoder.ahead, np.random.default_rng(3)
    audio = 0.1 * rng.standard_normal((3, 120, 80)).astype(np.float32)
    from speechstream.state import select, stack

    endless = 1 << 40
    with torch.no_grad():
        ends = torch.full((3,), endless)
        keys, values, _ = one.hear(torch.from_numpy(audio), ends, one.encoder.init_state(3))
    for networks in each:
        states, at, found = [networks.start() for _ in range(3)], [0, 0, 0], [[], [], []]
        while min(at) < 120:
            n = 4 * int(rng.integers(1, 6))
            ready = [i for i in range(3) if at[i] + n <= 120 and rng.random() < 0.8]
            if not ready:
                n = 4
                ready = [i for i in range(3) if at[i] < 120][:1]
            block = np.stack([audio[i, at[i] : at[i] + n] for i in ready])
            k, v, new = networks.hear(
                block, np.full(len(ready), endless), stack([states[i] for i in ready])
            )
            for row, i in enumerate(ready):
                states[i], at[i] = select(new, row), at[i] + n
                found[i].append((k[row], v[row]))
        for i in range(3):
            for whole, parts in zip((keys, values), zip(*found[i])):
                got = np.concatenate(parts, 2)
                np.testing.assert_allclose(got[:, :, ahead:], whole[i, :, :, ahead:], atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_of_any_age_share_runs_of_the_networks(asr, engine):
    family = asr[engine].family
    mode, works = family.mode(160), []
    for seconds in (0.2, 0.9, 1.7):
        s = drive(family.feed(sound(seconds), family.open(mode), mode))
        works.append(family.feed(sound(0.16, 5), s, mode))
    asked, kinds = [w.send(None) for w in works], []
    while True:
        kinds.append(type(asked[0]))
        together = dict(answer_together(asked))
        for i, request in enumerate(asked):
            alone = request.run()
            np.testing.assert_allclose(together[i][0], alone[0], atol=1e-4)
        try:
            asked = [w.send(together[i]) for i, w in enumerate(works)]
        except StopIteration:
            break
    assert {Hear, Read} <= set(kinds)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_is_the_file(asr, engine, spoken):
    redecoded.check_stream_is_the_file(asr[engine], *spoken, latency=640)


def test_streams_in_a_pool_equal_each_alone(asr, spoken):
    redecoded.check_pool(asr["onnx"], *spoken, kinds=[(640, 0), (1280, 4000), (640, 17_000)])


@pytest.mark.parametrize("engine", ENGINES)
def test_forks_and_snapshots_go_on_as_if_nothing_had_been(asr, engine, spoken):
    redecoded.check_forks_and_snapshots(asr[engine], *spoken, latency=1280)


def test_the_encoder_remembers_a_window_and_the_decoder_what_was_heard(asr):
    family = asr["onnx"].family
    mode, sizes = family.mode(None), []
    segment = family.open(mode)
    for _ in range(6):
        segment = drive(family.feed(sound(1.0), segment, mode))
        sizes.append((nbytes(segment.cache.encoder), nbytes(segment.cache.memory)))
    assert len({encoder for encoder, _ in sizes}) == 1
    d, grown = family.config.decoder, np.diff([memory for _, memory in sizes[:4]])
    assert grown.max() <= 56 * 2 * 4 * d.layers * d.heads * d.head_dim  # 50 frames a second


def test_a_stretch_longer_than_its_positions_is_said(asr):
    family = asr["onnx"].family
    mode = family.mode(None)
    with pytest.raises(SpeechStreamError, match="hears at most 600 frames, 12 s, at a time"):
        drive(family.finish(family.open(mode), mode, sound(12.3)))


def test_false_states_are_refused(asr):
    family = asr["onnx"].family
    mode, x = family.mode(640), sound(1.3)
    s = drive(family.feed(x, family.open(mode), mode))
    family.check(s, len(x), mode)
    e, m = s.cache.encoder, s.cache.memory
    for wrong in (
        replace(s, samples=s.samples - 1),
        replace(s, tokens=(*s.tokens[:-1], 10**5)),
        replace(s, logprobs=s.logprobs[:-1]),
        replace(s, cache=replace(s.cache, encoder=replace(e, keys=e.keys[:, :, 1:]))),
        replace(s, cache=replace(s.cache, encoder=replace(e, frames=e.frames + 1))),
        replace(s, cache=replace(s.cache, encoder=replace(e, conv1=e.conv1.astype("f8")))),
        replace(s, cache=replace(s.cache, memory=replace(m, values=m.values[:, :, :, 1:]))),
        replace(s, cache=replace(s.cache, memory=replace(m, tokens=m.tokens + 1))),
        replace(s, sound=replace(s.sound, waiting=s.sound.waiting[1:])),
    ):
        with pytest.raises(ValueError, match="do not add up|expected|its encoder's"):
            family.check(wrong, len(x), mode)


def test_what_it_cannot_do_is_said(bundles, asr):
    with pytest.raises(ValueError, match="one of 160, 320, .* for this model, got 100"):
        asr["onnx"].stream(100)
    with pytest.raises(SpeechStreamError, match="one decoder, which is greedy"):
        Recognizer.load(bundles("plain"), decoder="ctc")
    with pytest.raises(ValueError, match="no option 'speed'"):
        Recognizer.load(bundles("plain"), engine="torch", speed=2)


def test_the_command_line_transcribes_without_torch(bundles, fixtures_dir):
    streamed.check_the_command_line_without_torch(
        bundles("plain"), fixtures_dir / "austen_0880.flac"
    )


def test_bundles_that_do_not_fit_are_refused(bundles, tmp_path):
    streamed.check_bundles_that_do_not_fit(bundles("plain"), tmp_path, "decoder", "layers")
