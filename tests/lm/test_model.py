"""The language model's graph: equal to the network in torch, and its state a value."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

import small

from speechstream.lm.cache import CacheConfig, to_arrays
from speechstream.nn.llm_config import RopeConfig
from speechstream.state import from_bytes, to_bytes

RNG = np.random.default_rng(5)
TEXT = RNG.integers(0, 96, 60).tolist()
CONFIGS = {
    "plain": small.CONFIG,
    "free, biases, wide heads": dataclasses.replace(
        small.CONFIG, tied=False, qkv_bias=True, out_bias=True, mlp_bias=True, head_dim=24
    ),
    "norms of heads, one head of keys": dataclasses.replace(
        small.CONFIG,
        qk_norm=True,
        kv_heads=1,
        rope=RopeConfig(kind="yarn", factor=4.0, original_context=16, attention_factor=1.2),
    ),
    "some windows": dataclasses.replace(small.CONFIG, window=7, window_layers=(0, 2)),
    "all windows": dataclasses.replace(small.CONFIG, window=9, window_layers=(0, 1, 2)),
}


@pytest.fixture(scope="module")
def plain():
    return small.as_graph(small.checkpoint())


@pytest.fixture(scope="module")
def ring():
    return small.as_graph(small.checkpoint(), CacheConfig(window=20, sinks=3, drop=5))


def all_logits(model, ids, parts, state=None):
    """The logits after every token, read in steps of these sizes."""
    state, at, found = state or model.init_state(), 0, []
    for n in parts:
        part = ids[at : at + n]
        while part:
            most = model.free(state)
            proposal = model.propose([part[:most]], state)
            found.append(proposal.logits[0])
            state = model.accept(proposal, [len(part[:most])])
            part = part[most:]
        at += n
    return np.concatenate(found), state


@pytest.mark.torch
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_graph_equals_torch(config):
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    one = small.checkpoint(config, 3)
    with torch.no_grad():
        expected = small.as_torch(one)(torch.tensor([TEXT]))[0].numpy()
    for parts in ([60], [1] * 60, [13, 1, 1, 30, 15]):
        got, _ = all_logits(small.as_graph(one), TEXT, parts)
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("form", "limit"), [("int8", 0.1), ("int4", 0.8)])
def test_fewer_bits_are_close(plain, form, limit):
    model = small.as_graph(small.checkpoint(), form=form)
    a, b = all_logits(plain, TEXT, [60])[0], all_logits(model, TEXT, [60])[0]
    assert np.sqrt(np.mean((a - b) ** 2)) < limit * a.std()


def test_forks_do_not_disturb_each_other(plain):
    _, state = plain.step([TEXT[:10]], plain.init_state())
    first, one = plain.step([TEXT[10:20]], state)
    second, two = plain.step([TEXT[20:40]], state)
    third, _ = plain.step([TEXT[10:20]], state)
    np.testing.assert_array_equal(first, third)
    fresh, _ = plain.step([TEXT[:10] + TEXT[20:40]], plain.init_state())
    np.testing.assert_allclose(second, fresh, atol=1e-5)
    again, _ = plain.step([[5]], one)
    np.testing.assert_allclose(
        again, plain.step([TEXT[:20] + [5]], plain.init_state())[0], atol=1e-5
    )
    again, _ = plain.step([[5]], two)
    ids = TEXT[:10] + TEXT[20:40] + [5]
    np.testing.assert_allclose(again, plain.step([ids], plain.init_state())[0], atol=1e-5)


def test_rollback(plain):
    _, before = plain.step([TEXT[:12]], plain.init_state())
    expected, _ = plain.step([TEXT[12:14]], before)
    _, after = plain.step([TEXT[30:37]], before)
    got, _ = plain.step([TEXT[12:14]], plain.rollback(after, 7))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be taken back"):
        plain.rollback(after, 20)


def test_proposals_are_accepted_in_part(plain):
    _, state = plain.step([TEXT[:9]], plain.init_state())
    proposal = plain.propose([TEXT[9:15]], state)
    got, _ = plain.step([[7]], plain.accept(proposal, [2]))
    expected, _ = plain.step([TEXT[:11] + [7]], plain.init_state())
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with pytest.raises(ValueError, match="meanwhile"):
        plain.accept(proposal, [3])


@pytest.mark.parametrize("name", ["plain", "ring"])
def test_streams_of_a_batch_need_not_keep_step(name, request):
    model = request.getfixturevalue(name)
    rng = np.random.default_rng(6)
    texts = [rng.integers(0, 96, n).tolist() for n in (50, 17, 33)]
    alone = [all_logits(model, t, [len(t)])[0] for t in texts]
    state, at, rng = model.init_state(3), [0, 0, 0], np.random.default_rng(1)
    while any(a < len(t) for a, t in zip(at, texts)):
        count = [int(min(rng.integers(0, 9), len(t) - a)) for a, t in zip(at, texts)]
        logits, state = model.step([t[a : a + n] for t, a, n in zip(texts, at, count)], state)
        at = [a + n for a, n in zip(at, count)]
        for i in range(3):
            if count[i]:
                np.testing.assert_allclose(logits[i], alone[i][at[i] - 1], atol=1e-4)
            else:
                assert np.isnan(logits[i]).all()


@pytest.mark.parametrize("name", ["plain", "ring"])
def test_stack_and_select(name, request):
    model = request.getfixturevalue(name)
    states = [model.step([TEXT[:n]], model.init_state())[1] for n in (4, 40, 21)]
    batch = model.stack(states)
    together, batch = model.step([[1], [2], [3]], batch)
    for i, state in enumerate(states):
        alone, _ = model.step([[i + 1]], state)
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
    swapped = model.select(batch, [2, 0, 2])
    logits, _ = model.step([[9], [9], [9]], swapped)
    np.testing.assert_array_equal(logits[0], logits[2])
    np.testing.assert_allclose(logits[1], model.step([[9], [], []], batch)[0][0], atol=1e-5)


@pytest.mark.torch
def test_sinks_and_window_equal_a_recomputation(ring):
    """Each query computed anew: what it may see by the definition, and the sinks' distance within the cache."""
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from speechstream.nn.llm import rotate

    net, cache, n = small.as_torch(small.checkpoint()), ring.window, len(TEXT)
    dropped = np.array([cache.dropped(t + 1) for t in range(n)])
    place = np.arange(n)
    d = small.CONFIG.head_dim
    with torch.no_grad():
        x = net.model.embed_tokens(torch.tensor([TEXT]))
        one, zero = torch.ones(1, 1, 1, d // 2), torch.zeros(1, 1, 1, d // 2)
        for layer in net.model.layers:
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), one, zero)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            out = []
            for t in range(n):
                e = dropped[t]
                seen = [j for j in range(t + 1) if j < cache.sinks or j >= cache.sinks + e]
                where = [place[j] + (e if j < cache.sinks else 0) - e for j in seen]  # in the cache
                cos, sin = (
                    torch.from_numpy(a) for a in small.CONFIG.rope.table(np.array(where), d)
                )
                cq, sq = cos[-1:], sin[-1:]
                scores = rotate(q[:, :, t : t + 1], cq, sq) @ rotate(k[:, :, seen], cos, sin).mT
                out.append((scores * d**-0.5).softmax(-1) @ v[:, :, seen])
            x = layer.finish(x, torch.cat(out, 2))
        expected = net.lm_head(net.model.norm(x))[0].numpy()
    for parts in ([n], [1] * n, [25, 3, 3, 29]):
        got, state = all_logits(ring, TEXT, parts)
        np.testing.assert_allclose(got, expected, atol=1e-4)
        assert state.kept[0] == n - dropped[-1] <= cache.window


