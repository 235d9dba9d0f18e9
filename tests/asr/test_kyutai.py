"""The family of Kyutai's speech to text on random weights: files, live streams, pools, forks and snapshots give what transformers gives."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers", reason="transformers is the oracle")
pytest.importorskip("sentencepiece", reason="it makes the vocabulary")

from safetensors.numpy import load as load_arrays, save as save_arrays

from speechstream import Recognizer
from speechstream.asr.kyutai.networks import Hear, Read
from speechstream.audio.resample import Resampler
from speechstream.convert.kyutai import convert_kyutai
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from speechstream.runtime.requests import answer_together, drive
from speechstream.state import about_bytes, nbytes
from tests.kyutai_tiny import (
    PAD,
    PIECES,
    VOCAB,
    WORD,
    generate,
    padded,
    sound,
    theirs,
    write_checkpoint,
    write_moshi,
)
from tests.streamed import events_of, pooled

pytestmark = pytest.mark.filterwarnings("ignore")
DELAY, PREFIX = 0.5, 0.3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of transformers, and its bundle."""
    folder, model = tmp_path_factory.mktemp("kyutai"), theirs("plain", 2)
    (folder / "src").mkdir()
    write_checkpoint(model, folder / "src", delay=DELAY, prefix=PREFIX)
    convert_kyutai(folder / "src", folder / "out", {"name": "tiny", "licence": "none"})
    return model, folder / "out"


@pytest.fixture(scope="module")
def asr(made):
    return Recognizer.load(made[1], engine="torch")


def heard(family, x, mode, rng):
    """A segment fed in blocks of any size, and finished."""
    segment, at = family.open(mode), 0
    while at < len(x):
        n = int(rng.integers(0, 5000))
        segment = drive(family.feed(x[at : at + n], segment, mode))
        at += n
        family.check(family.read(segment), min(at, len(x)), mode)
    return drive(family.finish(segment, mode))


@pytest.mark.parametrize("seconds", [0.03, 1.7])
def test_blocks_of_any_size_give_the_tokens_of_transformers(made, asr, seconds):
    x, rng = sound(seconds, 3, 16000), np.random.default_rng(1)
    expected = generate(made[0], padded(Resampler(16000, 24000)(x), DELAY, PREFIX))
    for one in (asr.family, asr.family, asr.family.resident()):
        for latency in (500, None):
            assert list(heard(one, x, one.mode(latency), rng).tokens) == expected
    mode = asr.family.mode(None)
    assert list(drive(asr.family.finish(asr.family.open(mode), mode, x)).tokens) == expected


def test_a_stream_is_the_file_and_stable_text_only_grows(asr, spoken):
    x, rate = spoken
    events = events_of(asr, x, rate, 500, 1)
    assert events == events_of(asr, x, rate, 500, 2)
    transcript = asr.transcribe(x, rate)
    finals = [e for e in events if isinstance(e, Final)]
    assert [f.text for f in finals] == [s.text for s in transcript.segments] and finals
    before = stable = ""
    for e in events:
        if isinstance(e, Partial):
            assert e.text.startswith(before) and e.stable.startswith(stable)
            before, stable = e.text, e.stable
        elif isinstance(e, Final):
            assert e.text.startswith(before)
            before = stable = ""
            assert " ".join(w.text for w in e.words) == e.text
            starts = [w.start for w in e.words]
            assert starts == sorted(starts)
            assert all(e.start <= w.start < w.end <= e.end + 1 for w in e.words)
            assert all(0 < w.confidence <= 1 for w in e.words)


def written(family, tokens, samples=None):
    samples = 1280 * len(tokens) if samples is None else samples
    return replace(
        family.open(family.mode(500)),
        tokens=tuple(tokens),
        logprobs=(-1.0,) * len(tokens),
        samples=samples,
    )


