"""The pronouncing dictionary and, for words it lacks, a small letter-to-sound network. numpy only.

`data/lexicon.bin` holds 254,000 words, `data/g2p.npz` the network: 2.7 MB together. `data/README.md` has their sources,
licences and error rates.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache
from importlib import resources

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.text.en import homographs

LETTERS = "abcdefghijklmnopqrstuvwxyz'-"  # of the network; 0 is padding
VOWELS = "AIOWYiu\u00e6\u0251\u0254\u0259\u025b\u025c\u026a\u028a\u028c\u1d7b\u1d4a"
CONSONANTS = "bdfhjklmnpstvwz\u00f0\u014b\u0261\u0279\u027e\u0283\u0292\u02a4\u02a7\u03b8\u0294"
UNITS = (
    ("",) + tuple(CONSONANTS) + tuple(m + v for v in VOWELS for m in ("", "\u02c8", "\u02cc"))
)  # 0: CTC blank
SLOTS = 2  # CTC frames a letter
MAX_LETTERS = 48  # longer words go through the network in parts
VOICELESS = "ptkf\u03b8"
SIBILANTS = "sz\u0283\u0292\u02a7\u02a4"
BEFORE_FLAP = "AIOWYiu\u00e6\u0251\u0259\u025b\u026a\u0279\u028a\u028c"


SOUNDS = {  # letters of other spellings as English ones
    "\u010d": "ch",
    "\u0107": "ch",
    "\u0161": "sh",
    "\u015b": "sh",
    "\u015f": "sh",
    "\u0219": "sh",
    "\u017e": "zh",
    "\u017a": "zh",
    "\u017c": "zh",
    "\u0159": "rzh",
    "\u0142": "w",
    "\u0144": "ny",
    "\u00f1": "ny",
    "\u00e7": "s",
    "\u0119": "en",
    "\u0105": "on",
    "\u021b": "ts",
    "\u011f": "",
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u00f8": "o",
    "\u0111": "d",
    "\u00f0": "th",
    "\u00fe": "th",
    "\u0131": "i",
}
LAST_E = re.compile("\u00e9e?$")


def plain(word: str) -> str:
    """A word without its accents."""
    out = ""
    for c in unicodedata.normalize("NFD", word):
        small = c.lower()
        if not c.isascii():
            small = "l" if small == "\u0142" else SOUNDS.get(small, "")
        out += small.capitalize() if c.isupper() else small
    return out


def respelled(word: str) -> str:
    """A small word in the letters of the network, as an English writer would spell its sounds."""
    if word.isascii():
        return word
    return plain("".join(SOUNDS.get(c, c) for c in unicodedata.normalize("NFC", word)))


class Network:
    """Letters to phonemes: residual convolutions over letters, two CTC frames a letter, greedy decoding.

    Trained on misaki's and CMUdict's words (see `data/README.md`). One word takes well under a millisecond.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.letters = arrays["letters"].astype(np.float32)
        self.blocks: list = []
        while f"{len(self.blocks)}a.w" in arrays:
            i = len(self.blocks)
            self.blocks.append(
                tuple(_dense(arrays, f"{i}{n}") for n in "ab")
                + ((arrays[f"{i}n.g"], arrays[f"{i}n.o"]),)
            )
        self.norm, self.head = (arrays["n.g"], arrays["n.o"]), _dense(arrays, "head")
        self.kernel = self.blocks[0][0][0].shape[0] // self.letters.shape[1]

    def __call__(self, word: str) -> str:
        """Phonemes of a word of a-z, apostrophe and hyphen; other characters are passed over. "" for no letters."""
        ids = [LETTERS.index(c) + 1 for c in word.lower() if c in LETTERS]
        parts = [ids[i : i + MAX_LETTERS] for i in range(0, len(ids), MAX_LETTERS)]
        return "".join(self._decode(part) for part in parts)

    def _decode(self, ids: list[int]) -> str:
        x = self.letters[ids]
        n, radius = len(ids), self.kernel // 2
        for (wa, ca), (wb, cb), norm in self.blocks:
            y = np.pad(_layer_norm(x, *norm), ((radius, radius), (0, 0)))
            y = np.concatenate([y[k : k + n] for k in range(self.kernel)], 1)
            x = x + np.maximum(y @ wa + ca, 0) @ wb + cb
        w, c = self.head
        best = (_layer_norm(x, *self.norm) @ w + c).reshape(n * SLOTS, len(UNITS)).argmax(1)
        return "".join(UNITS[u] for k, u in enumerate(best) if k == 0 or best[k - 1] != u)


