"""Blocks that left the window and come back: equal to a recomputation by the definition, and a value like any other state."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

import small

from speechstream.export.kv_scales import kv_scales
from speechstream.export.llm import write_llm
from speechstream.lm.brain import Brain
from speechstream.lm.cache import CacheConfig, to_arrays
from speechstream.lm.model import LanguageModel
from speechstream.lm.retrieval import Retrieve
from speechstream.lm.tokens import ChatFormat
from speechstream.nn.llm_config import KvConfig
from speechstream.state import from_bytes, to_bytes

TEXT = np.random.default_rng(13).integers(0, 96, 90).tolist()
RETRIEVE = Retrieve(tokens=8, block=4, keys=2, newest=3)
WINDOWS = {
    "floats": RETRIEVE,
    "8 bits": dataclasses.replace(RETRIEVE, bits=8, keys=1),
    "most": dataclasses.replace(RETRIEVE, most=21),
}
QUERIES = KvConfig(queries=True)


def window(retrieve):
    return CacheConfig(window=27, sinks=3, drop=4, retrieve=retrieve)


@pytest.fixture(scope="module")
def one():
    return small.checkpoint(seed=6)


@pytest.fixture(scope="module")
def normed():
    return small.checkpoint(dataclasses.replace(small.CONFIG, qk_norm=True), seed=7)


@pytest.fixture(scope="module")
def models(one, normed):
    first = small.as_graph(one, window(RETRIEVE), kv=QUERIES)
    found = {name: first.with_window(window(r)) for name, r in WINDOWS.items()}
    return found | {"most": small.as_graph(normed, window(WINDOWS["most"]), kv=QUERIES)}


def recomputed(one, cache, ids, recalls):
    """Logits (T, vocab_size) by the definition: of each head a list of the tokens it sees, whose keys are turned anew for
    every query from what they were before any position. recalls: after how many tokens blocks are chosen beside the turns
    of a full window. And how many different lists there were."""
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from speechstream.nn.llm import rotate

    net, c, r = small.as_torch(one), one.config, cache.retrieve
    n, d, each = len(ids), c.head_dim, c.heads // c.kv_heads
    apart = cache.window - cache.sinks - r.tokens

    def turned(x, places):
        cos, sin = (torch.from_numpy(a) for a in c.rope.table(np.asarray(places), d))
        return rotate(x, cos, sin)

    def in_bits(block):  # (tokens, d), as an archive holds it
        if r.bits == 32:
            return block
        step = block.abs().amax(0) / 127
        return (block / step).round() * step

    def chosen(queries, keys, t, left):
        asks = turned(queries[t - r.newest : t].mean(0)[None], [apart])[0]
        blocks = [range(a, a + r.block) for a in range(cache.sinks, left, r.block)]
        blocks = blocks[-(r.most // r.block) :] if r.most else blocks
        scores = []
        for b in blocks:
            there = in_bits(keys[list(b)])
            scores.append(max(part.mean(0) @ asks for part in there.chunk(r.keys)))
        best = np.argsort(scores)[::-1][: r.tokens // r.block]
        return [t for b in sorted(best) for t in blocks[b]]

    seen_lists = set()
    with torch.no_grad():
        x = net.model.embed_tokens(torch.tensor([ids]))
        one_, zero = torch.ones(1, 1, 1, d // 2), torch.zeros(1, 1, 1, d // 2)
        for i, layer in enumerate(net.model.layers):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), one_, zero)
            out = torch.zeros(1, c.heads, n, d)
            for h in range(c.kv_heads):
                group = range(h * each, (h + 1) * each)
                queries = q[0, list(group)].mean(0)
                rest, found, left = [], [], 0  # tokens after the sinks, of the archive, gone to it
                for t in range(n):
                    if min(t, cache.sinks) + len(found) + len(rest) == cache.window:
                        leaving = cache.drop + (0 if found else r.tokens)
                        left = rest[leaving]
                        rest = rest[leaving:]
                        found = chosen(queries, k[0, h], t, left)
                    elif t in recalls and found:
                        found = chosen(queries, k[0, h], t, left)
                    seen_lists.add((i, h, *found))
                    rest = [*rest, t] if t >= cache.sinks else rest
                    first = list(range(min(t + 1, cache.sinks)))
                    rows = [*first, *found, *rest]
                    keys, values = k[0, h].clone(), v[0, h].clone()
                    for at in range(0, len(found), r.block):
                        some = found[at : at + r.block]
                        keys[some], values[some] = in_bits(keys[some]), in_bits(values[some])
                    keys = turned(keys[rows], range(t + 1 - len(rows), t + 1))
                    scores = turned(q[0, list(group), t], [t] * each) @ keys.T * d**-0.5
                    out[0, list(group), t] = scores.softmax(-1) @ values[rows]
            x = layer.finish(x, out)
        return net.lm_head(net.model.norm(x))[0].numpy(), len(seen_lists)


def all_logits(model, ids, parts, recalls=()):
    state, found, at = model.init_state(), [], 0
    for n in parts:
        end = at + n
        while at < end:
            state = model.recall(state) if at in recalls else state
            part = ids[at : at + min(model.free(state), end - at)]
            later = [r for r in recalls if at < r < at + len(part)]
            part = part[: later[0] - at] if later else part
            proposal = model.propose([part], state)
            found.append(proposal.logits[0])
            state = model.accept(proposal, [len(part)])
            at += len(part)
    return np.concatenate(found), state


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "recalls"), [("floats", (41, 50)), ("8 bits", ()), ("most", (52,))]
)
def test_the_graph_equals_a_recomputation(name, recalls, models, one, normed):
    model = models[name]
    expected, lists = recomputed(
        normed if name == "most" else one, model.window, TEXT[:56], recalls
    )
    assert lists > 30  # heads differ in what is retrieved, and change it
    # where products are added up in another order, a key between two steps of 8 bits becomes the other one
    off = 5e-3 if name == "8 bits" else 1e-4
    for parts in ([56], [1] * 56, [26, 3, 23, 4]):
        got, state = all_logits(model, TEXT[:56], parts, recalls)
        np.testing.assert_allclose(got, expected, atol=off * expected.std())
        assert state.tokens[0] == 56 and state.kept[0] <= model.window.window


@pytest.mark.parametrize("name", WINDOWS)
def test_batches_forks_rollback_and_bytes(name, models):
    model = models[name]
    parts = [TEXT[:13], TEXT[13:62], TEXT[3:39]]
    alone = [model.step([p], model.init_state())[1] for p in parts]
    batch = model.stack(alone)
    assert batch.nbytes >= batch.archived == sum(s.archived for s in alone) > 0
    more = [[1, 2], [3], [4, 5, 6]]
    logits, after = model.step(more, batch)
    after = model.recall(after)
    for i, state in enumerate(alone):
        expected, later = model.step([more[i]], state)
        np.testing.assert_allclose(logits[i], expected[0], atol=1e-4)
        np.testing.assert_allclose(
            model.step([TEXT[:9]], model.select(after, i))[0],
            model.step([TEXT[:9]], model.recall(later))[0],
            atol=1e-4,
        )
        # after a way through bytes everything goes on as before, also back
        later = model.recall(later)
        arrays = to_arrays(later)
        restored = model.restore(from_bytes(to_bytes(arrays), type(arrays)))
        for count in (0, len(more[i])):
            a, b = (model.rollback(s, count) for s in (restored, later))
            np.testing.assert_array_equal(
                model.step([TEXT[:20]], a)[0], model.step([TEXT[:20]], b)[0]
            )
    with pytest.raises(ValueError, match="forgotten"):
        model.rollback(alone[1], 25)
    for wrong in (
        {"blocks": arrays.whole.archive.blocks + 1},
        {"asked": arrays.whole.archive.asked + 1},
        {"chosen": arrays.whole.archive.chosen + 99},
        {"after": arrays.whole.archive.after[:, :0]},
    ):
        archive = dataclasses.replace(arrays.whole.archive, **wrong)
        with pytest.raises(ValueError, match="archive"):
            model.restore(
                dataclasses.replace(
                    arrays, whole=dataclasses.replace(arrays.whole, archive=archive)
                )
            )


def test_what_was_recalled_is_there_again_after_a_rollback(models):
    model = models["floats"]
    _, start = model.step([TEXT[:45]], model.init_state())
    futures = [model.step([TEXT[a:][:10]], start)[0] for a in (50, 60)]
    _, later = model.step([[7]], start)
    recalled = model.recall(later)
    assert recalled.parts[0].buffer is not later.parts[0].buffer  # others are there
    assert model.recall(recalled).parts[0].buffer is recalled.parts[0].buffer
    assert not np.allclose(model.step([[1]], recalled)[0], model.step([[1]], later)[0])
    for a, expected in zip((50, 60), futures):
        back = model.rollback(recalled, 1)
        np.testing.assert_array_equal(model.step([TEXT[a:][:10]], back)[0], expected)
    # two futures of one archive do not disturb each other
    ends = [model.step([t[:30]], start) for t in (TEXT, TEXT[::-1])]
    for t, (expected, end) in zip((TEXT, TEXT[::-1]), ends):
        np.testing.assert_array_equal(model.step([t[:30]], start)[0], expected)
        shared = [a is b for a, b in zip(*(s.parts[0].archives[0].blocks for s in (start, end)))]
        assert all(shared) and len(shared) == 7


def test_the_window_is_constant_and_the_archive_is_the_text(models):
    floats = 2 * 3 * 2 * 16 * 4  # keys and values of a token: layers, heads, channels, bytes
    for name, model in models.items():
        state, sizes = model.init_state(), set()
        for _ in range(4):
            _, state = model.step([TEXT], state)
            sizes.add(state.nbytes - state.archived)
            (archive,) = state.parts[0].archives
            left = 360 - 3 - (state.kept[0] - 3 - RETRIEVE.tokens)
            blocks = sum(b.nbytes for b in archive.blocks)
        assert len(sizes) == 1
        if name == "most":
            assert archive.tokens == 20 and blocks == 20 * floats
        else:
            assert archive.tokens == left
            # in 8 bits a block's channels have a scale each: of four tokens' codes as many bytes
            assert blocks == left * (floats if name == "floats" else floats // 2)
        assert state.archived >= blocks + archive.queries.nbytes


def test_nothing_changes_until_the_window_is_full(models, one):
    ring = small.as_graph(one, window(None))
    for n, same in ((27, True), (60, False)):
        a, b = (m.step([TEXT[:n]], m.init_state())[0] for m in (models["floats"], ring))
        assert np.allclose(a, b, atol=1e-5) == same
    _, state = models["floats"].step([TEXT[:20]], models["floats"].init_state())
    assert models["floats"].recall(state).parts[0].buffer is state.parts[0].buffer
    _, plain = ring.step([TEXT], ring.init_state())
    assert ring.recall(plain).parts[0] is plain.parts[0] and plain.archived == 0
    with pytest.raises(ValueError, match="archive"):
        models["floats"].restore(to_arrays(plain))


def test_a_bundle_is_opened_with_it(one, tmp_path):
    write_llm(one, tmp_path, {"name": "small", "licence": "none"}, "fp32", QUERIES)
    model = LanguageModel.load(tmp_path, window=27, sinks=3, retrieve=RETRIEVE)
    assert model.kv == QUERIES and model.window == window(RETRIEVE)
    wide = LanguageModel.load(tmp_path, window=200, retrieve=64).window
    assert (wide.retrieve, wide.drop) == (Retrieve(64), 32)
    with pytest.raises(ValueError, match="of what window are blocks"):
        LanguageModel.load(tmp_path, retrieve=64)


def test_a_brain_retrieves_before_it_replies(one):
    chat = ChatFormat("{% for m in messages %}{{ m.content }}\n{% endfor %}>")
    model = small.as_graph(one, window(RETRIEVE), chat=chat, kv=QUERIES)
    messages = [{"role": "user", "content": "What was the number, and who said it when? " * 2}]
    tokens = model.tokenizer.encode(model.chat.render(messages, True))
    _, state = model.step([tokens[:-1]], model.init_state())
    expected, _ = model.step([tokens[-1:]], model.recall(state))
    assert not np.allclose(expected, model.step([tokens[-1:]], state)[0])
    for ahead in (0, 5):  # what was read ahead of the end changes nothing
        brain = Brain(model)
        if ahead:
            brain.prefill([{"role": "user", "content": messages[0]["content"][:-ahead]}])
        brain.prefill(messages, reply=True)
        np.testing.assert_allclose(brain._read.logits, expected[0], atol=1e-5)


def test_what_cannot_be_is_said(one):
    for wrong in (
        {"tokens": 9},
        {"block": 0},
        {"keys": 3},
        {"newest": 0},
        {"bits": 4},
        {"most": -1},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(RETRIEVE, **wrong)
    for wrong in ({"drop": 6}, {"window": 14}, {"retain": 4}):
        with pytest.raises(ValueError, match="retrieve"):
            dataclasses.replace(window(RETRIEVE), **wrong)
    with pytest.raises(ValueError, match="must be kept"):
        window(dataclasses.replace(RETRIEVE, most=7))
    scales = kv_scales(small.as_graph(one), TEXT[:60])
    kinds = (KvConfig(), KvConfig(8, queries=True), KvConfig(shared=True, queries=True))
    for kv in kinds:
        with pytest.raises(ValueError, match="--queries"):
            small.as_graph(one, window(RETRIEVE), kv=kv, scales=scales if kv.bits == 8 else None)
