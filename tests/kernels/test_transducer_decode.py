"""Greedy decoding: against a decoder built on torch.nn.LSTM, over any split into chunks, kernel equal to reference."""

import pytest
import torch

from speechstream.kernels import dispatch, reference
from speechstream.kernels.reference import TransducerWeights


def network(layers, durations, C=7, J=10, H=6):
    """An nn.LSTM predictor with its joint, and the same folded for decoding. Token C - 1 is blank."""
    embedding, lstm = torch.nn.Embedding(C, 5), torch.nn.LSTM(5, H, layers, batch_first=True)
    project, output = torch.nn.Linear(H, J), torch.nn.Linear(J, C + len(durations))
    with torch.no_grad():
        for p in (
            *lstm.parameters(),
            *project.parameters(),
            *output.parameters(),
            embedding.weight,
        ):
            p.normal_()
        if not durations:
            output.bias[C - 1] += 8  # or it would never stop emitting
        part = lambda name, n: getattr(lstm, f"{name}_l{n}")
        fold = TransducerWeights(
            embedding.weight @ part("weight_ih", 0).T + part("bias_ih", 0) + part("bias_hh", 0),
            torch.stack([part("weight_hh", n) for n in range(layers)]),
            torch.stack([part("weight_ih", n) for n in range(1, layers)])
            if layers > 1
            else torch.zeros(0, 4 * H, H),
            torch.stack([part("bias_ih", n) + part("bias_hh", n) for n in range(1, layers)])
            if layers > 1
            else torch.zeros(0, 4 * H),
            project.weight,
            project.bias,
            output.weight,
            output.bias,
            C - 1,
            durations,
            "relu",
        )
    return (embedding, lstm, project, output), TransducerWeights(
        *(x.detach() if torch.is_tensor(x) else x for x in fold)
    )


@torch.no_grad()
def by_hand(net, encoder, durations, max_symbols, C=7):
    """One stream, the whole history through the LSTM at every frame."""
    embedding, lstm, project, output = net
    history, out, t, symbols = [C - 1], [], 0, 0
    while t < len(encoder):
        hidden, _ = lstm(embedding(torch.tensor([history])))
        logits = output(torch.relu(encoder[t] + project(hidden[0, -1])))
        token = int(logits[:C].argmax())
        if token != C - 1:
            out.append((token, t))
            history.append(token)
            symbols += 1
        step = durations[int(logits[C:].argmax())] if durations else int(token == C - 1)
        if step == 0 and (token == C - 1 or symbols == max_symbols):
            step = 1
        if step:
            t, symbols = t + step, 0
    return out


@pytest.mark.parametrize("mode", ["off", "interpret"])
@pytest.mark.parametrize("layers, durations", [(1, ()), (2, (0, 1, 2, 4))])
def test_chunks_give_what_the_whole_gives(mode, layers, durations):
    net, w = network(layers, durations)
    B, T = 2, 8
    encoder = torch.randn(B, T, 10) * 2
    ends = [8, 5]
    expected = [by_hand(net, encoder[b, : ends[b]], durations, 3) for b in range(B)]
    assert 1 < sum(map(len, expected)) < 3 * sum(ends)  # the case must hold labels and blanks
    state, pool, slots = (
        reference.init_greedy(w, B),
        reference.init_greedy(w, 4),
        torch.tensor([3, 1]).int(),
    )
    fresh = [x.clone() for x in pool]
    got, got_pool, at = [[], []], [[], []], [0, 0]
    for counts in ((3, 0), (0, 2), (3, 3), (2, 0)):
        chunk = torch.zeros(B, 3, 10)
        for b, n in enumerate(counts):
            chunk[b, :n] = encoder[b, at[b] : at[b] + n]
        with dispatch.using(mode), torch.no_grad():
            *pure, state = dispatch.greedy_decode(chunk, torch.tensor(counts), w, state, 3)
            pooled = dispatch.pooled_greedy_decode(chunk, torch.tensor(counts), w, pool, slots, 3)
        for results, (tokens, times, found) in ((got, pure), (got_pool, pooled)):
            for b in range(B):
                results[b] += [
                    (int(tokens[b, i]), at[b] + int(times[b, i])) for i in range(int(found[b]))
                ]
        at = [a + n for a, n in zip(at, counts)]
    assert at == ends
    assert got == expected
    assert got_pool == expected
    for x, untouched in zip(pool, fresh):
        assert torch.equal(x[[0, 2]], untouched[[0, 2]])


def test_state_equals_reference(both, close):
    _, w = network(2, ())
    encoder, n = torch.randn(3, 4, 10) * 2, torch.tensor([4, 0, 1])

    def f():
        with torch.no_grad():
            tokens, times, counts, state = dispatch.greedy_decode(
                encoder, n, w, reference.init_greedy(w, 3), 2
            )
        return tokens, times, counts, tuple(state)

    close(*both(f))


def test_caller_owns_the_output(both):
    """With everything given, results land in the given tensors."""
    _, w = network(1, ())
    encoder, n, slots = torch.randn(1, 2, 10), torch.tensor([2]), torch.zeros(1, dtype=torch.int32)

    def f():
        out = (
            torch.full((1, 4), -1, dtype=torch.int32),
            torch.full((1, 4), -1, dtype=torch.int32),
            torch.full((1,), -5, dtype=torch.int32),
            torch.empty(1, 1, 6),
        )
        with torch.no_grad():
            dispatch.pooled_greedy_decode(
                encoder,
                n,
                w,
                reference.init_greedy(w, 1),
                slots,
                2,
                torch.zeros(0, dtype=torch.int32),
                out,
            )
        return [x.tolist() for x in out[:3]]

    kernel, plain = both(f)
    assert kernel == plain and kernel[2][0] >= 0