def test_words_have_the_times_that_kyutai_gives_them(asr):
    family = asr.family
    texts = [family.vocabulary.text([i]) for i in range(PIECES)]
    spaces = [i for i in range(260, PIECES) if family.vocabulary.pieces[i - 4].startswith(b" ")]
    one, two, three = [i for i in spaces if texts[i]][:3]
    rest = next(i for i in range(260, PIECES) if i not in spaces and texts[i])
    #           0    1    2     3    4     5    6   7    8    9    10   11    12    13   14
    tokens = [PAD] * 10 + [WORD, one, rest, PAD, WORD, PAD, PAD, PAD, WORD, two, three, PAD, PAD]
    words = family.words(written(family, tokens), 0.0)
    offset = PREFIX + DELAY
    expected = [  # behind the mark before, to the mark after; without one, from token to token
        (texts[one] + texts[rest], 11, 14),
        (texts[two], 19, 20),
        (texts[three], 20, 21),
    ]
    assert [w.text for w in words] == [t for t, _, _ in expected]
    for w, (_, first, end) in zip(words, expected):
        assert w.start == pytest.approx(max(first * 0.08 - offset, 0))
        assert w.end == pytest.approx(end * 0.08 - offset)
    short = family.words(written(family, tokens, samples=8000), 0.0)
    assert all(0 <= w.start <= w.end <= 0.5 for w in short)


def test_no_letter_that_was_stable_is_taken_back(asr):
    family, rng = asr.family, np.random.default_rng(2)
    for _ in range(60):
        ids = np.where(
            rng.random(25) < 0.4, rng.choice([PAD, WORD], 25), rng.integers(4, VOCAB, 25)
        )
        before = stable = ""
        for n in range(26):
            s = written(family, ids[:n].tolist())
            parts = family.text(s)
            text = " ".join(p for p in parts if p)
            assert text.startswith(before) and parts[0].startswith(stable)
            assert " ".join(w.text for w in family.words(s, 0.0)) == parts[0]
            before, stable = text, parts[0]
        assert family.text(replace(s, final=True))[0].startswith(before)


def test_a_token_is_written_as_soon_as_its_frame_is_heard(asr):
    family, mode = asr.family, asr.family.mode(500)
    segment, x = family.open(mode), sound(2.0, 0, 16000)
    latency = family.upsampler.latency_s
    for at in range(0, len(x), 512):
        segment = drive(family.feed(x[at : at + 512], segment, mode))
        seconds = PREFIX + (at + 512) / 16000 - latency
        assert len(segment.tokens) - 1 >= int(seconds / 0.08 - 0.01)


def test_unsynchronised_streams_in_a_pool_equal_each_alone(asr, spoken):
    x, rate = spoken
    kinds = [(500, 0), (500, 4000), (500, 900)]
    alone = [events_of(asr, x[skip:], rate, ms, 3) for ms, skip in kinds]
    assert pooled(asr, x, rate, kinds) == alone


def test_streams_share_runs_of_the_network_and_the_silence_is_heard_once(asr):
    family = asr.family
    mode, works = family.mode(500), []
    for n in (3000, 9000):
        s = drive(family.feed(sound(1, n, 16000)[:n], family.open(mode), mode))
        works.append(family.feed(sound(1, 7, 16000)[: 5 * 1280], s, mode))
    hear = [w.send(None) for w in works]
    assert {type(r) for r in hear} == {Hear} and len({r.key for r in hear}) == 1
    answers = dict(answer_together(hear))
    reads = [w.send(answers[i]) for i, w in enumerate(works)]
    assert {type(r) for r in reads} == {Read} and reads[0].key == reads[1].key
    together = dict(answer_together(reads))
    for i, request in enumerate(reads):
        np.testing.assert_allclose(together[i][0], request.run()[0], atol=1e-4)
    # of a new segment only the sound is heard, and not what precedes it
    first = family.feed(sound(1, 7, 16000)[:2000], family.open(mode), mode).send(None)
    assert (
        isinstance(first, Hear) and len(first.audio) == (int(PREFIX * 24000) % 1920 + 3000) // 1920
    )


def test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been(asr, spoken):
    x, rate = spoken
    expected = events_of(asr, x, rate, 500, 1)
    stream, events, at = asr.stream(500, rate), [], 0
    while at < len(x) // 2:
        events += stream.push(x[at : at + 3000])
        at += 3000
    assert stream.state.segment is not None
    state, data = stream.state, stream.to_bytes()
    twin, moved = stream.fork(), asr.resume(data)
    stream.push(x[::-1].copy())
    stream.rollback(state)
    for one in (twin, moved, stream):
        assert events + one.push(x[at:]) + one.finish() == expected
    assert about_bytes(data)["family"] == "kyutai-stt"


