"""The flow decoder: a stream cut anywhere equals the whole, at a constant cost and size, and solves its equation."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from speechstream.nn.flow import FlowDecoder, evaluation_times, solve
from speechstream.nn.flow_config import DiTConfig, FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.flow_networks import visible
from speechstream.nn.noise import normal, philox
from speechstream.state import (
    describe,
    fields,
    flatten,
    from_bytes,
    nbytes,
    put,
    select,
    stack,
    to_bytes,
    unflatten,
)

DIT = DiTConfig(dim=16, layers=3, heads=2, head_dim=8, ff_dim=24, frequencies=8)
UNET = UNetConfig(16, 2, 2, 2, 8, 24, 8, 12, 3)
BLOCK = 4
COMMON = dict(n_mels=5, condition_dim=6, speaker_dim=3, steps=3)
CONFIGS = {
    "transformer, sinks, prompt, guidance": FlowConfig(
        **COMMON,
        prompt=True,
        guidance=0.7,
        windows=WindowConfig(BLOCK, 2, sinks=3),
        dit=dataclasses.replace(DIT, rotary_heads=1, position_kernel=5, position_groups=4),
    ),
    "one layer looks ahead": FlowConfig(
        **COMMON, guidance=0.5, windows=WindowConfig(BLOCK, 1, (0, 2), (1,)), dit=DIT
    ),
    "two layers look ahead, Runge and Kutta": FlowConfig(
        **{**COMMON, "steps": 2},
        solver="rk4",
        windows=WindowConfig(BLOCK, 1, (0, 2), (0, 1), 2),
        dit=DIT,
    ),
    "U-Net": FlowConfig(
        **COMMON, prompt=True, guidance=0.7, windows=WindowConfig(BLOCK, 2, sinks=5), unet=UNET
    ),
    "nothing is kept": FlowConfig(**COMMON, windows=WindowConfig(BLOCK, 0), dit=DIT),
}


def weights(module, seed=0):
    """A network in evaluation whose attention matters."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        with torch.no_grad():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CONFIGS)
def decoder(request):
    torch.manual_seed(0)
    return weights(FlowDecoder(CONFIGS[request.param]))


