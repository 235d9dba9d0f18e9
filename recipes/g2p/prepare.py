"""Build the pronunciation pairs the lexicon and the G2P network are made of.

    python -m recipes.g2p.prepare --misaki misaki/data --cmudict cmudict.dict --out work

Reads misaki's American English lexica (us_gold.json, us_silver.json; Apache-2.0) and CMUdict (BSD style licence), turns
CMUdict's ARPAbet into misaki's symbols, and writes words.json: {word: {"p": pronunciation or dict by part of speech,
"s": "gold" | "silver" | "cmu"}}, and split.json with the held-out words.
"""

import argparse
import hashlib
import json
import pathlib
import re

ARPA = {
    "AA": "ɑ",
    "AE": "æ",
    "AO": "ɔ",
    "AW": "W",
    "AY": "I",
    "EH": "ɛ",
    "EY": "A",
    "IH": "ɪ",
    "IY": "i",
    "OW": "O",
    "OY": "Y",
    "UH": "ʊ",
    "UW": "u",
    "B": "b",
    "CH": "ʧ",
    "D": "d",
    "DH": "ð",
    "F": "f",
    "G": "ɡ",
    "HH": "h",
    "JH": "ʤ",
    "K": "k",
    "L": "l",
    "M": "m",
    "N": "n",
    "NG": "ŋ",
    "P": "p",
    "R": "ɹ",
    "S": "s",
    "SH": "ʃ",
    "T": "t",
    "TH": "θ",
    "V": "v",
    "W": "w",
    "Y": "j",
    "Z": "z",
    "ZH": "ʒ",
}
VOWELS = "AIOWYiuæɑɔəɛɜɪʊʌᵻᵊ"


def arpabet(phones, word):
    """ARPAbet with stress digits to misaki's American symbols."""
    out = []
    for p in phones:
        base, stress = (p[:-1], p[-1]) if p[-1].isdigit() else (p, None)
        mark = {"1": "ˈ", "2": "ˌ"}.get(stress, "")
        if base == "AH":
            out.append(mark + ("ə" if stress == "0" else "ʌ"))
        elif base == "ER":
            out += [mark + ("ə" if stress == "0" else "ɜ"), "ɹ"]
        else:
            out.append(mark + ARPA[base])
    for i in range(
        1, len(out) - 1
    ):  # American flap: t between a vowel (or r) and an unstressed vowel
        if (
            out[i] == "t"
            and (out[i - 1][-1] in VOWELS or out[i - 1] == "ɹ")
            and out[i + 1] in VOWELS
        ):
            out[i] = "ɾ"
    for i in range(1, len(out) - 1):
        if (
            out[i] == "ə"
            and out[i + 1] == "l"
            and out[i - 1] not in ("ɹ", "l", "w", "j")
            and out[i - 1][-1] not in VOWELS
            and (i + 2 == len(out) or out[i + 2][-1] not in VOWELS)
        ):
            out[i] = "ᵊ"
        if (
            out[i] == "ə"
            and out[i + 1] == "n"
            and out[i - 1] in ("t", "d", "s", "z", "ʃ")
            and i + 2 == len(out)
            and out[i - 1] in ("t", "d", "s", "z")
        ):
            out[i] = "ᵊ"
        if out[i] == "ɾ" and out[i + 1] == "ᵊ" and i + 2 < len(out) and out[i + 2] == "n":
            out[i] = "t"
    if (
        re.search(r"e?s$|'s$", word)
        and out[-1] == "z"
        and len(out) > 2
        and out[-2] in "ɪə"
        and out[-3] in "szʃʒʧʤ"
    ):
        out[-2] = "ᵻ"
    if (
        word.endswith("ed")
        and out[-1] == "d"
        and len(out) > 2
        and out[-2] in "ɪə"
        and out[-3] in "tdɾ"
    ):
        out[-2] = "ᵻ"
    return "".join(out)


def bucket(text, n):
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % n


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--misaki", type=pathlib.Path, required=True)
    parser.add_argument("--cmudict", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    gold = json.loads((args.misaki / "us_gold.json").read_text())
    silver = json.loads((args.misaki / "us_silver.json").read_text())
    words = {w: {"p": p, "s": "silver"} for w, p in silver.items()}
    words.update({w: {"p": p, "s": "gold"} for w, p in gold.items()})
    lower = {w.lower() for w in words}
    same = total = 0
    for line in args.cmudict.read_text().splitlines():
        word, *phones = line.split("#")[0].split()
        if "(" in word or "." in word or not word[0].isalpha():
            continue
        p = arpabet(phones, word)
        if word in gold and isinstance(gold[word], str):
            total += 1
            same += gold[word] == p
        if word not in lower:
            words[word] = {"p": p, "s": "cmu"}
    print(f"CMUdict as converted equals gold on {same}/{total} shared words")
    test = {"random": [], "family": []}
    for w, e in words.items():
        if re.fullmatch(r"[a-z]{3,20}", w) and isinstance(e["p"], str):
            if bucket("family " + w[:5], 60) == 0:
                test["family"].append(w)  # no word sharing its first five letters is trained on
            elif bucket("random " + w, 60) == 0:
                test["random"].append(w)
    test["held"] = sorted(
        w
        for w in words
        if w.lower() in set(test["random"]) or bucket("family " + w.lower()[:5], 60) == 0
    )
    args.out.mkdir(exist_ok=True)
    (args.out / "words.json").write_text(json.dumps(words, ensure_ascii=False))
    (args.out / "split.json").write_text(json.dumps(test))
    print(len(words), {k: len(v) for k, v in test.items()})


if __name__ == "__main__":
    main()
