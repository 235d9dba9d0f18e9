"""A trie of token sequences in flat arrays: scores and masks for a batch of hypotheses by gathers, not by pointers.

The trie lies in compressed sparse rows, as in STATIC (arXiv 2602.22647): sorted keys `node * vocab_size + token`, whose
positions number the children, so that one binary search moves any number of hypotheses by a token. Failure links (Aho
and Corasick 1975) make of it an automaton that finds every sequence anywhere in a text; what it gave for the beginning
of a sequence is taken back where the sequence breaks off, as the context graphs of k2 and sherpa-onnx do. The
same arrays say which tokens may follow in a closed set of sequences.

The score of a text is: for each sequence found in it, its bonus; and while one is under way, that of its beginning. A
sequence counts as found when a token follows at which one may end (`boundary`), so that a name is not found
in a longer word that begins like it. A sequence that begins with another adds only what it has more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

MAX_LENGTH = 256  # tokens of one sequence
MAX_NODES = 1 << 24
ROOT = 0


class TokenTrie:
    """An immutable set of token sequences, each with a bonus for each of its tokens.

    sequences: of tokens in 0..vocab_size - 1, at least one each. bonuses: for each sequence those of its tokens, at
    least 0 (default: 1 each); where sequences begin alike the greatest counts. boundary: (vocab_size,) bool, tokens
    before which a sequence may end, None for all. Nodes are numbered level by level from the root, 0; their arrays:

    depth (N,): tokens from the root. final (N,) bool: a sequence ends here, `sequence` (N,) its index (-1: none).
    fail (N,): the node of the longest beginning of a sequence that is a proper end of this one.
    held (N,) float32: the bonus that is taken back where the sequence breaks off. kept (N,): of that (or of
    a sequence that ends with this one), what stays before a boundary.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        vocab_size: int,
        bonuses: Sequence[Sequence[float]] | None = None,
        boundary: np.ndarray | None = None,
    ):
        self.vocab_size = vocab_size
        tokens, given, lengths = _padded(sequences, bonuses, vocab_size)
        self.boundary = (
            np.ones(vocab_size, bool) if boundary is None else np.asarray(boundary, bool).copy()
        )
        if self.boundary.shape != (vocab_size,):
            raise ValueError(f"boundary must be ({vocab_size},), got {self.boundary.shape}")
        self._link(tokens, given, lengths)
        self._connect()
        for a in vars(self).values():
            if isinstance(a, np.ndarray):
                a.setflags(write=False)

    def __len__(self) -> int:
        """Nodes, the root among them."""
        return len(self.depth)

    def _link(self, tokens: np.ndarray, given: np.ndarray, lengths: np.ndarray) -> None:
        """The nodes level by level: np.unique of (parent, token) numbers a level in the order of its keys."""
        V, n = self.vocab_size, 1
        at = np.zeros(len(tokens), np.int64)  # the node where each sequence stands
        keys, parents, total, levels = [], [], [np.zeros(1)], [np.array([0, 1])]
        self.sequence = np.full(int(lengths.sum()) + 1, -1, np.int64)
        for d in range(tokens.shape[1]):
            going = np.flatnonzero(lengths > d)
            level, inverse = np.unique(at[going] * V + tokens[going, d], return_inverse=True)
            best = np.zeros(len(level))
            np.maximum.at(best, inverse, given[going, d])
            keys.append(level)
            parents.append(level // V)
            at[going] = n + inverse
            total.append(np.concatenate(total)[level // V] + best)
            levels.append(np.array([n, n + len(level)]))
            ended = going[lengths[going] == d + 1]
            self.sequence[at[ended][::-1]] = ended[::-1]  # of equal ones the first
            n += len(level)
        if n > MAX_NODES:
            raise ValueError(f"{n} nodes, at most {MAX_NODES} are possible")
        self._levels = np.array(levels)
        self._keys = np.concatenate([*keys, np.zeros(0, np.int64)])
        self.parent = np.concatenate([[0], *parents]).astype(np.int64)
        self.token = np.concatenate([[-1], self._keys % V]).astype(np.int64)
        self.rows = np.searchsorted(self._keys, np.arange(n + 1) * V)
        self.depth = np.repeat(np.arange(len(levels)), self._levels[:, 1] - self._levels[:, 0])
        self.sequence = self.sequence[:n].copy()
        self.final = self.sequence >= 0
        self.total = np.concatenate(total)
        self._first = np.zeros(V, np.int64)  # children of the root, by token
        self._starts = self.token[1 : 1 + self.rows[1]]
        self._first[self._starts] = np.arange(1, 1 + self.rows[1])

    def _connect(self) -> None:
        """Failure links, and what each node holds and keeps: a node's are those of nodes nearer to the root."""
        n = len(self.depth)
        self.fail = np.zeros(n, np.int64)
        counted = np.zeros(n)  # the bonus of the sequences that ended on the way here
        kept = np.zeros(n)
        for a, b in self._levels[1:]:
            nodes = np.arange(a, b)
            parent, token = self.parent[nodes], self.token[nodes]
            if a > 1:
                self.fail[nodes] = self._child(self.fail[parent], token)
            ended = self.final[parent] & self.boundary[token]
            counted[nodes] = np.where(ended, self.total[parent], counted[parent])
            own = self.total[nodes] - counted[nodes]
            kept[nodes] = np.where(self.final[nodes], own, kept[self.fail[nodes]])
        self.held = (self.total - counted).astype(np.float32)
        self.kept = kept.astype(np.float32)
        self._fresh = self.held[self._first]  # (V,) scores at the root

    def _child(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The automaton's transition, for nodes whose failure links are known."""
        out, open_ = np.zeros_like(nodes), np.arange(len(nodes))
        nodes, tokens = nodes.copy(), np.asarray(tokens)
        while open_.size:
            n, t = nodes[open_], tokens[open_]
            found = self._below(n, t)
            out[open_] = found
            open_ = open_[(found == 0) & (n != ROOT)]
            nodes[open_] = self.fail[nodes[open_]]
        return out

    def _below(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The child of each node by each token, 0 where it has none."""
        keys = nodes * self.vocab_size + tokens
        at = np.searchsorted(self._keys, keys)
        at = np.minimum(at, len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at + 1, 0)

    # Sequences anywhere in a text.

    def advance(self, nodes: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read a token (N,) after each of the nodes (N,): the new nodes, and the scores (N,) float32 of reading it."""
        nodes = np.asarray(nodes, np.int64)
        tokens = np.asarray(tokens, np.int64)
        new = self._child(nodes, tokens)
        stays = np.where(self.boundary[tokens], self.kept[nodes], np.float32(0))
        return new, self.held[new] - self.held[nodes] + stays

    def scores(self, nodes: np.ndarray) -> np.ndarray:
        """What `advance` gives for every token: (N, vocab_size) float32."""
        out = np.empty((len(nodes), self.vocab_size), np.float32)
        out[:] = self._fresh
        self._away_from_root(out, nodes)
        return out

    def best(self, logits: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """The token (N,) of the greatest sum of logits (N, vocab_size) and scores, without making all of them."""
        out = logits.argmax(-1)
        rows = np.arange(len(out))
        boosted = logits[:, self._starts] + self._fresh[self._starts]
        first = boosted.argmax(-1)
        better = boosted[rows, first] > logits[rows, out]
        out[better] = self._starts[first[better]]
        for row in np.flatnonzero(nodes):
            out[row] = (logits[row] + self.scores(nodes[row : row + 1])[0]).argmax()
        return out

    def _away_from_root(self, out: np.ndarray, nodes: np.ndarray) -> None:
        for row, n in zip(out, np.asarray(nodes).tolist()):
            if n == ROOT:
                continue
            chain = [n]
            while self.fail[chain[-1]] != ROOT:
                chain.append(int(self.fail[chain[-1]]))
            for c in reversed(chain):  # the longest beginning is the one that goes on
                a, b = self.rows[c], self.rows[c + 1]
                row[self._keys[a:b] % self.vocab_size] = self.held[a + 1 : b + 1]
            row -= self.held[n]
            if self.kept[n]:
                row[self.boundary] += self.kept[n]

    def walk(self, tokens: Sequence[int], node: int = ROOT) -> np.ndarray:
        """The nodes (len(tokens) + 1,) before, between and after tokens that are read from `node` on."""
        out = [node]
        for token in tokens:
            out.append(self.step(out[-1], token))
        return np.array(out, np.int64)

    def step(self, node: int, token: int) -> int:
        """`advance` of a single node."""
        while not (child := self._one_below(node, int(token))) and node:
            node = self.fail.item(node)
        return child

    def starts(self, node: int) -> bool:
        """Whether a sequence has only begun: its first token was read."""
        return ROOT < node <= len(self._starts)

    def gain(self, node: int, after: int, token: int) -> float:
        """The score of a single step to a node that is known."""
        stays = self.kept.item(node) if self.boundary.item(token) else 0.0
        return self.held.item(after) - self.held.item(node) + stays

    def _one_below(self, node: int, token: int) -> int:
        """`_below` of a single node: a search among its children alone."""
        if node == ROOT:
            return self._first.item(token)
        a, b = self.rows.item(node), self.rows.item(node + 1)
        key = node * self.vocab_size + token
        at = bisect_left(self._keys, key, a, b)
        return at + 1 if at < b and self._keys.item(at) == key else 0

    def node(self, tokens: Sequence[int]) -> int:
        """The node after a text: only its last tokens matter."""
        return int(self.walk(tokens[-len(self._levels) :])[-1])

    def score(self, tokens: Sequence[int], node: int = ROOT) -> float:
        """The sum of the scores of reading tokens from `node` on."""
        if not len(tokens):
            return 0.0
        nodes = self.walk(tokens, node)
        stays = np.where(self.boundary[np.asarray(tokens)], self.kept[nodes[:-1]], 0.0)
        return float(self.held[nodes[-1]] - self.held[nodes[0]] + stays.sum())

    def ending(self, nodes: np.ndarray) -> np.ndarray:
        """The scores (N,) of ending the text at each node, as a boundary would."""
        return self.kept[nodes] - self.held[nodes]

    # Texts that are one of the sequences, or several.

    def follow(self, nodes: np.ndarray, tokens: np.ndarray, repeat: bool = False) -> np.ndarray:
        """The node (N,) below each of the nodes by a token, -1 where none of the sequences goes on so.

        repeat: where a sequence has ended another may begin.
        """
        nodes, tokens = np.asarray(nodes, np.int64), np.asarray(tokens, np.int64)
        found = self._below(nodes, tokens)
        if repeat:
            found = np.where((found == 0) & self.final[nodes], self._first[tokens], found)
        return np.where(found == 0, -1, found)

    def allowed(self, nodes: np.ndarray, repeat: bool = False) -> np.ndarray:
        """Which tokens `follow` lets through: (N, vocab_size) bool. A text may end where `final` says so."""
        nodes = np.asarray(nodes, np.int64)
        out = np.zeros((len(nodes), self.vocab_size), bool)
        if repeat:
            out[self.final[nodes]] = self._first > 0
        sizes = self.rows[nodes + 1] - self.rows[nodes]
        row = np.repeat(np.arange(len(nodes)), sizes)
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        out[row, self._keys[np.repeat(self.rows[nodes], sizes) + within] % self.vocab_size] = True
        return out


def _padded(
    sequences: Sequence[Sequence[int]], bonuses: Sequence[Sequence[float]] | None, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens (N, longest), their bonuses and lengths (N,). Raises ValueError for what is no sequence."""
    lengths = np.array([len(s) for s in sequences], np.int64)
    if not len(lengths) or lengths.min() < 1 or lengths.max() > MAX_LENGTH:
        raise ValueError(f"need sequences of 1 to {MAX_LENGTH} tokens, at least one of them")
    inside = np.arange(lengths.max()) < lengths[:, None]
    tokens, given = np.zeros(inside.shape, np.int64), np.ones(inside.shape)
    tokens[inside] = np.concatenate([np.asarray(s, np.int64) for s in sequences])
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"tokens must be 0 to {vocab_size - 1}")
    if bonuses is not None:
        if [len(b) for b in bonuses] != lengths.tolist():
            raise ValueError("need a bonus for each token of each sequence")
        given[inside] = np.concatenate([np.asarray(b, np.float64) for b in bonuses])
    if not np.isfinite(given).all() or given.min() < 0:
        raise ValueError("bonuses must be finite and at least 0")
    return tokens, given, lengths