def _dense(arrays: dict, name: str) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights with one scale an output channel, as a float32 (in, out) matrix and its bias."""
    return np.ascontiguousarray(
        (arrays[name + ".w"] * arrays[name + ".s"][:, None]).T.astype(np.float32)
    ), arrays[name + ".c"]


def _layer_norm(x: np.ndarray, gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * gain + offset


class Lexicon:
    """Words to pronunciations; an entry is a string, or a dict by part of speech with "DEFAULT" in it.

    The table stays one sorted block of bytes that is searched by bisection: 6 MB of memory and a fast load.
    """

    def __init__(self, table: bytes, network: Network):
        self.table, self.network = table, network
        ends = np.flatnonzero(np.frombuffer(table, np.uint8) == 10)
        self.starts = np.concatenate([[0], ends[:-1] + 1])
        self._guessed = lru_cache(4096)(network)
        self._entry = lru_cache(16384)(self._search)

    def __contains__(self, word: str) -> bool:
        return self.entry(word) is not None

    def entry(self, word: str) -> str | dict[str, str] | None:
        """The dictionary's entry for exactly this spelling, or None."""
        return self._entry(word)

    def _search(self, word: str) -> str | dict[str, str] | None:
        key, low, high = word.encode() + b"\t", 0, len(self.starts)
        while low < high:
            middle = (low + high) // 2
            at = int(self.starts[middle])
            if self.table[at : at + len(key)] < key:
                low = middle + 1
            else:
                high = middle
        if low == len(self.starts):
            return None
        at = int(self.starts[low])
        if not self.table.startswith(key, at):
            return None
        value = self.table[at + len(key) : self.table.index(b"\n", at)].decode()
        if "|" not in value:
            return value
        first, *others = value.split("|")
        return {"DEFAULT": first} | dict(o.split("=") for o in others)

    def known(self, word: str) -> bool:
        """Whether the dictionary has this spelling, or for lower case its capitalised form."""
        return (
            word in self
            or word in homographs.EXTRA
            or (word.islower() and word.capitalize() in self)
        )

    def find(self, word: str) -> str | dict[str, str] | None:
        """The entry for a spelling, its lower case, its capitalised form, or of the word it is an inflection of."""
        extra = homographs.EXTRA.get(word.lower())
        if extra is not None:
            return extra
        if not word.isascii():
            return self._accented(word)
        for form in dict.fromkeys((word, word.lower(), word.lower().capitalize())):
            found = self.entry(form)
            if found is not None:
                return found
        return inflected(
            word.lower(),
            lambda w: homographs.EXTRA.get(w) or self.entry(w) or self.entry(w.capitalize()),
        )

    def _accented(self, word: str) -> str | dict[str, str] | None:
        """A word with accents: as without them where the dictionary has that; a last \u00e9 is spoken."""
        found = inflected(word.lower(), homographs.EXTRA.get)
        if found is not None:
            return found
        if re.search("\u00e9e?s$", word) and isinstance(stem := self._accented(word[:-1]), str):
            return _add_s(stem)
        found = self.find(plain(word))
        if isinstance(found, str) and LAST_E.search(word) and found[-1:] not in "Ai":
            return found.replace("\u02c8", "\u02cc") + "\u02c8A"
        return found

    def guess(self, word: str) -> str:
        """Pronunciation of a word the dictionary lacks, by the network.

        Two known words run together are no exception: cutting words in two was right less often than the network.
        """
        sound = _stressed(self._guessed(respelled(word.lower())))
        if LAST_E.search(word.lower()) and sound[-1:] not in ("A", "i"):
            return sound.replace("\u02c8", "\u02cc") + "\u02c8A"
        return sound


def _stressed(sound: str) -> str:
    """With a main stress, which a guess may lack: the last of the lesser ones, or on the first full vowel."""
    if "\u02c8" in sound:
        return sound
    if "\u02cc" in sound:
        before, _, after = sound.rpartition("\u02cc")
        return f"{before}\u02c8{after}"
    full = re.search("[AIOWYiu\u00e6\u0251\u0254\u025b\u025c\u026a\u028a\u028c]", sound)
    return f"{sound[: full.start()]}\u02c8{sound[full.start() :]}" if full else sound


def inflected(word: str, find) -> str | dict[str, str] | None:
    """The pronunciation of a plural, possessive, past or -ing form from its stem's, by the rules of English."""
    for ending, stems, sound in (
        ("'s", lambda w: [w[:-2]], _add_s),
        ("s'", lambda w: [w[:-1], w[:-2]], lambda p: p),
        ("ies", lambda w: [w[:-3] + "y"], _add_s),
        ("es", lambda w: [w[:-1], w[:-2]], _add_s),
        ("s", lambda w: [w[:-1]] if not w.endswith(("ss", "us", "is")) else [], _add_s),
        ("ied", lambda w: [w[:-3] + "y"], _add_d),
        ("ed", lambda w: [w[:-1], w[:-2]] + _undouble(w[:-2]), _add_d),
        ("ing", lambda w: [w[:-3] + "e", w[:-3]] + _undouble(w[:-3]), _add_ing),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            for stem in stems(word):
                found = find(stem) if len(stem) > 1 else None
                if isinstance(found, dict):
                    return {tag: sound(p) for tag, p in found.items()}
                if found:
                    return sound(found)
    return None


def _undouble(stem: str) -> list[str]:
    return [stem[:-1]] if re.search(r"([bdgklmnprtvz])\1$", stem) else []


def _add_s(p: str) -> str:
    return p + ("\u1d7bz" if p[-1] in SIBILANTS else "s" if p[-1] in VOICELESS else "z")


def _add_d(p: str) -> str:
    if p[-1] == "t" and len(p) > 1 and p[-2] in BEFORE_FLAP:
        return p[:-1] + "\u027e\u1d7bd"
    return p + ("\u1d7bd" if p[-1] in "td" else "t" if p[-1] in "pkf\u03b8s\u0283\u02a7" else "d")


def _add_ing(p: str) -> str:
    if p[-1] == "t" and len(p) > 1 and p[-2] in BEFORE_FLAP:
        return p[:-1] + "\u027e\u026a\u014b"
    return p + "\u026a\u014b"


@lru_cache(1)
def load() -> Lexicon:
    """The dictionary and network that come with the package. Raises SpeechStreamError if its files are missing."""
    folder = resources.files("speechstream.text.en").joinpath("data")
    try:
        table = zlib.decompress(folder.joinpath("lexicon.bin").read_bytes())
        with folder.joinpath("g2p.npz").open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
    except (OSError, zlib.error) as error:
        raise SpeechStreamError(
            "the pronouncing dictionary speechstream/text/en/data is missing or damaged: "
            "install speechstream again"
        ) from error
    return Lexicon(table, Network(arrays))
