"""Whisper's decoder made incremental: a draft that is verified, a stable part that only grows.

Each time more audio is known, the previous hypothesis is read back in one call as a draft; its tokens stand as far as
the decoder would choose them again, and greedy decoding goes on from there (so an unchanged hypothesis costs one
call). A word becomes stable once it ended `margin_s` before the end of the confirmed audio and another word
follows it; its tokens and their keys and values are then never computed again, hence never retracted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generator

import numpy as np

from speechstream.asr.events import Word
from speechstream.asr.timing import token_spans
from speechstream.asr.vocabulary import Vocabulary
from speechstream.engines.protocol import DecoderState, Encoded, Engine

FRAME_S = 0.02
TOKENS_PER_S = 9       # nobody speaks faster; what exceeds it is a loop
REPEATED = 8           # tokens in a row that were written before, of the same sound: the decoder reads it once more
SAME_GAZE = 0.8        # correlation from which two tokens' attention is to the same sound
BLOCK_FRAMES = 128     # memory grows by blocks, so that it is rarely copied


class Memory:
    """What the encoder has said of a segment's frames: keys and values for cross-attention, (1, layers, H, T, Dh), and
    the CTC head's log-probabilities of each pair of frames, (1, T // 2, pieces). All of it grows at the end.

    Frames up to `confirmed` will not change; those after it come from the encoder's quick pass and may be overwritten.
    """

    def __init__(self):
        self.keys = self.values = self.ctc = None
        self.frames = self.confirmed = 0

    def put(self, at: int, encoded: Encoded, confirmed: bool) -> None:
        end, pair = at + encoded.keys.shape[3], at // 2
        if self.keys is None or end > self.keys.shape[3]:
            size = -(-end // BLOCK_FRAMES) * BLOCK_FRAMES
            grown = [np.zeros((*a.shape[:3], size, a.shape[4]), a.dtype) for a in (encoded.keys, encoded.values)]
            ctc = np.zeros((1, size // 2, encoded.ctc.shape[2]), encoded.ctc.dtype)
            if self.keys is not None:
                for new, old in zip(grown, (self.keys, self.values)):
                    new[:, :, :, : self.frames] = old[:, :, :, : self.frames]
                ctc[:, : self.frames // 2] = self.ctc[:, : self.frames // 2]
            (self.keys, self.values), self.ctc = grown, ctc
        self.keys[:, :, :, at:end] = encoded.keys
        self.values[:, :, :, at:end] = encoded.values
        self.ctc[:, pair: pair + encoded.ctc.shape[1]] = encoded.ctc
        self.frames = max(self.frames, end)
        if confirmed:
            self.confirmed = end

    def mask(self) -> np.ndarray:
        return np.arange(self.keys.shape[3])[None] < self.frames


@dataclass
class Decode:
    """A request: these tokens after that state, over this memory. The driver answers with `run`'s result."""

    tokens: np.ndarray
    memory: Memory
    state: DecoderState

    def run(self, engine: Engine) -> tuple[np.ndarray, np.ndarray, DecoderState]:
        return engine.decode(self.tokens, self.memory.keys, self.memory.values, self.memory.mask(), self.state)


