"""Heads that stream, keys and values in 8 bits and shared prefixes: equal to a recomputation by the definition."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

import small

from speechstream.errors import SpeechStreamError
from speechstream.export.kv_scales import TEXT as SAID, kv_scales, measured_scales
from speechstream.export.llm import llm_graph, write_llm
from speechstream.lm.cache import CacheConfig, to_arrays
from speechstream.lm.model import SCALES, LanguageModel
from speechstream.nn.llm_config import KvConfig, kv_from_dict, kv_to_dict
from speechstream.state import from_bytes, to_bytes

RNG = np.random.default_rng(11)
TEXT = RNG.integers(0, 96, 50).tolist()
WINDOW = CacheConfig(window=24, sinks=3, drop=5)
STREAMING = ((1,), (), (0, 1))  # some, none and all heads of a layer
KV = {
    "8 bits": KvConfig(bits=8),
    "streaming": KvConfig(streaming=STREAMING, recent=12, sinks=2),
    "streaming, 8 bits": KvConfig(bits=8, streaming=STREAMING, recent=12, sinks=2),
    "shared": KvConfig(shared=True),
    "all": KvConfig(8, STREAMING, 12, 2, True),
}


@pytest.fixture(scope="module")
def one():
    return small.checkpoint(seed=4)


@pytest.fixture(scope="module")
def scales(one):
    return kv_scales(small.as_graph(one), TEXT)


@pytest.fixture(scope="module")
def models(one, scales):
    return {
        name: small.as_graph(one, WINDOW, kv=kv, scales=scales if kv.bits == 8 else None)
        for name, kv in KV.items()
    }


def all_logits(model, ids, parts, state):
    found, at = [], 0
    for n in parts:
        part, at = ids[at : at + n], at + n
        while part:
            proposal = model.propose([part[: model.free(state)]], state)
            found.append(proposal.logits[0])
            state = model.accept(proposal, [len(found[-1])])
            part = part[len(found[-1]) :]
    return np.concatenate(found), state


def recomputed(one, kv, scales, ids, prefix):
    """The logits (T, vocab_size) after each token: every query computed anew over what it may see by the definition."""
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from speechstream.nn.llm import rotate

    net, c = small.as_torch(one), one.config
    n, d, each = len(ids), c.head_dim, c.heads // c.kv_heads

    def turned(x, places):
        cos, sin = (torch.from_numpy(a) for a in c.rope.table(np.asarray(places), d))
        return rotate(x, cos, sin)

    def kept(x, scale):  # as the memory holds it
        return x if kv.bits == 32 else torch.clamp(torch.round(x / scale), -128, 127) * scale

    with torch.no_grad():
        x = net.model.embed_tokens(torch.tensor([ids]))
        one_, zero = torch.ones(1, 1, 1, d // 2), torch.zeros(1, 1, 1, d // 2)
        for i, layer in enumerate(net.model.layers):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), one_, zero)
            out = torch.zeros(1, c.heads, n, d)
            for h in range(c.kv_heads):
                streams = bool(kv.streaming) and h in kv.streaming[i]
                cache = CacheConfig(kv.recent, kv.sinks, kv.recent // 4) if streams else WINDOW
                by = (torch.ones(2, d) if scales is None else torch.from_numpy(scales[:, i, h]))[
                    :, None
                ]
                values = kept(v[0, h], by[1])
                for t in range(n):
                    e = cache.dropped(max(t + 1 - prefix, 0))
                    first = prefix + cache.sinks
                    here = kept(turned(k[0, h], np.arange(n)), by[0])
                    sinks = kept(turned(here[:first], [e] * first), by[0]) if e else here[:first]
                    start = turned(here[:prefix], [e] * prefix)  # a prefix is kept in floats
                    keys = torch.cat([start, sinks[prefix:], here[first:]])
                    seen = [j for j in range(t + 1) if j < first or j >= first + e]
                    for g in range(h * each, (h + 1) * each):
                        query = turned(q[0, g, t : t + 1], [t])
                        scores = query @ keys[seen].T * d**-0.5
                        out[0, g, t] = (scores.softmax(-1) @ values[seen])[0]
            x = layer.finish(x, out)
        return net.lm_head(net.model.norm(x))[0].numpy()


@pytest.mark.torch
@pytest.mark.parametrize("name", KV)
def test_the_graph_equals_a_recomputation(name, models, one, scales):
    model, kv = models[name], KV[name]
    given = scales if kv.bits == 8 else None
    # a code that falls on the other side of a half changes what follows a little
    limit = 1e-4 if kv.bits == 32 else 0.1
    for prefix in (0, 9) if kv.shared else (0,):
        expected = recomputed(one, kv, given, TEXT, prefix)
        for parts in ([50], [1] * 50, [21, 2, 27]):
            if prefix:
                parts = [parts[0] - prefix, *parts[1:]] if parts[0] > 9 else parts[prefix:]
            start = model.init_state(1, model.prefix(TEXT[:prefix]) if prefix else None)
            got, state = all_logits(model, TEXT[prefix:], parts, start)
            np.testing.assert_allclose(got, expected[prefix:], atol=limit * expected.std())
            assert state.tokens[0] == 50 and state.kept[0] <= WINDOW.window


@pytest.mark.parametrize("name", KV)
def test_batches_forks_and_rollback(name, models):
    model = models[name]
    prefix = model.prefix(TEXT[:7]) if KV[name].shared else None
    parts = [TEXT[7:20], TEXT[20:49], TEXT[3:5]]
    alone = [model.step([p], model.init_state(1, prefix)) for p in parts]
    batch = model.stack([s for _, s in alone])
    logits, after = model.step([[1], [2], [3]], batch)
    for i, (_, state) in enumerate(alone):
        expected = model.step([[i + 1]], state)[0][0]
        np.testing.assert_allclose(logits[i], expected, atol=1e-4)
        np.testing.assert_allclose(
            model.step([[8]], model.select(after, i))[0][0],
            model.step([[i + 1, 8]], state)[0][0],
            atol=2e-2 if KV[name].bits == 8 else 1e-4,
        )
    _, state = alone[2]
    fresh, _ = model.step([[5, 6]], state)
    _, longer = model.step([[4, 4, 4]], state)
    np.testing.assert_array_equal(model.step([[5, 6]], model.rollback(longer, 3))[0], fresh)
    with pytest.raises(ValueError, match="forgotten|taken back"):
        model.rollback(alone[1][1], 25)


def test_a_prefix_is_kept_once(models, one):
    model = models["shared"]
    prefix = model.prefix(TEXT[:20])
    streams = model.init_state(40, prefix)
    rows = [[i] for i in range(40)]
    logits, after = model.step(rows, streams)
    alone = small.as_graph(one, CacheConfig(200, 0, 1))
    for i in (0, 17, 39):
        expected, _ = alone.step([TEXT[:20] + [i]], alone.init_state())
        np.testing.assert_allclose(logits[i], expected[0], atol=1e-4)
    c = one.config
    assert prefix.nbytes == 2 * 4 * 20 * c.layers * c.kv_heads * c.head_dim
    assert after.nbytes == 40 * 64 * 2 * 4 * c.layers * c.kv_heads * c.head_dim  # 64 is the growth
    assert after.prefix is prefix and (after.tokens == 21).all()
    with pytest.raises(ValueError, match="share a prefix"):
        to_arrays(after)
    with pytest.raises(ValueError, match="different prefixes"):
        model.stack([after, model.init_state()])


def test_memory_is_constant_and_a_quarter(models, one):
    sizes = {}
    for name, model in {"plain": small.as_graph(one, WINDOW), **models}.items():
        state, seen = model.init_state(), set()
        for _ in range(5):
            _, state = model.step([TEXT], state)
            seen.add(state.nbytes)
        assert len(seen) == 1
        sizes[name] = seen.pop()
    assert 4 * sizes["8 bits"] == sizes["plain"]


@pytest.mark.parametrize("name", ["8 bits", "streaming", "streaming, 8 bits"])
def test_a_state_survives_bytes(name, models):
    model = models[name]
    for n in (10, 50):
        _, state = model.step([TEXT[:n]], model.init_state())
        arrays = to_arrays(state)
        restored = model.restore(from_bytes(to_bytes(arrays), type(arrays)))
        np.testing.assert_array_equal(
            model.step([[1, 2]], restored)[0], model.step([[1, 2]], state)[0]
        )
    with pytest.raises(ValueError):
        model.restore(dataclasses.replace(arrays, recent=None if arrays.recent else arrays.whole))


@pytest.mark.parametrize("name", ["8 bits", "all"])
def test_bundles(name, one, scales, tmp_path):
    kv = KV[name]
    write_llm(one, tmp_path, {"name": "small", "licence": "none"}, "fp32", kv, scales)
    model = LanguageModel.load(tmp_path, window=24, sinks=3)
    assert model.kv == kv
    same = small.as_graph(one, model.window, kv=kv, scales=scales)
    np.testing.assert_array_equal(
        model.step([TEXT], model.init_state())[0], same.step([TEXT], same.init_state())[0]
    )
    (tmp_path / SCALES).unlink()
    with pytest.raises(SpeechStreamError):
        LanguageModel.load(tmp_path)


@pytest.mark.torch
def test_heads_that_add_nothing_are_the_first_to_stream(one):
    pytest.importorskip("torch", reason="needs the [train] extra")
    from speechstream.export.kv_heads import head_changes, streaming_heads

    weights = {n: one.values(n).copy() for n in one.names}
    for layer, head in ((0, 1), (2, 0)):
        d = one.config.head_dim
        weights[f"model.layers.{layer}.self_attn.v_proj.weight"][head * d : (head + 1) * d] = 0
    mute = dataclasses.replace(one, values=weights.__getitem__)
    changes = head_changes(mute, [TEXT, TEXT[::-1]], recent=12, sinks=2)
    assert (np.argwhere(changes == 0) == [[0, 1], [2, 0]]).all()
    heads = streaming_heads(changes, 0.4)
    assert heads == ((1,), (), (0,)) and streaming_heads(changes, 0) == ((), (), ())
    # and indeed nothing is lost
    cache = CacheConfig(64, 0, 8)
    whole, part = (
        small.as_graph(mute, cache, kv=kv) for kv in (KvConfig(), KvConfig(32, heads, 12, 2))
    )
    expected, _ = all_logits(whole, TEXT, [50], whole.init_state())
    got, state = all_logits(part, TEXT, [50], part.init_state())
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert state.parts[1].kept[0] < 13
    with pytest.raises(ValueError, match="longer than"):
        head_changes(mute, [TEXT[:12]], 12, 2)
    with pytest.raises(ValueError, match="share of heads"):
        streaming_heads(changes, 1)


def test_scales_of_a_checkpoint(one):
    found = measured_scales(one, "fp32")
    model = small.as_graph(one, CacheConfig(64, 4, 16))
    np.testing.assert_array_equal(found, kv_scales(model, model.tokenizer.encode(SAID)[:64]))
    arrays = model.step([TEXT], model.init_state())[1].parts[0].arrays()
    # what the text holds takes half of the scale: others' are larger
    own = kv_scales(model, TEXT)
    codes = arrays.values[0].reshape(3, 2, 50, -1) / own[1][:, :, None]
    np.testing.assert_allclose(np.abs(codes).max(2), 127 / 2, rtol=1e-5)
    with pytest.raises(ValueError, match="more than the window"):
        kv_scales(model, TEXT * 2)


def test_what_cannot_be_is_said(one, scales, models):
    for wrong in (
        {"bits": 4},
        {"recent": 2},
        {"streaming": [[1.5]]},
        {"streaming": [1]},
        {"shared": 1},
        {"bit": 8},
    ):
        with pytest.raises(ValueError):
            kv_from_dict(wrong)
    assert kv_from_dict(kv_to_dict(KV["all"])) == KV["all"] and kv_from_dict(None) == KvConfig()
    for streaming in (((0,),), ((2,), (), ()), ((0, 1),) * 3):
        with pytest.raises(ValueError, match="heads"):
            llm_graph(one, kv=KvConfig(streaming=streaming))
    windowed = dataclasses.replace(one.config, window=9, window_layers=(0,))
    with pytest.raises(ValueError, match="sliding windows"):
        llm_graph(small.checkpoint(windowed), kv=KvConfig(shared=True))
    with pytest.raises(ValueError, match="their scales"):
        small.as_graph(one, kv=KvConfig(bits=8))
    with pytest.raises(ValueError, match="above 0"):
        small.as_graph(one, kv=KvConfig(bits=8), scales=-scales)
    with pytest.raises(ValueError, match="not made for"):
        models["8 bits"].prefix([1])
    with pytest.raises(ValueError, match="forgotten"):
        models["shared"].prefix(TEXT)
    with pytest.raises(ValueError, match="in floats"):
        kv_scales(models["8 bits"], TEXT)
