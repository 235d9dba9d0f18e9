"""The one rule, for every streaming part: concat(step) == offline, however a stream is cut and whoever shares its batch.

Each part is wrapped in the same few calls. Streams of different lengths are served at random moments with blocks of
random sizes, empty ones and single units among them; those served together are stacked, stepped and taken apart again.
A network that runs in chunks takes whole ones, its last one short.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechstream.audio import LogMel, Resampler
from speechstream.audio.nemo_mel import NemoMel
from speechstream.nn.conformer import ConformerConfig, ConformerEncoder
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_config import DiTConfig, FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.mimi import Mimi, MimiConfig
from speechstream.nn.seanet import SEANetConfig
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig
from speechstream.nn.transducer import Predictor, PredictorConfig
from speechstream.nn.transformer import TransformerConfig
from speechstream.nn.whisper import Encoder, WhisperConfig
from speechstream.runtime.session import load_vad
from speechstream.state import batch_size, fields, select, stack
from speechstream.text.clauses import TextStream

STREAMS = 4


def weights(module, seed=0):
    """A network in evaluation with weights that make every part of it count."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


class Samples:
    """Audio parts on numpy: (n,) samples in, rows padded with NaN out."""

    sizes, length, stacked = (0, 1, 7, 160, 511, 900), (0, 4000), True

    def __init__(self, part):
        self.part = part

    def make(self, rng, n):
        return rng.standard_normal(n).astype(np.float32)

    def init(self):
        return self.part.init_state(1)

    def step(self, blocks, state):
        y, state = self.part.step(np.stack(blocks), state)
        return [row[..., ~np.isnan(row).any(axis=tuple(range(row.ndim - 1)))] for row in y], state

    def finish(self, state, rest):
        return self.part.finish(state)[0] if hasattr(self.part, "finish") else None

    def offline(self, x):
        return self.part(x[None])[0]

    def join(self, parts):
        return np.concatenate(parts, axis=-1)


class InStep(Samples):
    """Features whose streams must have consumed equally many samples to share a batch: stepped alone here."""

    stacked = False


class Frames:
    """Networks on (B, T, ...) tensors along `axis`, any number of frames a step."""

    sizes, length, stacked, axis = (0, 1, 2, 5), (1, 40), True, 0

    def __init__(self, make, init, step, offline, axis=0, out_axis=0):
        self._make, self._init, self._step, self._offline = make, init, step, offline
        self.axis, self.out_axis = axis, out_axis

    def make(self, rng, n):
        return self._make(torch.Generator().manual_seed(int(rng.integers(1 << 30))), n)

    def init(self):
        return self._init(1)

    def step(self, blocks, state):
        y, state = self._step(torch.stack(blocks), state)
        return list(y), state

    def finish(self, state, rest):
        return None

    def offline(self, x):
        return self._offline(x[None])[0].numpy()

    def join(self, parts):
        return torch.cat(parts, self.out_axis).numpy()


class OneByOne(Frames):
    """A network that takes one token a step."""

    sizes = (0, 1)

    def step(self, blocks, state):
        if not len(blocks[0]):
            return [torch.zeros(0, 8)] * len(blocks), state
        y, state = self._step(torch.stack(blocks)[:, 0], state)
        return list(y[:, None]), state


class Chunks(Frames):
    """An encoder that runs in chunks of `chunk` units of the input: blocks are whole chunks, the tail goes alone."""

    def __init__(self, chunk, tail, **calls):
        super().__init__(**calls)
        self.sizes, self.length, self._tail = (0, chunk, 3 * chunk), (chunk, 12 * chunk), tail
        self.chunk = chunk

    def step(self, blocks, state):
        out = [[] for _ in blocks]
        for at in range(0, blocks[0].shape[0], self.chunk):
            y, state = self._step(torch.stack([b[at : at + self.chunk] for b in blocks]), state)
            for rows, row in zip(out, y):
                rows.append(row)
        return [torch.cat(rows) if rows else None for rows in out], state

    def finish(self, state, rest):
        return self._tail(rest, state)