def test_memory_is_constant_for_ever(ring):
    ids, state, sizes = (
        np.random.default_rng(7).integers(0, 96, 400).tolist(),
        ring.init_state(),
        set(),
    )
    for at in range(0, 400, 8):
        _, state = ring.step([ids[at : at + 8]], state)
        sizes.add(state.nbytes)
    assert state.tokens[0] == 400 and state.kept[0] <= 20 and state.parts[0].buffer.room == 64
    assert max(sizes) == state.nbytes
    with pytest.raises(ValueError, match="forgotten"):
        ring.rollback(state, 19)


def test_a_window_of_all_layers_bounds_the_memory_by_itself():
    one = small.checkpoint(CONFIGS["all windows"])
    model = small.as_graph(one)
    got, state = all_logits(model, TEXT * 3, [100, 1, 79])
    wide = small.as_graph(one, CacheConfig(200, 0, 1))
    np.testing.assert_allclose(got, all_logits(wide, TEXT * 3, [180])[0], atol=1e-4)
    assert state.kept[0] <= 9 + 2


@pytest.mark.parametrize("name", ["plain", "ring"])
def test_a_state_survives_bytes(name, request):
    model = request.getfixturevalue(name)
    _, state = model.step([TEXT[:40]], model.init_state())
    arrays = to_arrays(state)
    back = from_bytes(to_bytes(arrays), type(arrays))
    restored = model.restore(back)
    np.testing.assert_array_equal(model.step([[1, 2]], restored)[0], model.step([[1, 2]], state)[0])
    with pytest.raises(ValueError):
        model.restore(dataclasses.replace(back, tokens=back.tokens - 1))


def test_what_cannot_be_is_said(plain):
    with pytest.raises(ValueError, match="token ids must be 0 to 95"):
        plain.step([[96]], plain.init_state())
    with pytest.raises(ValueError, match="of 2 streams"):
        plain.step([[1]], plain.init_state(2))
    with pytest.raises(ValueError, match="window must hold"):
        CacheConfig(window=10, sinks=4, drop=7)
