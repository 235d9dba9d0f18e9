"""Our symbols as espeak-ng writes American English, for voices that were trained on its phonemes."""

from __future__ import annotations

IPA = {
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "i": "iː",
    "u": "uː",
    "ɑ": "ɑː",
    "ɔ": "ɔː",
    "ɜ": "ɜː",
    "ʧ": "tʃ",
    "ʤ": "dʒ",
    "ᵊ": "ə",
    "—": ",",
    "…": ".",
}


def to_ipa(phonemes: str) -> list[str]:
    """Our symbols as espeak-ng writes them, one string (perhaps empty) for each symbol."""
    out = []
    for i, c in enumerate(phonemes):
        before, after = phonemes[i - 1 : i], phonemes[i + 1 : i + 2]
        if c == "ɹ" and before in ("ɜ", "ə"):
            out.append("")  # written as one with the vowel: ɜː, ɚ
        elif c == "ə" and after == "ɹ":
            out.append("ɚ")
        elif c == "i" and not before.strip("ˈˌ") == "" and (not after or not after.isalpha()):
            out.append("i")  # the short one at the end of "happy"
        else:
            out.append(IPA.get(c, c))
    return out
