"""What the tests of decoders hear: a memory that grows frame by frame, over scripted networks."""

import numpy as np

from speechstream.asr.whisper.cache import Memory as Written, SegmentCache, Values
from speechstream.asr.whisper.conditioned import ConditionedDecoder
from speechstream.runtime.requests import drive


class Heard:
    def __init__(self):
        self.memory, self.ctc, self.gate = Written(), None, None
        self.confirmed = self.checked = 0

    @property
    def frames(self):
        return self.memory.frames

    def put(self, at, encoded, confirmed):
        end = at + encoded.keys.shape[3]
        self.memory.put(at, encoded.keys, encoded.values)
        self.ctc = written(self.ctc, at // 2, encoded.ctc)
        self.gate = written(self.gate, at // 2, encoded.gate)
        if confirmed:
            self.confirmed = end

    def extend(self, decoder, networks, hypothesis, final=False):
        n = self.frames
        keys, values = (a[:, :, :, :n] for a in (self.memory.keys, self.memory.values))
        heads = getattr(self, decoder.head) if decoder.head else None
        memory = ConditionedDecoder(
            Values(networks), SegmentCache((), keys, values), n, self.confirmed, self.checked, heads
        )
        out = drive(decoder.extend(hypothesis, memory, final))
        self.checked = self.confirmed
        return out


def written(heads, pair, new):
    if heads is None or new is None:
        return new
    return np.concatenate([heads[:, :pair], new, heads[:, pair + new.shape[1] :]], axis=1)
