"""A causal language model of a bundle, run by onnxruntime; its state is a value.

    model = LanguageModel.load("bundle/")
    logits, state = model.step([model.tokenizer.encode("Once upon a")], model.init_state())
    fork = state                       # costs nothing: both can be stepped
    earlier = model.rollback(state, 3)

Positions and what a text's memory holds: `lm.cache`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.lm.cache import Cache, CacheConfig, LmArrays, LmState, Prefix, from_arrays
from speechstream.lm.retrieval import Retrieve
from speechstream.lm.tokens import ChatFormat, Tokenizer
from speechstream.nn.llm_config import FLOATS, KvConfig, LlmConfig, from_dict, kv_from_dict
from speechstream.runtime.session import open_session

ARCHITECTURE, TASK = "causal-llm", "lm"
MOST_AT_ONCE = 256  # tokens of a stream that a graph reads in one run
AT_ONCE = 32  # tokens that leave a window which retrieves, or a block if that is larger
SCALES = "kv_scales.safetensors"  # of keys and values in 8 bits
GROUPS = ("", "recent.")  # what a graph calls the heads that see all, and those that stream


@dataclass(frozen=True)
class Proposal:
    """Tokens that were read but not yet taken: logits[b] (len, vocab_size) of stream b, what follows each of its tokens."""

    logits: list[np.ndarray]
    state: LmState  # without them
    queries: list[np.ndarray]  # of each token, where something is retrieved for them


class LanguageModel:
    """Raises SpeechStreamError for a bundle that is damaged or no language model."""

    def __init__(
        self,
        session: Any,
        config: LlmConfig,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        cache: CacheConfig | None = None,
        kv: KvConfig = FLOATS,
        scales: np.ndarray | None = None,
    ):
        if cache is None:
            window = config.window if config.all_windowed else config.context
            drop = max(min(256, window // 4), 1)
            # beyond the window of a model that looks no further back, nothing is lost
            cache = (
                CacheConfig(window + drop, 0, drop)
                if config.all_windowed
                else CacheConfig(window, min(4, window - drop), drop)
            )
        if config.rope.kind == "dynamic" and cache.window > config.context:
            raise ValueError(
                f"this model's rotary positions hold for {config.context} tokens; got a window of {cache.window}"
            )
        self.session, self.config, self.tokenizer, self.chat = session, config, tokenizer, chat
        self.kv, self.scales = kv, scales
        self._cache = Cache(config, cache, kv, scales)
        self.init_state, self.rollback = self._cache.init_state, self._cache.rollback
        self.select, self.stack = self._cache.select, self._cache.stack
        self.recall = self._cache.recall
        self._inputs = _Inputs(self._cache)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        window: int | None = None,
        sinks: int = 4,
        threads: int = 1,
        retain: int = 0,
        device: str = "cpu",
        retrieve: int | Retrieve = 0,
    ) -> LanguageModel:
        """Open a bundle. window: tokens that are remembered (default: the length the model was trained for), after
        which the oldest are forgotten but for the first `sinks` and, of a given window, `retain` that stand out.
        retrieve: rows of the window for blocks of what left it, which is then archived; its tokens, or more exactly.
        device: "cpu", or "meta" without the weights, to be described only."""
        b = bundle.load(path)
        if b.architecture != ARCHITECTURE:
            raise SpeechStreamError(
                f"{path} holds a {b.architecture!r}, expected a {ARCHITECTURE!r}"
            )
        try:
            config = from_dict(b.config.get("network"))
            chat = ChatFormat.from_dict(b.config.get("chat"))
            kv = kv_from_dict(b.config.get("cache"))
        except ValueError as error:
            raise SpeechStreamError(f"{path} is not a usable language model: {error}") from error
        tokenizer = Tokenizer(Path(b.file("tokenizer.json")).read_text(encoding="utf-8"))
        b.file("weights.bin")  # listed, and so checked; the graph opens it
        session = open_session(b.file("model.onnx"), threads, device)
        if (retain or retrieve) and not window:
            what = f"{retain} tokens to be retained" if retain else "blocks to be retrieved"
            raise ValueError(f"of what window are {what}? give one")
        scales = _scales(b.file(SCALES)) if kv.bits == 8 else None
        try:
            cache = _window(window, sinks, retain, retrieve) if window else None
            return cls(session, config, tokenizer, chat, cache, kv, scales)
        except ValueError as error:
            raise SpeechStreamError(f"{path} is not a usable language model: {error}") from error

    @property
    def window(self) -> CacheConfig:
        """How much is remembered."""
        return self._cache.cache

    def with_window(self, cache: CacheConfig) -> LanguageModel:
        """The same model with another memory; its graph and weights are common to both."""
        return LanguageModel(
            self.session, self.config, self.tokenizer, self.chat, cache, self.kv, self.scales
        )

    def restore(self, arrays: LmArrays) -> LmState:
        """The state that `lm.cache.to_arrays` copied. Raises ValueError for one of another model or window."""
        return from_arrays(arrays, self._cache)

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """Read the beginning that many streams share, `init_state(batch, prefix)`; it is kept once, in floats.

        Raises ValueError for a graph that was not made for it, and where the tokens exceed the window.
        """
        return self._cache.prefix(self.step([tokens], self.init_state())[1])

    def step(self, tokens: Sequence[Sequence[int]], state: LmState) -> tuple[np.ndarray, LmState]:
        """Read each stream's tokens, of any number, none included; the logits (B, vocab_size) after the last of each.

        Logits of a stream that was given none are NaN. Raises ValueError for ids that are not in the vocabulary.
        """
        ids = self._ids(tokens, state)
        logits = np.full((state.batch, self.config.vocab_size), np.nan, np.float32)
        at = np.zeros(state.batch, np.int64)
        total = np.array([len(t) for t in ids])
        while (at < total).any():
            count = np.minimum(total - at, np.minimum(self._cache.free(state), MOST_AT_ONCE))
            ends = (count > 0) & (at + count == total)
            state = self._cache.prepared(state, count)
            part = [t[a : a + n] for t, a, n in zip(ids, at, count)]
            rows = [np.arange(n - 1, n) if e else np.arange(0) for n, e in zip(count, ends)]
            found, queries = self._run(part, rows, state)
            logits[ends] = np.concatenate(found)
            state = self._cache.appended(state, count, queries)
            at += count
        return logits, state

    def propose(self, tokens: Sequence[Sequence[int]], state: LmState) -> Proposal:
        """Read tokens for the logits after every one of them, before deciding how many stay: `accept`.

        At most `free(state)` a stream. Nothing has to be copied for those that are taken back.
        """
        ids = self._ids(tokens, state)
        count = np.array([len(t) for t in ids])
        if (count > np.minimum(self._cache.free(state), MOST_AT_ONCE)).any() or not count.any():
            raise ValueError("more tokens than can be proposed at once, or none")
        state = self._cache.prepared(state, count)
        logits, queries = self._run(ids, [np.arange(n) for n in count], state)
        return Proposal(logits, state, queries)

    def accept(self, proposal: Proposal, count: Sequence[int]) -> LmState:
        """The state that has read the first `count[b]` of the proposed tokens of each stream. Once for a proposal."""
        n = np.asarray(count, np.int64)
        if n.shape != (proposal.state.batch,) or any(
            not 0 <= i <= len(p) for i, p in zip(n, proposal.logits)
        ):
            raise ValueError(f"of the proposed tokens, {count} cannot be accepted")
        return self._cache.appended(proposal.state, n, proposal.queries)

    def free(self, state: LmState) -> int:
        """How many tokens every stream can be proposed."""
        return int(min(self._cache.free(state).min(), MOST_AT_ONCE))

    def _ids(self, tokens: Sequence[Sequence[int]], state: LmState) -> list[np.ndarray]:
        if len(tokens) != state.batch:
            raise ValueError(f"the state is of {state.batch} streams; got tokens for {len(tokens)}")
        ids = [np.asarray(t, np.int64).reshape(-1) for t in tokens]
        for t in ids:
            if t.size and not 0 <= t.min() <= t.max() < self.config.vocab_size:
                raise ValueError(
                    f"token ids must be 0 to {self.config.vocab_size - 1}; got {t.min()} to {t.max()}"
                )
        return ids

    def _run(
        self, tokens: list[np.ndarray], rows: list[np.ndarray], state: LmState
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Write the tokens' keys and values behind those of the state; of each stream the logits of the `rows` of its tokens,
        and the queries of all of them.

        Streams that read one token each share a run. More tokens of one stream fill a run by themselves, and the
        graph's attention takes several of several streams only where none has a past.
        """
        if state.batch == 1 or max(map(len, tokens)) == 1:
            at = np.concatenate([b + r for b, r in enumerate(rows)])
            longest = max(map(len, tokens))
            ids = np.zeros((len(tokens), longest), np.int64)
            for row, t in zip(ids, tokens):
                row[: len(t)] = t
            logits, queries = self._run_rows(ids, at, state, slice(0, state.batch))
            ends = np.cumsum([len(r) for r in rows])[:-1]
            return np.split(logits, ends), list(queries)
        none = np.zeros((0, self.config.vocab_size), np.float32)
        found = [
            self._run_rows(t[None], r, state, slice(b, b + 1)) if len(t) else (none, none[None])
            for b, (t, r) in enumerate(zip(tokens, rows))
        ]
        return [logits for logits, _ in found], [queries[0] for _, queries in found]

    def _run_rows(
        self, ids: np.ndarray, rows: np.ndarray, state: LmState, streams: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """ids (B, T) of these streams; logits (len(rows), vocab_size) and queries (B, T, layers, kv_heads, head_dim), where
        something is retrieved for them."""
        read, count = state.tokens[streams], ids.shape[1]
        positions = (read[:, None] + np.arange(count)).ravel()
        cos, sin = self.config.rope.table(positions, self.config.head_dim)
        feeds = {"tokens": ids, "rows": rows.astype(np.int64), "cosines": cos, "sines": sin}
        for name, part in zip(GROUPS, state.parts):
            kept = part.kept[streams]
            if int(kept.max()) + count > part.buffer.room:
                raise ValueError("the state has no room for these tokens")
            feeds[f"{name}seen"] = (kept + count - 1).astype(np.int32)
            feeds[f"{name}total"] = np.array(kept.max() + count, np.int32)
            if self.kv.shared:  # where the prefix lies, as these heads see it
                shift = (state.own - part.kept)[streams]
                places = (positions.reshape(-1, count) - shift[:, None]).ravel()
                table = self.config.rope.table(places, self.config.head_dim)
                feeds[f"{name}prefix.cosines"], feeds[f"{name}prefix.sines"] = table
        binding = self.session.io_binding()
        binding.bind_output("logits")
        if self.window.retrieve:
            binding.bind_output("queries")
        for name, a in feeds.items():
            binding.bind_cpu_input(name, a)
        for name, a in self._inputs.constant(state):
            _bind(binding.bind_input, name, a)
        for name, m in self._inputs.memory(state, streams):
            _bind(binding.bind_input, name, m)
            _bind(binding.bind_output, f"new.{name}", m)
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise SpeechStreamError(
                f"the language model's graph cannot be run: {str(error).splitlines()[0][:300]}"
            ) from error
        made = [o.numpy() for o in binding.get_outputs()[: 2 if self.window.retrieve else 1]]
        if len(made) == 1:
            return made[0], np.zeros((len(ids), count, 0), np.float32)
        return made[0], made[1].reshape(len(ids), count, *made[1].shape[1:])


class _Inputs:
    """The names of what a graph is given of a state."""

    def __init__(self, cache: Cache):
        layers, self.shared = range(cache.config.layers), cache.kv.shared
        # (name, group, array within the group's memory), where a layer has heads of the group
        self.places = [
            (f"{name}{kind}.{i}", g, kv * len(layers) + i)
            for g, (name, group) in enumerate(zip(GROUPS, cache.groups))
            for kv, kind in enumerate(("keys", "values"))
            for i in layers
            if group.counts[i]
        ]
        self.scales = [
            (_before(name, "scale."), scales[at])
            for name, g, at in self.places
            if (scales := cache.groups[g].scales) is not None
        ]
        self.nothing = self._nothing(cache) if self.shared else None

    @staticmethod
    def _nothing(cache: Cache) -> Prefix:
        """No prefix: one token that is never seen."""
        d = cache.config.head_dim
        keys = tuple(tuple(np.zeros((n, d, 1), np.float32) for n in g.counts) for g in cache.groups)
        values = tuple(
            tuple(np.zeros((n, 1, d), np.float32) for n in g.counts) for g in cache.groups
        )
        return Prefix(0, keys, values)

    def constant(self, state: LmState) -> list[tuple[str, np.ndarray]]:
        """What no step changes: scales, and the prefix."""
        if self.nothing is None:
            return self.scales
        prefix = state.prefix or self.nothing
        layers = len(prefix.keys[0])
        found = [
            (
                _before(name, "prefix."),
                (prefix.keys if at < layers else prefix.values)[g][at % layers],
            )
            for name, g, at in self.places
        ]
        hidden = np.array(0.0 if state.prefix else -1e30, np.float32)
        return [*self.scales, *found, ("prefix.bias", hidden)]

    def memory(self, state: LmState, streams: slice) -> list[tuple[str, np.ndarray]]:
        return [(name, state.parts[g].buffer.memory[at][streams]) for name, g, at in self.places]


def _window(window: int, sinks: int, retain: int, retrieve: int | Retrieve) -> CacheConfig:
    if not retrieve:
        drop = max(min(256, (window - sinks - retain) // 4), 1)
        return CacheConfig(window, sinks, drop, retain)
    given = Retrieve(retrieve) if isinstance(retrieve, int) else retrieve
    # the more leaves at once, the faster a text is read, and the older is what asks in the end
    most = min(AT_ONCE, (window - sinks - given.tokens) // 4)
    drop = max(most // given.block, 1) * given.block
    return CacheConfig(window, sinks, drop, retain, given)


def _before(name: str, word: str) -> str:
    """recent.keys.3 to recent.scale.keys.3"""
    group, kind, layer = name.rpartition(".")[0].rpartition(".")[0], *name.rsplit(".", 2)[-2:]
    return f"{group}.{word}{kind}.{layer}" if group else f"{word}{kind}.{layer}"


def _bind(bind: Any, name: str, a: np.ndarray) -> None:
    """Where it lies; nothing is copied."""
    bind(name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)


def _scales(path: str | os.PathLike[str]) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return np.asarray(load_file(path)["scales"], np.float32)
    except (SafetensorError, KeyError, OSError) as error:
        raise SpeechStreamError(f"{path} does not hold the scales of keys and values") from error
