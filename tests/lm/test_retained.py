"""A window that keeps old tokens that stand out: equal to a recomputation by the definition, and a value like any other."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

import small

from speechstream.export.kv_scales import kv_scales
from speechstream.export.llm import write_llm
from speechstream.lm.cache import CacheConfig, to_arrays
from speechstream.lm.model import LanguageModel
from speechstream.nn.llm_config import KvConfig
from speechstream.state import from_bytes, to_bytes

TEXT = np.random.default_rng(12).integers(0, 96, 60).tolist()
WINDOW = CacheConfig(window=24, sinks=3, drop=5, retain=9)
STREAMING = ((1,), (), (0, 1))
KV = {
    "plain": KvConfig(),
    "streaming": KvConfig(streaming=STREAMING, recent=12, sinks=2),
    "shared": KvConfig(shared=True),
}


@pytest.fixture(scope="module")
def one():
    return small.checkpoint(seed=5)


@pytest.fixture(scope="module")
def models(one):
    return {name: small.as_graph(one, WINDOW, kv=kv) for name, kv in KV.items()}


def recomputed(one, kv, ids, prefix):
    """Logits (T, vocab_size) by the definition: of each head a list of the tokens it remembers, whose keys are turned anew
    for every query from what they were before any position."""
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from speechstream.nn.llm import rotate

    net, c = small.as_torch(one), one.config
    n, d, each = len(ids), c.head_dim, c.heads // c.kv_heads

    def turned(x, places):
        cos, sin = (torch.from_numpy(a) for a in c.rope.table(np.asarray(places), d))
        return rotate(x, cos, sin)

    def after_forgetting(rows, cache, keys, end):
        old = rows[cache.sinks : cache.sinks + cache.retain + cache.drop]
        young = rows[cache.sinks + len(old) :]
        first = end - len(rows) + cache.sinks
        there = turned(keys[old], range(first, first + len(old)))
        there = there / there.norm(dim=-1, keepdim=True)
        cosines = there @ there.mean(0)  # to the mean, but for a factor
        chosen = sorted(cosines.argsort()[: cache.retain].tolist())
        return rows[: cache.sinks] + [old[i] for i in chosen] + young

    moved = set()
    with torch.no_grad():
        x = net.model.embed_tokens(torch.tensor([ids]))
        one_, zero = torch.ones(1, 1, 1, d // 2), torch.zeros(1, 1, 1, d // 2)
        for i, layer in enumerate(net.model.layers):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), one_, zero)
            out = torch.zeros(1, c.heads, n, d)
            for h in range(c.kv_heads):
                streams = bool(kv.streaming) and h in kv.streaming[i]
                cache = CacheConfig(kv.recent, kv.sinks, kv.recent // 4) if streams else WINDOW
                rows = []
                for t in range(n):
                    if len(rows) == cache.window:
                        if streams:
                            rows = rows[: cache.sinks] + rows[cache.sinks + cache.drop :]
                        else:
                            rows = after_forgetting(rows, cache, k[0, h], t)
                            moved.add(tuple(rows))
                    if t >= prefix:
                        rows = [*rows, t]
                    seen = [*range(min(prefix, t + 1)), *rows]
                    keys = turned(k[0, h, seen], range(t + 1 - len(seen), t + 1))
                    for g in range(h * each, (h + 1) * each):
                        scores = turned(q[0, g, t : t + 1], [t]) @ keys.T * d**-0.5
                        out[0, g, t] = (scores.softmax(-1) @ v[0, h, seen])[0]
            x = layer.finish(x, out)
        assert len(moved) > 20  # heads differ in what they keep
        return net.lm_head(net.model.norm(x))[0].numpy()


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


@pytest.mark.torch
@pytest.mark.parametrize("name", KV)
def test_the_graph_equals_a_recomputation(name, models, one):
    model = models[name]
    prefix = 6 if KV[name].shared else 0
    expected = recomputed(one, KV[name], TEXT, prefix)
    for parts in ([60], [1] * 60, [26, 3, 31]):
        start = model.init_state(1, model.prefix(TEXT[:prefix]) if prefix else None)
        got, state = all_logits(model, TEXT[prefix:], parts, start)
        np.testing.assert_allclose(got, expected[prefix:], atol=1e-4 * expected.std())
        assert state.tokens[0] == 60 and state.kept[0] <= WINDOW.window


def test_without_old_tokens_it_is_the_ring_of_recent_ones(models, one):
    """Until a token is forgotten, nothing differs; after that, heads see others."""
    ring = small.as_graph(one, dataclasses.replace(WINDOW, retain=0))
    for n, same in ((24, True), (60, False)):
        a, b = (m.step([TEXT[:n]], m.init_state())[0] for m in (models["plain"], ring))
        assert np.allclose(a, b, atol=1e-5) == same


@pytest.mark.parametrize("name", KV)
def test_batches_forks_rollback_and_bytes(name, models):
    model = models[name]
    parts = [TEXT[:13], TEXT[13:60], TEXT[3:35]]
    alone = [model.step([p], model.init_state())[1] for p in parts]
    batch = model.stack(alone)
    logits, after = model.step([[1, 2], [3], [4, 5, 6]], batch)
    for i, (state, more) in enumerate(zip(alone, ([1, 2], [3], [4, 5, 6]))):
        expected, _ = model.step([more], state)
        np.testing.assert_allclose(logits[i], expected[0], atol=1e-4)
        np.testing.assert_allclose(
            model.step([[8, 9]], model.select(after, i))[0],
            model.step([[*more, 8, 9]], state)[0],
            atol=1e-4,
        )
        arrays = to_arrays(state)
        restored = model.restore(from_bytes(to_bytes(arrays), type(arrays)))
        again, _ = model.step([TEXT[:20]], restored)
        np.testing.assert_array_equal(again, model.step([TEXT[:20]], state)[0])
    # of one state several futures, and back
    state = alone[2]
    fresh, _ = model.step([[5, 6]], state)
    _, longer = model.step([[7]], state)
    np.testing.assert_array_equal(model.step([[5, 6]], state)[0], fresh)
    np.testing.assert_array_equal(model.step([[5, 6]], model.rollback(longer, 1))[0], fresh)
    with pytest.raises(ValueError, match="forgotten"):
        model.rollback(alone[1], 25)


def test_memory_is_constant(models):
    state, sizes = models["plain"].init_state(), set()
    for _ in range(5):
        _, state = models["plain"].step([TEXT], state)
        sizes.add(state.nbytes)
    assert len(sizes) == 1


def test_a_bundle_is_opened_with_it(one, tmp_path):
    write_llm(one, tmp_path, {"name": "small", "licence": "none"}, "fp32")
    model = LanguageModel.load(tmp_path, window=24, sinks=3, retain=9)
    assert model.window == dataclasses.replace(WINDOW, drop=3)
    same = small.as_graph(one, model.window)
    np.testing.assert_array_equal(
        model.step([TEXT], model.init_state())[0],
        same.step([TEXT], same.init_state())[0],
    )
    with pytest.raises(ValueError, match="of what window"):
        LanguageModel.load(tmp_path, retain=9)


def test_what_cannot_be_is_said(one):
    with pytest.raises(ValueError, match="retain 17"):
        CacheConfig(24, 3, 5, 17)
    with pytest.raises(ValueError, match="retain -1"):
        CacheConfig(24, 3, 5, -1)
    scales = kv_scales(small.as_graph(one), TEXT)
    with pytest.raises(ValueError, match="in floats"):
        small.as_graph(one, WINDOW, kv=KvConfig(bits=8), scales=scales)