def whisper():
    net = weights(
        Encoder(
            WhisperConfig(
                n_mels=4, dim=16, heads=2, encoder_layers=2, positions=30, left_context=12
            )
        )
    )
    chunk = 4  # frames, of two mel frames each; a block here holds 8 mel frames, the look-ahead comes from the next

    def offline(
        x,
    ):  # (1, 2T, mels) and one frame more, which a stream that ends fills up with zeros
        return net(F.pad(x, (0, 0, 0, 1 + x.shape[1] % 2)).transpose(1, 2), chunk=chunk)

    class Waiting(Chunks):
        """Holds a chunk back until the first frame of the next one has come."""

        def init(self):
            return net.init_state()

        def step(self, blocks, state):
            if not len(blocks[0]):
                y, after = net.step(torch.zeros(len(blocks), 4, 1), state)
                return list(y), after
            out = []
            for at in range(0, blocks[0].shape[0] - 1, 2 * chunk):
                part = torch.stack([b[at : at + 2 * chunk + 1] for b in blocks])
                y, state = net.step(part.transpose(1, 2), state)
                out.append(y)
            return list(torch.cat(out, 1)), state

        def finish(self, state, rest):
            x = F.pad(rest, (0, 0, 0, 1 + len(rest) % 2))[None].transpose(1, 2)
            return net.step(x, state)[0][0] if len(rest) else None

    part = Waiting(
        2 * chunk,
        None,
        make=lambda g, n: torch.randn(n, 4, generator=g),
        init=None,
        step=None,
        offline=offline,
    )
    part.overlap = 1
    return part


