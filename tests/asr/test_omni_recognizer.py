"""A tiny thinker as a recogniser: what transformers writes, from files, streams, pools and snapshots alike."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers.models.qwen2_5_omni")
pytest.importorskip("tokenizers")

import torch
import transformers

from speechstream import Recognizer
from speechstream.asr.omni.family import ASK, SYSTEM
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from speechstream.runtime.requests import drive
from tests.omni_tiny import made, theirs
from tests.streamed import events_of
from tools.make_tiny_omni import tokenizer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made(tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module")
def asr(bundle):
    return Recognizer.load(bundle, engine="torch")


def sound(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype("f4")


def expected(x, most):
    """transformers' text for the prompt of its model card."""
    model, words = theirs(), tokenizer()
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=8)
    found = extractor(x, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    frames = int(found["attention_mask"].sum())
    audio = "<|AUDIO|>" * (((frames - 1) // 2 + 1) // 2)
    prompt = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|audio_bos|>{audio}<|audio_eos|>{ASK}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = torch.tensor([words.encode(prompt, add_special_tokens=False).ids])
    out = model.thinker.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=found["input_features"][..., :frames],
        feature_attention_mask=torch.ones(1, frames, dtype=torch.long),
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=[words.token_to_id("<|im_end|>"), words.token_to_id("<|endoftext|>")],
    )[0, ids.shape[1] :].tolist()
    return [i for i in out if i not in (371, 369)]


@pytest.mark.parametrize("seconds", [0.06, 0.5, 1.73])
def test_blocks_of_any_size_give_the_tokens_of_transformers(asr, seconds):
    x, family = sound(seconds, round(10 * seconds)), asr.family
    most = max(12, len(x) * 12 // 16_000)
    wanted, rng = expected(x, most), np.random.default_rng(0)
    for mode in (family.mode(None), family.mode(asr.latencies[0])):
        for longest in (700, 30_000):
            segment, at = family.open(mode), 0
            while at < len(x):
                n = int(rng.integers(0, longest))
                segment = drive(family.feed(x[at : at + n], segment, mode))
                family.check(segment, min(at + n, len(x)), mode)
                at += n
            live = segment.tokens
            segment = drive(family.finish(segment, mode))
            assert list(segment.tokens) == wanted
        whole = drive(family.finish(family.open(mode), mode, x))
        assert list(whole.tokens) == wanted and family.text(whole)[1] == ""
    assert live or seconds < 0.3


def test_a_stream_is_the_file(asr, spoken):
    x, rate = spoken
    events = events_of(asr, x, rate, asr.latencies[0], 1)
    assert events == events_of(asr, x, rate, asr.latencies[0], 2)
    finals = [e for e in events if isinstance(e, Final)]
    transcript = asr.transcribe(x, rate, latency_ms=asr.latencies[0])
    assert [f.text for f in finals] == [s.text for s in transcript.segments]
    assert finals and all(" ".join(w.text for w in f.words) == f.text for f in finals)
    ends = [t for f in finals for w in f.words for t in (w.start, w.end)]
    assert ends == sorted(ends)
    partials = [e for e in events if isinstance(e, Partial)]
    assert len({e.text for e in partials}) > 2 and not any(e.stable for e in partials)


def test_streams_in_a_pool_equal_each_alone(asr, spoken):
    x, rate = spoken
    several = [x[:rate], x[rate // 2 : 2 * rate]]
    alone = []
    for one in several:
        stream = asr.stream(asr.latencies[0], rate)
        alone.append(stream.push(one) + stream.finish())
    pool, said = asr.pool(2), [[], []]
    sids = [pool.open(asr.latencies[0], rate) for _ in several]
    for sid, one in zip(sids, several):
        pool.push(sid, one)
        pool.finish(sid)
    while events := pool.step():
        for sid, more in events.items():
            said[sids.index(sid)] += more
    assert said == alone


def test_forks_and_snapshots_go_on_as_if_nothing_had_been(asr, spoken):
    x, rate = spoken
    x = x[: 2 * rate]
    one = asr.stream(asr.latencies[0], rate)
    one.push(x[: rate + 1234])
    data, twin = one.to_bytes(), one.fork()
    rest = x[rate + 1234 :]
    wanted = one.push(rest) + one.finish()
    assert twin.push(rest) + twin.finish() == wanted
    again = asr.resume(data)
    assert again.push(rest) + again.finish() == wanted
    s = asr.family.open(asr.family.mode(None))
    with pytest.raises(ValueError, match="its keys"):
        text = replace(s.cache.text, keys=s.cache.text.keys[:, :, :, 1:])
        wrong = replace(s.cache, text=text)
        asr.family.check(replace(s, cache=wrong), 0, asr.family.mode(None))


def test_what_it_has_not_is_said(bundle):
    with pytest.raises(SpeechStreamError, match="runs in torch: take the engine 'torch'"):
        Recognizer.load(bundle)
    with pytest.raises(SpeechStreamError, match="one decoder, which is greedy"):
        Recognizer.load(bundle, engine="torch", beam=4)
    with pytest.raises(ValueError, match="no option 'speed'"):
        Recognizer.load(bundle, engine="torch", speed=2)
    asr = Recognizer.load(bundle, engine="torch")
    with pytest.raises(ValueError, match="latency_ms must be one of 240"):
        asr.stream(320)
