"""Memories of cross-attention side by side: each row holds what is asked for, and nothing is held for who is gone."""

import tracemalloc

import numpy as np

from speechstream.asr.whisper.cache import Decode, Resident, SegmentCache
from speechstream.asr.whisper.networks import Decoded, DecoderState

LAYERS, HEADS, WIDTH = 2, 3, 4


class Sums:
    """A decoder whose answer is the sum of all that it attends to."""

    def decode(self, tokens, keys, values, mask, state, first):
        rows = mask[:, None, None, :, None]
        sums = ((keys + values) * rows).sum((1, 2, 3, 4))
        logits = np.broadcast_to(sums[:, None, None], (*tokens.shape, 1))[:, first:]
        alignment = np.zeros((*tokens.shape, keys.shape[3]))
        kept = np.zeros((len(tokens), LAYERS, HEADS, tokens.shape[1], WIDTH), np.float32)
        return Decoded(logits, alignment), DecoderState(kept, kept, state.tokens)


def memory(rng, frames):
    keys, values = rng.integers(-9, 9, (2, 1, LAYERS, HEADS, frames, WIDTH)).astype(np.float32)
    return SegmentCache((), keys, values)


def request(runner, slot, frames):
    none = np.zeros((1, LAYERS, HEADS, 0, WIDTH), np.float32)
    return Decode(
        runner, slot, np.zeros((1, 1), int), DecoderState(none, none, np.zeros(1, int)), frames
    )


def test_rows_are_those_of_who_asks_while_others_come_and_go():
    rng, runner, live = np.random.default_rng(0), Resident(Sums()), {}
    for _ in range(300):
        if len(live) < 2 or (rng.random() < 0.4 and len(live) < 6):
            value = memory(rng, int(rng.integers(1, 128)))
            live[runner.write(value, ())] = value
        elif rng.random() < 0.3:
            slot = int(rng.choice(list(live)))
            runner.close(slot)
            del live[slot]
        asked = rng.permutation(list(live))[: rng.integers(1, len(live) + 1)]
        requests = [request(runner, s, live[s].keys.shape[3]) for s in map(int, asked)]
        said = [decoded.logits.item() for decoded, _ in runner.decode(requests)]
        assert said == [(live[s].keys + live[s].values).sum() for s in map(int, asked)]


def test_nothing_is_held_for_memories_that_are_over():
    rng, runner = np.random.default_rng(1), Resident(Sums())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for frames in (100, 200, 400, 900):
            pair = [runner.write(memory(rng, frames), ()) for _ in range(2)]
            runner.decode([request(runner, slot, frames) for slot in pair])
            assert tracemalloc.get_traced_memory()[0] - before > 8 * frames * LAYERS * HEADS * WIDTH
            for slot in pair:
                runner.close(slot)
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
