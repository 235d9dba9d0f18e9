"""The CTC head as a recogniser's decoder: one search over the confirmed frames, a trial run over the rest."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechstream.asr import search
from speechstream.asr.biasing import CTC, Bias, HotWords, compile_pieces
from speechstream.asr.ctc import BEAM, Greedy, PrefixBeam
from speechstream.asr.guess import read_pieces
from speechstream.asr.text_model import TextModel, TextState
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.runtime.requests import Work

FRAME_S = 0.04  # two encoder frames


@dataclass(frozen=True)
class CtcHypothesis:
    """state: of the search, after the confirmed frames."""

    state: Any
    stable: tuple[search.Token, ...] = ()
    unstable: tuple[search.Token, ...] = ()


class CtcDecoder:
    """Greedy (beam 1) or prefix beam search. The trial run needs no undoing: a search state is a value."""

    head = "ctc"

    def __init__(self, path: Path, beam: int = 1):
        try:
            self.pieces = read_pieces(path)
        except (OSError, ValueError) as error:
            raise SpeechStreamError(f"{path} is not a table of CTC pieces: {error}") from error
        self.search = Greedy() if beam == 1 else PrefixBeam(beam)

    def compile(self, words: HotWords) -> Bias:
        """Hot words as tokens, for `biased`."""
        return compile_pieces(words, self.pieces, CTC)

    def biased(self, bias: Bias) -> CtcDecoder:
        """This decoder with hot words, which need a beam."""
        decoder = copy.copy(self)
        decoder.search = PrefixBeam(getattr(self.search, "beam", BEAM), trie=bias.trie)
        return decoder

    def init_state(self, state: TextState) -> CtcHypothesis:
        """A hypothesis that says nothing; the text model's state is not needed."""
        return CtcHypothesis(self.search.init_state(1))

    def extend(self, h: CtcHypothesis, model: TextModel, final: bool) -> Work[CtcHypothesis]:
        """Bring a hypothesis up to date with its memory; no network is asked anything."""
        yield from ()
        done, known = int(h.state.frames[0]), model.confirmed // 2
        tokens, state = self.search.step(model.heads[:, done:known], h.state)
        stable = (*h.stable, *tokens[0])
        if final:
            tokens, state = self.search.finish(state)
            return CtcHypothesis(state, (*stable, *tokens[0]))
        trial, after = self.search.step(model.heads[:, known : model.frames // 2], state)
        return CtcHypothesis(state, stable, (*trial[0], *self.search.pending(after)[0]))

    def text(self, h: CtcHypothesis) -> tuple[str, str]:
        """The stable and the unstable part; a word whose pieces are not all settled is not stable."""
        words = search.words(h.stable + h.unstable, self.pieces, FRAME_S)
        settled = len(search.words(h.stable, self.pieces, FRAME_S))
        if h.unstable and not self.pieces[h.unstable[0].token].startswith(search.WORD_START):
            settled -= 1
        settled = max(settled, 0)
        return " ".join(w.text for w in words[:settled]), " ".join(w.text for w in words[settled:])

    def words(self, h: CtcHypothesis, spoken_from: float = 0.0) -> list[Word]:
        """The words of the stable part, in seconds from the segment's start."""
        return list(search.words(h.stable, self.pieces, FRAME_S))
