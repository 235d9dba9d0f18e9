"""Texts as a CSM was trained to read them: turns of a conversation."""

from __future__ import annotations

from speechstream.lm.tokens import Tokenizer
from speechstream.nn.csm_config import CsmConfig
from speechstream.tts.letters import LetterFrontEnd

MOST_TOKENS = 60  # of an utterance
SPEAKER = "[0]"  # who speaks in all turns of a bundle: its voice


class CsmFrontEnd(LetterFrontEnd):
    """Clauses to utterances whose symbols are letters. markup: whether SSML is read."""

    def __init__(self, tokenizer: Tokenizer, config: CsmConfig, markup: bool) -> None:
        super().__init__(tokenizer, markup, MOST_TOKENS)
        self._config = config

    def encode(self, letters: str) -> list[int]:
        """A text's tokens, as a turn; none where nothing is said."""
        said = " ".join(letters.split())
        return turn(said, self._tokenizer, self._config) if said else []


def turn(text: str, tokenizer: Tokenizer, config: CsmConfig) -> list[int]:
    """The text of a turn with its marks; those that stand within it are left out."""
    ids = [i for i in tokenizer.encode(SPEAKER + text) if i not in tokenizer.special]
    return [config.text_begin, *ids, config.text_end]
