"""One exported graph against torch: any chunk, any batch, streams at different places."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from speechstream.asr.fastconformer.blocks import Blocks
from speechstream.export.conformer import in_order, stream_start
from speechstream.export.fastconformer import export_fastconformer
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig
from speechstream.runtime.graph import Graph
from speechstream.state import flatten, stack


def network(position, kind):
    torch.manual_seed(0)
    encoder = ConformerConfig(
        n_mels=16,
        dim=16,
        layers=2,
        heads=2,
        ff_dim=32,
        kernel=5,
        subsampling_channels=4,
        left_context=14,
        lookaheads=(6, 1, 0),
        position=position,
    )
    return FastConformer(
        FastConformerConfig(
            encoder, 9, True, PredictorConfig(9, 8, kind), JoinerConfig(9, 16, 8, 12)
        )
    ).eval()


def session(graph):
    onnx.checker.check_model(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(one, inputs, state):
    feed = {k: np.asarray(v) for k, v in inputs.items()} | {
        f"state.{k}": np.asarray(v) for k, v in state.items()
    }
    out = dict(zip([o.name for o in one.get_outputs()], one.run(None, feed)))
    return out, {k.removeprefix("new."): v for k, v in out.items() if k.startswith("new.")}


@pytest.mark.parametrize("position, kind", [("relative", "lstm"), ("rope", "stateless")])
@torch.no_grad()
def test_one_graph_serves_all_chunks_and_batches(position, kind):
    model = network(position, kind)
    sessions = {name: session(graph) for name, graph in export_fastconformer(model).items()}
    for chunk, batch in ((1, 1), (2, 3), (7, 2)):
        x = torch.randn(batch, 8 * chunk * 4, 16)
        first = torch.randn(1, 8 * chunk, 16)
        late = model.encoder.step(first, model.encoder.init_state(1))[1]
        state = stack([late] + [model.encoder.init_state(1)] * (batch - 1))
        start = stream_start(model.encoder)
        late = run(
            sessions["encoder"], {"features": first, "lengths": np.array([8 * chunk])}, start
        )[1]
        theirs = {n: np.concatenate([late[n]] + [start[n]] * (batch - 1)) for n in start}
        for i, block in enumerate(x.split(8 * chunk, dim=1)):
            lengths = torch.full((batch,), 8 * chunk)
            if i == 3:
                lengths[0] = 5  # one stream ends inside the last block
            y, state = model.encoder.step(block, state, lengths)
            out, theirs = run(sessions["encoder"], {"features": block, "lengths": lengths}, theirs)
            np.testing.assert_allclose(out["encoded"], y.numpy(), atol=1e-5)
            np.testing.assert_allclose(out["ctc"], model.ctc(y).log_softmax(-1).numpy(), atol=1e-4)
        theirs = in_order(theirs, model.config.encoder)
        for name, value in flatten(state).items():
            np.testing.assert_allclose(theirs[name], value.numpy(), atol=1e-5)
    state = model.predictor.init_state(3)
    theirs = flatten(state)
    for tokens in (torch.tensor([9, 9, 9]), torch.tensor([1, 5, 3])):
        g, state = model.predictor.step(tokens, state)
        out, theirs = run(sessions["predictor"], {"tokens": tokens}, theirs)
        np.testing.assert_allclose(out["predicted"], g.numpy(), atol=1e-5)
    e = torch.randn(3, 16)
    scores = sessions["joiner"].run(None, {"encoded": e.numpy(), "predicted": g.numpy()})[0]
    np.testing.assert_allclose(scores, model.joiner(e, g).numpy(), atol=1e-5)


@torch.no_grad()
def test_blocks_of_any_size_give_the_offline_output():
    encoder = network("rope", "lstm").encoder
    for frames, chunk in ((1, 2), (9, 1), (100, 2), (131, 7), (97, 3)):
        x = torch.randn(frames, 16).numpy()
        maker, outputs, state = Blocks(16, chunk), [], encoder.init_state(1)
        waiting = maker.init_state()
        for part in np.split(x, sorted(np.random.RandomState(frames).randint(0, frames + 1, 6))):
            full, waiting = maker.push(part, waiting)
            for block in full:
                y, state = encoder.step(torch.from_numpy(block)[None], state)
                outputs.append(y)
        block, count = maker.finish(waiting)
        if count:
            outputs.append(
                encoder.step(torch.from_numpy(block)[None], state, torch.tensor([count]))[0]
            )
        whole = encoder(torch.from_numpy(x)[None], lookahead=chunk - 1)
        got = torch.cat(outputs, 1)[:, : whole.shape[1]]
        torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-5)
    assert maker.finish(maker.init_state())[1] == 0
    with pytest.raises(ValueError, match="expected frames"):
        maker.push(np.zeros((2, 3)), maker.init_state())


@pytest.mark.parametrize("position", ["relative", "rope"])
def test_a_state_in_place_gives_the_numbers_of_the_pure_step(position, tmp_path):
    """One stream, a batch, streams that take turns in it with chunks of any length, and the end of one."""
    graph = export_fastconformer(network(position, "lstm"))["encoder"]
    (tmp_path / "encoder.onnx").write_bytes(graph.SerializeToString())
    encoder, rng = Graph(tmp_path / "encoder.onnx"), np.random.default_rng(0)
    slots, pure = encoder.slots(), [encoder.init_state(1)] * 5
    own = [slots.open() for _ in range(5)]
    assert len(encoder.in_place) == 2 * 3 + 3
    given = []
    for i in range(60):
        who = rng.permutation(5)[: rng.integers(1, 6)] if i % 3 else np.arange(5)
        chunk = (1, 2, 7)[i // 5 % 3]
        feed = {
            "features": rng.standard_normal((len(who), 8 * chunk, 16)).astype(np.float32),
            "lengths": np.full(len(who), 8 * chunk),
        }
        feed["lengths"][0] -= i == 59
        if i % 13 == 12:  # one moves to another slot
            gone = own[int(who[0])]
            own[int(who[0])] = slots.open()
            slots.write(own[int(who[0])], slots.read(gone))
            slots.close(gone)
        out = slots.step([own[w] for w in who], feed)
        for j, w in enumerate(who):
            expected, pure[w] = encoder.step({n: a[j : j + 1] for n, a in feed.items()}, pure[w])
            given.append((out["ctc"][j], expected["ctc"][0]))
            for name, a in flatten(pure[w]).items():
                np.testing.assert_allclose(flatten(slots.read(own[w]))[name], a, atol=1e-6)
    for ours, expected in given:  # what was given stays as it was
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    with pytest.raises(
        ValueError, match="cannot be run on these inputs"
    ):  # longer than any the rings have room for
        encoder.step(
            {"features": np.zeros((1, 64, 16), np.float32), "lengths": np.array([64])},
            encoder.init_state(1),
        )
