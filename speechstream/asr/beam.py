"""Beam search where the greedy hypothesis was in doubt, and only there.

A greedy decoder is right wherever it is sure. So its hypothesis is kept, and from the first token that it was not sure
of a few hypotheses compete, as long as they can become more probable than it is as a whole; when all but the greedy one have
fallen far behind, it stands again up to its next doubt. Of clear speech next to nothing is searched; of an unfamiliar voice
nearly all is.

What the decoder says after the greedy hypothesis is known from when it was verified, and is not asked for again. Another
hypothesis mostly goes on as the greedy one does behind the word that differs, so it is read together with what would follow:
that is no part of it before the search has come to it, it only saves a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from speechstream.asr.incremental import Draft, IncrementalDecoder, attended, non_repeating
from speechstream.asr.prior import MOST, Judge
from speechstream.asr.text_model import Pieces, TextModel, TextState
from speechstream.runtime.requests import Work

DOUBT = 0.7  # probability below which a greedy token is in doubt
BIASED = 2  # more of them with hot words, whose beginnings are many
NEAR = 8.0  # nats: among tokens that are so near the best one the best few are sought
BEHIND = 2.5  # natural-log distance to the best hypothesis beyond which one is dropped
AHEAD = 3  # tokens that are read with one that differs, in case they follow; more with one behind which they did
MOST_AHEAD = 12
# tokens from where one is expected in the greedy hypothesis, within which it is looked for
NEARBY = 4


@dataclass(frozen=True)
class _Reading:
    """What the decoder says after a context: logits (vocabulary,) and attention (frames,). state: whose row `row` has read
    the context, and perhaps more."""

    logits: np.ndarray
    attention: np.ndarray
    state: TextState
    row: int

    @cached_property
    def total(self) -> float:
        """What the logits exceed the log-probabilities by."""
        most = self.logits.max()
        return float(most) + float(np.log(np.exp(self.logits - most).sum(dtype=np.float64)))


@dataclass(frozen=True)
class _Place:
    """Where a hypothesis stands in the greedy one: the token that is expected next, and how many in turn were as expected."""

    next: int
    agreed: int = 0

    def following(self, greedy: list[int]) -> list[int]:
        return greedy[self.next : self.next + min(AHEAD + self.agreed, MOST_AHEAD)]

    def after(self, token: int, greedy: list[int], v: Pieces) -> _Place:
        at = self.next
        if greedy[at : at + 1] == [token]:
            return _Place(at + 1, self.agreed + 1)
        near = range(max(at - NEARBY, 0), min(at + NEARBY + 1, len(greedy)))
        if same := [i for i in near if greedy[i] == token]:
            return _Place(min(same, key=lambda i: abs(i - at)) + 1)
        opens = [v.pieces[i][:1] == b" " for i in (token, *greedy[at : at + 1])]
        return _Place(at + (opens != [False, True]))  # else it is more of the word before


def refine(
    decoder: IncrementalDecoder,
    beam: int,
    greedy: Draft,
    model: TextModel,
    state: TextState,
    limit: int,
    end: float,
    final: bool,
    until: int,
) -> Work[tuple[Draft, TextState]]:
    """A hypothesis at least as probable, its end included, and the decoder's state after reading it: the best of `search`,
    which a prior may see otherwise."""
    found = yield from search(
        decoder, beam, greedy, model, state, limit, end, final, until, decoder.prior is None
    )
    if decoder.prior is not None and len(found) > 1:
        found = sorted(found, key=lambda f: -f[0])[:MOST]
        texts = tuple(decoder.vocabulary.text(h.tokens) for _, h, _ in found)
        if len(set(texts)) > 1:
            gained = yield Judge(decoder.prior, texts)
            found = [(score + g, h, read) for (score, h, read), g in zip(found, gained)]
    _, best, read = max(found, key=lambda f: f[0])
    best.cut(max(non_repeating(best), greedy.stable))
    return best, read


def search(
    decoder: IncrementalDecoder,
    beam: int,
    greedy: Draft,
    model: TextModel,
    state: TextState,
    limit: int,
    end: float,
    final: bool,
    until: int,
    only_best: bool = False,
) -> Work[list[tuple[float, Draft, TextState]]]:
    """Hypotheses that have ended, the greedy one among them: the log-probability of each from the first doubt on, its
    end included, and the decoder's state after reading it.

    greedy: the whole hypothesis, of which the first `greedy.stable` tokens stand. state: after reading all of it but,
    perhaps, the last token. end: the probability with which it ended there, of interest where no more audio follows.
    until: tokens from this one on are not doubted yet. only_best: no more is asked than which is the most probable one.
    """
    v, n_stable = decoder.vocabulary, greedy.stable
    doubts = [
        i
        for i, p in enumerate([*greedy.probabilities, end if final else 1.0])
        if n_stable <= i < until and p < DOUBT
    ]
    if not doubts:
        return [(0.0, greedy, state)]
    at, begin, prompt = doubts[0], doubts[0], len(v.prompt)
    open_ = [(0.0, greedy.prefix(at), _Place(at))]
    # greedy itself is among the candidates, also where its tokens fall out of the beam
    finished = [(float(np.log([*greedy.probabilities[at:], end]).sum()), greedy, state)]
    if (bias := decoder.bias) is not None:
        gained = sum(bias.gains([*greedy.tokens, v.end], at))
        finished = [(finished[0][0] + gained, greedy, state)]
    known: dict[tuple[int, ...], _Reading] = {}  # by the tokens from the first doubt on
    for i in range(at, len(greedy.tokens) + 1):
        said = greedy.said[i] if i < len(greedy.said) else None
        if said is not None:
            known[tuple(greedy.tokens[at:i])] = _Reading(said[0][: v.end + 1], said[1], state, 0)
    # a hypothesis only becomes less probable: one that is no better than one that has ended is never the best. Hot words
    # may still come
    only_best = only_best and bias is None
    beam += 0 if bias is None else BIASED
    most = min(beam, v.end)  # continuations looked at, beside the end
    while open_ and open_[0][0] > (ended := max(f[0] for f in finished)):
        asked = [(h, place) for _, h, place in open_ if tuple(h.tokens[begin:]) not in known]
        if asked:
            feed = [[(v.prompt + h.tokens)[-1], *p.following(greedy.tokens)] for h, p in asked]
            # a single row is summed in another order than several: so what is said does not depend on what is read with it
            width = max(2, *map(len, feed))
            before = [known.get(tuple(h.tokens[begin:-1])) for h, _ in asked]
            parents = [(state, 0) if r is None else (r.state, r.row) for r in before]
            length = prompt + len(asked[0][0].tokens) - 1
            padded = [[*tokens, *[v.end] * (width - len(tokens))] for tokens in feed]
            read, after = yield model.step(padded, model.gather(parents, length))
            for b, ((h, _), tokens) in enumerate(zip(asked, feed)):
                for n in range(len(tokens)):
                    context = (*h.tokens[begin:], *tokens[1 : n + 1])
                    logits = read.logits[b, n, : v.end + 1]
                    found = _Reading(logits, attended(read, b, n, model.frames), after, b)
                    known.setdefault(context, found)
        readings = [known[tuple(h.tokens[begin:])] for _, h, _ in open_]
        options: list[tuple[float, int, int]] = []
        ends: list[bool] = []  # whether a hypothesis would rather end
        for b, ((score, h, _), r) in enumerate(zip(open_, readings)):
            scores = r.logits if bias is None else r.logits + bias.row(h.tokens)
            ends.append(scores.argmax() == v.end)
            options += [
                (score + float(scores[t]) - r.total, b, int(t)) for t in _largest(scores, most + 1)
            ]
        options.sort(reverse=True)
        longer: list[tuple[float, Draft, _Place]] = []
        lead = options[0][0]
        if bias is not None:  # what may be taken back drops nobody
            lead = max(s - bias.held([*open_[b][1].tokens, t]) for s, b, t in options)
        for score, b, token in options:
            (_, h, place), r = open_[b], readings[b]
            if score < lead - BEHIND or len(longer) == beam or (only_best and score <= ended):
                break
            if token == v.end and not ends[b]:
                continue  # a hypothesis that would rather go on does not end: short ones are too probable
            if token == v.end or len(h.tokens) >= limit or decoder.loops(h.tokens, token):
                own = model.gather([(r.state, r.row)], prompt + len(h.tokens))
                finished.append((score, h, own))
                continue
            probability = float(np.exp(float(r.logits[token]) - r.total))
            further = place.after(token, greedy.tokens, v)
            longer.append((score, h.extended(token, probability, r.attention), further))
        open_ = longer
        n = len(open_[0][1].tokens) if open_ else 0
        if len(open_) == 1 and len(finished) == 1 and open_[0][1].tokens == greedy.tokens[:n]:
            later = [i for i in doubts if i >= n]
            if not later:
                return finished
            at = later[0]
            score = open_[0][0] + float(np.log(greedy.probabilities[n:at]).sum())
            if bias is not None:
                score += sum(bias.gains(greedy.tokens[:at], n))
            open_ = [(score, greedy.prefix(at), _Place(at))]
    return finished


def _largest(scores: np.ndarray, n: int) -> np.ndarray:
    """Where the n largest of the scores are, in any order. Most of a vocabulary is far below them."""
    near = np.flatnonzero(scores > scores.max() - NEAR)
    if len(near) < n:
        return np.argpartition(-scores, n - 1)[:n]
    return near[np.argpartition(-scores[near], n - 1)[:n]]
