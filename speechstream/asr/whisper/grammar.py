"""A closed grammar: one of the given phrases comes out, or several in turn, or nothing where none fits well enough.

The phrases compete as hypotheses of a beam search that reads nothing else; the best one is accepted if it is not much less
probable than what the decoder would freely say. A phrase stands only when its stretch of speech has ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from speechstream.asr import search
from speechstream.asr.biasing import Bias
from speechstream.asr.ctc import BEAM, PrefixBeam
from speechstream.asr.incremental import (
    FRAME_S,
    MAX_TOKENS_PER_S,
    Draft,
    Hypothesis,
    attended,
)
from speechstream.asr.search import log_softmax
from speechstream.asr.text_model import TextModel, TextState
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.asr.whisper.ctc import FRAME_S as CTC_FRAME_S, CtcDecoder, CtcHypothesis
from speechstream.events import Word
from speechstream.runtime.requests import Work

PHRASES = 8  # hypotheses that compete
WORSE = 1.5  # nats a token by which a phrase may be less probable than what would freely be said
CTC_WORSE = 2.5


class GrammarDecoder(AttentionDecoder):
    """Whisper's decoder on a leash. Nothing is stable before the end of the segment."""

    def __init__(self, decoder: AttentionDecoder, bias: Bias):
        super().__init__(decoder.vocabulary, decoder.margin_s, 1)
        self.grammar = bias

    def extend(self, h: Hypothesis, model: TextModel, final: bool) -> Work[Hypothesis]:
        empty, limit = h.cache, int(model.frames * FRAME_S * MAX_TOKENS_PER_S) + 8
        free = Draft()
        state, end = yield from self._draft_and_verify(free, [], empty, model, final, True, limit)
        freely = float(np.log(np.maximum([*free.probabilities, end], 1e-30)).sum())
        found = yield from self._search(model, empty, limit)
        # in proportion to the phrase: a short one does not stand for a long speech
        fits = found is not None and found[0] > freely - WORSE * (len(found[1].tokens) + 1)
        best = found[1] if found is not None and fits else Draft()
        return Hypothesis(
            h.cache,  # of no token: all is read anew
            tuple(best.tokens),
            tuple(best.probabilities),
            tuple(best.rows),
            len(best.tokens) if final else 0,
        )

    def _search(
        self, model: TextModel, state: TextState, limit: int
    ) -> Work[tuple[float, Draft] | None]:
        """The most probable text of whole phrases, its end included, and its log probability."""
        v, trie = self.vocabulary, self.grammar.trie
        open_: list[tuple[float, Draft]] = [(0.0, Draft())]
        nodes = np.zeros(1, np.int64)
        best: tuple[float, Draft] | None = None
        feed = [v.prompt]
        while open_ and (best is None or open_[0][0] > best[0]):
            said, state = yield model.step(feed, state, len(feed[0]) - 1)
            logp = log_softmax(said.logits[:, -1, : v.end + 1].astype(np.float64))
            for (score, h), p, node in zip(open_, logp, nodes):
                done = score + float(p[v.end])
                if trie.final[node] and (best is None or done > best[0]):
                    best = done, h
            scores = np.array([s for s, _ in open_])[:, None] + logp
            scores = np.where(trie.allowed(nodes, repeat=True), scores, -np.inf)
            order = np.argsort(-scores, axis=None, kind="stable")[:PHRASES]
            parents, tokens = np.divmod(order, scores.shape[1])
            longer, kept = [], []
            for b, token in zip(parents.tolist(), tokens.tolist()):
                if scores[b, token] == -np.inf or len(open_[b][1].tokens) >= limit:
                    continue
                row = attended(said, b, -1, model.frames)
                extended = open_[b][1].extended(token, float(np.exp(logp[b, token])), row)
                longer.append((float(scores[b, token]), extended))
                kept.append(b)
            open_ = longer
            if open_:
                last = np.array([h.tokens[-1] for _, h in open_])
                nodes = trie.follow(nodes[kept], last, repeat=True)
                state = model.select(state, kept)
                feed = [[t] for t in last.tolist()]
        return best

    def text(self, h: Hypothesis) -> tuple[str, str]:
        said = " ".join(text for text, _, _ in phrases(self.grammar, h.tokens))
        return (said, "") if h.stable else ("", said)

    def words(self, h: Hypothesis, spoken_from: float = 0.0) -> list[Word]:
        return as_given(super().words(h, spoken_from), phrases(self.grammar, h.tokens[: h.stable]))


