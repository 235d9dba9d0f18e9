"""Incremental decoding with a text model: a draft that is verified, a stable part that only grows.

Each time more audio is known, the previous hypothesis is read back in one call as a draft; its tokens stand
as far as the decoder would choose them again, and greedy decoding goes on from there (so an unchanged
hypothesis costs one call). Where it comes back to a token of the old hypothesis, what followed that is the next draft:
one word that is now another does not cost a call for each token behind it. Until more is confirmed it is not asked
for more than a head on the encoder has heard: what the head misses is written a little later. A word becomes stable once it ended `margin_s` before the end of the confirmed
audio and another word follows it; its tokens and their keys and values are then never computed again,
hence never retracted.

What differs between decoders is when a token may be said (`accept`) and when it stands (`settled`): see
`asr.whisper.attention` and `asr.whisper.gate`. Of the text model no more is known than `asr.text_model` says.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from speechstream.asr.biasing import Bias, HotWords, compile_bytes
from speechstream.asr.guess import Guesser, Heard
from speechstream.asr.prior import Prior
from speechstream.asr.text_model import Pieces, Said, TextModel, TextState
from speechstream.asr.timing import token_spans
from speechstream.events import Word
from speechstream.runtime.requests import Work
from speechstream.state import bounded, cache

FRAME_S = 0.02
MAX_TOKENS_PER_S = 9  # nobody speaks faster; what exceeds it is a loop
REPEATED = 8  # tokens in a row that were written before, of the same sound: it is read once more
RESUMED = 6  # old tokens that come next, among which a new one is looked for
SAME_ATTENTION = 0.8  # correlation from which two tokens' attention is to the same sound
STICKY = 1.0  # a drafted token is replaced by one at least so many nats more probable: less flicker


@dataclass(frozen=True)
class Hypothesis:
    """Tokens of one segment, of which the first `stable` are final.

    rows: the decoder's attention when it chose each, (frames,). cache: of the prompt and the stable tokens
    but the last. pair: of frames, in which a transducer said the last stable token.
    """

    cache: TextState = cache()
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())
    probabilities: tuple[float, ...] = ()
    rows: tuple[np.ndarray, ...] = ()
    stable: int = 0
    pair: int = 0


@dataclass
class Draft:
    """A hypothesis while one step works on it."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    stable: int = 0
    pairs: list[int] = field(default_factory=list)  # of the new tokens, after the last stable one's
    # the logits (vocabulary,) and attention that each token was chosen from, and the end; None where they are not kept
    said: list[tuple[np.ndarray, np.ndarray] | None] = field(default_factory=list)

    def cut(self, n: int) -> None:
        """Forget what follows the first n tokens."""
        del self.tokens[n:], self.probabilities[n:], self.rows[n:], self.said[n:]

    def append(self, token: int, probability: float, row: np.ndarray) -> None:
        self.tokens.append(token)
        self.probabilities.append(probability)
        self.rows.append(row)

    def prefix(self, n: int) -> Draft:
        return Draft(self.tokens[:n], self.probabilities[:n], self.rows[:n], self.stable)

    def extended(self, token: int, probability: float, row: np.ndarray) -> Draft:
        out = self.prefix(len(self.tokens))
        out.append(token, probability, row)
        return out