def conformer():
    net = weights(
        ConformerEncoder(
            ConformerConfig(
                n_mels=8,
                dim=16,
                layers=2,
                heads=2,
                ff_dim=24,
                kernel=5,
                subsampling_channels=4,
                left_context=6,
                lookaheads=(1, 0),
            )
        )
    )
    net.eval()  # tables follow the weights
    chunk = 2

    def make(g, n):  # what lies before the audio is part of a stream's first block, and ignored
        return torch.cat([torch.full((net.lead, 8), 9.0), torch.randn(n, 8, generator=g)])

    def tail(rest, state):
        if not len(rest):
            return None
        size = chunk * 8
        x = F.pad(rest, (0, 0, 0, size - len(rest)))[None]
        y, _ = net.step(x, state, torch.tensor([len(rest)]))
        return y[0, : -(-len(rest) // 8)]

    part = Chunks(
        chunk * 8,
        tail,
        make=make,
        init=net.init_state,
        step=net.step,
        offline=lambda x: net(x[:, net.lead :], lookahead=chunk - 1),
    )
    part.trim = True  # a tail of a few feature frames may or may not complete a frame: offline has the last word
    return part


def mimi(side):
    config = MimiConfig(
        sample_rate=480,
        seanet=SEANetConfig(dim=16, filters=2, ratios=(4, 3, 2), residual_layers=1),
        transformer=TransformerConfig(dim=16, layers=2, heads=2, ff_dim=24, left_context=9),
        n_codebooks=3,
        codebook_size=16,
        code_dim=8,
    )
    return codec(Mimi(config), config, side)


def small_codec(side):
    config = SmallCodecConfig(
        sample_rate=800,
        hop=8,
        overlap=4,
        stride=2,
        n_mels=6,
        fine_dim=8,
        decoder_blocks=1,
        refiner_dim=4,
        refiner_blocks=2,
        refiner_row=4,
        n_codebooks=2,
        codebook_size=16,
        code_dim=4,
    )
    return codec(SmallCodec(config), config, side)


def codec(net, config, side):
    net, size = weights(net), config.frame_size
    if (
        side == "encoder"
    ):  # frames of samples, (T, size); latents, for a code either is the same or is not

        def step(x, state):
            if not x.shape[1]:
                return torch.zeros(len(x), 0, net.latent(torch.zeros(1, 1, size)).shape[-1]), state
            return net.latent_step(x.flatten(1)[:, None], state)

        return Frames(
            make=lambda g, n: 0.5 * torch.randn(n, size, generator=g),
            init=net.init_encoder_state,
            step=step,
            offline=lambda x: net.latent(x.flatten(1)[:, None]),
        )

    def decode(x, state):
        if not x.shape[1]:
            return torch.zeros(len(x), 0), state
        y, state = net.decode_step(x.transpose(1, 2), state)
        return y[:, 0], state

    return Frames(
        make=lambda g, n: torch.randint(config.codebook_size, (n, config.n_codebooks), generator=g),
        init=net.init_decoder_state,
        step=decode,
        offline=lambda x: net.decode(x.transpose(1, 2))[:, 0],
    )


def predictor(kind):
    net = weights(
        Predictor(
            PredictorConfig(5, 8, kind, layers=2) if kind == "lstm" else PredictorConfig(5, 8, kind)
        )
    )
    return OneByOne(
        make=lambda g, n: torch.cat([torch.tensor([5]), torch.randint(5, (n,), generator=g)]),
        init=net.init_state,
        step=net.step,
        offline=lambda x: net(x[:, 1:]),
    )


def flow(network):
    net = weights(
        FlowDecoder(
            FlowConfig(4, 8, steps=2, guidance=0.5, windows=WindowConfig(3, 2, sinks=2), **network)
        )
    )
    chunk = 3

    def tail(rest, state):
        if not len(rest):
            return None
        x = F.pad(rest, (0, 0, 0, chunk - len(rest)))[None]
        return net.step(x, state, lengths=torch.tensor([len(rest)]))[0][0, : len(rest)]

    return Chunks(
        chunk,
        tail,
        make=lambda g, n: torch.randn(n, 8, generator=g),
        init=net.init_state,
        step=net.step,
        offline=net,
    )


class Text:
    """Clauses of text, cut anywhere; a stream of text has no batch."""

    sizes, length, stacked = (0, 1, 2, 9, 40), (0, 400), False
    letters = list("abcde ABC   .,;!?123 -'\n") + [
        "Dr. ",
        "3.14",
        "U.S. ",
        "and ",
        "\u00e9",
        "\u4f60",
        "\U0001f600",
    ]

    def __init__(self):
        self.part = TextStream()

    def make(self, rng, n):
        return "".join(rng.choice(self.letters) for _ in range(n))

    def init(self):
        return self.part.init_state()

    def step(self, blocks, state):
        clauses, state = self.part.step(blocks[0], state)
        return [clauses], state

    def finish(self, state, rest):
        return self.part.finish(state)[0]

    def offline(self, x):
        return self.part(x)

    def join(self, parts):
        return sum(parts, [])


PARTS = {
    "log-mel": lambda: Samples(LogMel()),
    "log-mel of NeMo": lambda: InStep(NemoMel()),
    "resampler 48 to 16": lambda: Samples(Resampler(48000, 16000)),
    "resampler 44.1 to 16": lambda: Samples(Resampler(44100, 16000)),
    "resampler 8 to 16": lambda: Samples(Resampler(8000, 16000)),
    "voice activity": lambda: Samples(load_vad()),
    "Whisper encoder": whisper,
    "FastConformer encoder": conformer,
    "flow transformer": lambda: flow({"dit": DiTConfig(16, 2, 2, 8, 24, 8)}),
    "flow U-Net": lambda: flow({"unet": UNetConfig(16, 1, 1, 2, 8, 24, 8, 8)}),
    "LSTM predictor": lambda: predictor("lstm"),
    "stateless predictor": lambda: predictor("stateless"),
    "Mimi encoder": lambda: mimi("encoder"),
    "Mimi decoder": lambda: mimi("decoder"),
    "small codec encoder": lambda: small_codec("encoder"),
    "small codec decoder": lambda: small_codec("decoder"),
    "text": Text,
}


@pytest.fixture(scope="module", params=PARTS)
def part(request):
    return PARTS[request.param]()


@pytest.mark.parametrize("seed", range(2))
def test_streams_equal_the_whole(part, seed):
    rng = np.random.default_rng(seed)
    low, high = part.length
    inputs = [part.make(rng, int(rng.integers(low, high + 1))) for _ in range(STREAMS)]
    states, out, at = [part.init() for _ in inputs], [[] for _ in inputs], [0] * STREAMS
    ahead, unit = getattr(part, "overlap", 0), min(s for s in part.sizes if s)
    while True:
        waiting = [i for i in range(STREAMS) if len(inputs[i]) - at[i] >= unit + ahead]
        if not waiting:
            break
        size = int(rng.choice(part.sizes))
        ready = [
            i for i in waiting if len(inputs[i]) - at[i] >= size + ahead and rng.random() < 0.7
        ]
        ready = ready if part.stacked else ready[:1]
        if not ready:
            continue
        blocks = [inputs[i][at[i] : at[i] + size + (ahead if size else 0)] for i in ready]
        if part.stacked:
            batch = stack([states[i] for i in ready])
            before = {
                name: a.copy() if isinstance(a, np.ndarray) else a.clone()
                for name, a in fields(batch)
            }
        else:
            batch = states[ready[0]]
        y, after = part.step(blocks, batch)
        if part.stacked:
            assert batch_size(after) == len(ready)
            assert all(
                (a == before[name]).all() for name, a in fields(batch)
            )  # a step changes nothing it was given
        for row, i in enumerate(ready):
            states[i] = select(after, row) if part.stacked else after
            at[i] += size
            if y[row] is not None:
                out[i].append(y[row])
    for i, x in enumerate(inputs):
        rest = x[at[i] :]
        if ahead or isinstance(part, Chunks):
            end = part.finish(states[i], rest)
        else:
            if len(rest):  # less than the least block: alone
                y, states[i] = part.step([rest], states[i])
                out[i].append(y[0])
            end = part.finish(states[i], rest)
        got, expected = part.join(out[i] + ([end] if end is not None else [])), part.offline(x)
        if isinstance(part, Text):
            assert got == expected and all(c.text == x[c.start : c.end] for c in got)
            assert "".join("".join(c.text for c in got).split()) == "".join(
                x.split()
            )  # nothing is lost
            continue
        if getattr(part, "trim", False):
            assert 0 <= len(got) - len(expected) <= 1
            got = got[: len(expected)]
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
