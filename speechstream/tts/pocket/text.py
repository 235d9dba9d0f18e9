"""Texts as a pocket-tts was trained to read them."""

from __future__ import annotations

from speechstream.lm.tokens import Tokenizer
from speechstream.tts.letters import LetterFrontEnd

MOST_TOKENS = 50  # of an utterance: the model was trained on sentences


class PocketFrontEnd(LetterFrontEnd):
    """Clauses to utterances whose symbols are letters. markup: whether SSML is read."""

    def __init__(self, tokenizer: Tokenizer, markup: bool) -> None:
        super().__init__(tokenizer, markup, MOST_TOKENS)
        self._special = tokenizer.special

    def encode(self, letters: str) -> list[int]:
        """A text's tokens, begun and ended as a sentence is. Markers of the tokenizer within it are left out."""
        ids = self._tokenizer.encode(prepared(letters))
        return [i for i in ids if i not in self._special]


def prepared(letters: str) -> str:
    """A text as the model was trained to read it: a capital first, a mark last."""
    text = " ".join(letters.split())
    text = text[:1].upper() + text[1:]
    return text + "." if text[-1:].isalnum() else text