def test_memory_is_constant_however_long_a_segment_is(asr):
    family = asr.family.resident()
    mode = family.mode(500)
    segment, sizes = family.open(mode), []
    for i in range(6):
        segment = drive(family.feed(sound(1, i, 16000), segment, mode))
        sizes.append(nbytes(family.read(segment).cache))
    assert len(set(sizes[2:])) == 1
    assert family.read(segment).cache.text.keys.shape[3] == family.about.network.text.window - 1


def test_false_snapshots_are_refused_in_one_sentence(asr, spoken):
    import json

    from speechstream import state as states

    x, rate = spoken
    stream = asr.stream(500, rate)
    stream.push(x[: len(x) // 2])
    data = stream.to_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])

    def refused(change):
        content, arrays = json.loads(head["content"]), load_arrays(data)
        change(content["values"]["segment"]["decoding"], arrays)
        text = json.dumps(content)
        new = head | {"content": text, "sha256": states._digest(text, arrays)}
        with pytest.raises(SpeechStreamError) as error:
            asr.resume(save_arrays(arrays, {"speechstream": json.dumps(new)}))
        assert "\n" not in str(error.value) and len(str(error.value)) < 600

    at = "segment.decoding."
    refused(lambda d, a: d.update(samples=d["samples"] - 1))
    refused(lambda d, a: d.update(tokens=[*d["tokens"][:-1], 10**5]))
    refused(lambda d, a: d.update(tokens=d["tokens"][:-1]))
    refused(lambda d, a: d.update(logprobs=[1.0] * len(d["logprobs"])))
    refused(lambda d, a: d.update(pauses=[0.5]))
    refused(lambda d, a: d.update(final=True))
    for name in (
        "cache.codec.seanet",
        "cache.codec.transformer.keys",
        "cache.text.values",
        "cache.codec.downsample",
        "waiting",
        "upsampler.history",
    ):
        refused(lambda d, a, n=at + name: a.update({n: np.ascontiguousarray(a[n][..., :-1])}))
        refused(lambda d, a, n=at + name: a.update({n: a[n].astype(np.float64)}))
    for name in ("cache.codec.frames", "cache.text.tokens", "upsampler.produced"):
        refused(lambda d, a, n=at + name: a.update({n: a[n] + 1}))
    assert asr.resume(data).push(x[:10]) == []


def test_heads_for_pauses_are_read_where_a_checkpoint_has_them(tmp_path):
    import torch

    model = theirs("plain", 2)
    (tmp_path / "src").mkdir()
    heads = write_moshi(model, tmp_path / "src", heads=4, delay=DELAY, prefix=PREFIX)
    convert_kyutai(tmp_path / "src", tmp_path / "out", {"name": "tiny", "licence": "none"})
    family = Recognizer.load(tmp_path / "out", engine="torch").family
    x, mode = sound(0.8, 3, 16000), family.mode(500)
    audio = padded(Resampler(16000, 24000)(x), DELAY, PREFIX)
    segment = drive(family.finish(family.open(mode), mode, x))
    # the token that begins a stream is one that moshi's output layer does not have
    expected = generate(model, audio, without=[VOCAB - 1])
    assert list(segment.tokens) == expected
    seen = {}
    hook = model.model.norm.register_forward_hook(lambda m, i, o: seen.update(last=o))
    generate(model, audio, without=[VOCAB - 1])
    hook.remove()
    last = [torch.softmax(seen["last"][0, -1] @ w.T, -1)[0].item() for w in heads]
    np.testing.assert_allclose(segment.pauses, last, atol=1e-4)


def test_what_it_cannot_do_is_said(made, asr):
    with pytest.raises(ValueError, match="latency_ms must be 500 for this model"):
        asr.stream(320)
    with pytest.raises(ValueError, match="no hot words"):
        asr.stream(500, hotwords=["Emma"])
    with pytest.raises(ValueError, match="engine must be"):
        Recognizer.load(made[1], engine="tensorflow")
    with pytest.raises(SpeechStreamError, match="no ONNX graphs"):
        Recognizer.load(made[1])
    with pytest.raises(SpeechStreamError, match="one decoder"):
        Recognizer.load(made[1], engine="torch", decoder="ctc")
    with pytest.raises(ValueError, match="dtype"):
        Recognizer.load(made[1], engine="torch", dtype="int3")
