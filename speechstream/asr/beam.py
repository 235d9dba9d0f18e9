"""Beam search where the greedy hypothesis was in doubt, and only there.

A greedy decoder is right wherever it is sure. So its hypothesis is kept, and from the first token that it was not sure
of a few hypotheses compete; when all but the greedy one have fallen far behind, it stands again up to its next doubt.
Of clear speech next to nothing is searched; of an unfamiliar voice nearly all is.
"""

from __future__ import annotations

import numpy as np

from speechstream.asr.incremental import Draft, IncrementalDecoder, attended, non_repeating
from speechstream.asr.prior import MOST, Judge
from speechstream.asr.search import log_softmax
from speechstream.asr.text_model import TextModel, TextState
from speechstream.runtime.requests import Work

DOUBT = 0.7  # probability below which a greedy token is in doubt
BIASED = 2  # more of them with hot words, whose beginnings are many
NEAR = 8.0  # nats: among tokens that are so near the best one the best few are sought
BEHIND = 2.5  # natural-log distance to the best hypothesis beyond which one is dropped


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
    found = yield from search(decoder, beam, greedy, model, state, limit, end, final, until)
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
) -> Work[list[tuple[float, Draft, TextState]]]:
    """Hypotheses that have ended, the greedy one among them: the log-probability of each from the first doubt on, its
    end included, and the decoder's state after reading it.

    greedy: the whole hypothesis, of which the first `greedy.stable` tokens stand. state: after reading all of it but,
    perhaps, the last token. end: the probability with which it ended there, of interest where no more audio follows.
    until: tokens from this one on are not doubted yet.
    """
    v, n_stable = decoder.vocabulary, greedy.stable
    doubts = [
        i
        for i, p in enumerate([*greedy.probabilities, end if final else 1.0])
        if n_stable <= i < until and p < DOUBT
    ]
    if not doubts:
        return [(0.0, greedy, state)]
    whole, at = state, doubts[0]
    open_ = [(0.0, greedy.prefix(at))]
    # greedy itself is among the candidates, also where its tokens fall out of the beam
    finished = [(float(np.log([*greedy.probabilities[at:], end]).sum()), greedy, whole)]
    if (bias := decoder.bias) is not None:
        gained = sum(bias.gains([*greedy.tokens, v.end], at))
        finished = [(finished[0][0] + gained, greedy, whole)]
    state, feed = _reread(model, whole, v.prompt + greedy.tokens[:at])
    beam += 0 if decoder.bias is None else BIASED
    most = min(beam, v.end)  # continuations looked at, beside the end
    while open_ and open_[0][0] > max(
        f[0] for f in finished
    ):  # else nothing open can become more probable
        said, state = yield model.step(feed, state, len(feed[0]) - 1)
        logp = log_softmax(said.logits[:, -1, : v.end + 1].astype(np.float64))
        total = logp
        if bias is not None:
            total = logp + np.stack([bias.row(h.tokens) for _, h in open_])
        options = sorted(
            (
                (score + total[b, t], b, int(t))
                for b, (score, _) in enumerate(open_)
                for t in _largest(total[b], most + 1)
            ),
            reverse=True,
        )
        longer: list[tuple[float, Draft]] = []
        parents: list[int] = []
        lead = options[0][0]
        if bias is not None:  # what may be taken back drops nobody
            lead = max(s - bias.held([*open_[b][1].tokens, t]) for s, b, t in options)
        for score, b, token in options:
            h = open_[b][1]
            if score < lead - BEHIND or len(longer) == beam:
                break
            if token == v.end and total[b].argmax() != v.end:
                continue  # a hypothesis that would rather go on does not end: short ones are too probable
            if token == v.end or len(h.tokens) >= limit or decoder.loops(h.tokens, token):
                finished.append((score, h, model.select(state, [b])))
                continue
            row = attended(said, b, -1, model.frames)
            longer.append((score, h.extended(token, float(np.exp(logp[b, token])), row)))
            parents.append(b)
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
            open_ = [(score, greedy.prefix(at))]
            state, feed = _reread(model, whole, v.prompt + greedy.tokens[:at])
            continue
        state = model.select(state, parents)
        feed = [[h.tokens[-1]] for _, h in open_]
    return finished


def _largest(scores: np.ndarray, n: int) -> np.ndarray:
    """Where the n largest of the scores are, in any order. Most of a vocabulary is far below them."""
    near = np.flatnonzero(scores > scores.max() - NEAR)
    if len(near) < n:
        return np.argpartition(-scores, n - 1)[:n]
    return near[np.argpartition(-scores[near], n - 1)[:n]]


def _reread(
    model: TextModel, state: TextState, context: list[int]
) -> tuple[TextState, list[list[int]]]:
    """The state before the last token of a context, and that token to read."""
    state = model.truncate(state, len(context) - 1)
    return state, [context[model.length(state) :]]