class IncrementalDecoder:
    """The algorithm; one instance serves all streams, each with its `Hypothesis`."""

    head: str | None = None  # of the encoder, that this decoder listens to
    repeats = True  # whether the decoder may read the same sound again
    searches = False  # whether what was said is of interest to `rescore`
    bias: Bias | None = None  # hot words
    prior: Prior | None = None  # that chooses among what a search considers
    guesser: Guesser | None = None  # of what will be said, to be verified together

    def __init__(self, vocabulary: Pieces, margin_s: float = 0.5):
        self.vocabulary, self.margin_s = vocabulary, margin_s

    def init_state(self, state: TextState) -> Hypothesis:
        """A hypothesis that says nothing. state: the text model's, before the first token."""
        return Hypothesis(cache=state)

    def compile(self, words: HotWords) -> Bias:
        """Hot words as tokens, for `biased`."""
        return compile_bytes(words, self.vocabulary.pieces, self.vocabulary.end)

    def biased(self, bias: Bias) -> IncrementalDecoder:
        """This decoder with hot words."""
        decoder = copy.copy(self)
        decoder.bias = bias
        return decoder

    def accept(
        self, d: Draft, n: int, token: int, said: Said, at: int, model: TextModel, final: bool
    ) -> bool:
        """Whether the token that output n predicts, row `at` of the alignment, is said now; else all wait."""
        raise TypeError("a decoder says when a token is said")

    def settled(self, d: Draft, model: TextModel) -> int:
        """How many tokens are in words that ended well before the end of the confirmed audio."""
        raise TypeError("a decoder says when a token stands")

    def choose(
        self, logits: np.ndarray, draft: list[int], context: list[int], begin: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best token of each row and its probability; a drafted one stays unless another is clearly better.

        Row n follows the first begin + n tokens of context. Hot words count for the choice, not in the probability.
        """
        logits = logits[:, : self.vocabulary.end + 1]  # what lies beyond starts transcripts
        if self.bias is None:
            best = logits.argmax(-1)
            for n, token in enumerate(draft[: len(best)]):
                if logits[n, token] > logits[n, best[n]] - STICKY:
                    best[n] = token
        else:
            best = self.bias.best(logits, context, begin)
            for n, token in enumerate(draft[: len(best)]):
                if token != best[n]:
                    gained = self.bias.row(context[: begin + n])[[token, best[n]]]
                    drafted, other = logits[n, [token, best[n]]] + gained
                    best[n] = token if drafted > other - STICKY else best[n]
        chosen = logits[np.arange(len(best)), best]
        return best, 1 / np.exp(logits - chosen[:, None]).sum(-1)

    def rescore(
        self, d: Draft, model: TextModel, state: TextState, limit: int, end: float, final: bool
    ) -> Work[tuple[Draft, TextState]]:
        """A chance to search again before words become stable."""
        yield from ()
        return d, state

    def extend(self, h: Hypothesis, model: TextModel, final: bool) -> Work[Hypothesis]:
        """Bring a hypothesis up to date with its model. final: no more audio follows, all becomes stable."""
        v, n_stable = self.vocabulary, h.stable
        verify = model.has_news(final)
        heard = self._heard(model)
        if not verify and heard is not None and not heard.left(h.tokens):
            return h
        # keys of stable tokens recall where the sound ended when they were read: they are read anew
        before = model.truncate(h.cache, 0) if verify else h.cache
        new = Draft(
            list(h.tokens[:n_stable]),
            list(h.probabilities[:n_stable]),
            list(h.rows[:n_stable]),
            n_stable,
            [h.pair],
            [None] * n_stable,
        )
        draft = list(h.tokens[n_stable:])
        limit = int(model.frames * FRAME_S * MAX_TOKENS_PER_S) + 8
        state, end = yield from self._draft_and_verify(
            new, draft, before, model, final, verify, limit, heard
        )
        pair = h.pair
        if verify:
            new, state = yield from self.rescore(new, model, state, limit, end, final)
            settled = len(new.tokens) if final else max(n_stable, self.settled(new, model))
            if settled > n_stable and len(new.pairs) > settled - n_stable:
                pair = new.pairs[settled - n_stable]
            new.stable = settled
        return Hypothesis(
            model.truncate(state, len(v.prompt) + new.stable - 1),
            tuple(new.tokens),
            tuple(new.probabilities),
            tuple(new.rows),
            new.stable,
            pair,
        )

    def _draft_and_verify(
        self,
        new: Draft,
        draft: list[int],
        state: TextState,
        model: TextModel,
        final: bool,
        verify: bool,
        limit: int,
        heard: Heard | None = None,
    ) -> Work[tuple[TextState, float]]:
        """Read the draft, keep what would be chosen again, go on greedily: the state, and the end's probability."""
        v, n_stable = self.vocabulary, new.stable
        context = v.prompt + new.tokens
        n_cached = model.length(state)
        dated, old, drafted = not verify, draft, [] if verify else draft
        draft = draft + (heard.after([*new.tokens, *draft], final) if heard else [])
        feed = context[n_cached:] + draft
        first = len(context) - n_cached - 1  # this output predicts the first new token
        while True:
            said, state = yield model.step([feed], state, first)
            if not dated:  # what is stable is dated anew
                read = range(len(v.prompt) - 1, first)
                new.rows = [attended(said, 0, at, model.frames) for at in read]
                dated = True
            context, begin = [*new.tokens, *draft], len(new.tokens)
            best, probability = self.choose(said.logits[0], drafted, context, begin)
            for n, token in enumerate(best.tolist()):
                if self.searches:
                    row = attended(said, 0, first + n, model.frames)
                    new.said.append((said.logits[0, n], row))
                if not self.accept(new, n, token, said, first + n, model, final):
                    return state, float(probability[n])
                if len(new.tokens) >= limit or self.loops(new.tokens, token):
                    return state, 1.0
                row = attended(said, 0, first + n, model.frames)
                new.append(token, float(probability[n]), row)
                if self.repeats and (kept := non_repeating(new)) < len(new.tokens):
                    new.cut(max(kept, n_stable))
                    return state, 1.0
                if n >= len(draft) or token != draft[n]:
                    break
            # the last token has been chosen but not read
            state = model.truncate(state, len(v.prompt) + len(new.tokens) - 1)
            old, draft = old[n:], []
            if new.tokens[-1] in old[:RESUMED]:
                old = draft = old[old.index(new.tokens[-1]) + 1 :]
            if heard is not None:
                if not verify and not draft and not heard.left(new.tokens):
                    return state, 1.0
                draft = draft + heard.after([*new.tokens, *draft], final)
            feed, first, drafted = [new.tokens[-1], *draft], 0, []

    def _heard(self, model: TextModel) -> Heard | None:
        """What a head on the encoder hears, where there is one."""
        if self.guesser is None or model.guess is None:
            return None
        return Heard(self.guesser, *self.guesser.text(model.guess))

    def text(self, h: Hypothesis) -> tuple[str, str]:
        """The stable and the unstable part."""
        tokens = list(h.tokens)
        return self.vocabulary.text(tokens[: h.stable]), self.vocabulary.text(tokens[h.stable :])

    def words(self, h: Hypothesis, spoken_from: float = 0.0) -> list[Word]:
        """The words of the stable part, in seconds from the segment's start. Nobody speaks before `spoken_from`."""
        tokens, out = list(h.tokens[: h.stable]), []
        table = attention_table(h.rows)  # the unstable ones have their share
        # the first token's attention rests on the silence before it
        silent = min(int(spoken_from / FRAME_S), max(table.shape[1] - len(table), 0))
        spans = (token_spans(table[:, silent:]) + silent) * FRAME_S
        for a, b in self.vocabulary.words(tokens):
            if text := self.vocabulary.text(tokens[a:b]):
                confidence = min(h.probabilities[a:b])
                out.append(Word(text, float(spans[a, 0]), float(spans[b - 1, 1]), confidence))
        return out

    def loops(self, tokens: list[int], token: int) -> bool:
        """Whether the token would complete the fourth copy in a row of the same one to eight tokens."""
        tail = tokens[-31:] + [token]
        for k in range(1, len(tail) // 4 + 1):
            if tail[-4 * k : -k] == tail[-3 * k :]:  # each copy is the next one
                return True
        return False


def attended(said: Said, hypothesis: int, at: int, frames: int) -> np.ndarray:
    """What a token attended to, (frames,); (0,) of a text model that does not say."""
    if said.alignment is None:
        return np.zeros(0, np.float32)
    return said.alignment[hypothesis, at, :frames].copy()


def non_repeating(d: Draft) -> int:
    """How many tokens stand before the decoder began to read the same sound again: all of them, as a rule.

    A speaker may repeat a sentence, but the attention then goes on; in a loop it goes back.
    """
    n, tail = len(d.tokens), d.tokens[-REPEATED:]
    for lag in range(3, n - REPEATED + 1):
        if d.tokens[n - REPEATED - lag : n - lag] != tail:
            continue
        w = attention_table(d.rows)
        w -= w.mean(0)  # every token looks at some frames
        a, b = w[n - REPEATED :], w[n - REPEATED - lag : n - lag]
        if (a * b).sum() > SAME_ATTENTION * max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9):
            w = w.clip(0)
            centroid = w @ np.arange(w.shape[1]) / (w.sum(1) + 1e-9)
            begin = n - REPEATED  # the copy may begin with a token or two that differ
            for i in range(max(begin - 2, 1), begin):
                if centroid[i - 1] - centroid[i] > 0.5 / FRAME_S:
                    return i
            return begin
    return n


def attention_table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Attention rows of different ages as one array (n, T): a row knows nothing of frames that came after it."""
    out = np.zeros((len(rows), max((len(r) for r in rows), default=0)), np.float32)
    for line, row in zip(out, rows):
        line[: len(row)] = row
    return out
