"""Qwen3-ASR on random weights: files, live streams, pools, forks and snapshots give what transformers gives, in both engines."""

import functools
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers.models.qwen3_asr")
pytest.importorskip("tokenizers")

from speechstream import Recognizer
from speechstream.asr.qwen.family import Convolve, Listen
from speechstream.asr.redecode.family import Read
from speechstream.convert.qwen_asr import convert_qwen_asr
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import answer_together, drive
from tests import redecoded, streamed
from tests.qwen_asr_tiny import SIZES, features, generate, theirs
from tests.redecoded import ENGINES, heard, sound
from tools.make_tiny_qwen_asr import words, write

BUILT = {name: ENGINES[: 1 if name == "narrow" else 2] for name in SIZES}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles by name; "plain" is told its language, and "narrow" has no graphs."""
    folder = tmp_path_factory.mktemp("qwen")

    @functools.cache
    def of(name):
        source = write(folder / name, theirs(name))
        if name == "narrow":
            card = {"name": name, "licence": "none"}
            return convert_qwen_asr(source, folder / f"{name}.bundle", card).path
        return streamed.converted(source, *(["--language", "en"] if name == "plain" else []))

    return of


@pytest.fixture(scope="module")
def asr(bundles):
    return {e: Recognizer.load(bundles("plain"), engine=e) for e in ENGINES}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("seconds", [0.011, 1.004, 4.7])
def test_blocks_of_any_size_give_the_tokens_of_transformers(bundles, name, seconds):
    model, x = theirs(name), sound(seconds, round(10 * seconds))
    most = max(12, len(x) * 12 // 16_000)
    wanted = generate(model, *features(model, x), most, "English" if name == "plain" else "")
    for engine in BUILT[name]:
        family = Recognizer.load(bundles(name), engine=engine).family
        rng = np.random.default_rng(0)
        for latency in (None, *family.latencies):
            segment = heard(family, x, family.mode(latency), rng, 20_000)
            assert list(segment.tokens) == wanted
    assert len(set(wanted)) > 2 or name == "narrow"  # random weights like to repeat themselves


def test_what_is_written_meanwhile_is_the_text_of_what_was_heard(asr):
    model, x = theirs(), sound(5.3, 4)
    for one in asr.values():
        family = one.family
        mode, segment = family.mode(1000), family.open(family.mode(1000))
        for at in range(0, len(x), 1600):
            before = segment.sound.mel.frames[0] // 100
            segment = drive(family.feed(x[at : at + 1600], segment, mode))
            chunks = segment.sound.mel.frames[0] // 100
            if chunks > before:
                # its features, as a recording's that goes on: they see a little of what follows
                frames, _ = family.features.step(x[: at + 1600], family.features.init_state())
                mel = torch.from_numpy(frames)[None, :, : 100 * chunks]
                mask = torch.ones(1, mel.shape[2], dtype=torch.long)
                most = max(12, segment.samples * 12 // 16_000)
                assert list(segment.tokens) == generate(model, mel, mask, most, "English")
                assert family.text(segment)[0] == ""


def test_features_are_the_extractors(asr):
    model, x = theirs(), sound(2.345, 3)
    mel, mask = features(model, x)
    f = asr["onnx"].family.features
    blocks, state = f.step(x, f.init_state())
    ours = np.concatenate([blocks, f.finish(state)], 1)
    assert ours.shape[1] == int(mask.sum()) == len(x) // 160
    np.testing.assert_allclose(ours, mel[0, :, : ours.shape[1]], atol=2e-4)


@pytest.mark.parametrize("name", SIZES)
def test_networks_equal_the_references(bundles, name):
    model, x = theirs(name), sound(6.5, 8)
    mel, mask = features(model, x)
    with torch.no_grad():
        out = model.model.get_audio_features(mel, mask, return_dict=True).pooler_output
    each = [Recognizer.load(bundles(name), engine=e).family.networks for e in BUILT[name]]
    one, e = each[0], each[0].model.config.encoder
    real = mel[:, :, : int(mask.sum())]
    with torch.no_grad():
        ours = one.model.encoder(real)
    torch.testing.assert_close(ours[0], out, atol=1e-4, rtol=1e-4)
    chunks = [m.numpy() for m in real.split(e.chunk, 2)]
    for networks in each:
        frames = np.concatenate([networks.convolve(m) for m in chunks], 1)
        state = networks.native(networks.prefix([1, 2, 3]))
        for at in range(0, frames.shape[1], e.window_tokens):
            (state,) = networks.listen(frames[:, at : at + e.window_tokens], [state])
        logits, (state,) = networks.follow(np.array([[5, 6]]), 2, [state])
        with torch.no_grad():
            embed = model.model.language_model.embed_tokens
            whole = torch.cat([embed(torch.tensor([1, 2, 3])), out, embed(torch.tensor([5, 6]))])
            theirs_ = model(inputs_embeds=whole[None]).logits[0, -2:]
        np.testing.assert_allclose(logits[0], theirs_, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_of_any_age_share_runs_of_the_networks(asr, engine):
    family = asr[engine].family
    mode, works = family.mode(1000), []
    for seconds in (0.4, 2.4, 5.4):
        s = drive(family.feed(sound(seconds), family.open(mode), mode))
        works.append(family.feed(sound(1.0, 5), s, mode))
    asked = [w.send(None) for w in works]
    kinds = []
    while len(asked) == 3:
        kinds.append(type(asked[0]))
        assert {type(r) for r in asked} == {kinds[-1]}
        together = dict(answer_together(asked))
        for i, request in enumerate(asked):
            if isinstance(request, Read):
                alone = request.run()
                np.testing.assert_allclose(together[i][0], alone[0], atol=1e-4)
        try:
            asked = [w.send(together[i]) for i, w in enumerate(works)]
        except StopIteration:
            break
    assert {Convolve, Listen, Read} <= set(kinds)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_is_the_file(asr, engine, spoken):
    redecoded.check_stream_is_the_file(asr[engine], *spoken, latency=1000)


def test_streams_in_a_pool_equal_each_alone(asr, spoken):
    redecoded.check_pool(asr["onnx"], *spoken, kinds=[(1000, 0), (2000, 4000), (1000, 17_000)])


@pytest.mark.parametrize("engine", ENGINES)
def test_forks_and_snapshots_go_on_as_if_nothing_had_been(asr, engine, spoken):
    redecoded.check_forks_and_snapshots(asr[engine], *spoken, latency=1000)


def test_false_states_are_refused(asr):
    family = asr["onnx"].family
    mode, x = family.mode(1000), sound(3.3)
    s = drive(family.feed(x, family.open(mode), mode))
    family.check(s, len(x), mode)
    text = s.cache.text
    for wrong in (
        replace(s, samples=s.samples - 1),
        replace(s, tokens=(*s.tokens[:-1], 10**5)),
        replace(s, logprobs=s.logprobs[:-1]),
        replace(s, cache=replace(s.cache, frames=s.cache.frames[:, 1:])),
        replace(s, cache=replace(s.cache, text=replace(text, keys=text.keys[:, :, :, 1:]))),
        replace(s, cache=replace(s.cache, text=replace(text, tokens=text.tokens + 1))),
        replace(s, sound=replace(s.sound, samples=s.sound.samples + 160)),
    ):
        with pytest.raises(ValueError, match="do not add up|expected"):
            family.check(wrong, len(x), mode)


def test_the_language_that_it_says_is_no_text(bundles):
    family = Recognizer.load(bundles("narrow"), engine="torch").family
    known = words()
    ids = known.encode("language English<asr_text>the rain fell").ids
    segment = replace(family.open(family.mode(None)), tokens=tuple(ids), final=True)
    assert family.text(segment) == ("the rain fell", "")
    before = replace(segment, tokens=tuple(ids[:2]))
    assert family.text(before) == ("", "")
    assert [w.text for w in family.words(segment, 0.0)] == ["the", "rain", "fell"]


def test_what_it_cannot_do_is_said(bundles, asr):
    with pytest.raises(ValueError, match="one of 1000, 2000 for this model, got 320"):
        asr["onnx"].stream(320)
    with pytest.raises(ValueError, match="engine must be"):
        Recognizer.load(bundles("plain"), engine="tensorflow")
    with pytest.raises(SpeechStreamError, match="one decoder, which is greedy"):
        Recognizer.load(bundles("plain"), beam=4)
    with pytest.raises(ValueError, match="no option 'dtype'"):
        Recognizer.load(bundles("plain"), dtype="bfloat16")


def test_the_command_line_transcribes_without_torch(bundles, fixtures_dir):
    streamed.check_the_command_line_without_torch(
        bundles("plain"), fixtures_dir / "austen_0880.flac"
    )


def test_bundles_that_do_not_fit_are_refused(bundles, tmp_path):
    streamed.check_bundles_that_do_not_fit(bundles("plain"), tmp_path, "text", "layers")
