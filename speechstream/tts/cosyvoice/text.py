"""Texts as CosyVoice reads them: Qwen's tokens, with marks for laughter, breath and emphasis."""

from __future__ import annotations

from speechstream.lm.tokens import Tokenizer
from speechstream.tts.letters import LetterFrontEnd

MOST_TOKENS = 80  # of an utterance, as the reference cuts its texts


class CosyVoiceFrontEnd(LetterFrontEnd):
    """Clauses to utterances whose symbols are letters. markup: whether SSML is read."""

    def __init__(self, tokenizer: Tokenizer, markup: bool) -> None:
        super().__init__(tokenizer, markup, MOST_TOKENS)
        special = {i: tokenizer.decode([i], special=True) for i in tokenizer.special}
        # [laughter] and <strong> are meant to be written; what rules a conversation is not
        self._ruling = frozenset(i for i, token in special.items() if token.startswith("<|"))

    def encode(self, letters: str, continued: bool = False) -> list[int]:
        """A text's tokens. continued: it stands behind another in one text."""
        text = " ".join(letters.split())
        ids = self._tokenizer.encode(" " + text if continued and text else text)
        return [i for i in ids if i not in self._ruling]
