"""Tokens out of a language model: greedy or drawn, with drafts out of the text itself that are verified in one step.

Drafts (prompt lookup, Saxena 2023): where the last few tokens stood before, what followed them there is proposed, and one
step reads it all. What greedy decoding would have written is kept, so that the text is that of plain greedy decoding.

A token is given out before it is read, which takes a run of the network: who waits for the first one need not wait for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.lm.cache import LmState
from speechstream.lm.model import LanguageModel

NGRAM, LEAST = (
    3,
    2,
)  # tokens that agree before a draft: at best, and at least; one alone promises too little


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0: the likeliest. top_p: draw among the likeliest that together have
    this probability. draft: tokens proposed at once at most, for temperature 0. seed: of the drawing."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    draft: int = 0
    most: int = 512  # tokens of a reply

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be 0 to 100 and top_p above 0, at most 1; got {self.temperature}, {self.top_p}"
            )
        if self.seed < 0 or not 0 <= self.draft <= 64 or self.most < 1:
            raise ValueError(
                f"seed must not be negative, draft must be 0 to 64, most 1 or more; got {self.seed}, "
                f"{self.draft}, {self.most}"
            )
        if self.draft and self.temperature:
            raise ValueError(
                "drafts are for temperature 0: drawn tokens are rarely those of before"
            )


class Constraint(Protocol):
    """What may be written at all, as `lm.json_schema`."""

    start: Any

    def allowed(self, state: Any, left: int | None = None) -> np.ndarray:
        """The tokens that may follow, (vocab_size,) bool; none at the end. left: tokens until the text must end."""

    def step(self, state: Any, token: int) -> Any:
        """The state after an allowed token."""

    def complete(self, state: Any) -> bool:
        """Whether the text may end here."""


@dataclass(frozen=True)
class Step:
    """Tokens that were written, and a state that has read them, all but the last perhaps."""

    tokens: tuple[int, ...]
    state: LmState


def draw(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """One token out of logits (vocab_size,)."""
    if not sampling.temperature:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if sampling.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= sampling.top_p]] = 0
        p /= p.sum()
    return int(rng.choice(len(p), p=p))


def lookup(text: Sequence[int], most: int, ngram: int = NGRAM, least: int = LEAST) -> list[int]:
    """What followed the last `ngram` tokens where they stood last before, or fewer, down to `least`; at most `most`."""
    for n in range(min(ngram, len(text) - 1), least - 1, -1):
        end = list(text[-n:])
        for at in range(len(text) - n - 1, -1, -1):
            if text[at] == end[0] and list(text[at : at + n]) == end:
                return list(text[at + n : at + n + most])
    return []


def generate(
    model: LanguageModel,
    logits: np.ndarray,
    state: LmState,
    sampling: Sampling = Sampling(),
    stop: Sequence[int] = (),
    context: Sequence[int] = (),
    constraint: Constraint | None = None,
) -> Iterator[Step]:
    """Continue a stream: steps as they are written, a stop token not among them.

    logits (vocab_size,): after what `state` (of one stream) has read. context: the tokens it has read, which drafts are
    taken from. constraint: nothing is written that it does not allow, and no stop token before it is complete.
    """
    writer = _Writer(sampling, stop, constraint)
    text, written = list(context), 1
    token = writer.next(logits)
    if token is None:
        return
    yield Step((token,), state)
    while written < sampling.most and not writer.ended():
        text.append(token)
        room = min(sampling.draft, sampling.most - written - 1, model.free(state) - 1)
        draft = lookup(text, room) if room > 0 else []
        proposal = model.propose([[token, *draft]], state)
        new: list[int] = []
        for row, guess in zip(proposal.logits[0], [*draft, None]):
            chosen = writer.next(row)
            if chosen is None:
                break
            new.append(chosen)
            if chosen != guess:
                break
        ended = chosen is None
        # the last of them is not among what was read, unless it is the draft's and a stop token follows
        state = model.accept(proposal, [1 + len(new) - (not ended)])
        text += new[:-1]
        written += len(new)
        if new:
            token = new[-1]
            yield Step(tuple(new), state)
        if ended:
            return


class _Writer:
    """Chooses tokens one after the other, as one who reads all that is written."""

    def __init__(self, sampling: Sampling, stop: Sequence[int], constraint: Constraint | None):
        self.sampling, self.stop, self.constraint = sampling, list(stop), constraint
        self.rng = np.random.default_rng(sampling.seed)
        self.at, self.left = constraint.start if constraint else None, sampling.most

    def next(self, logits: np.ndarray) -> int | None:
        """The token that follows, None at the end of the text."""
        if self.constraint is not None:
            allowed = self.allowed(len(logits))
            if not allowed.any():
                return None
            logits = np.where(allowed, logits, -np.inf)
        token = draw(logits, self.sampling, self.rng)
        if token in self.stop:
            return None
        if self.constraint is not None:
            self.at = self.constraint.step(self.at, token)
        self.left -= 1
        return token

    def allowed(self, size: int) -> np.ndarray:
        """Of as many tokens as there are logits, those that the constraint lets through, or that end the text."""
        found = np.zeros(size, bool)
        if self.constraint is not None:
            known = self.constraint.allowed(self.at, self.left)
            found[: len(known)] = known[:size]
            found[self.stop] = self.constraint.complete(self.at)
        return found

    def ended(self) -> bool:
        """Whether nothing can follow, so that nothing more need be read."""
        if self.constraint is None:
            return False
        return not self.constraint.allowed(self.at, self.left).any()
