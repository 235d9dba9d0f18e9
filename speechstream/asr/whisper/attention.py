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

from speechstream.asr.whisper import beam as beams
from speechstream.events import Word
from speechstream.asr.whisper.memory import Decode, Memory, keep
from speechstream.asr.whisper.timing import token_spans
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.asr.whisper.networks import DecoderState, Engine

FRAME_S = 0.02
TOKENS_PER_S = 9  # nobody speaks faster; what exceeds it is a loop
REPEATED = (
    8  # tokens in a row that were written before, of the same sound: the decoder reads it once more
)
SAME_GAZE = 0.8  # correlation from which two tokens' attention is to the same sound
STICKY = 1.0  # a drafted token is replaced by one at least so many nats more probable: text flickers less


@dataclass
class Hypothesis:
    """Tokens of one segment. The first `stable` of them are final. rows: where the decoder looked for each."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    stable: int = 0
    cache: DecoderState | None = None  # of the prompt and the stable tokens but the last
    pair: int = 0  # of frames in which a transducer said the last stable token

    def cut(self, n: int) -> None:
        """Forget what follows the first n tokens."""
        del self.tokens[n:], self.probabilities[n:], self.rows[n:]

    def and_then(self, token: int, probability: float, row: np.ndarray) -> "Hypothesis":
        return Hypothesis(
            [*self.tokens, token],
            [*self.probabilities, probability],
            [*self.rows, row],
            self.stable,
        )


class AttentionDecoder:
    """Incremental decoding; one instance serves all streams, each with its `Hypothesis`.

    Greedy, and with a beam the doubtful places are searched again before their words become stable (`asr.beam`).
    """

    def __init__(self, vocabulary: Vocabulary, margin_s: float = 0.5, beam: int = 1):
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        self.vocabulary, self.margin_s, self.beam = vocabulary, margin_s, beam

    def init_state(self, engine: Engine) -> Hypothesis:
        return Hypothesis(cache=engine.decoder_state())

    def extend(
        self, hypothesis: Hypothesis, memory: Memory, final: bool
    ) -> Generator[Decode, tuple, Hypothesis]:
        """Bring a hypothesis up to date with its memory. `final` says that no more audio follows: all becomes stable."""
        v, kept = self.vocabulary, hypothesis.stable
        # keys of stable tokens recall where the sound ended when they were read
        again = careful = memory.news(final)
        cache = keep(hypothesis.cache, 0) if again else hypothesis.cache
        context = v.prompt + hypothesis.tokens[:kept]
        draft = hypothesis.tokens[kept:]
        new = Hypothesis(
            hypothesis.tokens[:kept], hypothesis.probabilities[:kept], hypothesis.rows[:kept], kept
        )
        known = int(cache.tokens[0])
        feed, first = (
            context[known:] + draft,
            len(context) - known - 1,
        )  # output `first` predicts the first new token
        limit = int(memory.frames * FRAME_S * TOKENS_PER_S) + 8
        state, ended, end = cache, False, 1.0
        while not ended:
            said, state = yield Decode(np.array([feed], np.int64), memory, state, first)
            alignment = said.alignment
            if again:  # and they are dated anew
                new.rows = [
                    row[: memory.frames].copy() for row in alignment[0, len(v.prompt) - 1 : first]
                ]
                again = False
            best, probability = self._choose(said.logits[0], [] if careful else draft)
            for n, token in enumerate(best.tolist()):
                if token == v.end or len(new.tokens) >= limit or self.loops(new.tokens, token):
                    ended, end = True, float(probability[n]) if token == v.end else 1.0
                    break
                new.tokens.append(token)
                new.probabilities.append(float(probability[n]))
                new.rows.append(alignment[0, first + n, : memory.frames].copy())
                if (once := self.once(new)) < len(new.tokens):
                    new.cut(max(once, kept))
                    ended = True
                    break
                if n >= len(draft) or token != draft[n]:
                    break
            if not ended:  # the last token has been chosen but not read
                state = keep(state, len(v.prompt) + len(new.tokens) - 1)
                feed, first, draft = new.tokens[-1:], 0, []
        if careful:
            if (
                self.beam > 1
            ):  # doubts about words that cannot become stable yet are left for when they can
                until = limit + 1 if final else self._settled(new, memory)
                new, state = yield from beams.refine(
                    self, new, memory, state, limit, end, final, until
                )
            new.stable = len(new.tokens) if final else max(kept, self._settled(new, memory))
        new.cache = keep(state, len(v.prompt) + new.stable - 1)
        return new

    def text(self, h: Hypothesis) -> tuple[str, str]:
        """The stable and the unstable part."""
        return self.vocabulary.text(h.tokens[: h.stable]), self.vocabulary.text(
            h.tokens[h.stable :]
        )

    def words(self, h: Hypothesis) -> list[Word]:
        """The words of the stable part, in seconds from the segment's start."""
        tokens, out = h.tokens[: h.stable], []
        spans = (
            token_spans(table(h.rows)) * FRAME_S
        )  # with the unstable ones, which have their share of the frames
        for a, b in self.vocabulary.words(tokens):
            if text := self.vocabulary.text(tokens[a:b]):
                out.append(
                    Word(
                        text, float(spans[a, 0]), float(spans[b - 1, 1]), min(h.probabilities[a:b])
                    )
                )
        return out

    def _choose(self, logits: np.ndarray, draft: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The best token of each row and its probability; a drafted one stays unless another is clearly better."""
        logits = logits[
            :, : self.vocabulary.end + 1
        ]  # what lies beyond starts transcripts and is never chosen
        best = logits.argmax(-1)
        for n, token in enumerate(draft[: len(best)]):
            if logits[n, token] > logits[n, best[n]] - STICKY:
                best[n] = token
        chosen = logits[np.arange(len(best)), best]
        return best, 1 / np.exp(logits - chosen[:, None]).sum(-1)

    def loops(self, tokens: list[int], token: int) -> bool:
        """Whether the token would complete the fourth copy in a row of the same one to eight tokens."""
        tail = tokens[-31:] + [token]
        return any(
            len(tail) >= 4 * k
            and len({tuple(tail[len(tail) - (j + 1) * k : len(tail) - j * k]) for j in range(4)})
            == 1
            for k in range(1, 9)
        )

    def once(self, h: Hypothesis) -> int:
        """How many tokens stand before the decoder began to read the same sound again: all of them, as a rule.

        A speaker may repeat a sentence, but the attention then goes on; in a loop it goes back.
        """
        n, tail = len(h.tokens), h.tokens[-REPEATED:]
        for lag in range(3, n - REPEATED + 1):
            if h.tokens[n - REPEATED - lag : n - lag] == tail:
                w = table(h.rows)
                w -= w.mean(0)  # every token looks at some frames
                a, b = w[n - REPEATED :], w[n - REPEATED - lag : n - lag]
                if (a * b).sum() > SAME_GAZE * max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9):
                    w = w.clip(0)
                    gaze = w @ np.arange(w.shape[1]) / (w.sum(1) + 1e-9)
                    begin = (
                        n - REPEATED
                    )  # the copy may begin with a token or two that differ: a small letter, a mark
                    back = (
                        i
                        for i in range(max(begin - 2, 1), begin)
                        if gaze[i - 1] - gaze[i] > 0.5 / FRAME_S
                    )
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
