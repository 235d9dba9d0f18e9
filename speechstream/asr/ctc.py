"""Connectionist temporal classification (Graves et al. 2006): streaming greedy and prefix beam search, alignment.

All of it works on log probabilities (B, T, V) in numpy, for streams that need not be in step (`lengths`), block by
block: any division of the frames into blocks gives the same tokens, frames and confidences. A search is used as

    tokens, state = search.step(log_probs, state)   # what became certain: append it to what came before
    rest = search.pending(state)                    # the best continuation for now: may still change
    tokens, state = search.finish(state)            # at an endpoint or the end: the rest, and a fresh start
    state.blanks                                    # frames since the last one that was not blank: for endpointing
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from speechstream.asr.search import Hypothesis, Token, check_log_probs, n_best
from speechstream.lm.constraints import TokenTrie

BLANK = 0
BEAM = 8  # prefixes kept
CANDIDATES = 16  # pieces a frame may extend a prefix with
PRUNE = 10.0  # natural-log distance to the best prefix beyond which a prefix is dropped
PENDING = 128  # tokens a prefix may hold before its oldest is settled by force


@dataclass(frozen=True)
class GreedyState:
    """Where each of B streams stands between two blocks; `token` is the run of equal labels that is still open."""

    token: np.ndarray  # (B,) int64, blank where no run is open
    start: np.ndarray  # (B,) int64 frame where the run began
    peak: np.ndarray  # (B,) float64 greatest log probability within the run
    blanks: np.ndarray  # (B,) int64 blank frames since the last token
    frames: np.ndarray  # (B,) int64 frames consumed


class Greedy:
    """The best label of each frame, repeats merged, blanks removed.

    A token's confidence is the greatest probability within its frames. It is returned once its run of frames has
    ended, and is `pending` from its first frame on.
    """

    def __init__(self, blank: int = BLANK):
        self.blank = blank

    def init_state(self, batch: int = 1) -> GreedyState:
        zeros = np.zeros(batch, np.int64)
        return GreedyState(np.full(batch, self.blank), zeros, np.zeros(batch), zeros, zeros)

    def step(
        self, log_probs: np.ndarray, state: GreedyState, lengths: np.ndarray | None = None
    ) -> tuple[list[list[Token]], GreedyState]:
        """Search a block (B, T, V), of which `lengths` (B,) frames count: the tokens of each stream that ended."""
        lengths = check_log_probs(log_probs, lengths, len(state.frames))
        best = log_probs.argmax(-1)
        value = np.take_along_axis(log_probs, best[..., None], -1)[..., 0].astype(np.float64)
        ended: list[list[Token]] = []
        token, start, peak, blanks = (
            a.copy() for a in (state.token, state.start, state.peak, state.blanks)
        )
        for b, n in enumerate(lengths):
            labels, out = best[b, :n], []
            edges = np.flatnonzero(np.diff(labels, prepend=token[b]))  # where runs begin
            goes_on = int(edges[0]) if edges.size else int(n)
            if goes_on:
                peak[b] = max(peak[b], value[b, :goes_on].max())
            for left, right in zip(edges, np.append(edges[1:], n)):
                if token[b] != self.blank:
                    out.append(
                        Token(
                            int(token[b]),
                            int(start[b]),
                            int(state.frames[b] + left),
                            float(peak[b]),
                        )
                    )
                token[b], start[b], peak[b] = (
                    labels[left],
                    state.frames[b] + left,
                    value[b, left:right].max(),
                )
            ended.append(out)
            blanks[b] = _trailing_blanks(labels, self.blank, blanks[b])
        return ended, GreedyState(token, start, peak, blanks, state.frames + lengths)

    def pending(self, state: GreedyState) -> list[list[Token]]:
        """The token of each stream whose frames have not ended: none or one."""
        return [
            [Token(int(k), int(s), int(f), float(p))] if k != self.blank else []
            for k, s, f, p in zip(state.token, state.start, state.frames, state.peak)
        ]

    def finish(self, state: GreedyState) -> tuple[list[list[Token]], GreedyState]:
        """End what is open, and begin anew at the same frame."""
        fresh = self.init_state(len(state.frames))
        return self.pending(state), replace(fresh, frames=state.frames, blanks=state.blanks)

    def __call__(
        self, log_probs: np.ndarray, lengths: np.ndarray | None = None
    ) -> list[list[Token]]:
        """Search whole utterances (B, T, V)."""
        ended, state = self.step(log_probs, self.init_state(len(log_probs)), lengths)
        return [a + b for a, b in zip(ended, self.pending(state))]


@dataclass(frozen=True)
class BeamState:
    """W prefixes of each of B streams, best first, of at most L tokens that are not settled yet.

    The axis of 2 tells paths that end in blank (0) from those that end in the prefix's last token (1).
    """

    tokens: np.ndarray  # (B, W, L) int64
    length: np.ndarray  # (B, W) int64
    scores: np.ndarray  # (B, W, 2) float64 log probability of all the prefix's paths
    path: np.ndarray  # (B, W, 2) float64 log probability of the best of them, whose frames follow
    start: np.ndarray  # (B, W, 2, L) int64
    end: np.ndarray  # (B, W, 2, L) int64
    peak: np.ndarray  # (B, W, 2, L) float64 greatest log probability within each token's frames
    floor: np.ndarray  # (B,) int64 frame where the last settled token ended
    blanks: np.ndarray  # (B,) int64 frames since the last whose best label was not blank
    frames: np.ndarray  # (B,) int64 frames consumed
    nodes: np.ndarray | None = None  # (B, W) int64 in the trie of a biased search


class PrefixBeam:
    """Prefix beam search (Graves 2012; Hannun et al. 2014): sums over the paths of each prefix, keeps the best W.

    A token is settled when all kept prefixes agree on it and on its end, and go on after it: nothing can take it back,
    and leaving it out of the state changes no result. A prefix that reaches `pending` tokens settles its oldest by
    force, so that a stream without end needs no more memory. Frames and confidences are those of the best path.

    beam: prefixes kept. candidates: pieces per frame a prefix may be extended with. prune: log distance to the best
    prefix beyond which one is dropped, inf to keep it. trie: sequences whose scores count with a prefix's own; closed:
    only these sequences, one after the other, are searched.
    """

    def __init__(
        self,
        beam: int = BEAM,
        candidates: int = CANDIDATES,
        prune: float = PRUNE,
        blank: int = BLANK,
        pending: int = PENDING,
        trie: TokenTrie | None = None,
        closed: bool = False,
    ):
        if beam < 1 or candidates < 1 or not prune > 0 or pending < 2:
            raise ValueError(
                f"beam and candidates must be at least 1, prune positive and pending at least 2; got "
                f"{beam}, {candidates}, {prune} and {pending}"
            )
        self.beam, self.candidates, self.prune, self.blank, self.capacity = (
            beam,
            candidates,
            prune,
            blank,
            pending,
        )
        self.trie, self.closed = trie, closed

    def init_state(self, batch: int = 1) -> BeamState:
        B, W, L = batch, self.beam, self.capacity
        scores = np.full((B, W, 2), -np.inf)
        scores[:, 0, 0] = 0.0  # one prefix, the empty one, said by the empty path
        zeros = np.zeros(B, np.int64)
        spans = np.zeros((B, W, 2, L), np.int64)
        return BeamState(
            np.zeros((B, W, L), np.int64),
            np.zeros((B, W), np.int64),
            scores,
            scores,
            spans,
            spans,
            np.zeros((B, W, 2, L)),
            zeros,
            zeros,
            zeros,
            None if self.trie is None else np.zeros((B, W), np.int64),
        )

    def step(
        self, log_probs: np.ndarray, state: BeamState, lengths: np.ndarray | None = None
    ) -> tuple[list[list[Token]], BeamState]:
        """Search a block (B, T, V), of which `lengths` (B,) frames count: the tokens of each stream now settled."""
        lengths = check_log_probs(log_probs, lengths, len(state.frames))
        settled: list[list[Token]] = [[] for _ in lengths]
        for t in range(int(lengths.max(initial=0))):
            going = t < lengths
            frame = np.where(
                going[:, None], log_probs[:, t], 0.0
            )  # what does not count may hold anything
            new = self._advance(state, frame.astype(np.float64))
            state = (
                new
                if going.all()
                else BeamState(
                    *(
                        a if a is None else np.where(going.reshape(-1, *[1] * (a.ndim - 1)), a, b)
                        for a, b in (
                            (getattr(new, f.name), getattr(state, f.name)) for f in fields(state)
                        )
                    )
                )
            )
            tokens, state = self._settle(state)
            for b, out in tokens.items():
                settled[b] += out
        return settled, state

    def hypotheses(self, state: BeamState) -> list[list[Hypothesis]]:
        """What may follow the settled tokens of each stream, best first, with the log probability of the whole."""
        total, paths = (
            np.logaddexp(state.scores[..., 0], state.scores[..., 1]),
            state.path.argmax(-1),
        )
        return [
            [
                Hypothesis(
                    tuple(self._tokens(state, b, w, int(paths[b, w]), int(state.length[b, w]))),
                    float(total[b, w]),
                )
                for w in range(self.beam)
                if total[b, w] > -np.inf
            ]
            for b in range(len(total))
        ]

    def pending(self, state: BeamState) -> list[list[Token]]:
        """The best continuation of each stream's settled tokens."""
        paths = state.path[:, 0].argmax(-1)
        return [
            self._tokens(state, b, 0, int(paths[b]), int(state.length[b, 0]))
            for b in range(len(paths))
        ]

    def finish(self, state: BeamState) -> tuple[list[list[Token]], BeamState]:
        """Settle the best continuation, and begin anew at the same frame."""
        fresh = self.init_state(len(state.frames))
        return self.pending(self.ended(state)), replace(
            fresh, frames=state.frames, floor=state.frames, blanks=state.blanks
        )

    def ended(self, state: BeamState) -> BeamState:
        """The state with that prefix first which is the best where nothing follows: no sequence is under way."""
        if self.trie is None or state.nodes is None:
            return state
        total = np.logaddexp(state.scores[..., 0], state.scores[..., 1])
        if self.closed:
            ends = self.trie.final[state.nodes] | (state.nodes == 0)
            total = np.where(ends, total, -np.inf)
        else:
            total = total + self.trie.ending(state.nodes)
        order = n_best(total, self.beam)
        row = np.arange(len(order))[:, None]
        moved = {
            name: getattr(state, name)[row, order]
            for name in ("tokens", "length", "scores", "path", "start", "end", "peak", "nodes")
        }
        return replace(state, **moved)

    def _read(self, nodes: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nodes after tokens (below 0: none), and what reading them adds; both of the arrays' common shape."""
        nodes, tokens = np.broadcast_arrays(nodes, np.maximum(tokens, 0))
        if self.trie is None:
            raise ValueError("this search has no trie")
        if self.closed:
            new = self.trie.follow(nodes.ravel(), tokens.ravel(), repeat=True)
            added = np.where(new < 0, -np.inf, 0.0)
            new = np.maximum(new, 0)
        else:
            new, added = self.trie.advance(nodes.ravel(), tokens.ravel())
        return new.reshape(nodes.shape), added.reshape(nodes.shape)

    def __call__(
        self, log_probs: np.ndarray, lengths: np.ndarray | None = None
    ) -> list[list[Token]]:
        """Search whole utterances (B, T, V)."""
        settled, state = self.step(log_probs, self.init_state(len(log_probs)), lengths)
        return [a + b for a, b in zip(settled, self.pending(state))]

    def _tokens(self, s: BeamState, b: int, w: int, path: int, n: int) -> list[Token]:
        out, floor = [], int(s.floor[b])
        for i in range(
            n
        ):  # prefixes may disagree on the frames of a token settled by force: none runs back over it
            start = max(int(s.start[b, w, path, i]), floor)
            floor = max(int(s.end[b, w, path, i]), start + 1)
            out.append(Token(int(s.tokens[b, w, i]), start, floor, float(s.peak[b, w, path, i])))
        return out

    def _advance(self, s: BeamState, p: np.ndarray) -> BeamState:
        """One frame p (B, V) for every stream."""
        B, W, L = s.tokens.shape
        K = min(self.candidates, p.shape[1] - 1)
        row, beam = np.arange(B)[:, None], np.arange(W)
        total = np.logaddexp(s.scores[..., 0], s.scores[..., 1])
        last = np.where(s.length > 0, s.tokens[row, beam, np.maximum(s.length - 1, 0)], -1)
        p_last = np.where(last >= 0, p[row, last], -np.inf)
        p_blank = p[:, self.blank, None]

        # match[b, j, i]: prefix j is prefix i and one token more, so that extending i leads to j
        inside = np.arange(L) < s.length[..., None]
        same = ((s.tokens[:, :, None] == s.tokens[:, None]) | ~inside[:, None]).all(-1)
        match = same & (s.length[:, :, None] == s.length[:, None] + 1) & (total > -np.inf)[:, None]
        parent, has = match.argmax(-1), match.any(-1)
        after_blank = last == last[row, parent]  # the same token twice needs a blank in between
        into = np.where(after_blank, s.scores[row, parent, 0], total[row, parent]) + p_last
        if s.nodes is not None:
            into = into + self._read(s.nodes[row, parent], last)[1]
        stay = np.stack(
            [
                total + p_blank,
                np.logaddexp(s.scores[..., 1] + p_last, np.where(has, into, -np.inf)),
            ],
            -1,
        )

        others = p.copy()
        others[:, self.blank] = -np.inf
        pieces = n_best(others, K)
        repeat = pieces[:, None] == last[..., None]  # (B, W, K)
        grown = np.where(repeat, s.scores[..., :1], total[..., None]) + others[row, pieces][:, None]
        if s.nodes is not None:
            grown = grown + self._read(s.nodes[..., None], pieces[:, None])[1]
        known = (match[..., None] & (last[:, :, None, None] == pieces[:, None, None])).any(1)
        grown = np.where(known, -np.inf, grown)

        scores = np.concatenate(
            [np.logaddexp(stay[..., 0], stay[..., 1]), grown.reshape(B, W * K)], 1
        )
        pick = n_best(scores, W)
        value = scores[row, pick]
        value = np.where(value < value[:, :1] - self.prune, -np.inf, value)
        alive, grow = value > -np.inf, pick >= W
        src = np.where(grow, (pick - W) // K, pick)
        token = np.where(grow, pieces[row, (pick - W) % K], last[row, src])
        length = np.where(alive, s.length[row, src] + grow, 0)
        kept = np.where(
            grow[..., None], np.stack([np.full((B, W), -np.inf), value], -1), stay[row, src]
        )

        # the best path: where it comes from (prefix, ending) for either ending, and whether the token begins in it
        best, ending = s.path.max(-1), s.path.argmax(-1)
        up = np.where(grow, src, parent[row, src])
        again = token == last[row, up]
        enter = np.where(again, s.path[row, up, 0], best[row, up])
        nodes = s.nodes
        if nodes is not None:
            after, added = self._read(nodes[row, up], token)
            enter, nodes = enter + added, np.where(grow, after, nodes[row, src])
        enter = np.where(grow | has[row, src], enter, -np.inf)
        goes_on = np.where(grow, -np.inf, s.path[row, src, 1])
        begins = grow | (enter > goes_on)
        p_token = np.where(token >= 0, p[row, token], -np.inf)
        path = np.stack(
            [
                np.where(grow, -np.inf, best[row, src] + p_blank),
                np.maximum(enter, goes_on) + p_token,
            ],
            -1,
        )
        prefix = np.stack([src, np.where(begins, up, src)], -1)
        branch = np.stack(
            [ending[row, src], np.where(begins, np.where(again, 0, ending[row, up]), 1)], -1
        )
        start, end, peak = (a[row[..., None], prefix, branch] for a in (s.start, s.end, s.peak))
        at = np.maximum(length - 1, 0)
        speaks = token >= 0
        now = s.frames[:, None]
        for a, new in (
            (start, np.where(begins, now, start[row, beam, 1, at])),
            (end, np.broadcast_to(now + 1, (B, W))),
            (peak, np.where(begins, p_token, np.maximum(peak[row, beam, 1, at], p_token))),
        ):
            a[row, beam, 1, at] = np.where(speaks, new, a[row, beam, 1, at])

        tokens = s.tokens[row, src]
        tokens[row, beam, at] = np.where(grow, token, tokens[row, beam, at])
        dead = ~alive[..., None]
        blanks = np.where(p.argmax(-1) == self.blank, s.blanks + 1, 0)
        return BeamState(
            tokens,
            length,
            np.where(dead, -np.inf, kept),
            np.where(dead, -np.inf, path),
            start,
            end,
            peak,
            s.floor,
            blanks,
            s.frames + 1,
            nodes,
        )

    def _settle(self, s: BeamState) -> tuple[dict[int, list[Token]], BeamState]:
        """Take the tokens that all prefixes share, their last one excepted, out of the state."""
        L = self.capacity
        alive = s.scores.max(-1) > -np.inf
        if (full := (s.length == L).any(-1)).any():
            follows = (s.tokens[..., 0] == s.tokens[:, :1, 0]) & (s.length >= 2)
            stays = np.where(s.length[:, :1] >= 2, follows, s.length < L) | ~full[:, None]
            alive &= stays
            s = replace(
                s,
                scores=np.where(alive[..., None], s.scores, -np.inf),
                path=np.where(alive[..., None], s.path, -np.inf),
                length=np.where(alive, s.length, 0),
            )
        shortest = np.where(alive, s.length, L + 1).min(-1)
        shared = ((s.tokens == s.tokens[:, :1]) | ~alive[..., None]).all(1)
        n = np.clip(np.minimum(np.cumprod(shared, -1).sum(-1), shortest - 1), 0, L)
        # not before the next token begins, in every path, after the frames that the best one gives the last settled
        ends = s.end[np.arange(len(n)), 0, s.path[:, 0].argmax(-1)]
        next_start = np.where((s.path > -np.inf)[..., None], s.start, np.iinfo(np.int64).max).min(
            (1, 2)
        )
        apart = ends[:, :-1] <= next_start[:, 1:]
        agreed = (np.arange(1, L) * (apart & (np.arange(1, L) <= n[:, None]))).max(-1)
        n = np.where((agreed == 0) & (s.length == L).any(-1), n, agreed)
        if not n.any():
            return {}, s
        out, floor = {}, s.floor.copy()
        for b in np.flatnonzero(n):
            out[int(b)] = self._tokens(s, b, 0, int(s.path[b, 0].argmax()), int(n[b]))
            floor[b] = out[int(b)][-1].end
        moved = np.minimum(np.arange(L) + n[:, None], L - 1)
        shift = {
            name: np.take_along_axis(a, moved.reshape(-1, *[1] * (a.ndim - 2), L), -1)
            for name, a in (
                ("tokens", s.tokens),
                ("start", s.start),
                ("end", s.end),
                ("peak", s.peak),
            )
        }
        return out, replace(
            s, length=np.where(alive, s.length - n[:, None], 0), floor=floor, **shift
        )


def score(log_probs: np.ndarray, tokens: list[int], blank: int = BLANK) -> float:
    """The log probability of a token sequence, over all its alignments with log_probs (T, V)."""
    labels, skips = _states(log_probs, tokens, blank)
    alpha = np.full(
        len(labels) + 2, -np.inf
    )  # two states before the first, for what comes from nowhere
    alpha[2] = 0.0  # before the first frame: the state from which the first two states are reached
    for t, p in enumerate(log_probs.astype(np.float64)):
        skip = np.where(skips, alpha[:-2], -np.inf) if t else np.full(len(labels), -np.inf)
        alpha[2:] = np.logaddexp(np.logaddexp(alpha[2:], alpha[1:-1]), skip) + p[labels]
    return float(np.logaddexp(alpha[-1], alpha[-2] if tokens else -np.inf))


def align(log_probs: np.ndarray, tokens: list[int], blank: int = BLANK) -> list[Token]:
    """Viterbi alignment of tokens with log_probs (T, V): each token with its frames [start, end), in order.

    Frames outside the spans are blank. The confidence is the greatest probability of the token within its frames.
    Raises ValueError where there are fewer frames than the tokens need (one each, and a blank between equal ones),
    or where every alignment has probability 0.
    """
    labels, skips = _states(log_probs, tokens, blank)
    T, need = len(log_probs), len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:]))
    if T < need:
        raise ValueError(f"{T} frames cannot hold {len(tokens)} tokens, which need at least {need}")
    if not tokens:
        return []
    best = np.full(len(labels) + 2, -np.inf)
    best[2] = 0.0
    back = np.zeros((T, len(labels)), np.int8)  # how many states before: 0, 1 or 2
    for t, p in enumerate(log_probs.astype(np.float64)):
        skip = np.where(skips, best[:-2], -np.inf) if t else np.full(len(labels), -np.inf)
        ways = np.stack([best[2:], best[1:-1], skip])
        back[t] = ways.argmax(0)
        best[2:] = ways.max(0) + p[labels]
    if best[-2:].max() == -np.inf:
        raise ValueError(f"no alignment of these {len(tokens)} tokens has a probability above 0")
    state = len(labels) - (1 if best[-1] > best[-2] else 2)
    frames: list[list[int]] = [[] for _ in tokens]
    for t in range(T - 1, -1, -1):
        if state % 2:
            frames[state // 2].append(t)
        state -= int(back[t, state])
    return [
        Token(k, f[-1], f[0] + 1, float(log_probs[f[-1] : f[0] + 1, k].max()))
        for k, f in zip(tokens, frames)
    ]


def _states(log_probs: np.ndarray, tokens: list[int], blank: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels (2 N + 1,) blank, token, blank ... blank, and which of them may be reached over the blank before."""
    check_log_probs(log_probs[None], None, 1)
    tokens = np.asarray(tokens, np.int64)
    if (tokens == blank).any() or (tokens < 0).any() or (tokens >= log_probs.shape[1]).any():
        raise ValueError(
            f"tokens must be 0 to {log_probs.shape[1] - 1} and not blank ({blank}), got {tokens.tolist()}"
        )
    labels = np.full(2 * len(tokens) + 1, blank)
    labels[1::2] = tokens
    skips = np.zeros(len(labels), bool)
    skips[3::2] = tokens[1:] != tokens[:-1]
    return labels, skips


def _trailing_blanks(labels: np.ndarray, blank: int, before: int) -> int:
    spoken = np.flatnonzero(labels != blank)
    return int(before + len(labels)) if not spoken.size else int(len(labels) - 1 - spoken[-1])