class CtcGrammarDecoder(CtcDecoder):
    """The CTC head on a leash."""

    search: PrefixBeam

    def __init__(self, decoder: CtcDecoder, bias: Bias):
        self.pieces, self.grammar = decoder.pieces, bias
        beam = getattr(decoder.search, "beam", BEAM)
        self.search = PrefixBeam(max(beam, PHRASES), prune=np.inf, trie=bias.trie, closed=True)

    def extend(self, h: CtcHypothesis, model: TextModel, final: bool) -> Work[CtcHypothesis]:
        yield from ()
        heads = model.heads
        if heads is None:
            raise ValueError("CTC hears the encoder's head, and this memory has none")
        done, known = int(h.state.frames[0]), model.confirmed // 2
        tokens, state = self.search.step(heads[:, done:known], h.state)
        stable = (*h.stable, *tokens[0])  # of the search; nothing of it is said yet
        trial, after = self.search.step(heads[:, known : model.frames // 2], state)
        ended = self.search.ended(after)
        score = float(np.logaddexp(*ended.scores[0, 0]))
        rest = (*trial[0], *self.search.pending(ended)[0])
        freely = float(heads[0, : model.frames // 2].max(-1).astype(np.float64).sum())
        n = len(stable) + len(rest)
        node = int(ended.nodes[0, 0]) if ended.nodes is not None else 0
        fits = self.grammar.trie.final[node] and score > freely - CTC_WORSE * (n + 1)
        if final:
            return CtcHypothesis(state, (*stable, *rest) if fits else ())
        return CtcHypothesis(state, stable, rest if fits else ())

    def text(self, h: CtcHypothesis) -> tuple[str, str]:
        tokens = [t.token for t in h.stable + h.unstable]
        said = " ".join(text for text, _, _ in phrases(self.grammar, tokens))
        return "", said

    def words(self, h: CtcHypothesis, spoken_from: float = 0.0) -> list[Word]:
        if h.unstable:
            return []
        given = phrases(self.grammar, [t.token for t in h.stable])
        return as_given(list(search.words(h.stable, self.pieces, CTC_FRAME_S)), given)


def leashed(decoder: Any, bias: Bias) -> AttentionDecoder | CtcDecoder:
    """A decoder that says phrases of a grammar only. Raises ValueError for a transducer."""
    if isinstance(decoder, CtcDecoder):
        return CtcGrammarDecoder(decoder, bias)
    if isinstance(decoder, AttentionDecoder):
        return GrammarDecoder(decoder, bias)
    raise ValueError("a grammar needs the decoder 'attention' or 'ctc', not the transducer")


def phrases(bias: Bias, tokens: Any) -> list[tuple[str, int, int]]:
    """The whole phrases that tokens say, as they were given, with their first token and past their last."""
    out, trie = [], bias.trie
    node, begin = np.zeros(1, np.int64), 0
    for n, token in enumerate(tokens):
        below = trie.follow(node, np.array([token]))
        if below[0] < 0:  # the one before has ended
            out.append((int(node[0]), begin, n))
            begin, below = n, trie.follow(np.zeros(1, np.int64), np.array([token]))
        node = below
    out.append((int(node[0]), begin, len(tokens)))
    return [(bias.texts[int(trie.sequence[n])], a, b) for n, a, b in out if n > 0 and trie.final[n]]


def as_given(words: list[Word], given: list[tuple[str, int, int]]) -> list[Word]:
    """Words in the spelling of the phrases, where they are as many."""
    spelt = " ".join(text for text, _, _ in given).split()
    if len(spelt) != len(words):
        if not words:
            return []
        text = " ".join(spelt)
        least = min(w.confidence or 0.0 for w in words)
        return [Word(text, words[0].start, words[-1].end, least)] if text else []
    return [replace(w, text=t) for w, t in zip(words, spelt)]
