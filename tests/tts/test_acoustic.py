"""The acoustic model: streamed and exported against the offline network, length regulation against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechstream.nn.acoustic import AcousticConfig, AcousticModel
from speechstream.nn.depth import DepthDecoder
from speechstream.state import select, stack
from speechstream.tts.blockwise.acoustic import Acoustic, regulate, sub_frames
from speechstream.tts.codec import CodecDecoder
from tools.make_tiny_voice import MODEL, tiny

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "tests" / "fixtures" / "tts" / "tiny-voice"


@pytest.fixture(scope="module")
def networks():
    torch.set_num_threads(1)
    return tiny()


def frames(seed, count, batch=1):
    return torch.randn(
        batch, count, MODEL.subframes, MODEL.features, generator=torch.Generator().manual_seed(seed)
    )


def hidden_step(model, x, state):
    y, state = model.decoder.step(model._input(x), state)
    return model.norm(y), state


def test_streams_at_different_times_equal_the_offline_call(networks):
    model, rng = networks[0], np.random.default_rng(3)
    inputs = [frames(s, int(n)) for s, n in enumerate((21, 9, 30))]
    states, at = [model.init_state() for _ in inputs], [0] * 3
    hidden, codes = [[] for _ in inputs], [[] for _ in inputs]
    while any(a < x.shape[1] for a, x in zip(at, inputs)):
        chosen = [i for i in range(3) if at[i] < inputs[i].shape[1] and rng.random() < 0.7]
        count = int(rng.integers(1, 6))
        chosen = [i for i in chosen if at[i] + count <= inputs[i].shape[1]] or chosen[:1]
        if not chosen:
            continue
        count = min(count, *(inputs[i].shape[1] - at[i] for i in chosen))
        batch = torch.cat([inputs[i][:, at[i] : at[i] + count] for i in chosen])
        before = stack([states[i] for i in chosen])
        with torch.no_grad():
            c, after = model.step(batch, before)
            h, _ = hidden_step(model, batch, before)
        for row, i in enumerate(chosen):
            states[i] = select(after, row)
            codes[i].append(c[row])
            hidden[i].append(h[row])
            at[i] += count
    for x, h, c in zip(inputs, hidden, codes):
        with torch.no_grad():
            torch.testing.assert_close(torch.cat(h), model.hidden(x)[0], atol=1e-5, rtol=0)
            assert torch.equal(torch.cat(c, -1), model(x)[0])


def test_no_frames_change_nothing(networks):
    model = networks[0]
    state = model.init_state(2)
    codes, after = model.step(torch.zeros(2, 0, MODEL.subframes, MODEL.features), state)
    assert codes.shape == (2, 2, 0) and after is state
    with pytest.raises(ValueError, match="expected sub-frames"):
        model.step(torch.zeros(2, 1, MODEL.subframes, 3), state)


def test_exported_graphs_equal_the_network(networks):
    model, codec = networks
    runner, x = Acoustic(VOICE, MODEL.subframes), frames(5, 12, batch=2)
    ids, speaker = (
        torch.randint(1, 40, (1, 17), generator=torch.Generator().manual_seed(1)),
        torch.tensor([1]),
    )
    plan = runner.encode(ids[0].numpy(), 1)
    with torch.no_grad():
        encodings, prosody = model.text(ids, speaker)
        expected = model(x)
        audio = codec.decode(expected)
    np.testing.assert_allclose(plan.encodings, encodings[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(
        np.stack([plan.log_durations, plan.pitch, plan.energy], 1), prosody[0].numpy(), atol=1e-5
    )
    state, parts = runner.init_state(2), []
    for begin, end in ((0, 1), (1, 6), (6, 12)):
        codes, state = runner.step(x[:, begin:end].numpy(), state)
        parts.append(codes)
    np.testing.assert_array_equal(np.concatenate(parts, -1), expected.numpy())
    np.testing.assert_allclose(
        CodecDecoder(VOICE / "codec.onnx")(np.concatenate(parts, -1)), audio.numpy(), atol=1e-5
    )


def test_padding_in_a_batch_changes_no_clause(networks):
    model, ids = (
        networks[0],
        torch.randint(1, 40, (2, 14), generator=torch.Generator().manual_seed(2)),
    )
    with torch.no_grad():
        both = model.text(ids, torch.tensor([0, 1]), torch.tensor([9, 14]))
        alone = model.text(ids[:1, :9], torch.tensor([0]))
    for a, b in zip(both, alone):
        torch.testing.assert_close(a[:1, :9], b, atol=1e-5, rtol=0)


def test_depth_decoding_picks_the_nearest_code_of_what_is_left():
    torch.manual_seed(0)
    depth = DepthDecoder(dim=8, groups=(1, 2), bins=16, code_dim=4, width=8, blocks=1)
    depth.set_codebooks(torch.randn(3, 16, 4))
    hidden = torch.randn(2, 5, 8)
    with torch.no_grad():
        codes = depth.decode(hidden)
        # a fresh network corrects nothing: plain residual quantisation of the predicted latents, group by group
        latent = depth.latent(hidden).unflatten(-1, (2, 4))
        for level, group in ((0, 0), (1, 1), (2, 1)):
            distance = (latent[:, :, group, None] - depth.codebooks[level]).square().sum(-1)
            assert torch.equal(codes[:, level], distance.argmin(-1))
            latent[:, :, group] -= depth.codebooks[level][codes[:, level]]
        torch.nn.init.normal_(depth.output.weight)
        codes = depth.decode(hidden)
        assert torch.equal(
            depth(hidden, codes).argmax(-1), codes
        )  # training sees what decoding sees
    with pytest.raises(ValueError, match="expected codebooks"):
        depth.set_codebooks(torch.randn(3, 16, 5))


def test_durations_carry_their_rounding_error():
    counts = sub_frames(np.log(np.full(10, 2.5)))
    assert counts.sum() == 25 and set(counts.tolist()) == {2, 3}
    assert sub_frames(np.log(np.full(10, 2.5)), speed=2.0).sum() in (12, 13)
    assert sub_frames(np.array([50.0]))[0] < 500  # a runaway prediction is bounded


def test_regulation():
    index, scalars = regulate(
        np.array([2, 0, 4]), np.array([0.0, 9.0, 3.0]), np.array([1.0, 2.0, 3.0])
    )
    assert index.tolist() == [0, 0, 2, 2, 2, 2]
    np.testing.assert_allclose(scalars[:, 0], [0.25, 0.75, 0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(scalars[:, 1], np.log([2, 2, 4, 4, 4, 4]) / 3, atol=1e-6)
    np.testing.assert_allclose(
        scalars[:, 2], [0, 0.5, 1.5, 2.5, 3, 3]
    )  # a line from centre 1 to centre 4
    assert scalars[:, 3].tolist() == [1, 1, 3, 3, 3, 3]
    assert regulate(np.zeros(0, int), np.zeros(0), np.zeros(0))[0].shape == (0,)


def test_config_survives_json():
    import json

    config = AcousticConfig(symbols=5, groups=(1, 3))
    assert AcousticConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="odd"):
        AcousticConfig(symbols=5, kernel=4)
    assert sum(p.numel() for p in AcousticModel(config).parameters()) > 0


def test_the_embedded_voice_gives_its_networks_back():
    """What was trained can be trained further from the bundle alone."""
    from speechstream import bundle
    from speechstream.export.acoustic import read_voice

    b = bundle.load(bundle.embedded("tts"))
    model, codec = read_voice(b)
    torch.testing.assert_close(model.depth.codebooks, codec.quantizer.codebooks)
    q, x = codec.quantizer, torch.randn(1, 50, codec.config.code_dim)
    torch.testing.assert_close(
        q.input_proj(q.output_proj(x)), x, atol=1e-2, rtol=1e-2
    )  # components, not any matrix
    codes = torch.randint(
        codec.config.codebook_size,
        (1, codec.config.n_codebooks, 20),
        generator=torch.Generator().manual_seed(0),
    )
    ours = CodecDecoder(b.file("codec.onnx"))(codes.numpy())
    np.testing.assert_allclose(codec.decode(codes).detach().numpy(), ours, atol=2e-3)


def test_a_bundle_that_says_nothing_of_its_networks(tmp_path):
    from dataclasses import replace

    from speechstream import bundle
    from speechstream.errors import SpeechStreamError
    from speechstream.export.acoustic import read_voice

    with pytest.raises(SpeechStreamError, match="does not hold the networks"):
        read_voice(replace(bundle.load(VOICE), config={}))