class Stream:
    """One stream's inputs, and how much of them it has been given."""

    def __init__(self, decoder, count, seed):
        c, g = decoder.config, torch.Generator().manual_seed(seed)
        self.decoder, self.count, self.at, self.seed = decoder, count, 0, seed
        self.conditions = torch.randn(1, count, c.condition_dim, generator=g)
        self.speaker = torch.randn(1, c.speaker_dim, generator=g)
        said = (torch.arange(count) < 6)[:, None]
        self.prompt = torch.randn(1, count, c.n_mels, generator=g) * said if c.prompt else None
        self.state = decoder.init_state(1, self.speaker, seed)
        self.mel = []

    def whole(self, **options):
        return self.decoder(
            self.conditions, self.speaker, self.seed, prompt=self.prompt, **options
        )[0]

    def given(self, x, size):
        """The next frames and those ahead, filled up with what must not matter."""
        if x is None:
            return None
        x = x[:, self.at : self.at + size + self.decoder.config.lookahead]
        return F.pad(x, (0, 0, 0, size + self.decoder.config.lookahead - x.shape[1]), value=9.0)

    @property
    def left(self):
        return self.count - self.at

    @property
    def blocks(self):
        return max(-(-self.left // BLOCK), 0)


def advance(streams, blocks):
    """A step of these streams in one batch."""
    size, decoder = blocks * BLOCK, streams[0].decoder
    batch = stack([s.state for s in streams])
    before = {name: a.clone() for name, a in fields(batch)}
    prompts = [s.given(s.prompt, size) for s in streams]
    mel, after = decoder.step(
        torch.cat([s.given(s.conditions, size) for s in streams]),
        batch,
        None if prompts[0] is None else torch.cat(prompts),
        torch.tensor([min(s.left, size + decoder.config.lookahead) for s in streams]),
    )
    assert mel.shape == (len(streams), size, decoder.config.n_mels)
    assert all(torch.equal(a, before[name]) for name, a in fields(batch))
    assert nbytes(after) == len(streams) * decoder.config.stream_bytes()
    for i, s in enumerate(streams):
        s.mel.append(mel[i, : s.left])
        s.state = select(after, i)
        s.at += size


@pytest.mark.parametrize("seed", range(3))
def test_streams_equal_the_whole(decoder, seed):
    """Chunks of random blocks, streams that begin and end when they like, the last chunk short."""
    rng = np.random.default_rng(seed)
    streams = [Stream(decoder, int(n), i) for i, n in enumerate(rng.integers(1, 60, 4))]
    while any(s.left > 0 for s in streams):
        ready = [s for s in streams if s.left > 0 and rng.random() < 0.6]
        if ready:
            advance(ready, int(rng.integers(0, 1 + max(s.blocks for s in ready))))
    for s in streams:
        torch.testing.assert_close(torch.cat(s.mel), s.whole(), atol=1e-5, rtol=1e-5)
        assert s.state.frames.tolist() == [s.count]


def test_a_batch_of_whole_streams_equals_each(decoder):
    streams = [Stream(decoder, n, n) for n in (9, 23, 4)]

    def padded(name):
        parts = [getattr(s, name) for s in streams]
        if parts[0] is None:
            return None
        return torch.cat([F.pad(p, (0, 0, 0, 23 - p.shape[1]), value=9.0) for p in parts])

    mel = decoder(
        padded("conditions"),
        torch.cat([s.speaker for s in streams]),
        torch.tensor([s.seed for s in streams]),
        prompt=padded("prompt"),
        lengths=torch.tensor([s.count for s in streams]),
    )
    for row, s in zip(mel, streams):
        torch.testing.assert_close(row[: s.count], s.whole(), atol=1e-5, rtol=1e-5)
        assert not row[s.count :].any()


def test_a_frame_depends_on_its_windows_only(decoder):
    """Nothing beyond the look-ahead reaches a block; what is just within it does."""
    c, s = decoder.config, Stream(decoder, 40, 1)
    whole, at = s.whole(), 5 * BLOCK
    s.conditions[:, at + c.lookahead :] += 1.0
    changed = (s.whole() - whole).abs().amax(1)
    assert changed[:at].max() == 0 and changed[at + c.lookahead :].min() > 0
    if c.lookahead:
        assert changed[at : at + c.lookahead].min() > 0
    if c.windows.left_blocks == 0:
        s.conditions[:] = Stream(decoder, 40, 1).conditions
        s.conditions[:, :at] += 1.0
        assert torch.equal(s.whole()[at:], whole[at:])


def test_looking_ahead_fully_equals_the_provisional_way_for_one_evaluation():
    """With one layer that looks ahead and one step, a copy has all that its original has there."""
    config = dataclasses.replace(CONFIGS["one layer looks ahead"], steps=1)
    decoder = weights(FlowDecoder(config))
    s = Stream(decoder, 30, 3)
    torch.testing.assert_close(s.whole(full=True), s.whole())
    s.decoder = weights(FlowDecoder(dataclasses.replace(config, steps=3)))
    assert (s.whole(full=True) - s.whole()).abs().max() > 1e-3


def test_a_state_is_a_value(decoder):
    a, b = Stream(decoder, 24, 1), Stream(decoder, 24, 2)
    advance([a, b], 2)
    both = stack([a.state, b.state])
    data = to_bytes(both)
    kept = unflatten(
        both, {n: torch.from_numpy(x) for n, x in flatten(from_bytes(data, both)).items()}
    )
    advance([a, b], 1)
    c, d = Stream(decoder, 24, 1), Stream(decoder, 24, 2)
    swapped = put(kept, [0, 1], select(kept, [1, 0]))
    c.state, d.state, c.at, d.at = select(swapped, 1), select(swapped, 0), 8, 8
    advance([d, c], 1)
    torch.testing.assert_close(a.mel[-1], c.mel[-1])
    torch.testing.assert_close(b.mel[-1], d.mel[-1])


class Operations(TorchDispatchMode):
    """Every operation that runs, with the shapes it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = tuple(a.shape for a in tree_leaves(args) if isinstance(a, torch.Tensor))
        self.seen.append((func, shapes))
        return func(*args, **(kwargs or {}))


def test_the_cost_of_a_chunk_is_flat():
    """Chunks 1 to 500: the same operations on the same shapes, and the same bytes of state."""
    config = FlowConfig(
        **{**COMMON, "steps": 1},
        windows=WindowConfig(BLOCK, 2, sinks=2),
        unet=UNetConfig(8, 0, 1, 1, 8, 8, 4, 4, 3),
    )
    decoder = weights(FlowDecoder(config))
    state = decoder.init_state(1, torch.zeros(1, 3))
    sizes, chunk, first = set(), torch.zeros(1, BLOCK, 6), None
    for _ in range(500):
        with Operations() as operations:
            _, state = decoder.step(chunk, state)
        first = first or operations.seen
        assert operations.seen == first
        sizes.add(nbytes(state))
    assert len(first) > 100 and sizes == {config.stream_bytes()}
    assert state.frames.tolist() == [500 * BLOCK]
    with FlopCounterMode(display=False) as one:
        decoder.step(chunk, state)
    with FlopCounterMode(display=False) as prefix:
        decoder(torch.zeros(1, 500 * BLOCK, 6), torch.zeros(1, 3))
    assert prefix.get_total_flops() > 400 * one.get_total_flops()  # what recomputing would cost


@pytest.mark.parametrize("layer", range(3))
def test_what_is_visible(layer):
    windows = WindowConfig(3, 2, (0, 1), (1,), 4)
    at = torch.arange(20)
    seen = visible(at[:, None], at, windows, layer)
    for q in range(20):
        for k in range(20):
            back = q // 3 - k // 3
            expected = 0 <= back <= (2 if layer < 2 else 0) or (layer == 1 and back == -1)
            expected |= layer < 2 and k < 4 and back >= 0
            assert bool(seen[q, k]) == expected


def test_noise_is_philox():
    """The vectors of Random123, which Salmon et al. published with the generator."""
    vectors = [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (
            [0xFFFFFFFF] * 4,
            [0xFFFFFFFF] * 2,
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in vectors:
        words = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
        assert [int(w) for w in words] == expected


def test_noise_is_normal_and_depends_on_its_place_only():
    seed, place = torch.tensor([3, -3]), torch.arange(4000).expand(2, -1)
    x = normal(seed, place, 7)
    assert abs(float(x.mean())) < 0.01 and abs(float(x.std()) - 1) < 0.01
    assert abs(float((x**4).mean()) - 3) < 0.1
    assert np.abs(np.corrcoef(x.transpose(1, 2).flatten(0, 1).numpy()) - np.eye(14)).max() < 0.07
    torch.testing.assert_close(normal(seed[1:], place[1:, 70:90], 7), x[1:, 70:90], rtol=0, atol=0)
    late = normal(seed[:1], torch.tensor([[1 << 40, (1 << 40) + 1]]), 7)
    assert torch.isfinite(late).all() and late[0, 0].ne(late[0, 1]).all()


def linear_field(times):
    matrix = torch.tensor([[-1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    return matrix, start, torch.linalg.matrix_exp(matrix) @ start


@pytest.mark.parametrize("solver, order", [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_solvers_have_their_order(solver, order):
    """A linear field, whose solution is a matrix exponential: halving the step divides the error by 2 ** order."""
    matrix, start, exact = linear_field(None)
    errors = []
    for steps in (32, 64):
        times = tuple(i / steps for i in range(steps + 1))
        errors.append(float((solve(lambda x, _: matrix @ x, start, times, solver) - exact).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("solver, power", [("euler", 0), ("midpoint", 1), ("rk4", 3)])
def test_solvers_take_the_time_of_each_evaluation(solver, power):
    """dx/dt = t ** power is solved exactly where the method's order is power + 1, with uneven steps too."""
    times = (0.0, 0.1, 0.5, 1.0)
    at = evaluation_times(times, solver)
    x = solve(lambda x, e: torch.full_like(x, at[e] ** power), torch.zeros(1), times, solver)
    assert float(x) == pytest.approx(1 / (power + 1), rel=1e-6)


def test_euler_carries_a_gaussian_to_its_target():
    """Between N(0, 1) and N(m, s) the flow-matching velocity is known, and its solution is m + s x."""
    mean, spread = 2.0, 0.5
    config = FlowConfig(**{**COMMON, "steps": 100}, dit=DIT, schedule="linear")
    at = evaluation_times(config.solver_times, "euler")

    def velocity(x, e):
        t = at[e]
        variance = (1 - t) ** 2 + (t * spread) ** 2
        slope = (t * spread**2 - (1 - t)) / variance
        return mean + slope * (x - t * mean)

    x = torch.linspace(-2, 2, 9)
    got = solve(velocity, x, config.solver_times, "euler")
    torch.testing.assert_close(got, mean + spread * x, atol=0.03, rtol=0)


def test_schedules():
    def times(**options):
        return FlowConfig(**{**COMMON, "steps": 4}, dit=DIT, **options).solver_times

    assert times(schedule="linear") == (0, 0.25, 0.5, 0.75, 1)
    assert times() == pytest.approx([1 - math.cos(math.pi * i / 8) for i in range(5)])
    assert times(times=(0.0, 0.9, 1.0)) == (0, 0.9, 1)


def test_guidance_combines_two_velocities():
    plain = FlowConfig(**{**COMMON, "steps": 1}, dit=DIT, windows=WindowConfig(BLOCK))
    guided = dataclasses.replace(plain, guidance=0.7)
    one, both = weights(FlowDecoder(plain)), weights(FlowDecoder(guided))
    both.load_state_dict(one.state_dict())
    x, speaker = torch.randn(2, 11, 6), torch.randn(2, 3)
    noise = torch.randn(2, 11, 5)
    v = one(x, speaker, noise=noise) - noise
    null = one(torch.zeros_like(x), torch.zeros_like(speaker), noise=noise) - noise
    expected = noise + v + 0.7 * (v - null)
    torch.testing.assert_close(both(x, speaker, noise=noise), expected, atol=1e-5, rtol=1e-5)


def test_noise_may_be_given_and_frames_have_the_seed_s():
    decoder = weights(FlowDecoder(CONFIGS["one layer looks ahead"]))
    s = Stream(decoder, 12, 5)
    noise = normal(torch.tensor([5]), torch.arange(20)[None], 5)
    state = decoder.init_state(1, s.speaker, 999)
    size = 12 + decoder.config.lookahead
    mel, _ = decoder.step(
        s.given(s.conditions, 12), state, lengths=torch.tensor([12]), noise=noise[:, :size]
    )
    torch.testing.assert_close(mel[0], s.whole(), atol=1e-5, rtol=1e-5)
    other = decoder(s.conditions, s.speaker, 6)[0]
    assert (other - s.whole()).abs().min() > 0


def test_tokens_are_embedded_and_one_is_nothing():
    config = FlowConfig(**COMMON, tokens=9, repeats=2, null_token=4, guidance=1.0, dit=DIT)
    decoder = weights(FlowDecoder(config))
    tokens = torch.tensor([[1, 8, 4]])
    x = decoder.embed(tokens)
    assert x.shape == (1, 6, 6) and torch.equal(x[0, 2], x[0, 3])
    nothing = torch.full_like(tokens, 4)
    still = decoder(decoder.embed(nothing), torch.zeros(1, 3))  # both halves are the same
    unguided = weights(FlowDecoder(dataclasses.replace(config, guidance=0.0)))
    unguided.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(still, unguided(decoder.embed(nothing), torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="no tokens"):
        weights(FlowDecoder(CONFIGS["nothing is kept"])).embed(tokens)


def test_empty_input(decoder):
    s = Stream(decoder, 0, 0)
    assert s.whole().shape == (0, 5)
    advance([s], 0)
    assert s.mel[0].shape == (0, 5)


def test_wrong_input_is_refused(decoder):
    c, speaker = decoder.config, torch.zeros(2, 3)
    state = decoder.init_state(2, speaker)
    with pytest.raises(ValueError, match=r"multiple of 4 frames .* got"):
        decoder.step(torch.zeros(2, 5 + c.lookahead, 6), state)
    with pytest.raises(ValueError, match=r"conditions must be \(B, T, 6\)"):
        decoder.step(torch.zeros(2, 4, 7), state)
    with pytest.raises(ValueError, match=r"vector must be \(2, 3\); got none"):
        decoder.init_state(2)
    with pytest.raises(ValueError, match=r"vector must be \(2, 3\); got \(2, 4\)"):
        decoder.init_state(2, torch.zeros(2, 4))
    wrong = torch.zeros(2, 4 + c.lookahead, 4)
    with pytest.raises(ValueError, match="prompt"):
        decoder.step(torch.zeros(2, 4 + c.lookahead, 6), state, wrong)
    _, ended = decoder.step(torch.zeros(2, 4 + c.lookahead, 6), state, lengths=torch.tensor([4, 3]))
    with pytest.raises(ValueError, match="has ended"):
        decoder.step(torch.zeros(2, 4 + c.lookahead, 6), ended)


def test_gradients_reach_every_weight(decoder):
    config = dataclasses.replace(decoder.config, tokens=7)
    torch.manual_seed(1)
    model = weights(FlowDecoder(config)).requires_grad_(True)
    x = model.embed(torch.randint(7, (2, 9)))
    model.loss(
        torch.randn(2, 18, 5), x, torch.randn(2, 3), lengths=torch.tensor([18, 11])
    ).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_the_loss_learns_one_recording():
    """A network that fits one mel of one frame brings noise to it."""
    torch.manual_seed(2)
    config = FlowConfig(3, 1, steps=8, windows=WindowConfig(1, 0), dit=DIT)
    model, mel = FlowDecoder(config), torch.tensor([[[1.0, -1.0, 0.5]]])
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(mel.expand(64, -1, -1), torch.zeros(64, 1, 1)).backward()
        optimiser.step()
    got = model.eval()(torch.zeros(8, 1, 1), seed=torch.arange(8))
    assert (got - mel).abs().mean() < 0.25


def test_configs_are_read_strictly():
    for config in CONFIGS.values():
        again = json.loads(json.dumps(config.to_dict()))
        assert FlowConfig.from_dict(again) == config
        wrong = [
            ({"loudness": 1}, "loudness is not known"),
            ({"n_mels": "80"}, "n_mels is '80', expected"),
            ({"steps": 0}, "steps must be 1 to 100"),
            ({"solver": "heun"}, "solver must be one of euler"),
            ({"schedule": "sway"}, "schedule must be one of"),
            ({"times": [0.0, 0.5]}, "times must rise from 0 to 1"),
            ({"times": [0.0, 0.5, 0.5, 1.0]}, "times must rise from 0 to 1"),
            ({"guidance": -1.0}, "guidance must be 0 to 100"),
            ({"dit": None, "unet": None}, "needs one network"),
            ({"windows": {"block": 1 << 40}}, "expected"),
            ({"windows": {"block": 4096, "left_blocks": 4096}}, "65536 frames at most"),
            ({"windows": {"left_layers": [99]}}, "left_layers must be different numbers"),
            ({"windows": {"colour": 1}}, "windows.colour is not known"),
        ]
        for change, message in wrong:
            with pytest.raises(ValueError, match=message):
                FlowConfig.from_dict({**again, **change})
    with pytest.raises(ValueError, match="look ahead need a network without convolutions"):
        FlowConfig(windows=WindowConfig(4, 1, None, (0,)), unet=UNET)
    with pytest.raises(ValueError, match="caches would take .* 32768 at most"):
        FlowConfig(windows=WindowConfig(4096, 15), dit=DiTConfig(), steps=100)
    with pytest.raises(ValueError, match="head_dim must be even"):
        DiTConfig(head_dim=7)


def test_memory_is_a_closed_formula():
    """Of CosyVoice 2's sizes, without making the network."""
    config = FlowConfig(
        80, 80, 80, True, windows=WindowConfig(50, 2), unet=UNetConfig(), guidance=0.7
    )
    # 56 layers keep 100 frames; convolutions of 3 keep 2: 320 + 31 of 256, and 512 in the last block's first
    keys = 2 * 56 * 100 * 8 * 64
    tails = 2 * (320 + 512 + 256 * (1 + 1 + 2 * 12 + 1 + 2))
    assert config.stream_bytes() == 4 * 2 * (10 * (keys + tails) + 80) + 16
    assert "stream(s)" in describe(
        weights(FlowDecoder(CONFIGS["U-Net"])).init_state(1, torch.zeros(1, 3))
    )
