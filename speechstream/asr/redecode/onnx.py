"""A speech LLM's language model as an onnxruntime graph behind `asr.redecode.family.Reading`.

The graph takes tokens (B, T), sound (B, T, dim) that is read where a token is -1, and rows (R,), those of the T of which
logits (B, R, vocabulary) are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import TextArrays, join, part, rewound
from speechstream.nn.llm_config import LlmConfig
from speechstream.runtime.graph import Graph
from speechstream.state import flatten


def open_graph(b: Bundle, name: str, architecture: str, threads: int, device: str) -> Graph:
    """A graph of a bundle. Raises SpeechStreamError where it has none of that name, or another model's."""
    if f"{name}.onnx" not in b.files:
        raise SpeechStreamError(
            f"the bundle {b.path} has no ONNX graphs; run it with the engine 'torch'"
        )
    graph = Graph(b.file(f"{name}.onnx"), threads, device)
    about = graph.about
    if about.get("architecture") != architecture or about.get("graph") != name:
        raise SpeechStreamError(f"{graph.path} is not the {name} of a {architecture}")
    return graph


@contextmanager
def fitting(b: Bundle) -> Iterator[Callable[[Any, Any], None]]:
    """Where graphs are tried: SpeechStreamError for what they raise, and for what differs from what is expected."""

    def expect(found: Any, wanted: Any) -> None:
        if found != wanted:
            raise ValueError(f"{found} where {wanted} is expected")

    try:
        yield expect
    except (ValueError, IndexError, TypeError, KeyError, MemoryError, AttributeError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise SpeechStreamError(
            f"the graphs of the bundle {b.path} do not fit together: {what}"
        ) from error


class OnnxReading:
    """States are `TextArrays`."""

    name = "onnx"

    def __init__(self, graph: Graph, config: LlmConfig):
        self.text, self.config, self.tokens = graph, config, config.vocab_size

    def start(self) -> TextArrays:
        """A state that has read nothing."""
        try:
            return TextArrays(**flatten(self.text.init_state()))
        except TypeError as error:
            raise SpeechStreamError(f"{self.text.path} has states of another model") from error

    def prefix(self, tokens: Sequence[int]) -> TextArrays:
        """A state that has read these tokens."""
        return self.follow(np.array([tokens], np.int64), 1, [self.start()])[1][0]

    def follow(
        self, tokens: np.ndarray, rows: int, states: Sequence[TextArrays]
    ) -> tuple[np.ndarray, list[TextArrays]]:
        sound = np.zeros((*tokens.shape, self.config.dim), np.float32)
        return self.step(tokens, sound, rows, states)

    def hear(self, sound: np.ndarray, states: Sequence[TextArrays]) -> list[TextArrays]:
        """The states after sound (B, n, dim)."""
        return self.step(np.full(sound.shape[:2], -1, np.int64), sound, 1, states)[1]

    def step(
        self, tokens: np.ndarray, sound: np.ndarray, rows: int, states: Sequence[TextArrays]
    ) -> tuple[np.ndarray, list[TextArrays]]:
        count = tokens.shape[1]
        inputs = {"tokens": tokens, "sound": sound, "rows": np.arange(count - rows, count)}
        out, new = self.text.step(inputs, join(states))
        apart = [new] if len(states) == 1 else [part(new, i) for i in range(len(states))]
        return out["logits"], apart

    def rewound(self, state: TextArrays, tokens: int) -> TextArrays:
        return rewound(state, tokens)

    def native(self, a: TextArrays) -> TextArrays:
        return a

    def value(self, state: TextArrays) -> TextArrays:
        return TextArrays(**{n: a.copy() for n, a in flatten(state).items()})