@dataclass
class Hypothesis:
    """Tokens of one segment. The first `stable` of them are final. rows: where the decoder looked for each."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    stable: int = 0
    cache: DecoderState | None = None  # of the prompt and the stable tokens but the last


class AttentionDecoder:
    """Incremental greedy decoding; one instance serves all streams, each with its `Hypothesis`."""

    def __init__(self, vocabulary: Vocabulary, margin_s: float = 0.5):
        self.vocabulary, self.margin_s = vocabulary, margin_s

    def init_state(self, engine: Engine) -> Hypothesis:
        return Hypothesis(cache=engine.decoder_state())

    def extend(self, hypothesis: Hypothesis, memory: Memory, final: bool) -> Generator[Decode, tuple, Hypothesis]:
        """Bring a hypothesis up to date with its memory. `final` says that no more audio follows: all becomes stable."""
        v, kept = self.vocabulary, hypothesis.stable
        again = final or memory.frames == memory.confirmed  # keys of stable tokens recall where the sound ended then
        cache = _keep(hypothesis.cache, 0) if again else hypothesis.cache
        context = v.prompt + hypothesis.tokens[:kept]
        draft = hypothesis.tokens[kept:]
        new = Hypothesis(hypothesis.tokens[:kept], hypothesis.probabilities[:kept], hypothesis.rows[:kept], kept)
        known = int(cache.tokens[0])
        feed, first = context[known:] + draft, len(context) - known - 1  # output `first` predicts the first new token
        limit = int(memory.frames * FRAME_S * TOKENS_PER_S) + 8
        state, ended = cache, False
        while not ended:
            logits, alignment, state = yield Decode(np.array([feed], np.int64), memory, state)
            if again:  # and they are dated anew
                new.rows = [row[: memory.frames].copy() for row in alignment[0, len(v.prompt) - 1: first]]
                again = False
            best, probability = self._choose(logits[0, first:])
            for n, token in enumerate(best.tolist()):
                if token == v.end or len(new.tokens) >= limit or self._loops(new.tokens, token):
                    ended = True
                    break
                new.tokens.append(token)
                new.probabilities.append(float(probability[n]))
                new.rows.append(alignment[0, first + n, : memory.frames].copy())
                if (once := self._once(new)) < len(new.tokens):
                    once, ended = max(once, kept), True
                    del new.tokens[once:], new.probabilities[once:], new.rows[once:]
                    break
                if n >= len(draft) or token != draft[n]:
                    break
            if not ended:  # the last token has been chosen but not read
                state = _keep(state, len(v.prompt) + len(new.tokens) - 1)
                feed, first, draft = new.tokens[-1:], 0, []
        new.stable = len(new.tokens) if final else max(kept, self._settled(new, memory))
        new.cache = _keep(state, len(v.prompt) + new.stable - 1)
        return new

    def text(self, h: Hypothesis) -> tuple[str, str]:
        """The stable and the unstable part."""
        return self.vocabulary.text(h.tokens[: h.stable]), self.vocabulary.text(h.tokens[h.stable:])

    def words(self, h: Hypothesis) -> list[Word]:
        """The words of the stable part, in seconds from the segment's start."""
        tokens, out = h.tokens[: h.stable], []
        spans = token_spans(table(h.rows)) * FRAME_S  # with the unstable ones, which have their share of the frames
        for a, b in self.vocabulary.words(tokens):
            if text := self.vocabulary.text(tokens[a:b]):
                out.append(Word(text, float(spans[a, 0]), float(spans[b - 1, 1]), min(h.probabilities[a:b])))
        return out

    def _choose(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = logits[:, : self.vocabulary.end + 1]  # what lies beyond starts transcripts and is never chosen
        best = logits.argmax(-1)
        top = logits[np.arange(len(best)), best]
        return best, 1 / np.exp(logits - top[:, None]).sum(-1)

    def _loops(self, tokens: list[int], token: int) -> bool:
        """Whether the token would complete the fourth copy in a row of the same one to eight tokens."""
        tail = tokens[-31:] + [token]
        return any(len(tail) >= 4 * k and len({tuple(tail[len(tail) - (j + 1) * k: len(tail) - j * k])
                                               for j in range(4)}) == 1 for k in range(1, 9))

    def _once(self, h: Hypothesis) -> int:
        """How many tokens stand before the decoder began to read the same sound again: all of them, as a rule.

        A speaker may repeat a sentence, but the attention then goes on; in a loop it goes back.
        """
        n, tail = len(h.tokens), h.tokens[-REPEATED:]
        for lag in range(3, n - REPEATED + 1):
            if h.tokens[n - REPEATED - lag: n - lag] == tail:
                w = table(h.rows)
                w -= w.mean(0)  # every token looks at some frames
                a, b = w[n - REPEATED:], w[n - REPEATED - lag: n - lag]
                if (a * b).sum() > SAME_GAZE * max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9):
                    w = w.clip(0)
                    gaze = w @ np.arange(w.shape[1]) / (w.sum(1) + 1e-9)
                    begin = n - REPEATED  # the copy may begin with a token or two that differ: a small letter, a mark
                    back = (i for i in range(max(begin - 2, 1), begin) if gaze[i - 1] - gaze[i] > 0.5 / FRAME_S)
                    return next(back, begin)
        return n

    def _settled(self, h: Hypothesis, memory: Memory) -> int:
        """How many tokens are in words that ended well before the end of the confirmed audio."""
        horizon, settled = memory.confirmed - self.margin_s / FRAME_S, 0
        if horizon <= 0 or not h.tokens:
            return 0
        spans = token_spans(table(h.rows))
        for start, end in self.vocabulary.words(h.tokens)[:-1]:
            if spans[end - 1, 1] > horizon:
                break
            settled = end
        return settled


def table(rows: list[np.ndarray]) -> np.ndarray:
    """Attention rows of different ages as one array (n, T): a row knows nothing of frames that came after it."""
    out = np.zeros((len(rows), max((len(r) for r in rows), default=0)), np.float32)
    for line, row in zip(out, rows):
        line[: len(row)] = row
    return out


def _keep(state: DecoderState, tokens: int) -> DecoderState:
    return DecoderState(state.keys[:, :, :, :tokens], state.values[:, :, :, :tokens], np.full(1, tokens, np.int64))
